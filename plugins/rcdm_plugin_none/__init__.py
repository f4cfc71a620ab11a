"""`none`: no representation at all. An RCDM for it is the unconditional ADM, the paper's baseline (table 1a)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rcdm_core import Provider, RCDMError, hookimpl

if TYPE_CHECKING:
    from rcdm_core import Encoder


@hookimpl
def rcdm_providers() -> list[Provider]:
    """The one provider whose h is empty."""
    return [
        Provider(
            name="none",
            summary="no representation: the unconditional model that the paper compares with",
            load=load,
            dim=0,
            image_size=32,
            kind="none",
        )
    ]


def load(*, weights: str | None = None, **options: Any) -> Encoder:
    """An encoder whose h has shape [B, 0]. Raises RCDMError when it is given weights."""
    if weights is not None:
        raise RCDMError(f"provider none has no network, so that --weights {weights} has no meaning: leave it out")
    from ._encoder import NoRepresentation

    return NoRepresentation()
