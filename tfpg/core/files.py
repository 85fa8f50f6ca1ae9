"""Files that are written whole or not at all, and read with care."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tfpg.core.memory import readable_bytes
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError


@contextmanager
def written_beside(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``path`` if the block succeeds.

    If the block raises, the temporary file is removed and ``path`` is unchanged. The temporary
    name has the same suffix, because writers choose a format by it.

    Args:
        path: Path of the file to write. Its folder must exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "note.txt"
        ...     with written_beside(target) as temporary:
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
        raise IsADirectoryError(f"{str(path)!r} is a folder, and a file is to be written there.")
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
    """Return a JSON object, each of whose keys occurs once.

    Args:
        content: Text in UTF-8.
        what: Name of the content, which begins the error message.

    Raises:
        CheckpointCorruptError: The content is something else.
    """

    def check_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=check_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{what} is not JSON: {_one_line(error)}.") from error
    if not isinstance(value, dict):
        raise CheckpointCorruptError(
            f"{what} must be a JSON object, and it is a {type(value).__name__}."
        )
    return value


def read_json(path: Path, limit: int = 2**20) -> dict[str, Any]:
    """Return the JSON object in a regular file of up to ``limit`` bytes.

    Raises:
        CheckpointCorruptError: The file holds something else, or is larger.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointCorruptError(
            f"{str(path)!r} is larger than {readable_bytes(limit)}, so it is not the config of a "
            "run."
        )
    return parse_json(content, repr(str(path)))


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, to read.

    Raises:
        UnsafeCheckpointError: It is a device, a pipe or a socket, which could block forever.
        OSError: It cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if stat.S_ISREG(path.stat().st_mode):
        with open(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield file
                return
    raise UnsafeCheckpointError(f"{str(path)!r} is not a regular file: name the file itself.")


def _set_default_permissions(path: Path) -> None:
    # mkstemp makes private files. open() would give them these permissions.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
