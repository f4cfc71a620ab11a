"""The experiments of the paper, one file each, all of one shape: a `Probe` with a `run(context) -> Result`."""

from __future__ import annotations

from rcdm_core.probes.base import Context, Probe, Result, run_probe
from rcdm_core.probes.faithfulness import PROBE as FAITHFULNESS
from rcdm_core.probes.invariance import PROBE as INVARIANCE
from rcdm_core.probes.samples import PROBE as SAMPLES
from rcdm_core.probes.variance import PROBE as VARIANCE

PROBES: dict[str, Probe] = {probe.name: probe for probe in (FAITHFULNESS, INVARIANCE, SAMPLES, VARIANCE)}

__all__ = ["PROBES", "Context", "Probe", "Result", "run_probe"]
