"""A plugin as pip would install it: a module and a distribution that declares it, in a folder on sys.path."""

from __future__ import annotations

from pathlib import Path


def write_plugin(folder: Path, name: str, code: str, version: str = "1.0", entry_point: str | None = None) -> str:
    """Write distribution `name` with one plugin of that code; returns the name of its module."""
    module = f"rcdm_test_{name}"
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[rcdm]\n{entry_point or name} = {module}\n")
    return module
