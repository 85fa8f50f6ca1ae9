"""Signals that ask a process to end raise an exception, at once or when it suits; none is lost.

Python runs a signal's handler between two of its own instructions, and so not while one call of
TensorFlow goes on, which may take minutes. A thread is told of signals meanwhile, through a socket.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Seconds in which a SIGTERM that waits is heeded whatever is going on.
GRACE = 9.0

# What is said of a SIGINT in the end.
INTERRUPTED = "tfpg: interrupted.\n"

# Seconds after which an exception that is due is asked for again, and after which it never comes.
_PATIENCE = 0.7
# Seconds that what was interrupted has to come to its end.
_UNWINDING = 10.0

_ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_ENDING = {*_ASKING, *([signal.SIGQUIT] if hasattr(signal, "SIGQUIT") else [])}
_LEFT = 0  # is no signal, and tells the thread to end

_received: list[int] = []
_waits = False  # the first one does
_urgent = False  # no longer; of several during one call, Python tells one
_raised = 0  # exceptions
_forking = threading.local()  # which signals were held back before


def listen() -> None:
    """Makes SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP raise SystemExit.

    As exceptions, so that films, displays and files are taken down on the way out. A signal that
    is ignored, as ``nohup`` and shells in the background ask, stays ignored.
    """
    _received.clear()
    for number in _ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def blocked() -> Iterator[None]:
    """Holds signals that end a process back; what is started meanwhile never sees them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deferred(
    said: str = "", grace: float = GRACE, last_words: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Lets the first signal wait until `check` is called; a second one raises at once.

    Not one inside another.

    Args:
        said: Written to the standard error when a SIGINT waits.
        grace: Seconds that SIGTERM and SIGHUP wait for that at most.
        last_words: Called before the process ends without an exception, since it is in one long
            call that none comes out of.
    """
    global _waits, _urgent
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watch = threading.Thread(target=_watch, args=(ours, said, grace, last_words), daemon=True)
    with ours, theirs:
        with blocked():
            before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            _waits, _urgent = True, False
            watch.start()
        try:
            yield
        finally:
            with blocked():
                _waits = False
                signal.set_wakeup_fd(before)
                # Not its end: whom this process has forked may hold it open.
                with suppress(OSError):
                    theirs.send(bytes([_LEFT]))
                watch.join(_PATIENCE)
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
    _raised += 1
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _forks() -> None:
    """Holds signals back from a process that is just forked: it shares the wakeup socket."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING if _waits else ())


def _has_forked() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _forked() -> None:
    """In a process that was forked: its signals are its own, and heeded at once."""
    global _waits
    _waits = False
    _received.clear()
    with suppress(ValueError):  # of another thread
        signal.set_wakeup_fd(-1)
        for number in signal.sigpending() & _ENDING:  # here an exception would be ignored
            if signal.getsignal(number) is _handle:
                signal.signal(number, signal.SIG_DFL)
    _has_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks, after_in_parent=_has_forked, after_in_child=_forked)


def _watch(
    source: socket.socket, said: str, grace: float, last_words: Callable[[], object]
) -> None:
    """Answers the first signal; sees to it that an exception comes of it, or else the end."""
    global _urgent
    first, count = 0, 0  # signal, and how many
    due: float | None = None  # when it is looked whether they are heeded
    raised, asked = _raised, False
    while True:
        source.settimeout(None if due is None else max(0.001, due - time.monotonic()))
        try:
            data = source.recv(64)
        except TimeoutError:
            if _raised > raised:  # or where exceptions are ignored: then once more
                raised, asked = _raised, False
                due = time.monotonic() + _UNWINDING
            elif not asked:
                asked = _urgent = True
                os.kill(os.getpid(), first)
                due = time.monotonic() + _PATIENCE
            else:
                _end(first, last_words)
            continue
        if _LEFT in data or not data:
            return
        new = [number for number in data if number in _ASKING]
        if new and not count:
            first = new[0]
            if first == signal.SIGINT:
                with suppress(OSError):
                    os.write(2, said.encode())
            else:
                due = time.monotonic() + max(0.0, grace - _PATIENCE)
        count += len(new)
        if new and count > 1:
            _urgent = True
            due = time.monotonic() + _PATIENCE


def _end(number: int, last_words: Callable[[], object]) -> None:
    try:
        last_words()
        if number == signal.SIGINT:
            os.write(2, INTERRUPTED.encode())
    finally:
        os._exit(128 + number)
