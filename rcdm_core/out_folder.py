"""Where results may go: not among the pictures that are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcdm_core.data.folder import walk_folders
from rcdm_core.errors import RCDMError


def refuse_among_pictures(
    out: str | Path, images: Sequence[Any] = (), sets: Iterable[Mapping[str, Any] | None] = ()
) -> None:
    """Raises RCDMError when `out` is a folder that pictures are read from, or lies in one, wherever links lead.

    A folder is read with all that is below it: results in there would be pictures of the next run.

    images  as `--image` has them: of a file only its own folder counts; pictures in memory have none
    sets    descriptions of image sources, as `ImageSource.describe` gives them; None: of nothing
    """
    place = Path(os.path.realpath(out))
    roots = [Path(one["path"]) for one in sets if one is not None and one.get("kind") == "folder"]
    for image in images:
        if not isinstance(image, (str, Path)):
            continue
        if os.path.isdir(image):
            roots.append(Path(image))
        elif place == Path(os.path.realpath(Path(image).parent)):
            raise RCDMError(
                f"--out {out} is the folder of {image}, where results could replace pictures; choose another --out."
            )
    for root in dict.fromkeys(roots):  # models of one set name it again, and it is walked
        for folder in _places(root):
            if place == folder or folder in place.parents:
                where = f"the folder of pictures {root}"
                raise RCDMError(
                    f"--out {out} is {where if place == folder else f'in {where}'}, where results would be taken for "
                    "pictures, or replace some; choose another --out."
                )


def _places(root: Path) -> list[Path]:
    """Where the pictures of `root` are: there, and where its links to folders lead."""
    try:
        found = [folder for folder, linked, _ in walk_folders(root) if linked or folder == root]
    except RCDMError:  # not there, or not readable: reading it says so
        return []
    return [Path(os.path.realpath(folder)) for folder in found]
