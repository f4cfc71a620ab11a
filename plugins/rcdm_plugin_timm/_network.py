"""A model of timm's with its own preprocessing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from timm.data import resolve_model_data_config
from torch import nn

from rcdm_core import (
    Encoder,
    RCDMError,
    WeightsInfo,
    at_layer,
    first_line,
    load_into,
    read_checkpoint,
    resolve_weights,
)

TIMEOUT = 5.0  # seconds in which the hub has to answer


def encoder(name: str, model: str, weights: str | None, pool: str | None, layer: str | None) -> Encoder:
    """See the package's `load`."""
    _require_known(name, model)
    network = _create(name, model, pool, _pretrained_file(name, model) if weights is None else None)
    if weights is not None:
        path = resolve_weights(weights, None, provider=name)
        state = read_checkpoint(path).backbone
        load_into(network, state, provider=name, path=path, ignore=_classifiers(network))
    data = resolve_model_data_config(network)
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise RCDMError(f"{name} takes pictures of {channels} x {height} x {width}, expected 3 channels and a square")
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return Encoder(
        at_layer(network, layer, provider=name, channels_last=channels_last),
        image_size=height,
        mean=data["mean"],
        std=data["std"],
        interpolation=data["interpolation"],
    )


def _classifiers(network: nn.Module) -> list[str]:
    """What names of the classifiers' tensors begin with: of all that was taken away, norms and hidden layers too."""
    named = cast(Mapping[str, Any], network.pretrained_cfg).get("classifier") or ()
    modules = dict(network.named_modules())
    found = []
    for classifier in (named,) if isinstance(named, str) else named:
        parts = classifier.split(".")
        wholes = [".".join(parts[: n + 1]) for n in range(len(parts))]
        removed = [whole for whole in wholes if isinstance(modules.get(whole), nn.Identity)]
        found.append(f"{removed[0] if removed else classifier}.")
    return found


def weights_info(name: str, model: str) -> WeightsInfo | None:
    """See the package's. The licence is that of timm's own table; timm prefers the hub to a URL."""
    _require_known(name, model)
    cfg = timm.get_pretrained_cfg(model)
    if cfg is None or not cfg.has_weights:
        return None
    licence = cfg.license if cfg.license != "unknown" else None
    papers = cfg.paper_name or cfg.paper_ids
    citation = ", ".join(papers) if isinstance(papers, (list, tuple)) else papers
    if not cfg.hf_hub_id:
        url = cfg.url if isinstance(cfg.url, str) else None
        return WeightsInfo(url=url, licence=licence, citation=citation, own_name=True)  # in torch.hub's cache
    repository, _, revision = cfg.hf_hub_id.partition("@")
    return WeightsInfo(
        url=f"https://huggingface.co/{repository}",
        licence=licence,
        citation=citation,
        file=_in_hub_cache(repository, revision or None, cfg.hf_hub_filename or "pytorch_model.bin"),
    )


def _in_hub_cache(repository: str, revision: str | None, name: str) -> str | None:
    """The file that timm would take, if the hub's client keeps it already."""
    for candidate in _candidates(name):
        found = try_to_load_from_cache(repository, candidate, revision=revision)
        if isinstance(found, str):
            return found
    return None


def _candidates(name: str) -> Iterator[str]:
    """The names under which a repository may keep the file of that name, in timm's order: safetensors first."""
    stem, dot, suffix = name.rpartition(".")
    if suffix == "bin":
        safe = {"pytorch_model": "model", "open_clip_pytorch_model": "open_clip_model"}
        yield f"{safe.get(stem, stem)}{dot}safetensors"
    yield name


def _pretrained_file(name: str, model: str) -> str:
    """timm's own weights on disk, fetched if need be. Raises RCDMError where there are none or they cannot be had."""
    info = weights_info(name, model)
    cfg = timm.get_pretrained_cfg(model)
    if info is None or cfg is None:
        raise RCDMError(f"timm has no weights for {name}: give a checkpoint file with --weights FILE")
    if info.file is not None:
        return info.file
    if not cfg.hf_hub_id:
        return str(resolve_weights(None, info, provider=name))
    repository, _, revision = cfg.hf_hub_id.partition("@")
    try:
        return _from_hub(repository, revision or None, cfg.hf_hub_filename or "pytorch_model.bin")
    except Exception as error:  # the hub's client raises a dozen classes
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        raise RCDMError(
            f"the weights of {name} are not in {folder}, and could not be fetched from {info.url} "
            f"({first_line(error)}): get the file in another way and give it with --weights FILE"
        ) from error


def _from_hub(repository: str, revision: str | None, name: str) -> str:
    """Fetch the first of the candidates that the repository has. Raises anything."""
    for candidate in _candidates(name):
        try:
            # Without a network the download itself would try again for a minute and a half.
            get_hf_file_metadata(hf_hub_url(repository, candidate, revision=revision), timeout=TIMEOUT)
        except EntryNotFoundError:
            continue
        return hf_hub_download(repository, candidate, revision=revision)
    raise FileNotFoundError(f"there is neither {' nor '.join(_candidates(name))}")


def _require_known(name: str, model: str) -> None:
    if timm.is_model(model):
        tag = model.partition(".")[2]
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model.partition('.')[0]}.*")]
        if not tag or tag in tags:
            return
        raise RCDMError(f"timm has no weights {tag!r} for {name}; there are {', '.join(tags) or 'none'}")
    near = difflib.get_close_matches(model, timm.list_models(), n=3)
    raise RCDMError(f"timm has no model {model!r}" + (f"; the nearest are {', '.join(near)}" if near else ""))


def _create(name: str, model: str, pool: str | None, file: str | None) -> nn.Module:
    """The network without its classifier; file: of the weights that timm puts in; None: none."""
    try:
        network: nn.Module = timm.create_model(model, pretrained=False, num_classes=0)
    except Exception as error:
        raise RCDMError(f"{name} fails ({first_line(error)})") from error
    arguments: dict[str, Any] = {}
    if pool is not None:
        network, arguments = _pooled(name, model, pool, network)
    if file is None:
        return network
    # Older versions of timm took what their table says of the address, "in Google's own format", for the file's too.
    overlay = {"file": file, "custom_load": file.endswith(".npz")}
    try:
        return timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:
        raise RCDMError(
            f"{file} cannot be used as the weights of {name}, perhaps it is damaged ({first_line(error)}); delete it "
            "to fetch it again, or give a file with --weights FILE"
        ) from error


def _pooled(name: str, model: str, pool: str, default: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """The model with another pooling and the very weights of the default one, and the arguments that make it.

    Left to itself timm gives some transformers another last norm with another pooling: the trained one would be
    dropped, and an untrained one would take its place.
    """
    for extra in ({}, {"fc_norm": False}, {"fc_norm": True}):
        arguments: dict[str, Any] = {"global_pool": pool, **extra}
        try:
            network: nn.Module = timm.create_model(model, pretrained=False, num_classes=0, **arguments)
        except Exception as error:
            if not extra:
                raise RCDMError(
                    f"option pool of {name} is {pool!r}, which the model does not take ({first_line(error)})"
                ) from error
            continue
        if network.state_dict().keys() == default.state_dict().keys():
            return network, arguments
    raise RCDMError(f"option pool of {name} is {pool!r}, which would change which weights the model has")
