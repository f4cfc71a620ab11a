"""Pictures that are there when a probe chooses them, and gone when it reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_core import registry
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import PictureGone, RCDMError
from rcdm_core.probes import base
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.progress import Reporter

SHAPES = Shapes(40, seed=5)
# Of probes whose code differs in how it reads pictures: those looked at, those that distances are in units of, a
# gallery, classes, and what a linear probe is tested on.
PROBES: dict[str, dict[str, Any]] = {
    "samples": {"count": 4, "samples": 2, "pool": 6},
    "faithfulness": {"count": 4, "samples": 1, "gallery": 6, "rows": 1},
    "class-mean": {"count": 2, "samples": 1},
    "linear-probe": {"count": 2, "samples": 1, "fit": 20, "test": 10},
    "adversarial": {"attacked": 4, "count": 1, "samples": 1, "rows": 1, "epsilons": "0.1", "fit": 20, "test": 10},
}


class Then(Reporter):
    """Does something once, when the first long piece of work begins, and remembers the lines."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do: Callable[[], object] | None = do
        self.lines: list[str] = []

    def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
        do, self.do = self.do, None
        if do is not None:
            do()

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 pictures in two classes."""
    for i in range(len(SHAPES)):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SHAPES.get(i, 32).transpose(1, 2, 0)).save(path)
    return tmp_path / "data"


def chosen(folder: Path, place: int) -> Path:
    """The file that a probe chooses as the one of that number."""
    data = ImageFolder(folder)
    return data.path(data.ids.index(sorted(data.ids)[place]))


def run(name: str, out: Path, progress: Reporter, **arguments: Any) -> Result:
    model = ExactRCDM("shapes-no-color")
    return rcdm_core.run_probe(name, models=[model], out=out, progress=progress, **arguments)


@pytest.mark.parametrize("name", PROBES)
def test_one_of_a_folder_is_left_out_counted_and_listed(name: str, folder: Path, tmp_path: Path) -> None:
    victim = chosen(folder, 2)
    progress = Then(victim.unlink)
    result = run(name, tmp_path / "out", progress, data=folder, **PROBES[name])
    assert progress.do is None and not victim.exists()
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    listed = str(victim.relative_to(folder))
    assert stored["complete"] and listed not in [picture["name"] for picture in stored["pictures"]]
    assert stored["data"]["skipped"] == 1
    (line,) = progress.lines
    assert line in result.notes and line.startswith(f"{listed} could be read when the probe began")
    # it is the same as if it had not been there
    plain = run(name, tmp_path / "plain", Reporter(), data=folder, **PROBES[name])
    assert plain.answer == result.answer and plain.to_json()["images"] == result.to_json()["images"]


def test_one_of_the_training_that_is_gone_when_its_turn_comes(folder: Path, tmp_path: Path) -> None:
    """Its h is known by then; the picture itself is read later, where it is one of the nearest."""
    data = ImageFolder(folder)
    trained = sorted(data.ids)[:3]
    victim = data.path(data.ids.index(trained[1]))

    class WhenSampling(Then):
        def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
            if description == "sampling":
                super().start(total, description)

    progress = WhenSampling(victim.unlink)
    model = ExactRCDM("shapes-no-color", trained=trained)
    settings: dict[str, Any] = {"models": [model], "data": folder, "count": 2, "samples": 3, "pool": 6}
    found = rcdm_core.run_probe("distances", out=tmp_path / "out", progress=progress, **settings)
    assert progress.do is None and not victim.exists()
    assert any(str(victim.relative_to(folder)) in note and "left out" in note for note in found.notes)
    assert found.aggregates[model.name]["searched"] == 2


def test_one_of_a_folder_given_by_image(folder: Path, tmp_path: Path) -> None:
    victim = chosen(folder, 2)
    result = run("samples", tmp_path / "out", Then(victim.unlink), images=[folder], samples=1, pool=0)
    assert len(result.images) == len(SHAPES) - 1 and any(victim.name in note for note in result.notes)


def test_what_was_drawn_before_is_not_drawn_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest")
    calls: list[int] = []
    victim = chosen(folder, 5)

    def sampling() -> None:
        calls.append(1)
        if len(calls) == 2:
            victim.unlink()

    model = ExactRCDM("shapes-no-color")
    model.path, model.before_sampling = tmp_path, sampling  # type: ignore[assignment]
    settings: dict[str, Any] = {"count": 8, "samples": 32, "pool": 0}
    result = rcdm_core.run_probe("variance", models=[model], data=folder, out=tmp_path / "out", **settings)
    # Two pictures at a time: five calls. The first two are not made again; the third was of a block that lacked one
    # when it was shown (its h was known already).
    assert len(calls) == 5 and len(result.images) == 8


def test_the_whole_folder_gone_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match=r"No picture of .*data can be read; give others with --image or --data\.$"):
        run("samples", tmp_path / "out", Then(lambda: shutil.rmtree(folder)), data=folder, **PROBES["samples"])
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["complete"]


def test_one_given_by_name_is_named_and_what_is_done_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest")
    files = [chosen(folder, place) for place in range(3)]
    kept = files[2].read_bytes()
    calls: list[int] = []

    def sampling() -> None:
        calls.append(1)
        files[2].unlink(missing_ok=True)

    def probe(before_sampling: Callable[[], object]) -> Result:
        model = ExactRCDM("shapes-no-color")
        model.path, model.before_sampling = tmp_path, before_sampling  # type: ignore[assignment]
        settings: dict[str, Any] = {"samples": 64, "images": files, "data": SHAPES}
        return rcdm_core.run_probe("variance", models=[model], out=tmp_path / "out", **settings)

    with pytest.raises(PictureGone, match=rf"^{files[2]} could be read when this began, and cannot be .*\(No such"):
        probe(sampling)
    files[2].write_bytes(kept)
    assert len(calls) == 2 and probe(lambda: calls.append(1)).complete and len(calls) == 3


def test_one_that_comes_and_goes_does_not_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def flickering(context: Context) -> Result:
        calls.append(1)
        raise PictureGone("0" * 64, "x.png", "No such file or directory", SHAPES)

    monkeypatch.setattr(registry, "probes", lambda: {"odd": Probe("odd", "It flickers", "no figure", {}, flickering)})
    with pytest.raises(PictureGone):
        run("odd", tmp_path, Reporter())
    assert len(calls) == 2
