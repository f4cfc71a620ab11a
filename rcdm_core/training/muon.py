"""Muon (Jordan et al. 2024): momentum whose update is orthogonalised, for the weights that are matrices.

Of the gradient of a matrix a few directions are large and the others are drowned by them; orthogonalised, all of them
are equally long, and the rare ones, through which a network learns what tells pictures apart, are not left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steepest at 0, singular values end within 0.7 to 1.2
_EPSILON = 1e-7
# An orthogonal [m, n] matrix has entries of 1 / sqrt(max(m, n)), an update of Adam's about 0.2: with this factor one
# learning rate suits both (Liu et al. 2025, equation 4).
_ADAM_SIZE = 0.2


def orthogonalised(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Newton-Schulz: of stacks of matrices [k, m, n], of any m and n each, about U V^T of each matrix's singular value
    decomposition U S V^T, float32.

    Every iterate is a polynomial of the Gram matrix times the first one, and the polynomials commute. So all but two of
    the products are of matrices of the shorter side's size, which are small: a convolution's n is nine times its inputs
    or more. Of one size all go through these together, whatever their longer sides.
    """
    wide = [(stack.mT if stack.shape[-2] > stack.shape[-1] else stack).float() for stack in stacks]
    by_size: dict[int, list[int]] = {}
    for number, x in enumerate(wide):
        by_size.setdefault(x.shape[-2], []).append(number)
    results: list[Tensor] = [*wide]
    for numbers in by_size.values():
        grams = [wide[number] @ wide[number].mT for number in numbers]
        polynomials = _polynomial(torch.cat(grams)).split([len(gram) for gram in grams])
        for number, polynomial in zip(numbers, polynomials, strict=True):
            x = polynomial @ wide[number]
            results[number] = x if x.shape == stacks[number].shape else x.mT
    return results


def _polynomial(gram: Tensor) -> Tensor:
    """What matrices of these Gram matrices [k, m, m] are multiplied by, on the left."""
    a, b, c = _COEFFICIENTS
    norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt().clamp(min=_EPSILON)[..., None, None]
    gram = gram / norm**2
    polynomial = 1 / norm  # times the identity
    for step in range(_STEPS):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        polynomial = factor @ polynomial if step else factor * polynomial
        if step < _STEPS - 1:
            gram = factor @ gram @ factor
    return polynomial


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, as large as an update of Adam's.

    params        weights of at least two axes; a convolution's [out, in, 3, 3] counts as the matrix [out, in * 9]
    lr            of an Adam that would suit
    weight_decay  decoupled, as AdamW's

    Matrices are orthogonalised together: a network of many small ones would wait for them otherwise.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if any(parameter.ndim < 2 for group in self.param_groups for parameter in group["params"]):
            raise ValueError("Muon is for weights of at least two axes")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    update = self._momentum(weight, weight.grad, group["momentum"]).flatten(1)
                    by_shape.setdefault(tuple(update.shape), []).append((weight, update))
            stacks = [torch.stack([update for _, update in pairs]) for pairs in by_shape.values()]
            for (shape, pairs), updates in zip(by_shape.items(), orthogonalised(stacks), strict=True):
                size = _ADAM_SIZE * max(shape) ** 0.5
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.to(weight.dtype).view(weight.shape), alpha=-group["lr"] * size)

    def _momentum(self, weight: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the average of the gradients, moved on by the newest."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)
