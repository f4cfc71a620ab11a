"""Does training's memory grow with the number of images? Peak size of `rcdm train` over folders of different size.

    python benchmarks/memory.py --images 1000 10000 --steps 20

Draws the embedded shapes into PNG files, trains on each folder in a process of its own, and prints the process's
largest resident size and the part of it that is its own (anonymous: without the files that it maps into memory, which
the system takes back when it needs the room).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from rcdm_core.data.shapes import Shapes


def draw(count: int, folder: Path) -> None:
    """Write `count` pictures of 64 x 64."""
    shapes = Shapes(count)
    for start in range(0, count, 500):
        indices = range(start, min(start + 500, count))
        for index, picture in zip(indices, shapes.get_batch(list(indices), 64), strict=True):
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{index:06d}.png")


def status(pid: int, field: str) -> float:
    """A field of the process's status in MB; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)


def train(folder: Path, work: Path, steps: int) -> tuple[float, float]:
    """Peak resident and peak anonymous size of a training run, in MB."""
    command = [sys.executable, "-m", "rcdm_cli.main", "train", "--provider", "shapes-all", "--data", str(folder)]
    command += ["--steps", str(steps), "--out", str(work / "run"), "--preview-every", "0"]
    process = subprocess.Popen(
        command, env={**os.environ, "RCDM_CACHE": str(work / "cache")}, stdout=subprocess.DEVNULL
    )
    resident = anonymous = 0.0
    while process.poll() is None:
        resident = max(resident, status(process.pid, "VmHWM"))
        anonymous = max(anonymous, status(process.pid, "RssAnon"))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"training failed with exit code {process.returncode}")
    return resident, anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{'images':>8} {'peak MB':>10} {'own MB':>10}")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "images"
            folder.mkdir()
            draw(count, folder)
            resident, anonymous = train(folder, Path(work), arguments.steps)
        print(f"{count:>8} {resident:>10.0f} {anonymous:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
