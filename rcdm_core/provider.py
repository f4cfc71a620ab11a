"""What a representation is: the declaration of an encoder, which can be listed without loading it.

The encoder itself, which needs torch, is in `encoder.py`.
"""

from __future__ import annotations

import hashlib
import math
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RCDMError, first_line

if TYPE_CHECKING:
    from torch import nn

KINDS = ("backbone", "projector", "logits", "oracle", "labels", "none")
OPTION_TYPES = (str, int, float, bool, "floats", "texts")

# Per channel (R, G, B), for pictures in [0, 1]: what almost every encoder trained on ImageNet was given.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class WeightsInfo:
    """Where a provider's own weights come from.

    url       the checkpoint file
    sha256    the start of its digest, in hexadecimal; None: taken from the file name where that ends in `-` and 8
              hexadecimal digits that are no date, or else recorded at the first download
    licence   of the weights, as far as their authors say
    citation  the paper to cite when they are used
    own_name  True: no other project's file has this base name, so that a copy which torch.hub already keeps under it
              is the same file
    file      the file on this machine, where another library fetches and keeps it; None: it is not there
    """

    url: str | None = None
    sha256: str | None = None
    licence: str | None = None
    citation: str | None = None
    own_name: bool = False
    file: str | None = None

    def __post_init__(self) -> None:
        for name in ("url", "sha256", "licence", "citation", "file"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"a WeightsInfo's {name} is a str, not {value!r}")
        if self.url is not None:
            urllib.parse.urlsplit(self.url)  # ValueError where it is none
        if self.sha256 is not None and not re.fullmatch("[0-9a-fA-F]*", self.sha256):
            raise ValueError(f"a WeightsInfo's sha256 is hexadecimal, not {self.sha256!r}")

    @property
    def licence_text(self) -> str:
        """The licence, or where to look for it."""
        return self.licence or ("unknown" if self.url is None else f"unknown: see {self.url}")


@dataclass(frozen=True)
class Option:
    """One declared option of a provider.

    type     str, int, float, bool, "floats" (a tuple of numbers, written 0.5,0.5,0.5), or "texts" (a tuple of texts:
             a probe's option that is given once for each)
    default  its value when nothing is given
    help     one line for `rcdm providers show`
    resizes  True: once it is given, h may have another size than the provider declares

    Raises TypeError where the declaration contradicts itself.
    """

    type: Any
    default: Any
    help: str
    resizes: bool = False

    def __post_init__(self) -> None:
        if self.type not in OPTION_TYPES:
            raise TypeError(f'an option\'s type is str, int, float, bool or "floats", not {self.type!r}')
        if not isinstance(self.help, str):
            raise TypeError(f"an option's help is a str, not {self.help!r}")
        if self.default is not None:
            try:
                object.__setattr__(self, "default", self.validate(self.default))
            except RCDMError as error:
                raise TypeError(f"an option's default does not fit its own type: {error}") from error

    @property
    def type_name(self) -> str:
        """The type as users read it."""
        return self.type if isinstance(self.type, str) else str(self.type.__name__)

    def parse(self, text: str, name: str = "the option") -> Any:
        """The value that `text` stands for, as on the command line. Raises RCDMError naming `name`."""
        text = text.strip()
        try:
            if self.type is bool:
                if text.lower() not in _TRUE + _FALSE:
                    raise ValueError(text)
                return text.lower() in _TRUE
            if self.type == "floats":
                return self._finite(tuple(float(part) for part in text.strip("()[]").split(",")))
            if self.type == "texts":
                return (text,)
            return self._finite(self.type(text))
        except (ValueError, OverflowError):
            raise RCDMError(f"{name} is {text!r}, but expected {self._expected()}") from None

    def validate(self, value: Any, name: str = "the option") -> Any:
        """`value` in the option's own type: text is parsed, an int is a float, a list is a tuple.

        Raises RCDMError naming `name`.
        """
        if isinstance(value, str):
            return self.parse(value, name) if self.type is not str else value
        try:
            if self.type == "texts" and all(isinstance(part, str) for part in value):
                return tuple(value)
            if self.type == "floats":
                return self._finite(tuple(_number(part) for part in value))
            if self.type is float:
                return self._finite(_number(value))
        except (TypeError, ValueError):
            raise RCDMError(f"{name} is {value!r}, but expected {self._expected()}") from None
        if type(value) is not self.type:
            raise RCDMError(f"{name} is {value!r}, but expected {self._expected()}")
        return value

    def _expected(self) -> str:
        return {
            str: "text",
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            "texts": "texts",
            "floats": "numbers with commas between them, such as 0.5,0.5,0.5",
        }[self.type]

    @staticmethod
    def _finite(value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(value)
        return value


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(value)
    return float(value)


# What plugins offer as `layer`, with `at_layer` behind it.
LAYER = Option(
    str, None, "take h at this inner module, averaged over positions; nothing: the representation itself", resizes=True
)


@dataclass(frozen=True)
class Provider:
    """A representation that RCDMs can be trained for: h = f(x) of the paper's section 3.

    name        `<method>-<arch>[-head]`, for example dino-vitb16
    summary     one line
    load        load(*, weights=None, **options) -> nn.Module that maps images [B, 3, H, W] in [0, 1] to h [B, dim];
                weights is a path, a URL, or None for the provider's own
    dim         the size of h, unless an option that `resizes` is given; None: known once loaded
    image_size  the side of the square pictures that the encoder takes by default, in pixels; None: known once loaded
    kind        backbone, projector, logits, oracle, labels or none
    weights     where its own weights come from; or a function of the options that says so (None: it has none), where
                that takes an import: it is called when this provider is asked for, never when all are listed
    options     the options that load takes, by name
    forgets     attributes that this representation is known to drop, such as "object color" or "position"; known for
                oracles only, and what a demonstration or a test holds a probe's conclusion against
    source      the user's own file that defines it, where there is one: its digest is stored in bundles, so that a
                change of h can be told from a change of the file

    Raises TypeError or ValueError naming the field that is wrong.
    """

    name: str
    summary: str
    load: Callable[..., nn.Module]
    dim: int | None = None
    image_size: int | None = 224
    kind: str = "backbone"
    weights: WeightsInfo | Callable[..., WeightsInfo | None] | None = None
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)
    forgets: tuple[str, ...] = ()
    source: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a provider's name is a str, not {self.name!r}")
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            raise ValueError(f"a provider's name is printable text without blanks at its ends, not {self.name!r}")
        where = f"provider {self.name!r}"
        if not isinstance(self.summary, str):
            raise TypeError(f"{where}: summary is a str, not {self.summary!r}")
        if not callable(self.load):
            raise TypeError(f"{where}: load is a function, not {self.load!r}")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        least = 0 if self.kind == "none" else 1
        if self.dim is not None and (type(self.dim) is not int or self.dim < least):
            raise ValueError(f"{where}: dim is a whole number of at least {least}, or None, not {self.dim!r}")
        if self.image_size is not None and (type(self.image_size) is not int or self.image_size < 1):
            raise ValueError(f"{where}: image_size is a whole number of at least 1 or None, not {self.image_size!r}")
        if self.weights is not None and not isinstance(self.weights, WeightsInfo) and not callable(self.weights):
            raise TypeError(f"{where}: weights is a WeightsInfo, a function or None, not {self.weights!r}")
        if not isinstance(self.options, Mapping):
            raise TypeError(f"{where}: options is a mapping from names to Option, not {self.options!r}")
        for name, option in self.options.items():
            if not isinstance(name, str) or not name.isidentifier() or name == "weights":
                raise ValueError(f"{where}: an option's name is a Python identifier other than weights, not {name!r}")
            if not isinstance(option, Option):
                raise TypeError(f"{where}: option {name} is an Option, not {option!r}")
        if isinstance(self.forgets, str) or not all(isinstance(attribute, str) for attribute in self.forgets):
            raise TypeError(f"{where}: forgets is a tuple of attribute names, not {self.forgets!r}")
        if self.source is not None and not isinstance(self.source, Path):
            raise TypeError(f"{where}: source is a pathlib.Path or None, not {self.source!r}")
        object.__setattr__(self, "options", dict(self.options))
        object.__setattr__(self, "forgets", tuple(self.forgets))

    def own_weights(self, options: Mapping[str, Any] | None = None) -> WeightsInfo | None:
        """Where its own weights come from, with these options. Raises RCDMError for a wrong option, and as `load` does
        for a model that is not there."""
        complete = self.complete_options(options or {})
        if self.weights is None or isinstance(self.weights, WeightsInfo):
            return self.weights
        try:
            found = self.weights(**complete)
        except RCDMError:
            raise
        except Exception as error:
            raise RCDMError(f"provider {self.name} fails to say what its weights are ({first_line(error)})") from error
        if found is not None and not isinstance(found, WeightsInfo):
            raise RCDMError(f"provider {self.name} says its weights are a {type(found).__name__}, not a WeightsInfo")
        return found

    def source_digest(self) -> str | None:
        """sha256 of `source` in hexadecimal; None without a source, or where it cannot be read."""
        if self.source is None:
            return None
        digest = hashlib.sha256()
        try:
            with self.source.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError:
            return None
        return digest.hexdigest()

    def complete_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every declared option with its value: `given`, parsed and validated, over the defaults.

        Raises RCDMError for an option that is not declared (the declared ones are named) or a value of another type.
        """
        for name in given:
            if name not in self.options:
                known = f"it has {', '.join(sorted(self.options))}" if self.options else "it has none"
                raise RCDMError(f"provider {self.name} has no option {name!r}; {known}")
        return {
            name: option.validate(given[name], f"option {name} of provider {self.name}")
            if given.get(name) is not None
            else option.default
            for name, option in self.options.items()
        }
