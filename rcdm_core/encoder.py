"""The frozen encoder h = f(x), how to load one, and the fingerprint by which it is recognised (paper, section 3)."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.images import DEFAULT_INTERPOLATION, INTERPOLATIONS
from .errors import RCDMError, first_line
from .foreign import contained
from .provider import Provider
from .registry import find_provider

TEST_IMAGES = 4

# How far h may move before it counts as another representation, relative to its spread over the test pictures. Kernels
# of other devices and versions move it by about 1e-5; a std of 0.228 instead of 0.229 moves a ResNet-50's by 1e-3.
# bfloat16 moves it by as much as another normalisation does: no tolerance tells these apart, so that fingerprints are
# taken in full float32 whatever the precision of the work.
TOLERANCE = 2e-4
# What float32 rounds away, relative to h itself: all that can be seen of an h that hardly differs between pictures.
_ROUNDING = 2e-6


class Encoder(nn.Module):
    """A network with its normalisation: images [B, 3, H, W] in [0, 1] -> h [B, dim], float32.

    network        maps normalised images [B, 3, H, W] to [B, dim]; it is frozen, put into eval mode, and stays there
    image_size     the side of the square pictures that it takes, in pixels; nothing is resized in here
    mean, std      per channel (R, G, B), for pictures in [0, 1]
    dim            the size of h; None: measured on one picture when it is first asked for
    interpolation  how files are brought to image_size for it: bicubic, bilinear, lanczos or nearest, antialiased

    h is differentiable with respect to the images unless the network has an attribute `differentiable` that is False,
    as one has that torch does not run; whoever needs gradients asks the encoder's own. A network whose weights are not
    tensors of its own gives their digest as a tensor by `get_extra_state`, for the fingerprint.

    Raises RCDMError for a mean or std that is not three numbers, for another interpolation, and in forward for pictures
    that ask for a gradient which there is not.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        dim: int | None = None,
        interpolation: str = DEFAULT_INTERPOLATION,
    ) -> None:
        super().__init__()
        if interpolation not in INTERPOLATIONS:
            raise RCDMError(f"interpolation {interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise RCDMError(f"mean and std are three numbers each, std above 0, not {tuple(mean)} and {tuple(std)}")
        self.network = network
        self.image_size = image_size
        self.interpolation = interpolation
        self._dim = dim
        # Not persistent: the digest of a fingerprint is that of the weights alone, so that other weights and other
        # preprocessing can be told apart.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def differentiable(self) -> bool:
        """Whether h has a gradient with respect to the images."""
        return bool(getattr(self.network, "differentiable", True))

    @property
    def dim(self) -> int:
        """The size of h."""
        if self._dim is None:
            image = self.mean.new_zeros(1, 3, self.image_size, self.image_size)
            with torch.no_grad():
                self._dim = _of_one(self(image)).shape[1]
        return self._dim

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in [0, 1] -> h [B, dim], float32 whatever the precision of the network."""
        if images.requires_grad and torch.is_grad_enabled() and not self.differentiable:
            raise RCDMError(
                "the gradient of h in the pictures is needed here, and this encoder has none: use one that torch runs, "
                "such as the same network as a function or in TorchScript"
            )
        h = self.network((images - self.mean) / self.std)
        if isinstance(h, Tensor) and h.is_complex():
            raise RCDMError("h is complex, and float32 would drop its imaginary part: give both, or the magnitude")
        # What is no tensor is left as it is, for `load_encoder` to say what came instead of one.
        return h.float() if isinstance(h, Tensor) else cast(Tensor, h)

    def train(self, mode: bool = True) -> Encoder:
        """Stays in eval mode even inside a module that is being trained: h is a fixed function of the picture."""
        return super().train(False)


def _of_one(h: Tensor) -> Tensor:
    """The h of one picture alone, [1, dim]. Raises RCDMError where it has another shape."""
    if not isinstance(h, Tensor) or h.ndim != 2 or h.shape[0] != 1:
        what = f"shape {list(h.shape)}" if isinstance(h, Tensor) else f"a {type(h).__name__}"
        raise RCDMError(
            f"of one picture alone h has {what}, expected [1, dim]: keep the axis of the pictures, which squeeze() "
            "without an axis drops"
        )
    return h


def resize_for_encoder(images: Tensor, size: int) -> Tensor:
    """Bring pictures [B, 3, H, W] in [0, 1] to [B, 3, size, size]: antialiased bicubic, clamped to [0, 1].

    For pictures that exist at one size only, which is what a generator makes; a file is read again at the size needed.
    """
    if images.shape[-2:] == (size, size):
        return images
    # Apple's GPUs have it since torch 2.8, and its gradient not yet.
    place = torch.device("cpu") if images.device.type == "mps" else images.device
    resized = F.interpolate(images.to(place), size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1).to(images.device)


def fingerprint_images(size: int) -> Tensor:
    """The fixed pictures of fingerprints: float32 [4, 3, size, size] in [0, 1].

    An object on a soft background, with texture and noise, so that an encoder of colours, of shapes or of textures
    each has something to say about them. They come from numpy's RandomState, whose streams never change.
    """
    axis = (np.arange(size) + 0.5) / size
    y, x = axis[:, None], axis[None, :]
    images = np.empty((TEST_IMAGES, 3, size, size))
    for index, image in enumerate(images):
        random = np.random.RandomState(index)
        background, object_, tilt = random.uniform(0.15, 0.85, (3, 3))
        cx, cy = random.uniform(0.35, 0.65, 2)
        rx, ry = random.uniform(0.12, 0.28, 2)
        waves, phase = random.uniform(2, 12), random.uniform(0, 2 * math.pi)
        inside = 1 / (1 + np.exp(40 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 - 1).clip(-5, 5)))
        texture = 0.05 * index * np.sin(2 * math.pi * waves * (x + y) + phase)
        noise = 0.01 * index * random.standard_normal((3, size, size))
        for channel in range(3):
            soft = background[channel] + 0.2 * (tilt[channel] - 0.5) * (x + y - 1)
            image[channel] = soft + inside * (object_[channel] + texture - soft)
        image += noise
    return torch.from_numpy(images.clip(0, 1).astype(np.float32))


def load_encoder(
    name_or_provider: str | Provider,
    *,
    weights: str | None = None,
    device: str | torch.device = "cpu",
    options: Mapping[str, Any] | None = None,
    **kw_options: Any,
) -> Encoder:
    """Load a provider's encoder, frozen and in eval mode, and see that it keeps the contract.

    name_or_provider  a name of `rcdm providers`, a resolvable one (custom:FILE.py:function), or a Provider
    weights           a path, a URL, or None for the provider's own
    options           the provider's options, as values or as text; more may be given as keywords

    Raises RCDMError for an unknown provider or option, for weights that do not fit, and for an encoder whose h on the
    fixed test pictures is not finite float32 [B, dim].
    """
    provider = find_provider(name_or_provider) if isinstance(name_or_provider, str) else name_or_provider
    given = {**(options or {}), **kw_options}
    encoder = build_encoder(provider, weights=weights, device=device, options=given)
    h = _checked_h(encoder, provider, declared_dim(provider, given))
    _check_alone(encoder, provider, h)
    if not isinstance(getattr(encoder, "dim", None), int):
        encoder.dim = h.shape[1]  # type: ignore[misc]
    if encoder.dim != h.shape[1]:
        raise RCDMError(f"the encoder of {provider.name} declares dim {encoder.dim}, but its h has {h.shape[1]}")
    return encoder


def build_encoder(
    provider: Provider, *, weights: str | None, device: str | torch.device, options: Mapping[str, Any]
) -> Encoder:
    """Load an encoder and freeze it, without looking at its h. Raises RCDMError where that fails."""
    complete = provider.complete_options(options)
    try:
        with contained():
            module = provider.load(weights=weights, **complete)
    except RCDMError:
        raise
    except Exception as error:
        raise RCDMError(f"provider {provider.name} could not be loaded ({first_line(error)})") from error
    if not isinstance(module, nn.Module):
        raise RCDMError(f"provider {provider.name} loaded a {type(module).__name__}, expected a torch.nn.Module")
    module.requires_grad_(False).eval()
    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise RCDMError(f"device {str(device)!r} cannot be used ({first_line(error)})") from error
    # A module of a plugin's own class need not know its size.
    if not isinstance(getattr(module, "image_size", None), int):
        module.image_size = provider.image_size or 224  # type: ignore[assignment]
    if getattr(module, "interpolation", None) not in INTERPOLATIONS:
        module.interpolation = DEFAULT_INTERPOLATION  # type: ignore[assignment]
    if not isinstance(getattr(module, "differentiable", None), bool):
        module.differentiable = True  # type: ignore[assignment]
    return cast(Encoder, module)


def declared_dim(provider: Provider, options: Mapping[str, Any]) -> int | None:
    """What the provider says of h's size: nothing where an option that changes it is given."""
    resized = any(options.get(name) is not None for name, option in provider.options.items() if option.resizes)
    return None if resized else provider.dim


def _checked_h(encoder: Encoder, provider: Provider, dim: int | None) -> Tensor:
    """h of the test pictures, or an RCDMError that says in what way it is not a representation."""
    what = f"the encoder of {provider.name}"
    try:
        with contained():
            h = _test_h(encoder)
    except RCDMError:
        raise
    except Exception as error:
        size = encoder.image_size
        raise RCDMError(f"{what} fails on pictures of {size} x {size} ({first_line(error)})") from error
    if not isinstance(h, Tensor):
        raise RCDMError(f"{what} returns a {type(h).__name__}, expected a tensor h of shape [B, dim]")
    if h.ndim != 2 or h.shape[0] != TEST_IMAGES:
        raise RCDMError(
            f"{what} returns shape {list(h.shape)} for {TEST_IMAGES} pictures, expected h of shape [{TEST_IMAGES}, dim]"
        )
    if h.dtype != torch.float32:
        raise RCDMError(f"{what} returns {h.dtype}, expected h in torch.float32")
    if dim is not None and h.shape[1] != dim:
        raise RCDMError(f"{what} returns h with dim {h.shape[1]}, but the provider declares {dim}")
    if h.shape[1] == 0 and provider.kind != "none":
        raise RCDMError(f"{what} returns an empty h, which only a provider of kind none may")
    if not bool(torch.isfinite(h).all()):
        raise RCDMError(
            f"{what} returns an h that is not finite on ordinary pictures: its weights or its normalisation are broken"
        )
    return h


def _check_alone(encoder: nn.Module, provider: Provider, h: Tensor) -> None:
    """Raise RCDMError unless the first test picture has the h alone that it has among the others, and has it again."""
    image = fingerprint_images(cast(int, encoder.image_size))[:1].to(device_of(encoder))
    try:
        with contained(), torch.no_grad(), full_precision(image.device.type):
            alone = _of_one(cast(Tensor, encoder(image)))
    except Exception as error:
        why = str(error) if isinstance(error, RCDMError) else f"it fails on one picture alone ({first_line(error)})"
        raise RCDMError(f"the encoder of {provider.name}: {why}") from error
    if alone.shape[1] != h.shape[1]:
        raise RCDMError(
            f"the encoder of {provider.name} gives an h of {alone.shape[1]} numbers for one picture alone and of "
            f"{h.shape[1]} for {len(h)} together; expected one dim"
        )
    if h.numel() and relative_change(h, torch.cat([alone.to(h.device), h[1:]])) > 10 * TOLERANCE:
        raise RCDMError(
            f"the encoder of {provider.name} gives one picture another h alone than among others: it is random, counts "
            "its calls, or mixes the pictures of a batch; h is a function of one picture (see rcdm providers check)"
        )


def _test_h(encoder: nn.Module) -> Tensor:
    """Raw h of the test pictures on the encoder's own device, in full float32."""
    images = fingerprint_images(cast(int, encoder.image_size)).to(device_of(encoder))
    with torch.no_grad(), full_precision(images.device.type):
        return cast(Tensor, encoder(images))


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Inside, float32 means float32: no autocast, no TF32, no reduced matrix products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device_type, enabled=False),
            torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are; without any, the CPU."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


@dataclass(frozen=True)
class Fingerprint:
    """What an encoder is recognised by.

    weights_digest  sha256 of its weights, in hexadecimal
    h               its raw h on the fixed test pictures, float32 [4, dim] on the CPU

    Not a hash of h: rounded values would flip between devices.
    """

    weights_digest: str
    h: Tensor


def fingerprint(encoder: nn.Module) -> Fingerprint:
    """The fingerprint of an encoder as `load_encoder` returns it: one pass over four pictures and over the weights."""
    return Fingerprint(_digest(encoder), _test_h(encoder).float().cpu())


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # a module's extra state can be anything; a tensor of it counts
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def compare_fingerprints(stored: Fingerprint, now: Fingerprint) -> str | None:
    """None when both are the same representation within `TOLERANCE`, else a phrase that says what differs.

    What counts is h: weights stored in another way that give the same h are accepted.
    """
    if stored.h.shape != now.h.shape:
        return f"h has {now.h.shape[-1]} dimensions instead of {stored.h.shape[-1]}"
    distance = relative_change(stored.h, now.h)
    if distance <= TOLERANCE:
        return None
    by = f"h on the test pictures moved by {distance:.2g} of its spread"
    if stored.weights_digest != now.weights_digest:
        return f"it has other weights ({by}; digest {now.weights_digest[:8]} instead of {stored.weights_digest[:8]})"
    return f"it has the same weights but other preprocessing or options ({by})"


def source_change(provider: Provider, digest: str | None) -> str:
    """A phrase that says that the provider's source is not the file of that digest any more, to stand before what
    `compare_fingerprints` says; empty where it is, or where that is not known.
    """
    if digest is None or provider.source is None or provider.source_digest() == digest:
        return ""
    return f"its source {provider.source} has changed since then, and "


def relative_change(stored: Tensor, now: Tensor) -> float:
    """The largest change of h over the pictures (root mean square over dimensions), relative to the spread of h.

    The spread is that over the pictures: offsets between dimensions say nothing about pictures and would hide changes.
    """
    if stored.numel() == 0:
        return 0.0
    before, after = stored.cpu().double(), now.cpu().double()  # which not every device has
    spread = float((before - before.mean(0)).square().mean().sqrt())
    change = float((after - before).square().mean(1).sqrt().max())
    if change <= _ROUNDING * float(before.square().mean().sqrt()):
        return 0.0
    return change / spread if spread > 0 and math.isfinite(change) else math.inf
