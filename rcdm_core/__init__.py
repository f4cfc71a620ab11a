"""rcdm: see what a representation knows about an image, by sampling the images that share it.

    import rcdm_core as rcdm
    rcdm.providers()                                         {name: Provider}
    encoder = rcdm.load_encoder("dino-vitb16")               images [B, 3, H, W] in [0, 1] -> h [B, dim]
    file = rcdm.encode("dino-vitb16", "photos/", "h.safetensors")    a folder's representations
    model = rcdm.load("runs/dino-vitb16")                    a trained RCDM
    samples = model.sample(model.encode(images), n=8)        [B, 8, 3, S, S] in [0, 1]
    rcdm.run_probe("invariance", models=[model], images=["x.png"], out="out/")

Every name is imported when it is first used, so that `import rcdm_core` costs nothing: torch comes with the work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import load
    from .checkpoints import Checkpoint, read_checkpoint
    from .conformance import CheckResult, check_provider
    from .data.shapes import Shapes
    from .encoder import (
        Encoder,
        Fingerprint,
        compare_fingerprints,
        fingerprint,
        load_encoder,
        resize_for_encoder,
    )
    from .errors import RCDMError, UnreadableImage, first_line
    from .hookspecs import hookimpl, hookspec
    from .layers import at_layer
    from .model import RCDM
    from .probes import Context, Probe, Result, run_probe
    from .progress import Reporter
    from .provider import IMAGENET_MEAN, IMAGENET_STD, LAYER, Option, Provider, WeightsInfo
    from .registry import find_provider, providers
    from .representations import Representations, encode
    from .training import TrainConfig, each_checkpoint, train, train_each
    from .weights import load_into, read_state_dict, resolve_weights

__version__ = "0.1.0"

_HOME = {
    ".bundle": ("load",),
    ".checkpoints": ("Checkpoint", "read_checkpoint"),
    ".conformance": ("CheckResult", "check_provider"),
    ".data.shapes": ("Shapes",),
    ".encoder": (
        "Encoder",
        "Fingerprint",
        "compare_fingerprints",
        "fingerprint",
        "load_encoder",
        "resize_for_encoder",
    ),
    ".errors": ("RCDMError", "UnreadableImage", "first_line"),
    ".hookspecs": ("hookimpl", "hookspec"),
    ".layers": ("at_layer",),
    ".model": ("RCDM",),
    ".probes": ("Context", "Probe", "Result", "run_probe"),
    ".progress": ("Reporter",),
    ".provider": ("IMAGENET_MEAN", "IMAGENET_STD", "LAYER", "Option", "Provider", "WeightsInfo"),
    ".registry": ("find_provider", "providers"),
    ".representations": ("Representations", "encode"),
    ".training": ("TrainConfig", "each_checkpoint", "train", "train_each"),
    ".weights": ("load_into", "read_state_dict", "resolve_weights"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "__version__",
    "providers",
    "find_provider",
    "load_encoder",
    "Encoder",
    "load",
    "RCDM",
    "encode",
    "Representations",
    "train",
    "TrainConfig",
    "each_checkpoint",
    "train_each",
    "Reporter",
    "run_probe",
    "Probe",
    "Context",
    "Result",
    "Shapes",
    "Provider",
    "Option",
    "WeightsInfo",
    "hookimpl",
    "hookspec",
    "resolve_weights",
    "read_state_dict",
    "read_checkpoint",
    "Checkpoint",
    "load_into",
    "LAYER",
    "at_layer",
    "resize_for_encoder",
    "Fingerprint",
    "fingerprint",
    "compare_fingerprints",
    "CheckResult",
    "check_provider",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RCDMError",
    "UnreadableImage",
    "first_line",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_MODULE_OF))
