"""Every probe that can run, and one page: what is left out and why, going on, and what all of them together say."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import in_browser, needs_browser
from exact_rcdm import ExactRCDM
from PIL import Image

import rcdm_core
from rcdm_core import registry
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.probes import PROBES, base, everything
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.conclusion import conclude
from rcdm_core.probes.everything import chosen, limited
from rcdm_core.probes.pictures import Pictures
from rcdm_core.progress import Reporter
from rcdm_core.versions import versions

DATA = Shapes(90, seed=7)
SMALL = {"only": "retention,variance,neighbours,broken", "count": 24, "samples": 2}


def broken(context: Context) -> Result:
    raise ZeroDivisionError("nobody expected this")


@pytest.fixture(autouse=True)
def _one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of a plugin that fails, and models whose weights have a name."""
    more = Probe("broken", "Whether the others go on", "no figure", {}, broken)
    monkeypatch.setattr(registry, "probes", lambda: dict(sorted({**PROBES, "broken": more}.items())))
    monkeypatch.setattr(base, "_bundle_digest", lambda folder: "digest" if folder is not None else None)


def run(out: Path, **changes: Any) -> tuple[Result, int]:
    """The result, and how often a model was asked for samples."""
    asked: list[int] = []
    models = [ExactRCDM("shapes-all"), ExactRCDM("shapes-no-position")]
    for model in models:
        model.path, model.before_sampling = out.parent, lambda: asked.append(1)
    arguments = {"models": models, "data": DATA, "out": out, **SMALL, **changes}
    return rcdm_core.run_probe("all", **arguments), len(asked)


def test_what_can_run_runs_and_the_rest_has_a_reason(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result, asked = run(out)
    entries = result.aggregates["probes"]
    assert list(entries) == ["retention", "broken", "neighbours", "variance"]
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "retention": "done",
        "broken": "failed",
        "neighbours": "left out",
        "variance": "done",
    }
    assert "give their folder with --data" in entries["neighbours"]["reason"]
    assert result.failures == ["broken failed: ZeroDivisionError: nobody expected this"]
    retention = json.loads((out / "retention" / "result.json").read_text())
    assert retention["arguments"]["count"] == 24 and retention["arguments"]["samples"] == 2
    assert result.answer[:2] == retention["answer"] and result.answer[1].endswith("sharpness and class.")
    assert any(sentence.startswith("How that is known") for sentence in result.answer)
    assert any(sentence.startswith("How sure that is") for sentence in result.answer)

    # what is done is not done again, and of another seed nothing is
    again, asked_again = run(out)
    assert asked > 0 and asked_again == 0 and again.answer == result.answer
    assert {n: e["seconds"] for n, e in again.aggregates["probes"].items() if e["status"] == "done"} == {
        n: e["seconds"] for n, e in entries.items() if e["status"] == "done"
    }
    variance = asked - run(tmp_path / "one", only="retention")[1]
    assert run(out, only="variance", seed=1)[1] == variance > 0
    assert run(out, only="variance", seed=1)[1] == 0
    (out / "variance" / "variance-001.png").unlink()
    assert run(out, only="variance", seed=1)[1] == variance

    page = (out / "report.html").read_text()
    places = [page.index(words) for words in ('aria-label="The answer"', "The experiments", 'id="variance"', "How to")]
    assert places == sorted(places)


def test_what_is_done_stays_done_when_the_run_is_stopped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def stopped(context: Context) -> Result:
        raise KeyboardInterrupt

    run(out, only="retention")
    probes = {**registry.probes(), "stopped": Probe("stopped", "Stops", "no figure", {}, stopped)}
    monkeypatch.setattr(registry, "probes", lambda: probes)
    for only in ("variance,stopped", "stopped"):  # the second one is stopped before anything is done
        with pytest.raises(KeyboardInterrupt):
            run(out, only=only)
    result, asked = run(out, only="variance")
    assert asked == 0 and list(result.aggregates["probes"]) == ["variance", "retention"]
    page = (out / "report.html").read_text()
    assert 'id="variance"' in page and 'id="retention"' not in page
    assert run(out, only="retention,variance")[1] == 0


def test_a_result_stays_only_where_nothing_it_depends_on_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcdm_core.metrics import fidelity

    model = ExactRCDM("shapes-all")
    model.path = Path("run")  # type: ignore[assignment]
    context = Context(
        **{"probe": PROBES["all"], "models": [model], "names": ["a"], "images": [], "data": DATA, "out": Path("out")},
        **{"seed": 0, "precision": "auto", "sampler": "ddim", "steps": 2, "progress": Reporter(), "params": {}},
    )

    def key(name: str) -> str | None:
        settings = everything._settings(context)
        assert settings is not None
        return everything._key(PROBES[name], PROBES[name].complete({}), settings)

    before = {name: key(name) for name in ("variance", "quality")}
    assert before == {name: key(name) for name in before}
    changes: list[tuple[Any, str, Any]] = [
        (model.config.data, "description", {"path": "nowhere at all"}),
        (model, "representations", SimpleNamespace(record=lambda: {"path": "h.safetensors"})),
        (DATA, "names", [f"other {name}" for name in DATA.names]),
        (everything, "versions", lambda: {"scipy": "0"}),
    ]
    for owner, attribute, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, value)
            assert all(key(name) != before[name] for name in before), attribute
    monkeypatch.setattr(fidelity, "find_weights", lambda choice: Path("inception.pth"))
    assert key("variance") == before["variance"] and key("quality") != before["quality"]
    assert {"scipy", "scikit-learn", "torch-fidelity"} <= set(versions())


def test_a_plugins_probe_runs_again_after_it_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edited").mkdir()
    for name, part in (("__init__", "from edited.work import run\n"), ("work", "def run(context):\n    return 1\n")):
        (tmp_path / "edited" / f"{name}.py").write_text(part)
    run = importlib.import_module("edited").run
    before = everything._code_of(run)
    assert before == everything._code_of(run) != everything._code_of(PROBES["variance"].run)
    (tmp_path / "edited" / "work.py").write_text("def run(context):\n    return 2\n")
    assert everything._code_of(run) not in (before, None)
    (tmp_path / "edited" / ".#work.py").symlink_to("nobody@nowhere.1:2")  # Emacs' lock on a file
    assert everything._code_of(run) is not None
    assert everything._code_of(print) is None
    for name in ("edited", "edited.work"):
        del sys.modules[name]


def test_a_file_that_an_option_names_can_change(tmp_path: Path) -> None:
    key = lambda name, **params: everything._key(PROBES[name], PROBES[name].complete(params), {})  # noqa: E731
    picture, source, folder = tmp_path / "p.png", tmp_path / "encoder.py", tmp_path / "samples"
    picture.write_bytes(b"one")
    source.write_text("one")
    folder.mkdir()
    cases: list[tuple[str, dict[str, Any], Any]] = [
        ("manipulation", {"mode": "swap", "partner": str(picture)}, lambda: picture.write_bytes(b"two")),
        ("retention", {"judge": f"custom:{source}:build"}, lambda: source.write_text("two")),
        ("faithfulness", {"other_samples": str(folder)}, lambda: (folder / "a-0.png").write_bytes(b"new")),
    ]
    for name, params, change in cases:
        before = key(name, **params)
        assert before == key(name, **params)
        change()
        assert before != key(name, **params), name


def test_a_probe_that_had_begun_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def early(context: Context) -> Result:
        raise RCDMError("It takes more pictures.")

    def late(context: Context) -> Result:
        context.begin(Pictures([]), context.data)
        raise RCDMError("The disk is full.")

    probes = {run.__name__: Probe(run.__name__, "Stops", "no figure", {}, run) for run in (early, late)}
    monkeypatch.setattr(registry, "probes", lambda: {"all": PROBES["all"], **probes})
    result, _ = run(tmp_path / "out", only="")
    assert {name: entry["status"] for name, entry in result.aggregates["probes"].items()} == {
        "early": "left out",
        "late": "failed",
    }
    assert result.failures == ["late failed: The disk is full."]


def test_probes_of_sets_run_on_the_data_where_pictures_are_given_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(image)
    given: dict[str, tuple[int, bool]] = {}

    def noting(name: str, of_sets: str | None = None) -> Probe:
        def note(context: Context) -> Result:
            given[name] = len(context.images), context.data is not None
            raise RCDMError("Enough.")

        return Probe(name, "Notes", "no figure", {}, note, of_sets=of_sets)

    of_sets = {name for name, probe in PROBES.items() if probe.of_sets}
    assert of_sets == {"class-mean", "confidence", "linear-probe", "quality", "unconditional"}
    for name in of_sets:
        with pytest.raises(RCDMError, match=f"The probe {name} .* instead of --image"):
            rcdm_core.run_probe(name, models=[ExactRCDM()], images=[image], data=DATA, out=tmp_path / name)

    probes = {"all": PROBES["all"], "quality": noting("quality", "compares"), "variance": noting("variance")}
    monkeypatch.setattr(registry, "probes", lambda: probes)
    run(tmp_path / "out", only="", images=[image])
    assert given == {"variance": (1, True), "quality": (0, True)}
    given.clear()
    outcome, _ = run(tmp_path / "other", only="", images=[image], data=None)
    assert list(given) == ["variance"]
    reason = "The probe quality compares; give a folder with --data instead of --image."
    assert f"quality is left out: {reason}" in outcome.notes


@needs_browser
@pytest.mark.parametrize("width", [500, 1300])  # the narrowest window that Chromium has, and a desk's
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    run(tmp_path / "out", only="retention,variance")
    found = in_browser(
        tmp_path / "out" / "report.html",
        """
        const frame = document.documentElement;
        found.page = frame.scrollWidth <= frame.clientWidth;
        const table = document.querySelector("table");
        const rows = () => [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
        found.given = rows();
        table.querySelector("th button").click();
        found.sorted = rows();
        const dialog = document.querySelector("dialog"), pictures = [...document.querySelectorAll("main img")];
        found.broken = pictures.filter((one) => !one.complete || !one.naturalWidth).length;
        pictures[0].click();
        found.enlarged = dialog.open && dialog.querySelector("img").src === pictures[0].src;
        const links = [...document.querySelectorAll('a[href^="#"]')];
        found.links = links.filter((link) => !document.querySelector(link.hash)).length;
        """,
        f"--window-size={width},900",
    )
    assert found["page"] and found["sorted"] == sorted(found["given"]) != found["given"]
    assert found["enlarged"] and found["broken"] == 0 and found["links"] == 0


def test_the_page_is_one_file_with_a_section_a_probe(tmp_path: Path) -> None:
    run(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    answer, verdicts, retention, variance = (
        page.index(words) for words in ("keeps", "<h2>Verdicts", 'id="retention"', 'id="variance"')
    )
    assert answer < verdicts < retention < variance
    assert len(page) < 2 << 20 and page.count("<h1>") == 1 and page.count("<script>") == 1
    for words in (
        "<h3>How it was computed",
        "<h3>What this cannot tell",
        "rcdm probe retention",
        "rcdm probe variance",
    ):
        assert words in page[retention:]
    assert "rcdm probe all" in page and "nobody expected this" in page
    links = set(re.findall(r'(?:href|src)="([^"]{0,40})', page))
    inside = {link for link in links if not link.startswith(("data:image/", "#"))}
    assert inside == {"retention/report.html", "variance/report.html"}
    for anchor in (link[1:] for link in links if link.startswith("#")):
        assert f'id="{anchor}"' in page


def test_pages_that_are_not_of_this_kind_are_shown_by_their_figures(tmp_path: Path) -> None:
    from rcdm_core.report.everything import figures_of, section

    (tmp_path / "report.html").write_text("<p>a plugin's own page</p>")
    (tmp_path / "a.png").write_bytes(b"png")
    assert section(tmp_path) is None and section(tmp_path / "nowhere") is None
    assert figures_of(tmp_path, ["a.png", "report.html", "missing.png"], 4) == (["data:image/png;base64,cG5n"], [])
    Image.effect_noise((2480, 40), 60).save(tmp_path / "b.png")
    shown, left_out = figures_of(tmp_path, ["a.png", "b.png"], 40_000)  # compressed, and what is no picture is named
    assert len(shown) == 1 and len(shown[0]) <= 40_000 and left_out == ["a.png"]
    assert figures_of(tmp_path, ["b.png"], 100) == ([], ["b.png"])
    (tmp_path / "report.html").write_text(
        '<main><!--section--><h1>x</h1><details class="more"><b>rows</b></details><!--/section--></main>'
    )
    text = section(tmp_path)
    assert text is not None and text.startswith("<h2>x</h2>") and "rows</b>" not in text


def test_which_probes_and_how_large() -> None:
    assert list(chosen("", ""))[:2] == ["retention", "invariance"] and "all" not in chosen("", "")
    assert set(chosen("", "")) == {*PROBES, "broken"} - {"all"}
    assert list(chosen("variance, samples", "variance")) == ["samples"]
    with pytest.raises(RCDMError, match="the nearest is variance"):
        chosen("varianze", "")
    with pytest.raises(RCDMError, match="Nothing is left"):
        chosen("variance", "variance")
    assert limited(PROBES["retention"], {"count": 4, "samples": 9})["count"] == 20
    assert limited(PROBES["retention"], {"count": 0, "samples": 0}) == PROBES["retention"].complete({})
    assert limited(PROBES["samples"], {"count": 4, "samples": 900})["samples"] == 8  # never more than its own
    for name, (parameter, least) in {
        "variance": ("samples", 2),
        "manipulation": ("samples", 2),
        "quality": ("count", 2),
        "unconditional": ("count", 2),
        "training": ("count", 20),
    }.items():
        assert limited(PROBES[name], {"count": 1, "samples": 1})[parameter] == least
    with pytest.raises(TypeError, match="least"):
        dataclasses.replace(PROBES["variance"], least={"other": 2})
    with pytest.raises(TypeError, match="depends"):
        dataclasses.replace(PROBES["variance"], depends=True)


def test_a_probe_gets_its_own_options_and_a_run_that_goes_on_knows_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["retention.samples=3", "variance.top=0.2", "variance.count=5"]
    result, asked = run(out, only="retention,variance", set=given)
    ran = {name: json.loads((out / name / "result.json").read_text()) for name in ("retention", "variance")}
    assert (ran["retention"]["arguments"]["samples"], ran["retention"]["arguments"]["count"]) == (3, 24)
    assert (ran["variance"]["arguments"]["top"], ran["variance"]["arguments"]["count"]) == (0.2, 5)
    command = " --set retention.samples=3 --set variance.top=0.2 --set variance.count=5 "
    assert command in result.provenance["command"] and command in (out / "report.html").read_text()
    assert "--top 0.2" in ran["variance"]["command"] and asked > 0
    assert run(out, only="retention,variance", set=given)[1] == 0
    began = ran["retention"]["started"]
    assert run(out, only="retention,variance", set=given[:2])[1] > 0  # variance alone, with the common limit
    assert json.loads((out / "retention" / "result.json").read_text())["started"] == began


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("varianze.top=1", "There is no probe 'varianze' to set top of; the nearest is variance"),
        ("variance.topp=1", "The probe variance has no option 'topp' to set; the nearest is top"),
        ("variance.top=high", "Option top of the probe variance is 'high', but expected a number"),
        ("adversarial.epsilons=0.1,x", "Option epsilons of the probe adversarial is '0.1,x', but expected numbers"),
        ("top=1", "expected PROBE.OPTION=VALUE"),
        ("quality.count=9", "probe quality, which is not to run"),
        ("all.count=9", "There is no probe 'all'"),
        ("variance.top=0.5", "variance.top is set to 0.1 and to 0.5"),
    ],
)
def test_an_option_that_cannot_be_set_ends_the_run_before_it_begins(tmp_path: Path, given: str, message: str) -> None:
    from rcdm_core.probes.everything import own_options

    with pytest.raises(RCDMError, match=re.escape(message)):
        run(tmp_path / "out", only="variance,adversarial", set=["variance.top=0.1", given])
    assert not list((tmp_path / "out").iterdir())
    probes = {name: PROBES[name] for name in ("invariance", "quality")}
    found = own_options(["quality.inception=a=b.pth", "invariance.samples=2"], probes)
    assert found == {"quality": {"inception": "a=b.pth"}, "invariance": {"samples": 2}}


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 30, "level": 0.95}


def told(verdict: str) -> dict[str, Any]:
    return {"verdict": verdict, "why": "", "rendered": estimate(0.9), "decodable": estimate(0.9)}


def test_the_conclusion_tells_where_two_probes_disagree() -> None:
    comparison = {"attribute": "size", "retention": "rendered", "first": "a", "second": "b"}
    retention = {
        "answer": ["a keeps size.", "b keeps nothing."],
        "arguments": {"samples": 4},
        "images": [{}] * 30,
        "aggregates": {
            "a": {"attributes": {"size": told("kept"), "position": told("kept")}, "h_in_samples": estimate(0.8)},
            "b": {"attributes": {"size": told("cannot tell"), "position": told("dropped")}, "h_in_samples": None},
            "comparisons": [
                {**comparison, "difference": estimate(0.2), "p_holm": 0.2},
                {**comparison, "difference": estimate(0.6), "p_holm": 0.01},
            ],
        },
    }
    response = {"zoom-in": {"responses": {"size": {"verdict": "follows", "rendered": estimate(1)}}}}
    shift = {"vertical-shift": {"responses": {"position": {"verdict": "ignores", "rendered": estimate(0)}}}}
    moved = {"transform": "vertical-shift", "first": "a", "second": "b"}
    invariance: dict[str, Any] = {
        "answer": ["by invariance"],
        "aggregates": {name: {"transforms": {**response, **shift}} for name in ("a", "b")}
        | {
            "differences": [
                {**moved, "measure": "position", "difference": estimate(0.9), "p_holm": 0.01},
                {**moved, "measure": "h", "difference": estimate(0.3), "p_holm": 0.02},
                {**moved, "measure": "size", "difference": estimate(0.3), "p_holm": 0.3},
            ]
        },
    }
    found = conclude(["a", "b"], {"retention": retention, "invariance": invariance}, {})
    cells = {(attribute, name): cell.agree for attribute, row in found.table.items() for name, cell in row.items()}
    assert cells == {("size", "a"): True, ("size", "b"): None, ("position", "a"): False, ("position", "b"): True}
    text = "\n".join(found.answer)
    assert text.startswith("a keeps size.\nb keeps nothing.")
    assert "3 of 4 verdicts rest on" in text and "1 stay open" in text
    assert "the same in 2 of the 3 verdicts" in text
    assert "position of a (ignores by vertical-shift, kept by retention)" in text
    assert "1 of 2 differences are beyond chance" in text and "0.60 [0.50, 0.70]" in text
    assert "2 of 3 differences are beyond chance by the probe invariance: position under vertical-shift (a less" in text
    assert "how far vertical-shift moves h (a less b: 0.30 [0.20, 0.40])" in text
    assert "comes back in the h of a sample: a 0.80" in text
    # of two transforms the one that says otherwise is named, not the one that says nothing
    open_ = {"responses": {"size": {"verdict": "cannot tell", "rendered": estimate(0.4)}}}
    ignored = {"responses": {"size": {"verdict": "ignores", "rendered": estimate(0)}}}
    invariance["aggregates"]["a"]["transforms"] = {"zoom-in": open_, "zoom-out": ignored}
    found = conclude(["a", "b"], {"retention": retention, "invariance": invariance}, {})
    assert "size of a (ignores by zoom-out, kept by retention)" in "\n".join(found.answer)
    without = conclude(["a", "b"], {"invariance": invariance}, {"retention": "there are too few pictures."})
    assert "there are too few pictures." in without.answer[0] and without.answer[1] == "by invariance"
    assert "few pictures." in without.answer[0] and ".." not in without.answer[0]
    assert not any("beyond chance" in sentence for sentence in without.answer)  # its own answer says that
    nothing = conclude(["a"], {}, {})
    assert nothing.table == {} and nothing.answer[0].endswith("did not run: it was not asked for.")
