"""The layouts in which methods release their encoders: where the backbone's tensors are, and where the projector's.

A checkpoint is recognised by what it holds, not by its name, so that a file of another method is refused with the
method that it looks like, and one full checkpoint serves backbone and projector.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import RCDMError
from .weights import read_content, some

Tensors = dict[str, Tensor]
SUPERVISED = "supervised training"  # the method of a ResNet with a classifier
_log = logging.getLogger(__name__)

# Prefixes that training scripts put before a network's own names.
_WRAPPERS = ("module.", "_orig_mod.")
# What follows the representation and is no part of it: DINO's prototypes, SwAV's, and classifiers.
_NOT_REPRESENTATION = ("last_layer.", "prototypes.", "fc.")


@dataclass(frozen=True)
class Checkpoint:
    """A released file, taken apart.

    path      for messages
    layout    in words
    method    that it looks like; None where nothing in it tells (a backbone alone)
    backbone  name -> tensor, prefixes removed
    head      the projector's, with the names below its prefix; empty where the file has none
    ignored   names of tensors that are part of neither: prototypes, classifiers
    """

    path: Path
    layout: str
    method: str | None
    backbone: Tensors
    head: Tensors
    ignored: tuple[str, ...] = ()

    def expect(self, method: str, *, provider: str, head: bool = False) -> Checkpoint:
        """Itself, if it can be a checkpoint of `method`, with a projector if `head`.

        Raises RCDMError that says which method the file looks like, or that it has a backbone alone.
        """
        if self.method not in (None, method):
            raise RCDMError(
                f"{self.path} looks like a checkpoint of {self.method} ({self.layout}), but {provider} expects one of "
                f"{method}; give another file with --weights, or the provider that is made for it"
            )
        if head and not self.head:
            raise RCDMError(
                f"{self.path} holds no projector ({self.layout}), which {provider} needs; give the full checkpoint of "
                f"{method} with --weights"
            )
        return self


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint as its authors released it; what its pickle names is never run.

    Layouts: VISSL, VISSL converted to a flat dictionary, DINO (teacher), VICReg, SwAV and DeepCluster-v2, and plain
    state dicts with or without the prefix `module.`. Raises RCDMError for a file that cannot be read or holds no
    tensors.
    """
    path = Path(path)
    content = read_content(path)
    for recognise in (_vissl, _dino, _vicreg, _converted, _flat):
        found = recognise(path, content)
        if found is not None:
            if found.ignored:
                names = ", ".join(found.ignored)
                _log.info("%s (%s): left out, as no part of the representation: %s", path, found.layout, names)
            if found.head:
                names = ", ".join(found.head)
                _log.info("%s (%s): of the projector, which is for a -head alone: %s", path, found.layout, names)
            return found
    held = some([str(key) for key in content]) if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise RCDMError(f"{path} holds no state dict of tensors that is known here, but {held or 'nothing'}")


def _vissl(path: Path, content: Any) -> Checkpoint | None:
    model = _at(content, "classy_state_dict", "base_model", "model")
    trunk = _tensors(_at(model, "trunk"))
    if trunk is None:
        return None
    heads = _at(model, "heads")
    head = _tensors(heads) or {}
    # Heads of no tensors, or of more than tensors, are nobody's projector.
    others = tuple(map(str, heads)) if isinstance(heads, Mapping) and not head else ()
    backbone = _stripped(trunk, "_feature_blocks.")
    return Checkpoint(path, "VISSL's layout", _vissl_method(head), backbone, head, others)


def _vissl_method(head: Tensors) -> str | None:
    """VISSL's heads are numbered and look alike; their sizes tell. MoCo-v2's is SimCLR's: nothing in it tells them
    apart."""
    if not head:
        return None
    first, second = head.get("0.clf.0.weight"), head.get("1.clf.0.weight")
    if first is not None and second is not None:
        if "0.clf.1.running_mean" in head and "2.clf.0.weight" in head:
            return "Barlow Twins"
        if len(first) == first.shape[1] and "0.clf.0.bias" in head and "2.clf.0.weight" not in head:
            return "SimCLR"
    return "another method of VISSL"


def _dino(path: Path, content: Any) -> Checkpoint | None:
    teacher = _tensors(_at(content, "teacher"))
    if teacher is None:
        return None
    return _split(path, "DINO's layout, its teacher", "DINO", teacher, "backbone.", "head.")


def _vicreg(path: Path, content: Any) -> Checkpoint | None:
    model = _tensors(_at(content, "model"))
    if model is None or not _below(_unwrapped(model), "projector."):
        return None
    return _split(path, "VICReg's layout", "VICReg", model, "backbone.", "projector.")


def _converted(path: Path, content: Any) -> Checkpoint | None:
    model = _tensors(_at(content, "model_state_dict"))
    if model is None or not _below(model, "_feature_blocks."):
        return None
    return Checkpoint(path, "VISSL's converted layout", None, _stripped(model, "_feature_blocks."), {})


def _flat(path: Path, content: Any) -> Checkpoint | None:
    for inner in (content, *(_at(content, key) for key in ("state_dict", "model", "model_state_dict"))):
        tensors = _tensors(inner)
        if tensors:
            names = _unwrapped(tensors)
            head = _below(names, "projection_head.")
            # DeepCluster-v2 has one set of prototypes for each clustering, SwAV one alone.
            method = ("SwAV" if "prototypes.weight" in names else "DeepCluster-v2") if head else None
            if "fc.weight" in names and "layer4.0.conv1.weight" in names:
                method = method or SUPERVISED  # released self-supervised ResNets have no classifier
            layout = "SwAV's layout" if head else "a plain state dict"
            backbone = {name: value for name, value in names.items() if not name.startswith("projection_head.")}
            return _parted(path, layout, method, backbone, head)
    return None


def _split(path: Path, layout: str, method: str, tensors: Tensors, backbone: str, head: str) -> Checkpoint:
    names = _unwrapped(tensors)
    return _parted(path, layout, method, _stripped(names, backbone, but=head), _below(names, head))


def _parted(path: Path, layout: str, method: str | None, backbone: Tensors, head: Tensors) -> Checkpoint:
    """With what is no part of the representation named instead of kept."""
    ignored = [name for part in (backbone, head) for name in part if name.startswith(_NOT_REPRESENTATION)]
    backbone, head = (
        {name: value for name, value in part.items() if not name.startswith(_NOT_REPRESENTATION)}
        for part in (backbone, head)
    )
    return Checkpoint(path, layout, method, backbone, head, tuple(ignored))


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _tensors(content: Any) -> Tensors | None:
    """`content` if it is a state dict: text -> tensors, at least one."""
    if not isinstance(content, Mapping) or not content:
        return None
    holds = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    return dict(content) if holds else None


def _unwrapped(tensors: Tensors) -> Tensors:
    for prefix in (*_WRAPPERS, *_WRAPPERS):  # one may be inside the other, in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = _below(tensors, prefix)
    return tensors


def _stripped(tensors: Tensors, prefix: str, but: str | None = None) -> Tensors:
    """Without the prefix. What does not have it stays as it is, so that a network that has no place for it says so,
    except what begins with `but`."""
    kept = {name: value for name, value in tensors.items() if but is None or not name.startswith(but)}
    return {name.removeprefix(prefix): value for name, value in kept.items()}


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
