"""One model's part of the probe `adversarial`: its pictures attacked, and what is drawn from the attacked h."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from rcdm_core.probes.base import Context
from rcdm_core.probes.classifying import UNKNOWN, Classifier, Divided
from rcdm_core.probes.drawing import draw
from rcdm_core.probes.encoding import BATCH
from rcdm_core.probes.keeping import Arrays, keep
from rcdm_core.probes.pictures import Pictures, fit_of, read_arrays

if TYPE_CHECKING:
    from torch import Tensor

    from rcdm_core.metrics.attack import Attack
    from rcdm_core.model import RCDM

NEXT, LEAST, AWAY = "next", "least", "away"


@dataclass
class Attacked:
    """One model on N pictures and E epsilons.

    clean [N]: classes by the probe, unattacked; target [N]: UNKNOWN where it is any other class; predicted [E, N];
    moved [E, N]: ‖h(attacked) − h‖. flat [N]: pictures without a gradient. Of the first S pictures also shown, uint8
    [E, S, 3, H, W], samples [E, S, n, 3, S, S] and said [E, S, n], their classes.
    """

    clean: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    moved: np.ndarray
    flat: np.ndarray
    h: np.ndarray
    shown: np.ndarray
    samples: np.ndarray
    said: np.ndarray

    def of(self, chosen: np.ndarray) -> Attacked:
        """The chosen pictures alone, bool [N]."""
        looked = chosen[: self.said.shape[1]]
        return Attacked(
            self.clean[chosen],
            self.target[chosen],
            self.predicted[:, chosen],
            self.moved[:, chosen],
            self.flat[chosen],
            self.h[:, looked],
            self.shown[:, looked],
            self.samples[:, looked],
            self.said[:, looked],
        )


def targets(wanted: str, one: Classifier, divided: Divided, clean_h: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The class that each picture with clean_h [N, dim] and class base [N] is attacked towards; with `away`, from."""
    known = one.probes[0].labels
    if wanted in divided.names:
        return np.full(len(base), divided.names.index(wanted))
    if wanted == AWAY:
        return base
    if wanted == NEXT:
        return np.asarray(known[(one.probes[0].columns(base) + 1) % len(known)])
    logits = one.probes[0].logits(clean_h)
    logits[np.arange(len(base)), one.probes[0].columns(base)] = np.inf
    return np.asarray(known[logits.argmin(axis=1)])


def look(
    context: Context,
    name: str,
    model: RCDM,
    one: Classifier,
    divided: Divided,
    attack: Attack,
    pictures: Pictures,
    truth: np.ndarray,
    epsilons: list[float],
    looked: int,
) -> Attacked:
    """One model: all pictures attacked, the first `looked` of them drawn from."""
    import torch

    context.progress.start(len(pictures), f"{name}: attacking", unit="picture")
    parts: list[dict[str, np.ndarray]] = []
    shown: list[np.ndarray] = []
    for places in _batches(len(pictures)):
        block = [pictures[int(i)] for i in places]
        encoder = model.encoder
        images = torch.from_numpy(read_arrays(block, encoder.image_size, fit_of(model), encoder.interpolation))
        clean_h = model.encode(images).numpy().astype(np.float64)
        clean = one.probes[0].predict(clean_h)
        base = np.where(truth[places] == UNKNOWN, clean, truth[places])
        target = targets(context.params["target"], one, divided, clean_h, base)
        found = _attack_block(context, model, one, attack, images, target, epsilons, max(0, looked - int(places[0])))
        parts.append(
            {
                "clean": clean,
                "target": target,
                "predicted": one.probes[0].predict(found["h"]).T,
                "moved": np.linalg.norm(found["h"] - clean_h, axis=-1).T,
                "flat": found["flat"],
                "h": found["h"].swapaxes(0, 1),
            }
        )
        shown.append(found["shown"])
    context.progress.finish()
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    h = joined["h"][:looked].swapaxes(0, 1)  # [E, S, dim]
    if attack.away:
        joined["target"] = np.full(len(pictures), UNKNOWN)
    n = context.params["samples"]
    context.progress.start(h.shape[0] * looked * n, f"{name}: sampling", unit="sample")
    samples, said = [], []
    for row in h:  # one noise for all epsilons of a picture
        drawn = draw(context, model, row, n, [pictures[i].id for i in range(looked)])
        samples.append(drawn.samples)
        said.append(one.probes[0].predict(drawn.h))
    context.progress.finish()
    return Attacked(
        joined["clean"],
        joined["target"],
        joined["predicted"].T,
        joined["moved"].T,
        joined["flat"],
        h,
        np.concatenate(shown, axis=1),
        np.stack(samples),
        np.stack(said),
    )


def _attack_block(
    context: Context,
    model: RCDM,
    one: Classifier,
    attack: Attack,
    images: Tensor,
    target: np.ndarray,
    epsilons: list[float],
    looked: int,
) -> Arrays:
    """B images attacked with E epsilons: h [E, B, dim], flat [B], and the first `looked` shown [E, looked, 3, H, W]."""
    import torch

    def compute() -> Arrays:
        labels = torch.from_numpy(target)
        attacked, flat = attack(model.encoder, one.probes[0], images.to(model.device), labels, epsilons)
        h = model.encode(attacked.flatten(0, 1)).unflatten(0, attacked.shape[:2]).numpy().astype(np.float64)
        context.progress.update(len(images))
        # To be seen, at the encoder's size, for every epsilon: in 8 bits.
        shown = attacked[:, :looked].mul(255).round().byte().cpu().numpy()
        return {"h": h, "flat": flat.cpu().numpy(), "shown": shown}

    probe = one.probes[0]
    depends = {
        **asdict(attack),
        "epsilons": epsilons,
        "images": images.numpy(),
        "target": target,
        "probe": [probe.weight, probe.offset, probe.labels],
        "looked": looked,
    }
    return keep(context, model, "attack", depends, compute, steps=len(images))


def _batches(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, BATCH):
        yield np.arange(start, min(count, start + BATCH))
