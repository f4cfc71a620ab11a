"""The augmentations of figures 21 and 22: single ones, and the chains that DINO and SwAV were trained with.

They are torchvision's, on the square original; the chains crop to the encoder's size themselves. Each draw depends on
the seed, the picture and its number alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rcdm_core.probes.pictures import to_array

CENTRE = 0.75  # of the side
SOLARIZE = 128  # of 256: values from here on are inverted
JITTER = (0.4, 0.4, 0.2, 0.1)  # DINO's: brightness, contrast, saturation, hue
CHAINS = ("dino", "swav")


@dataclass(frozen=True)
class Augmentation:
    """says: what it does. build(size, k): draw k's torchvision transform of a square PIL picture, for an encoder of
    that size, with all its randomness from torch. random: whether it differs from draw to draw.
    """

    name: str
    says: str
    build: Callable[[int, int], Any]
    random: bool = False


def augmented(
    augmentation: Augmentation, picture: Image.Image, size: int, interpolation: str, *, seed: int, stream: str, k: int
) -> np.ndarray:
    """Draw k of an augmented square picture, at the encoder's size: float32 [3, size, size] in [0, 1]."""
    import torch

    from rcdm_core.randomness import torch_seed

    with torch.random.fork_rng(devices=[]):
        # Of the processor alone: torch.manual_seed is slow, because it notes a seed for GPUs that nobody has woken yet.
        torch.default_generator.manual_seed(torch_seed("augmentation", seed, stream, augmentation.name, k))
        changed = augmentation.build(size, k)(picture)
    return to_array(changed, size, interpolation)


def singles() -> list[Augmentation]:
    """Those of the paper's fourth row."""
    from torchvision import transforms

    return [
        Augmentation("flip", "mirrored left to right", lambda size, k: transforms.RandomHorizontalFlip(p=1.0)),
        Augmentation("centre crop", f"the central {CENTRE:.0%} of the side", lambda size, k: _centre_crop),
        Augmentation(
            "jitter",
            "brightness and contrast by up to 40%, saturation by 20%, hue by 36 degrees either way (DINO's)",
            lambda size, k: transforms.ColorJitter(*JITTER),
            random=True,
        ),
        Augmentation("grayscale", "gray", lambda size, k: transforms.Grayscale(3)),
        Augmentation(
            "solarize", "values from 128 of 255 on inverted", lambda size, k: transforms.RandomSolarize(SOLARIZE, p=1.0)
        ),
    ]


def chain(name: str) -> Augmentation:
    """All augmentations of a method together: "dino" (its two global views in turn) or "swav"."""
    says = {
        "dino": "random crop of 40 to 100% of the area, flip, jitter, grayscale, blur, solarize: DINO's global views",
        "swav": "random crop of 14 to 100% of the area, flip, strong color jitter, grayscale, blur: SwAV's large views",
    }
    return Augmentation(f"{name} chain", says[name], {"dino": _dino, "swav": _swav}[name], random=True)


def _centre_crop(picture: Image.Image) -> Image.Image:
    from torchvision.transforms import functional

    return functional.center_crop(picture, [max(1, round(CENTRE * picture.width))] * 2)


def _crop(size: int, least: float) -> Any:
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.RandomResizedCrop(size, scale=(least, 1.0), interpolation=bicubic)


def _blur(size: int, p: float) -> Any:
    from torchvision import transforms

    kernel = min(13, 2 * size - 1)  # three standard deviations at the most; a small picture has no room for more
    return transforms.RandomApply([transforms.GaussianBlur(kernel, sigma=(0.1, 2.0))], p=p)


def _dino(size: int, k: int) -> Any:
    """Caron et al., 2021: the first global view is always blurred, the second rarely blurred and at times solarized."""
    from torchvision import transforms

    end = [_blur(size, 0.1), transforms.RandomSolarize(SOLARIZE, p=0.2)] if k % 2 else [_blur(size, 1.0)]
    return transforms.Compose(
        [
            _crop(size, 0.4),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(*JITTER)], p=0.8),
            transforms.RandomGrayscale(0.2),
            *end,
        ]
    )


def _swav(size: int, k: int) -> Any:
    """Caron et al., 2020, with a colour distortion of strength 1."""
    from torchvision import transforms

    return transforms.Compose(
        [
            _crop(size, 0.14),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            _blur(size, 0.5),
        ]
    )
