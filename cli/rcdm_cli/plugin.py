"""`rcdm plugin`: for those who write one."""

from __future__ import annotations

from pathlib import Path

import click

from rcdm_cli.console import as_path_text
from rcdm_cli.groups import HelpfulGroup
from rcdm_cli.options import common_options, out_option


@click.group("plugin", cls=HelpfulGroup)
def command() -> None:
    """Start a plugin of one's own."""


@command.command("new")
@click.argument("name")
@out_option("Folder of the project. [default: rcdm-plugin-NAME]")
@common_options
def new_command(name: str, out: Path | None) -> None:
    """Write a plugin that offers the provider NAME: it can be installed, and its own test passes."""
    from rcdm_core.plugin_project import write_project

    folder = write_project(name, out)
    click.echo(f"The plugin is in {as_path_text(folder)}; next: pip install -e {folder} && rcdm providers check {name}")
