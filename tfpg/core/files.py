"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import json
import os
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
    """A temporary path beside ``path``, renamed to it when the block succeeds, else removed.

    The temporary name keeps the suffix, by which writers choose a format.

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
        _like_a_new_file(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_writable(path: str | os.PathLike) -> None:
    """Raises unless a file can be made at ``path``: by making one beside it.

    Raises:
        FileNotFoundError: Its folder does not exist.
        NotADirectoryError: Its folder is a file.
        IsADirectoryError: It is a folder itself.
        PermissionError: Its folder cannot be written.

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
            "choose another, or mend its permissions."
        ) from error


def _like_a_new_file(path: Path) -> None:
    # mkstemp makes private files; give it the permissions that open() would have.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def parse_json(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object, each of whose keys is there once.

    Raises:
        CheckpointCorruptError: It is something else.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{what} is not JSON: {_one_line(error)}.") from error
    if not isinstance(value, dict):
        raise CheckpointCorruptError(f"{what} is a {type(value).__name__}, and no JSON object.")
    return value


def read_json(path: Path, limit: int = 2**20) -> dict[str, Any]:
    """The JSON object in a regular file of up to ``limit`` bytes.

    Raises:
        CheckpointCorruptError: The file holds something else, or more.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointCorruptError(
            f"{str(path)!r} has more than {readable_bytes(limit)}, and is not the config of a run."
        )
    return parse_json(content, repr(str(path)))


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file to read; a link to one is as good.

    Raises:
        UnsafeCheckpointError: It is a device, a pipe or a socket, which can wait for ever.
        OSError: It cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if stat.S_ISREG(path.stat().st_mode):
        with open(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield file
                return
    raise UnsafeCheckpointError(f"{str(path)!r} is not a regular file: name the file itself.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
