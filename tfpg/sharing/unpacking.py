"""Reading packs that are zip files, which may come from anyone."""

from __future__ import annotations

import functools
import shutil
import tempfile
import zipfile
from pathlib import Path

from tfpg.core.files import open_regular
from tfpg.core.memory import readable_bytes
from tfpg.core.messages import one_line
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError

PARTS = ("config.json", "model.keras")
_EXPANSION = 4  # a part is at most this many times as large as the file, plus a megabyte


def unpacked(path: Path) -> Path:
    """Return a temporary folder with the config and the model of a zip file.

    Nothing is extracted by its name in the archive, and other members are ignored. The folder is
    removed when Python exits.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointCorruptError: It is not a zip file with these parts, or one is suspiciously large.
        UnsafeCheckpointError: It is a device or a pipe.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "pack.zip"
        ...     with zipfile.ZipFile(path, "w") as archive:
        ...         for name in ("model.keras", "config.json", "../README.md"):
        ...             archive.writestr(name, "text")
        ...     sorted(each.name for each in unpacked(path).iterdir())
        ['config.json', 'model.keras']
    """
    stat = path.stat()
    return Path(_unpack(path.resolve(), stat.st_mtime_ns, stat.st_size).name)


@functools.cache  # which keeps the folder
def _unpack(path: Path, _: int, size: int) -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="tfpg-")
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            for name in PARTS:
                _extract(archive, name, Path(folder.name), _EXPANSION * size + 2**20)
        return folder
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, (OSError, UnsafeCheckpointError)) or not isinstance(error, Exception):
            raise
        raise CheckpointCorruptError(
            f"{str(path)!r} is not a pack that tfpg pack wrote: {one_line(error)}."
        ) from error


def _extract(archive: zipfile.ZipFile, name: str, folder: Path, limit: int) -> None:
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ValueError(f"it has {len(found) or 'no'} {name} at its top")
    if found[0].file_size > limit:
        size = readable_bytes(found[0].file_size)
        raise ValueError(f"{name} would be unpacked to {size}, far more than the file has")
    with archive.open(found[0]) as part, open(folder / name, "wb") as copy:
        shutil.copyfileobj(part, copy)  # at most the size that was checked
