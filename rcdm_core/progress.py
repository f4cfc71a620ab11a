"""How long work tells of itself. The core reports; whoever calls it decides what to show (the default: nothing)."""

from __future__ import annotations


class Reporter:
    """The silent reporter, and the protocol of the others.

    A piece of work is `start`, any number of `update` and `log`, then `finish`. Pieces follow one another and are never
    nested.
    """

    def start(self, total: float | None, description: str, unit: str = "it") -> None:
        """A piece of work begins, of `total` units (None: not known beforehand)."""

    def update(self, advance: float = 1, **numbers: float) -> None:
        """`advance` more units are done; `numbers` are worth showing beside the bar, such as loss=0.1."""

    def log(self, message: str) -> None:
        """A line for the user that stays on the screen, such as a warning or where a file was written."""

    def finish(self) -> None:
        """The piece of work that was started last is over."""
