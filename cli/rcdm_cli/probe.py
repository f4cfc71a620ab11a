"""`rcdm probe`: the experiments, one subcommand each, with the options that the probe itself declares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rcdm_cli.console import as_path_text, only_json, print_table, reporter, say
from rcdm_cli.groups import HelpfulGroup
from rcdm_cli.options import (
    common_options,
    compute_options,
    data_option,
    images_option,
    json_option,
    models_option,
    models_or_newest,
    moved_encoders_options,
    out_option,
    representations_option,
    sampling_options,
    try_plugins_among,
)

if TYPE_CHECKING:
    from rcdm_core.probes.base import Probe, Result
    from rcdm_core.provider import Option


class ProbeGroup(HelpfulGroup):
    """One command for every probe that is installed."""

    noun = "probe"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """With --all for the name of the probe that runs all others, wherever it stands."""
        if "--all" in args:
            args = ["all", *(word for word in args if word != "--all")]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        from rcdm_core import registry

        return list(registry.probes())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from rcdm_core import registry

        found = registry.probes().get(name)
        return None if found is None else probe_command(found)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With --plugin wherever it stands: a plugin's probe is known only once the plugin is."""
        return super().resolve_command(ctx, try_plugins_among(ctx, args))


@click.group("probe", cls=ProbeGroup, invoke_without_command=True)
@json_option
@common_options
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Run an experiment on a trained model; alone it lists them, and with --all it runs every one that can.

    A probe writes result.json, pictures and report.html.
    """
    if context.invoked_subcommand is not None:
        return
    from rcdm_core import registry

    probes = registry.probes()
    if as_json:
        click.echo(json.dumps([describe(probe) for probe in probes.values()], indent=2))
    else:
        print_table(("probe", "of the paper", "what it asks"), [(p.name, p.figure, p.summary) for p in probes.values()])


def probe_command(probe: Probe) -> click.Command:
    """The click command of a probe: the options of every probe, and its own."""

    @click.command(probe.name, help=f"{probe.summary} ({probe.figure} of the paper).", short_help=probe.summary)
    @models_option
    @images_option
    @data_option
    @out_option(f"Folder of the results. [default: out/{probe.name}]")
    @sampling_options
    @json_option
    @moved_encoders_options
    @representations_option
    @compute_options
    def run(as_json: bool, **arguments: Any) -> None:
        with only_json(as_json):
            result = run_probe(probe.name, **arguments)
        show(result, as_json)
        if result.failures:
            raise click.exceptions.Exit(1)

    run.params[:0] = [parameter_option(name, option) for name, option in probe.parameters.items()]
    return run


def parameter_option(name: str, option: Option) -> click.Option:
    """A probe's parameter as an option; what it may be is up to the probe, which also parses it."""
    flag = f"--{name.replace('_', '-')}"
    default = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
    text = f"{option.help[:1].upper()}{option.help[1:]}. [default: {default}]"
    if option.type is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=text)
    if option.type == "texts":
        return click.Option([flag], multiple=True, metavar="TEXT", help=f"{option.help[:1].upper()}{option.help[1:]}.")
    return click.Option([flag], metavar=option.type_name.upper(), help=text)


def run_probe(
    name: str,
    *,
    models: Sequence[Path],
    images: Sequence[Path] = (),
    data: str | None = None,
    out: Path | None,
    sampling_steps: int,
    device: str,
    **arguments: Any,
) -> Result:
    """`rcdm_core.run_probe` from what was given on the command line."""
    import rcdm_core

    return rcdm_core.run_probe(
        name,
        models=models_or_newest(models),
        images=list(images),
        data=data,
        out=out or Path("out") / name,
        steps=sampling_steps,
        device=device,
        progress=reporter(),
        **{key: value for key, value in arguments.items() if value is not None},
    )


def show(result: Result, as_json: bool) -> None:
    """The conclusion, what to know about it, and where to read on."""
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
        return
    for sentence in result.answer:
        say(sentence)
    for note in result.notes:
        say(f"Note: {note}")
    page = "report.html" if "report.html" in result.files else "result.json"  # a plugin's probe need not write a page
    say(f"See {as_path_text(result.out / page)}")


def describe(probe: Probe) -> dict[str, Any]:
    """What a probe declares, for JSON."""
    return {
        "name": probe.name,
        "summary": probe.summary,
        "figure": probe.figure,
        "parameters": [
            {"name": name, "type": option.type_name, "default": option.default, "help": option.help}
            for name, option in probe.parameters.items()
        ],
    }
