"""The representation at an inner layer of a network, pooled to a vector: what does each depth keep?"""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from .errors import RCDMError


class InnerLayer(nn.Module):
    """A network whose output is that of one of its modules, averaged over positions.

    network        takes images [B, 3, H, W] and runs to its end
    layer          name of the module, as in `network.named_modules()`; of one that runs several times, its last run
    provider       for messages
    channels_last  whether a feature map whose sides do not tell is [B, H, W, C] instead of [B, C, H, W]; pictures are
                   square, so that it seldom matters, and one network may have maps of both kinds

    forward(images) -> [B, C]: feature maps are averaged over height and width, tokens [B, N, C] over N, the class token
    among them; vectors stay as they are. Of a module that returns several tensors, the first counts.

    Raises RCDMError for a layer that the network does not have (the nearest ones are named), and in forward for one
    that does not run or does not give one vector, map or set of tokens a picture.
    """

    def __init__(self, network: nn.Module, layer: str, *, provider: str, channels_last: bool = False) -> None:
        super().__init__()
        modules = dict(network.named_modules())
        if not layer or layer not in modules:
            raise RCDMError(
                f"option layer of {provider} is {layer!r}, but the network has no such module{_near(layer, modules)}"
            )
        self.network = network
        self.layer = layer
        self.provider = provider
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        seen: list[Tensor | RCDMError] = []

        def pool(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # At once: what follows may work in place (ReLU, the sum of a residual block) and overwrite it.
            try:
                seen.append(self._pooled(output, len(images)))
            except RCDMError as error:  # of a module that runs several times, the last run counts
                seen.append(error)

        hook = self.network.get_submodule(self.layer).register_forward_hook(pool)
        try:
            self.network(images)
        finally:
            hook.remove()
        if not seen:
            raise RCDMError(
                f"layer {self.layer} of {self.provider} does not run when pictures are encoded; choose another"
            )
        if isinstance(seen[-1], RCDMError):
            raise seen[-1]
        return seen[-1]

    def _ends_in_channels(self, maps: Tensor) -> bool:
        _, first, second, third = maps.shape
        if (first == second) != (second == third):
            return first == second
        return self.channels_last

    def _pooled(self, output: Any, count: int) -> Tensor:
        """A tensor of its own, [count, C]."""
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if isinstance(output, Tensor) and 2 <= output.ndim <= 4 and len(output) == count:
            if output.ndim == 4:
                return output.mean((1, 2) if self._ends_in_channels(output) else (2, 3))
            return output.mean(1) if output.ndim == 3 else output.clone()
        what = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise RCDMError(
            f"layer {self.layer} of {self.provider} gives {what} for {count} pictures, expected a vector, a feature "
            "map or tokens for each; choose another"
        )


def at_layer(network: nn.Module, layer: str | None, *, provider: str, channels_last: bool = False) -> nn.Module:
    """`network` itself without a layer, else `InnerLayer` of it. Raises RCDMError as that does."""
    if layer is None:
        return network
    return InnerLayer(network, layer, provider=provider, channels_last=channels_last)


def _near(layer: str, modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    near = difflib.get_close_matches(layer, names, n=3, cutoff=0.5)
    if near:
        return f"; the nearest are {', '.join(near)}"
    top = [name for name in names if "." not in name]
    return f"; at its top are {', '.join(top)}" if top else ""
