"""The oracles: encoders of the embedded shapes that are known to keep some factors and to forget the others.

They are what a probe is tested on: an RCDM of `shapes-no-color` has to show that the colour is forgotten.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rcdm_core import Provider, RCDMError, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder

IMAGE_SIZE = 32

# What h is made of, in this order, and how many numbers each part takes.
PARTS = {"background color": 3, "object color": 3, "size": 1, "position": 2, "shape": 5, "rotation": 2}

FORGETS: dict[str, tuple[str, ...]] = {
    "shapes-all": (),
    "shapes-no-color": ("background color", "object color"),
    "shapes-no-background": ("background color",),
    "shapes-no-position": ("position",),
    "shapes-no-size": ("size",),
    "shapes-no-shape": ("shape",),
    "shapes-no-rotation": ("rotation",),
}


def kept_parts(name: str) -> tuple[str, ...]:
    """The parts of h that the oracle `name` keeps, in their order."""
    return tuple(part for part in PARTS if part not in FORGETS[name])


def _load(name: str, *, weights: str | None = None) -> Encoder:
    from rcdm_core import Encoder

    from .oracle import Oracle

    if weights is not None:
        raise RCDMError(f"{name} is computed from the pixels and has no weights: leave out --weights ({weights}).")
    parts = kept_parts(name)
    dim = sum(PARTS[part] for part in parts)
    return Encoder(Oracle(parts), image_size=IMAGE_SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dim=dim)


@hookimpl
def rcdm_providers() -> Iterable[Provider]:
    for name, forgotten in FORGETS.items():
        yield Provider(
            name=name,
            summary=f"oracle for shapes that forgets {' and '.join(forgotten)}"
            if forgotten
            else "oracle for shapes that keeps every factor",
            load=functools.partial(_load, name),
            dim=sum(PARTS[part] for part in kept_parts(name)),
            image_size=IMAGE_SIZE,
            kind="oracle",
            forgets=forgotten,
        )
