"""Checkpoints of the released layouts with random weights, their pickles' foreign objects included."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

TOUCHED = "RCDM_TEST_TOUCHED"  # environment variable: the file that a poisoned pickle would create


class Poison:
    """Unpickled by running code, as a malicious file would be."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch "{os.environ[TOUCHED]}"',)


def foreign_object() -> object:
    """An instance and a function of a module that no reader has: what optimizers and configurations are pickled as."""
    module = types.ModuleType("classy_vision_absent")
    exec("class Config(dict):\n    pass\ndef exclude_bias(p):\n    return p.ndim == 1", module.__dict__)
    for name in ("Config", "exclude_bias"):
        getattr(module, name).__module__ = module.__name__
    sys.modules[module.__name__] = module
    config = module.Config(lr=0.1)
    config.name = "sgd"
    return {"config": config, "exclude": module.exclude_bias}


def save(content: object, path: Path, legacy: bool = False) -> Path:
    """torch.save, as an old torch wrote it if `legacy`; afterwards the foreign module is gone."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    sys.modules.pop("classy_vision_absent", None)
    return path


def resnet50(seed: int = 3) -> torchvision.models.ResNet:
    """torchvision's own network with random weights and batch-norm statistics that are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.resnet50(weights=None).eval()
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network


def below(state: dict[str, Tensor], prefix: str, drop: str = "fc.") -> dict[str, Tensor]:
    """A state dict with `prefix` before its names, without those that start with `drop`."""
    return {prefix + name: value for name, value in state.items() if not name.startswith(drop)}


def full_checkpoint(method: str, backbone: dict[str, Tensor], head: dict[str, Tensor]) -> dict[str, Any]:
    """The content of the file in which `method` releases backbone and projector together.

    backbone, head: tensors by their own names, without prefixes.
    """
    if method == "DINO":
        teacher = below(backbone, "module.backbone.") | below(head, "module.head.")
        teacher["module.head.last_layer.weight_v"] = torch.randn(8, 256)
        return {"teacher": teacher, "student": dict(teacher), "epoch": 3, "args": foreign_object()}
    if method == "VICReg":
        model = below(backbone, "module.backbone.") | below(head, "module.projector.")
        return {"epoch": 3, "model": model, "optimizer": foreign_object()}
    if method == "SwAV":
        flat = below(backbone, "module.") | below(head, "module.projection_head.")
        return flat | {"module.prototypes.weight": torch.randn(30, 128)}
    model = {"trunk": below(backbone, "_feature_blocks."), "heads": head}
    return {"classy_state_dict": {"base_model": {"model": model}, "hooks": foreign_object()}, "phase_idx": 9}
