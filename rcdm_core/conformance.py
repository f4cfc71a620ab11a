"""The conformance test of a provider: what the author of a plugin runs (`rcdm providers check NAME`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import (
    Encoder,
    build_encoder,
    compare_fingerprints,
    declared_dim,
    fingerprint,
    fingerprint_images,
    full_precision,
)
from .errors import RCDMError, first_line
from .foreign import contained
from .provider import Provider
from .registry import DISABLE, find_provider, plugin_reports, source_of
from .slow_plugins import IMPORTS_TORCH

# Kernels differ with the batch's shape; what is left of a difference, relative to the spread of h, must be rounding.
SAME = 1e-3

ON_H = (
    "dim",
    "float32",
    "finite",
    "deterministic",
    "alone as in a batch",
    "gradient in the images",
    "frozen",
    "stable fingerprint",
    "moves to a device",
)

LISTING = """
import json, socket, sys
name, sys.path[:] = json.loads(sys.argv[1])
used = []
def refuse(*args, **kwargs):
    used.append(1)
    raise OSError("there is no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
from rcdm_core import registry
registry.providers()
try:
    registry.find_provider(name)
    error = None
except Exception as exception:
    error = str(exception)
print(json.dumps({"network": bool(used), "torch": "torch" in sys.modules, "error": error}))
"""


@dataclass(frozen=True)
class CheckResult:
    """One line of the conformance test. passed: None where it does not apply, with the reason in `detail`."""

    name: str
    passed: bool | None
    detail: str


def check_provider(
    name: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """Whether a provider keeps its contract; every check is tried, whatever the others found.

    name     of `rcdm providers`, or a resolvable one
    weights  a path, a URL, or None for the provider's own
    options  the provider's options
    device   where the encoder runs

    Raises RCDMError for a name that nobody offers. An encoder that does not load is a failed check.
    """
    provider = find_provider(name)
    results = _listing_checks(name)

    def load() -> Encoder:
        return build_encoder(provider, weights=weights, device=device, options=options or {})

    try:
        said = declared_dim(provider, options or {})
        encoder, again = load(), load()
        images = fingerprint_images(encoder.image_size).to(device)
        with contained(), torch.no_grad(), full_precision(images.device.type):
            h = encoder(images)
        if not isinstance(h, Tensor) or h.ndim != 2 or len(h) != len(images):
            what = f"shape {list(h.shape)}" if isinstance(h, Tensor) else f"a {type(h).__name__}"
            raise RCDMError(f"h of {len(images)} pictures is {what}, expected a tensor of shape [{len(images)}, dim]")
    except Exception as error:
        failed = CheckResult("loads and runs", False, str(error) if isinstance(error, RCDMError) else first_line(error))
        return [*results, failed, *(CheckResult(title, None, "not tried: there is no h") for title in ON_H)]
    results.append(CheckResult("loads and runs", True, f"pictures of {encoder.image_size} x {encoder.image_size}"))
    checks: list[Callable[[], tuple[bool | None, str]]] = [
        lambda: _dim(provider, said, encoder, h),
        lambda: (h.dtype == torch.float32, str(h.dtype)),
        lambda: _finite(encoder, images),
        lambda: _deterministic(encoder, images, h),
        lambda: _alone(encoder, images, h),
        lambda: _gradient(provider, encoder, images),
        lambda: _frozen(encoder),
        lambda: _stable(encoder, again),
        lambda: _moves(again, images, h, _other_device(images.device)),
    ]
    for title, check in zip(ON_H, checks, strict=True):
        try:
            with contained(), full_precision(images.device.type):
                results.append(CheckResult(title, *check()))
        except Exception as error:
            results.append(CheckResult(title, False, first_line(error)))
    return results


def _listing_checks(name: str) -> list[CheckResult]:
    """List in a fresh process in which the network is out of reach, with this plugin alone."""
    source = source_of(name)
    others = ",".join(report.name for report in plugin_reports() if report.name != source.name)
    run = subprocess.run(
        [sys.executable, "-c", LISTING, json.dumps([name, sys.path])],
        env={**os.environ, DISABLE: others},
        capture_output=True,
        text=True,
    )
    try:
        found = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return [CheckResult(what, False, last) for what in ("lists without the network", "lists without torch")]
    detail = found["error"] or "in a process of its own"
    network = f"a connection was tried ({detail})" if found["network"] else detail
    without_torch = f"plugin {source.name} of {source.origin} {IMPORTS_TORCH}" if found["torch"] else detail
    return [
        CheckResult("lists without the network", not found["network"] and not found["error"], network),
        CheckResult("lists without torch", not found["torch"] and not found["error"], without_torch),
    ]


def _dim(provider: Provider, said: int | None, encoder: Encoder, h: Tensor) -> tuple[bool, str]:
    own = getattr(encoder, "dim", None)
    declared = [
        f"the {who} says {dim}" for who, dim in (("provider", said), ("encoder", own)) if dim is not None
    ]
    fits = all(dim in (None, h.shape[1]) for dim in (said, own)) and (h.shape[1] > 0 or provider.kind == "none")
    return fits, ", ".join([f"h has {h.shape[1]}", *declared])


def _finite(encoder: Encoder, images: Tensor) -> tuple[bool, str]:
    """On ordinary pictures and on pictures without any content, which divide by zero where statistics are taken."""
    for what, pictures in (
        ("the test pictures", images),
        ("a black picture", torch.zeros_like(images[:1])),
        ("a grey picture", torch.full_like(images[:1], 0.5)),
        ("a white picture", torch.ones_like(images[:1])),
    ):
        with torch.no_grad():
            if not bool(torch.isfinite(encoder(pictures)).all()):
                return False, f"h of {what} is not finite"
    return True, "test pictures, black, grey, white"


def _deterministic(encoder: Encoder, images: Tensor, h: Tensor) -> tuple[bool, str]:
    with torch.no_grad():
        change = _change(h, encoder(images))
    return change <= SAME / 100, f"twice the same pictures: h moved by {change:.1g} of its spread"


def _alone(encoder: Encoder, images: Tensor, h: Tensor) -> tuple[bool, str]:
    with torch.no_grad():
        alone = torch.cat([encoder(image[None]) for image in images])
    change = _change(h, alone)
    return change <= SAME, f"one by one instead of {len(images)} at once: h moved by {change:.1g} of its spread"


def _frozen(encoder: nn.Module) -> tuple[bool, str]:
    training = [name or "the encoder" for name, module in encoder.named_modules() if module.training]
    learning = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if training or learning:
        return False, f"{len(training)} modules in training mode, {len(learning)} weights that ask for a gradient"
    return True, "eval mode, and no weight asks for a gradient"


def _gradient(provider: Provider, encoder: Encoder, images: Tensor) -> tuple[bool | None, str]:
    """On an ordinary picture and on an empty one: attacks (paper, figure 5) follow this gradient anywhere."""
    if provider.kind in ("none", "labels"):
        return None, f"not asked of a provider of kind {provider.kind}"
    if not getattr(encoder, "differentiable", True):
        return None, "it says that it is not differentiable: no probe that needs gradients takes it"
    for what, picture in (("a test picture", images[:1]), ("a grey picture", torch.full_like(images[:1], 0.5))):
        leaf = picture.clone().requires_grad_(True)
        h = encoder(leaf)
        if not h.requires_grad:
            return False, "h does not depend on the images as far as autograd knows"
        h.sum().backward()
        if leaf.grad is None or not bool(torch.isfinite(leaf.grad).all()):
            return False, f"the gradient at {what} is not finite"
        if what == "a test picture" and not bool(leaf.grad.any()):
            return False, "the gradient is zero everywhere"
    if any(parameter.grad is not None for parameter in encoder.parameters()):
        return False, "the backward pass left a gradient in the weights"
    return True, "finite, and none in the weights"


def _other_device(here: torch.device) -> torch.device:
    """An accelerator if there is one, else the meta device, which finds tensors that stay behind all the same."""
    if here.type != "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "meta")


def _moves(encoder: Encoder, images: Tensor, h: Tensor, target: torch.device) -> tuple[bool | None, str]:
    here = str(images.device)
    try:
        with torch.no_grad():
            there = encoder.to(target)(images.to(target))
    except Exception as error:
        own_word = isinstance(error, RCDMError)  # it knows where it can be used, and may name both devices
        why = str(error) if own_word else first_line(error)
        stays_behind = "device" in str(error) and here in str(error) and not own_word
        if target.type == "meta" and not stays_behind:
            return None, f"there is no accelerator here, and it cannot run on the meta device ({why})"
        return False, f"a tensor stays behind: {why}" if stays_behind else why
    if there.device.type != target.type:
        return False, f"moved to {target}, but h is on {there.device}"
    if target.type == "meta":
        return there.shape == h.shape, "no accelerator here; on the meta device no tensor stays behind"
    change = _change(h, there.to(images.device))
    return change <= 10 * SAME, f"from {here} to {target}: h moved by {change:.1g} of its spread"


def _stable(encoder: Encoder, again: Encoder) -> tuple[bool, str]:
    first, second = fingerprint(encoder), fingerprint(again)
    difference = compare_fingerprints(first, second)
    if difference:
        return False, f"loaded a second time, {difference}"
    if first.weights_digest != second.weights_digest:
        return False, "loaded a second time, it has other weights that give the same h"
    return True, f"loaded twice: {first.weights_digest[:8]}"


def _change(before: Tensor, after: Tensor) -> float:
    """The largest difference of two h, relative to the spread of h."""
    if before.shape != after.shape:
        return float("inf")
    if before.numel() == 0:
        return 0.0
    before, after = before.cpu().double(), after.cpu().double()  # which not every device has
    spread, change = float(before.std(unbiased=False)), float((after - before).abs().max())
    return change / spread if spread > 0 else (0.0 if change == 0 else float("inf"))
