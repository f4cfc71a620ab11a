"""What --weights names: files, URLs and patterns of files, in order and with names that tell them apart.

Several checkpoints of one architecture are several representations (figures 34 and 35 of the paper). Without torch.
"""

from __future__ import annotations

import glob
import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .errors import RCDMError
from .naming import clashes, differing, free_name, same_folder

# What a checkpoint's name may end in; of resnet.pth.tar the name is resnet, of ckpt_0.5.pth it is ckpt_0.5.
_SUFFIXES = (".pth", ".pt", ".pt2", ".ckpt", ".torch", ".tar", ".bin", ".safetensors", ".onnx", ".pkl", ".th")


def is_url(text: str) -> bool:
    """Whether it is fetched rather than opened."""
    try:
        return urllib.parse.urlsplit(text).scheme in ("http", "https", "file")
    except ValueError:  # a half of a bracket, for instance
        return False


def refuse_address(text: str) -> None:
    """Raises RCDMError for no text, and for an address that nothing here fetches from, such as s3://bucket/file.pth."""
    if not text.strip():
        raise RCDMError("--weights is empty: expected a file, a pattern of files, or a URL of https, http or file")
    scheme, mark, _ = text.partition("://")
    if mark and not is_url(text) and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise RCDMError(
            f"--weights {text} is no address that is fetched here: expected a file, a pattern of files, or a URL of "
            "https, http or file; copy the file to this machine first"
        )


def is_pattern(text: str) -> bool:
    """Whether it stands for all files that match it; a file whose own name has brackets is that file."""
    return glob.has_magic(text) and not is_url(text) and not os.path.lexists(os.path.expanduser(text))


def expand_weights(given: Sequence[str]) -> list[str]:
    """The checkpoints that are meant, in the order in which they were given, those of a pattern in natural order.

    `*`, `?` and `[…]` match within a folder's or a file's name, `**` over folders. A file that is named twice, or by a
    link to it, is taken once. Raises RCDMError for a pattern that matches no file.
    """
    found: dict[str, str] = {}
    for weights in _all(given):
        found.setdefault(weights if is_url(weights) else os.path.realpath(os.path.expanduser(weights)), weights)
    return list(found.values())


def weights_of_each(given: str | Sequence[str] | None, count: int) -> list[str | None]:
    """The checkpoint for each of `count` models: the one that was given for all, or one for each in their order.

    Raises RCDMError for another number of them.
    """
    found = _all([given] if isinstance(given, str) else given or ())
    if len(found) not in (0, 1, count):
        raise RCDMError(
            f"--weights names {len(found)} checkpoints for {count} models; give one for all of them, or one for each "
            "--model, in their order"
        )
    return list(found) if len(found) == count else [found[0] if found else None] * count


def one_weights(given: Sequence[str], what: str) -> str | None:
    """The one checkpoint that is meant, or None for none. Raises RCDMError when there are several, naming `what`."""
    expanded = expand_weights(given)
    if len(expanded) > 1:
        raise RCDMError(
            f"{what} takes one --weights, but {', '.join(given)} are {len(expanded)} checkpoints; give one of them "
            "(rcdm train takes several)"
        )
    return expanded[0] if expanded else None


def name_weights(weights: Sequence[str]) -> list[str]:
    """A short name for each of several checkpoints, all different: the file's name without its suffix.

    Where two files are called alike, the folders in which their paths differ go in front: of one/last.pth and
    two/last.pth these are one-last and two-last. Where only the suffix differs, it stays.
    """
    parts = [_parts(text) for text in weights]
    names = [_stem(of[-1]) for of in parts]
    for members in clashes(names, same_folder):
        folders = differing([parts[index] for index in members])
        for index, different in zip(members, folders, strict=True):
            names[index] = "-".join([*different, names[index]])
    for members in clashes(names, same_folder):
        for index in members:
            names[index] = names[index].removesuffix(_stem(parts[index][-1])) + parts[index][-1]
    taken = {same_folder(name) for name in names}
    for members in clashes(names, same_folder):  # a-b/c and a/b-c
        for index in members[1:]:
            names[index] = free_name(names[index], taken)
            taken.add(same_folder(names[index]))
    return names


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key to sort by: numbers in names count as numbers, so that ckpt_2 comes before ckpt_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _all(given: Sequence[str]) -> list[str]:
    for text in given:
        refuse_address(text)
    return [weights for text in given for weights in (_matches(text) if is_pattern(text) else [text])]


def _matches(pattern: str) -> list[str]:
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = sorted((path for path in found if os.path.isfile(path)), key=natural)
    if not files:
        what = "matches folders alone" if found else "matches no file"
        raise RCDMError(f"--weights {pattern} {what} in {Path.cwd()}: expected a pattern such as 'ckpts/*.pth'")
    return files


def _parts(weights: str) -> tuple[str, ...]:
    """The folders and the file of a path, or of a URL with its host in front."""
    if is_url(weights):
        url = urllib.parse.urlsplit(weights)
        return (url.netloc, *PurePosixPath(urllib.parse.unquote(url.path).lstrip("/") or "weights").parts)
    path = Path(os.path.abspath(os.path.expanduser(weights)))
    return path.relative_to(path.anchor).parts  # the root is in nobody's name


def _stem(name: str) -> str:
    while True:
        stem, suffix = os.path.splitext(name)
        if not stem or suffix.lower() not in _SUFFIXES:
            return name
        name = stem
