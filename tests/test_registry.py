"""Finding plugins: real distributions on the path, good, broken and contradicting ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from plugin_on_path import write_plugin

from rcdm_cli.main import main
from rcdm_core import RCDMError, registry
from rcdm_core.registry import PluginReport, find_provider, plugin_reports, providers, source_of

Install = Callable[..., None]

GOOD = """
from rcdm_core import Provider, hookimpl

def load(weights=None):
    raise AssertionError("not when listing")

@hookimpl
def rcdm_providers():
    return [Provider("{name}-net", "of a test", load, dim=3)]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one plugin on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def install(name: str, code: str, version: str = "1.0", entry_point: str | None = None) -> None:
        names.append(write_plugin(tmp_path, name, code, version, entry_point))
        registry.reload()

    yield install
    for module in names:
        sys.modules.pop(module, None)
    registry.reload()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(registry.DISABLE, raising=False)
    registry.reload()
    yield
    registry.reload()


def report(name: str) -> PluginReport:
    (found,) = (report for report in plugin_reports() if report.name == name)
    return found


def test_the_projects_own_plugins_come_through_the_entry_points() -> None:
    found = providers()
    assert {"random-resnet50", "supervised-resnet50", "dino-vitb16", "none"} <= set(found)
    assert list(found) == sorted(found)
    assert report("none").providers == ("none",)
    assert source_of("dino-vitb16").name == "vit" and source_of("dino-vitb16-head").name == "projector"
    assert source_of("dino-vitb16").distribution == "rcdm"
    assert all(report.error is None and report.slow is None for report in plugin_reports())


def test_a_third_partys_plugin_is_found_with_its_distribution(install: Install) -> None:
    install("good", GOOD.format(name="good"), version="2.3")
    assert find_provider("good-net").dim == 3
    assert source_of("good-net") == PluginReport("good", "good", "2.3", ("good-net",))
    assert source_of("good-net").origin == "good 2.3"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        (
            "from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    raise ValueError('no')",
            "ValueError: no",
        ),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    return 3", "returned a int"),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    return 'ab'", "returned a str"),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    return [3]", "expected a Provider"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    yield exit(0)", "SystemExit"),
        ("", "it has no hook"),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers(x):\n    return []", "PluginValidationError"),
        ("from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_provider():\n    return []", "no hook rcdm_provider"),
        (
            "import rcdm_core\n@rcdm_core.hookimpl\ndef rcdm_providers():\n    yield rcdm_core.Provider('', '', len)",
            "name",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_work(install: Install, code: str, error: str) -> None:
    install("good", GOOD.format(name="good"))
    install("bad", code, version="0.7")
    assert "good-net" in providers() and "random-resnet50" in providers()
    bad = report("bad")
    assert (bad.distribution, bad.version, bad.providers) == ("bad", "0.7", ())
    assert bad.error is not None and error in bad.error and "\n" not in bad.error
    assert report("good").error is None
    with pytest.raises(RCDMError, match="plugin bad is not usable"):
        find_provider("bad-net")


def test_two_plugins_with_one_name_are_named_and_the_rest_works(install: Install) -> None:
    both = GOOD.format(name="same").replace("dim=3)]", "dim=3), Provider('{}-own', '', load)]")
    install("left", both.format("left"), version="1.1")
    install("right", both.format("right"), version="2.2")
    with pytest.raises(RCDMError, match=r"same-net, by plugin left of left 1\.1 and plugin right of right 2\.2"):
        find_provider("same-net")
    assert "same-net" not in providers()
    assert find_provider("left-own").name == "left-own" and find_provider("right-own").name == "right-own"
    assert report("left").providers == ("left-own",)
    assert "same-net is offered by" in str(report("left").error) and "right 2.2" in str(report("left").error)


def test_two_distributions_may_call_their_entry_points_alike(install: Install) -> None:
    install("left", GOOD.format(name="left"), entry_point="encoders")
    install("right", GOOD.format(name="right"), entry_point="encoders")
    assert {"left-net", "right-net"} <= set(providers())
    assert source_of("left-net").distribution == "left"


def test_plugins_can_be_disabled(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bad", "raise AssertionError('not even imported')")
    monkeypatch.setenv(registry.DISABLE, "bad, vit")
    registry.reload()
    assert "dino-vitb16" not in providers() and "random-resnet50" in providers()
    assert report("bad").error == report("vit").error == f"disabled by {registry.DISABLE}"


def test_a_misspelt_name_of_what_should_be_disabled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.DISABLE, "rcdm, vitt,, ")
    registry.reload()
    assert registry.not_disabled() == ["vitt"] and providers() == {}
    result = CliRunner().invoke(main, ["providers"])
    assert result.exit_code == 0
    assert f"{registry.DISABLE} names vitt, and no such plugin is here: custom, none, " in result.stderr


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(RCDMError, match="no provider 'nonne'; did you mean none"):
        find_provider("nonne")
    with pytest.raises(RCDMError, match="no provider 'dino-vitb'; the nearest are dino-vitb8, dino-vitb16"):
        find_provider("dino-vitb")
    with pytest.raises(RCDMError, match=r"the nearest are [a-z]+-resnet50, "):
        find_provider("Resnet50")
    with pytest.raises(RCDMError, match="no provider 'qqqq'; there are barlow-resnet50, "):
        find_provider("qqqq")
    with pytest.raises(RCDMError, match="no provider"):
        source_of("qqqq")


RESOLVER = """
from rcdm_core import Provider, RCDMError, hookimpl

@hookimpl
def rcdm_resolve(name):
    family, _, rest = name.partition(":")
    if family != "family":
        return None
    if rest == "wrong":
        raise RCDMError("family:wrong is wrong")
    if rest == "crash":
        raise ZeroDivisionError("oops")
    if rest == "nonsense":
        return 3
    return Provider(name, "resolved", len)
"""


def test_families_of_names_are_resolved_and_their_source_is_known(install: Install) -> None:
    install("family", RESOLVER, version="4.0")
    assert find_provider("family:x").summary == "resolved"
    assert source_of("family:y").origin == "family 4.0"
    assert "family:x" not in providers()
    with pytest.raises(RCDMError, match="family:wrong is wrong"):
        find_provider("family:wrong")
    with pytest.raises(RCDMError, match="plugin family failed on it with ZeroDivisionError: oops"):
        find_provider("family:crash")
    with pytest.raises(RCDMError, match="plugin family answered with a int"):
        find_provider("family:nonsense")
    assert source_of("custom:rcdm_core.errors:RCDMError").name == "custom"  # the other resolver still answers


PROBE = """
from types import SimpleNamespace
from rcdm_core import Probe, hookimpl

@hookimpl
def rcdm_probes():
    return [Probe(name, "of a test", "figure 0", {{}}, len) for name in {names}] + {more}
"""


def test_plugins_add_probes_but_replace_none(install: Install) -> None:
    install("extra", PROBE.format(names=["mine", "invariance"], more="[3, SimpleNamespace(name='alike', run=len)]"))
    install("wrong", PROBE.format(names=[], more="missing_name"))
    found = registry.probes()
    assert found["mine"].run is len
    assert found["invariance"].run is not len and "alike" not in found
    registry.probes()
    assert report("extra").error == (
        "its probe invariance has the name of another one; rcdm_probes returned a int, expected a Probe; "
        "rcdm_probes returned a SimpleNamespace, expected a Probe"
    )
    assert "NameError" in str(report("wrong").error)


def test_the_report_tells_of_broken_probes_although_nobody_asked_for_probes(install: Install) -> None:
    install("wrong", PROBE.format(names=[], more="missing_name"))
    assert "NameError" in str(report("wrong").error)


def test_everything_that_a_probe_needs_is_in_the_public_api_without_torch() -> None:
    program = (
        "import sys, rcdm_core\n"
        "names = 'Probe Context Result Reporter Option hookimpl RCDMError'.split()\n"
        "assert set(names) | {'TrainConfig'} <= set(rcdm_core.__all__)\n"
        "assert all(getattr(rcdm_core, name) for name in names)\n"
        "assert 'torch' not in sys.modules\n"
        "from rcdm_core.training.config import TrainConfig\n"
        "assert rcdm_core.TrainConfig is TrainConfig\n"
        "assert all(hasattr(rcdm_core, name) for name in rcdm_core.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


HEAVY = """
{imports}
from rcdm_core import Provider, hookimpl

def load(weights=None):
    import torch
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten())

@hookimpl
def rcdm_providers():
    {inside}
    return [Provider("{name}-net", "of a test", load, dim=12, image_size=32)]
"""
ADVICE = "imports torch when it is listed: move the import into load"


def listing(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`rcdm providers` in a process of its own, in which nothing has imported torch."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from rcdm_cli.main import main; main()"
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_listing_survives_plugins_that_raise_answer_nonsense_and_import_torch(tmp_path: Path) -> None:
    write_plugin(tmp_path, "raises", "raise RuntimeError('out of order')", version="0.1")
    nonsense = "from rcdm_core import hookimpl\n@hookimpl\ndef rcdm_providers():\n    return {'a': 1}"
    write_plugin(tmp_path, "nonsense", nonsense, version="0.2")
    write_plugin(tmp_path, "heavy", HEAVY.format(name="heavy", imports="import torch", inside="pass"), version="0.3")
    # Named too, although torch is there by then: plugins are imported by the alphabet, backwards.
    write_plugin(tmp_path, "also", HEAVY.format(name="also", imports="from torch import nn", inside="pass"))
    write_plugin(tmp_path, "good", GOOD.format(name="good"), version="0.4")
    tried = tmp_path / "tried.py"
    tried.write_text(HEAVY.format(name="tried", imports="from rcdm_core import Encoder", inside="pass"))

    shown = listing(tmp_path, "providers", "--plugin", tried)
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert {"heavy-net", "also-net", "tried-net", "good-net", "dino-vitb16"} <= set(rows)
    assert "heavy 0.3" in rows["heavy-net"] and "good 0.4" in rows["good-net"]
    assert f"{tried} not installed" in rows["tried-net"]
    assert sorted(shown.stderr.splitlines()) == sorted([
        "Plugin raises of raises 0.1 does not work: RuntimeError: out of order",
        "Plugin nonsense of nonsense 0.2 does not work: rcdm_providers returned a str, expected a Provider",
        f"Plugin heavy of heavy 0.3 is slow: {ADVICE}",
        f"Plugin also of also 1.0 is slow: {ADVICE}",
        f"Plugin tried of {tried} not installed is slow: {ADVICE}",
    ])  # fmt: skip

    plugins = {entry["name"]: entry for entry in json.loads(listing(tmp_path, "providers", "--json").stdout)["plugins"]}
    assert plugins["heavy"]["slow"] == ADVICE and plugins["heavy"]["error"] is None
    assert plugins["heavy"]["providers"] == ["heavy-net"]
    assert [name for name, entry in plugins.items() if entry["slow"]] == ["also", "heavy"]
    checked = listing(tmp_path, "providers", "check", "heavy-net")
    assert checked.returncode == 1
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("FAILED")]
    assert f"plugin heavy of heavy 0.3 {ADVICE}" in line


def test_a_plugin_that_imports_torch_in_its_hook_is_slow_too(tmp_path: Path) -> None:
    write_plugin(tmp_path, "heavy", HEAVY.format(name="heavy", imports="", inside="import torch"))
    (entry,) = [p for p in json.loads(listing(tmp_path, "providers", "--json").stdout)["plugins"] if p["slow"]]
    assert entry["name"] == "heavy" and entry["slow"] == ADVICE


def test_a_plugin_that_takes_its_time_is_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("rcdm_core.registry.time", SimpleNamespace(perf_counter=lambda: 0.6 * next(ticks)))
    install("good", GOOD.format(name="good"))
    assert report("good").slow == "takes 1.2 s to be listed: move slow imports into load"
    assert "good-net" in providers() and report("good").error is None
