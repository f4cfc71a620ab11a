"""The distribution that users install, which is not the editable one that these tests run on."""

from __future__ import annotations

import configparser
import importlib.metadata
import zipfile
from pathlib import Path

import hatchling.build
import pytest

ROOT = Path(__file__).parent.parent


def test_the_wheel_has_all_that_a_user_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / hatchling.build.build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
        (declared,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        entry_points = configparser.ConfigParser()
        entry_points.read_string(wheel.read(declared).decode())
    # every file of the packages, templates, styles, scripts and py.typed included, and no test
    for folder in (ROOT / "rcdm_core", ROOT / "cli" / "rcdm_cli", *(ROOT / "plugins").glob("rcdm_plugin_*")):
        files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        missing = {str(file.relative_to(folder.parent)) for file in files} - names
        assert not missing, sorted(missing)[:5]
    assert {"rcdm_core/py.typed", "rcdm_core/report/templates/base.html.j2"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    here = {point.name: point.value for point in importlib.metadata.entry_points(group="rcdm")}
    assert dict(entry_points["rcdm"]).items() <= here.items() and len(entry_points["rcdm"]) >= 8
    assert dict(entry_points["console_scripts"]) == {"rcdm": "rcdm_cli.main:main"}
