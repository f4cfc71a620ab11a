"""How fast `rcdm encode` is beside a plain loop, whether its memory grows, and how long `rcdm providers` takes.

    python benchmarks/encode.py                              all three tables
    python benchmarks/encode.py --images 256 --repeats 1 --only speed

Speed: JPEG files of 500 x 375, drawn from a fixed seed, through a ResNet-50 and a ViT-B/16 with random weights. The
plain loop is what one writes without this project: Pillow, torchvision's Resize(256, bicubic), CenterCrop(224),
ToTensor and Normalize, float32, batches of 32, the same number of threads. Every measurement is a process of its own,
and the three take turns, so that what else runs on the machine falls on all of them; ratios are taken within a turn.
What is timed of `rcdm encode` is all of it but loading the encoder: scanning the folder, the fingerprint, reading,
encoding, and the finished file on disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NETWORKS = {"ResNet-50": "random-resnet50", "ViT-B/16": "timm:vit_base_patch16_224"}
WAYS = ("plain", "float32", "bf16")
SIZE = (500, 375)
BATCH = 32


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files that are about as hard to decode as photographs: colours at every scale, and some noise."""
    folder.mkdir()
    for number in range(count):
        random = np.random.RandomState(number)
        picture = np.zeros((size[1], size[0], 3), np.float32)
        for side, strength in ((4, 90), (16, 40), (64, 20)):
            coarse = Image.fromarray(random.randint(0, 256, (side * 3 // 4, side, 3)).astype(np.uint8))
            picture += strength / 128 * (np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32) - 128)
        picture += 128 + random.standard_normal(picture.shape) * 4
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=90)


def random_weights(provider: str, folder: Path) -> str | None:
    """A file of random weights for a provider that has none of its own."""
    import timm
    import torch

    if not provider.startswith("timm:"):
        return None
    path = folder / "weights.pth"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model(provider.removeprefix("timm:"), num_classes=0).state_dict(), path)
    return str(path)


def seconds(way: str, provider: str, weights: str | None, folder: Path, threads: int) -> float:
    """One measurement, in the process that was started for it."""
    import torch

    import rcdm_core

    torch.set_num_threads(threads)
    encoder = rcdm_core.load_encoder(provider, weights=weights)
    if way == "plain":
        begun = time.perf_counter()
        plain_loop(encoder, folder)
        return time.perf_counter() - begun
    loaded = dataclasses.replace(rcdm_core.find_provider(provider), load=lambda **_: encoder)
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        rcdm_core.encode(loaded, folder, Path(out) / "h.safetensors", precision=way, device="cpu")
        return time.perf_counter() - begun


def plain_loop(encoder: object, folder: Path) -> object:
    """h [N, dim] of a folder as one writes it down at first."""
    import torch
    from torchvision import transforms

    from rcdm_core import Encoder

    assert isinstance(encoder, Encoder)
    prepare = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()),
        ]
    )
    files, parts = sorted(folder.iterdir()), []
    with torch.no_grad():
        for start in range(0, len(files), BATCH):
            images = [prepare(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
            parts.append(encoder.network(torch.stack(images)))
    return torch.cat(parts)


def speed(arguments: argparse.Namespace, work: Path) -> None:
    """The table of images per second."""
    folder = work / "photos"
    draw(folder, arguments.images, SIZE)
    print(f"images per second, {arguments.images} JPEG files of {SIZE[0]} x {SIZE[1]}, {arguments.threads} threads")
    print(f"{'':<10} {'plain':>8} {'float32':>8} {'bf16':>8} {'float32/plain':>14} {'bf16/plain':>11}")
    for title in arguments.networks:
        provider = NETWORKS[title]
        weights = random_weights(provider, work)
        turns: list[dict[str, float]] = []
        for turn in range(arguments.repeats):
            found = {}
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                command = [sys.executable, __file__, "--measure", way, provider, weights or "", str(folder)]
                environment = {**os.environ, "RCDM_CACHE": str(work / "cache")}
                command += ["--threads", str(arguments.threads)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
                found[way] = arguments.images / json.loads(answer.splitlines()[-1])
            turns.append(found)
        rates = [statistics.median(found[way] for found in turns) for way in WAYS]
        ratios = [statistics.median(found[way] / found["plain"] for found in turns) for way in WAYS[1:]]
        print(
            f"{title:<10} {rates[0]:>8.1f} {rates[1]:>8.1f} {rates[2]:>8.1f} {ratios[0]:>14.2f} {ratios[1]:>11.2f}",
            flush=True,
        )


def memory(arguments: argparse.Namespace, work: Path) -> None:
    """The table of the largest size of `rcdm encode`."""
    print("\nlargest size of rcdm encode, shapes-all on JPEG files of 64 x 64")
    sizes = []
    for count in arguments.counts:
        folder = work / f"small-{count}"
        draw(folder, count, (64, 64))
        command = [sys.executable, "-m", "rcdm_cli.main", "encode", "--provider", "shapes-all", "--data", str(folder)]
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--out", str(work / f"h-{count}.safetensors")],
            env={**os.environ, "RCDM_CACHE": str(work / "cache"), "OMP_NUM_THREADS": str(arguments.threads)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit("rcdm encode failed")
        sizes.append(usage.ru_maxrss / 1024)
        print(f"{count:>8} files {sizes[-1]:>8.0f} MB {sizes[-1] / sizes[0]:>8.3f}", flush=True)


def listing() -> None:
    """How long `rcdm providers` takes."""
    durations = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rcdm_cli.main", "providers"], check=True, stdout=subprocess.DEVNULL)
        durations.append(time.perf_counter() - begun)
    print(f"\nrcdm providers: {statistics.median(durations):.2f} s (median of 5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3, help="turns of the three ways")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 20000], help="files for the memory")
    parser.add_argument("--only", choices=["speed", "memory", "providers"])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)  # the process of one measurement
    arguments = parser.parse_args()
    if arguments.measure:
        way, provider, weights, folder = arguments.measure
        print(json.dumps(seconds(way, provider, weights or None, Path(folder), arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as work:
        if arguments.only in (None, "speed"):
            speed(arguments, Path(work))
        if arguments.only in (None, "memory"):
            memory(arguments, Path(work))
    if arguments.only in (None, "providers"):
        listing()


if __name__ == "__main__":
    main()
