"""A trained RCDM on disk: one file that holds weights and config, so that one rename switches both.

    RUN/model.safetensors     the averaged weights, statistics of h, the encoder's fingerprint; config in the metadata
    RUN/config.json           the same config for people
    RUN/log.jsonl, preview.png, training/        see `training`

A digest over the config and every tensor is in the metadata: a file that was cut, edited or damaged is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rcdm_core.atomic import make_folder, replace_text, replacing
from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.errors import RCDMError
from rcdm_core.provider_record import ProviderRecord
from rcdm_core.unet import UNetConfig

if TYPE_CHECKING:
    from rcdm_core.model import RCDM

FORMAT_VERSION = 1
FILE_NAME = "model.safetensors"


@dataclass(frozen=True)
class DataRecord:
    """The images of a bundle. Which ones were trained on is the tensor `train_ids`."""

    description: dict[str, Any]
    fit: str                            # crop or pad
    fingerprint: str                    # of the set of content ids
    train_count: int
    held_out: tuple[str, ...]           # content ids, hexadecimal


@dataclass(frozen=True)
class BundleConfig:
    """Everything about a trained RCDM but its tensors."""

    unet: UNetConfig
    diffusion: DiffusionConfig
    provider: ProviderRecord
    data: DataRecord | None             # None: imported, the data is not known
    preset: str | None
    step: int
    images_seen: int
    seconds: float
    seed: int
    arguments: dict[str, Any]           # of the training, as they were given
    versions: dict[str, str]
    recipe: dict[str, Any] = field(default_factory=dict)    # the optimisation, the preset's share of it included
    changes: list[dict[str, Any]] = field(default_factory=list)     # that resumes made: step, option, was, now
    licence: str | None = None          # of the encoder's weights
    representations: dict[str, Any] | None = None   # the file that h was taken from; None: computed by the training
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BundleConfig:
        """The inverse of `to_dict`. Raises ValueError, TypeError or KeyError where something is missing."""
        found = _known(cls, values)
        found["unet"] = UNetConfig.from_dict(found["unet"])
        found["diffusion"] = DiffusionConfig.from_dict(found["diffusion"])
        found["provider"] = ProviderRecord.from_dict(found["provider"])
        if found["data"] is not None:
            data = _known(DataRecord, found["data"])
            found["data"] = DataRecord(**{**data, "held_out": tuple(data["held_out"])})
        return cls(**found)


def _known(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what an earlier version recorded and this one has no use for."""
    names = {entry.name for entry in fields(record)}
    return {name: value for name, value in values.items() if name in names}


@dataclass(frozen=True)
class Contents:
    """The tensors of a bundle.

    unet: state dict; h_mean, h_std: [dim], what the network standardises h with (zeros and ones: it does not);
    fingerprint_h: [n, dim], the encoder's h on the test images; train_ids: int64 [N], the first 8 bytes of the content
    ids that were trained on, sorted (None: not known).
    """

    unet: dict[str, Tensor]
    h_mean: Tensor
    h_std: Tensor
    fingerprint_h: Tensor
    train_ids: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """As they are named in the file."""
        tensors = {f"unet.{name}": value for name, value in self.unet.items()}
        tensors |= {"h_mean": self.h_mean, "h_std": self.h_std, "fingerprint.h": self.fingerprint_h}
        if self.train_ids is not None:
            tensors["train_ids"] = self.train_ids
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Contents:
        """The inverse of `named`. Raises KeyError where one is missing."""
        unet = {name[5:]: value for name, value in tensors.items() if name.startswith("unet.")}
        return cls(unet, tensors["h_mean"], tensors["h_std"], tensors["fingerprint.h"], tensors.get("train_ids"))


def id_prefix(content_id: str) -> int:
    """The first 8 bytes of a content id as the signed integer that `train_ids` holds."""
    return int.from_bytes(bytes.fromhex(content_id[:16]), "big", signed=True)


def save(folder: str | Path, config: BundleConfig, contents: Contents) -> Path:
    """Write a bundle; the one that is there, if any, is replaced in one rename. Returns the folder.

    Raises RCDMError when the disk is full or not writable; the old bundle is then unchanged.
    """
    folder = make_folder(Path(folder))
    tensors = contents.named()
    text = json.dumps(config.to_dict(), sort_keys=True)
    with replacing(folder / FILE_NAME) as temporary:
        save_file(tensors, temporary, {"config": text, "digest": _digest(text, tensors)})
    replace_text(folder / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    return folder


def read(path: str | Path) -> tuple[BundleConfig, Contents]:
    """Read a bundle (its folder, or the file in it) and check it against its digest.

    Raises RCDMError when there is none, it may not be read, is cut or edited, or was written by a newer version.
    """
    file = _file_of(Path(path))
    try:
        with file.open("rb"):  # of one that may not be read safetensors says that it is not there
            pass
        with safe_open(str(file), framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise RCDMError(f"No permission to read {file}; check who owns it.") from error
    except (SafetensorError, OSError) as error:
        raise RCDMError(f"{file} is damaged or was cut short ({error}); copy it again or train anew.") from error
    if "config" not in metadata or "digest" not in metadata:
        raise RCDMError(f"{file} holds tensors but is not a bundle of rcdm; expected one that `rcdm train` wrote.")
    if _digest(metadata["config"], tensors) != metadata["digest"]:
        raise RCDMError(f"{file} was edited or damaged after it was written; copy it again or train anew.")
    values = json.loads(metadata["config"])
    try:
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise RCDMError(f"{file} was written by a newer version of rcdm; update with pip install -U rcdm.")
        return BundleConfig.from_dict(values), Contents.of(tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise RCDMError(f"{file} has a config that this version of rcdm cannot read ({error}).") from error


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    check_encoder: bool = True,
    provider: str | None = None,
    weights: str | None = None,
) -> RCDM:
    """Load a trained RCDM.

    path            the run's folder
    check_encoder   load the encoder now and compare its fingerprint; otherwise that happens at the first `encode`
    provider        its name, where it has changed since the training (a custom: file that was moved)
    weights         its checkpoint, where that has moved

    Raises RCDMError for a missing, cut or edited bundle, a provider that is not installed, and an encoder that is not
    the one of the training.
    """
    from rcdm_core.model import RCDM
    from rcdm_core.precision import resolve_device

    config, contents = read(path)
    file = _file_of(Path(path))
    try:
        model = RCDM(config, contents, path=file.parent, provider=provider, weights=weights)
    except (RuntimeError, ValueError) as error:
        raise RCDMError(f"The weights in {file} do not fit the architecture in its config.") from error
    model.to(resolve_device(str(device)))
    if check_encoder:
        model.load_encoder()
    return model


def newest_bundle(runs: str | Path = "runs") -> Path:
    """The folder under `runs` (up to two levels down) whose bundle was written last. RCDMError when there is none."""
    root = Path(runs)
    found = [file for pattern in (FILE_NAME, f"*/{FILE_NAME}", f"*/*/{FILE_NAME}") for file in root.glob(pattern)]
    if not found:
        raise RCDMError(f"There is no trained model under {root}; name one with --model, or make one with rcdm train.")
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent


def _file_of(path: Path) -> Path:
    file = path if path.name == FILE_NAME else path / FILE_NAME
    try:
        if file.is_file():
            return file
        missing = not path.exists()
    except PermissionError as error:
        raise RCDMError(f"No permission to read {path}; check who owns it.") from error
    if missing:
        raise RCDMError(f"There is no {path}; expected the folder of a trained model, such as runs/NAME.")
    raise RCDMError(f"{path} is not a trained model: it has no {FILE_NAME}; expected a folder that rcdm train wrote.")


def _digest(config: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
