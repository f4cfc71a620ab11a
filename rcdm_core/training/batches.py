"""What each step trains on: a pure function of (seed, step, index), so a run that was stopped goes on as if it was not.

Sample number n, counted through the whole training, is drawn alike however many processes share the work.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rcdm_core import randomness
from rcdm_core.representations.reading import map_ahead
from rcdm_core.training.dataset import Dataset
from rcdm_core.training.pixels import PixelReader

_PREFETCH = 3


@dataclass(frozen=True)
class Batch:
    """x0, noise [B, 3, S, S] (x0 in [-1, 1]), S the network's size or half of it; t [B] int64; h [B, dim]. All but t
    float32."""

    x0: Tensor
    noise: Tensor
    t: Tensor
    h: Tensor

    def to(self, device: torch.device) -> Batch:
        """On `device`. The copy is waited for: of ordinary memory a GPU gains nothing otherwise, and Apple's reads what
        may have been freed by then."""
        return Batch(*(getattr(self, name).to(device) for name in ("x0", "noise", "t", "h")))

    def parts(self, count: int) -> Iterator[Batch]:
        """`count` equal parts; strided, so that the timesteps of each part are spread as evenly as the whole's."""
        for part in range(count):
            yield Batch(*(getattr(self, name)[part::count] for name in ("x0", "noise", "t", "h")))


def local_positions(batch_size: int, rank: int, world_size: int) -> range:
    """Positions within a step's batch that process `rank` of `world_size` works on."""
    return range(rank, batch_size, world_size)


class Batches:
    """`batches(step)` is the Batch of that step.

    rows        rows of the dataset that may be used
    batch_size  pictures of a step, in all processes together
    half_size   the first so many steps have twice as many pictures, of half the size (means of 2 x 2 pixels)
    timesteps   number of the diffusion's steps
    purpose     names the random streams: batches for another purpose never touch those of training
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        read_pixels: PixelReader,
        *,
        batch_size: int,
        timesteps: int,
        seed: int,
        flip: bool,
        half_size: int = 0,
        purpose: str = "train",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset, self.rows, self.read_pixels = dataset, rows, read_pixels
        self.batch_size, self.timesteps, self.seed, self.flip, self.purpose = batch_size, timesteps, seed, flip, purpose
        self.half_size, self._share = half_size, (rank, world_size)
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> Batch:
        halved = step < self.half_size
        size = (1 + halved) * self.batch_size
        positions = np.array(local_positions(size, *self._share))
        rows = self._rows_of(self.batch_size * (step + min(step, self.half_size)) + positions)
        flips = self._flips(step, size)[positions]
        pixels, rows = self.read_pixels(rows)
        pixels = np.where(flips[:, None, None, None], pixels[..., ::-1], pixels)
        # numpy, not torch: a parallel region of torch's in this thread would start a second team of OpenMP workers, and
        # with more workers than cores all of them sleep at every barrier, which doubles the time of a training step.
        pictures = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
        if halved:
            B, C, H, W = pictures.shape
            pictures = pictures.reshape(B, C, H // 2, 2, W // 2, 2).mean((3, 5))
        h = self.dataset.h[rows][np.arange(len(rows)), flips.astype(np.int64)]
        noise, timesteps = self._noise(step, positions, pictures.shape[1:]), self._timesteps(step, positions, size)
        return Batch(torch.from_numpy(pictures), noise, timesteps, torch.from_numpy(h))

    def prefetched(self, steps: Iterable[int]) -> Generator[Batch, None, None]:
        """The batches of `steps`, assembled by a thread while the ones before them are trained on."""
        with ThreadPoolExecutor(1, "batches") as pool:
            yield from map_ahead(pool, self, steps, _PREFETCH)

    def _rows_of(self, samples: np.ndarray) -> np.ndarray:
        """Rows of the given sample numbers: every epoch is a permutation of its own."""
        epochs, places = np.divmod(samples, len(self.rows))
        return np.array(
            [self.rows[self._permutation(int(epoch))[place]] for epoch, place in zip(epochs, places, strict=True)]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # A batch may lie on a border between epochs; older ones are not needed again.
            self._permutations = {e: p for e, p in self._permutations.items() if e >= epoch - 2}
            drawn = randomness.generator(self.seed, self.purpose, "order", epoch).permutation(len(self.rows))
            self._permutations[epoch] = drawn
        return self._permutations[epoch]

    def _flips(self, step: int, size: int) -> np.ndarray:
        if not self.flip:
            return np.zeros(size, bool)
        return randomness.generator(self.seed, self.purpose, "flip", step).random(size) < 0.5

    def _timesteps(self, step: int, positions: np.ndarray, size: int) -> Tensor:
        """Uniform on 0 .. T - 1, and spread evenly over each batch.

        One random shift of an even grid: each t alone is uniform, but batches differ less, which calms the gradient
        and the batch-norm statistics. Which picture gets which t is random because the pictures' order is.
        """
        shift = randomness.generator(self.seed, self.purpose, "timestep", step).random()
        grid = (positions + shift) / size
        return torch.from_numpy(np.minimum((grid * self.timesteps).astype(np.int64), self.timesteps - 1))

    def _noise(self, step: int, positions: np.ndarray, shape: Sequence[int]) -> Tensor:
        draws = (randomness.generator(self.seed, self.purpose, "noise", step, int(i)) for i in positions)
        return torch.from_numpy(np.stack([randomness.normal(draw, tuple(shape)).numpy() for draw in draws]))
