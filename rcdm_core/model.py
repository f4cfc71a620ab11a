"""RCDM: the frozen encoder, the U-Net conditioned on its representation, and the diffusion that connects them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rcdm_core import randomness, samplers
from rcdm_core.diffusion import Diffusion
from rcdm_core.encoder import (
    Encoder,
    Fingerprint,
    compare_fingerprints,
    fingerprint,
    full_precision,
    load_encoder,
    resize_for_encoder,
    source_change,
)
from rcdm_core.errors import RCDMError, SampleNotFinite
from rcdm_core.memory import explain_shortage, keep_freed_memory, require_memory
from rcdm_core.precision import computing_in, resolve_precision
from rcdm_core.registry import find_provider
from rcdm_core.unet import UNet

if TYPE_CHECKING:
    from PIL.Image import Image

    from rcdm_core.bundle import BundleConfig, Contents
    from rcdm_core.data.source import ImageSource
    from rcdm_core.representations.file import Representations

# Part of what `deterministic` promises: another size would give other bits, so it is no option.
_DETERMINISTIC_BATCH = 8
_ENCODER_BATCH = 32
_log = logging.getLogger(__name__)


class RCDM:
    """A trained RCDM (paper, section 3).

    unet       the network in eval mode: unet(x_t, t, h)
    diffusion  its process over all timesteps
    config     BundleConfig: provider, data, architecture, arguments of the training
    path       the bundle's folder; None when it is not on disk
    name       the label of the training, or else the folder's name, or else the provider's
    representations  the file that h of originals is taken from where it has them, see `use_representations`
    """

    def __init__(
        self,
        config: BundleConfig,
        contents: Contents,
        *,
        path: Path | None = None,
        unet: UNet | None = None,
        encoder: Encoder | None = None,
        provider: str | None = None,
        weights: str | None = None,
    ) -> None:
        """`unet`: a network that already holds the weights; None builds it from `contents`."""
        keep_freed_memory()
        self.config = config
        self.path = path
        self.name = config.provider.label or (path.resolve().name if path is not None else config.provider.name)
        self.diffusion = Diffusion(config.diffusion)
        if unet is None:
            unet = UNet(config.unet)
            unet.load_state_dict(contents.unet)
            unet.set_h_statistics(contents.h_mean, contents.h_std)
        self.unet = unet.eval().requires_grad_(False)
        self._fingerprint = Fingerprint(config.provider.weights_digest, contents.fingerprint_h)
        self._train_ids = None if contents.train_ids is None else contents.train_ids.numpy()
        self._encoder = encoder
        self._provider = provider or config.provider.resolved or config.provider.name
        self._weights = weights or config.provider.weights
        self.representations: Representations | None = None
        self._left: Representations | None = None  # by the training, in its cache; None as well where it is not there
        self._looked = False  # whether it was looked for

    # what it is

    @property
    def image_size(self) -> int:
        """S: height and width of the samples."""
        return self.config.unet.image_size

    @property
    def h_dim(self) -> int:
        """Dimension of the representation; 0 for an unconditional model."""
        return self.config.provider.dim

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.unet.parameters()).device

    def to(self, device: str | torch.device) -> RCDM:
        """Move the network and the encoder; returns self."""
        self.unet.to(device)
        if self._encoder is not None:
            self._encoder.to(device)
        return self

    def trained_on(self, content_id: str) -> bool | None:
        """Whether the image with this content id was trained on; None when the bundle does not know."""
        from rcdm_core.bundle import id_prefix

        if self._train_ids is None:
            return None
        place = int(np.searchsorted(self._train_ids, id_prefix(content_id)))
        return place < len(self._train_ids) and int(self._train_ids[place]) == id_prefix(content_id)

    @property
    def train_count(self) -> int | None:
        """How many different images it was trained on; None when the bundle does not know."""
        return None if self._train_ids is None else len(np.unique(self._train_ids))

    # images -> h

    @property
    def encoder(self) -> Encoder:
        """The encoder that this RCDM was trained for, loaded and checked when it is first used."""
        return self._encoder or self.load_encoder()

    @property
    def fingerprint(self) -> Fingerprint:
        """The encoder's at training time."""
        return self._fingerprint

    def load_encoder(self) -> Encoder:
        """Load the encoder and compare its fingerprint with the one of the training.

        Raises RCDMError when the provider is not installed, its weights cannot be had, or it is another encoder now.
        """
        record = self.config.provider
        edited = ""
        try:
            provider = find_provider(self._provider)
            edited = source_change(provider, record.source_digest)
            encoder = load_encoder(provider, weights=self._weights, device=self.device, options=record.options)
        except RCDMError as error:
            missing = record.missing_plugin()
            raise RCDMError(f"The encoder of {self.name} cannot be loaded: {edited}{error}{missing}") from error
        difference = compare_fingerprints(self._fingerprint, fingerprint(encoder)) or record.reads_otherwise(encoder)
        if difference is not None:
            remedy = "bring that file back" if edited else "give the checkpoint of the training with --weights"
            raise RCDMError(
                f"{self.name} was trained for another encoder than {self._provider} is now: {edited}{difference}; "
                f"{remedy}, or train anew."
            )
        if edited:
            _log.info("%s: the encoder's source %s has changed; its h is the same.", self.name, provider.source)
        self._encoder = encoder
        return encoder

    def use_representations(self, file: Representations | str | Path) -> None:
        """Take h of originals from a file that `rcdm encode` wrote; what is not in it is computed as before.

        Raises RCDMError for a file that is none, of another encoder, or of pictures that were fitted otherwise.
        """
        from rcdm_core.representations.file import Representations

        found = file if isinstance(file, Representations) else Representations(file)
        fit = self.config.data.fit if self.config.data is not None else "crop"
        # Bundles that do not say how pictures are resized have encoders that do.
        how = self.config.provider.interpolation or (self._encoder.interpolation if self._encoder else None)
        found.check(self.fingerprint, fit=fit, interpolation=how, whose=self.name)
        self.representations = found

    def h_by_id(self, ids: Sequence[str | None], compute: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """h of originals that are read as in training, by content ids (None: of one that is no file): float32 [n, dim].

        From `representations`, without the encoder; else from what the training left in its cache, once the encoder is
        loaded and found to be the training's; and of the others `compute(their places)`.
        """

        def without_file(places: list[int]) -> np.ndarray:
            _ = self.encoder
            rest = [ids[place] for place in places]
            left = self.left_by_training
            if left is None or not self._whole(left, [content_id for content_id in rest if content_id is not None]):
                return compute(places)
            return left.fill(rest, lambda missing: compute([places[place] for place in missing]))

        if self.representations is None:
            return without_file(list(range(len(ids))))
        return self.representations.fill(ids, without_file)

    @property
    def left_by_training(self) -> Representations | None:
        """The file in which the training left h of its pictures in the cache; None where it is not there any more."""
        from rcdm_core.representations.cached import of_training

        if not self._looked:
            self._left, self._looked = of_training(self.config, self.fingerprint), True
        return self._left

    def _whole(self, left: Representations, ids: Sequence[str]) -> bool:
        """Whether the rows of these pictures are what was written; where they are not, the file is not asked again."""
        rows = left.find(ids)
        try:
            left.verify(rows[rows >= 0])
        except RCDMError as error:
            _log.info("%s The h of its pictures is computed.", error)
            self._left = None
            return False
        return True

    # Not inference_mode: an encoder that is first loaded in here could never be differentiated through afterwards.
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Representations of images that exist at one size only, such as samples.

        images: [B, 3, H, W] in [0, 1]; brought to the encoder's size with antialiased bicubic if they are not of it.
        Returns h [B, dim] float32 on the CPU. Raises ValueError for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have the shape [B, 3, H, W], not {list(images.shape)}")
        encoder = self.encoder
        parts = []
        for part in images.split(_ENCODER_BATCH):
            fitted = resize_for_encoder(part.to(self.device, torch.float32), encoder.image_size)
            with full_precision(self.device.type):  # as in the training's file and in those of rcdm encode
                parts.append(encoder(fitted).float().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.h_dim)

    def encode_files(
        self, images: Sequence[Path | str | Image] | ImageSource, indices: Sequence[int] | None = None
    ) -> Tensor:
        """Representations of originals, read at the encoder's size with the fit (crop or pad) of the training.

        images: files or PIL images, or an ImageSource with `indices` into it (None: all). Those of an ImageSource are
        taken from `representations` where it has them.
        Returns h [B, dim] float32 on the CPU. Raises UnreadableImage for one that cannot be read.
        """
        from rcdm_core.data.source import ImageSource

        chosen = range(len(images)) if indices is None else indices
        if self.representations is None or not isinstance(images, ImageSource):
            return self._encode_read(images, chosen)
        ids = [images.ids[index] for index in chosen]
        compute = lambda places: self._encode_read(images, [chosen[place] for place in places]).numpy()  # noqa: E731
        return torch.from_numpy(self.representations.fill(ids, compute))

    def _encode_read(self, images: Sequence[Any] | ImageSource, chosen: Sequence[int]) -> Tensor:
        read = self._reader(images)
        parts = []
        with ThreadPoolExecutor(2, "read") as pool:
            for start in range(0, len(chosen), _ENCODER_BATCH):
                pixels = np.stack(list(pool.map(read, chosen[start : start + _ENCODER_BATCH])))
                parts.append(self.encode(torch.from_numpy(pixels).float() / 255))
        return torch.cat(parts) if parts else torch.zeros(0, self.h_dim)

    def _reader(self, images: Sequence[Any] | ImageSource) -> Callable[[int], np.ndarray]:
        from rcdm_core.data.images import read_array
        from rcdm_core.data.source import ImageSource

        size, how = self.encoder.image_size, self.encoder.interpolation
        if isinstance(images, ImageSource):
            source = images
            return lambda index: source.get(index, size, how)
        files, fit = images, self.config.data.fit if self.config.data is not None else "crop"
        return lambda index: read_array(files[index], size, fit, how)

    # h -> images

    @torch.no_grad()
    def sample(
        self,
        h: Tensor | None,
        n: int = 1,
        *,
        seed: int = 0,
        streams: Sequence[str | int] | None = None,
        sampler: str = samplers.DEFAULT_SAMPLER,
        steps: int = samplers.DEFAULT_SAMPLING_STEPS,
        precision: str = "auto",
        batch_size: int = 64,
        deterministic: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Draw n images from each representation (paper, section 3.1).

        h              [B, dim] as the encoder gives it; None or [B, 0] for an unconditional model (None: B = 1)
        seed, streams  the noise of sample k of row b comes from (seed, streams[b], k) alone; streams None: all rows
                       share one stream, so that rows can be compared
        sampler, steps dpm++, ddim or ddpm, and its number of evaluations of the network
        batch_size     samples that are drawn at once; changes the memory, not the noise
        deterministic  fixed small batches, so that other requests beside a sample cannot change its last bits either
                       (on one machine, with one number of threads)
        progress       called with the number of samples that have just been finished

        Returns [B, n, 3, S, S] in [0, 1], float32, on the CPU. Raises RCDMError for a sampler or number of steps that
        does not exist, SampleNotFinite (which is one) for an infinity or NaN, ValueError for another shape of h or
        number of streams.
        """
        h = torch.zeros(1, 0) if h is None else h
        if h.ndim != 2 or h.shape[1] != self.h_dim:
            raise ValueError(f"h has shape {list(h.shape)}, but {self.name} takes [B, {self.h_dim}]")
        if streams is not None and len(streams) != len(h):
            raise ValueError(f"{len(streams)} streams for {len(h)} rows of h")
        samplers.check_steps(sampler, self.diffusion, steps)
        require_memory(
            len(h) * n * 3 * self.image_size**2 * 4, f"{n} samples of each of {len(h)} h", "ask for fewer at a time"
        )
        work = [(row, k) for row in range(len(h)) for k in range(n)]
        size = _DETERMINISTIC_BATCH if deterministic else min(batch_size, max(len(work), 1))
        dtype = resolve_precision(precision, self.device)
        out = torch.empty(len(h), n, 3, self.image_size, self.image_size)
        for start in range(0, len(work), size):
            part = work[start : start + size]
            noise = [
                randomness.generator(seed, "shared" if streams is None else str(streams[row]), k) for row, k in part
            ]
            rows = [row for row, _ in part]
            if deterministic:  # pad with repetitions: the batch keeps its shape, and a row sees no other row
                padding = size - len(part)
                rows += rows[-1:] * padding
                noise += [randomness.generator(seed, "padding", k) for k in range(padding)]
            with explain_shortage(f"Drawing {len(rows)} samples at once", "use --device cpu, or free some of it"):
                samples = self._draw(h[rows], noise, sampler, steps, dtype)
            for (row, k), sample in zip(part, samples, strict=False):
                out[row, k] = sample
            if progress is not None:
                progress(len(part))
        return out

    def _draw(
        self, h: Tensor, noise: Sequence[np.random.Generator], sampler: str, steps: int, dtype: torch.dtype
    ) -> Tensor:
        """One batch: h [B, dim] and a generator for each row -> [B, 3, S, S] in [0, 1]."""
        shape = (3, self.image_size, self.image_size)
        h = h.to(self.device, torch.float32)

        def draw(_step: int = 0) -> Tensor:
            return torch.stack([randomness.normal(generator, shape) for generator in noise]).to(self.device)

        def network(x: Tensor, t: Tensor) -> Tensor:
            with computing_in(dtype, self.device):
                return self.unet(x, t, h if self.h_dim else None)

        x0 = samplers.sample(sampler, network, self.diffusion, draw(), steps, step_noise=draw)
        if not math.isfinite(float(x0.sum())):
            raise SampleNotFinite(f"{self.name} gave a sample that is not finite; try --precision float32.")
        return x0.add(1).div(2).clamp(0, 1).float().cpu()


def share_representations(models: Sequence[RCDM], files: Sequence[str | Path]) -> None:
    """Give each file to the models whose encoder it is of. Raises RCDMError for one that is of none of them."""
    from rcdm_core.representations.file import Representations

    for path in files:
        file, refusals = Representations(path), []
        for model in models:
            try:
                model.use_representations(file)
            except RCDMError as error:
                refusals.append(error)
        if len(refusals) == len(models):
            raise refusals[0]
