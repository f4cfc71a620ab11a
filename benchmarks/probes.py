"""What probes cost beside the network that they look at.

    python benchmarks/probes.py                        all tables
    python benchmarks/probes.py --only gallery         ranks and nearest neighbours in a large gallery
    python benchmarks/probes.py --only sets            the measures of table 1a, of many pictures, on one thread

Gallery: 1,000 samples' h are ranked, and their 10 nearest found, among 50,000 representations of 2048 numbers; seconds
(of processors too: the machine may be shared), and the peak memory of the whole process, the gallery's 400 MB included.
Sets: two sets of h against a third, as the probe quality compares samples and real pictures, with their intervals.
Share: probes on held-out shapes at 32 x 32, with an untrained network of the preset tiny-32 (its time does not depend
on its weights); how much of a probe's time passes in the network, in the encoder, and in everything else. Every
measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

QUERIES, NEIGHBOURS = 1000, 10


def gallery(what: str, size: int, dim: int) -> dict[str, float]:
    """One way of searching: seconds, and the peak memory in MB."""
    from rcdm_core.metrics.neighbours import Nearest
    from rcdm_core.metrics.ranks import ranks

    rng = np.random.default_rng(0)
    h = rng.standard_normal((size, dim), dtype=np.float32)
    targets = rng.integers(0, size, QUERIES)
    queries = h[targets] + rng.standard_normal((QUERIES, dim), dtype=np.float32)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    if what == "ranks":
        found = ranks(queries, h, targets)
        assert found.min() >= 1
    else:
        search = Nearest(queries, NEIGHBOURS)
        search.add(h)
        assert np.isfinite(search.squares).all()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    return {"seconds": seconds, "cpu": cpu, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def sets(what: str, size: int, dim: int) -> dict[str, float]:
    """One measure of two sets of `size` pictures against as many, with its interval: seconds, and the peak memory."""
    import torch

    from rcdm_core.metrics.frechet import distances
    from rcdm_core.metrics.halves import kernel_distances, members, precision_recall

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spread = np.exp(-4 * np.arange(dim) / dim).astype(np.float32)
    *first, reference = (rng.standard_normal((size, dim), dtype=np.float32) * spread * s for s in (1.2, 1.0, 1.0))
    begun, begun_cpu = time.perf_counter(), time.process_time()
    if what == "frechet":
        distances(first, reference, seed=0)
    elif what == "kernel":
        kernel_distances(first, reference, members(size, seed=0))
    else:
        precision_recall(first, reference, members(size, seed=0), neighbours=3)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    return {"seconds": seconds, "cpu": cpu, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


DATA = "shapes:2000:3"  # of which half is held out


class Clock:
    """Adds up the time that passes inside a module."""

    def __init__(self, module: Any) -> None:
        self.seconds = 0.0
        self._begun = 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._begun


def share(probe: str, count: int, steps: int) -> dict[str, float]:
    """One run of a probe: seconds in all, in the network and in the encoder."""
    import rcdm_core

    with tempfile.TemporaryDirectory() as folder:
        # One step: what the network has learnt does not change how long it takes.
        run, cache = Path(folder) / "run", Path(folder) / "cache"
        config = rcdm_core.TrainConfig(
            "shapes-no-color", data=DATA, held_out=1000, steps=1, preview_every=0, out=run, cache=cache
        )
        model = rcdm_core.load(rcdm_core.train(config))
        clocks = {"network": Clock(model.unet), "encoder": Clock(model.encoder)}
        begun = time.perf_counter()
        rcdm_core.run_probe(probe, models=[model], data=DATA, out=Path(folder) / "out", count=count, steps=steps)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, **{name: clock.seconds for name, clock in clocks.items()}}


def measured(*words: str) -> dict[str, float]:
    """The same file in a new process."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *words],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | (threads if words[0] == "sets" else {}),
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("gallery", "sets", "share"))
    parser.add_argument("--size", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--probes", default="samples,variance")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, what, *numbers = arguments.measure
        found = {"gallery": gallery, "sets": sets, "share": share}[kind](what, *map(int, numbers))
        print(json.dumps(found))
        return
    if arguments.only in (None, "gallery"):
        print(f"{QUERIES} samples in a gallery of {arguments.size} x {arguments.dim}")
        for what in ("ranks", "nearest"):
            found = measured("gallery", what, str(arguments.size), str(arguments.dim))
            print(f"  {what:8} {found['seconds']:6.1f} s, {found['cpu']:6.1f} s of processors   {found['MB']:6.0f} MB")
    if arguments.only in (None, "sets"):
        for size, dim, kinds in ((20_000, 512, ("frechet",)), (10_000, 2048, ("frechet", "kernel", "neighbours"))):
            print(f"two sets of {size} x {dim} against a third, one thread")
            for what in kinds:
                found = measured("sets", what, str(size), str(dim))
                took = f"{found['seconds']:6.1f} s, {found['cpu']:6.1f} s of processors"
                print(f"  {what:10} {took}   {found['MB']:6.0f} MB")
    if arguments.only in (None, "share"):
        print(f"time of a probe, {arguments.count} pictures at 32 x 32, {arguments.steps} sampling steps")
        for probe in arguments.probes.split(","):
            found = measured("share", probe, str(arguments.count), str(arguments.steps))
            rest = found["seconds"] - found["network"] - found["encoder"]
            parts = ((what, found[what]) for what in ("network", "encoder"))
            text = ", ".join(
                f"{what} {100 * value / found['seconds']:.1f}%" for what, value in (*parts, ("rest", rest))
            )
            print(f"  {probe:10} {found['seconds']:6.1f} s: {text}")


if __name__ == "__main__":
    main()
