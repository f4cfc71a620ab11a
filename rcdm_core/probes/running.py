"""One run of an experiment: its models loaded, its parameters checked, its result on disk."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rcdm_core
from rcdm_core import defaults
from rcdm_core.atomic import make_folder
from rcdm_core.errors import PictureGone, RCDMError
from rcdm_core.naming import of_models
from rcdm_core.out_folder import refuse_among_pictures
from rcdm_core.probes.base import Context, Result
from rcdm_core.probes.keeping import alone, forget
from rcdm_core.probes.pictures import fit_of, trained_from
from rcdm_core.progress import Reporter
from rcdm_core.weights_given import weights_of_each

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM


def run_probe(
    name: str,
    *,
    models: Sequence[RCDM | str | Path],
    images: Sequence[Any] | None = None,
    data: ImageSource | str | Path | None = None,
    out: str | Path,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    sampler: str = defaults.SAMPLER,
    steps: int = defaults.SAMPLING_STEPS,
    provider: str | None = None,
    weights: str | Sequence[str] | None = None,
    representations: str | Path | Sequence[str | Path] = (),
    progress: Reporter | None = None,
    **params: Any,
) -> Result:
    """Run one of the paper's experiments and write result.json, pictures and report.html into `out`.

    models: RCDMs, or the folders of bundles. images: paths of pictures or of folders, PIL pictures, or float tensors
    [3, H, W] in [0, 1]. data: a folder, "shapes[:N[:SEED]]" or an ImageSource, where held-out pictures come from;
    None: what the first model was trained on. device: where the models compute (auto, cpu, cuda, cuda:N or mps), None:
    where they are. steps: of the sampler. provider, weights: of the encoders of models that are given as folders, where
    their names or checkpoints have moved since the training; several weights are those of the models in their order.
    representations: files of `rcdm encode` that h of untransformed pictures is taken from, each for the models whose
    encoder it is of; what they lack is computed.
    params: the probe's own parameters.

    Raises RCDMError for an unknown probe (the nearest is named), parameter, model, picture, folder or device, for a
    value that the probe does not accept, and for an `out` among the pictures that are read.
    """
    from rcdm_core import registry
    from rcdm_core.model import share_representations
    from rcdm_core.samplers import check_steps

    known = registry.probes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {near[0]}; " if near else ""
        raise RCDMError(f"There is no probe {name!r}; {hint}there are {', '.join(known)}.")
    probe = known[name]
    complete = probe.complete(params)
    probe.accept(complete, given=bool(images))
    if not models:
        raise RCDMError(f"The probe {name} needs a trained model; give one with --model RUN.")
    checkpoints = weights_of_each(weights, len(models))
    loaded = [_load(model, device, provider, file) for model, file in zip(models, checkpoints, strict=True)]
    files = [representations] if isinstance(representations, (str, Path)) else list(representations)
    share_representations(loaded, files)
    for model in loaded:
        check_steps(sampler, model.diffusion, steps)
    source = _open(data, loaded[0])
    # Probes take further pictures from what their models were trained on.
    read = [None if source is None else source.describe(), *map(trained_from, loaded)]
    refuse_among_pictures(out, images or (), read)
    context = Context(
        probe=probe,
        models=loaded,
        names=of_models([model.name for model in loaded]),
        images=list(images or []),
        data=source,
        out=make_folder(Path(out)),
        seed=seed,
        precision=precision,
        sampler=sampler,
        steps=steps,
        progress=progress or Reporter(),
        params=complete,
        data_text=str(data) if isinstance(data, (str, Path)) else None,
        provider=provider,
        weights=weights,
        representations=[str(path) for path in files],
    )
    try:
        return run_context(context)
    except KeyboardInterrupt:
        if context.kept:
            context.progress.finish()
            context.progress.log(f"What was computed is kept in {context.out}; the same command goes on.")
        raise


def run_context(context: Context) -> Result:
    """Run the context's probe to its end. What was computed on the way is then no longer kept.

    A picture of a set that cannot be read any more when its turn comes, such as a file that was deleted, is left out,
    and the probe begins again with the others: on what is kept.

    Raises RCDMError for pictures given to a probe of sets and where another probe writes into OUT, PictureGone for one
    that was given by name and is gone, and whatever the probe raises.
    """
    probe = context.probe
    if probe.of_sets and context.images:
        raise RCDMError(f"The probe {probe.name} {probe.of_sets}; give a folder with --data instead of --image.")
    with alone(context.out):
        result, context = _to_its_end(context)
        result.complete = True
        result.save()
        forget(context)
    return result


def _to_its_end(context: Context) -> tuple[Result, Context]:
    """The result without the pictures that went away, and the context of it."""
    gone: set[str] = set()
    while True:
        try:
            return context.probe.run(context), context
        except PictureGone as error:
            if error.source is None or error.content_id in gone:
                raise
            gone.add(error.content_id)
            context = _without(context, error)


def _without(context: Context, gone: PictureGone) -> Context:
    """The context of a run in which the picture is not chosen: it is looked at again, and found unreadable."""
    note = f"{gone.name} could be read when the probe began and not when its turn came ({gone.reason}): it is left out."
    context.progress.finish()
    context.progress.log(note)
    return replace(context, gone=context.gone | {gone.content_id}, left_out=(*context.left_out, note))


def _load(model: RCDM | str | Path, device: str | None, provider: str | None, weights: str | None) -> RCDM:
    from rcdm_core.precision import resolve_device

    place = None if device is None else resolve_device(device)
    if isinstance(model, (str, Path)):
        return rcdm_core.load(model, place or "cpu", provider=provider, weights=weights)
    if provider is not None or weights is not None:
        raise RCDMError(
            f"The model {model.name} is loaded already, and provider and weights come too late for it; give them to "
            "rcdm_core.load."
        )
    return model if place is None else model.to(place)


def _open(data: ImageSource | str | Path | None, model: RCDM) -> ImageSource | None:
    if isinstance(data, (str, Path)):
        from rcdm_core.data.shapes import open_data

        return open_data(str(data), fit=fit_of(model))
    return data
