"""Run `rcdm` in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from rcdm_cli.main import main


def rcdm(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> str:
    """The sentence that bad input ends with."""
    result = rcdm(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and result.output.rstrip().endswith(lines[0]), result.output
    assert "Traceback" not in result.output
    return lines[0]
