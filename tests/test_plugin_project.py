"""`rcdm plugin new`: what it writes is built, installed into another environment and trained with."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

from rcdm_cli.main import main
from rcdm_core import RCDMError, bundle
from rcdm_core.plugin_project import write_project


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_plugin_is_installed_elsewhere_passes_its_test_and_trains(tmp_path: Path) -> None:
    project = write_project("my-net", tmp_path / "project")
    pip = ("-m", "pip", "--disable-pip-version-check", "-q")
    run(
        sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, project,
        cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("rcdm_plugin_my_net-*.whl")
    # Another environment that sees what this one has: torch again would weigh gigabytes.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "other", cwd=tmp_path)
    python = tmp_path / "other" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", where, cwd=tmp_path).strip())
    (site / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    run(sys.executable, *pip, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    listing = json.loads(run(python, "-m", "rcdm_cli.main", "providers", "--json", cwd=tmp_path))
    (entry,) = [provider for provider in listing["providers"] if provider["name"] == "my-net"]
    assert entry["plugin"] == {"name": "my-net", "distribution": "rcdm-plugin-my-net", "version": "0.1.0"}
    run(python, "-m", "pytest", "-q", project / "tests", cwd=tmp_path)
    arguments = ("train", "--provider", "my-net", "--data", "shapes:64", "--steps", "5", "--out", "run")
    run(python, "-m", "rcdm_cli.main", *arguments, cwd=tmp_path)
    config = bundle.read(tmp_path / "run")[0]
    assert (config.step, config.provider.dim, config.provider.distribution) == (5, 128, "rcdm-plugin-my-net")
    here = CliRunner().invoke(main, ["sample", "--model", str(tmp_path / "run")])
    assert here.exit_code == 2 and "there is no provider 'my-net'" in here.output
    assert here.output.endswith("; the model is for the one of rcdm-plugin-my-net 0.1.0: install that.\n")


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_project("mine") == Path("rcdm-plugin-mine")
    for name, message in (
        ("Mine", "'Mine' is no name for a plugin"),
        ("../mine", "is no name for a plugin"),
        ("mine-", "is no name for a plugin"),
        ("random-resnet50", "there is a provider random-resnet50 already"),
        ("resnet50", "there is a package rcdm_plugin_resnet50 already"),
        ("mine", "rcdm-plugin-mine exists and is not an empty folder"),
    ):
        with pytest.raises(RCDMError, match=message):
            write_project(name)
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["plugin", "new", "yours", "--out", "file"])
    assert result.exit_code == 2 and "file exists and is not an empty folder" in result.output
    result = CliRunner().invoke(main, ["plugin", "new", "yours", "--out", "deep/folder"])
    assert "deep/folder/tests/test_contract.py\n" in result.stdout
    assert result.exit_code == 0 and (tmp_path / "deep/folder/src/rcdm_plugin_yours/_network.py").is_file()


def test_a_plugin_is_tried_without_installing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rcdm_core import registry

    monkeypatch.chdir(tmp_path)
    project = write_project("tried-net", tmp_path / "project")
    package = project / "src" / "rcdm_plugin_tried_net"
    for path in (project, package, package / "__init__.py"):
        result = CliRunner().invoke(main, ["--plugin", str(path), "providers", "--json"])
        if path.suffix:  # its load needs the file beside it, its listing does not
            assert '"tried-net"' in result.stdout
            continue
        (entry,) = [each for each in json.loads(result.stdout)["providers"] if each["name"] == "tried-net"]
        assert entry["plugin"] == {"name": package.name, "distribution": str(package), "version": "not installed"}
    result = CliRunner().invoke(main, ["providers", "check", "tried-net", "--plugin", str(project)])
    assert result.exit_code == 0 and "keeps the contract" in result.stdout
    assert "tried-net" not in registry.providers()

    # Beside an installed version of it, it takes its place.
    info = tmp_path / "site" / "old-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: old\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[rcdm]\nold = rcdm_plugin_tried_net\n")
    with monkeypatch.context() as inside:
        inside.syspath_prepend(str(tmp_path / "site"))
        registry.reload()
        result = CliRunner().invoke(main, ["providers", "--json", "--plugin", str(project)])
        listing = json.loads(result.stdout)
        (entry,) = [each for each in listing["providers"] if each["name"] == "tried-net"]
        assert entry["plugin"]["version"] == "not installed"
        (entry,) = [each for each in listing["plugins"] if each["name"] == "old"]
        assert entry["error"] == f"left out for the one in {package}, which is tried"
    registry.reload()

    (tmp_path / "broken.py").write_text("raise ValueError('half done')")
    (tmp_path / "json.py").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hookless.py").write_text("")
    (tmp_path / "v1.0.py").write_text("")
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "net.py").write_text("")
    for name, message in (
        ("broken.py", "the plugin in broken.py does not work: ValueError: half done"),
        ("json.py", "its name json is that of another module"),
        ("hookless.py", "it has no hook"),
        ("v1.0.py", "its name v1.0 has a dot"),
        ("a:b/net.py", "':' in a path divides it"),
        ("empty", "is no plugin: expected a .py file"),
        ("absent.py", "is no plugin: expected a .py file"),
    ):
        result = CliRunner().invoke(main, ["providers", "--plugin", name])
        assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
