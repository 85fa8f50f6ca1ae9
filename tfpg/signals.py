"""Signals that ask a process to end raise an exception, at once or when it suits; none is lost.

Python runs a signal's handler between two of its own instructions, and so not while one call of
TensorFlow goes on, which may take minutes. A thread is told of signals meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Seconds in which a SIGTERM that waits is heeded whatever is going on.
GRACE = 10.0

# Seconds after which the process ends where an exception that is due has not been raised.
_PATIENCE = 1.0

_NUMBERS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

_received: list[int] = []
_waits = False  # the first one does
_urgent = False  # no longer; of several during one call, Python tells one
_raised = False  # one was, while they wait


def listen() -> None:
    """Makes SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP raise SystemExit.

    As exceptions, so that films, displays and files are taken down on the way out. A signal that
    is ignored, as ``nohup`` and shells in the background ask, stays ignored.
    """
    _received.clear()
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def deferred(
    said: str = "", grace: float = GRACE, last_words: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Lets the first signal wait until `check` is called; a second one raises at once.

    Args:
        said: Written to the standard error when a SIGINT waits.
        grace: Seconds that SIGTERM and SIGHUP wait for that at most.
        last_words: Called before the process ends without an exception, since it is in one long
            call that none comes out of.
    """
    global _waits, _urgent, _raised
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(ours, said, grace, last_words), daemon=True)
    _waits, _urgent, _raised = True, False, False
    watch.start()
    try:
        yield
    finally:
        _waits = False
        signal.set_wakeup_fd(before)
        theirs.close()
        watch.join()
        ours.close()
    check()  # what came after the last time


def waiting() -> bool:
    """Whether a signal waits to be heeded."""
    return bool(_received)


def check() -> None:
    """Raises what waits, or was raised where exceptions are ignored, as in a destructor.

    Raises:
        KeyboardInterrupt, SystemExit: As the first signal since `listen` asked.
    """
    if _received:
        _raise(_received[0])


def _handle(number: int, _: FrameType | None) -> None:
    _received.append(number)
    if not _waits or _urgent or len(_received) > 1:
        _raise(number)


def _raise(number: int) -> None:
    global _raised
    _raised = True
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _watch(
    source: socket.socket, said: str, grace: float, last_words: Callable[[], object]
) -> None:
    """Answers the first signal, sends a second one after the grace, and ends what heeds neither."""
    global _urgent
    numbers: list[int] = []
    due: float | None = None  # until when what came is heeded
    while True:
        left = None if due is None else max(0.0, due - time.monotonic())
        if select.select([source], [], [], left)[0]:
            data = source.recv(64)
            if not data:
                return
            new = [number for number in data if number in _NUMBERS]
            if new and not numbers and new[0] == signal.SIGINT:
                with suppress(OSError):
                    os.write(2, said.encode())
            elif new and not numbers:
                due = time.monotonic() + grace
            numbers += new
            if new and len(numbers) > 1:
                _urgent = True
                due = time.monotonic() + _PATIENCE
        elif _raised:
            due = None
        elif len(numbers) == 1:
            _urgent = True
            os.kill(os.getpid(), numbers[0])
            due = time.monotonic() + _PATIENCE
        else:
            try:
                last_words()
            finally:
                os._exit(128 + numbers[-1])
