"""Every probe that can run on these models and pictures, each in a folder of its own, and one page of all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rcdm_core
from rcdm_core.errors import RCDMError, first_line
from rcdm_core.probes.base import Context, Probe, Result, describe_model
from rcdm_core.probes.conclusion import conclude
from rcdm_core.probes.keeping import claim_rows
from rcdm_core.probes.opening import data_of
from rcdm_core.probes.pictures import Pictures, choose, default_data
from rcdm_core.provider import Option
from rcdm_core.versions import versions

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource

logger = logging.getLogger(__name__)

NAME = "all"
FIRST = ("retention", "invariance")  # what the answer rests on; the others follow by name
DONE, LEFT_OUT, FAILED = "done", "left out", "failed"
LIMITS = ("count", "samples")  # parameters that can be limited for all probes that have them


def run(context: Context) -> Result:
    """Run every probe that can, and write the page of all; those of an earlier run with the same settings stay.

    A probe that cannot run on these models and pictures is listed with its reason, one that fails with its error. Those
    of sets run on the data alone where pictures are given as well.

    Raises RCDMError for an unknown name in `only` or `skip`, and for what `set` cannot mean.
    """
    from rcdm_core.report.everything import write_report

    probes = chosen(context.params["only"], context.params["skip"])
    own = own_options(context.params["set"], probes, given=bool(context.images))
    sets = context.data is not None  # for the probes that take no pictures
    context = dataclasses.replace(context, data=data_of(context))  # opened once
    before = _before(context.out)
    result = context.begin(Pictures([]), context.data, pictures_given=len(context.images))
    entries: dict[str, dict[str, Any]] = result.aggregates.setdefault("probes", {})
    entries.update({name: entry for name, entry in before.items() if name not in probes or entry["status"] == DONE})
    result.save()  # what an earlier run did is not forgotten, should this one be stopped
    settings = _settings(context)
    found: dict[str, dict[str, Any]] = {}
    for number, probe in enumerate(probes.values(), 1):
        params = limited(probe, context.params) | own.get(probe.name, {})
        key = None if settings is None else _key(probe, params, settings)
        out = context.out / probe.name
        where = f"{number} of {len(probes)}, {probe.name}"
        entry = entries.get(probe.name)
        if entry is not None and key is not None and entry["key"] == key and _whole(out, entry):
            context.progress.log(f"{where}: done before.")
        else:
            context.progress.log(f"{where}: {probe.summary[:1].lower()}{probe.summary[1:]}")
            images = [] if probe.of_sets and sets else context.images
            own_context = dataclasses.replace(
                context, probe=probe, out=out, shared=context.out, params=params, images=images
            )
            entries[probe.name] = entry = {"key": key, **_run_one(own_context)}
            if entry["status"] != DONE:
                context.progress.log(f"{probe.name} {says(entry)}")
            result.save()  # what is done stays, whatever happens to the next one
        if entry["status"] == DONE:
            found[probe.name] = json.loads((out / "result.json").read_text(encoding="utf-8"))
        elif entry["status"] == FAILED:
            result.failures.append(f"{probe.name} failed: {entry['reason']}")
    now = {name: entries[name] for name in probes}
    result.aggregates["probes"] = now | entries  # those of earlier runs that this one was not to run come last
    reasons = {name: entry["reason"] for name, entry in now.items() if entry["status"] != DONE}
    conclusion = conclude(context.names, found, reasons)
    result.answer = conclusion.answer
    result.notes += [f"{name} {says(entry)}" for name, entry in now.items() if entry["status"] != DONE]
    write_report(result, context, probes, found, conclusion)
    claim_rows(context)
    return result


def says(entry: Mapping[str, Any]) -> str:
    """Why there is no result, to be put after the probe's name."""
    return f"{'is left out' if entry['status'] == LEFT_OUT else 'failed'}: {entry['reason']}"


def chosen(only: str, skip: str) -> dict[str, Probe]:
    """The probes by name in the order in which they run: those of `only` (empty: all) without those of `skip`.

    Raises RCDMError for a name that no probe has (the nearest is named), or where none is left.
    """
    from rcdm_core import registry

    known = {name: probe for name, probe in registry.probes().items() if name != NAME}
    wanted, unwanted = ([name.strip() for name in text.split(",") if name.strip()] for text in (only, skip))
    for name in (*wanted, *unwanted):
        if name not in known:
            raise RCDMError(f"There is no probe {name!r}; {_nearest(name, known)}.")
    order = [*(name for name in FIRST if name in known), *(name for name in known if name not in FIRST)]
    names = [name for name in order if (not wanted or name in wanted) and name not in unwanted]
    if not names:
        raise RCDMError("Nothing is left to run; name other probes with --only, or fewer with --skip.")
    return {name: known[name] for name in names}


def own_options(texts: Sequence[str], probes: Mapping[str, Probe], *, given: bool = False) -> dict[str, dict[str, Any]]:
    """PROBE.OPTION=VALUE, each a text, as values of the probes' own options, parsed: probe -> option -> value.

    Raises RCDMError for another form, a probe that is unknown or not among `probes`, an option that it does not have
    (the nearest is named), a value of another type or that the probe does not accept, and two values of one option.
    given: whether there are pictures by name.
    """
    from rcdm_core import registry

    own: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        name, dot, option = (part.strip() for part in place.partition("."))
        option = option.replace("-", "_")
        if not equals or not dot or not name or not option:
            raise RCDMError(f"set is {text!r}, but expected PROBE.OPTION=VALUE, such as quality.count=500.")
        if name not in probes:
            if name in registry.probes() and name != NAME:
                raise RCDMError(f"{text!r} sets an option of the probe {name}, which is not to run; leave one out.")
            raise RCDMError(f"There is no probe {name!r} to set {option} of; {_nearest(name, probes)}.")
        known = probes[name].parameters
        if option not in known:
            hint = _nearest(option, known) if known else "it has none"
            raise RCDMError(f"The probe {name} has no option {option!r} to set; {hint}.")
        parsed = known[option].parse(value, f"Option {option} of the probe {name}")
        if own.setdefault(name, {}).setdefault(option, parsed) != parsed:
            raise RCDMError(f"{name}.{option} is set to {own[name][option]!r} and to {parsed!r}; leave one out.")
    for name, values in own.items():
        try:
            probes[name].accept(probes[name].complete(values), given=given)
        except RCDMError as error:
            raise RCDMError(f"--set for the probe {name}: {error}") from error
    return own


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """The known name that is most like another, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"


def limited(probe: Probe, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The probe's parameters: its own values, with those of LIMITS lowered where a limit is given (0: none)."""
    params = probe.complete({})
    for name in LIMITS:
        if limits[name] and name in params and probe.parameters[name].type is int:
            params[name] = max(probe.least.get(name, 1), min(params[name], limits[name]))
    return params


@dataclasses.dataclass(frozen=True)
class _Watched(Context):
    """A context that knows whether its probe found what it needs, and began."""

    begun: list[bool] = dataclasses.field(default_factory=list)

    def begin(self, *arguments: Any, **found: Any) -> Result:
        self.begun.append(True)
        return super().begin(*arguments, **found)


def _run_one(context: Context) -> dict[str, Any]:
    """Run one probe: its entry, with the reason where there is no result.

    What stops it before its result is begun makes it one that cannot run here; later it has failed.
    """
    from rcdm_core.atomic import make_folder
    from rcdm_core.probes.running import run_context

    began = time.monotonic()
    entry: dict[str, Any] = {"status": DONE, "reason": None}
    watched = _Watched(**{field.name: getattr(context, field.name) for field in dataclasses.fields(Context)})
    try:
        make_folder(context.out)
        run_context(watched)
        entry["result"] = _digest_of(context.out)
    except RCDMError as error:
        entry |= {"status": FAILED if watched.begun else LEFT_OUT, "reason": str(error)}
    except Exception as error:
        logger.info("The probe %s failed.", context.probe.name, exc_info=True)
        entry |= {"status": FAILED, "reason": first_line(error)}
    finally:
        context.progress.finish()
    return {**entry, "seconds": round(time.monotonic() - began, 3)}


def _key(probe: Probe, params: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """What a finished probe is known again by; None where it cannot be said."""
    try:
        depends = None if probe.depends is None else probe.depends(params)
    except RCDMError:  # the probe itself will say it
        return None
    files = {name: _named_files(value) for name, value in params.items()}
    code = _code_of(probe.run)
    return _digest(
        {"probe": probe.name, "code": code, "params": params, "files": files, "depends": depends, **settings}
    )


def _code_of(run: Any) -> str | None:
    """A digest of the source of the package, or the one file, that a probe's `run` is from, and of this one's; None
    where the first is not known.

    A plugin that is being written, and a clone that is brought up to date, change under one version.
    """
    own, digest = sys.modules.get(getattr(run, "__module__", "").partition(".")[0]), hashlib.sha256()
    for place in (getattr(own, "__file__", None), rcdm_core.__file__):
        if place is None:
            return None
        file = Path(place)
        for source in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            with contextlib.suppress(OSError):  # an editor's link to what is not there, for instance
                digest.update(str(source.relative_to(file.parent)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _named_files(value: Any) -> list[Any]:
    """What is in the files and folders that an option names, alone or as an encoder's source (custom:FILE.py:function):
    they can change under one name. Of a folder the names, sizes and times of its files."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    found: list[Any] = []
    for text in texts:
        for part in {str(text), *str(text).split(":")[1:2]} - {""}:
            path = Path(part)
            with contextlib.suppress(OSError, ValueError):  # a text that cannot be a path is none
                if path.is_file():
                    found.append([part, hashlib.sha256(path.read_bytes()).hexdigest()])
                elif path.is_dir():
                    stats = [(str(file), file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
                    found.append([part, [[name, one.st_size, one.st_mtime_ns] for name, one in stats]])
    return sorted(found, key=str)


def _settings(context: Context) -> dict[str, Any] | None:
    """All that every probe's result depends on, but its own parameters; None for models that are not on disk."""
    models = [describe_model("", model, context.precision) for model in context.models]
    if any(model["bundle_digest"] is None for model in models):
        return None
    given = choose(context.images, None, context.models, count=0) if context.images else []
    return {
        "models": [
            {key: model[key] for key in ("bundle_digest", "device", "computes_in", "provider", "representations")}
            for model in models
        ],
        "trainings": [_set(default_data(model)) for model in context.models],  # None: not at hand now
        "names": list(context.names),
        "data": _set(context.data),
        "images": [[picture.id, picture.name] for picture in given],
        "sampling": [context.seed, context.sampler, context.steps],
        "representations": list(context.representations),
        "versions": versions(),
    }


def _set(data: ImageSource | None) -> list[Any] | None:
    """What identifies a set of pictures with their names and labels."""
    if data is None:
        return None
    return [data.describe()["fingerprint"], _digest([data.ids, data.names, data.labels, data.label_names])]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _digest_of(out: Path) -> str:
    return hashlib.sha256((out / "result.json").read_bytes()).hexdigest()


def _before(out: Path) -> dict[str, dict[str, Any]]:
    """The entries that an earlier run left; none where there is none, or another file of that name."""
    try:
        return dict(json.loads((out / "result.json").read_text(encoding="utf-8"))["aggregates"]["probes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _whole(out: Path, entry: Mapping[str, Any]) -> bool:
    """Whether what the entry speaks of is still there: the same result, and all of its files."""
    try:
        if _digest_of(out) != entry.get("result"):
            return False
        files: Sequence[str] = json.loads((out / "result.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return False
    return all((out / name).is_file() for name in files)


PROBE = Probe(
    name=NAME,
    summary="Every probe that can run, and one page of what they say: also rcdm probe --all",
    figure="all of them",
    parameters={
        "only": Option(str, "", "names of probes, with commas between them, and no others"),
        "skip": Option(str, "", "names of probes to leave out"),
        "count": Option(int, 0, "pictures in each probe at most; 0: as many as each takes by itself"),
        "samples": Option(int, 0, "samples of each picture at most; 0: as many as each probe takes by itself"),
        "set": Option("texts", (), "PROBE.OPTION=VALUE, a probe's own option, whatever the limits are; repeatable"),
    },
    run=run,
    least={"count": 0, "samples": 0},
)
