"""Whether weights are worth keeping: looked at before they take the place of good ones on disk.

The loss of a step says how the weights were before it. One update that is far too large leaves weights that are finite
and useless, so what would be saved is tried on the batch that comes next.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

# The targets, noise and v, have a mean square of at most about 1, which is the error of a network that answers zero.
# Trainings begin there and stay below; one that is a hundred times worse than no answer has lost what it had learnt.
WORST_ERROR = 100.0


def first_broken(parts: Mapping[str, Iterable[Tensor]]) -> str | None:
    """What to say of the first of the named parts that holds an infinity or NaN; None when none does."""
    for name, part in parts.items():
        if not all(bool(tensor.isfinite().all()) for tensor in part):
            return f"{name} hold numbers that are not finite"
    return None


def verdict(name: str, losses: Mapping[str, float], gradient: float = 0.0) -> str | None:
    """What to say of weights with these losses (`Diffusion.losses`) and this norm of the gradient; None: good ones."""
    if not (math.isfinite(losses["loss"]) and math.isfinite(gradient)):
        return f"{name} give the next batch a loss or gradient that is not finite"
    if losses["mse"] > WORST_ERROR:
        return f"{name} are {losses['mse']:.3g} off on the next batch, where answering zero is about 1 off"
    return None


def remembered_buffers(network: nn.Module) -> Callable[[], None]:
    """A function that puts the statistics of the network's batch norms back to what they are now.

    Every pass in training mode moves them, and one that is not finite leaves them so for good.
    """
    before = {name: value.clone() for name, value in network.named_buffers()}

    @torch.no_grad()
    def put_back() -> None:
        for name, value in network.named_buffers():
            value.copy_(before[name])

    return put_back


@contextlib.contextmanager
def keeping_buffers(network: nn.Module) -> Iterator[None]:
    """Let the block run the network in training mode; the statistics of its batch norms are put back after it."""
    put_back = remembered_buffers(network)
    try:
        yield
    finally:
        put_back()
