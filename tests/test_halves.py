"""KID, precision and recall of all pictures and of halves, against torch-fidelity on each of these."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from rcdm_core.metrics import halves
from rcdm_core.metrics.halves import kernel_distances, members, precision_recall


@pytest.mark.parametrize("block", [1 << 24, 700])
@pytest.mark.parametrize("n", [150, 7])
def test_each_half_is_torch_fidelitys(n: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "_BLOCK", block)
    rng = np.random.default_rng(n)
    sets = [(0.2 * i + (1 - 0.3 * i) * rng.standard_normal((n, 6))).astype(np.float32) for i in (0, 1)]
    reference = rng.standard_normal((n, 6)).astype(np.float32)
    chosen = members(n, seed=0, halves=4)
    kernel = kernel_distances(sets, reference, chosen)
    covered = precision_recall(sets, reference, chosen, neighbours=3)
    for i, one in enumerate(sets):
        for row, which in enumerate(chosen):
            first, second = torch.from_numpy(one[which]), torch.from_numpy(reference[which])
            count = int(which.sum())
            kid = kid_features_to_metric(first, second, kid_subset_size=count, kid_subsets=1, verbose=False)
            assert kernel[i][row] == pytest.approx(kid["kernel_inception_distance_mean"], abs=2e-6)
            prc = prc_features_to_metric(first, second, prc_neighborhood=min(3, count - 1), verbose=False)
            assert covered[i][0].shares[row] == pytest.approx(prc["precision"], abs=1e-6)
            assert covered[i][1].shares[row] == pytest.approx(prc["recall"], abs=1e-6)


def test_members() -> None:
    chosen = members(21, seed=3)
    assert chosen.shape == (1 + halves.HALVES, 21) and chosen[0].all() and (chosen[1:].sum(axis=1) == 10).all()
    assert (chosen == members(21, seed=3)).all() and (chosen != members(21, seed=4)).any()
    assert members(4, seed=0).shape == (1, 4)
    values = np.random.default_rng(5).standard_normal(400)
    means = members(400, seed=0, halves=1500)[1:] @ values / 200
    assert means.std() == pytest.approx(values.std() / 20, rel=0.06)  # the standard error of the whole


def test_the_spread_over_halves_is_that_of_experiments() -> None:
    rng = np.random.default_rng(6)
    many, spreads = [], []
    for trial in range(60):
        one, two = (rng.standard_normal((80, 4)).astype(np.float32) + shift for shift in (0.5, 0.0))
        (found,) = kernel_distances([one], two, members(80, seed=trial, halves=50))
        many.append(found[0])
        spreads.append(found[1:].std())
    assert np.mean(spreads) == pytest.approx(np.std(many), rel=0.3)
