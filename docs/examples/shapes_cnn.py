"""A small network at three points of its own training: what it keeps when it has learnt to name the shape.

    python docs/examples/shapes_cnn.py ckpts

then `rcdm train --weights 'ckpts/*.pth'` and `rcdm probe training`, as docs/probes.md has them.
It writes ckpts/step-0000.pth, step-0030.pth and step-0600.pth.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

WIDTH, KEPT = 64, (0, 30, 600)  # channels, which are the numbers of h; steps after which the weights are kept
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the custom provider's own


def _network() -> nn.Sequential:
    """Four convolutions, and the mean over positions: 64-d."""
    channels = (3, 16, 32, WIDTH, WIDTH)
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def features(weights: str) -> nn.Module:
    """What the classifier sees, 64-d."""
    network = _network()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def main(folder: Path) -> None:
    """Train the network to name the shape, and keep its weights on the way."""
    from rcdm_core.data.shapes import SHAPES, Shapes

    torch.manual_seed(0)
    data = Shapes(20_000, seed=11)  # other pictures than the generators are trained on
    labels = torch.tensor(data.labels)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    network = _network()
    classify = nn.Linear(WIDTH, len(SHAPES))
    optimizer = torch.optim.AdamW([*network.parameters(), *classify.parameters()], lr=2e-3)
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(max(KEPT) + 1):
        if step in KEPT:
            torch.save(network.state_dict(), folder / f"step-{step:04}.pth")
        places = torch.randint(len(data), (128,))
        images = torch.from_numpy(data.get_batch(places.tolist(), 32)).float() / 255
        scores = classify(network((images - mean) / std))
        loss = nn.functional.cross_entropy(scores, labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            right = (scores.argmax(1) == labels[places]).float().mean()
            print(f"step {step}: loss {loss.item():.2f}, {right.item():.0%} named rightly")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
