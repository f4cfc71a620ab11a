"""The hooks that a plugin may implement, each with `rcdm_core.hookimpl`; entry-point group `rcdm`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .probes.base import Probe
    from .provider import Provider

PROJECT = "rcdm"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RepresentationProvider:
    """What a plugin can add. Every hook is optional; none may import torch or touch the network."""

    @hookspec
    def rcdm_providers(self) -> Iterable[Provider]:  # type: ignore[empty-body]
        """The encoders that the plugin offers by name."""

    @hookspec(firstresult=True)
    def rcdm_resolve(self, name: str) -> Provider | None:
        """A provider out of a family that cannot be listed (custom:FILE.py:function), or None for a name of others.

        May raise RCDMError where the name is of its family but wrong.
        """

    @hookspec
    def rcdm_probes(self) -> Iterable[Probe]:  # type: ignore[empty-body]
        """The probes that the plugin offers."""
