"""A process of its own that writes checkpoints, so that who plays does not wait for the disk.

A thread would take Python's lock once for every call to the disk, some twenty times a checkpoint,
and each time whoever computes gives it up and wants it back: a third of an iteration of 20 ms.

What is to be written goes through a pipe, and what became of it comes back through another:

    length of the header, header (JSON), state, records   ->   {"step": N} or {"error": [...]}

The process writes what it was given whole, and ends where the pipe does, or where the process that
started it has ended: what came only in part is as if it had never been begun. Nothing of this
imports TensorFlow.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.resuming.store import Store

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_BUFFERS = 1024  # that one call takes
_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 20  # bytes; what Linux lets a pipe hold
# Seconds between looks whether the process that writes into a pipe is still there.
_LOOK = 1.0
# Those that a terminal, or who ends a whole group of processes, sends to the training.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


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
        base: The checkpoint that is gone on from, which is whole, or None.
        claim: Of a file that it keeps open as long as it is there.

    Raises:
        OSError: No process can be started.

    Example:
        >>> import tempfile
        >>> from tfpg.resuming.records import pack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = Writer(Path(folder), keep=2)
        ...     writer.send(Job(12, pack({"weights": [1.5]}), {"iteration": 3}))
        ...     step = writer.answer()
        ...     writer.close()
        ...     found = Store(folder).load()
        >>> step, found.state
        (12, {'weights': [1.5]})
    """

    def __init__(self, folder: Path, keep: int, base: int | None = None, claim: int | None = None):
        given = json.dumps([os.path.abspath(folder), keep, base, os.getpid()])
        paths = [path for path in sys.path if isinstance(path, str)]
        code = f"import sys; sys.path[:] = {paths!r}; from {__name__} import serve; serve()"
        with _signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable or "", "-c", code, given],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=() if claim is None else (claim,),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._from, False)
        self._line = b""
        with suppress(OSError, AttributeError):
            fcntl.fcntl(self._to, fcntl.F_SETPIPE_SZ, _CHUNK)

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
            self.close()  # it has got a part
            raise

    def answer(self, wait: bool = True) -> int | None:
        """The step of the checkpoint that was sent, when it is on disk; None if it is not yet.

        Raises:
            OSError: It could not be written.
        """
        while not self._line.endswith(b"\n"):
            try:
                data = os.read(self._from, _CHUNK)
            except BlockingIOError:
                if not wait:
                    return None
                select.select([self._from], [], [])
                continue
            if not data:
                raise self._lost()
            self._line += data
        line, self._line = self._line, b""
        if line[:1].isdigit():
            return int(line)
        raise OSError(*json.loads(line))

    @property
    def ended(self) -> bool:
        """Whether it takes nothing more."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Lets it end, and waits for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def _lost(self) -> OSError:
        self.close()
        code = self._process.returncode
        return OSError(0, f"the process that writes them has ended with exit code {code}")


def serve() -> None:
    """What the process does."""
    folder, keep, base, parent = json.loads(sys.argv[1])
    store, source = Store(folder, keep), _Source(0, parent)
    with suppress(EOFError):
        while True:
            (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
            step, told, sizes, positions, needed_from, anew = json.loads(source.read(length))
            state = source.read(sizes[0])
            records = [source.chunks(size) for size in sizes[1:]]
            added = list(zip(positions, records, strict=True))
            try:
                if base is not None:
                    store.go_on_from(base)
                    base = None
                if anew:
                    store.forget_log()
                store.save(step, [state], told, added, needed_from)
                answer: Any = step
            except OSError as error:
                answer = [error.errno or 0, error.strerror or str(error)]
            except EOFError:
                raise
            except Exception as error:
                answer = [0, f"{type(error).__name__}: {error}"]
            for record in records:  # where the disk was full before their end
                for _ in record:
                    pass
            with suppress(BrokenPipeError):
                os.write(1, json.dumps(answer).encode() + b"\n")


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
            while not select.select([self.handle], [], [], _LOOK)[0]:
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


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """What is started meanwhile never sees the signals that are the training's to answer."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name) for name in _SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
