"""The content ids of a folder's files, remembered so that a large folder is not read in full every time."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

from rcdm_core.atomic import replace_text
from rcdm_core.data.cache_dir import cache_dir
from rcdm_core.data.images import content_hash
from rcdm_core.errors import RCDMError

_VERSION = 1
# A file that was written within this time may be written again without a new time stamp on coarse file systems.
_SETTLED_NS = 2_000_000_000

_Stamp = tuple[int, int, int, int, int]


class KnownIds:
    """Content ids by file. What was read before and has kept its size and its times is not read again.

    The memory is one file in the cache folder for each root. It only saves time: when it cannot be read or written,
    everything is read.
    """

    def __init__(self, root: Path) -> None:
        self._key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
        self._stored = self._load()
        self._found: dict[_Stamp, str] = {}
        self._settled: dict[_Stamp, str] = {}

    def content_id(self, path: Path) -> str:
        """`content_hash` of the file. Raises OSError, also for what is not a regular file."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a named pipe would wait for ever.
            raise OSError(None, "it is not a regular file")
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        content_id = self._found.get(stamp) or self._stored.get(stamp) or content_hash(path)
        self._found[stamp] = content_id
        if time.time_ns() - status.st_ctime_ns > _SETTLED_NS:
            self._settled[stamp] = content_id
        return content_id

    def save(self) -> None:
        """Remember what was found."""
        if self._settled == self._stored:
            return
        entries = [[*stamp, content_id] for stamp, content_id in self._settled.items()]
        try:
            replace_text(self._path(), json.dumps({"version": _VERSION, "ids": entries}))
        except RCDMError:
            return

    def _path(self) -> Path:
        return cache_dir("content-ids") / f"{self._key}.json"

    def _load(self) -> dict[_Stamp, str]:
        try:
            stored = json.loads(self._path().read_text(encoding="utf-8"))
            if stored["version"] != _VERSION:
                return {}
            return {(dev, ino, size, mtime, ctime): str(found) for dev, ino, size, mtime, ctime, found in stored["ids"]}
        except (OSError, RCDMError, ValueError, TypeError, KeyError):
            return {}
