"""Code of others, which may raise anything: a plugin, a user's own function."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from .errors import Escaped, first_line


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Inside, whatever is raised arrives as an Exception, so that one `except Exception` sees it: SystemExit, a
    KeyboardInterrupt of the code's own. Ctrl-C stays what it is, and so does a SIGTERM that is taken for one.

    Raises Escaped.
    """
    pressed = threading.Event()
    before: dict[int, Callable[[int, FrameType | None], object]] = {}

    def note(number: int, frame: FrameType | None) -> None:
        pressed.set()
        before[number](number, frame)

    # Elsewhere than in the main thread, no signal arrives and none can be caught.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and pressed.is_set():
            raise
        raise Escaped(first_line(error)) from error
    finally:
        for watched, handler in before.items():
            if signal.getsignal(watched) is note:
                signal.signal(watched, handler)
