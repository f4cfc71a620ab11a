"""How long work tells of itself. The core reports; whoever calls it decides what to show (the default: nothing)."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Iterator


class Reporter:
    """The silent reporter, and the protocol of the others.

    A piece of work is `start`, any number of `update` and `log`, then `finish`. Pieces follow one another and are never
    nested.
    """

    def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
        """A piece of work begins, of `total` units (None: not known beforehand).

        `done` of them were done at an earlier time: they count as progress, but not for the rate.
        """

    def update(self, advance: float = 1, **numbers: float) -> None:
        """`advance` more units are done; `numbers` are worth showing beside the bar, such as loss=0.1."""

    def log(self, message: str) -> None:
        """A line for the user that stays on the screen, such as a warning or where a file was written."""

    def finish(self) -> None:
        """The piece of work that was started last is over."""


class _Lines(Reporter):
    """Lines for the user on stderr, and nothing else."""

    def log(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


_shown: contextvars.ContextVar[Reporter | None] = contextvars.ContextVar("reporter", default=None)


@contextlib.contextmanager
def showing(reporter: Reporter) -> Iterator[None]:
    """Inside, `shown_now` is this one: for work that is reached through others' code, such as a plugin's download."""
    token = _shown.set(reporter)
    try:
        yield
    finally:
        _shown.reset(token)


def shown_now() -> Reporter:
    """The reporter of the command or the training under way; outside of them, one that writes lines to stderr."""
    return _shown.get() or _Lines()


def in_round_words(seconds: float) -> str:
    """A length of time to one unit: `about 3 hours`."""
    for unit, length in (("year", 365 * 86400.0), ("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * length:
            return f"about {round(seconds / length)} {unit}s"
    return f"about {max(1, round(seconds))} seconds"
