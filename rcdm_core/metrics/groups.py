"""Is the difference between two groups of different pictures more than chance?"""

from __future__ import annotations

import numpy as np

from rcdm_core.metrics.bootstrap import MIN_IMAGES, RESAMPLES, Estimate, interval
from rcdm_core.metrics.paired import Difference

MIN_GROUP = 4  # with fewer pictures in each group the test of Mann and Whitney cannot reach 0.05


def compare_groups(names: tuple[str, str], first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Difference:
    """The difference of the means of two measurements [n] and [m], with an interval that resamples both groups.

    p: of the test of Mann and Whitney; None with fewer than MIN_GROUP pictures in either, as is p_holm, which is left
    to whoever knows how many differences there are. NaN entries are left out.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    groups = [values[np.isfinite(values)] for values in groups]
    n = min(map(len, groups))
    if n == 0:
        return Difference(*names, Estimate(float("nan"), None, None, 0), None, None)
    value = float(groups[0].mean() - groups[1].mean())
    low = high = p = None
    if n >= MIN_IMAGES:
        rng = np.random.default_rng(seed)
        means = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1) for values in groups]
        low, high = interval(means[0] - means[1], n)
    if n >= MIN_GROUP:
        from scipy.stats import mannwhitneyu

        p = float(mannwhitneyu(*groups).pvalue) if np.ptp(np.concatenate(groups)) > 0 else 1.0
    return Difference(*names, Estimate(value, low, high, n), p, None)
