"""What every probe shares: its declaration, what it is given, and the result that it leaves on disk."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rcdm_core.atomic import replace_text
from rcdm_core.errors import RCDMError
from rcdm_core.progress import Reporter
from rcdm_core.provider import Option
from rcdm_core.versions import versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rcdm_core.data.source import ImageSource
    from rcdm_core.model import RCDM
    from rcdm_core.probes.pictures import Picture, Pictures

SCHEMA_VERSION = 1
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Probe:
    """An experiment.

    name        as in `rcdm probe NAME`
    summary     one line
    figure      what of the paper it reproduces, such as "figures 3, 25 and 26"
    parameters  its own options, by name, beside those that every probe has
    run         run(context) -> Result; called again where a picture of a set goes away meanwhile
    least       the smallest value of each parameter that has one: refused below it before anything runs
    check       check(parameters), which raises RCDMError for other values that make no sense, alone or together: it is
                called before anything runs, and reads nothing else
    unless_given  parameters that are read only where no pictures are given, and not refused elsewhere
    depends     depends(parameters) -> what of this machine, in JSON's types, the result depends on beside models,
                pictures, parameters and versions, such as whether a file is at hand: where it is another one, the probe
                `all` runs the probe anew

    of_sets     why it takes a set of pictures and refuses --image, to be put after its name; None: it takes pictures

    Raises TypeError naming the field that is wrong.
    """

    name: str
    summary: str
    figure: str
    parameters: Mapping[str, Option]
    run: Callable[[Context], Result]
    least: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], None] | None = None
    unless_given: Collection[str] = ()
    depends: Callable[[Mapping[str, Any]], Any] | None = None
    of_sets: str | None = None

    def __post_init__(self) -> None:
        for attribute in ("name", "summary", "figure"):
            value = getattr(self, attribute)
            if not isinstance(value, str) or not value:
                raise TypeError(f"a probe's {attribute} is a text, not {value!r}")
        if not callable(self.run):
            raise TypeError(f"probe {self.name!r}: run is a function, not {self.run!r}")
        if self.of_sets is not None and (not isinstance(self.of_sets, str) or not self.of_sets):
            raise TypeError(f"probe {self.name!r}: of_sets is a text or None, not {self.of_sets!r}")
        for attribute in ("check", "depends"):
            value = getattr(self, attribute)
            if value is not None and not callable(value):
                raise TypeError(f"probe {self.name!r}: {attribute} is a function or None, not {value!r}")
        if not isinstance(self.parameters, Mapping):
            raise TypeError(f"probe {self.name!r}: parameters is a mapping from names to Option")
        for name, option in self.parameters.items():
            if not isinstance(option, Option) or not str(name).isidentifier() or name in _COMMON:
                raise TypeError(f"probe {self.name!r}: parameter {name!r} is not an Option with a name of its own")
        if not isinstance(self.least, Mapping) or not set(self.least) <= set(self.parameters):
            raise TypeError(f"probe {self.name!r}: least is a mapping from its parameters to whole numbers")
        if isinstance(self.unless_given, str) or not set(self.unless_given) <= set(self.parameters):
            raise TypeError(f"probe {self.name!r}: unless_given names parameters of its own")

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter with its value: `given`, parsed and checked, over the defaults.

        Raises RCDMError for a parameter that is not declared (the declared ones are named) or of another type.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(sorted(self.parameters)) or "none"
                raise RCDMError(f"The probe {self.name} has no parameter {name!r}; its parameters are: {known}.")
        values = {}
        for name, option in self.parameters.items():
            value = given.get(name)
            if option.type is str and isinstance(value, (list, tuple)):  # from Python; with commas on the command line
                value = ",".join(map(str, value))
            label = f"Parameter {name} of the probe {self.name}"
            values[name] = option.default if value is None else option.validate(value, label)
        return values

    def accept(self, params: Mapping[str, Any], *, given: bool) -> None:
        """Raise RCDMError for the first of the complete parameters with a value that makes no sense.

        given: whether there are pictures by name.
        """
        for name, least in self.least.items():
            if params[name] < least and not (given and name in self.unless_given):
                raise RCDMError(f"{name} is {params[name]}, but expected a whole number of at least {least}.")
        if self.check is not None:
            self.check(params)


_COMMON = frozenset(
    {
        *("models", "images", "data", "out", "seed", "device", "precision", "sampler", "steps", "progress"),
        *("provider", "weights", "representations"),
    }
)


@dataclass
class Result:
    """What a probe found, and `result.json` in `out`, which exists from before the first sample on.

    provenance   schema version, arguments, seed, versions, fingerprints, file hashes: known before the compute
    images       one record per image
    aggregates   over images, with 95% intervals
    answer       the conclusion, in sentences; the report starts with it
    notes        what the reader has to know about this run (pictures left out, trained on, no intervals)
    files        names of the pictures and the page in `out`
    failures     what went wrong although nobody asked for anything wrong: the command ends with exit code 1
    counting     bool [N]: which of the pictures that the probe began with (pairs, triples), and of its records where
                 there is one for each, numbers over pictures are of: those that no model was trained on, or all where
                 there are no such; see `counted`
    """

    out: Path
    provenance: dict[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    aggregates: dict[str, Any] = field(default_factory=dict)
    answer: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    complete: bool = False
    failures: list[str] = field(default_factory=list)
    counting: np.ndarray = field(default_factory=lambda: np.ones(0, dtype=bool))

    def counted(self, values: Sequence[_Item]) -> list[_Item]:
        """Of something for each picture (pair, triple), in their order, what counts in numbers over them."""
        return [value for value, counts in zip(values, self.counting, strict=True) if counts]

    def to_json(self) -> dict[str, Any]:
        """The content of result.json: plain types, with null for what is not a finite number."""
        body = {
            **self.provenance,
            "complete": self.complete,
            "answer": self.answer,
            "notes": self.notes,
            "aggregates": self.aggregates,
            "images": self.images,
            "files": self.files,
        }
        plain = _plain(body)
        assert isinstance(plain, dict)
        return plain

    def save(self) -> Path:
        """Write result.json, whole or not at all; records then say which models were trained on their pictures.

        Raises RCDMError on a full disk or without permission.
        """
        trained = {picture["content_id"]: picture["trained_on"] for picture in self.provenance.get("pictures", [])}
        for record in self.images:
            ids = record.get("content_ids", [record.get("content_id")])
            if "trained_on" not in record and all(one in trained for one in ids):
                flags = [trained[one] for one in ids]
                record["trained_on"] = {name: _any(one[name] for one in flags) for name in flags[0]}
        path = self.out / "result.json"
        # On the way it is written after every few pictures: then only what makes it quick.
        indent = 1 if self.complete else None
        text = json.dumps(self.to_json(), indent=indent, ensure_ascii=False)
        replace_text(path, text + "\n", lasting=self.complete)
        return path

    def add_file(self, name: str) -> Path:
        """The path of an output in `out`, listed in the result."""
        if name not in self.files:
            self.files.append(name)
        return self.out / name


@dataclass(frozen=True)
class Context:
    """What a probe is given: images and models are loaded, parameters are complete and of their declared types.

    models   at least one, each with a name of its own in `names`
    images   the pictures that were asked for, in order (paths, PIL pictures or float tensors [3, H, W] in [0, 1])
    data     where to take held-out pictures from; None: what the first model was trained on, if that is there
    sampler, steps, precision  as for RCDM.sample; the guidance scale is 1 in every probe
    data_text, provider, weights, representations  as they were given, for the command that repeats the run
    gone      ids of pictures that went away while the probe ran
    left_out  notes on those; the probe was then begun again without them
    kept     files of OUT/.rcdm-drawn that this run has written or read; places: of rows in them; known: what models are
             known by, which is the same to the end (all of keeping.py)
    shared   the OUT of `all`, where its probes keep what they have encoded for each other; None: in their own
    """

    probe: Probe
    models: Sequence[RCDM]
    names: Sequence[str]
    images: Sequence[Any]
    data: ImageSource | None
    out: Path
    seed: int
    precision: str
    sampler: str
    steps: int
    progress: Reporter
    params: Mapping[str, Any]
    data_text: str | None = None
    provider: str | None = None
    weights: str | Sequence[str] | None = None
    representations: Sequence[str] = ()
    gone: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    kept: set[Path] = field(default_factory=set, compare=False)
    shared: Path | None = None
    places: dict[tuple[Path, str], dict[str, tuple[Path, int]]] = field(default_factory=dict, compare=False)
    known: dict[int, dict[str, Any]] = field(default_factory=dict, compare=False)

    def choose(self, count: int) -> Pictures:
        """The pictures that were asked for; without any, the first `count` of the data that no model was trained on.

        Raises RCDMError where there is nothing to look at.
        """
        from rcdm_core.probes.pictures import choose, default_data

        data = self.data if self.data is not None or self.images else default_data(self.models[0])
        return choose(self.images, data, self.models, count=count)

    def encode(self, model: RCDM, pictures: Pictures) -> Tensor:
        """h of the pictures as they are, float32 [N, dim]: from a file of representations where the model has one."""
        import torch

        from rcdm_core.probes.encoding import h_of

        return torch.from_numpy(h_of(model, pictures, self))

    def begin(
        self, pictures: Pictures, data: ImageSource | None = None, gallery: Sequence[Picture] = (), **found: Any
    ) -> Result:
        """A Result whose provenance is on disk already.

        data: where further pictures come from. gallery: those that `pictures` are looked for among, in no number
        themselves. found: what the probe wants recorded beside the arguments.
        """
        from rcdm_core.probes.pictures import changed_since

        models = [
            describe_model(name, model, self.precision) for name, model in zip(self.names, self.models, strict=True)
        ]
        provenance = {
            "schema_version": SCHEMA_VERSION,
            "probe": self.probe.name,
            "reproduces": f"{self.probe.figure} of Bordes, Balestriero, Vincent, TMLR 2022",
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": self.command(),
            "arguments": {
                "seed": self.seed,
                "sampler": self.sampler,
                "sampling_steps": self.steps,
                "precision": self.precision,
                "guidance_scale": 1,
                **self.params,
            },
            "versions": versions(),
            "models": models,
            "data": None if data is None else data.describe(),
            "pictures": [
                {
                    "name": picture.name,
                    "content_id": picture.id,
                    "trained_on": {
                        name: picture.trained_on(model) for name, model in zip(self.names, self.models, strict=True)
                    },
                }
                for picture in pictures
            ],
            **({"gallery": [{"name": one.name, "content_id": one.id} for one in gallery]} if gallery else {}),
            **found,
        }
        result = Result(out=self.out, provenance=provenance, notes=[*pictures.notes, *self.left_out])
        result.counting = pictures.counting(self.models)
        result.notes += pictures.size_note(self.models)
        result.notes += pictures.training_notes(self.names, self.models)
        result.notes += changed_since(data, self.names, self.models)
        if note := pictures.counting_note(self.models):
            result.notes.append(note)
            if pictures.trained(self.models).all():
                result.answer.append(note)
        files = {model.representations.path: model.representations for model in self.models if model.representations}
        for file in files.values():
            result.notes += file.notes([picture.id for picture in (*pictures, *gallery)])
        result.save()
        return result

    def command(self) -> str:
        """The command line that repeats this run; pictures that did not come from a file are left out of it."""
        from rcdm_core.registry import tried

        words = ["rcdm", "probe", self.probe.name]
        for plugin in tried():
            words += ["--plugin", str(plugin)]
        for model in self.models:
            words += ["--model", str(model.path or model.name)]
        for image in self.images:
            if isinstance(image, (str, Path)):
                words += ["--image", str(image)]
        if self.data_text:
            words += ["--data", self.data_text]
        for name, value in self.params.items():
            declared, option = self.probe.parameters[name], name.replace("_", "-")
            if declared.type == "texts":
                words += [word for text in value for word in (f"--{option}", text)]
            elif value != declared.default and declared.type is bool:
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value != declared.default:
                text = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
                words += [f"--{option}", text]
        for option, given in (("--provider", self.provider), ("--weights", self.weights)):
            for text in [given] if isinstance(given, str) else given or ():
                words += [option, text]
        for path in self.representations:
            words += ["--representations", path]
        words += ["--seed", str(self.seed), "--sampler", self.sampler, "--sampling-steps", str(self.steps)]
        words += ["--device", str(self.models[0].device), "--precision", self.precision]
        return shlex.join([*words, "--out", str(self.out)])


def describe_model(name: str, model: RCDM, precision: str) -> dict[str, Any]:
    """What identifies a model and its encoder, and where and in which number format it computes."""
    from rcdm_core.precision import resolve_precision

    config = model.config
    return {
        "name": name,
        "path": model.path,
        "bundle_digest": _bundle_digest(model.path) if model.path is not None else None,
        "device": str(model.device),
        "computes_in": str(resolve_precision(precision, model.device)).removeprefix("torch."),
        "step": config.step,
        "image_size": config.unet.image_size,
        "conditioning": config.unet.conditioning,
        "provider": {
            "name": config.provider.name,
            "kind": config.provider.kind,
            "dim": config.provider.dim,
            "image_size": config.provider.image_size,
            "options": config.provider.options,
            "weights_digest": config.provider.weights_digest,
            "h_digest": hashlib.sha256(model.fingerprint.h.numpy().tobytes()).hexdigest(),
            "licence": config.provider.licence,
        },
        "representations": model.representations.record() if model.representations is not None else None,
        # Which h of originals comes from where the former has none.
        "training_cache": model.left_by_training.record() if model.left_by_training is not None else None,
        "data": None
        if config.data is None
        else {"fit": config.data.fit, "fingerprint": config.data.fingerprint, "train_count": config.data.train_count},
    }


def _any(flags: Iterable[bool | None]) -> bool | None:
    """True where one is, None where none is and one is not known."""
    known = list(flags)
    return True if any(known) else None if None in known else False


def _bundle_digest(folder: Path) -> str | None:
    """The digest over config and weights that the bundle carries."""
    from safetensors import safe_open

    from rcdm_core.bundle import FILE_NAME

    with safe_open(str(folder / FILE_NAME), framework="numpy") as stored:
        digest = (stored.metadata() or {}).get("digest")
    return str(digest) if digest else None


def _plain(value: Any) -> Any:
    """JSON's own types: arrays become lists, paths text, and what is not a finite number null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
