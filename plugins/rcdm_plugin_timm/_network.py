"""A model of timm's with its own preprocessing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

import timm
from huggingface_hub import try_to_load_from_cache
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


def encoder(name: str, model: str, weights: str | None, pool: str | None, layer: str | None) -> Encoder:
    """See the package's `load`."""
    _require_known(name, model)
    network = _create(name, model, pool, pretrained=weights is None)
    if weights is not None:
        path = resolve_weights(weights, None, provider=name)
        classifier = cast(Mapping[str, Any], network.pretrained_cfg).get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        state = read_checkpoint(path).backbone
        load_into(network, state, provider=name, path=path, ignore=tuple(f"{head}." for head in heads))
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
    """The file that timm would take without asking the hub: a safetensors file before the one of that name."""
    safe = "model.safetensors" if name == "pytorch_model.bin" else f"{name.rpartition('.')[0]}.safetensors"
    for candidate in (safe, name):
        found = try_to_load_from_cache(repository, candidate, revision=revision)
        if isinstance(found, str):
            return found
    return None


def _require_known(name: str, model: str) -> None:
    if timm.is_model(model):
        tag = model.partition(".")[2]
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model.partition('.')[0]}.*")]
        if not tag or tag in tags:
            return
        raise RCDMError(f"timm has no weights {tag!r} for {name}; there are {', '.join(tags) or 'none'}")
    near = difflib.get_close_matches(model, timm.list_models(), n=3)
    raise RCDMError(f"timm has no model {model!r}" + (f"; the nearest are {', '.join(near)}" if near else ""))


def _create(name: str, model: str, pool: str | None, pretrained: bool) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(model, pretrained=False, num_classes=0)
    except Exception as error:
        raise RCDMError(f"{name} fails ({first_line(error)})") from error
    arguments: dict[str, Any] = {}
    if pool is not None:
        network, arguments = _pooled(name, model, pool, network)
    if not pretrained:
        return network
    try:
        return timm.create_model(model, pretrained=True, num_classes=0, **arguments)
    except Exception as error:
        # The hub's client raises a dozen classes; what they have in common is that the weights are not here.
        raise RCDMError(
            f"the weights of {name} are not in the hub's cache and could not be fetched ({first_line(error)}); get "
            "them in another way and give the file with --weights FILE"
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
