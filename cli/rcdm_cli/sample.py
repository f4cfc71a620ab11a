"""`rcdm sample`: pictures that share a representation."""

from __future__ import annotations

from pathlib import Path

import click

from rcdm_cli.console import as_path_text, reporter, say
from rcdm_cli.options import (
    compute_options,
    images_option,
    model_option,
    models_or_newest,
    moved_encoder_options,
    out_option,
    representation_option,
    sampling_options,
)


@click.command("sample")
@model_option
@images_option
@click.option("-n", "n", type=click.IntRange(1), default=8, show_default=True, help="Samples of each image's h.")
@out_option("Folder of the pictures. [default: out/sample]")
@sampling_options
@click.option("--deterministic", is_flag=True, help="The same bits whatever else is asked for, in fixed small batches.")
@moved_encoder_options
@representation_option
@compute_options
def command(
    model: Path | None,
    images: tuple[Path, ...],
    n: int,
    out: Path | None,
    sampler: str,
    sampling_steps: int,
    deterministic: bool,
    provider: str | None,
    weights: str | None,
    representations: Path | None,
    seed: int,
    device: str,
    precision: str,
) -> None:
    """Draw pictures from the representation of a picture.

    What they share is in the representation. Without --image, pictures that were held out in training are taken. The
    noise depends on the seed and on the picture's content alone.
    """
    import rcdm_core
    from rcdm_core.sampling import sample_images

    (run,) = models_or_newest([model] if model else [])
    report = reporter()
    # A picture that the file holds needs no encoder; for others it is loaded when it is needed.
    loaded = rcdm_core.load(
        run, device, check_encoder=representations is None, provider=provider, weights=weights
    )
    if representations is not None:
        loaded.use_representations(representations)
    folder = out or Path("out") / "sample"
    grid = sample_images(
        loaded,
        images,
        n=n,
        out=folder,
        seed=seed,
        sampler=sampler,
        steps=sampling_steps,
        precision=precision,
        deterministic=deterministic,
        progress=report,
    )
    say(f"The pictures are in {as_path_text(folder)}; all of them: {as_path_text(grid)}")
