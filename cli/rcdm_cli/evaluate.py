"""`rcdm evaluate`: how far a model's samples can be trusted, over a set of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rcdm_cli.console import only_json
from rcdm_cli.options import (
    compute_options,
    data_option,
    json_option,
    models_option,
    models_or_newest,
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
@click.option(
    "--inception",
    metavar="FILE",
    help="Inception's weights for FID, IS, KID, precision and recall: a file or URL, auto (if at hand), download or "
    "no. [default: auto]",
)
@sampling_options
@json_option
@moved_encoders_options
@representations_option
@compute_options
def command(out: Path | None, inception: str | None, as_json: bool, **arguments: Any) -> None:
    """Measure how faithful a model is to its representation, and how good its samples are.

    The probes faithfulness (table 1b), into the folder of the results, and quality (table 1a), into its subfolder
    quality, over a folder of pictures; without --data, over those held out in training.
    """
    from rcdm_core.metrics.fidelity import find_weights

    folder = out or Path("out") / "evaluate"
    arguments["models"] = models_or_newest(arguments["models"])  # once: another training may end meanwhile
    if inception is not None:
        find_weights(inception)  # that they cannot be had is said before anything is drawn
    with only_json(as_json):
        faithful = run_probe("faithfulness", out=folder, **arguments)
        if not as_json:
            show(faithful, as_json)
        good = run_probe("quality", out=folder / "quality", inception=inception, **arguments)
    if as_json:
        click.echo(json.dumps({**faithful.to_json(), "quality": good.to_json()}, indent=2))
    else:
        show(good, as_json)
