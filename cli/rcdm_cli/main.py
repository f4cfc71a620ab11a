"""The command `rcdm`: finds its subcommands when they are asked for, and turns exceptions into one sentence.

Exit codes: 0 done; 1 a check failed or something unexpected happened; 2 bad input; 130 stopped with Ctrl-C
or SIGTERM.
"""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

import rcdm_core
from rcdm_cli.console import one_line
from rcdm_cli.groups import HelpfulGroup
from rcdm_cli.options import common_options, wants_traceback
from rcdm_core.interrupt import sigterm_as_ctrl_c

# In the order in which a newcomer meets them; each is a module of this package with a click command named `command`.
COMMANDS = ("demo", "providers", "encode", "train", "sample", "probe", "evaluate", "plugin")


class Failure(click.ClickException):
    """What the user sees instead of a traceback: one sentence on stderr. Something that nobody expected."""

    exit_code = 1

    def format_message(self) -> str:
        return one_line(super().format_message())


class BadInput(Failure):
    """The same for what the user can put right."""

    exit_code = 2


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn every exception into `Failure`; the traceback is printed before it when --debug was given."""
    try:
        yield
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError, Failure):
        raise
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        raise click.exceptions.Exit(130) from None
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "rcdm"
        raise BadInput(f"{error.format_message().rstrip('.')} (see {command} --help).") from None
    except click.ClickException as error:
        raise BadInput(error.format_message()) from None
    except (Exception, SystemExit) as error:  # a user's encoder may try to leave, which is no success
        if wants_traceback():
            traceback.print_exc()
        raise _failure(error) from None


def _failure(error: BaseException) -> Failure:
    if isinstance(error, rcdm_core.RCDMError):
        sentence = str(error).rstrip()
        return BadInput(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.")
    if isinstance(error, BrokenPipeError):  # `rcdm providers | head`: nobody reads on, so there is nothing to say
        raise error
    if isinstance(error, OSError) and error.filename is None and _is_of_printing(error):
        return BadInput(f"stdout could not be written ({error.strerror or error}); send it somewhere else.")
    if isinstance(error, OSError) and error.filename is not None:
        return BadInput(f"Cannot use {error.filename}: {error.strerror or error}.")
    what = str(error).strip().splitlines()
    hint = "" if wants_traceback() else "; the same command with --debug shows where"
    return Failure(f"Unexpected {type(error).__name__}: {what[0].rstrip('.') if what else 'no message'}{hint}.")


def _is_of_printing(error: BaseException) -> bool:
    """Whether it was raised where something was printed; what is written to files has their names."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


class LazyGroup(HelpfulGroup):
    """A group whose commands are modules, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"rcdm_cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name with bytes that are no text must not end a command
                stream.reconfigure(errors="backslashreplace")
        with one_sentence():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with one_sentence(), sigterm_as_ctrl_c():
            return super().invoke(ctx)


@click.command(
    "rcdm", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(rcdm_core.__version__, prog_name="rcdm")
@common_options
def main() -> None:
    """See what a neural representation knows about an image.

    An RCDM is a diffusion model that draws pictures from the representation of a picture. What stays the same in all
    of them is in the representation, what changes is not.
    """


if __name__ == "__main__":
    main()
