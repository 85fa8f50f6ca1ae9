"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
