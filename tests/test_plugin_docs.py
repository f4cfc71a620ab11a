"""docs/plugins.md, followed to the letter: its files are written, its commands run, and they print what it shows."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import hatchling.build
import pytest
from click.testing import CliRunner

from rcdm_cli.main import main
from rcdm_core import Probe, registry, weights
from rcdm_core.conformance import ON_H
from rcdm_core.download import NotFetched
from rcdm_core.hookspecs import RepresentationProvider

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "plugins.md").read_text(encoding="utf-8")
PROJECT = Path("rcdm-plugin-birds-mobilenet")
# What test_plugin_project.py does with a plugin that is really installed.
ELSEWHERE = ("python3 -m venv", "pip install .", "rcdm train --provider birds-mobilenet --weights birds.pth --data")

NUMBERS = "test_h_is_what_the_network_gives_before_its_classifier"


def blocks() -> Iterator[tuple[str, str]]:
    """The fenced blocks in order: language and content."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, flags=re.M | re.S)


def commands(console: str) -> Iterator[tuple[str, str]]:
    """Of a console block each command with what it prints."""
    for part in re.split(r"^\$ ", console, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def is_shown(shown: str, printed: str) -> bool:
    """Whether the one is the other, but for blanks and what … stands for."""
    pieces = [re.escape(" ".join(piece.split())) for piece in shown.split("…")]
    return re.fullmatch(r"\s*" + ".*".join(pieces) + r"\s*", " ".join(printed.split()), flags=re.S) is not None


def install(project: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip does for `-e`: an editable wheel, and what it names on the path."""
    site.mkdir()
    with monkeypatch.context() as inside:
        inside.chdir(project)
        wheel = hatchling.build.build_editable(str(site))
    with zipfile.ZipFile(site / wheel) as archive:
        archive.extractall(site)
    (sources,) = [Path(line) for file in site.glob("*.pth") for line in file.read_text().splitlines()]
    assert sources.samefile(project / "src")
    for path in (site, sources):
        monkeypatch.syspath_prepend(str(path))


def run_tests(file: Path, folder: Path) -> None:
    """Those of the project's tests that do not check the contract, which is done already."""
    tests = {name: test for name, test in runpy.run_path(str(file)).items() if name.startswith("test_")}
    assert list(tests) == ["test_the_provider_keeps_the_contract", NUMBERS]
    tests[NUMBERS](folder)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, without a network, in which nothing of what is installed stays."""

    def no_network(url: str, path: Path, digest: str | None) -> None:
        raise NotFetched("there is no network in this test")

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(weights, "download", no_network)
    before = set(sys.modules)
    yield work
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    registry.reload()


def test_following_the_page_gives_what_it_shows(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, ran = [], []
    for language, content in blocks():
        if language != "console":
            path = Path(content.partition("\n")[0].removeprefix("# "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            files.append(path)
            continue
        for command, shown in commands(content):
            ran.append(command)
            if command.startswith(ELSEWHERE):
                continue
            words = shlex.split(command)
            if words[0] == "python" and words[1] != "-m":
                runpy.run_path(words[1])
            elif command.startswith("python -m pytest"):
                run_tests(PROJECT / "tests" / "test_contract.py", tmp_path)
            elif command.startswith("pip install"):
                install(PROJECT, tmp_path / "site", monkeypatch)
            else:
                environment = {}
                while "=" in words[0]:
                    name, _, value = words.pop(0).partition("=")
                    environment[name] = value
                assert words[0] == "rcdm", command
                registry.reload()
                result = CliRunner(env=environment).invoke(main, words[1:])
                registry.reload()
                assert is_shown(shown, result.output), f"{command}\n{result.output}"
                assert result.exit_code == (2 if "Error: " in shown else 1 if "FAILED" in shown else 0), command
    assert len(set(files)) == len(files) == 10 and len(ran) >= 23
    for path in (PROJECT, *files[-3:]):
        assert path.exists()
    what_a_probe_depends_on([command for command in ran if "--only crowding" in command][-1])


def what_a_probe_depends_on(again: str) -> None:
    """The probe of the page that says so: two pictures although one was asked for, and anew where its file is new."""
    results = Path("out/all/crowding/result.json")

    def run() -> tuple[str, float]:
        registry.reload()
        output = CliRunner().invoke(main, shlex.split(again)[1:]).output
        registry.reload()
        return output, json.loads(results.read_text())["aggregates"]["thumbnail"]["mean"]

    before = json.loads(results.read_text())
    assert before["arguments"]["count"] == 2 and before["aggregates"]["thumbnail"]["pairs"] == 1
    Path("usual.txt").write_text("2.0\n")
    output, mean = run()
    assert "done before" not in output and mean == pytest.approx(before["aggregates"]["thumbnail"]["mean"] / 2)
    assert "crowding: done before" in run()[0]
    Path("usual.txt").write_text("far\n")
    registry.reload()
    output = CliRunner().invoke(main, shlex.split(again)[1:]).output
    registry.reload()
    assert "usual.txt holds no number" in output


def test_the_page_tells_all_that_a_probe_can_say_about_itself() -> None:
    section = TEXT[TEXT.index("### Probes") : TEXT.index("### What a plugin must not do")]
    assert [one.name for one in fields(Probe) if not re.search(rf"(`{one.name}`|\b{one.name}=)", section)] == []
    table = section[section.index("| field |") :].partition("\n\n")[0]
    explained = re.findall(r"^\| `(\w+)` \|", table, flags=re.M)
    optional = [one.name for one in fields(Probe) if (one.default, one.default_factory) != (MISSING, MISSING)]
    assert sorted(explained) == sorted(optional)


def test_the_page_explains_every_check_and_every_hook() -> None:
    table = TEXT[TEXT.index("| check | what it means") :].partition("\n\n")[0]
    explained = re.findall(r"^\| ([a-z0-9 ]+) \|", table, flags=re.M)
    assert explained == ["check", "lists without the network", "lists without torch", "loads and runs", *ON_H]
    assert all(hook in TEXT for hook in vars(RepresentationProvider) if hook.startswith("rcdm_"))


def test_its_links_lead_somewhere_and_others_lead_to_it() -> None:
    titles = re.findall(r"^#+ (.*)$", TEXT, flags=re.M)
    headings = {re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([^)]*)\)", TEXT)
    assert links and set(links) <= headings
    assert "docs/plugins.md" in (DOCS.parent / "README.md").read_text(encoding="utf-8")
