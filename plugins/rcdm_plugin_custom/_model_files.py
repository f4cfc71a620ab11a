"""custom:FILE.pt, FILE.pt2 and FILE.onnx: the provider of a model that needs no code of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rcdm_core import Option, Provider, RCDMError

from ._options import PREPROCESSING, check_image_size

if TYPE_CHECKING:
    from rcdm_core import Encoder

SUMMARIES = {
    ".pt": "the TorchScript model in {file}",
    ".pt2": "the torch.export program in {file}; loading one can run code, as a Python file does: trust who made it",
    ".onnx": "the ONNX model in {file}, run by onnxruntime on the CPU; not differentiable",
}
OPTIONS = {
    "image_size": Option(int, None, "side of the square pictures, in pixels; nothing: what the file says, or 224"),
    "output": Option(str, None, "which of several outputs is h: its name, or its number from 0; nothing: the first"),
    **PREPROCESSING,
}


def is_model_file(rest: str) -> bool:
    """Whether a provider's name without its prefix is one of a model file."""
    return Path(rest).suffix.lower() in SUMMARIES


def resolve(name: str, rest: str) -> Provider:
    """See the package's `rcdm_resolve`."""
    path = Path(os.path.abspath(os.path.expanduser(rest)))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else f"does not exist in {Path.cwd()}"
        raise RCDMError(f"{rest} in {name!r} {what}: give the path of a model file")
    kind = path.suffix.lower()
    return Provider(
        name=f"custom:{path}",
        summary=SUMMARIES[kind].format(file=rest),
        load=partial(load, name, path),
        image_size=None,
        options=OPTIONS,
        source=path,
    )


def load(
    name: str,
    path: Path,
    *,
    weights: str | None = None,
    image_size: int | None,
    output: str | None,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
) -> Encoder:
    """Read the model. Raises RCDMError for a file of another kind or one that is damaged, for a model that does not
    take pictures, and for another size or output than it has.
    """
    check_image_size(name, image_size)
    if weights is not None:
        raise RCDMError(f"{path} holds weights of its own: leave out --weights {weights}")
    from rcdm_core import Encoder

    from ._network import FileNetwork

    network: FileNetwork
    if path.suffix.lower() == ".onnx":
        from ._onnx import OnnxNetwork

        network = OnnxNetwork(path, output)
    else:
        from ._torch import ExportedNetwork, ScriptNetwork

        network = ScriptNetwork(path, output) if path.suffix.lower() == ".pt" else ExportedNetwork(path, output)
    own = network.takes.size
    if image_size is not None and own not in (None, image_size):
        raise RCDMError(
            f"option image_size of provider {name} is {image_size}, but {path.name} takes pictures of {own} x {own}: "
            "leave it out"
        )
    return Encoder(network, image_size=image_size or own or 224, mean=mean, std=std, interpolation=interpolation)
