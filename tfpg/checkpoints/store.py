"""Checkpoints on disk: each whole or not there, the newest one whole enough to go on from.

    folder/step-N/manifest.json   schema, versions, sizes and sha256 of everything, its own too
    folder/step-N/state.bin       a record of `tfpg.checkpoints.serialization`
    folder/log/K.bin              records that are only added to: what a replay met
    folder/latest                 the name of the newest

A checkpoint is written beside its place, synced and renamed. The log grows at its end: a checkpoint
tells how many bytes of it are its own, so that one before it is as whole as it was. Who goes on
from a checkpoint begins a file of its own, and so what was written before stays as it is. Nothing
of this imports TensorFlow.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.checkpoints.disk import (
    check_hash,
    own_hash,
    read_bytes,
    read_manifest,
    records_of,
    sync_folder,
    write_synced,
)
from tfpg.core.messages import warn
from tfpg.errors import CheckpointCorruptError, VersionSkewError

SCHEMA = 2
MANIFEST, STATE, LATEST, LOG = "manifest.json", "state.bin", "latest", "log"

_TEMPORARY = ".tmp-"
_STEP = re.compile(r"step-(\d+)")
_SEGMENT = re.compile(r"\d{6}\.bin")
_SEGMENT_BYTES = 64_000_000


class Checkpoint(NamedTuple):
    """What was read: where from, its manifest and its state."""

    path: Path
    manifest: dict[str, Any]
    state: dict[str, Any]


class Segment(NamedTuple):
    """A file of the log, as far as it is written."""

    name: str
    size: int
    sha256: str  # of what is written so far
    last: int  # position of its last record


class Store:
    """The checkpoints of one run in one folder.

    Args:
        folder: Made when something is saved.
        keep: How many of the newest ones stay.

    Example:
        >>> import tempfile
        >>> from tfpg.checkpoints.serialization import pack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     path = store.save(12, pack({"weights": [1.5]}), {"iteration": 3})
        ...     found = Store(folder).load()
        >>> path.name, found.state, found.manifest["iteration"]
        ('step-12', {'weights': [1.5]}, 3)
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep
        self._segments: list[Segment] = []
        self._digest: Any = None  # of hashlib, of the last segment where it is this one's own
        self._needed: dict[int, set[str]] = {}  # by each checkpoint, of the log
        self._steps: list[int] | None = None  # that are there

    def save(
        self,
        step: int,
        state: Iterable[Any],
        told: dict[str, Any] | None = None,
        added: Sequence[tuple[int, Iterable[Any]]] = (),
        needed_from: int = 0,
    ) -> Path:
        """Writes a checkpoint, and then removes those that are too many.

        Args:
            step: Its number, larger than those before.
            state: The buffers of `pack`.
            told: More for the manifest.
            added: Records for the log, each its position and its buffers, in their order.
            needed_from: Records before this position are not needed any more.

        Raises:
            OSError: It cannot be written. Those before it are as they were, and the log's records
                are not added.
        """
        if self._steps is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._steps = self.steps()
        segments, digest = self._appended(added)
        segments = [
            s for i, s in enumerate(segments) if s.last >= needed_from or i + 1 == len(segments)
        ]
        path = self.folder / f"step-{step}"
        temporary = self.folder / f"{_TEMPORARY}step-{step}"
        try:
            temporary.mkdir()
        except FileExistsError:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        try:
            written = write_synced(temporary / STATE, state)
            manifest = {
                "schema": SCHEMA,
                "step": step,
                **(told or {}),
                "files": {STATE: written},
                "log": [
                    {"file": s.name, "bytes": s.size, "sha256": s.sha256, "last": s.last}
                    for s in segments
                ],
            }
            manifest["sha256"] = own_hash(manifest)
            write_synced(temporary / MANIFEST, [json.dumps(manifest, indent=1).encode()])
            sync_folder(temporary)
            try:
                temporary.rename(path)
            except OSError:  # somebody went back behind it
                _remove(path)
                temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if added:
                self._take_back(segments[-1].name)
            raise
        self._segments, self._digest = segments, digest
        self._needed[step] = {segment.name for segment in segments}
        with suppress(OSError):  # it is for people: what is whole is there already
            pointer = self.folder / f"{_TEMPORARY}{LATEST}"
            handle = os.open(pointer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(handle, f"{path.name}\n".encode())
            os.close(handle)
            pointer.replace(self.folder / LATEST)
        sync_folder(self.folder)
        self._steps = [*self._steps, step]
        self._prune(step)
        return path

    def load(self) -> Checkpoint | None:
        """The newest checkpoint whose checksums hold; those that are newer are warned of.

        What a killed process left half written is removed, and what is saved next goes on from
        what was read.

        Returns:
            None where there is no checkpoint.

        Raises:
            CheckpointCorruptError: There are some, and none is whole.
            VersionSkewError: A newer tfpg wrote it in another form.
        """
        if not self.folder.is_dir():
            return None
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        errors: list[str] = []
        for step in sorted(self.steps(), reverse=True):
            try:
                found = self._read(self.folder / f"step-{step}")
            except CheckpointCorruptError as error:
                errors.append(str(error))
                continue
            if errors:
                warn(f"{errors[0]} Going on from {str(found.path)!r}.")
            return found
        if errors:
            others = f"Nor is any other of the {len(errors)}: begin" if errors[1:] else "Begin"
            raise CheckpointCorruptError(f"{errors[0]} {others} anew in another folder.")
        return None

    def steps(self) -> list[int]:
        """The numbers of the checkpoints that are there."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(m[1]) for m in found if m)

    @property
    def segments(self) -> list[Segment]:
        """The log's files that belong to what was saved or loaded last."""
        return list(self._segments)

    def go_on_with(self, segments: Sequence[Segment]) -> None:
        """What is saved next follows what these files of the log hold; without any, it is new."""
        self._segments, self._digest = list(segments), None

    def _read(self, path: Path) -> Checkpoint:
        manifest = read_manifest(path / MANIFEST)
        if manifest.get("schema") != SCHEMA:
            schema = manifest.get("schema")
            older = isinstance(schema, int) and schema < SCHEMA
            raise VersionSkewError(
                f"{str(path)!r} has the form {schema}, and this tfpg reads {SCHEMA}: "
                f"{'go on with the tfpg that wrote it' if older else 'pip install -U tfpg'}."
            )
        told = manifest["files"][STATE]
        data = read_bytes(path / STATE, told["bytes"])
        check_hash(path / STATE, hashlib.sha256(data), told["sha256"])
        (state,) = records_of(path / STATE, data)
        segments = _segments_of(manifest)
        for name, size, sha256, _ in segments:
            if not _SEGMENT.fullmatch(name):
                raise CheckpointCorruptError(f"{str(path / MANIFEST)!r} names {name!r}.")
            digest = hashlib.sha256(read_bytes(self.folder / LOG / name, size, more=True))
            check_hash(self.folder / LOG / name, digest, sha256)
        self._segments, self._digest = segments, None
        return Checkpoint(path, manifest, state)

    def log(self) -> Iterator[Any]:
        """The records of the log that belong to what `load` read, in their order."""
        for segment in self._segments:
            path = self.folder / LOG / segment.name
            yield from records_of(path, read_bytes(path, segment.size, more=True))

    def _appended(self, added: Sequence[tuple[int, Iterable[Any]]]) -> tuple[list[Segment], Any]:
        """The segments with records added at their end, on disk and synced, and the last's hash."""
        segments, digest = list(self._segments), self._digest
        if not added:
            return segments, digest
        folder = self.folder / LOG
        folder.mkdir(exist_ok=True)
        if digest is None or segments[-1].size >= _SEGMENT_BYTES:
            taken = [int(p.stem) for p in folder.glob("*.bin") if _SEGMENT.fullmatch(p.name)]
            name = f"{max(taken, default=-1) + 1:06d}.bin"
            size, last, digest, mode = 0, 0, hashlib.sha256(), "xb"
        else:
            name, size, _, last = segments.pop()
            digest, mode = digest.copy(), "r+b"
            if not (folder / name).exists() or (folder / name).stat().st_size < size:
                raise OSError(errno.ENOENT, f"{str(folder / name)!r} was cut or removed")
        try:
            with (folder / name).open(mode) as file:
                file.seek(size)
                for position, parts in added:
                    for part in parts:
                        file.write(part)
                        digest.update(part)
                        size += len(part)
                    last = position
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self._take_back(name)
            raise
        sync_folder(folder)
        return [*segments, Segment(name, size, digest.hexdigest(), last)], digest

    def _take_back(self, name: str) -> None:
        """Cuts a segment to what was saved of it: the disk may be full."""
        saved = {segment.name: segment.size for segment in self._segments}
        with suppress(OSError):
            if name in saved:
                os.truncate(self.folder / LOG / name, saved[name])
            else:
                os.unlink(self.folder / LOG / name)

    def _prune(self, newest: int) -> None:
        # Those with larger numbers were broken, or somebody went back behind them.
        steps = sorted({*(self._steps or ())})
        kept = [step for step in steps if step <= newest][-self.keep :]
        before = set().union(*self._needed.values())
        for step in {*steps} - {*kept}:
            _remove(self.folder / f"step-{step}")
        for step in kept:
            if step not in self._needed:  # of another process
                with suppress(CheckpointCorruptError):
                    log = read_manifest(self.folder / f"step-{step}" / MANIFEST)["log"]
                    self._needed[step] = {each["file"] for each in log}
        self._steps = kept
        self._needed = {step: self._needed.get(step, set()) for step in kept}
        needed = set().union(*self._needed.values())
        if needed != before:
            for path in (self.folder / LOG).glob("*.bin"):
                if path.name not in needed and _SEGMENT.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()


def _segments_of(manifest: dict[str, Any]) -> list[Segment]:
    return [
        Segment(str(told["file"]), told["bytes"], told["sha256"], int(told["last"]))
        for told in manifest["log"]
    ]


def _remove(path: Path) -> None:
    """Removes a checkpoint, or whatever is in its place."""
    try:
        for name in (STATE, MANIFEST):
            os.unlink(path / name)
        os.rmdir(path)
    except OSError:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
