"""The options that every custom encoder has."""

from __future__ import annotations

from rcdm_core import IMAGENET_MEAN, IMAGENET_STD, Option, RCDMError

IMAGE_SIZE = Option(int, 224, "side of the square pictures that the network takes, in pixels")
PREPROCESSING = {
    "mean": Option("floats", IMAGENET_MEAN, "per channel, subtracted from pictures in [0, 1]"),
    "std": Option("floats", IMAGENET_STD, "per channel, divided by after that"),
    "interpolation": Option(str, "bicubic", "how files are resized: bicubic, bilinear, lanczos or nearest"),
}


def check_image_size(name: str, image_size: int | None) -> None:
    """Raises RCDMError for a size below 1. name: the provider's."""
    if image_size is not None and image_size < 1:
        raise RCDMError(f"option image_size of provider {name} is {image_size}, but expected at least 1")
