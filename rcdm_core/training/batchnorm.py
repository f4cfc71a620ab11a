"""Batch-norm statistics that belong to the averaged weights.

The statistics that a network collects while it trains are those of other weights at other moments. Before the averaged
weights are used, theirs are computed: on noised images of all timesteps with the matching h, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from rcdm_core.conditioning import ConditionalBatchNorm


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Callable[[], object]]) -> None:
    """Replace the statistics of every batch norm in `network` by the average over `batches`, all with equal weight.

    Each batch is a function that runs the network once. Only the batch norms are in training mode meanwhile, so dropout
    stays off; everything is in eval mode afterwards. Nothing happens in a network without batch norm.
    """
    norms = [module for module in network.modules() if isinstance(module, ConditionalBatchNorm)]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_statistics()
        norm.train()
    try:
        for run in batches:
            run()
    finally:
        network.eval()
