"""A differentiable analytic read-out of one object on a plain background, from the pixels alone.

The chain is: colour of the border -> colour of what differs most from it -> soft mask -> area and centre -> complex
moments of the mask around the centre. Every step is smooth and has a guarded denominator, so that h and its gradient
are finite for any picture, also for one without an object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# |c_2| .. |c_5| of the ideal outlines: how much of each order of rotational symmetry a shape has.
SIGNATURES = {
    "ellipse": (0.502, 0.000, 0.335, 0.000),
    "triangle": (0.000, 0.655, 0.000, 0.000),
    "square": (0.000, 0.000, 0.424, 0.000),
    "star": (0.000, 0.000, 0.000, 0.758),
    "heart": (0.161, 0.327, 0.098, 0.008),
}
# How far a signature may be from the ideal one before the shape is in doubt. Outlines drawn at 32 x 32 are within 0.02
# of theirs, and the ideal ones at least 0.38 from each other, so a drawn shape reads as one-hot: what the pixel grid
# does to the moments of small objects must not tell size or rotation through the shape.
SIGNATURE_SPREAD = 0.1

BORDER = 1 / 16  # width of the frame that shows the background alone, as a share of the side
MASK_FLOOR, MASK_CEILING = 0.1, 0.9  # coverage below and above which a pixel counts as outside and inside
REACH = (1.8, 2.4)  # distances from the centre, in radii, between which pixels cease to belong to the outline


class Oracle(nn.Module):
    """Images `[B, 3, H, W]` in [0, 1] -> h `[B, dim]`, the chosen parts side by side.

    The parts and their units: "background color" and "object color" (RGB in [0, 1]), "size" (diameter of the disc of
    equal area, share of the side), "position" (x from the left, y from the top, share of the side), "shape"
    (probabilities, in the order of `SIGNATURES`), "rotation" (cosine and sine of the angle by which a tip is turned
    clockwise from upright, times the order of the shape's symmetry).
    """

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self.parts = tuple(parts)

    def forward(self, images: Tensor) -> Tensor:
        read = read_out(images.float())
        return torch.cat([read[part] for part in self.parts], dim=1)


def read_out(images: Tensor) -> dict[str, Tensor]:
    """Every part of h, `[B, n]` each, from images `[B, 3, H, W]` in [0, 1]."""
    background = border_color(images)
    mask = object_mask(images, background)
    # Well inside the object only, where no pixel is mixed with the background.
    inside = mask**8
    area_inside = _total(inside)
    object_color = background + _total(inside[:, None] * (images - _spread(background))) / (area_inside[:, None] + 1e-3)

    height, width = images.shape[-2:]
    down = (torch.arange(height, device=images.device) + 0.5)[:, None] / height
    right = (torch.arange(width, device=images.device) + 0.5)[None, :] / width
    total = _total(mask)
    x = 0.5 + _total(mask * (right - 0.5)) / (total + 1e-3)
    y = 0.5 + _total(mask * (down - 0.5)) / (total + 1e-3)
    radius = torch.sqrt(total / (height * width * math.pi) + 1e-8)

    up_from_centre = (y[:, None, None] - down) / radius[:, None, None]
    right_of_centre = (right - x[:, None, None]) / radius[:, None, None]
    moments = complex_moments(mask, up_from_centre, right_of_centre)
    shape = shape_probabilities(moments)
    return {
        "background color": background,
        "object color": object_color,
        "size": 2 * radius[:, None],
        "position": torch.stack([x, y], dim=1),
        "shape": shape,
        "rotation": rotation_phase(moments, shape),
    }


def border_color(images: Tensor) -> Tensor:
    """RGB `[B, 3]` of the frame; what few pixels of the frame show (the tip of an object) hardly counts."""
    height, width = images.shape[-2:]
    rows, columns = max(1, round(height * BORDER)), max(1, round(width * BORDER))
    frame = torch.cat(
        [
            images[:, :, :rows].flatten(2),
            images[:, :, -rows:].flatten(2),
            images[:, :, :, :columns].flatten(2),
            images[:, :, :, -columns:].flatten(2),
        ],
        dim=2,
    )
    color = frame.mean(dim=2)
    for _ in range(3):
        distance = (frame - color[:, :, None]).square().sum(dim=1, keepdim=True)
        weight = 1 / (distance + 0.01)
        color = (weight * frame).sum(dim=2) / weight.sum(dim=2)
    return color


def object_mask(images: Tensor, background: Tensor) -> Tensor:
    """How much the object covers each pixel, in [0, 1]: `[B, H, W]`.

    A pixel at the outline is a mixture, and its share of the object is how far it lies on the way from the background's
    colour to the object's. That share does not depend on what the two colours are, so neither does anything that is
    computed from the mask.
    """
    difference = images - _spread(background)
    distance = difference.square().sum(dim=1)
    emphasis = distance**4
    contrast = _total(emphasis[:, None] * difference) / (_total(emphasis)[:, None] + 1e-12)
    along = (difference * _spread(contrast)).sum(dim=1)
    coverage = along / (contrast.square().sum(dim=1) + 1e-4)[:, None, None]
    ramp = ((coverage - MASK_FLOOR) / (MASK_CEILING - MASK_FLOOR)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


Moments = dict[int, tuple[Tensor, Tensor]]


def complex_moments(mask: Tensor, up: Tensor, right: Tensor) -> Moments:
    """c_m = sum(mask z^m) / sum(mask |z|^m) for m = 2..5, as (real, imaginary) `[B]`, |c_m| <= 1.

    z = up + i right, in radii from the centre of mass; `mask`, `up`, `right` are `[B, H, W]`. A clockwise turn by an
    angle a multiplies c_m by exp(i m a): the magnitudes are the shape, the phases its rotation.
    """
    # Specks far from the object would dominate the high powers.
    distance = torch.sqrt(up.square() + right.square() + 1e-8)
    fade = ((REACH[1] - distance) / (REACH[1] - REACH[0])).clamp(0, 1)
    near = mask * fade * fade * (3 - 2 * fade)
    up, right, distance = (axis.clamp(-REACH[1], REACH[1]) for axis in (up, right, distance))
    moments: Moments = {}
    real, imaginary, length = up, right, distance
    for order in range(2, 6):
        real, imaginary = real * up - imaginary * right, real * right + imaginary * up
        length = length * distance
        scale = _total(near * length) + 1e-3
        moments[order] = _total(near * real) / scale, _total(near * imaginary) / scale
    return moments


def shape_probabilities(moments: Moments) -> Tensor:
    """`[B, 5]`: how near the magnitudes of the moments are to each shape's, as a softmax."""
    magnitudes = torch.stack([_magnitude(*moments[order]) for order in range(2, 6)], dim=1)
    ideal = magnitudes.new_tensor(list(SIGNATURES.values()))
    distance = (magnitudes[:, None] - ideal).square().sum(dim=2)
    return torch.softmax(-distance / (2 * SIGNATURE_SPREAD**2), dim=1)


def rotation_phase(moments: Moments, shape: Tensor) -> Tensor:
    """`[B, 2]`: cosine and sine of the phase of the shape's dominating harmonic, of length one (or less in doubt)."""
    (real_2, imaginary_2), (real_3, imaginary_3) = moments[2], moments[3]
    # The heart looks the same only after a full turn, and c_1 is zero around a centre of mass. Its tip is where the
    # second and the third harmonic meet: the phase of c_3 / c_2 turns once with it. (It points up at phase pi of c_2.)
    heart = -(real_3 * real_2 + imaginary_3 * imaginary_2), -(imaginary_3 * real_2 - real_3 * imaginary_2)
    phasors = [moments[2], moments[3], moments[4], moments[5], heart]
    cosine, sine = (
        torch.stack([phasor[axis] / _magnitude(*phasor) for phasor in phasors], dim=1).mul(shape).sum(dim=1)
        for axis in (0, 1)
    )
    return torch.stack([cosine, sine], dim=1) / _magnitude(cosine, sine)[:, None]


def _magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    return torch.sqrt(real.square() + imaginary.square() + 1e-6)


def _total(values: Tensor) -> Tensor:
    """The sum over the pixels, the last two axes."""
    return values.sum(dim=(-2, -1))


def _spread(color: Tensor) -> Tensor:
    """`[B, 3]` to `[B, 3, 1, 1]`."""
    return color[:, :, None, None]
