"""The errors that a user can do something about."""

from __future__ import annotations

import textwrap
from pathlib import Path


class RCDMError(Exception):
    """Bad input. The message is one sentence: what is wrong, what was expected, what to do.

    The command line shows the message and ends with exit code 2; anything else that is raised is a bug of the program
    and keeps its traceback.
    """


class UnreadableImage(RCDMError):
    """A file that cannot be used as a picture; `reason` says why in a few words, without the file's name.

    Whoever reads a folder catches it, counts the file and goes on.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PictureGone(RCDMError):
    """A picture that could be read when it was chosen and cannot be read any more, such as a file deleted meanwhile.

    content_id: the picture's. name: for readers. source: the set that it was chosen from, None for one that was given.
    reason: in a few words. Whoever takes pictures from a set can choose anew.
    """

    def __init__(self, content_id: str, name: str, reason: str, source: object | None) -> None:
        super().__init__(
            f"{name} could be read when this began, and cannot be read any more ({reason}); put it back or leave it "
            "out, and give the same command again."
        )
        self.content_id, self.name, self.reason, self.source = content_id, name, reason, source


class SampleNotFinite(RCDMError):
    """A network gave samples with an infinity or NaN. Who can do without them catches it."""


class Escaped(Exception):
    """What code of others raised and is no Exception (see `foreign.contained`), quoted as `first_line` does."""


def first_line(error: BaseException, path: Path | None = None) -> str:
    """`Type: first line of the message`, cut if long, which is how a foreign exception is quoted inside a sentence.

    path: a file that the sentence names already; said again whole, it would take the place of what is wrong.
    """
    message = str(error) if path is None else str(error).replace(str(path), path.name)
    lines = message.strip().splitlines()
    if isinstance(error, Escaped) and lines:
        return lines[0]
    return (
        f"{type(error).__name__}: {textwrap.shorten(lines[0], 200, placeholder=' …')}"
        if lines
        else type(error).__name__
    )
