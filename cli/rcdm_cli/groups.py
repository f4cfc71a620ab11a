"""A command that was mistyped is answered with the nearest one."""

from __future__ import annotations

import difflib

import click


class HelpfulGroup(click.Group):
    """A group that names the commands it has; `noun` is what they are called."""

    noun = "command"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise click.UsageError(f"There is no {self.noun} {name!r}; {hint}", ctx)
