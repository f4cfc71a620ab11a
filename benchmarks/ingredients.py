"""What each ingredient of the training recipe gives: the recipe, then the recipe with one thing changed, as a table.

    python benchmarks/ingredients.py --data data/clipart --steps 1000 --out runs/ingredients

Conditioning is by `embedding` unless a row says otherwise. Every run has the same number of steps and sees the same
pictures in the same order (except where the batch is what is changed: then the number of pictures is the same). Ranks
are those of `rcdm evaluate` (table 1b) among up to 512 held-out pictures. The error is that of v on held-out pictures,
averaged over all noise levels, whatever the network predicts, with x_0 clipped as the samplers do. The precision is
`auto`'s where a row does not say otherwise. What is finished is not repeated, so the script can be stopped and started
again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import rcdm_core as rcdm
from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.naming import as_folder
from rcdm_core.presets import PRESETS
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.pictures import default_data, fit_of, held_out, read_arrays
from rcdm_core.training import TrainConfig, stopped, train

EPSILON = DiffusionConfig(schedule="cosine", prediction="epsilon", variance="learned_range")
LINEAR = DiffusionConfig(schedule="linear", prediction="v", variance="fixed_small")
UNET = dict(PRESETS["tiny-32"].unet)
# facebookresearch/RCDM's: learning rate 1e-4, no schedule, no clipping, float32.
REFERENCE = {
    "diffusion": DiffusionConfig(schedule="linear", prediction="epsilon", variance="learned_range"),
    "unet": {**UNET, "norm_groups": 32, "emb_channels": 0, "resblock_updown": True},
    "betas": (0.9, 0.999),
    "optimizer": "adamw",
    "h_lr": 1.0,
}
FIXED = {
    **{"precision": "float32", "standardise": False, "lr": 1 / 30, "lr_schedule": "constant", "clip": 0.0},
    "warmup": 0,
}

#: name -> (changes of the preset, changes of the run's arguments)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the recipe": ({}, {}),
    "AdamW for every weight": ({"optimizer": "adamw"}, {}),
    "batchnorm": ({}, {"conditioning": "batchnorm"}),
    "residual blocks that resample": ({"unet": {**UNET, "resblock_updown": True}}, {}),
    "an embedding of 128": ({"unet": {**UNET, "emb_channels": 0}}, {}),
    "h not standardised": ({}, {"standardise": False}),
    "epsilon, learned variance": ({"diffusion": EPSILON}, {}),
    "linear noise schedule": ({"diffusion": LINEAR}, {}),
    "lr constant": ({}, {"lr_schedule": "constant"}),
    "no EMA": ({}, {"ema": 0.0}),
    "the reference's recipe": (REFERENCE, FIXED | {"ema": 0.9999}),
    "float32": ({}, {"precision": "float32"}),
    "bf16": ({}, {"precision": "bf16"}),
    "32 norm groups": ({"unet": {**UNET, "norm_groups": 32}}, {}),
    "beta2 0.999": ({"betas": (0.9, 0.999)}, {}),
    "h's layers at 0.3": ({}, {"h_lr": 0.3}),
    "batchnorm, h's layers at 0.3": ({}, {"conditioning": "batchnorm", "h_lr": 0.3}),
    "h's layers at the full rate": ({}, {"h_lr": 1.0}),
    "lr a third": ({}, {"lr": 1 / 3}),
    "lr twice": ({}, {"lr": 2.0}),
    "no clipping": ({}, {"clip": 0.0}),
    "no flips": ({}, {"flip": False}),
    "batch doubled": ({}, {"batch_size": 2}),
}
ROW = "{:<28} {:>6} {:>7} {:>10} {:>22} {:>22} {:>7}"


def held_out_error(model: rcdm.RCDM, count: int) -> float:
    """Mean squared error of v over `count` held-out pictures, each at eight noise levels that are far apart."""
    pictures = held_out(default_data(model), [model], count=count)
    x0 = torch.from_numpy(read_arrays(pictures, model.image_size, fit_of(model))) * 2 - 1
    h, diffusion = torch.from_numpy(h_of(model, pictures)), model.diffusion
    alpha_bar = torch.from_numpy(diffusion.alpha_bar).float()
    generator, total = torch.Generator().manual_seed(0), 0.0
    levels = (torch.arange(8 * len(x0)) + 0.5) / (8 * len(x0)) * len(diffusion)
    for t in levels.long().view(8, len(x0)):
        x_t = diffusion.q_sample(x0, t, torch.randn(x0.shape, generator=generator))
        with torch.no_grad():
            found = torch.cat(
                [
                    diffusion.reverse(model.unet(*part), part[0], part[1]).x0
                    for part in zip(x_t.split(64), t.split(64), h.split(64), strict=True)
                ]
            )
        # v = (sqrt(alpha_bar) x_t - x_0) / sqrt(1 - alpha_bar), so that at one x_t the errors are proportional.
        total += float(((found - x0).square().mean((1, 2, 3)) / (1 - alpha_bar[t])).mean()) / 8
    return total


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one variant, or take it as it is, and rank its samples."""
    in_preset, in_run = VARIANTS[name]
    in_run = dict(in_run)
    preset = replace(PRESETS["tiny-32"], name="ingredients", **in_preset)
    PRESETS["ingredients"] = preset
    factor = in_run.pop("batch_size", 1)
    lr = preset.lr * in_run.pop("lr", 1.0)
    settings = {"lr_schedule": "cosine", "conditioning": "embedding", **in_run}
    config = TrainConfig(
        provider=arguments.provider,
        data=arguments.data,
        fit="pad",
        held_out=512,
        preset="ingredients",
        steps=arguments.steps // factor,
        batch_size=preset.batch_size * factor,
        lr=lr,
        out=Path(arguments.out) / f"{as_folder(name.replace(',', ''))}-{arguments.steps}",
        save_every=10**6,
        resume=True,
        seed=arguments.seed,
        **settings,
    )
    path = train(config)
    if stopped(config, path):  # by Ctrl-C: what it has so far is no row of the table
        raise KeyboardInterrupt
    found = path / f"faithfulness-{arguments.count}" / "result.json"
    # A probe writes its result before it computes, without figures.
    aggregates = json.loads(found.read_text(encoding="utf-8"))["aggregates"] if found.is_file() else {}
    if not aggregates:
        result = rcdm.run_probe("faithfulness", models=[path], out=found.parent, count=arguments.count, rows=0)
        aggregates = result.aggregates
    model = rcdm.load(path)
    aggregate = aggregates[model.name]
    error = held_out_error(model, arguments.count)
    return {**aggregate, "seconds": model.config.seconds, "steps": config.steps, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder that benchmarks/clipart.py made")
    parser.add_argument("--provider", default="custom:docs/examples/efficientnet_lite.py:backbone")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--count", type=int, default=512, help="held-out pictures that samples are drawn of")
    parser.add_argument("--out", default="runs/ingredients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    print(ROW.format("variant", "steps", "error", "mean rank", "MRR (95%)", "MRR at image size", "s/step"))
    for name in arguments.only:
        found = run(name, arguments)
        shown = []
        for gallery in ("originals", "at image size"):
            mrr = found["galleries"][gallery]["samples"]["mrr"]
            shown.append(f"{mrr['value']:.3f} ({mrr['low']:.3f}, {mrr['high']:.3f})")
        mean = found["galleries"]["originals"]["samples"]["mean_rank"]["value"]
        per_step = found["seconds"] / found["steps"]
        cells = (name, found["steps"], f"{found['error']:.4f}", f"{mean:.1f}", *shown, f"{per_step:.2f}")
        print(ROW.format(*cells), flush=True)


if __name__ == "__main__":
    main()
