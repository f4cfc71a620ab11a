"""Adversarial pictures: the least visible change of a picture that moves the linear probe's class (paper, section 4.2).

Epsilons are the largest change of any value, in units of the [0, 1] image at the encoder's input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rcdm_core.errors import RCDMError
from rcdm_core.metrics.linear_probe import LinearProbe

if TYPE_CHECKING:
    from torch import Tensor, nn

ATTACKS = ("fgsm", "pgd")
_REACH = 2.5  # how far all steps of PGD go together, in epsilons, when no step size is given


@dataclass(frozen=True)
class Attack:
    """kind: fgsm, one step along the sign of the gradient (Goodfellow et al., 2015), or pgd, several of them, each
    followed by the projection back to within epsilon (Madry et al., 2018), from the picture itself on.

    steps, step: of pgd; step 0: 2.5 epsilon / steps. away: from the given class instead of towards it.
    """

    kind: str = "fgsm"
    steps: int = 10
    step: float = 0.0
    away: bool = False

    def __call__(
        self, encoder: nn.Module, probe: LinearProbe, images: Tensor, labels: Tensor, epsilons: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Attack images [B, 3, H, W] in [0, 1] towards labels [B] with each epsilon.

        Returns the pictures [E, B, 3, H, W] in [0, 1], and whether a picture's gradient is zero throughout, bool [B]:
        such a picture stays as it is. Raises RCDMError for an encoder without a gradient.
        """
        sign = 1.0 if self.away else -1.0
        columns = torch.from_numpy(probe.columns(labels.cpu().numpy()))
        first = gradient(encoder, probe, images, columns)
        flat = (first == 0).flatten(1).all(dim=1)
        if self.kind == "fgsm":
            found = [(images + sign * epsilon * first.sign()).clamp(0, 1) for epsilon in epsilons]
            return torch.stack(found), flat
        found = []
        for epsilon in epsilons:
            step = self.step or _REACH * epsilon / self.steps
            x, slope = images, first
            for k in range(self.steps if epsilon else 0):
                if k:
                    slope = gradient(encoder, probe, x, columns)
                x = x + sign * step * slope.sign()
                x = torch.minimum(torch.maximum(x, images - epsilon), images + epsilon).clamp(0, 1)
            found.append(x)
        return torch.stack(found), flat


def gradient(encoder: nn.Module, probe: LinearProbe, images: Tensor, columns: Tensor) -> Tensor:
    """In the images [B, 3, H, W], of the log odds against columns [B]: [B, 3, H, W].

    It is a positive multiple of the gradient of the probe's cross-entropy. Raises RCDMError for an encoder without one.
    """
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        h = encoder(x)
        if not h.requires_grad:
            raise RCDMError(NO_GRADIENT.format("The encoder"))
        # Cross-entropy is softplus of this, so that both rise in one direction. But where the probe is sure, the
        # derivative of softplus is zero in any floating point, and the sign of zero is no direction.
        logits = probe.linear()(h.cpu().double())
        own = F.one_hot(columns.cpu(), logits.shape[1]).bool()
        others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        (found,) = torch.autograd.grad((others - logits[own]).sum(), x)
    return found


NO_GRADIENT = (
    "{} has no gradient of h in the pictures, which an attack follows: use an encoder that torch runs, such as the "
    "same network as a function or in TorchScript."
)


def check_differentiable(encoder: nn.Module, name: str) -> None:
    """Raise RCDMError for an encoder that an attack cannot follow."""
    if not is_differentiable(encoder):
        raise RCDMError(NO_GRADIENT.format(f"The encoder of {name}"))


def is_differentiable(encoder: nn.Module) -> bool:
    """Whether h has a gradient in the pictures, which is tried where the encoder does not deny it."""
    if not getattr(encoder, "differentiable", True):
        return False
    side = int(encoder.image_size)  # type: ignore[arg-type]
    with torch.enable_grad():
        device = next((buffer.device for buffer in [*encoder.buffers(), *encoder.parameters()]), None)
        x = torch.full((1, 3, side, side), 0.5, device=device, requires_grad=True)
        return bool(encoder(x).requires_grad)
