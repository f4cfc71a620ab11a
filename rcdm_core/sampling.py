"""Pictures that share a representation, written to a folder: what `rcdm sample` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rcdm_core import defaults, samplers
from rcdm_core.atomic import make_folder, replacing
from rcdm_core.errors import RCDMError
from rcdm_core.naming import shortened
from rcdm_core.out_folder import refuse_among_pictures
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.pictures import Picture, choose, default_data, fit_of, read_arrays, trained_from
from rcdm_core.progress import Reporter
from rcdm_core.report.grid import GridRow, draw_grid, to_pil

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

DEFAULT_PICTURES = 4  # held-out ones, where no picture was asked for
_LONGEST = 255  # bytes of a file's name


def sample_images(
    model: RCDM,
    images: Sequence[Any],
    *,
    n: int,
    out: Path,
    seed: int = 0,
    sampler: str = defaults.SAMPLER,
    steps: int = defaults.SAMPLING_STEPS,
    precision: str = "auto",
    deterministic: bool = False,
    progress: Reporter | None = None,
) -> Path:
    """Draw n samples of each picture's h (paper, section 3.1) and return the path of the grid that shows them all.

    Writes OUT/NAME-K.png, K from 1 to n, picture by picture, and OUT/grid.png: rows are pictures, the first column is
    the picture itself. An unconditional model takes no picture and writes OUT/sample-K.png.

    images  files, folders, PIL pictures or float tensors [3, H, W] in [0, 1]; empty: held-out ones of the training

    Raises RCDMError for a picture that cannot be read or is given to an unconditional model, for steps that the sampler
    cannot take, and when the folder cannot be written or is among the pictures that are read.
    """
    if images and not model.h_dim:
        raise RCDMError(
            f"{model.name} was trained without a representation and cannot be told what to draw; leave --image out, or "
            "give another --model."
        )
    samplers.check_steps(sampler, model.diffusion, steps)
    # In the training's folder samples would be its held-out pictures for the next probe, whatever they are of.
    refuse_among_pictures(out, images, [trained_from(model)])
    reporter = progress or Reporter()
    folder = make_folder(out)
    pictures: list[Picture | None] = [None]
    notes: list[str] = []
    if model.h_dim:
        own = None if images else default_data(model)
        chosen = choose(images, own, [model], count=DEFAULT_PICTURES, options=["--image"])
        pictures = list(chosen)
        notes = [*chosen.notes, *chosen.training_notes([model.name], [model])]
        if model.representations is not None:
            notes += model.representations.notes([picture.id for picture in chosen])
    names = _file_names(pictures, n)
    rows = []
    reporter.start(len(pictures) * n, "sampling", unit="sample")
    for picture, name in zip(pictures, names, strict=True):
        h, stream, shown = None, name, np.ones((3, model.image_size, model.image_size), np.float32)
        if picture is not None:
            h = torch.from_numpy(h_of(model, [picture]))
            stream, shown = picture.id, read_arrays([picture], model.image_size, fit_of(model))[0]
        samples = model.sample(
            h,
            n,
            seed=seed,
            streams=[stream],
            sampler=sampler,
            steps=steps,
            precision=precision,
            deterministic=deterministic,
            progress=reporter.update,
        )[0].numpy()
        for k, sample in enumerate(samples, 1):
            with replacing(folder / f"{name}-{k}.png") as temporary:
                to_pil(sample).save(temporary, format="PNG")
        rows.append((name, shown, samples))
    reporter.finish()
    for note in notes:
        reporter.log(note)
    return draw_grid(
        folder / "grid.png",
        [GridRow([name], shown, [samples], [[]]) for name, shown, samples in rows],
        titles=[f"samples of {model.name}"],
        picture_title="picture" if model.h_dim else "",
    )


def _file_names(pictures: Sequence[Picture | None], n: int) -> list[str]:
    """A name for each picture's n files: its own without folders and ending, numbered where two have the same, and
    shortened where the files' would be too long."""
    names: dict[str, str] = {}  # by what a disk that knows no case takes them for
    for picture in pictures:
        stem = "sample" if picture is None else Path(picture.name).stem.replace(" ", "-") or "picture"
        name, number = shortened(stem, _LONGEST - len(f"-{n}.png")), 2
        while name.casefold() in names:
            mark = f"-{number}"
            name, number = shortened(stem, _LONGEST - len(f"{mark}-{n}.png")) + mark, number + 1
        names[name.casefold()] = name
    return list(names.values())
