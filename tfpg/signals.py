"""Signals that ask a process to end raise an exception, at once or when it suits; none is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Seconds in which a SIGTERM that waits is heeded whatever is going on.
GRACE = 10.0

_received: list[int] = []
_grace: float | None = None  # while signals wait
_said = ""


def listen() -> None:
    """Makes SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP raise SystemExit.

    As exceptions, so that films, displays and files are taken down on the way out. A signal that
    is ignored, as ``nohup`` and shells in the background ask, stays ignored.
    """
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def deferred(said: str = "", grace: float = GRACE) -> Iterator[None]:
    """Lets the first signal wait until `check` is called; a second one raises at once.

    Args:
        said: Written to the standard error when a SIGINT waits.
        grace: Seconds that SIGTERM and SIGHUP wait for that at most.
    """
    global _grace, _said
    alarm = getattr(signal, "SIGALRM", None)  # not on Windows
    before = signal.signal(alarm, lambda *_: check()) if alarm else None
    _grace, _said = grace, said
    try:
        yield
    finally:
        _grace = None
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(alarm, before)
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
    if _grace is None or len(_received) > 1:
        _raise(number)
    elif number == signal.SIGINT:
        with suppress(OSError):  # and nothing that this may have interrupted
            os.write(2, _said.encode())
    elif hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, _grace)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
