"""Get a checkpoint file (a path, a URL, torch.hub's cache), verify it, read it safely, put it into a network."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .download import NotFetched, download
from .errors import RCDMError, first_line
from .provider import WeightsInfo
from .torch_file import read_torch_file
from .weights_cache import cache_path, is_cached, known_digest
from .weights_given import is_url, refuse_address

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


def resolve_weights(weights: str | None, info: WeightsInfo | None, *, provider: str) -> Path:
    """The checkpoint file on disk, downloaded if need be.

    weights   a path, a URL, or None for `info`'s own
    info      the provider's own weights
    provider  its name, for messages

    Downloads go into torch.hub's cache (TORCH_HOME moves it), under a temporary name until they are complete; one that
    breaks off is taken up again. Files are verified on every use: against the digest that is known, or else against the
    one recorded at the first use.
    Raises RCDMError when there is no such file, when it cannot be had, or when it is another file than it should be.
    """
    if weights is not None and not is_url(weights):
        refuse_address(weights)
        path = Path(os.path.expanduser(weights))
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise RCDMError(f"--weights {weights} {what}, expected a checkpoint file for {provider}")
        return path
    url = weights if weights is not None else (info.url if info else None)
    if url is None:
        raise RCDMError(f"{provider} has no weights of its own: give a checkpoint file with --weights FILE")
    if info is None or url != info.url:
        info = WeightsInfo(url=url)
    path = cache_path(url, info)
    if not path.is_file():
        _fetch(url, path, known_digest(url, info), provider)
    _verify(path, url, known_digest(url, info))
    return path


def is_own(weights: str, info: WeightsInfo) -> bool:
    """Whether a path or URL that a user gave is that of the provider's own weights: the same URL, or a file of the
    sha256 that is declared, or recorded when the URL was first used. Where no digest is known, no file is."""
    if is_url(weights):
        return weights == info.url
    path = Path(os.path.expanduser(weights))
    if info.file is not None and os.path.exists(info.file) and path.samefile(info.file):
        return True
    if info.url is None:
        return False
    digest = known_digest(info.url, info)
    if digest is None:
        with contextlib.suppress(OSError, ValueError):
            digest = _record_of(cache_path(info.url, info)).read_text(encoding="ascii").strip()
    return digest is not None and digest != "" and path.is_file() and _sha256(path).startswith(digest)


def _record_of(path: Path) -> Path:
    """Where the digest of a cached file is written down at its first use."""
    return path.with_name(path.name + ".sha256")


def _fetch(url: str, path: Path, digest: str | None, provider: str) -> None:
    try:
        download(url, path, digest)
    except NotFetched as error:
        raise RCDMError(
            f"the weights of {provider} are not in {path}, and could not be fetched from {url} ({error}): "
            "get the file in another way and give it with --weights FILE"
        ) from error


def _verify(path: Path, url: str, digest: str | None) -> None:
    """See that a cached file is the one that it was: by the known digest, or the one recorded beside it."""
    record = _record_of(path)
    actual = _sha256(path)
    if digest is None:
        try:
            digest = record.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # a cache that is read-only is as good as one that was verified
                part = record.with_name(f"{record.name}.{os.getpid()}")
                part.write_text(actual + "\n", encoding="ascii")
                os.replace(part, record)
            return
        except (OSError, ValueError):
            digest = ""
        if not re.fullmatch("[0-9a-f]{64}", digest):  # an empty one would pass as the start of any digest
            raise RCDMError(
                f"{record}, which says what {path.name} should be, cannot be read or is incomplete; delete both to "
                "fetch the file again, or give a file with --weights FILE"
            )
    if not actual.startswith(digest):
        raise RCDMError(
            f"{path} is not the file that {url} gave: its sha256 starts with {actual[:8]}, expected {digest[:8]}; "
            f"delete it{f' and {record.name}' if record.exists() else ''} to fetch it again, "
            "or give a file with --weights FILE"
        )


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def read_content(path: str | Path) -> Any:
    """What a safetensors file (by its suffix) or a torch file holds, tensors on the CPU; nothing in it is run.

    Objects that are neither containers nor tensors come as inert placeholders. Raises RCDMError for a file that cannot
    be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return read_torch_file(path)
    except pickle.UnpicklingError as error:
        raise RCDMError(
            f"{path} is not a torch file, or holds Python objects in its tensors' place ({_pickle_reason(error)}): "
            "expected a state dict as torch.save(model.state_dict()) writes it, or a .safetensors file"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RCDMError(
            f"{path} cannot be read as a checkpoint, perhaps it is incomplete ({first_line(error)}){_advice(path)}"
        ) from error
    except Exception as error:
        # SafetensorError is only known to the package that raises it, and torch's legacy reader raises almost anything.
        raise RCDMError(f"{path} cannot be read as a checkpoint ({first_line(error)}){_advice(path)}") from error


def _advice(path: Path) -> str:
    return "; delete it to fetch it again, or give a file with --weights FILE" if is_cached(path) else ""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict {name: tensor} on the CPU, from a safetensors file (by its suffix) or a torch file.

    Nothing in the file is run. Raises RCDMError for a file that cannot be read, or that is not a flat state dict.
    """
    content = read_content(path)
    if not isinstance(content, Mapping):
        raise RCDMError(f"{path} holds a {type(content).__name__}, expected a state dict of tensors")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others or not content:
        raise RCDMError(
            f"{path} is not a flat state dict of tensors: it holds {some(others) if others else 'nothing'}; "
            "save the model's state dict alone"
        )
    return dict(content)


def _pickle_reason(error: Exception) -> str:
    # torch's message goes on for a page about how to read the file in an unsafe way.
    found = re.search(
        r"(?:Unsupported (?:global|class|operand)|GLOBAL) [^\n]*?(?= was not| is not|\.\s|\n|$)", f"{error}"
    )
    return found.group(0) if found else first_line(error)


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    provider: str,
    path: str | Path,
    ignore: Sequence[str] = (),
) -> None:
    """Copy a state dict into a network, strictly: every tensor of the one has its place in the other.

    provider, path  for messages
    ignore          prefixes of names in the file that are left out, such as a classifier's

    Raises RCDMError that names the file, and in brief the missing and unexpected names and the wrong shapes.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(ignore))}
    left_out = [name for name in state if name not in given]
    if left_out:
        _log.info("%s: left out for %s: %s", path, provider, ", ".join(left_out))
    own = module.state_dict()
    # Files written before torch counted batches lack this counter, which eval mode never reads.
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    reshaped = [
        f"{name} is {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({some(names)})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise RCDMError(
            f"{path} does not fit {provider}: of its {len(own)} tensors {', '.join(problems)}; "
            "expected a checkpoint of the same architecture"
        )
    # The names and shapes are those of this very version of the network, which some modules (MNASNet's) ask for.
    complete = OrderedDict(given)
    complete._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(complete, strict=False)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
