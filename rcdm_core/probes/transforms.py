"""The transforms of figures 3, 25 and 26, applied to the original picture before it is resized for anything.

A picture is made square first. Shifts and zooms are then a choice of which square of it is seen, so they resample
nothing; what lies outside is a continuation of the edge pixels, or white where the picture was padded with white.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from rcdm_core.errors import RCDMError

IDENTITY = "identity"
MAX_STRENGTH = 3.0

SHIFT = 0.15  # of the side
ZOOM = 1.25  # factor, and its inverse
ROTATION = 30.0  # degrees, anticlockwise
HUE = (0.25, 0.40)  # of the colour circle, either way
JITTER = 0.10  # of brightness and of saturation, either way
BLUR = 0.025  # standard deviation of the Gaussian, of the side


@dataclass(frozen=True)
class Original:
    """A square RGB picture in its own resolution, with what a transform needs to know about it.

    centre: (x, y) of its object in [0, 1], the middle where no object stands out. white: padded with white, so that
    what lies outside is white too; otherwise the edge goes on.
    """

    picture: Image.Image
    centre: tuple[float, float] = (0.5, 0.5)
    white: bool = False


Apply = Callable[[Original, float, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Transform:
    """name: as in `--transform`. targets: attribute -> what the verdict calls it. says(strength): what it does.

    apply: see `transformed`.
    """

    name: str
    targets: Mapping[str, str]
    says: Callable[[float], str]
    apply: Apply


def transformed(
    transform: Transform, original: Original, *, strength: float = 1.0, generator: np.random.Generator
) -> Image.Image:
    """The transformed picture, square and RGB, of the original's resolution or (zooms) near it.

    strength scales the effect of every transform but the flip; `generator` decides what is random (the colour jitter).
    """
    return transform.apply(original, strength, generator)


def window(original: Original, left: float, top: float, side: float) -> Image.Image:
    """The square [left, left + side] x [top, top + side] in pixels of the original, which may reach outside of it."""
    picture = original.picture
    size = picture.width
    side = max(1, round(side))
    left, top = round(left), round(top)
    if left >= 0 and top >= 0 and left + side <= size and top + side <= size:
        return picture.crop((left, top, left + side, top + side))
    pixels = np.asarray(picture)
    across, down = np.arange(left, left + side), np.arange(top, top + side)
    seen = pixels[np.clip(down, 0, size - 1)[:, None], np.clip(across, 0, size - 1)]
    if original.white:
        inside = ((down >= 0) & (down < size))[:, None] & ((across >= 0) & (across < size))
        seen = np.where(inside[..., None], seen, np.uint8(255))
    return Image.fromarray(np.ascontiguousarray(seen))


def _towards_room(position: float) -> int:
    """+1 or -1: the direction in which an object at `position` has more room, so that it stays in the picture."""
    return 1 if position < 0.5 else -1


def _vertical_shift(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    size = original.picture.width
    return window(original, 0, -_towards_room(original.centre[1]) * SHIFT * strength * size, size)


def _horizontal_shift(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    size = original.picture.width
    return window(original, -_towards_room(original.centre[0]) * SHIFT * strength * size, 0, size)


def _zoom(original: Original, factor: float) -> Image.Image:
    size = original.picture.width
    side = size / factor
    x, y = original.centre  # the object's centre stays where it is: a zoom that also moves it would mix two answers
    return window(original, x * (size - side), y * (size - side), side)


def _zoom_in(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    return _zoom(original, ZOOM**strength)


def _zoom_out(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    return _zoom(original, ZOOM**-strength)


def _grayscale(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    gray = original.picture.convert("L").convert("RGB")
    return Image.blend(original.picture, gray, min(1.0, strength))


def _color_jitter(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    # At most to the opposite hue: further round is nearer again.
    turn = min(0.5, generator.uniform(*HUE) * strength) * generator.choice([-1, 1])
    brightness, saturation = 1 + JITTER * strength * generator.uniform(-1, 1, size=2)
    hue, pure, value = original.picture.convert("HSV").split()
    turned = hue.point([round(h + 256 * turn) % 256 for h in range(256)])
    picture = Image.merge("HSV", (turned, pure, value)).convert("RGB")
    return ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(brightness)).enhance(saturation)


def _degrees(turn: float) -> str:
    return f"{360 * min(0.5, turn):.0f}"


def _rotation(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    size = original.picture.width
    margin = round(0.21 * size) + 2  # half of a square's diagonal is 0.707 of its side
    wide = window(original, -margin, -margin, size + 2 * margin)
    turned = wide.rotate(ROTATION * strength, resample=Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + size, margin + size))


def _flip(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    return original.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _blur(original: Original, strength: float, generator: np.random.Generator) -> Image.Image:
    size = original.picture.width
    radius = BLUR * strength * size
    margin = round(3 * radius) + 1  # so that the blur sees the same outside as the shifts do
    wide = window(original, -margin, -margin, size + 2 * margin)
    blurred = wide.filter(ImageFilter.GaussianBlur(radius))
    return blurred.crop((margin, margin, margin + size, margin + size))


TRANSFORMS: Mapping[str, Transform] = {
    t.name: t
    for t in (
        Transform(
            "vertical-shift",
            {"position": "vertical position"},
            lambda s: f"shifted by {SHIFT * s:.0%} of the side, up or down, to where the object has more room",
            _vertical_shift,
        ),
        Transform(
            "horizontal-shift",
            {"position": "horizontal position"},
            lambda s: f"shifted by {SHIFT * s:.0%} of the side, left or right, to where the object has more room",
            _horizontal_shift,
        ),
        Transform(
            "zoom-in",
            {"size": "size"},
            lambda s: f"enlarged {ZOOM**s:.2f} times about the object's centre",
            _zoom_in,
        ),
        Transform(
            "zoom-out",
            {"size": "size"},
            lambda s: f"reduced {ZOOM**s:.2f} times about the object's centre",
            _zoom_out,
        ),
        Transform(
            "grayscale",
            {"saturation": "color as against gray"},
            lambda s: f"{min(1.0, s):.0%} of the way to gray (Rec. 601 luma, which stays the same)",
            _grayscale,
        ),
        Transform(
            "color-jitter",
            {"object color": "object color", "background color": "background color"},
            lambda s: (
                f"hue turned by {_degrees(HUE[0] * s)} to {_degrees(HUE[1] * s)} degrees either way, brightness and "
                f"saturation by up to {JITTER * s:.0%}; drawn from the seed and the picture"
            ),
            _color_jitter,
        ),
        Transform("rotation", {}, lambda s: f"turned by {ROTATION * s:.0f} degrees anticlockwise", _rotation),
        Transform("flip", {"position": "horizontal position"}, lambda s: "mirrored left to right", _flip),
        Transform(
            "blur",
            {},
            lambda s: f"Gaussian blur with a standard deviation of {BLUR * s:.1%} of the side",
            _blur,
        ),
    )
}


def pick(names: str | list[str] | tuple[str, ...]) -> list[Transform]:
    """The transforms that are named, with commas between them or in a list, in the given order; "all": every one.

    Raises RCDMError for a name that does not exist, naming the nearest, and for a name given twice.
    """
    parts = names.split(",") if isinstance(names, str) else names
    wanted = [part.strip().lower().replace("_", "-").replace(" ", "-") for part in parts]
    if wanted == ["all"]:
        return list(TRANSFORMS.values())
    for name in wanted:
        if name not in TRANSFORMS:
            near = difflib.get_close_matches(name, TRANSFORMS, n=1)
            hint = f"the nearest is {near[0]}" if near else f"expected all, or some of {', '.join(TRANSFORMS)}"
            raise RCDMError(f"There is no transform {name!r}; {hint}.")
    if len(set(wanted)) < len(wanted):
        raise RCDMError(f"The transforms {', '.join(wanted)} name one twice; name each once.")
    return [TRANSFORMS[name] for name in wanted]


def check_strength(strength: float) -> float:
    """The strength if it can be applied. Raises RCDMError outside (0, 3]."""
    if not 0 < strength <= MAX_STRENGTH:
        raise RCDMError(f"strength is {strength:g}, but expected a number above 0 and at most {MAX_STRENGTH:g}.")
    return strength
