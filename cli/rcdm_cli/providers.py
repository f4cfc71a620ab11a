"""`rcdm providers`: which representations there are, what one of them is, and whether it keeps the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from rcdm_cli.console import only_json, print_table, reporter, say
from rcdm_cli.groups import HelpfulGroup
from rcdm_cli.options import common_options, device_option, json_option, provider_options_option, weights_option

if TYPE_CHECKING:
    from rcdm_core.provider import Provider, WeightsInfo
    from rcdm_core.registry import PluginReport


@click.group("providers", cls=HelpfulGroup, invoke_without_command=True)
@json_option
@common_options
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the representations, show or check one.

    A provider is a frozen encoder that a plugin brings along. Alone, the command lists them.
    """
    if context.invoked_subcommand is None:
        _list(as_json)


@command.command("list")
@json_option
@common_options
def list_command(as_json: bool) -> None:
    """List the providers and the plugins that they come from (the default)."""
    _list(as_json)


@command.command("show")
@click.argument("name")
@provider_options_option
@json_option
@common_options
def show_command(name: str, provider_options: dict[str, str], as_json: bool) -> None:
    """Show what NAME is, where its weights come from and under which licence, and its options."""
    from rcdm_core import registry

    provider = registry.find_provider(name)
    entry = describe(provider, provider.own_weights(provider_options))
    if as_json:
        click.echo(json.dumps(entry, indent=2))
        return
    say(f"{entry['name']}: {entry['summary']}")
    weights = entry.pop("weights") or {}
    options = entry.pop("options")
    for key in ("kind", "dim", "image_size", "forgets", "source"):
        if entry.get(key) not in (None, []):
            value = entry[key]
            say(f"  {key.replace('_', ' '):<12}{', '.join(value) if isinstance(value, list) else value}")
    for key in ("url", "file", "sha256", "licence", "citation"):
        if weights.get(key):
            say(f"  {'weights' if key == 'url' else key:<12}{weights[key]}")
    if weights.get("url") and not weights["file"]:
        say("  not downloaded yet: it is fetched when it is first needed, or give a file with --weights")
    if options:
        say("  options, for --provider-option NAME=VALUE:")
        rows = [(f"    {o['name']}", o["type"], f"default {o['default']}", o["help"]) for o in options]
        print_table(None, rows)


@command.command("check")
@click.argument("name")
@weights_option
@provider_options_option
@device_option
@json_option
@common_options
def check_command(name: str, weights: str | None, provider_options: dict[str, str], device: str, as_json: bool) -> None:
    """Check that NAME keeps the contract of a provider; exit code 1 when it does not.

    This is what the author of a plugin runs.
    """
    from rcdm_core.conformance import check_provider
    from rcdm_core.precision import resolve_device

    reporter()  # shows the download of the weights
    with only_json(as_json):
        results = check_provider(name, weights=weights, options=provider_options, device=str(resolve_device(device)))
    failed = sum(result.passed is False for result in results)
    if as_json:
        entries = [{"name": r.name, "passed": r.passed, "detail": r.detail} for r in results]
        click.echo(json.dumps({"provider": name, "passed": failed == 0, "checks": entries}, indent=2))
    else:
        words = {True: "passed", False: "FAILED", None: "skipped"}
        print_table(None, [(words[result.passed], result.name, result.detail) for result in results])
        say(f"{name}: {'keeps the contract' if not failed else f'{failed} of {len(results)} checks failed'}.")
    if failed:
        raise click.exceptions.Exit(1)


def describe(provider: Provider, weights: WeightsInfo | None) -> dict[str, Any]:
    """Everything that a provider declares, for JSON."""
    from rcdm_core.weights_cache import at_hand

    file = at_hand(weights) if weights is not None else None
    return {
        "name": provider.name,
        "summary": provider.summary,
        "kind": provider.kind,
        "dim": provider.dim,
        "image_size": provider.image_size,
        "forgets": list(provider.forgets),
        "source": str(provider.source) if provider.source is not None else None,
        "weights": None
        if weights is None
        else {
            "url": weights.url,
            "sha256": weights.sha256,
            "licence": weights.licence_text,
            "citation": weights.citation,
            "file": str(file) if file is not None else None,
        },
        "options": [
            {
                "name": name,
                "type": option.type_name,
                "default": option.default,
                "help": option.help,
            }
            for name, option in provider.options.items()
        ],
    }


def _list(as_json: bool) -> None:
    from rcdm_core import registry

    providers = registry.providers()
    reports = registry.plugin_reports()
    if as_json:
        listing = {
            "providers": [
                {**describe(provider, _declared_weights(provider)), "plugin": _source(registry.source_of(name))}
                for name, provider in providers.items()
            ],
            "plugins": [
                {**_source(r), "providers": list(r.providers), "error": r.error, "slow": r.slow} for r in reports
            ],
        }
        click.echo(json.dumps(listing, indent=2))
        return
    rows = [
        (
            name,
            provider.kind,
            "" if provider.dim is None else str(provider.dim),
            _weights_in_a_word(provider),
            registry.source_of(name).origin,
            provider.summary,
        )
        for name, provider in providers.items()
    ]
    print_table(("provider", "kind", "dim", "weights", "from", "what it is"), rows)
    if unknown := registry.not_disabled():
        there = ", ".join(dict.fromkeys(report.name for report in reports))
        say(f"{registry.DISABLE} names {', '.join(unknown)}, and no such plugin is here: {there}", err=True)
    for report in reports:
        for verb, what in (("does not work", report.error), ("is slow", report.slow)):
            if what:
                say(f"Plugin {report.name} of {report.origin} {verb}: {what}", err=True)


def _weights_in_a_word(provider: Provider) -> str:
    """Whether the provider's own weights are on this machine."""
    from rcdm_core.weights_cache import at_hand

    weights = _declared_weights(provider)
    if weights is None:
        return ""
    if at_hand(weights) is not None:
        return "at hand"
    return "to fetch" if weights.url is not None else ""  # without an address only the licence is told


def _declared_weights(provider: Provider) -> WeightsInfo | None:
    """Those that can be told without an import."""
    from rcdm_core.provider import WeightsInfo

    return provider.weights if isinstance(provider.weights, WeightsInfo) else None


def _source(report: PluginReport) -> dict[str, str | None]:
    return {"name": report.name, "distribution": report.distribution, "version": report.version}
