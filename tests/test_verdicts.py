"""The verdict that a transform's evidence leads to."""

from __future__ import annotations

from typing import Any

import pytest

from rcdm_core.metrics.bootstrap import Estimate
from rcdm_core.probes.verdicts import Evidence, judge


def estimate(value: float, width: float = 0.02) -> Estimate:
    return Estimate(value, value - width, value + width, 50)


TRUSTED: dict[str, Any] = {"variance": estimate(1), "heard": estimate(0.5)}


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        (Evidence(estimate(0.9)), "follows"),
        (Evidence(estimate(0.6, 0.2)), "cannot tell"),
        (Evidence(estimate(0.4)), "partly"),
        (Evidence(estimate(0.05)), "cannot tell"),
        (Evidence(estimate(0.05), dh=estimate(0.005, 0.001)), "ignores"),
        (Evidence(estimate(0.05), dh=estimate(0.5)), "cannot tell"),
        (Evidence(estimate(0.05), estimate(0.9), estimate(0.005, 0.001), r2=0.9), "generator"),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.1, **TRUSTED), "ignores"),
        # samples and readout are no witnesses where the generator is deaf or draws all alike, or the readout starves
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.1), "cannot tell"),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.1, variance=estimate(1)), "cannot tell"),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.1, heard=estimate(0.5)), "cannot tell"),
        (
            Evidence(estimate(0.05), estimate(0.0), estimate(0.5), 0.1, **TRUSTED | {"heard": estimate(0.0)}),
            "cannot tell",
        ),
        (
            Evidence(estimate(0.05), estimate(0.0), estimate(0.5), 0.1, **TRUSTED | {"variance": estimate(0.1)}),
            "cannot tell",
        ),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.1, growth=0.1, **TRUSTED), "cannot tell"),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.8, drawn=estimate(0.9)), "ignores"),
        (Evidence(estimate(0.05), estimate(0.0), estimate(0.5), r2=0.8, drawn=estimate(0.1)), "cannot tell"),
        (Evidence(estimate(0.05), estimate(0.3, 0.3), estimate(0.5), r2=0.1), "cannot tell"),
        (Evidence(estimate(-0.8)), "cannot tell"),
        (Evidence(Estimate(0.5, None, None, 3)), "partly"),  # half of a change, in three pictures, is not all of it
        (Evidence(Estimate(0.7, None, None, 3)), "follows"),
        (Evidence(Estimate(0.1, None, None, 1), dh=Estimate(0.01, None, None, 1)), "ignores"),
    ],
)
def test_judgement(evidence: Evidence, code: str) -> None:
    assert judge(evidence).code == code
