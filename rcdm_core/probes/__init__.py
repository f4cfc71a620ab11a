"""The experiments of the paper, one file each, all of one shape: a `Probe` with a `run(context) -> Result`."""

from __future__ import annotations

from rcdm_core.probes.adversarial import PROBE as ADVERSARIAL
from rcdm_core.probes.arithmetic import PROBE as ARITHMETIC
from rcdm_core.probes.base import Context, Probe, Result
from rcdm_core.probes.baselines import PROBE as BASELINES
from rcdm_core.probes.class_mean import PROBE as CLASS_MEAN
from rcdm_core.probes.confidence import PROBE as CONFIDENCE
from rcdm_core.probes.distances import PROBE as DISTANCES
from rcdm_core.probes.everything import PROBE as ALL
from rcdm_core.probes.faithfulness import PROBE as FAITHFULNESS
from rcdm_core.probes.interpolation import PROBE as INTERPOLATION
from rcdm_core.probes.invariance import PROBE as INVARIANCE
from rcdm_core.probes.linear_probe import PROBE as LINEAR_PROBE
from rcdm_core.probes.manipulation import PROBE as MANIPULATION
from rcdm_core.probes.neighbours import PROBE as NEIGHBOURS
from rcdm_core.probes.quality import PROBE as QUALITY
from rcdm_core.probes.retention import PROBE as RETENTION
from rcdm_core.probes.running import run_probe
from rcdm_core.probes.samples import PROBE as SAMPLES
from rcdm_core.probes.training import PROBE as TRAINING
from rcdm_core.probes.unconditional import PROBE as UNCONDITIONAL
from rcdm_core.probes.variance import PROBE as VARIANCE

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        ADVERSARIAL,
        ALL,
        ARITHMETIC,
        BASELINES,
        CLASS_MEAN,
        CONFIDENCE,
        DISTANCES,
        FAITHFULNESS,
        INTERPOLATION,
        INVARIANCE,
        LINEAR_PROBE,
        MANIPULATION,
        NEIGHBOURS,
        QUALITY,
        RETENTION,
        SAMPLES,
        TRAINING,
        UNCONDITIONAL,
        VARIANCE,
    )
}

__all__ = ["PROBES", "Context", "Probe", "Result", "run_probe"]
