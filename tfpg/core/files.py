"""Files that are written completely or not at all, and read with care."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from tfpg.core.memory import readable_bytes
from tfpg.core.messages import one_line
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError


@contextmanager
def locked_folder(folder: Path, seconds: float = 3.0) -> Iterator[None]:
    """Make a folder, and lock it for this process until the end of the block.

    A lock ends with its process, and is not inherited by processes that this one starts. There
    are no locks on Windows.

    Args:
        folder: The folder.
        seconds: How long to wait for another process, which may have been killed a moment ago.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: The folder cannot be made.
    """
    if fcntl is None:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    deadline = time.monotonic() + seconds
    while (handle := _try_lock(folder)) is None:
        if time.monotonic() > deadline:
            raise BlockingIOError(
                f"Another run is writing to {str(folder)!r}: wait for it to end, or stop it."
            )
        time.sleep(0.05)
    _locks.add(handle)
    try:
        yield
    finally:
        if handle in _locks:  # not in a process that was forked meanwhile
            _locks.remove(handle)
            os.close(handle)


_locks: set[int] = set()  # open handles


def _release_locks() -> None:
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_release_locks)


def _try_lock(folder: Path) -> int | None:
    """Return an open handle of a locked folder, or None if another process has locked it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # it was removed a moment ago
        return None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        if os.path.samestat(os.fstat(handle), os.stat(folder)):
            return handle
    except (BlockingIOError, FileNotFoundError):  # or it was removed by the process that had it
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``path`` if the block succeeds.

    If the block raises, the temporary file is removed and ``path`` is unchanged. The temporary
    name has the same suffix, because writers choose a format by it.

    Args:
        path: Path of the file to write. Its folder must exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "note.txt"
        ...     with atomic_write(target) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     target.read_text(), len(list(Path(folder).iterdir()))
        ('whole', 1)
    """
    path = Path(path)
    check_writable(path)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.stem}.tmp-", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _set_default_permissions(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | os.PathLike, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to ``path`` if the block succeeds.

    If the block raises, the temporary folder is removed and ``path`` is unchanged.

    Args:
        path: Path of the folder to write. Its parent must exist.
        marker: The name of a file in folders that may be replaced. None: none may, unless empty.

    Raises:
        FileExistsError: There is a file, or a folder that may not be replaced.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with atomic_folder(f"{parent}/notes", "note.txt") as temporary:
        ...         _ = (temporary / "note.txt").write_text("whole")
        ...     [str(each.relative_to(parent)) for each in sorted(Path(parent).rglob("*"))]
        ['notes', 'notes/note.txt']
    """
    path = Path(path)
    if not path.is_dir():
        check_writable(path)
    replaceable = is_empty_folder(path) or (marker is not None and (path / marker).is_file())
    if path.exists() and not replaceable:
        raise FileExistsError(f"{str(path)!r} holds something else: choose another path.")
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    try:
        new = holder / "new"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(holder / "old")
        new.rename(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def is_empty_folder(path: Path) -> bool:
    """Return whether a path is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def check_writable(path: str | os.PathLike) -> None:
    """Raise an error unless a file can be written at ``path``, by writing one next to it.

    Raises:
        FileNotFoundError: Its folder does not exist.
        NotADirectoryError: Its folder is a file.
        IsADirectoryError: It is a folder itself.
        PermissionError: Its folder cannot be written to.

    Example:
        >>> check_writable("nowhere/a.mp4")
        Traceback (most recent call last):
            ...
        FileNotFoundError: The folder 'nowhere' of 'nowhere/a.mp4' does not exist: mkdir -p nowhere
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: pass the path of a file.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"The folder {str(folder)!r} of {str(path)!r} is a file.")
    if not folder.exists():
        raise FileNotFoundError(
            f"The folder {str(folder)!r} of {str(path)!r} does not exist: mkdir -p {folder}"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "OSError")
        raise PermissionError(
            f"The folder {str(folder)!r} of {str(path)!r} cannot be written ({reason}): "
            "choose another one, or fix its permissions."
        ) from error


def describe_write_error(error: OSError, path: Path) -> str:
    """Return why a write failed, and how much space is free on its disk.

    Example:
        >>> describe_write_error(OSError(28, "No space left"), Path("."))  # doctest: +ELLIPSIS
        'No space left, ... free'
    """
    reason = error.strerror or str(error)
    with suppress(OSError):
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        return f"{reason}, {readable_bytes(shutil.disk_usage(existing).free)} free"
    return reason


def parse_json(content: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: The text, in UTF-8.
        what: The name of the text in the error message.

    Raises:
        CheckpointCorruptError: The text is not a JSON object, or has a duplicate key.

    Example:
        >>> parse_json(b'{"gamma": 0.99}', "config.json")
        {'gamma': 0.99}
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{what} is not valid JSON: {one_line(error)}.") from error
    if not isinstance(value, dict):
        raise CheckpointCorruptError(f"{what} is a {type(value).__name__}, not a JSON object.")
    return value


def read_json(path: Path, limit: int = 2**20) -> dict[str, Any]:
    """Read a JSON object from a regular file of at most ``limit`` bytes.

    Raises:
        CheckpointCorruptError: The file is too large or is not a JSON object.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointCorruptError(f"{str(path)!r} is larger than {readable_bytes(limit)}.")
    return parse_json(content, repr(str(path)))


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, for reading.

    Raises:
        UnsafeCheckpointError: The path is a device, a pipe or a socket, which could block forever.
        OSError: The file cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if stat.S_ISREG(path.stat().st_mode):
        with open(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield file
                return
    raise UnsafeCheckpointError(f"{str(path)!r} is not a regular file.")


def _set_default_permissions(path: Path) -> None:
    # mkstemp makes private files. open() would give them these permissions.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
