"""Files that a reader sees whole or not at all: a temporary file or folder, fsync, one rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rcdm_core.errors import RCDMError

# Temporary names carry machine and process, so that what a killed process left can be told from what is being written.
# Processes of other machines may share the folder, and nothing is known of theirs.
_MACHINE = re.sub(r"[^\w-]", "-", platform.node())[:40] or "localhost"
_TEMPORARY = re.compile(rf"\..+\.{re.escape(_MACHINE)}\.(\d+)\.tmp")
_LONG = 100  # bytes: file systems allow 255 for a name, those that encrypt 143
_cleaned: set[Path] = set()


def sync_file(path: Path) -> None:
    """Force the file's bytes to the disk: without it a rename may survive a power cut that its content did not."""
    # Windows flushes only what is open for writing; elsewhere folders come here too, which can be read alone.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_usual_permissions(path: Path) -> None:
    """Those of a file that was simply opened: safetensors makes its files readable to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def sync_folder(path: Path) -> None:
    """Force the folder's list of names to the disk; a no-op where folders cannot be opened (Windows)."""
    if os.name == "posix":
        sync_file(path)


@contextlib.contextmanager
def replacing(path: Path, option: str = "--out", *, lasting: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path` to fill; on success `path` is switched to it in one rename.

    option: what the user chose the folder with, for messages. lasting: whether it has to outlive a power cut, which
    takes milliseconds; a file that can be made again, and is seen to be broken, need not. Raises RCDMError when the
    disk is full or the folder cannot be written; `path` is then what it was before.
    """
    path = Path(path)
    temporary = _temporary(path)
    with explain_failures(path, option):
        try:
            yield temporary
            _give_usual_permissions(temporary)
            if lasting:
                sync_file(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if lasting:
            sync_folder(path.parent)


def replace_text(path: Path, text: str, *, lasting: bool = True) -> None:
    r"""`replacing` for a short UTF-8 text. A byte of a file's name that is not UTF-8 becomes \udcff, as JSON has it."""
    with replacing(path, lasting=lasting) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def create_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write files into a temporary folder beside `path`, then name it `path` in one rename.

    A folder that already has that name is replaced: callers must not use a name that a pointer refers to.
    Raises RCDMError as `replacing` does.
    """
    path = Path(path)
    temporary = _temporary(path)
    with explain_failures(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            fill(temporary)
            for file in temporary.iterdir():
                _give_usual_permissions(file)
                sync_file(file)
            sync_folder(temporary)
            if path.exists():
                shutil.rmtree(path)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """Where to write what will be `path`. The first time in a folder, what killed processes left there is removed."""
    folder = path.parent.absolute()
    if folder not in _cleaned and os.name == "posix":  # elsewhere, asking after a process with os.kill would end it
        _cleaned.add(folder)
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                left = _TEMPORARY.fullmatch(entry.name)
                if left and not _is_running(int(left[1])):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    name = os.fsencode(path.name)
    # A name that only just fits has to fit here too, and names that begin alike must not meet.
    short = path.name if len(name) <= _LONG else hashlib.sha256(name).hexdigest()[:16]
    return path.with_name(f".{short}.{_MACHINE}.{os.getpid()}.tmp")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def refuse_dangling(path: Path, option: str = "--out") -> None:
    """Raises RCDMError where the path, or a folder of it, is a symbolic link to what does not exist."""
    for link in (path, *path.parents):
        if link.is_symlink() and not os.path.exists(link):
            raise RCDMError(
                f"{link} is a symbolic link to {os.readlink(link)}, which does not exist: create that, or choose "
                f"another place with {option}."
            )


def make_folder(path: Path, option: str = "--out") -> Path:
    """Create the folder and its parents.

    Raises RCDMError when that is not permitted, a file is in the way, a link leads nowhere, or the path is not UTF-8,
    which safetensors cannot open.
    """
    refuse_dangling(Path(path), option)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise RCDMError(f"The path {path} is not UTF-8; choose another folder with {option}.") from error
    with explain_failures(Path(path), option):
        for part in (Path(path), *Path(path).parents):
            if part.exists() and not part.is_dir():
                raise RCDMError(f"{part} is a file, and a folder is needed there; choose another one with {option}.")
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextlib.contextmanager
def explain_failures(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn the failures of writing `path`, which was chosen with `option`, into an RCDMError of one sentence."""
    try:
        yield
    except PermissionError as error:
        raise RCDMError(f"No permission to write {path}; choose another folder with {option}.") from error
    except Exception as error:
        # safetensors reports the errors of the operating system as its own, with the number in the text alone.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        if full:
            raise RCDMError(
                f"The disk is full: {path} could not be written and is unchanged; free some space, or choose another "
                f"folder with {option}, and try again."
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RCDMError(f"{path} could not be written ({error}); check the folder given with {option}.") from error
        raise
