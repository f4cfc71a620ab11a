"""The loss curves of training runs as one picture, from their log.jsonl.

    python benchmarks/curves.py runs/batchnorm runs/embedding --out docs/images/loss.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen


def read(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images seen (thousands) and the mean squared error of each line of a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    done = json.loads((run / "config.json").read_text(encoding="utf-8"))
    on_average = done["images_seen"] / done["step"]  # for logs that do not say how many a step had
    steps = np.diff([0, *(line["step"] for line in lines)])
    images = steps * np.array([line.get("images_per_step", on_average) for line in lines])
    return np.cumsum(images) / 1000, np.array([line["mse"] for line in lines])


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Running mean over `width` lines; shorter at the ends."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for number, run in enumerate(arguments.runs):
        images, mse = read(run)
        axes.plot(images, mse, color=f"C{number}", alpha=0.2, linewidth=0.8)
        axes.plot(images, smooth(mse, 15), color=f"C{number}", label=run.name)
    axes.set(xlabel="images seen (thousands)", ylabel="mean squared error of v", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
