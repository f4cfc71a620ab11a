"""The two ways to condition the U-Net on a representation h (paper, section 3 and figure 10).

- `batchnorm`: h is reduced to 512 numbers by one linear layer, and the two normalisations of every residual block
  become conditional batch norms that read those numbers (the paper's own choice, after IC-GAN and BigGAN).
- `embedding`: a linear layer brings h to the size of the time embedding, and the two are added (ADM's class
  conditioning with a linear layer in place of the label table; what the released checkpoints use).

The paper finds no difference between them; `docs/results.md` measures it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcdm_core.group_norm import modulate

#: Size of the vector that h is reduced to before the conditional batch norms read it (paper, section 3).
REDUCED_DIM = 512


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose gain and bias are linear in a condition (Dumoulin et al. 2017; Brock et al. 2019).

    `y = (x - mean) / sqrt(var + eps) * (1 + gain(h)) + bias(h)`; no affine parameters of its own. In training the
    statistics are the batch's and the stored ones follow with `momentum` (None: their cumulative average); in eval
    mode they are the stored ones.

    Args:
        channels: C.
        cond_dim: size of the condition.
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, cond_dim: int = REDUCED_DIM, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.gain = nn.Linear(cond_dim, channels)
        self.bias = nn.Linear(cond_dim, channels)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.eps = eps
        self.momentum: float | None = momentum
        self.batches_averaged = 0

    def reset_statistics(self) -> None:
        """Forget the stored statistics and average the batches that follow with equal weight.

        The EMA weights never saw the batches that the running statistics come from: theirs are computed anew.
        """
        self.stored_mean.zero_()
        self.stored_var.fill_(1)
        self.momentum = None
        self.batches_averaged = 0

    def forward(self, x: Tensor, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Args: x [B, C, H, W]; h [B, cond_dim]; scale, shift [B, C], the time embedding's, applied afterwards."""
        if self.training and self.momentum is None:
            self.batches_averaged += 1
        momentum = 1 / self.batches_averaged if self.momentum is None else self.momentum
        normalised = F.batch_norm(
            x, self.stored_mean, self.stored_var, training=self.training, momentum=momentum, eps=self.eps
        )
        gain, bias = 1 + self.gain(h), self.bias(h)
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        return modulate(normalised, gain, bias)
