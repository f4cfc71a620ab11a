"""Models with the interface of RCDM whose truth is known: an exact generator of discs, and spoiled ones.

Encoding is by plain pixel statistics and shares nothing with the attributes that probes measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rcdm_core.diffusion import Diffusion, DiffusionConfig

SIZE = 32
KNOWN = {"background": slice(0, 3), "object": slice(3, 6), "size": slice(6, 7), "position": slice(7, 9)}


def discs(rows: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Rows [B, 9] of background RGB, object RGB, radius, x, y -> pictures [B, 3, size, size] in [0, 1]."""
    grid = (np.arange(size) + 0.5) / size
    x, y = rows[:, 7, None, None], rows[:, 8, None, None]
    distance = np.sqrt((grid[None, None, :] - x) ** 2 + (grid[None, :, None] - y) ** 2)
    cover = np.clip((rows[:, 6, None, None] - distance) * size + 0.5, 0, 1)[:, None]
    return rows[:, 0:3, None, None] * (1 - cover) + rows[:, 3:6, None, None] * cover


def random_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Discs that stand out: a dark vivid object on a pale background."""
    rows = np.empty((n, 9))
    for part, light in (("background", (0.65, 1.0)), ("object", (0.05, 0.75))):
        rows[:, KNOWN[part]] = rng.uniform(*light, size=(n, 3))
        rows[np.arange(n), KNOWN[part].start + rng.integers(0, 3, n)] = light[0]
    rows[:, 6] = rng.uniform(0.14, 0.22, n)
    rows[:, 7:9] = rng.uniform(0.35, 0.65, (n, 2))
    return rows


def read_disc(images: np.ndarray) -> np.ndarray:
    """Pictures [B, 3, S, S] -> rows [B, 9]."""
    size = images.shape[-1]
    border = images[:, :, 0, 0]
    excess = np.abs(images - border[:, :, None, None]).max(axis=1)
    peak = np.maximum(excess.max(axis=(1, 2), keepdims=True), 1e-3)
    cover = np.clip(excess / peak * 1.1 - 0.05, 0, 1)
    area = cover.sum(axis=(1, 2))
    grid = (np.arange(size) + 0.5) / size
    x = (cover * grid[None, None, :]).sum(axis=(1, 2)) / area
    y = (cover * grid[None, :, None]).sum(axis=(1, 2)) / area
    solid = (cover > 0.9)[:, None]
    colour = (images * solid).sum(axis=(2, 3)) / np.maximum(solid.sum(axis=(2, 3)), 1)
    return np.concatenate([border, colour, np.sqrt(area / np.pi / size**2)[:, None], x[:, None], y[:, None]], axis=1)


class FakeRCDM:
    """forgets: parts of KNOWN that h does not have. deaf: the generator ignores h. trained: ids it was trained on."""

    def __init__(
        self,
        name: str,
        *,
        forgets: Sequence[str] = (),
        deaf: bool = False,
        trained: Sequence[str] = (),
        fit: str = "crop",
    ) -> None:
        gone = {i for part in forgets for i in range(9)[KNOWN[part]]}
        self.kept = [i for i in range(9) if i not in gone]
        self.name, self.path, self.deaf, self.trained = name, None, deaf, set(trained)
        self.image_size, self.h_dim = SIZE, len(self.kept)
        self.diffusion = Diffusion(DiffusionConfig())
        self.device = torch.device("cpu")
        self.representations = self.left_by_training = None
        self.encoder = SimpleNamespace(interpolation="bicubic", image_size=64)
        self.fingerprint = SimpleNamespace(h=torch.zeros(1, self.h_dim))
        provider = SimpleNamespace(
            name="fake", kind="oracle", dim=self.h_dim, image_size=64, options={}, weights_digest="0" * 64, licence=None
        )
        data = SimpleNamespace(
            description={"path": "shapes:400:3"}, fit=fit, fingerprint="f" * 64, train_count=len(self.trained)
        )
        unet = SimpleNamespace(image_size=SIZE, conditioning="batchnorm")
        self.config = SimpleNamespace(unet=unet, provider=provider, data=data, step=1)
        self.before_sampling: Callable[[], None] = lambda: None

    def to(self, device: torch.device) -> FakeRCDM:
        self.device = device
        return self

    def trained_on(self, content_id: str) -> bool:
        return content_id in self.trained

    @property
    def train_count(self) -> int:
        return len(self.trained)

    def h_by_id(self, ids: Sequence[str | None], compute: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        return compute(list(range(len(ids))))  # no training has left a file

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(read_disc(images.numpy().astype(np.float64))[:, self.kept]).float()

    def sample(
        self, h: torch.Tensor, n: int = 1, *, seed: int, streams: Sequence[str], progress: Any = None, **settings: Any
    ) -> torch.Tensor:
        self.before_sampling()
        pictures = []
        for row, stream in zip(h.numpy(), streams, strict=True):
            for k in range(n):
                rng = np.random.default_rng([seed, int(stream[:8], 16), k])
                drawn = random_rows(rng, 1)
                if not self.deaf:
                    drawn[:, self.kept] = row
                noise = 0.01 * rng.standard_normal((3, SIZE, SIZE))
                pictures.append(np.clip(discs(drawn)[0] + noise, 0, 1))
            if progress is not None:
                progress(n)
        return torch.from_numpy(np.stack(pictures)).float().unflatten(0, (len(h), n))
