"""Files of checkpoints: written and synced, read as far as their sizes and hashes are right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfpg.checkpoints.serialization import unpack
from tfpg.core.memory import check_memory, readable_bytes
from tfpg.errors import CheckpointCorruptError

_LARGEST_MANIFEST = 4_000_000  # bytes


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, whole.

    Raises:
        CheckpointCorruptError: It is not.
    """
    with open_regular(path) as file:
        data = _read(file, path, _LARGEST_MANIFEST)
    try:
        manifest = json.loads(data)
        own = manifest.pop("sha256")
        files, log = manifest["files"], manifest["log"]
        whole = [*files.values(), *log]
        if not all(isinstance(each["bytes"], int) and each["sha256"] for each in whole):
            raise ValueError("a size is none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorruptError(
            f"{str(path)!r} is not the manifest of a checkpoint ({type(error).__name__}: {error})."
        ) from None
    if own != own_hash(manifest):
        raise CheckpointCorruptError(
            f"{str(path)!r} has changed since it was written: expected sha256 {own}, found "
            f"{own_hash(manifest)}."
        )
    return manifest


def own_hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def check_hash(path: Path, digest: Any, sha256: str) -> None:
    if digest.hexdigest() != sha256:
        raise CheckpointCorruptError(
            f"{str(path)!r} has changed since it was written: expected sha256 {sha256}, "
            f"found {digest.hexdigest()}."
        )


def read_bytes(path: Path, size: int, more: bool = False) -> bytes:
    """The first so many bytes of a regular file, which has as many, or more where it may."""
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        if found < size or (found > size and not more):
            raise CheckpointCorruptError(
                f"{str(path)!r} is not whole: expected {size:,} bytes, found {found:,}."
            )
        check_memory(size, f"{str(path)!r}", "free some")
        return _read(file, path, size)


def open_regular(path: Path) -> Any:
    """A regular file of ours, which is no link and no device."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        raise CheckpointCorruptError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointCorruptError(f"{str(path)!r} is no regular file.")
    return os.fdopen(handle, "rb")


def _read(file: Any, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:  # a bad sector
        raise CheckpointCorruptError(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def records_of(path: Path, data: bytes) -> Iterator[Any]:
    start = 0
    while start < len(data):
        try:
            record, start = unpack(data, start)
        except ValueError as error:
            raise CheckpointCorruptError(f"{str(path)!r}: {error}.") from None
        yield record


def write_synced(path: Path, parts: Iterable[Any]) -> dict[str, Any]:
    """Writes and syncs a new file in few calls; its size and sha256."""
    data = b"".join(parts)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not everywhere
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def room_needed(error: OSError, path: Path) -> str:
    """What a failed write says of the room there is.

    Example:
        >>> room_needed(OSError(28, "No space left on device"), Path("."))  # doctest: +ELLIPSIS
        'No space left on device, ... free'
    """
    with suppress(OSError):
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        return f"{error.strerror or error}, {readable_bytes(shutil.disk_usage(existing).free)} free"
    return str(error.strerror or error)
