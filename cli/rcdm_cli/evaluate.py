"""`rcdm evaluate`: how far a model's samples can be trusted, over a set of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rcdm_cli.console import only_json
from rcdm_cli.options import (
    compute_options,
    data_option,
    json_option,
    models_option,
    moved_encoders_options,
    out_option,
    representations_option,
    sampling_options,
)
from rcdm_cli.probe import run_probe, show


@click.command("evaluate")
@models_option
@data_option
@out_option("Folder of the results. [default: out/evaluate]")
@sampling_options
@json_option
@moved_encoders_options
@representations_option
@compute_options
def command(out: Path | None, as_json: bool, **arguments: Any) -> None:
    """Measure how faithful a model is to its representation.

    The probe faithfulness (table 1b) over a folder; without --data, over the pictures held out in training.
    """
    with only_json(as_json):
        result = run_probe("faithfulness", out=out or Path("out") / "evaluate", **arguments)
    show(result, as_json)
