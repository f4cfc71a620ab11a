"""Which differences that the probe invariance finds are beyond chance: between models, and between transforms.

Both are tested picture by picture. They are two families, each with Holm's correction over all that it compares in a
run: the transforms of a model make so many pairs that together with them no difference between models would be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rcdm_core.metrics.bootstrap import Summed, summed_ratio
from rcdm_core.metrics.paired import MIN_PAIRS, Difference, compare, compare_summed, pairs_needed, together
from rcdm_core.probes.invariance_look import Block, moves, shifts
from rcdm_core.probes.transforms import Transform

H = "h"  # the measure beside the attributes: how far h moves, in distances of random pairs


@dataclass(frozen=True)
class Compared:
    """Two models under one transform. measure: an attribute, whose response is compared, or H."""

    transform: str
    measure: str
    difference: Difference

    def as_json(self) -> dict[str, Any]:
        return {"transform": self.transform, "measure": self.measure, **self.difference.as_json()}


def named(entry: Mapping[str, Any]) -> str:
    """What an entry of result.json compares, in words."""
    if entry["measure"] == H:
        return f"how far {entry['transform']} moves h"
    return f"{entry['measure']} under {entry['transform']}"


def between_models(
    rows: Sequence[Transform],
    found: Mapping[str, Sequence[Block]],
    units: Mapping[str, float | None],
    responses: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
) -> list[Compared]:
    """Every two models under every transform: how far h moves, and the response of what the transform is to move.

    found: model -> its blocks, of the same pictures. units: model -> distance of a random pair. responses: model ->
    transform -> attribute -> entry of the aggregates; what has no response in either model is not compared.
    """
    about: list[tuple[str, str]] = []
    parts: list[Difference] = []
    for r, row in enumerate(rows, 1):
        apart = compare({name: moves(found[name], r) / unit for name, unit in units.items() if unit}, seed=seed)
        about += [(row.name, H)] * len(apart)
        parts += apart
        for attribute in row.targets:
            for pair in combinations(found, 2):
                if all(responses[name][row.name][attribute]["rendered"] for name in pair):
                    first, second = ((name, response(*shifts(found[name], r, attribute))) for name in pair)
                    about.append((row.name, attribute))
                    parts += compare_summed([(*first, *second)], seed=seed)
    return [Compared(*what, one) for what, one in zip(about, together(parts), strict=True)]


def response(real: np.ndarray, drawn: np.ndarray) -> Summed:
    """The response to a transform of shifts of the pictures and of their samples [images, d]: to be compared.

    The sum of <shift of samples, real shift> over that of |real shift|², not the mean of each picture's ratio, which is
    another number and is ruled by pictures that hardly move.
    """
    return summed_ratio((real * drawn).sum(axis=1), (real**2).sum(axis=1))


def between_transforms(
    rows: Sequence[Transform],
    found: Mapping[str, Sequence[Block]],
    units: Mapping[str, float | None],
    *,
    seed: int,
) -> dict[str, list[Difference]]:
    """Within each model every two transforms: how far they move h, in distances of random pairs."""
    parts = {
        name: compare({row.name: moves(found[name], r) / unit for r, row in enumerate(rows, 1)}, seed=seed)
        for name, unit in units.items()
        if unit
    }
    corrected = iter(together(*parts.values()))
    return {name: [next(corrected) for _ in parts.get(name, [])] for name in units}


def power_notes(n: int, families: Mapping[str, int]) -> list[str]:
    """What so few pictures cannot show, however large it is. families: name -> number of differences."""
    families = {name: size for name, size in families.items() if size}
    if not families:
        return []
    if n < MIN_PAIRS:
        return [f"Differences between {' and '.join(families)} are not tested: that takes {MIN_PAIRS} pictures."]
    notes = []
    for name, size in families.items():
        needed = pairs_needed(size)
        if needed is None or needed > n:
            more = "" if needed is None else f"; with {needed} pictures one can"
            notes.append(
                f"With {n} pictures no difference between {name} can be beyond chance once p is corrected for all "
                f"{size} of them{more}."
            )
    return notes


def labelled(compared: Sequence[Compared]) -> list[Difference]:
    """The differences with what they are of before the first model's name, for a table."""
    return [replace(one.difference, first=f"{named(one.as_json())}: {one.difference.first}") for one in compared]
