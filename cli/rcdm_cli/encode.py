"""`rcdm encode`: the representations of a folder, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rcdm_cli.console import as_path_text, reporter, say
from rcdm_cli.options import (
    common_options,
    data_reading_options,
    device_option,
    provider_options_option,
    weights_option,
)


@click.command("encode")
@click.option("--provider", required=True, metavar="NAME", help="The representation (rcdm providers lists them).")
@weights_option
@provider_options_option
@click.option("--data", required=True, metavar="DIR", help="Folder of images, or shapes[:N[:SEED]].")
@data_reading_options
@click.option("--flip", is_flag=True, help="Mirror images as well, which rcdm train needs unless --no-flip.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The safetensors file.")
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: float32, as h is computed everywhere; bf16: faster, with an error that is measured and recorded.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Images encoded at once. [default: 32]")
@click.option("--workers", type=click.IntRange(1), help="Threads that decode. [default: 2 to 4, by the processors]")
@common_options
def command(provider: str, data: str, out: Path, provider_options: dict[str, str], **arguments: Any) -> None:
    """Write the representations of a folder's images to a file.

    With them go file names, labels (the folders), content ids and what identifies the encoder. The file stands in for
    the encoder wherever --representations takes one. An encoding that was stopped or killed goes on with the same
    command.
    """
    import rcdm_core

    given = {name: value for name, value in arguments.items() if value is not None}
    result = rcdm_core.encode(provider, data, out, options=provider_options, progress=reporter(), **given)
    say(f"{len(result)} representations with {result.dim} numbers each are in {as_path_text(out)}.")
