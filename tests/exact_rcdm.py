"""The true posterior of an oracle of the embedded shapes: what a perfect RCDM would draw, without a network.

The factors of `Shapes` are independent and uniform (test_shapes.py), and an oracle tells the kept ones and nothing of
the others (test_oracles.py). So p(x | h) has the kept factors as h tells them and the forgotten ones from their prior,
and nothing has to be rejected. Spoiled versions fail in one known way each.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fake_rcdm import FakeRCDM
from rcdm_plugin_shapes import FORGETS, PARTS, kept_parts

from rcdm_core.data.shapes import (
    BACKGROUND_SATURATION,
    BACKGROUND_VALUE,
    OBJECT_SATURATION,
    OBJECT_VALUE,
    POSITIONS,
    SHAPES,
    SIZES,
    Factors,
    hsv_to_rgb,
    render_batch,
)
from rcdm_core.encoder import fingerprint, load_encoder, resize_for_encoder
from rcdm_core.randomness import generator

SIZE = 32
SPOILED = ("constant", "deaf", "narrow", "noisy", "gray", "exaggerating")
ORDER = np.array([3, 6, 0, 5, 2, 7, 1, 4])  # of eighths: what a straight line finds in it is next to nothing

# Which factors of a picture each part of h reports.
FACTORS_OF = {
    "background color": ("background_hue",),
    "object color": ("object_hue",),
    "size": ("size",),
    "position": ("x", "y"),
    "shape": ("shape",),
    "rotation": ("rotation",),
}
RANGES = {"object_hue": (0.0, 1.0), "background_hue": (0.0, 1.0), "size": SIZES, "x": POSITIONS, "y": POSITIONS}
RANGES["rotation"] = (0.0, 1.0)
LIGHT = {
    "object color": (OBJECT_SATURATION, OBJECT_VALUE),
    "background color": (BACKGROUND_SATURATION, BACKGROUND_VALUE),
}


def prior(rng: np.random.Generator) -> Factors:
    """The factors of one picture of `Shapes`."""
    u = rng.random(7)
    place = [POSITIONS[0] + (POSITIONS[1] - POSITIONS[0]) * v for v in u[4:6]]
    return Factors(int(u[0] * len(SHAPES)), u[1], u[2], SIZES[0] + (SIZES[1] - SIZES[0]) * u[3], *place, u[6])


def read_factors(h: np.ndarray, parts: Sequence[str]) -> dict[str, Any]:
    """What h [dim] says about the factors."""
    told: dict[str, Any] = {}
    start = 0
    for part in parts:
        values = h[start : start + PARTS[part]].astype(float)
        start += PARTS[part]
        if part in LIGHT:
            told[f"{part.split()[0]}_hue"] = colorsys.rgb_to_hsv(*np.clip(values, 0, 1))[0]
        elif part == "size":
            told["size"] = values[0]
        elif part == "position":
            told["x"], told["y"] = values
        elif part == "shape":
            told["shape"] = int(values.argmax())
        else:
            told["rotation"] = float(np.arctan2(values[1], values[0]) / (2 * np.pi) % 1)
    return told


class ExactRCDM(FakeRCDM):
    """oracle: its provider's name. spoiled: one of SPOILED, or None for the exact sampler. trained: ids.

    coded: h has the eighths of the range of x and y in another order: it holds them, but no straight line finds them.
    constant: every picture has the same h.
    coarse: kept hue, size, x or y -> into how many equal parts its range is cut: h tells in which of them it is (it
    holds the middle), and nothing more. One part: it is forgotten.
    """

    def __init__(
        self,
        oracle: str = "shapes-all",
        *,
        spoiled: str | None = None,
        name: str | None = None,
        trained: Sequence[str] = (),
        coded: bool = False,
        constant: bool = False,
        coarse: Mapping[str, int] | None = None,
    ) -> None:
        assert spoiled is None or spoiled in SPOILED
        super().__init__(name or f"{oracle}{f' {spoiled}' if spoiled else ''}", trained=trained)
        self.parts, self.spoiled, self.coded, self.constant = kept_parts(oracle), spoiled, coded, constant
        self.coarse = dict(coarse or {})
        self.encoder = load_encoder(oracle)
        self.fingerprint = fingerprint(self.encoder)
        self.h_dim = self.encoder.dim
        self.config.provider = SimpleNamespace(
            name=oracle,
            kind="oracle",
            dim=self.h_dim,
            image_size=32,
            options={},
            weights_digest=self.fingerprint.weights_digest,
            licence=None,
        )

    @property
    def forgets(self) -> tuple[str, ...]:
        return FORGETS[self.config.provider.name]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            h = self.encoder(resize_for_encoder(images.float(), SIZE))
        if self.constant:
            return torch.zeros_like(h)
        return self._shuffled(h, ORDER) if self.coded else self._rounded(h)

    def _part(self, factor: str, value: float) -> tuple[float, float]:
        """Where the part of the range that a value is in begins, and how wide it is."""
        low, high = RANGES[factor]
        width = (high - low) / self.coarse[factor]
        return low + width * min(max(int((value - low) / width), 0), self.coarse[factor] - 1), width

    def _rounded(self, h: torch.Tensor) -> torch.Tensor:
        """h with middles in the place of what is coarse."""
        h = h.clone()
        told = [read_factors(row, self.parts) for row in h.numpy()] if self.coarse else []
        for factor in self.coarse:
            middles = [sum(self._part(factor, one[factor]) * np.array([1, 0.5])) for one in told]
            (part,) = (name for name, factors in FACTORS_OF.items() if factor in factors)
            place = sum(PARTS[name] for name in self.parts[: self.parts.index(part)])
            if part in LIGHT:
                colours = hsv_to_rgb(np.array(middles), *LIGHT[part])
                h[:, place : place + 3] = torch.from_numpy(colours).to(h)
            else:
                h[:, place + FACTORS_OF[part].index(factor)] = torch.tensor(middles).to(h)
        return h

    def _shuffled(self, h: torch.Tensor, order: np.ndarray) -> torch.Tensor:
        place = sum(PARTS[part] for part in self.parts[: self.parts.index("position")])
        h, low, high = h.clone(), POSITIONS[0] - 0.01, POSITIONS[1] + 0.01
        eighths = ((h[:, place : place + 2] - low) / (high - low)).clamp(0, 1 - 1e-5) * 8
        which = eighths.floor()
        h[:, place : place + 2] = low + (high - low) * (torch.from_numpy(order)[which.long()] + eighths - which) / 8
        return h

    def sample(
        self,
        h: torch.Tensor,
        n: int = 1,
        *,
        seed: int = 0,
        streams: Sequence[str] | None = None,
        progress: Any = None,
        **settings: Any,
    ) -> torch.Tensor:
        self.before_sampling()
        plain = self._shuffled(h, np.argsort(ORDER)) if self.coded else h
        names = ["shared"] * len(h) if streams is None else list(streams)
        rngs = [generator(seed, name, k) for name in names for k in range(n)]
        told = [{} if self.constant else read_factors(row, self.parts) for row in plain.numpy() for _ in range(n)]
        factors = [self._factors(rng, one) for rng, one in zip(rngs, told, strict=True)]
        pictures = render_batch(factors, self.image_size) / 255
        if self.spoiled == "noisy":
            pictures += 0.12 * np.stack([rng.standard_normal(pictures.shape[1:]) for rng in rngs])
        if self.spoiled == "gray":
            pictures = np.repeat(pictures.mean(axis=1, keepdims=True), 3, axis=1)
        if progress is not None:
            progress(len(pictures))
        return torch.from_numpy(np.clip(pictures, 0, 1)).float().unflatten(0, (len(h), n))

    def _factors(self, rng: np.random.Generator, told: dict[str, Any]) -> Factors:
        if self.spoiled == "constant":
            return prior(np.random.default_rng(0))
        drawn = vars(prior(rng)).copy()
        if self.spoiled == "narrow":  # half of the spread around the prior's middle; a hue within half of the circle
            middle = {"object_hue": 0.5, "background_hue": 0.5, "size": sum(SIZES) / 2}
            middle |= {"x": sum(POSITIONS) / 2, "y": sum(POSITIONS) / 2}
            drawn |= {key: value + (drawn[key] - value) / 2 for key, value in middle.items()}
        if self.spoiled != "deaf":
            for factor in self.coarse:  # anywhere in the part that h tells
                (low, high), (start, width) = RANGES[factor], self._part(factor, told[factor])
                told = told | {factor: start + (drawn[factor] - low) / (high - low) * width}
            drawn |= told
        if self.spoiled == "exaggerating":  # places at the edge on that side, as a generator that draws the likeliest
            drawn |= {key: POSITIONS[int(drawn[key] > sum(POSITIONS) / 2)] for key in ("x", "y")}
        return Factors(**drawn)
