"""What each ingredient of the training recipe gives: the recipe, then the recipe with one thing changed, as a table.

    python benchmarks/ingredients.py --data data/clipart --steps 600 --out runs/ingredients

Every run has the same number of steps and sees the same pictures in the same order (except where the batch is what is
changed: then the number of pictures is the same). Ranks are those of `rcdm evaluate` (table 1b) among the 512 held-out
pictures. The precision is `auto`'s where a row does not say otherwise. What is finished is not repeated, so the script
can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import rcdm_core as rcdm
from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.presets import PRESETS
from rcdm_core.training import TrainConfig, train

EPSILON = DiffusionConfig(schedule="cosine", prediction="epsilon", variance="learned_range")
LINEAR = DiffusionConfig(schedule="linear", prediction="v", variance="fixed_small")
FIXED = {"precision": "float32", "standardise": False, "lr": 0.1, "lr_schedule": "constant", "clip": 0.0, "ema": 0.9999}
REFERENCE = DiffusionConfig(schedule="linear", prediction="epsilon", variance="learned_range")

#: name -> (changes of the preset, changes of the run's arguments)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the recipe": ({}, {}),
    "conditioning by embedding": ({}, {"conditioning": "embedding"}),  # the groups' row is compared with this one
    "float32": ({}, {"precision": "float32"}),
    "bf16": ({}, {"precision": "bf16"}),
    "epsilon, learned variance": ({"diffusion": EPSILON}, {}),
    "linear noise schedule": ({"diffusion": LINEAR}, {}),
    "h not standardised": ({}, {"standardise": False}),
    "32 norm groups": ({"unet": {**PRESETS["tiny-32"].unet, "norm_groups": 32}}, {"conditioning": "embedding"}),
    "beta2 0.999": ({"betas": (0.9, 0.999)}, {}),
    "h's layers at the full rate": ({}, {"h_lr": 1.0}),
    "lr a tenth": ({}, {"lr": 0.1}),
    "lr twice": ({}, {"lr": 2.0}),
    "lr constant": ({}, {"lr_schedule": "constant"}),
    "no EMA": ({}, {"ema": 0.0}),
    "no clipping": ({}, {"clip": 0.0}),
    "no flips": ({}, {"flip": False}),
    "batch doubled": ({}, {"batch_size": 2}),
    "the reference's recipe": ({"diffusion": REFERENCE}, FIXED),
}
ROW = "{:<28} {:>8} {:>10} {:>22} {:>24} {:>8}"


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one variant, or take it as it is, and rank its samples."""
    in_preset, in_run = VARIANTS[name]
    in_run = dict(in_run)
    preset = replace(PRESETS["tiny-32"], name="ingredients", **in_preset)
    PRESETS["ingredients"] = preset
    factor = in_run.pop("batch_size", 1)
    lr = preset.lr * in_run.pop("lr", 1.0)
    settings = {"lr_schedule": "cosine", **in_run}
    config = TrainConfig(
        provider=arguments.provider,
        data=arguments.data,
        fit="pad",
        held_out=512,
        preset="ingredients",
        steps=arguments.steps // factor,
        batch_size=preset.batch_size * factor,
        lr=lr,
        out=Path(arguments.out) / name.replace(" ", "-").replace(",", "").replace("'", ""),
        save_every=10**6,
        resume=True,
        seed=arguments.seed,
        **settings,
    )
    path = train(config)
    found = path / "faithfulness" / "result.json"
    # A probe writes its result before it computes, without figures.
    aggregates = json.loads(found.read_text(encoding="utf-8"))["aggregates"] if found.is_file() else {}
    if not aggregates:
        result = rcdm.run_probe("faithfulness", models=[path], out=found.parent, seed=arguments.seed, rows=0)
        aggregates = result.aggregates
    (aggregate,) = aggregates.values()
    return {**aggregate, "seconds": rcdm.load(path).config.seconds, "steps": config.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder that benchmarks/clipart.py made")
    parser.add_argument("--provider", default="custom:docs/examples/efficientnet_lite.py:backbone")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", default="runs/ingredients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    print(ROW.format("variant", "steps", "mean rank", "MRR (95%)", "MRR at image size", "s/step"))
    for name in arguments.only:
        found = run(name, arguments)
        shown = []
        for gallery in ("originals", "at image size"):
            mrr = found["galleries"][gallery]["samples"]["mrr"]
            shown.append(f"{mrr['value']:.3f} ({mrr['low']:.3f}, {mrr['high']:.3f})")
        mean = found["galleries"]["originals"]["samples"]["mean_rank"]["value"]
        per_step = found["seconds"] / found["steps"]
        print(ROW.format(name, found["steps"], f"{mean:.1f}", *shown, f"{per_step:.2f}"), flush=True)


if __name__ == "__main__":
    main()
