"""`rcdm plugin`: for those who write one."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from rcdm_cli.console import as_path_text, say
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
    """Write a plugin that offers the provider NAME: it can be installed, and its own test passes.

    docs/plugins.md in rcdm's repository goes on from there, up to the upload.
    """
    from rcdm_core.plugin_project import write_project

    folder = write_project(name, out)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            say(as_path_text(path))
    place = as_path_text(folder)
    say(f"The plugin is in {place}; next: rcdm providers check {name} --plugin {shlex.quote(place)}")
