"""Finds the plugins of the entry-point group `rcdm`. One broken plugin is reported and never takes the others down."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from .errors import RCDMError, first_line
from .foreign import contained
from .hookspecs import PROJECT, RepresentationProvider
from .provider import Provider
from .slow_plugins import torch_is_loaded, why_slow

if TYPE_CHECKING:
    from .probes.base import Probe

DISABLE = "RCDM_DISABLE_PLUGINS"
TRY = "RCDM_TRY_PLUGINS"  # paths of plugins that are not installed; in the environment, so that children see them too
NOT_INSTALLED = "not installed"  # in the place of a version


@dataclass(frozen=True)
class PluginReport:
    """One installed plugin, working or not.

    name          of its entry point
    distribution  the installed package that it comes from
    version       of that package
    providers     the names that can be loaded, sorted
    error         why it, or part of it, cannot be used; None: all is well
    slow          why listing waits for it, although it works; None: it does not
    """

    name: str
    distribution: str
    version: str
    providers: tuple[str, ...] = ()
    error: str | None = None
    slow: str | None = None

    @property
    def origin(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}"


@dataclass
class _Registry:
    manager: pluggy.PluginManager
    reports: dict[str, PluginReport] = field(default_factory=dict)  # by the plugin's name in the manager
    providers: dict[str, Provider] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # provider name -> plugin's name in the manager
    conflicts: dict[str, str] = field(default_factory=dict)  # provider name -> the sentence about it
    seconds: dict[str, float] = field(default_factory=dict)  # by the plugin's name in the manager: listing it so far

    def complain(self, plugin: str, error: str) -> None:
        """Add to what is wrong with a plugin."""
        report = self.reports[plugin]
        self.reports[plugin] = replace(report, error=f"{report.error}; {error}" if report.error else error)

    @contextlib.contextmanager
    def timing(self, plugin: str) -> Iterator[None]:
        """Around what a plugin does when it is listed: find out whether the listing waits for it, and why."""
        had_torch, began = torch_is_loaded(), time.perf_counter()
        try:
            yield
        finally:
            self.seconds[plugin] = self.seconds.get(plugin, 0.0) + time.perf_counter() - began
            report = self.reports[plugin]
            slow = report.slow or why_slow(self.manager.get_plugin(plugin), had_torch, self.seconds[plugin])
            self.reports[plugin] = replace(report, slow=slow)

    def call(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """What one plugin alone answers to a hook: None where it does not implement it."""
        others = [self.manager.get_plugin(name) for name in self.implementing(hook) if name != plugin]
        # What a plugin prints is no part of a command's answer.
        with contained(), contextlib.redirect_stdout(sys.stderr):
            answer = self.manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)
        if hook == "rcdm_resolve":
            return answer
        return answer[0] if answer else None

    def implementing(self, hook: str) -> list[str]:
        """The names of the plugins with this hook, in the order in which pluggy calls them."""
        return [impl.plugin_name for impl in reversed(getattr(self.manager.hook, hook).get_hookimpls())]


def providers() -> dict[str, Provider]:
    """The providers that can be listed, by name, sorted. Imports no torch and uses no network."""
    return dict(_registry().providers)


def find_provider(name: str) -> Provider:
    """The provider of that name, listed or resolved by a plugin (custom:FILE.py:function).

    Raises RCDMError for a name that nobody offers (the nearest ones are named) or that two plugins offer.
    """
    registry = _registry()
    if name in registry.conflicts:
        raise RCDMError(registry.conflicts[name])
    if name in registry.providers:
        return registry.providers[name]
    failures, refusals = [], []
    for plugin in registry.implementing("rcdm_resolve"):
        try:
            provider = registry.call(plugin, "rcdm_resolve", name=name)
        except RCDMError as error:  # of its family but wrong, unless another plugin knows better
            refusals.append(error)
            continue
        except Exception as error:
            failures.append(f"plugin {registry.reports[plugin].name} failed on it with {first_line(error)}")
            continue
        if isinstance(provider, Provider):
            registry.sources[name] = registry.sources[provider.name] = plugin
            return provider
        if provider is not None:
            failures.append(f"plugin {registry.reports[plugin].name} answered with a {type(provider).__name__}")
    if refusals:
        raise refusals[0]
    raise RCDMError(_unknown(name, registry, failures))


def source_of(provider_name: str) -> PluginReport:
    """The plugin that a listed or resolved provider comes from. Raises RCDMError as `find_provider` does."""
    registry = _registry()
    if provider_name not in registry.sources:
        find_provider(provider_name)
    return registry.reports[registry.sources[provider_name]]


def plugin_reports() -> list[PluginReport]:
    """Every installed plugin, by name, the broken ones with the first line of their error."""
    if _registry().implementing("rcdm_probes"):
        probes()  # so that what is wrong with theirs is known
    return sorted(_registry().reports.values(), key=lambda report: (report.name, report.distribution))


def not_disabled() -> list[str]:
    """What the environment asks to leave out and is no plugin here, which may be misspelt."""
    known = {name for report in _registry().reports.values() for name in (report.name, report.distribution)}
    return sorted(_disabled() - known)


def probes() -> dict[str, Probe]:
    """The core's own probes and the plugins', by name, sorted. A plugin never replaces one of the core's."""
    from .probes import PROBES, Probe

    registry = _registry()
    found: dict[str, Probe] = dict(PROBES)
    for plugin in registry.implementing("rcdm_probes"):
        try:
            offered = _offered(registry, plugin, "rcdm_probes")
        except Exception as error:
            _complain_once(registry, plugin, first_line(error))
            continue
        for probe in offered:
            if not isinstance(probe, Probe):
                _complain_once(registry, plugin, f"rcdm_probes returned a {type(probe).__name__}, expected a Probe")
            elif probe.name in found:
                _complain_once(registry, plugin, f"its probe {probe.name} has the name of another one")
            else:
                found[probe.name] = probe
    return dict(sorted(found.items()))


@contextlib.contextmanager
def trying(path: Path | str) -> Iterator[None]:
    """Inside, a plugin that is not installed takes part: a .py file, a package's folder, or a project that has one
    package rcdm_plugin_* in it or in its src/.

    Raises RCDMError where there is no plugin at `path`, or it cannot be imported.
    """
    place = _package_in(Path(os.path.expanduser(path)).resolve())
    if os.pathsep in str(place):
        raise RCDMError(f"the plugin in {place} cannot be tried: {os.pathsep!r} in a path divides it; rename it")
    before = os.environ.get(TRY)
    os.environ[TRY] = str(place) if not before else f"{before}{os.pathsep}{place}"
    reload()
    try:
        report = _registry().reports[_tried_name(place)]
        if report.error and not report.providers:
            raise RCDMError(f"the plugin in {path} does not work: {report.error}")
        yield
    finally:
        os.environ.pop(TRY)
        if before is not None:
            os.environ[TRY] = before
        reload()


def tried() -> list[Path]:
    """The plugins that take part without being installed: files and folders of packages."""
    return [Path(text) for text in os.environ.get(TRY, "").split(os.pathsep) if text]


def _package_in(path: Path) -> Path:
    """The file or package folder to import. Raises RCDMError where there is none."""
    if path.is_file() and path.suffix == ".py":
        return path
    if (path / "__init__.py").is_file():
        return path
    found = [file.parent for place in (path, path / "src") for file in place.glob("rcdm_plugin_*/__init__.py")]
    if len(found) != 1:
        raise RCDMError(
            f"{path} is no plugin: expected a .py file, a folder with an __init__.py, or a project with one package "
            f"rcdm_plugin_* in it{f', not {len(found)}' if found else ''}"
        )
    return found[0]


def _import_tried(path: Path) -> ModuleType:
    """Import it afresh by its own name, so that what was edited in between counts."""
    name = _module_name(path)
    for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        if _is_below(getattr(sys.modules[loaded], "__file__", None), path):
            del sys.modules[loaded]
    if "." in name:
        raise RCDMError(f"its name {name} has a dot, which no module's has; rename it")
    if name in sys.modules:
        raise RCDMError(f"its name {name} is that of another module, which is loaded already; rename it")
    importlib.invalidate_caches()
    sys.path.insert(0, str(path.parent))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(path.parent))


def _module_name(path: Path) -> str:
    return path.name.removesuffix(".py")


def _is_below(file: str | None, path: Path) -> bool:
    return file is not None and (Path(file).resolve() == path or path in Path(file).resolve().parents)


def _tried_name(path: Path) -> str:
    return f"{path.stem} of {path}"


def reload() -> None:
    """Forget what was found; the next question looks again. For tests and for notebooks that install something."""
    _registry.cache_clear()


@functools.cache
def _registry() -> _Registry:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RepresentationProvider)
    registry = _Registry(manager)
    disabled = _disabled()
    trials = {_module_name(path): path for path in tried()}
    # Reversed, because pluggy calls the last registered first: resolving then goes by the alphabet.
    for entry_point in sorted(
        importlib.metadata.entry_points(group=PROJECT), key=lambda point: (point.name, point.value), reverse=True
    ):
        _register(registry, entry_point, disabled, trials)
    for path in trials.values():
        registry.reports[_tried_name(path)] = PluginReport(path.stem, str(path), NOT_INSTALLED)
        _load(registry, _tried_name(path), functools.partial(_import_tried, path))
    _collect_providers(registry)
    return registry


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()}


def _register(
    registry: _Registry, entry_point: importlib.metadata.EntryPoint, disabled: set[str], tried: Mapping[str, Path]
) -> None:
    distribution = entry_point.dist
    origin = (distribution.name, distribution.version) if distribution else ("unknown", "unknown")
    plugin = f"{entry_point.name} of {origin[0]}"
    registry.reports[plugin] = PluginReport(entry_point.name, *origin)
    if disabled & {entry_point.name, origin[0]}:
        registry.complain(plugin, f"disabled by {DISABLE}")
        return
    if entry_point.module in tried:  # what is worked on, beside an older version of it
        registry.complain(plugin, f"left out for the one in {tried[entry_point.module]}, which is tried")
        return
    _load(registry, plugin, entry_point.load)


def _load(registry: _Registry, plugin: str, load: Callable[[], object]) -> None:
    try:
        with registry.timing(plugin), contained(), contextlib.redirect_stdout(sys.stderr):
            registry.manager.register(load(), name=plugin)
    except Exception as error:  # a plugin may do anything at import, leaving included
        if registry.manager.has_plugin(plugin):
            registry.manager.unregister(name=plugin)
        registry.complain(plugin, first_line(error))
        return
    callers = registry.manager.get_hookcallers(registry.manager.get_plugin(plugin)) or ()
    if not callers:
        registry.complain(plugin, "it has no hook: mark its rcdm_providers with rcdm_core.hookimpl")
    for caller in callers:
        optional = any(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin_name == plugin)
        if not caller.has_spec() and not optional:
            registry.complain(plugin, f"there is no hook {caller.name}")


def _collect_providers(registry: _Registry) -> None:
    offers: dict[str, list[tuple[str, Provider]]] = {}
    for plugin in registry.implementing("rcdm_providers"):
        try:
            with registry.timing(plugin):
                offered = _offered(registry, plugin, "rcdm_providers")
        except Exception as error:
            registry.complain(plugin, first_line(error))
            continue
        for provider in offered:
            if isinstance(provider, Provider):
                offers.setdefault(provider.name, []).append((plugin, provider))
            else:
                registry.complain(plugin, f"rcdm_providers returned a {type(provider).__name__}, expected a Provider")
    for name, candidates in sorted(offers.items()):
        if len(candidates) == 1:
            registry.sources[name], registry.providers[name] = candidates[0]
        else:
            _conflict(registry, name, [plugin for plugin, _ in candidates])
    for plugin, report in registry.reports.items():
        names = tuple(name for name, source in registry.sources.items() if source == plugin)
        registry.reports[plugin] = replace(report, providers=names)


def _conflict(registry: _Registry, name: str, plugins: list[str]) -> None:
    reports = [registry.reports[plugin] for plugin in plugins]
    by = " and ".join(f"plugin {report.name} of {report.origin}" for report in reports)
    registry.conflicts[name] = (
        f"two providers are called {name}, by {by}: uninstall one of them, "
        f"or set {DISABLE} to the plugin or the distribution that should be left out"
    )
    for plugin in dict.fromkeys(plugins):
        registry.complain(plugin, f"{name} is offered by {by}")


def _offered(registry: _Registry, plugin: str, hook: str) -> list[Any]:
    with contained():  # a generator runs when it is listed
        return _as_list(registry.call(plugin, hook), hook)


def _as_list(answer: Any, hook: str) -> list[Any]:
    if answer is None:
        return []
    if isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable):
        raise TypeError(f"{hook} returned a {type(answer).__name__}, expected a list")
    return list(answer)


def _complain_once(registry: _Registry, plugin: str, error: str) -> None:
    # probes() is asked many times, and would repeat itself.
    if error not in (registry.reports[plugin].error or ""):
        registry.complain(plugin, error)


def _unknown(name: str, registry: _Registry, failures: list[str]) -> str:
    """The sentence about a name that nobody offers."""
    known = list(registry.providers)
    by_folded = {candidate.lower(): candidate for candidate in known}
    near = [by_folded[match] for match in difflib.get_close_matches(name.lower(), by_folded, n=3, cutoff=0.5)]
    if near:
        message = f"there is no provider {name!r}; the nearest are {', '.join(near)}"
        if len(near) == 1:
            message = f"there is no provider {name!r}; did you mean {near[0]}?"
    elif known:
        message = f"there is no provider {name!r}; there are {', '.join(known)}"
    else:
        message = f"there is no provider {name!r}, and no plugin offers any"
    broken = [
        f"plugin {report.name} is not usable: {report.error}" for report in registry.reports.values() if report.error
    ]
    if failures or broken:
        message += f" ({'; '.join(failures + broken)})"
    return message
