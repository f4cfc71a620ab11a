"""What the commands show with: tables, and the progress of long work.

Results go to stdout; progress and remarks go to stderr, so that the output of --json is nothing but JSON.
"""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rcdm_core.progress import Reporter, showing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_UNSEEN = ("Cc", "Zl", "Zp")  # Unicode's controls, and separators of lines and paragraphs
PLAIN_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


def only_json(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Around the work of a command with --json: what a user's encoder prints in there goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def one_line(text: str) -> str:
    r"""The text as one line of a terminal or a log: what breaks a line or steers a terminal, such as in the name of a
    file, is written as in Python (\n, \x1b)."""
    return "".join(repr(one)[1:-1] if unicodedata.category(one) in _UNSEEN else one for one in text)


def say(text: str, err: bool = False) -> None:
    """Print one line, to stdout or stderr."""
    click.echo(one_line(text), err=err)


def print_table(header: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their content. On a terminal the last one is wrapped; in a pipe every row is one line."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=header is not None, header_style="bold")
        width = len(header or (rows[0] if rows else ()))
        for column in range(width):
            table.add_column(header[column] if header else "", no_wrap=column < width - 1, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)
        return
    lines = [*([header] if header else []), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def reporter() -> Reporter:
    """What long work of the current command reports to: a bar on a terminal, else plain lines, both on stderr."""
    shown: BarReporter | PlainReporter = BarReporter() if sys.stderr.isatty() else PlainReporter()
    context = click.get_current_context()
    # an exception in the middle of the work must not leave a bar on the screen
    context.call_on_close(shown.finish)
    context.with_resource(showing(shown))
    return shown


class PlainReporter(Reporter):
    """One line now and then, for logs and pipes."""

    def __init__(self, every: float = PLAIN_EVERY) -> None:
        self.every = every
        self.running = False

    def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.done = self.done_before = float(done)
        self.numbers: dict[str, float] = {}
        self.began = self.said = time.monotonic()
        self.running = True
        self.log(f"{description}{'' if total is None else f': {total:g} {unit}'}")

    def update(self, advance: float = 1, **numbers: float) -> None:
        self.done += advance
        self.numbers.update(numbers)
        now = time.monotonic()
        if now - self.said >= self.every:
            self.said = now
            self._say(now)

    def log(self, message: str) -> None:
        say(message, err=True)

    def finish(self) -> None:
        if self.running:
            self.running = False
            elapsed = time.monotonic() - self.began
            new = f"{self.done - self.done_before:g} of them " if self.done_before else ""
            work = f"{self.done:g} {self.unit}{', ' * bool(new)}{new or ' '}in {clock(elapsed)}"
            self.log(f"{self.description}: {work}{in_words(self.numbers)}")

    def _say(self, now: float) -> None:
        rate = (self.done - self.done_before) / max(now - self.began, 1e-9)
        progress = f"{self.done:g}"
        left = ""
        if self.total is not None:
            progress += f"/{self.total:g}"
            if rate > 0:
                left = f", {clock((self.total - self.done) / rate)} left"
        self.log(f"{self.description}: {progress} {self.unit}, {rate:.3g} {self.unit}/s{left}{in_words(self.numbers)}")


class BarReporter(Reporter):
    """A bar with the rate and the time left, for terminals."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.numbers: dict[str, float] = {}

    def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:.3g} {unit}/s")

        class Done(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.completed:g}" + ("" if task.total is None else f"/{task.total:g}"))

        self.finish()
        self.numbers = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            Done(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=Console(stderr=True, highlight=False),
        )
        self.progress.start()
        self.task = self.progress.add_task(one_line(description), total=total, completed=int(done), numbers="")

    def update(self, advance: float = 1, **numbers: float) -> None:
        self.numbers.update(numbers)
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, advance=advance, numbers=in_words(self.numbers).lstrip(", "))

    def log(self, message: str) -> None:
        if self.progress is None:
            say(message, err=True)
        else:
            self.progress.console.print(one_line(message), markup=False, soft_wrap=True)

    def finish(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = self.task = None


def in_words(numbers: dict[str, float]) -> str:
    """`{"loss": 0.1234567}` -> `, loss 0.1235`."""
    return "".join(f", {name} {value:.4g}" for name, value in numbers.items())


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, without the hours where there are none."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def as_path_text(path: Any) -> str:
    """A path as the user would type it: relative to the working directory where it is below it."""
    from pathlib import Path

    path = Path(path).absolute()
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
