"""Training an RCDM: `train(TrainConfig(...))`.

    config.py           what a run can be told, with all defaults
    pace.py             how long a step takes, before a training that has to fit into some minutes
    setup.py            from the arguments to encoder, data and an empty network
    dataset.py          one pass over the images: representations.py and pixels.py
    batches.py          what each step sees, a pure function of (seed, step, index)
    loop.py             the steps
    series.py           one run after another, for several checkpoints of one architecture
    ema.py, batchnorm.py, health.py, preview.py, log.py, state.py, interrupt.py     one part of the loop each
"""

from rcdm_core.training.config import TrainConfig, stopped
from rcdm_core.training.loop import train, train_or_stop
from rcdm_core.training.series import each_checkpoint, train_each

__all__ = ["TrainConfig", "each_checkpoint", "stopped", "train", "train_each", "train_or_stop"]
