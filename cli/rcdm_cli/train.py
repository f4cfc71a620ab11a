"""`rcdm train`: fit an RCDM to a representation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from rcdm_cli.console import as_path_text, reporter, say
from rcdm_cli.options import (
    compute_options,
    data_option,
    data_reading_options,
    out_option,
    provider_options_option,
    several_weights_option,
)


class CountOrShare(click.ParamType):
    """512 is a number of pictures, 0.1 a share of them."""

    name = "N|SHARE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | float:
        try:
            number: int | float = int(value) if str(value).isdigit() else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is neither a number of pictures, such as 512, nor a share, such as 0.1")
        return number


class QuotesWanted(click.Command):
    """A shell makes words of a pattern that is not quoted, and all but the first belong to no option."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        patterns = "--weights" in args
        try:
            return super().parse_args(context, args)
        except click.UsageError as error:
            if patterns and "unexpected extra argument" in error.message:
                hint = "put a pattern of --weights between quotes"
                raise click.UsageError(f"{error.message.rstrip('.')}; {hint}", context) from None
            raise


@click.command("train", cls=QuotesWanted)
@click.option("--provider", required=True, metavar="NAME", help="The representation (rcdm providers lists them).")
@several_weights_option
@provider_options_option
@click.option("--label", metavar="NAME", help="Of this model, where several are compared. [default: its folder's name]")
@data_option
@data_reading_options
@click.option(
    "--representations", type=click.Path(path_type=Path), metavar="FILE", help="Take h from what rcdm encode wrote."
)
@click.option("--held-out", type=CountOrShare(), help="Images never trained on. [default: a tenth, at most 512]")
@click.option("--flip/--no-flip", default=None, help="Mirror half of the images at random. [default: flip]")
@out_option("Folder of the trained model, or of several. [default: runs/PROVIDER; several: runs]")
@click.option("--resume", is_flag=True, help="Go on where the run in --out stopped.")
@click.option("--steps", type=click.IntRange(1), help="Stop after so many. [default: preset's, unless --minutes]")
@click.option("--minutes", type=float, help="Stop after so many minutes of training.")
@click.option("--save-every", type=click.IntRange(1), metavar="STEPS", help="A kill loses no more. [default: 500]")
@click.option(
    "--preview-every", type=click.IntRange(0), metavar="STEPS", help="At the next save; 0: never. [default: every save]"
)
@click.option("--preset", help="Architecture: tiny-32, small-64, adm-64, adm-128, adm-256. [default: tiny-32]")
@click.option("--conditioning", help="How h enters: batchnorm (the paper's), embedding, none. [default: batchnorm]")
@click.option("--standardise/--no-standardise", default=None, help="Standardise h per dimension. [default: preset's]")
@click.option("--batch-size", type=click.IntRange(1), help="Images a step. [default: preset's]")
@click.option("--accumulate", type=click.IntRange(1), metavar="PARTS", help="Split a step to save memory. [default: 1]")
@click.option("--optimizer", help="adamw, or muon: Muon for the blocks' matrices, AdamW else. [default: preset's]")
@click.option("--lr", type=float, help="Peak learning rate. [default: preset's]")
@click.option("--h-lr", type=float, metavar="SHARE", help="Of --lr, for the layers that read h. [default: preset's]")
@click.option("--lr-schedule", help="constant, or cosine, down to zero at --steps. [default: preset's]")
@click.option("--warmup", type=click.IntRange(0), metavar="STEPS", help="Until --lr is reached. [default: preset's]")
@click.option(
    "--half-size",
    type=click.IntRange(0),
    metavar="STEPS",
    help="The first so many see twice the images, at half the size. [default: 0]",
)
@click.option("--weight-decay", type=float, help="Decoupled. [default: preset's]")
@click.option("--clip", type=float, metavar="NORM", help="Bound of the gradient's norm, 0: none. [default: preset's]")
@click.option("--ema", type=float, metavar="DECAY", help="Of the averaged weights that are kept. [default: preset's]")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Of representations. [env: RCDM_CACHE]")
@click.option("--pixel-cache-limit", type=click.IntRange(0), metavar="BYTES", help="Of decoded images on disk.")
@compute_options
def command(**arguments: Any) -> None:
    """Train an RCDM for a representation.

    Without --data it learns from the embedded shapes, and without --steps or --minutes for as many steps as the preset
    says. Ctrl-C stops it; --resume takes it up again. Several --weights, or a pattern, are trained in turn, for as long
    each, into runs/PROVIDER-CHECKPOINT.
    """
    from rcdm_core.training import TrainConfig, each_checkpoint, stopped, train_each

    weights = arguments.pop("weights")
    # what was not given is left to TrainConfig, where the defaults are, and which tells it from what was asked for
    source, default = click.get_current_context().get_parameter_source, click.core.ParameterSource.DEFAULT
    given = {name: value for name, value in arguments.items() if value is not None and source(name) is not default}
    config = TrainConfig(**given)
    configs = each_checkpoint(config, weights)
    report = reporter()
    if config.data is None:
        report.log("No --data: training on the embedded shapes.")
    paths = train_each(configs, progress=report)
    models, keeps = ("model is", "it keeps") if len(paths) == 1 else ("models are", "they keep")
    where, options = ", ".join(map(as_path_text, paths)), " ".join(f"--model {path}" for path in paths)
    say(f"The {models} in {where}; see what {keeps}: rcdm probe invariance {options}")
    if len(paths) < len(configs) or stopped(configs[len(paths) - 1], paths[-1]):
        raise click.exceptions.Exit(130)
