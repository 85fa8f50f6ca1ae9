"""A process of its own that writes checkpoints, so that who plays does not wait for the disk.

A thread would take Python's lock once for every call to the disk, some twenty times a checkpoint,
and each time whoever computes gives it up and wants it back: a third of an iteration of 20 ms.

What is to be written goes through a pipe, and what became of it comes back through another:

    length of the header, header (JSON), state, records   ->   [the log's files] or [errno, text]

The process writes what it was given whole, and ends when it is told so, or where the pipe does, or
where the process that started it has ended: what came only in part is as if it had never been
begun. Nothing of this imports TensorFlow.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.checkpoints.store import Segment, Store
from tfpg.core.signals import blocked

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_BUFFERS = 1024  # that one call takes
_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 20  # bytes; what Linux lets a pipe hold
# Seconds between looks whether the process that writes into a pipe is still there.
_LOOK = 1.0
# Seconds that what is being written at the end is waited for.
_PATIENCE = 3.0
_ROOT = str(Path(__file__).absolute().parents[2])


class Job(NamedTuple):
    """A checkpoint to write, see `Store.save`."""

    step: int
    state: Sequence[Any]
    told: dict[str, Any]
    added: Sequence[tuple[int, Sequence[Any]]] = ()
    needed_from: int = 0
    anew: bool = False  # the log begins anew


class Writer:
    """The process that writes the checkpoints of one folder, from the side that gives them to it.

    Args:
        folder: See `Store`.
        keep: See `Store`.
        log: The log's files that are gone on with, see `Store.segments`.
        claim: Of a file that it keeps open as long as it is there.

    Raises:
        OSError: No process can be started.

    Example:
        >>> import tempfile
        >>> from tfpg.checkpoints.serialization import pack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = Writer(Path(folder), keep=2)
        ...     writer.send(Job(12, pack({"weights": [1.5]}), {"iteration": 3}))
        ...     log = writer.answer()
        ...     writer.close()
        ...     found = Store(folder).load()
        >>> log, found.state
        ([], {'weights': [1.5]})
    """

    def __init__(
        self, folder: Path, keep: int, log: Sequence[Segment] = (), claim: int | None = None
    ):
        # What is printed by accident, by what a Python imports when it starts, is no answer.
        self._from, answers = os.pipe()
        given = json.dumps([str(folder), keep, log, os.getpid(), answers])
        # Its own modules and those of Python come before what this process may have been given.
        others = [path for path in sys.path if isinstance(path, str)]
        paths = f"[{_ROOT!r}, *sys.path, *{others!r}]"
        code = f"import sys; sys.path[:] = {paths}; from {__name__} import serve; serve()"
        self._line = b""
        self._process: subprocess.Popen | None = None
        self._code: int | None = None
        try:
            with blocked():
                self._process = subprocess.Popen(
                    [sys.executable or "", "-P", "-c", code, given],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(answers,) if claim is None else (answers, claim),
                )
            assert self._process.stdin is not None
            self._to = self._process.stdin.fileno()
            os.set_blocking(self._from, False)
            with suppress(OSError, AttributeError):
                fcntl.fcntl(self._to, fcntl.F_SETPIPE_SZ, _CHUNK)
        except BaseException:
            self._kill()
            raise
        finally:
            os.close(answers)

    def send(self, job: Job) -> None:
        """Gives it a checkpoint: waits no longer than it takes to read it.

        Raises:
            OSError: It has ended.
        """
        sizes = [sum(map(len, parts)) for parts in (job.state, *(parts for _, parts in job.added))]
        positions = [position for position, _ in job.added]
        header = json.dumps(
            [job.step, job.told, sizes, positions, job.needed_from, job.anew]
        ).encode()
        records = chain.from_iterable(record for _, record in job.added)
        try:
            _write(self._to, [_LENGTH.pack(len(header)), header, *job.state, *records])
        except BrokenPipeError:
            raise self._lost() from None
        except BaseException:
            self._kill()  # it has got a part
            raise

    def answer(self, wait: bool = True) -> list[Segment] | None:
        """The log's files when the checkpoint that was sent is on disk; None if it is not yet.

        Raises:
            OSError: It could not be written.
        """
        while not self._line.endswith(b"\n"):
            try:
                data = os.read(self._from, _CHUNK) if self._from >= 0 else b""
            except BlockingIOError:
                if not wait:
                    return None
                _readable(self._from)
                continue
            if not data:
                raise self._lost()
            self._line += data
        line, self._line = self._line, b""
        if line == b"[]\n":
            return []
        error, *told = json.loads(line)
        if isinstance(error, list):
            return [Segment(*each) for each in (error, *told)]
        raise OSError(error, *told)

    @property
    def ended(self) -> bool:
        """Whether it takes nothing more."""
        return self._process is None or self._process.poll() is not None

    def close(self) -> None:
        """Lets it end, and waits for that; what it answers meanwhile can be asked for still."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        try:
            # Whom this process has forked may hold the pipe open: its end alone says nothing.
            with suppress(OSError):
                os.write(self._to, _LENGTH.pack(0))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            with suppress(OSError):
                while data := os.read(self._from, _CHUNK):
                    self._line += data
        finally:
            self._forget()

    def stop(self) -> None:
        """Ends it at once, also from another thread: what it is being given is lost."""
        process = self._process
        if process is not None:
            process.kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._code = self._process.poll()
        if self._from >= 0:
            os.close(self._from)
        self._from, self._process = -1, None

    def _lost(self) -> OSError:
        self._kill()
        became = "is still busy" if self._code is None else f"has ended with exit code {self._code}"
        return OSError(0, f"the process that writes them {became}")


def serve() -> None:
    """What the process does."""
    folder, keep, log, parent, answers = json.loads(sys.argv[1])
    store, source = Store(folder, keep), _Source(0, parent)
    store.go_on_with([Segment(*each) for each in log])
    with suppress(EOFError):
        while length := _LENGTH.unpack(source.read(_LENGTH.size))[0]:
            step, told, sizes, positions, needed_from, anew = json.loads(source.read(length))
            state = source.read(sizes[0])
            records = [source.chunks(size) for size in sizes[1:]]
            added = list(zip(positions, records, strict=True))
            try:
                if anew:
                    store.go_on_with([])
                store.save(step, [state], told, added, needed_from)
                answer: list[Any] = store.segments
            except OSError as error:
                answer = [error.errno or 0, error.strerror or str(error)]
            for record in records:  # where the disk was full before their end
                for _ in record:
                    pass
            with suppress(BrokenPipeError):
                os.write(answers, json.dumps(answer).encode() + b"\n")


def _readable(handle: int, seconds: float | None = None) -> bool:
    """Waits until there is something to read, or the end of it."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(None if seconds is None else 1e3 * seconds))


class _Source:
    """What comes through a pipe, as long as the process at its other end is there.

    The pipe's end alone does not say so: whom that process has forked may hold it open.
    """

    def __init__(self, handle: int, parent: int):
        self.handle, self.parent = handle, parent

    def read(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: There are not so many.
        """
        return b"".join(self.chunks(size))

    def chunks(self, size: int) -> Iterator[bytes]:
        """So many bytes, as they come."""
        while size:
            while not _readable(self.handle, _LOOK):
                if os.getppid() != self.parent:
                    raise EOFError
            data = os.read(self.handle, min(size, _CHUNK))
            if not data:
                raise EOFError
            size -= len(data)
            yield data


def _write(handle: int, buffers: Iterable[Any]) -> None:
    """Writes buffers one after another in few calls."""
    left = deque(memoryview(each) for each in buffers if len(each))
    while left:
        written = os.writev(handle, list(islice(left, _BUFFERS)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]
