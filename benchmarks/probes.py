"""What probes cost beside the network that they look at.

    python benchmarks/probes.py                        all tables
    python benchmarks/probes.py --only gallery         ranks and nearest neighbours in a large gallery
    python benchmarks/probes.py --only sets            the measures of table 1a, of many pictures, on one thread

Gallery: what the probe `faithfulness` does with the h of 1,000 samples and its two galleries of 50,000 pictures by
2048 numbers, from encoding them (by a stand-in that takes no time; what it gives is kept on the disk, as ever) to the
table with its intervals; and the 10 nearest of 1,000 h in one gallery. Seconds (of processors too: the machine may be
shared), and the peak memory of the whole process, torch and the galleries (400 MB each) included.
Sets: two sets of h against a third, as the probe quality compares samples and real pictures, with their intervals.
Share: probes on held-out shapes at 32 x 32, with an untrained network of the preset tiny-32 (its time does not depend
on its weights); how much of a probe's time passes in the network, in the encoder, and in everything else: once with
an oracle as the encoder, once with a network of ResNet-50's size with random weights (--providers). What a process
loads once is not counted, and h of the pictures of the training is computed anew. Where more than 10% passes outside
the U-Net, the functions of everything else in which most of it passes are named, as a clock finds them every few
milliseconds. Every measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

QUERIES, NEIGHBOURS = 1000, 10


def gallery(what: str, size: int, dim: int) -> dict[str, float]:
    """One way of searching: seconds, and the peak memory in MB."""
    import torch  # noqa: F401  (every probe has it in memory)

    from rcdm_core.metrics.neighbours import Nearest

    if what == "faithfulness":
        return _faithfulness(size, dim)
    rng = np.random.default_rng(0)
    h = rng.standard_normal((size, dim), dtype=np.float32)
    targets = rng.integers(0, size, QUERIES)
    queries = h[targets] + rng.standard_normal((QUERIES, dim), dtype=np.float32)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    search = Nearest(queries, NEIGHBOURS)
    search.add(h)
    assert np.isfinite(search.squares).all()
    return _measured(begun, begun_cpu)


def _faithfulness(size: int, dim: int) -> dict[str, float]:
    """The probe's own functions, on pictures and an encoder that take no time: the gallery's h, and table 1b of it."""
    import torch

    from rcdm_core.probes import faithfulness
    from rcdm_core.probes.keeping import forget
    from rcdm_core.probes.pictures import Picture, Pictures
    from rcdm_core.progress import Reporter

    rng = np.random.default_rng(0)
    pixels = np.zeros((3, 8, 8), np.uint8)
    pictures = Pictures([Picture(f"{i:064x}", str(i), _never, lambda *_: pixels) for i in range(size)])
    model: Any = SimpleNamespace(
        name="stand-in",
        path=None,
        image_size=8,
        h_dim=dim,
        device="cpu",
        h_by_id=lambda ids, compute: compute(list(range(len(ids)))),
        encoder=SimpleNamespace(image_size=16, interpolation="bicubic"),  # so that its galleries are two
        config=SimpleNamespace(data=None),
        encode=lambda images: torch.from_numpy(rng.standard_normal((len(images), dim), dtype=np.float32)),
    )
    known = {"bundle_digest": "stand-in", "device": "cpu", "computes_in": "float32", "provider": "stand-in"}
    with tempfile.TemporaryDirectory() as folder:  # where what is encoded is kept, as in a probe's OUT
        context: Any = SimpleNamespace(
            progress=Reporter(), precision="float32", out=Path(folder), shared=None, kept=set(), places={}, known={}
        )
        context.known[id(model)] = known
        begun, begun_cpu = time.perf_counter(), time.process_time()
        h = faithfulness._gallery(context, model, pictures)
        found = (h["originals"][:QUERIES] + rng.standard_normal((QUERIES, dim), dtype=np.float32))[:, None]
        entry, _ = faithfulness._aggregate(h, found.astype(np.float64), [None] * QUERIES, np.ones(size, dtype=bool), 0)
        assert entry["galleries"]["originals"]["samples"]["mean_rank"]["value"] >= 1
        forget(context)
        return _measured(begun, begun_cpu)


def _never() -> Any:
    raise AssertionError("the original is not asked for")


def _measured(begun: float, begun_cpu: float) -> dict[str, float]:
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
    return _measured(begun, begun_cpu)


DATA_COUNT = 400  # of which half is held out
DATA = f"shapes:{DATA_COUNT}:3"
# All that draw samples, but `training`, which takes several models and is retention for each of them.
PROBES = (
    "samples,invariance,variance,retention,faithfulness,distances,neighbours,interpolation,arithmetic,manipulation,"
)
PROBES += "adversarial,linear-probe,confidence,class-mean,unconditional,quality,baselines"


class Clock:
    """Adds up the time that passes inside a module."""

    def __init__(self, module: Any) -> None:
        self.seconds, self.inside = 0.0, False
        self._begun = 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._begun, self.inside = time.perf_counter(), True

    def _end(self, *_: Any) -> None:
        self.seconds, self.inside = self.seconds + time.perf_counter() - self._begun, False


class Elsewhere(threading.Thread):
    """Looks every few milliseconds in which function of rcdm_core the main thread is, outside the clocks' modules."""

    def __init__(self, clocks: list[Clock]) -> None:
        super().__init__(daemon=True)
        self.found: Counter[str] = Counter()
        self.done = threading.Event()
        self._clocks, self._main = clocks, threading.main_thread().ident

    def run(self) -> None:
        while not self.done.wait(0.005):
            frame = sys._current_frames().get(self._main or 0)
            if any(clock.inside for clock in self._clocks):
                continue
            while frame is not None and "/rcdm_core/" not in frame.f_code.co_filename:
                frame = frame.f_back
            if frame is not None:
                self.found[f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"] += 1


def share(probe: str, provider: str, count: int, steps: int) -> dict[str, Any]:
    """One run of a probe: seconds in all, in the network and in the encoder, and where the rest passes."""
    import rcdm_core

    with tempfile.TemporaryDirectory() as folder:
        # One step: what the network has learnt does not change how long it takes.
        run, cache = Path(folder) / "run", Path(folder) / "cache"
        config = rcdm_core.TrainConfig(
            provider, data=DATA, held_out=DATA_COUNT // 2, steps=1, preview_every=0, out=run, cache=cache
        )
        model = rcdm_core.load(rcdm_core.train(config))
        shutil.rmtree(cache)  # h of its pictures is in there, and would not be computed: other pictures' has to be
        given: dict[str, Any] = {"models": [model], "data": DATA}
        # Once in a small way: what a process loads once, such as scikit-learn, is not the probe's.
        rcdm_core.run_probe(probe, out=Path(folder) / "small", count=min(count, 24), steps=1, **given)
        clocks = {"network": Clock(model.unet), "encoder": Clock(model.encoder)}
        elsewhere = Elsewhere([*clocks.values()])
        elsewhere.start()
        begun = time.perf_counter()
        rcdm_core.run_probe(probe, out=Path(folder) / "out", count=count, steps=steps, **given)
        seconds = time.perf_counter() - begun
        elsewhere.done.set()
        elsewhere.join()
    looks = max(1, elsewhere.found.total())
    places = [[name, number / looks] for name, number in elsewhere.found.most_common(4)]
    return {"seconds": seconds, **{name: clock.seconds for name, clock in clocks.items()}, "places": places}


def measured(*words: str) -> dict[str, Any]:
    """The same file in a new process."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *words],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | (threads if words[0] == "sets" else {}),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("gallery", "sets", "share"))
    parser.add_argument("--size", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--probes", default=PROBES)
    parser.add_argument("--providers", default="shapes-no-color,random-resnet50")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, what, *rest = arguments.measure
        if kind == "share":
            print(json.dumps(share(what, rest[0], *map(int, rest[1:]))))
        else:
            print(json.dumps((gallery if kind == "gallery" else sets)(what, *map(int, rest))))
        return
    if arguments.only in (None, "gallery"):
        print(f"{QUERIES} samples in a gallery of {arguments.size} x {arguments.dim}")
        for what in ("faithfulness", "nearest"):
            found = measured("gallery", what, str(arguments.size), str(arguments.dim))
            print(f"  {what:12} {found['seconds']:6.1f} s, {found['cpu']:6.1f} s of processors   {found['MB']:6.0f} MB")
    if arguments.only in (None, "sets"):
        for size, dim, kinds in ((20_000, 512, ("frechet",)), (10_000, 2048, ("frechet", "kernel", "neighbours"))):
            print(f"two sets of {size} x {dim} against a third, one thread")
            for what in kinds:
                found = measured("sets", what, str(size), str(dim))
                took = f"{found['seconds']:6.1f} s, {found['cpu']:6.1f} s of processors"
                print(f"  {what:10} {took}   {found['MB']:6.0f} MB")
    if arguments.only in (None, "share"):
        print(f"time of a probe, {arguments.count} pictures at 32 x 32, {arguments.steps} sampling steps")
        for provider in arguments.providers.split(","):
            print(f"  encoder: {provider}")
            for probe in arguments.probes.split(","):
                found = measured("share", probe, provider, str(arguments.count), str(arguments.steps))
                print(f"  {probe:14} {_said(found)}", flush=True)


def _said(found: dict[str, Any]) -> str:
    """One row: seconds, the shares, and where the rest passes if the network has less than nine tenths."""
    seconds = found["seconds"]
    rest = seconds - found["network"] - found["encoder"]
    parts = {"outside the U-Net": seconds - found["network"], "encoder": found["encoder"], "rest": rest}
    text = f"{seconds:6.1f} s: " + ", ".join(f"{what} {value / seconds:.1%}" for what, value in parts.items())
    if found["network"] < 0.9 * seconds:
        text += "; the rest: " + ", ".join(f"{name} {part:.0%}" for name, part in found["places"])
    return text


if __name__ == "__main__":
    main()
