"""Names in what is said: a few of many, and files that are called alike told apart."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Collection, Sequence

# What probes write into a result's aggregates beside the models, whose names are keys there too.
RESERVED = frozenset({"checkpoints", "comparisons", "differences", "moves", "other_images", "probes"})


def some(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def of_models(names: Sequence[str]) -> list[str]:
    """The names as keys of results: none is RESERVED, and those that occurred before have a number behind them."""
    result: list[str] = []
    for given in names:
        name = f"model {given}" if given in RESERVED else given
        number = 1
        while (own := name if number == 1 else f"{name} ({number})") in result:
            number += 1
        result.append(own)
    return result


def shortened(name: str, size: int) -> str:
    """As many of the first characters as have `size` bytes in a file's name."""
    while len(os.fsencode(name)) > size:
        name = name[:-1]
    return name


def as_folder(name: str) -> str:
    """The name with what does not belong into a folder's replaced."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")


def same_folder(name: str) -> str:
    """What names have in common that make one folder, on disks that know no case too."""
    return as_folder(name).casefold()


def clashes(names: Sequence[str], alike: Callable[[str], str] = str) -> list[list[int]]:
    """The places of each name that occurs more than once. alike: what names have in common that are taken for one."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for index, name in enumerate(names):
        groups[alike(name)].append(index)
    return [members for members in groups.values() if len(members) > 1]


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number behind it that makes another folder than those `taken` (of `same_folder`)."""
    free, number = name, 2
    while same_folder(free) in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def differing(paths: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Of each path the folders that tell it from the others: not what all begin with, nor, counted from the file, what
    all have in one place."""
    common = 0
    while common < min(map(len, paths)) and len({path[: common + 1] for path in paths}) == 1:
        common += 1
    rest = [path[common:] for path in paths]
    return [
        [path[-place] for place in range(len(path), 1, -1) if any(path[-place] != _at(other, place) for other in rest)]
        for path in rest
    ]


def _at(path: tuple[str, ...], place: int) -> str | None:
    return path[-place] if place <= len(path) else None
