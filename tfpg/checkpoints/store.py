"""Checkpoint files: each is either intact or rejected.

    folder/step-N.ckpt    the checkpoint after N environment steps
    folder/log/K.log      data that only grows, such as a replay buffer's rows, in parts

Both kinds begin with a line of JSON, which ``head -n 1`` shows: the size and sha256 of the file,
versions, and counts. A record of `tfpg.checkpoints.serialization` follows. A file is written under
a temporary name, synced, renamed, and never changed. Each file of the log names the hash of the one
before it, and a checkpoint the hash of its last one, so that they cannot be mixed up.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.checkpoints.serialization import pack, unpack
from tfpg.core.files import atomic_write, open_regular
from tfpg.core.memory import check_memory
from tfpg.core.messages import warn
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError, VersionSkewError

FORMAT = 4

_STEP = re.compile(r"step-(\d+)\.ckpt")
_LONGEST_HEADER = 4_000_000  # bytes


class Checkpoint(NamedTuple):
    """A checkpoint that was read."""

    path: Path
    header: dict[str, Any]
    state: dict[str, Any]


class _LogFile(NamedTuple):
    number: int
    sha256: str
    position: int  # of the last entry in it


class Store:
    """The checkpoints of one run in one folder.

    Args:
        folder: Folder of the checkpoints. `save` makes it.
        keep: Number of newest checkpoints that `save` leaves in the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Store(folder).save(12, {"weights": [1.5]}, {"iteration": 3})
        ...     found = Store(folder).load()
        >>> path.name, found.state, found.header["iteration"]
        ('step-12.ckpt', {'weights': [1.5]}, 3)
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep
        self._log: list[_LogFile] = []

    def save(
        self,
        step: int,
        state: dict[str, Any],
        header: dict[str, Any],
        entry: dict[str, Any] | None = None,
        position: int = 0,
        needed_from: int = 0,
    ) -> Path:
        """Write a checkpoint, and then remove the oldest ones.

        Args:
            step: Number of the checkpoint, larger than those before it.
            state: What `pack` accepts.
            header: More entries for the line of JSON.
            entry: What to add to the log, or None.
            position: Position of the end of the entry, which only increases.
            needed_from: Position from which the log is still needed.

        Raises:
            OSError: The checkpoint could not be written. Nothing else changed.
            TypeError: The state holds something that cannot be saved.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        last = self._log[-1] if self._log else _LogFile(-1, "", -1)
        log = [each for each in self._log if each.position >= needed_from]
        if entry is not None:
            (self.folder / "log").mkdir(exist_ok=True)
            number = last.number + 1
            links = {"position": position, "after": last.sha256}
            sha256 = _write(self._log_path(number), links, entry)
            last = _LogFile(number, sha256, position)
            log.append(last)
        path = self._path(step)
        span = {"first": log[0].number, "last": last.number, "sha256": last.sha256} if log else None
        try:
            _write(path, {"format": FORMAT, "step": step, **header, "log": span}, state)
        except BaseException:
            if entry is not None:
                with suppress(OSError):
                    self._log_path(last.number).unlink()
            raise
        self._log = log
        self._prune(step)
        return path

    def load(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None if there are none; warn about broken ones.

        Removes files that a killed process left half-written. The next `save` continues the log of
        the checkpoint that was read.

        Raises:
            CheckpointCorruptError: There are checkpoints, but none is intact.
            VersionSkewError: Another version of tfpg wrote it in another format.
        """
        for path in [*self.folder.glob(".*.tmp-*"), *self.folder.glob("log/.*.tmp-*")]:
            path.unlink(missing_ok=True)
        self._log = []
        errors: list[str] = []
        for step in reversed(self.steps()):
            try:
                found = self._read(self._path(step))
            except CheckpointCorruptError as error:
                errors.append(str(error))
                continue
            if errors:
                warn(f"{errors[0]} Resuming from {str(found.path)!r}.")
            return found
        if errors:
            others = f"None of the {len(errors)} checkpoints is intact. " if errors[1:] else ""
            raise CheckpointCorruptError(f"{errors[0]} {others}Start again in another folder.")
        if any(self.folder.glob("step-*/manifest.json")):
            raise VersionSkewError(
                f"{str(self.folder)!r} has checkpoints of an older tfpg: resume with the version "
                "that wrote them, or start again in another folder."
            )
        return None

    def steps(self) -> list[int]:
        """Return the numbers of the checkpoints in the folder, in order."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def log(self) -> Iterator[dict[str, Any]]:
        """Yield the log entries of the checkpoint that was saved or loaded last, in order."""
        for each in self._log:
            yield read_file(self._log_path(each.number))[1]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.ckpt"

    def _log_path(self, number: int) -> Path:
        return self.folder / "log" / f"{number:06d}.log"

    def _read(self, path: Path) -> Checkpoint:
        header, state = read_file(path)
        if header.get("format") != FORMAT:
            raise VersionSkewError(
                f"{str(path)!r} has format {header.get('format')}, but this tfpg reads {FORMAT}: "
                "resume with the version that wrote it, or update tfpg."
            )
        log: list[_LogFile] = []
        span = header["log"] or {"first": 0, "last": -1, "sha256": ""}
        expected = span["sha256"]
        for number in range(span["last"], span["first"] - 1, -1):
            links, _ = read_file(self._log_path(number))
            _check_hash(self._log_path(number), expected, links["sha256"])
            log.insert(0, _LogFile(number, links["sha256"], links["position"]))
            expected = links["after"]
        self._log = log
        return Checkpoint(path, header, state)

    def _prune(self, newest: int) -> None:
        steps = self.steps()
        # Larger numbers are of broken checkpoints: the run was resumed from an earlier one.
        kept = [step for step in steps if step <= newest][-self.keep :]
        for step in {*steps} - {*kept}:
            with suppress(OSError):
                self._path(step).unlink()
        spans = []
        for step in kept:
            with suppress(CheckpointCorruptError, OSError), self._path(step).open("rb") as file:
                spans.append(_parse_header(self._path(step), file.readline(_LONGEST_HEADER))["log"])
        first = min((span["first"] for span in spans if span), default=0)
        for path in (self.folder / "log").glob("*.log"):
            if path.stem.isdecimal() and int(path.stem) < first:
                with suppress(OSError):
                    path.unlink()


def read_file(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the header and the state of a file.

    Raises:
        CheckpointCorruptError: The file cannot be read, was cut short, or has changed.
    """
    try:
        with open_regular(path) as file:
            line = file.readline(_LONGEST_HEADER)
            header = _parse_header(path, line)
            found = os.fstat(file.fileno()).st_size - len(line)
            if found != header["bytes"]:
                raise CheckpointCorruptError(
                    f"{str(path)!r} is damaged: expected {header['bytes']:,} bytes after its "
                    f"first line, found {found:,}."
                )
            check_memory(found, repr(str(path)), "free some memory")
            data = bytearray(found)
            file.readinto(data)  # type: ignore[attr-defined]
    except OSError as error:
        raise CheckpointCorruptError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except UnsafeCheckpointError as error:
        raise CheckpointCorruptError(str(error)) from None
    _check_hash(path, header["sha256"], _hash(header, [data]))
    try:
        return header, unpack(data)
    except ValueError as error:
        raise CheckpointCorruptError(f"{str(path)!r}: {error}.") from None


def _parse_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if not (isinstance(header["bytes"], int) and isinstance(header["sha256"], str)):
            raise ValueError("its size or its hash is missing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointCorruptError(
            f"{str(path)!r} does not begin with the header of a checkpoint "
            f"({type(error).__name__}: {error})."
        ) from None
    return header


def _write(path: Path, header: dict[str, Any], state: Any) -> str:
    """Write a new file, or replace it, and return its sha256."""
    buffers = pack(state)
    header = {**header, "bytes": sum(len(each) for each in buffers)}
    header["sha256"] = _hash(header, buffers)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for each in (json.dumps(header).encode(), b"\n", *buffers):
            file.write(each)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # not every file system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return header["sha256"]


def _hash(header: dict[str, Any], buffers: list[Any]) -> str:
    rest = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for each in buffers:
        digest.update(each)
    return digest.hexdigest()


def _check_hash(path: Path, expected: str, found: str) -> None:
    if found != expected:
        raise CheckpointCorruptError(
            f"{str(path)!r} has changed since it was written: expected sha256 {expected}, found "
            f"{found}."
        )
