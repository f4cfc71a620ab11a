"""What is written down about an encoder wherever its representations are kept: how to get it again, and its licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rcdm_core.errors import RCDMError
from rcdm_core.registry import NOT_INSTALLED, plugin_reports, source_of

if TYPE_CHECKING:
    from rcdm_core.encoder import Encoder, Fingerprint
    from rcdm_core.provider import Provider


@dataclass(frozen=True)
class ProviderRecord:
    """An encoder: how to get it again, and what is known about it."""

    name: str                           # as it was given to --provider
    kind: str
    dim: int
    image_size: int
    options: dict[str, Any]
    weights: str | None                 # absolute path or URL; None: the provider's own
    weights_digest: str                 # sha256 of the loaded weights
    label: str | None = None            # what it is called where models are compared; None: as the folder is
    licence: str | None = None          # of the encoder's weights
    citation: str | None = None
    distribution: str | None = None     # the plugin that it came from
    version: str | None = None
    resolved: str | None = None         # the name to load it by from any folder, where that is not `name`
    source: str | None = None           # the user's own file that defines it
    source_digest: str | None = None    # sha256 of that file when this was written down
    interpolation: str | None = None    # how files are brought to image_size; None: not written down

    def reads_otherwise(self, encoder: Encoder) -> str | None:
        """A phrase that says in what way files are brought to another size for the encoder now; None where they are
        not. A fingerprint cannot tell: its pictures have the right size already."""
        then = (self.image_size, self.interpolation or encoder.interpolation)
        return reading_change(then, (encoder.image_size, encoder.interpolation))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProviderRecord:
        """From JSON, without what an earlier version recorded and this one has no use for. Raises TypeError."""
        names = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def missing_plugin(self) -> str:
        """What to do where the plugin that it came from is not here, to stand behind an error; empty where it is."""
        if self.distribution in (None, *(report.distribution for report in plugin_reports())):
            return ""
        if self.version == NOT_INSTALLED:
            return f"; the model is for the one of {self.distribution}: give that with --plugin"
        return f"; the model is for the one of {self.distribution} {self.version}: install that"


def reading_change(then: Sequence[Any], now: Sequence[Any]) -> str | None:
    """A phrase on how files are read now instead of then, each as (size, interpolation); None where it is the same."""
    if tuple(then) == tuple(now):
        return None
    return f"it reads files at {now[0]} by {now[1]} instead of {then[0]} by {then[1]}"


def record_of(
    name: str,
    provider: Provider,
    weights: str | None,
    options: Mapping[str, Any],
    encoder: Encoder,
    mark: Fingerprint,
    label: str | None = None,
) -> ProviderRecord:
    """The record of an encoder that was loaded by `name` with `weights` and complete `options`."""
    try:
        origin = source_of(provider.name)
    except RCDMError:  # a Provider that no plugin offers, given from Python
        origin = None
    # The licence that a provider declares is that of its own weights, not of a checkpoint that the user brings.
    own = provider.own_weights(options)
    if own is not None and weights is not None:
        from rcdm_core.weights import is_own  # with torch, which a reader of records need not have

        own = own if is_own(weights, own) else None
    return ProviderRecord(
        name=name,
        kind=provider.kind,
        dim=encoder.dim,
        image_size=encoder.image_size,
        options=jsonable(options),
        weights=weights,
        weights_digest=mark.weights_digest,
        label=label,
        licence=own.licence_text if own else None,
        citation=own.citation if own else None,
        distribution=origin.distribution if origin else None,
        version=origin.version if origin else None,
        resolved=provider.name if provider.name != name else None,
        source=str(provider.source) if provider.source is not None else None,
        source_digest=provider.source_digest(),
        interpolation=encoder.interpolation,
    )


def jsonable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
