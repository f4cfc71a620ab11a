"""A folder streams through the probes: what they hold does not grow with the number of pictures."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_rcdm import FakeRCDM

import rcdm_core
import rcdm_core.probes.distances
import rcdm_core.probes.encoding
import rcdm_core.probes.invariance
import rcdm_core.probes.manipulation
import rcdm_core.probes.pictures
import rcdm_core.report.distances
import rcdm_core.report.invariance
import rcdm_core.report.manipulation
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError

DATA = Shapes(120, seed=3)


class EndOfRun(Exception):
    """Instead of the page, which takes longer than the rest."""


class Watch:
    """Weak references to the memory behind arrays."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[np.ndarray]] = []

    def add(self, array: np.ndarray) -> None:
        while isinstance(array.base, np.ndarray):  # a view keeps all that it is a view of
            array = array.base
        self.seen.append(weakref.ref(array))

    @property
    def alive(self) -> int:
        return sum(one() is not None for one in self.seen)


def _wrap(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: Callable[..., None]) -> None:
    """After every call of the module's function, call after(what it gave, its arguments)."""
    before = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = before(*arguments, **named)
        after(result, arguments)
        return result

    monkeypatch.setattr(module, name, wrapped)


def _invariance(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    def after(block: Any, _: Any) -> None:
        watch.add(block.pictures)
        watch.add(block.samples)

    _wrap(monkeypatch, rcdm_core.probes.invariance, "look_at", after)
    monkeypatch.setattr(rcdm_core.report.invariance, "SHOWN", 1)


def _distances(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    def after(_: Any, arguments: tuple[Any, ...]) -> None:
        for kind in ("samples", "picture at samples' size"):
            watch.add(arguments[5].shown[kind])

    _wrap(monkeypatch, rcdm_core.probes.distances, "_own", after)
    monkeypatch.setattr(rcdm_core.report.grid, "SHOWN_ROWS", 1)


def _manipulation(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    def after(look: Any, _: Any) -> None:
        for array in look.samples.values():
            watch.add(array)

    _wrap(monkeypatch, rcdm_core.probes.manipulation, "look_at", after)
    monkeypatch.setattr(rcdm_core.report.grid, "SHOWN_ROWS", 1)


PROBES: dict[str, tuple[Callable[[pytest.MonkeyPatch, Watch], None], dict[str, Any]]] = {
    "invariance": (_invariance, {"transform": "grayscale", "samples": 2, "pool": 0}),
    "distances": (_distances, {"samples": 1, "pool": 4}),
    "manipulation": (_manipulation, {"samples": 11, "pool": 4, "neighbours": 2}),
}


@pytest.mark.parametrize("probe", PROBES)
def test_samples_and_pictures_are_kept_for_the_page_alone(
    probe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching, params = PROBES[probe]
    report = getattr(rcdm_core.report, probe)

    def held(count: int) -> tuple[int, int]:
        """How many arrays are alive when the page is written, and of how many that there were."""
        watch, at_end = Watch(), []

        def written(*_: Any) -> None:
            at_end.append(watch.alive)
            raise EndOfRun

        with monkeypatch.context() as patch:
            watching(patch, watch)
            patch.setattr(report, "write_report", written)
            with pytest.raises(EndOfRun):
                rcdm_core.run_probe(probe, models=[FakeRCDM("all")], data=DATA, out=tmp_path, count=count, **params)
        return at_end[0], len(watch.seen)

    (few, of_few), (many, of_many) = held(2), held(5)
    assert of_many > of_few >= few > 0
    assert many == few


def test_pictures_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    _wrap(monkeypatch, rcdm_core.probes.encoding, "read_arrays", lambda result, _: read.append(len(result)))
    model: Any = FakeRCDM("all")
    pictures = rcdm_core.probes.pictures.held_out(DATA, [], count=100)
    h = rcdm_core.probes.encoding.h_of(model, pictures)
    assert read == [32, 32, 32, 4]
    np.testing.assert_array_equal(h[70:71], rcdm_core.probes.encoding.h_of(model, pictures[70:71]))


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("interpolation", {"points": 10**11}, r"100000000000 --points with 2 --samples of each would take .* GiB"),
        ("unconditional", {"count": 10**12}, r"Drawing 1000000000000 h.* would take .* give a smaller --count"),
    ],
)
def test_more_than_the_machine_has_is_refused_before_it_is_taken(
    name: str, params: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RCDMError, match=sentence):
        rcdm_core.run_probe(name, models=[FakeRCDM("a")], data=DATA, out=tmp_path / "out", **params)
