"""Training an RCDM: `train(TrainConfig(...))`.

    config.py           what a run can be told, with all defaults
    setup.py            from the arguments to encoder, data and an empty network
    dataset.py          one pass over the images: representations.py and pixels.py on disk (rows.py)
    batches.py          what each step sees, a pure function of (seed, step, index)
    loop.py             the steps
    ema.py, batchnorm.py, preview.py, log.py, state.py, interrupt.py        one part of the loop each
"""

from rcdm_core.training.config import TrainConfig, stopped
from rcdm_core.training.loop import train

__all__ = ["TrainConfig", "stopped", "train"]
