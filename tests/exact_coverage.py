"""How often the interval of rendered retention holds the truth, with the exact sampler in the generator's place.

    python tests/exact_coverage.py --experiments 1000 --pictures 48 --samples 4

Every experiment has pictures and samples of its own. The oracle keeps the size, forgets the object's hue, and tells of
the background's hue, x and y only in which half of their range they are: so the truth, Var(E[a | h]) / Var(a), is known
for each, and three of the four are reached by samples that err in a known way.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from exact_rcdm import ExactRCDM

from rcdm_core.data.shapes import Shapes
from rcdm_core.metrics.attributes import measure
from rcdm_core.metrics.retention import Observed, over_samples, rendered_retention

COARSE = {"object_hue": 1, "background_hue": 2, "x": 2, "y": 2}
# Of a uniform number and n equal parts 1 - 1/n², of (cos, sin) of a uniform angle (n/π sin(π/n))².
TRUTH = {"object color": 0.0, "background color": (2 / math.pi) ** 2, "position": 3 / 4, "size": 1.0}


def intervals(experiments: int, pictures: int, samples: int, *, size: int = 32) -> dict[str, np.ndarray]:
    """Attribute -> value, low, high of its rendered retention in every experiment: [experiments, 3].

    size: of the pictures, in pixels.
    """
    model = ExactRCDM(coarse=COARSE)
    model.image_size = size
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in TRUTH}
    source = Shapes(experiments * pictures, seed=2024)
    for number in range(experiments):
        places = range(number * pictures, (number + 1) * pictures)
        real = source.get_batch(places, size).astype(np.float32) / 255
        h = model.encode(torch.from_numpy(real))
        drawn = model.sample(h, samples, seed=number, streams=source.ids[places.start : places.stop])
        of_samples = measure(drawn.flatten(0, 1))
        for name, values in measure(real).items():
            if name in found:
                mean, spread, _ = over_samples(of_samples[name].reshape(pictures, samples, -1))
                estimate = rendered_retention(Observed(values, mean, spread, 0.0), seed=number)
                assert estimate is not None and estimate.low is not None and estimate.high is not None
                found[name].append((estimate.value, estimate.low, estimate.high))
    return {name: np.array(rows) for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    for name, default in (("experiments", 1000), ("pictures", 48), ("samples", 4), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("attribute         truth   mean of values   intervals that hold it   mean width")
    for name, rows in intervals(given.experiments, given.pictures, given.samples, size=given.size).items():
        value, low, high = rows.T
        held = np.mean((low <= TRUTH[name]) & (TRUTH[name] <= high))
        print(f"{name:16} {TRUTH[name]:6.3f} {value.mean():16.3f} {held:24.3f} {np.mean(high - low):12.3f}")


if __name__ == "__main__":
    main()
