"""Fetch a file over a connection that may break: goes on where it broke, checks it, and names it in one rename."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .atomic import make_folder, replacing
from .errors import RCDMError
from .progress import shown_now

FOLDER_OPTION = "TORCH_HOME"  # what moves the cache, for messages
TRIES = 5  # in a row that bring less than a chunk
WAIT = 1.0  # seconds before the second try, doubled before every further one
TIMEOUT = 30.0  # seconds without a byte after which a connection counts as broken
_CHUNK = 10**6  # bytes
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP's codes that ask to try again


class NotFetched(RCDMError):
    """A file could not be had; the message is the reason alone."""


class _Broken(Exception):
    """A failure that another try may get over."""


def download(url: str, path: Path, digest: str | None = None) -> None:
    """Fetch `url` into `path`, whose folder is created.

    A connection that breaks is taken up where it broke if the server can do that, and from the beginning if not, a few
    times with a growing pause. Nothing is at `path` before all of it is there and its sha256 begins with `digest`
    (None: not known). Raises NotFetched when it cannot be had or is another file, RCDMError when it cannot be written.
    """
    make_folder(path.parent, FOLDER_OPTION)
    with replacing(path, FOLDER_OPTION) as temporary:
        with temporary.open("wb") as file:
            found = _Transfer(url, path, file).run()
        if digest and not found.startswith(digest):
            raise NotFetched(f"its sha256 starts with {found[: len(digest)]}, expected {digest}")


class _Transfer:
    """One file on its way, over as many connections as it takes."""

    def __init__(self, url: str, path: Path, file: IO[bytes]) -> None:
        self.url, self.path, self.file = url, path, file
        self.reporter = shown_now()
        self.hasher = hashlib.sha256()
        self.received = 0
        self.total: int | None = None
        self.version = ""  # what the server tells one content of this URL from another by
        self.tag = ""
        self.answered = False

    def run(self) -> str:
        """All of it; returns its sha256."""
        tries = 0
        try:
            while True:
                before = self.received
                try:
                    self._connect()
                    return self.hasher.hexdigest()
                except _Broken as error:
                    tries = 1 if self.received - before >= _CHUNK else tries + 1
                    if tries >= TRIES:
                        raise NotFetched(f"{error}, after {tries} tries") from error
                    wait = WAIT * 2 ** (tries - 1)
                    self.reporter.log(f"the download of {self.url} broke off ({error}); trying again in {wait:g} s")
                    time.sleep(wait)
        finally:
            if self.answered:
                self.reporter.finish()

    def _connect(self) -> None:
        """What one connection brings. Raises _Broken when that is not the rest of the file."""
        request = urllib.request.Request(self.url)
        if self.received:
            request.add_header("Range", f"bytes={self.received}-")
            if self.version:
                request.add_header("If-Range", self.version)
        with self._network():
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        with response:
            if not self._continues(response):
                if response.status == 206:  # a part of it, but not the one that was asked for
                    self.received = 0
                    raise _Broken("the server went on at another place or with another file")
                self._begin(response)
            while True:
                with self._network():
                    chunk = response.read(_CHUNK)
                if not chunk:
                    break
                self.file.write(chunk)
                self.hasher.update(chunk)
                self.received += len(chunk)
                self.reporter.update(len(chunk) / 1e6)
        if not self.received and not self.total:
            raise NotFetched("the server sent an empty file")
        if self.total is not None and self.received != self.total:
            raise _Broken(f"{self.received} of {self.total} bytes arrived")

    def _continues(self, response: Any) -> bool:
        """Whether the server goes on where the last connection broke, in the same file."""
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
        return (
            self.received > 0
            and response.status == 206
            and place is not None
            and int(place[1]) == self.received
            and place[2] in ("*", str(self.total))
            and response.headers.get("ETag") in (None, self.tag)
        )

    def _begin(self, response: Any) -> None:
        """Start with the file's first byte."""
        self.file.seek(0)
        self.file.truncate()
        self.hasher, self.received = hashlib.sha256(), 0
        length = response.headers.get("Content-Length")
        self.total = int(length) if length and length.isdecimal() else None
        self.tag = tag = response.headers.get("ETag") or ""
        self.version = tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""
        megabytes = None if self.total is None else round(self.total / 1e6, 1)
        if not self.answered:
            size = "" if megabytes is None else f" ({megabytes:g} MB)"
            self.reporter.log(f"downloading {self.url}{size} to {self.path}")
        self.answered = True
        self.reporter.start(megabytes, f"downloading {self.path.name}", unit="MB")

    @contextlib.contextmanager
    def _network(self) -> Iterator[None]:
        """Tell what may pass from what will not. Where nothing has answered yet, there is most likely no network."""
        try:
            yield
        except urllib.error.HTTPError as error:
            if error.code == 416:  # it does not go on there: from the beginning
                self.received = 0
            elif error.code not in _PASSING:
                raise NotFetched(_in_one_line(error)) from error
            raise _Broken(_in_one_line(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = _in_one_line(error.reason if type(error) is urllib.error.URLError else error)
            if not self.answered:
                raise NotFetched(reason) from error
            raise _Broken(reason) from error


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
