"""custom:FILE.py:function: the provider of a user's function, its parameters as options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rcdm_core import Option, Provider, RCDMError

from ._options import IMAGE_SIZE, PREPROCESSING, check_image_size
from ._places import Place, find
from ._signatures import Parameter, read

if TYPE_CHECKING:
    from rcdm_core import Encoder

PREPARED = {"image_size": IMAGE_SIZE, **PREPROCESSING}


def resolve(name: str, rest: str) -> Provider:
    """See the package's `rcdm_resolve`."""
    place = find(name, rest)
    signature = read(place.file, place.function) if place.file is not None else None
    parameters = signature.parameters if signature is not None else {}
    options: dict[str, Option] = dict(PREPARED)
    for key, parameter in parameters.items():
        if key not in PREPARED:
            if parameter.option is not None:
                options[key] = parameter.option
        elif _shares(key, parameter) and parameter.option is not None and parameter.option.default is not None:
            options[key] = replace(PREPARED[key], default=parameter.option.default)
    return Provider(
        name=f"custom:{place.lasting}:{place.function}",
        summary=f"the torch.nn.Module that {place.function} in {place.label} returns",
        load=partial(load, name, place, parameters, options),
        image_size=max(options["image_size"].default, 1),
        options=options,
        source=signature.file if signature is not None else place.file,
    )


def _shares(key: str, parameter: Parameter) -> bool:
    """Whether a parameter is one of the plugin's own options, which it then gets: one of the same type, or of none."""
    option = parameter.option
    untyped = option is None or (option.type is str and option.default is None)
    return untyped or (option is not None and option.type == PREPARED[key].type)


def load(
    name: str,
    place: Place,
    parameters: Mapping[str, Parameter],
    options: Mapping[str, Option],
    /,  # a function's own parameters may have these names too
    *,
    weights: str | None = None,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    **own: Any,
) -> Encoder:
    """Run the user's function and wrap what it returns. Raises RCDMError that names the file and what went wrong."""
    check_image_size(name, image_size)
    prepared = {"image_size": image_size, "mean": tuple(mean), "std": tuple(std), "interpolation": interpolation}
    shared = {key: value for key, value in prepared.items() if key in parameters and _shares(key, parameters[key])}
    arguments = shared | _own_arguments(name, place, parameters, options, own)
    from ._loading import call

    module = call(name, place, weights, arguments)
    from rcdm_core import Encoder

    if not isinstance(module, Encoder):
        return Encoder(module, image_size=image_size, mean=mean, std=std, interpolation=interpolation)
    if any(value != options[key].default for key, value in prepared.items() if key not in shared):
        raise RCDMError(
            f"{place.function} in {place.label} returns an Encoder, which normalises by itself: leave out the options "
            f"{', '.join(key for key in prepared if key not in shared)}, or return the network alone"
        )
    return module


def _own_arguments(
    name: str,
    place: Place,
    parameters: Mapping[str, Parameter],
    options: Mapping[str, Option],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The function's own options that have another value than its default, as it expects them."""
    arguments = {}
    who = f"{place.function} in {place.label}"
    for key, parameter in parameters.items():
        value = given.get(key)
        if key in PREPARED and _shares(key, parameter):
            continue
        if parameter.required and parameter.option is None:
            raise RCDMError(
                f"{who} needs {key}, but does not say of which type: write {key}: int there (or float, str, bool), or "
                "give it a default"
            )
        if parameter.required and value is None:
            raise RCDMError(f"{who} needs {key}: give it with --provider-option {key}=VALUE")
        if value is None or value == options[key].default:
            continue
        if parameter.choices and value not in parameter.choices:
            expected = ", ".join(map(str, parameter.choices))
            raise RCDMError(f"option {key} of provider {name} is {value!r}, but expected one of {expected}")
        if parameter.whole:
            if any(part != int(part) for part in value):
                raise RCDMError(f"option {key} of provider {name} is {value}, but expected whole numbers")
            value = tuple(int(part) for part in value)
        arguments[key] = value
    return arguments
