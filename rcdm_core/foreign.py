"""Code of others, which may raise anything: a plugin, a user's own function."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from .errors import Escaped, first_line


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Inside, whatever is raised arrives as an Exception, so that one `except Exception` sees it: SystemExit, a
    KeyboardInterrupt of the code's own. Ctrl-C stays what it is.

    Raises Escaped.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        pressed.set()
        if callable(before):
            before(number, frame)

    # Elsewhere than in the main thread, no signal arrives and none can be caught.
    watching = threading.current_thread() is threading.main_thread() and callable(before)
    if watching:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and pressed.is_set():
            raise
        raise Escaped(first_line(error)) from error
    finally:
        if watching and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
