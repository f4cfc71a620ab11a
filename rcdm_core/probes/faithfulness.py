"""Table 1b: are samples so close to the h that they were made from that it is found again among thousands?

Every sample is encoded again. The rank of its conditioning picture's h in a gallery of held-out pictures, by Euclidean
distance to the sample's h, is 1 where nothing else is nearer. Two galleries: the originals, as in the paper, and the
same pictures brought to the generator's size first, so that blur by itself does not count against the samples. Pictures
that are given are looked for among the held-out ones too. The ceiling puts the real pictures, at the generator's size,
in the samples' place. Samples of any other system (figure 23) can be given as a folder, and are ranked in the h of
every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_mean
from rcdm_core.metrics.paired import Difference, compare, together
from rcdm_core.metrics.ranks import chance, histogram, ranks, summarise
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import blocks, draw
from rcdm_core.probes.encoding import h_at_image_size, h_of
from rcdm_core.probes.opening import check_conditional, data_of, few, labels_of
from rcdm_core.probes.other_samples import OtherSamples, read_other_samples
from rcdm_core.probes.pictures import Pictures, choose, fit_of, held_out, read_arrays
from rcdm_core.probes.reference import batches
from rcdm_core.probes.wording import doubt, many, percent, said
from rcdm_core.provider import Option

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

GRID_SAMPLES = 8
GALLERIES = {"originals": "the originals", "at image size": "the pictures at the generator's size"}


def check(params: Mapping[str, Any]) -> None:
    """Raise RCDMError for a gallery in which nothing can be mistaken for another."""
    if params["gallery"] == 1:
        raise RCDMError("gallery is 1, but a gallery takes at least 2 pictures, and 0 takes all; check --gallery.")


def run(context: Context) -> Result:
    """Ranks, reciprocal ranks and first places of every model, with ceiling and chance, and grids of samples.

    Raises RCDMError when there are fewer than two held-out pictures, or the manifest of other samples is not as it
    should be.
    """
    from rcdm_core.report.faithfulness import draw_rows, write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    gallery, count = _pictures(context, data)
    pictures = Pictures(gallery[:count], gallery.notes)
    counting = pictures.counting(context.models)
    counted = np.flatnonzero(counting)
    # What a model was trained on is nobody's rival, so that it is in no number of the others.
    rivals = np.append(counting, np.ones(len(gallery) - count, dtype=bool))
    size = int(rivals.sum())
    other = None
    if params["other_samples"]:
        if data is None:
            raise RCDMError("The pictures that the other samples were made from are not there; give them with --data.")
        other = read_other_samples(params["other_samples"], gallery, data, rivals)
    result = context.begin(
        pictures, data, gallery=gallery[count:], gallery_size=size, conditioning_pictures=len(counted)
    )
    result.notes += few(len(counted))
    if other is not None and other.left_out:
        result.notes.append(
            f"{many(other.left_out, 'sample')} of {other.name}: made from pictures that are not in the gallery, or "
            "that a model was trained on; left out."
        )
    labels = labels_of(data)
    classes = [labels.get(picture.id) for picture in gallery[:count]]

    rows: list[dict[str, np.ndarray]] = []
    image_ranks: dict[str, dict[str, np.ndarray]] = {}
    squares: dict[str, np.ndarray] = {}
    others: dict[str, dict[str, Any]] = {}  # of the other system, in the h of each model, by picture
    for name, model in zip(context.names, context.models, strict=True):
        h = _gallery(context, model, gallery)
        found, first = _sample(context, model, gallery, h["originals"][:count])
        result.aggregates[name], image_ranks[name] = _aggregate(h, found, classes, rivals, context.seed)
        squares[name] = _squares(found, h["originals"][:count, None])
        by_picture = squares[name].mean(axis=1)
        result.aggregates[name]["square"] = bootstrap_mean(by_picture[counted], seed=context.seed).as_json()
        if other is not None:
            own_classes = [labels.get(gallery[int(place)].id) for place in np.unique(other.targets)]
            again = other.encode(model, context)
            others[name] = _add_other(result.aggregates[name], other, again, h, own_classes, rivals, context.seed)
        rows.append(first)
        result.save()  # what is done stays, whatever happens to the next model
    for i in range(count):
        by_model = {
            name: {key: ranks_[i] for key, ranks_ in of_model.items()} for name, of_model in image_ranks.items()
        }
        result.images.append(
            {
                "name": gallery[i].name,
                "content_id": gallery[i].id,
                "class": classes[i],
                "ranks": by_model,
                "squares": {name: of_model[i] for name, of_model in squares.items()},
            }
        )
    if other is not None:
        result.aggregates["other_images"] = _other_images(other, others, gallery, labels)
    result.answer += [answer(name, result.aggregates[name], size) for name in context.names]
    if other is not None:
        result.answer += [answer_other(name, result.aggregates[name], size) for name in context.names]
    reciprocal = {name: (1 / of_model["originals"][counted]).mean(axis=1) for name, of_model in image_ranks.items()}
    against = _against(other, others, reciprocal, counted, context.seed) if other is not None else []
    compared = together(compare(reciprocal, seed=context.seed), against)
    result.aggregates["differences"] = [difference.as_json() for difference in compared]
    shown = min(params["rows"], count)
    if shown:
        draw_rows(result.add_file("faithfulness.png"), context.names, rows, result.images[:shown])
    side, fit = context.models[0].image_size, fit_of(context.models[0])
    theirs = [] if other is None else [other.shown(i, side, fit, GRID_SAMPLES) for i in range(shown)]
    write_report(result, context, rows, result.images[:shown], compared, theirs)
    return result


def _pictures(context: Context, data: ImageSource | None) -> tuple[Pictures, int]:
    """The gallery, and how many of its pictures, which come first, samples are made of: those given, or of the data.

    Raises RCDMError for fewer than two pictures.
    """
    most = context.params["gallery"] or (0 if data is None else len(data))
    if not context.images:
        if data is None:
            raise RCDMError("The pictures of the training are not there any more; give a folder with --data.")
        gallery = held_out(data, context.models, count=most)
        count, rivals = min(context.params["count"], len(gallery)), len(gallery)
    else:
        gallery = choose(context.images, None, context.models, count=0)
        count, rivals = len(gallery), int(gallery.counting(context.models).sum())
        if data is not None:
            rest = held_out(data, context.models, count=max(most - rivals, 0), skip=[one.id for one in gallery])
            gallery, rivals = Pictures([*gallery, *rest], [*gallery.notes, *rest.notes]), rivals + len(rest)
    if rivals < 2:
        raise RCDMError("There is only one picture, too few to rank among; give held-out ones with --data.")
    return gallery, count


def _gallery(context: Context, model: RCDM, gallery: Pictures) -> dict[str, np.ndarray]:
    """h of the gallery as the encoder reads the originals, and by way of the generator's size: each float32 [N, dim].

    Both are filled as they come: of 50,000 x 2048 each is 410 MB, and joining parts would take both twice.
    """
    found = {name: np.empty((len(gallery), model.h_dim), np.float32) for name in GALLERIES}
    context.progress.start(len(gallery), f"{model.name}: encoding the gallery", unit="picture")
    for block in batches(context, gallery):
        part = gallery[block]
        found["originals"][block] = h_of(model, part, context)
        found["at image size"][block] = h_at_image_size(model, part, context)
    context.progress.finish()
    return found


def _sample(
    context: Context, model: RCDM, gallery: Pictures, h: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """h of the samples of each h [count, dim]: [count, samples, dim]; and the first rows' pictures and samples."""
    n, rows = context.params["samples"], min(context.params["rows"], len(h))
    streams = [picture.id for picture in gallery[: len(h)]]
    context.progress.start(len(h) * n + rows * GRID_SAMPLES, f"{model.name}: sampling", unit="sample")
    again = [draw(context, model, h[block], n, streams[block]).h for block in blocks(len(h), n)]
    first: dict[str, np.ndarray] = {}
    if rows:
        first["samples"] = draw(context, model, h[:rows], GRID_SAMPLES, streams[:rows], encoded=0).samples
        first["pictures"] = read_arrays(gallery[:rows], model.image_size, fit_of(model))
    context.progress.finish()
    return np.concatenate(again), first


def _aggregate(
    h: dict[str, np.ndarray], found: np.ndarray, classes: list[str | None], rivals: np.ndarray, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Table 1b for one model, over the pictures that count: per gallery the samples' figures, by class too, their
    histogram and the ceiling's; chance; and the ranks [count, n] of all pictures.

    rivals: which pictures of the gallery, bool [N], a rank counts; those of the samples are counted as pictures too.
    """
    count, n, _ = found.shape
    counted, size = np.flatnonzero(rivals[:count]), int(rivals.sum())
    entry: dict[str, Any] = {"chance": chance(size), "galleries": {}}
    image_ranks = {}
    for name, gallery in h.items():
        of_samples = _among(found.reshape(count * n, -1), gallery, np.arange(count).repeat(n), rivals).reshape(count, n)
        ceiling = _among(h["at image size"][counted], gallery, counted, rivals)[:, None]
        own = of_samples[counted]
        entry["galleries"][name] = {
            "samples": summarise(own, seed=seed).as_json(),
            "ceiling": summarise(ceiling, seed=seed).as_json(),
            "histogram": [one.as_json() for one in histogram(own, size)],
            "classes": _by_class(own, [classes[i] for i in counted], seed),
        }
        image_ranks[name] = of_samples
    return entry, image_ranks


def _among(found: np.ndarray, gallery: np.ndarray, targets: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """The ranks [Q] of the pictures at `targets` [Q] of the gallery [N, dim] among themselves and the rivals, bool [N],
    seen from `found` [Q, dim]."""
    if rivals.all():
        return ranks(found, gallery, targets)
    place = np.cumsum(rivals) - 1  # in the gallery of the rivals
    out = np.empty(len(found))
    inside = rivals[targets]
    out[inside] = ranks(found[inside], gallery[rivals], place[targets[inside]])
    for target in np.unique(targets[~inside]):
        own = targets == target
        among = np.append(np.flatnonzero(rivals), target)
        out[own] = ranks(found[own], gallery[among], np.full(int(own.sum()), len(among) - 1))
    return out


def _by_class(ranks_: np.ndarray, classes: list[str | None], seed: int) -> dict[str, Any]:
    """The figures of each class's pictures alone, from ranks [pictures, samples]."""
    names = sorted({name for name in classes if name is not None})
    return {name: summarise(ranks_[[one == name for one in classes]], seed=seed).as_json() for name in names}


def _squares(found: np.ndarray, h: np.ndarray) -> np.ndarray:
    """‖h(sample) − h‖² of samples [..., dim] and of what they were made from: figure 23, in h's own units."""
    return np.asarray(((found.astype(np.float64) - h) ** 2).sum(axis=-1))


def _known(values: np.ndarray) -> np.ndarray:
    """Without the NaN that stand where a picture has fewer samples than another."""
    return np.asarray(values[np.isfinite(values)])


def _add_other(
    entry: dict[str, Any],
    other: OtherSamples,
    found: np.ndarray,
    h: dict[str, np.ndarray],
    classes: list[str | None],
    rivals: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Into a model's entry, what another system's samples, h [Q, dim], reach in the same h.

    classes: of its pictures. rivals: as in `_aggregate`.
    Returns by picture [pictures, samples] the ranks in each gallery, and the squares.
    """
    entry["other"] = {"name": other.name, "samples": len(other.files), "pictures": len(np.unique(other.targets))}
    tables: dict[str, Any] = {"ranks": {}}
    for name, gallery in h.items():
        table = other.by_picture(_among(found, gallery, other.targets, rivals))
        tables["ranks"][name] = table
        entry["galleries"][name] |= {
            "other": summarise(table, seed=seed).as_json(),
            "other_histogram": [one.as_json() for one in histogram(table, int(rivals.sum()))],
            "other_classes": _by_class(table, classes, seed),
        }
    tables["squares"] = other.by_picture(_squares(found, h["originals"][other.targets]))
    entry["other"]["square"] = bootstrap_mean(np.nanmean(tables["squares"], axis=1), seed=seed).as_json()
    return tables


def _other_images(
    other: OtherSamples, others: dict[str, dict[str, Any]], gallery: Pictures, labels: dict[str, str]
) -> list[dict[str, Any]]:
    """A record of each picture that another system's samples were made from."""
    return [
        {
            "name": gallery[int(place)].name,
            "content_id": gallery[int(place)].id,
            "class": labels.get(gallery[int(place)].id),
            "files": [str(file) for file, own in zip(other.files, other.targets, strict=True) if own == place],
            "ranks": {
                name: {key: _known(table[row]) for key, table in of["ranks"].items()} for name, of in others.items()
            },
            "squares": {name: _known(of["squares"][row]) for name, of in others.items()},
        }
        for row, place in enumerate(np.unique(other.targets))
    ]


def _against(
    other: OtherSamples,
    others: dict[str, dict[str, Any]],
    reciprocal: dict[str, np.ndarray],
    counted: np.ndarray,
    seed: int,
) -> list[Difference]:
    """Each model's samples against the other system's, in reciprocal rank, over the pictures that both were made from.

    counted: the places of the model's pictures. A picture without a sample of either is left out.
    """
    places = np.unique(other.targets)
    _, ours, own = np.intersect1d(counted, places, return_indices=True)
    found = []
    for name, of_model in reciprocal.items():
        theirs = np.full(len(counted), np.nan)
        theirs[ours] = np.nanmean(1 / others[name]["ranks"]["originals"][own], axis=1)
        found += compare({name: of_model, f"{other.name}, in h of {name}": theirs}, seed=seed)
    return found


def answer_other(name: str, entry: dict[str, Any], n: int) -> str:
    """Another system's samples in a sentence."""
    other, drawn = entry["other"], entry["galleries"]["originals"]["other"]
    by_chance = entry["chance"]
    rank, mrr, first = (drawn[key] for key in ("mean_rank", "mrr", "top1"))
    return (
        f"{other['name']}, in the h of {name}: seen from its samples, their own picture is at rank {said(rank, 1)} of "
        f"{n} on average{doubt(rank, by_chance['mean_rank'])} (by chance {by_chance['mean_rank']:.1f}); the mean "
        f"reciprocal rank is {said(mrr, 3)}{doubt(mrr, by_chance['mrr'])} (chance {by_chance['mrr']:.3f}); it comes "
        f"first for {percent(first, 1)}{doubt(first, by_chance['top1'])} (chance {by_chance['top1']:.1%}; "
        f"{many(other['samples'], 'sample')} of {many(other['pictures'], 'picture')})."
    )


def answer(name: str, entry: dict[str, Any], n: int) -> str:
    """One model's table in a sentence."""
    drawn, real = (entry["galleries"]["originals"][key] for key in ("samples", "ceiling"))
    by_chance = entry["chance"]
    rank, mrr, first = (drawn[key] for key in ("mean_rank", "mrr", "top1"))
    return (
        f"{name}: seen from a sample, its own picture is at rank {said(rank, 1)} of {n} on average"
        f"{doubt(rank, by_chance['mean_rank'])} (from real pictures of the sample's size {said(real['mean_rank'], 1)}, "
        f"by chance {by_chance['mean_rank']:.1f}); the mean reciprocal rank is {said(mrr, 3)}"
        f"{doubt(mrr, by_chance['mrr'])} (real {said(real['mrr'], 3)}, chance {by_chance['mrr']:.3f}); it comes first "
        f"for {percent(first, 1)}{doubt(first, by_chance['top1'])} (real {percent(real['top1'], 1)}, chance "
        f"{by_chance['top1']:.1%})."
    )


PROBE = Probe(
    name="faithfulness",
    summary="How far up a picture ranks in a gallery, seen from samples of its representation",
    figure="table 1b and figures 17 and 23",
    parameters={
        "count": Option(int, 512, "held-out pictures to draw samples of"),
        "samples": Option(int, 1, "samples of each that are ranked"),
        "gallery": Option(int, 0, "held-out pictures to rank among; 0: all"),
        "rows": Option(int, 8, "pictures shown with 8 samples each"),
        "other_samples": Option(
            str, "", "folder of another system's samples with manifest.csv or .json: file, image that it was made from"
        ),
    },
    run=run,
    least={"samples": 1, "count": 1, "gallery": 0, "rows": 0},
    check=check,
    unless_given=("count",),
)
