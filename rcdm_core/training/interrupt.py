"""Ctrl-C and SIGTERM end a training after the step that is under way, so that it can save.

Before the first step there is nothing to save: there both end it at once, and what is half written is removed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class StopRequests:
    """While it is entered, `requested` turns true at the first SIGINT or SIGTERM. A second Ctrl-C ends at once.

    first: called at the first one. Signals can only be caught in the main thread; elsewhere this does nothing.
    """

    def __init__(self, first: Callable[[], object]) -> None:
        self.requested = False
        self._first = first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            with contextlib.suppress(RuntimeError):  # stderr was being written to, and cannot be in the middle of that
                self._first()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
