"""What all probes together say of the models: what each encoder keeps and drops, how that is known, and how surely.

The verdicts are those of the probe retention. The probe invariance is a second way to them, by other pictures and
without its readout's pictures: where both speak of an attribute, they have to say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rcdm_core.probes.invariance_compare import named
from rcdm_core.probes.verdicts import SAME_H, listed
from rcdm_core.probes.wording import differing, doubt, percent, said

# what a verdict of either probe says about h; the others say nothing
HELD = {"kept": True, "nonlinear": True, "generator": True, "dropped": False, "follows": True, "ignores": False}
FIRM = ("kept", "nonlinear", "dropped", "generator")
BOTH, READOUT, SAME, VALUES = "both intervals", "the readout's interval", "one h", "values"  # what a verdict rests on
_LARGEST = 3  # differences between models that are told


@dataclass(frozen=True)
class Cell:
    """One model on one attribute. retained: its entry in retention's result, or None. moved: transform -> entry of
    invariance, where the transform is meant to move it. agree: of both, where both say anything."""

    retained: Mapping[str, Any] | None
    moved: Mapping[str, Mapping[str, Any]]
    agree: bool | None


@dataclass
class Conclusion:
    """answer: sentences. table: attribute -> model -> Cell."""

    answer: list[str] = field(default_factory=list)
    table: dict[str, dict[str, Cell]] = field(default_factory=dict)


def conclude(names: Sequence[str], results: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str]) -> Conclusion:
    """names: of the models. results: probe -> result.json. reasons: probe -> why there is none."""
    retention, invariance = results.get("retention"), results.get("invariance")
    table = _table(names, retention, invariance)
    answer: list[str] = []
    if retention is not None:
        answer += retention["answer"]
        answer += [_how_known(retention), _how_sure(names, table)]
        between = _differences(results)
    else:
        why = reasons.get("retention", "it was not asked for").rstrip(".")  # a sentence, or a foreign error's words
        answer.append(f"What is kept and dropped was not measured, because the probe retention did not run: {why}.")
        answer += invariance["answer"] if invariance is not None else []
        between = []  # which the answer of invariance ends with
    answer += _cross_check(names, table)
    answer += between
    answer += _generators(names, results)
    return Conclusion(answer, table)


def _table(
    names: Sequence[str], retention: Mapping[str, Any] | None, invariance: Mapping[str, Any] | None
) -> dict[str, dict[str, Cell]]:
    from rcdm_core.probes.transforms import TRANSFORMS

    attributes: list[str] = []
    for name in names:
        attributes += retention["aggregates"][name]["attributes"] if retention else []
    moved: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    for name in names if invariance else []:
        assert invariance is not None
        for transform, entry in invariance["aggregates"][name]["transforms"].items():
            for attribute in TRANSFORMS[transform].targets:
                response = entry["responses"][attribute]
                if response["verdict"] not in ("not moved", "not measurable"):
                    moved[name].setdefault(attribute, {})[transform] = response
                    attributes.append(attribute)
    table: dict[str, dict[str, Cell]] = {}
    for attribute in dict.fromkeys(attributes):
        table[attribute] = {}
        for name in names:
            retained = retention["aggregates"][name]["attributes"].get(attribute) if retention else None
            of_model = moved[name].get(attribute, {})
            table[attribute][name] = Cell(retained, of_model, _agree(retained, of_model))
    return table


def _agree(retained: Mapping[str, Any] | None, moved: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether both say the same about h, where both say anything."""
    held = HELD.get(retained["verdict"]) if retained else None
    others = {HELD[one["verdict"]] for one in moved.values() if one["verdict"] in HELD}
    return None if held is None or not others else others == {held}


def _how_known(retention: Mapping[str, Any]) -> str:
    arguments, count = retention["arguments"], len(retention["images"])
    return (
        f"How that is known: by two witnesses over {count} held-out pictures: {arguments['samples']} samples drawn "
        "from the h of each, and a readout of h itself. Kept is what both have, dropped what neither has although the "
        "samples vary as pictures do and use h; where only the readout has it, the generator is the limit."
    )


def _how_sure(names: Sequence[str], table: Mapping[str, Mapping[str, Cell]]) -> str:
    codes = [cell.retained["verdict"] for row in table.values() for cell in row.values() if cell.retained]
    found = Counter(_rests_on(cell.retained) for row in table.values() for cell in row.values() if cell.retained)
    both = f"{found[BOTH]} of {len(codes)} verdicts rest on 95% intervals, of samples and readout, that are clear of"
    parts = [f"{both} the thresholds"]
    for basis, words in (
        (READOUT, "on that of the readout alone, since most samples have nothing to be measured"),
        (SAME, "on h itself, which is the same for all pictures"),
        (VALUES, "on values alone: there are too few pictures for an interval"),
    ):
        if found[basis]:
            parts.append(f"{found[basis]} {words}")
    for code, words in (("cannot tell", "stay open"), ("not measurable", "could not be measured in these pictures")):
        if code in codes:
            parts.append(f"{codes.count(code)} {words}")
    return f"How sure that is: {'; '.join(parts)}."


def _rests_on(retained: Mapping[str, Any]) -> str | None:
    """What a firm verdict of the probe retention rests on; None of another one."""
    if retained["verdict"] not in FIRM:
        return None
    if retained["verdict"] == "dropped" and retained["why"] == SAME_H:
        return SAME
    witnesses = [one for one in (retained["rendered"], retained["decodable"]) if one is not None]
    if any(one["low"] is None or one["high"] is None for one in witnesses):
        return VALUES
    return BOTH if len(witnesses) == 2 else READOUT


def _cross_check(names: Sequence[str], table: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """Whether invariance, which moves the attribute in the picture, comes to the same."""
    found = [(name, attribute, cell) for attribute, row in table.items() for name, cell in row.items()]
    both = [one for one in found if one[2].agree is not None]
    if not both:
        return []
    against = [one for one in both if not one[2].agree]
    text = f"The probe invariance, which changes the pictures instead, comes to the same in {len(both) - len(against)} "
    text += f"of the {len(both)} verdicts that both give"
    if not against:
        return [f"{text}."]
    told = []
    for name, attribute, cell in against:
        held = HELD[_code(cell)]  # what says nothing about h, such as "cannot tell", is not against it
        other = next(k for k, one in cell.moved.items() if HELD.get(one["verdict"], held) != held)
        told.append(f"{attribute} of {name} ({cell.moved[other]['verdict']} by {other}, {_code(cell)} by retention)")
    return [f"{text}; take with care: {listed(told)}."]


def _code(cell: Cell) -> str:
    return str(cell.retained["verdict"]) if cell.retained else ""


def _differences(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between the models beyond chance, the largest first: by either probe, each with its correction."""
    found: list[str] = []
    for probe, key, of in (
        ("retention", "comparisons", lambda one: f"{one['retention']} {one['attribute']}"),
        ("invariance", "differences", named),
    ):
        if probe in results:
            compared = results[probe]["aggregates"].get(key, [])
            found += differing(compared, of, most=_LARGEST, by=f" by the probe {probe}")
    return found


def _generators(names: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How far the generators can be trusted: how much of h comes back, and how well pictures are found again."""
    heard, found = [], []
    for name in names:
        again = results["retention"]["aggregates"][name]["h_in_samples"] if "retention" in results else None
        if again and again["value"] is not None:
            heard.append(f"{name} {said(again)}{doubt(again, 0.0)}")
        if "faithfulness" in results:
            entry = results["faithfulness"]["aggregates"][name]
            first, ceiling = (entry["galleries"]["originals"][key]["top1"] for key in ("samples", "ceiling"))
            unsure = doubt(first, entry["chance"]["top1"])
            found.append(f"{name} {percent(first)}{unsure} (real pictures at their size {percent(ceiling)})")
    parts = []
    if heard:
        parts.append(f"of h itself comes back in the h of a sample: {'; '.join(heard)}")
    if found:
        parts.append(f"samples that find their own picture first: {'; '.join(found)}")
    return [f"How far the generators can be trusted: {'. '.join(parts)}."] if parts else []
