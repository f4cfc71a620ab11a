"""Figure 16: are samples new, or pictures of the training?

The nearest training pictures of every sample, in h and in pixels. A sample is near where its nearest training picture
is nearer than that of 95% of the held-out pictures, and a copy where it is also near as against its next neighbours: a
blurred sample is near to everything, a copied one to one picture. A generator whose samples are as new as held-out
pictures has about 5% of the first, and no more of the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.bootstrap import bootstrap_median, share
from rcdm_core.metrics.neighbours import Nearest
from rcdm_core.metrics.paired import compare, together
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.drawing import Drawn, blocks, draw
from rcdm_core.probes.encoding import BATCH, h_of
from rcdm_core.probes.opening import check_conditional, data_of, pictures_of, pool_of
from rcdm_core.probes.pictures import Picture, Pictures, fit_of, read_arrays
from rcdm_core.probes.reference import gallery, training_pictures
from rcdm_core.probes.wording import percent
from rcdm_core.provider import Option
from rcdm_core.report.grid import GridRow, draw_grid

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM

SPACES = {"h": "representation", "pixels": "pixels"}
USUAL = 0.05  # the share of held-out pictures that are as near, or nearer, by definition
NEIGHBOURS = 50  # that the nearest one is compared with (Carlini et al., 2023)
PARTLY = "new to those searched"  # the verdict where not all of the training was
LEAST_POOL = 20  # held-out pictures from which a share of 5% can be read


@dataclass(frozen=True)
class Found:
    """Of Q queries, in one space: squared distances of the nearest training pictures, and their places, both [Q, k]."""

    squares: np.ndarray
    places: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """To the nearest: [Q]."""
        return np.sqrt(self.squares[:, 0])

    @property
    def ratio(self) -> np.ndarray:
        """The nearest distance over the mean of the next ones: [Q]."""
        following = np.sqrt(self.squares[:, 1:])
        return self.distance / np.maximum(following.mean(axis=1), 1e-30)


def run(context: Context) -> Result:
    """The nearest training pictures of samples, and how many samples are nearer than held-out pictures are.

    Raises RCDMError for parameters out of range, an unconditional model, a training set that is not at hand, or one of
    fewer than three pictures.
    """
    from rcdm_core.report.neighbours import write_report

    params = context.params
    check_conditional(context)
    data = data_of(context)
    pictures = pictures_of(context, data, params["count"])
    galleries = [_training(context, m, data) for m in range(len(context.models))]
    result = context.begin(pictures, data, training=dict(zip(context.names, map(len, galleries), strict=True)))
    pool = pool_of(context, data, pictures, params["pool"])
    if len(pool) < LEAST_POOL:
        result.notes.append(
            f"{len(pool)} held-out pictures are too few to say how near they usually are ({LEAST_POOL} are needed); "
            "give more with --data."
        )

    near: dict[str, dict[str, np.ndarray]] = {space: {} for space in SPACES}
    records: list[dict[str, Any]] = [{"name": p.name, "content_id": p.id, "models": {}} for p in pictures]
    rows: list[list[GridRow]] = []
    for name, model, training in zip(context.names, context.models, galleries, strict=True):
        drawn = _sample(context, name, model, pictures)
        found, seen = search(context, name, model, drawn, pool, training)
        usual = {space: found[space, "held out"] for space in SPACES}
        flags = {space: judge(found[space, "samples"], usual[space]) for space in SPACES}
        counting = result.counting.repeat(params["samples"])
        counted = {space: {key: flag[counting] for key, flag in of.items()} for space, of in flags.items()}
        images = int(result.counting.sum())
        for space, of_model in near.items():
            of_model[f"{name}, in {SPACES[space]}"] = counted[space]["near"].reshape(images, -1).mean(axis=1)
        owners = np.arange(images).repeat(params["samples"])
        entry = shares(
            _of(found, counting), counted, owners, len(pool), len(seen), model.train_count, seed=context.seed
        )
        result.aggregates[name] = entry
        result.answer.append(answer(name, entry))
        describe(records, name, found, flags, seen, params["samples"], params["shown"])
        fresh = rows_of(context, model, pictures, drawn, found, flags, seen)
        if fresh:
            number = len(rows) + 1
            file = result.add_file(f"neighbours-{number:03d}.png")
            caption = f"{name}: red: a copy; below: the distance, over the next {NEIGHBOURS}' on average"
            draw_grid(file, fresh, titles=TITLES, caption=caption)
        rows.append(fresh)
        result.images = records
        result.save()  # what is done stays, whatever happens to the next model
    compared = together(*(compare(of_space, seed=context.seed) for of_space in near.values()))
    result.aggregates["differences"] = [difference.as_json() for difference in compared]
    write_report(result, context, rows, compared)
    return result


TITLES = ["sample", "nearest in h", "nearest in pixels"]


def _training(context: Context, m: int, data: ImageSource | None) -> Pictures:
    found = training_pictures(context.models[m], data, context.params["training"], gone=context.gone)
    if len(found) < 3:
        raise RCDMError(
            f"{'Fewer than three' if len(found) else 'None'} of the pictures that {context.names[m]} was trained on are"
            " at hand, so that its samples cannot be compared with them; give their folder with --data."
        )
    return found


def _sample(context: Context, name: str, model: RCDM, pictures: Pictures) -> Drawn:
    """The samples of all pictures."""
    n = context.params["samples"]
    context.progress.start(len(pictures) * n, f"{name}: sampling", unit="sample")
    parts = [
        draw(context, model, h_of(model, pictures[block], context), n, [picture.id for picture in pictures[block]])
        for block in blocks(len(pictures), n)
    ]
    context.progress.finish()
    return Drawn(np.concatenate([part.samples for part in parts]), np.concatenate([part.h for part in parts]))


def search(
    context: Context, name: str, model: RCDM, drawn: Drawn, pool: Pictures, training: Pictures
) -> tuple[dict[tuple[str, str], Found], list[Picture]]:
    """The nearest training pictures of samples and of held-out pictures, in both spaces, in one pass over the training.

    Pixels are compared at the generator's size.
    """
    count = drawn.h.shape[0] * drawn.h.shape[1]
    queries: dict[str, list[np.ndarray]] = {
        "h": [drawn.h.reshape(count, -1)],
        "pixels": [drawn.samples.reshape(count, -1)],
    }
    context.progress.start(len(pool) + len(training), f"{name}: searching the training", unit="picture")
    for _, h, shown in gallery(context, model, pool):
        assert shown is not None
        queries["h"].append(h)
        queries["pixels"].append(shown.reshape(len(h), -1))
    k = min(1 + NEIGHBOURS, len(training))
    search = {space: Nearest(np.concatenate(parts), k) for space, parts in queries.items()}
    seen: list[Picture] = []
    for part, block in _joined(gallery(context, model, training)):
        seen += part
        for space, nearest in search.items():
            nearest.add(block[space])
    context.progress.finish()
    found = {}
    for space, nearest in search.items():
        found[space, "samples"] = Found(nearest.squares[:count], nearest.indices[:count])
        found[space, "held out"] = Found(nearest.squares[count:], nearest.indices[count:])
    return found, seen


def _joined(
    parts: Iterator[tuple[list[Picture], np.ndarray, np.ndarray | None]],
) -> Iterator[tuple[list[Picture], dict[str, np.ndarray]]]:
    """Blocks of the gallery, larger: a search is the quicker the fewer there are."""
    waiting: list[tuple[list[Picture], np.ndarray, np.ndarray]] = []

    def joined() -> tuple[list[Picture], dict[str, np.ndarray]]:
        pictures = [picture for part, _, _ in waiting for picture in part]
        h, pixels = (np.concatenate([part[place] for part in waiting]) for place in (1, 2))
        waiting.clear()
        return pictures, {"h": h, "pixels": pixels}

    for part, h, shown in parts:
        assert shown is not None
        waiting.append((part, h, shown.reshape(len(part), -1)))
        if len(waiting) * BATCH >= 1024:
            yield joined()
    if waiting:
        yield joined()


def judge(samples: Found, held_out: Found) -> dict[str, np.ndarray]:
    """Which samples are near, and which are copies: bool [Q] each, by the held-out pictures' 5% quantiles.

    A copy is near both by its distance and by its ratio to the next neighbours. The quantile is the largest value that
    at most 5% of the held-out pictures are below.
    """

    def below(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
        return np.asarray(values < np.sort(usual)[int(np.floor(USUAL * len(usual)))])

    near = below(samples.distance, held_out.distance)
    return {"near": near, "copy": near & below(samples.ratio, held_out.ratio)}


def _of(found: dict[tuple[str, str], Found], chosen: np.ndarray) -> dict[tuple[str, str], Found]:
    """What was found of the chosen samples, bool [Q], and of all held-out pictures."""
    return {
        (space, kind): Found(one.squares[chosen], one.places[chosen]) if kind == "samples" else one
        for (space, kind), one in found.items()
    }


def shares(
    found: dict[tuple[str, str], Found],
    flags: dict[str, dict[str, np.ndarray]],
    owners: np.ndarray,
    pool: int,
    searched: int,
    trained: int | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """For each space the shares of near samples and of copies, and the median distances, with intervals over pictures.

    owners: of which picture each sample is, int [Q], from 0 on. trained: how many pictures the model was trained on;
    None: not known.
    """
    entry: dict[str, Any] = {"pool": pool, "searched": searched, "trained": trained, "usual": USUAL, "spaces": {}}
    whole = trained is not None and searched >= trained
    for space in SPACES:
        copies = share(by_picture(flags[space]["copy"], owners))
        enough = pool >= LEAST_POOL
        entry["spaces"][space] = {
            "near": share(by_picture(flags[space]["near"], owners)).as_json(),
            "copy": copies.as_json(),
            "verdict": verdict(copies.low, copies.high, whole=whole) if enough else "cannot tell",
            "median": bootstrap_median(found[space, "samples"].distance, owners, seed=seed).as_json(),
            "median_held_out": bootstrap_median(found[space, "held out"].distance, seed=seed).as_json(),
        }
    return entry


def by_picture(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The means of values [Q] of samples over the pictures that these are of: owners int [Q], from 0 on -> [pictures].

    Samples of one picture are no independent cases; pictures are.
    """
    return np.asarray(np.bincount(owners, weights=values) / np.bincount(owners))


def verdict(low: float | None, high: float | None, *, whole: bool = True) -> str:
    """From the interval of the share of copies: memorises, new, new to those searched, or cannot tell.

    whole: whether all of the training was searched: only then can samples be called new. Twice the usual share is the
    border, since the quantile is itself an estimate.
    """
    if low is not None and low > 2 * USUAL:
        return "memorises"
    if high is not None and high <= 2 * USUAL:
        return "new" if whole else PARTLY
    return "cannot tell"


def searched(entry: dict[str, Any]) -> str:
    """How much of the training was searched, in words."""
    if entry["trained"] is not None and entry["searched"] >= entry["trained"]:
        return f"all {entry['searched']} pictures of its training were searched"
    of = "an unknown number of" if entry["trained"] is None else f"{entry['trained']}"
    return f"{entry['searched']} of {of} pictures of its training were searched"


def answer(name: str, entry: dict[str, Any]) -> str:
    """One model's verdict in a sentence."""
    says = {
        "memorises": "copies pictures of its training",
        "new": "draws pictures that are as new as held-out ones",
        PARTLY: "draws no more copies than held-out pictures are, as far as its training was searched",
        "cannot tell": "leaves open whether it copies pictures of its training",
    }
    codes = [part["verdict"] for part in entry["spaces"].values()]
    code = next(one for one in ("memorises", "cannot tell", PARTLY, "new") if one in codes)
    parts = [
        f"{percent(part['copy'])} of the samples are copies and {percent(part['near'])} are near in {SPACES[space]}"
        for space, part in entry["spaces"].items()
    ]
    return (
        f"{name} {says[code]}: {'; '.join(parts)} ({USUAL:.0%} of held-out pictures are as near, by definition; "
        f"{searched(entry)})."
    )


def describe(
    records: list[dict[str, Any]],
    name: str,
    found: dict[tuple[str, str], Found],
    flags: dict[str, dict[str, np.ndarray]],
    seen: list[Picture],
    n: int,
    shown: int,
) -> None:
    """Into each picture's record, for each of its samples, its nearest pictures and flags."""
    for i, record in enumerate(records):
        record["models"][name] = {
            space: [
                {
                    "nearest": [seen[j].name for j in found[space, "samples"].places[q][:shown]],
                    "content_ids": [seen[j].id for j in found[space, "samples"].places[q][:shown]],
                    "distances": np.sqrt(found[space, "samples"].squares[q][:shown]),
                    "ratio": found[space, "samples"].ratio[q],
                    **{key: bool(flag[q]) for key, flag in flags[space].items()},
                }
                for q in range(i * n, (i + 1) * n)
            ]
            for space in SPACES
        }


def rows_of(
    context: Context,
    model: RCDM,
    pictures: Pictures,
    drawn: Drawn,
    found: dict[tuple[str, str], Found],
    flags: dict[str, dict[str, np.ndarray]],
    seen: list[Picture],
) -> list[GridRow]:
    """Of the first pictures: the picture, its first sample, and that one's nearest training pictures in h and pixels.

    Each sample belongs to a picture: the one whose h it was drawn from.
    """
    fit, size, n = fit_of(model), model.image_size, drawn.h.shape[1]
    rows = []
    for i in range(min(context.params["rows"], len(pictures))):
        q = i * n
        blocks_, captions = [drawn.samples[i, :1]], [[""]]
        framed: list[list[int]] = [[]]
        for space in SPACES:
            samples = found[space, "samples"]
            places = samples.places[q][: context.params["shown"]]
            blocks_.append(read_arrays([seen[j] for j in places], size, fit))
            scale = max(float(np.sqrt(samples.squares[q, 1:]).mean()), 1e-30)
            captions.append([f"{np.sqrt(square) / scale:.2f}" for square in samples.squares[q][: len(places)]])
            framed.append([0] if flags[space]["copy"][q] else [])
        picture = read_arrays(pictures[i : i + 1], size, fit)[0]
        rows.append(GridRow([f"{i + 1}"], picture, blocks_, [[], [], []], captions, framed))
    return rows


PROBE = Probe(
    name="neighbours",
    summary="Whether samples are new or copies of the training, by their nearest training pictures",
    figure="figure 16",
    parameters={
        "samples": Option(int, 1, "samples of each h"),
        "count": Option(int, 128, "held-out pictures to draw samples of when no --image is given"),
        "pool": Option(int, 512, "held-out pictures that say how near is usual, at least 20"),
        "training": Option(int, 5000, "pictures of the training to search; 0: all"),
        "shown": Option(int, 4, "nearest pictures that are shown and recorded"),
        "rows": Option(int, 12, "pictures shown with their first sample's nearest"),
    },
    run=run,
    least={"samples": 1, "count": 1, "pool": LEAST_POOL, "training": 0, "shown": 1, "rows": 0},
    unless_given=("count",),
)
