"""Seconds and memory of one training step and one sampling step, as a table.

    python benchmarks/speed.py                       small-64, batch 16, h of 2048: both conditionings and precisions
    python benchmarks/speed.py --preset tiny-32 --batch-size 64 --precision float32

Every row is measured in a process of its own, so that no row profits from memory that another one left behind. A step
is timed as a whole: noise, network, loss, gradient, clipping, AdamW and EMA for training; one evaluation of the network
and one DPM-Solver++ update for sampling. The median of `--repeats` steps after two that are not counted. Run it on an
idle machine; `--memory default` shows what `rcdm_core.memory` is for.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

ROW = "{:<10} {:<8} {:<10} {:>12} {:>12} {:>12} {:>10}"


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median duration of a step."""
    import torch

    durations = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[2:])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One row: seconds a training step and a forward pass, and the process's largest size in GB."""
    import torch

    from rcdm_core.diffusion import Diffusion
    from rcdm_core.memory import keep_freed_memory
    from rcdm_core.precision import computing_in, resolve_device, resolve_precision
    from rcdm_core.presets import PRESETS
    from rcdm_core.samplers import sample
    from rcdm_core.training.ema import EMA
    from rcdm_core.unet import UNet

    if arguments.memory == "kept":
        keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = resolve_device(arguments.device)
    precision = resolve_precision(arguments.precision[0], device)
    preset = PRESETS[arguments.preset]
    network = UNet(preset.unet_config(arguments.conditioning[0], h_dim=arguments.h_dim)).to(device)
    diffusion, ema = Diffusion(preset.diffusion), EMA(network, preset.ema_decay)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=device.type in ("cpu", "cuda"))
    B, S = arguments.batch_size, preset.unet["image_size"]
    x0, h = torch.rand(B, 3, S, S, device=device) * 2 - 1, torch.randn(B, arguments.h_dim, device=device)
    count = 0

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with computing_in(precision, device):
            return network(x, t, h)

    def train() -> None:
        nonlocal count
        count += 1
        t, noise = torch.randint(0, 1000, (B,), device=device), torch.randn_like(x0)
        x_t = diffusion.q_sample(x0, t, noise)
        diffusion.losses(predict(x_t, t), x0, x_t, t, noise)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(count)

    row = {"train": seconds(train, arguments.repeats)}
    network.eval()
    row["sample"] = seconds(lambda: sample("dpm++", predict, diffusion, torch.randn_like(x0), 1), arguments.repeats)
    row["parameters"] = sum(p.numel() for p in network.parameters()) / 1e6
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small-64")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--h-dim", type=int, default=2048)
    parser.add_argument("--conditioning", nargs="+", default=["embedding", "batchnorm"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--memory", choices=["kept", "default"], default="kept")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)  # the process of one row
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments)))
        return
    print(f"{arguments.preset}, batch {arguments.batch_size}, h of {arguments.h_dim}, memory {arguments.memory}")
    print(ROW.format("condition", "format", "params (M)", "train s/step", "train img/s", "sample s", "peak GB"))
    for conditioning in arguments.conditioning:
        for precision in arguments.precision:
            command = [sys.executable, __file__, *sys.argv[1:], "--row"]
            command += ["--conditioning", conditioning, "--precision", precision]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(answer.splitlines()[-1])
            rate = arguments.batch_size / row["train"]
            numbers = [row["parameters"], row["train"], rate, row["sample"], row["memory"]]
            print(ROW.format(conditioning, precision, *(f"{number:.2f}" for number in numbers)), flush=True)


if __name__ == "__main__":
    main()
