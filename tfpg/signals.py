"""Signals that ask a process to end raise an exception, and are not lost."""

from __future__ import annotations

import signal
from types import FrameType

_received: list[int] = []


def listen() -> None:
    """Makes SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP raise SystemExit.

    As exceptions, so that films, displays and files are taken down on the way out. A signal that
    is ignored, as ``nohup`` and shells in the background ask, stays ignored.
    """
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def check() -> None:
    """Raises again what was raised where exceptions are ignored, as in a destructor.

    Raises:
        KeyboardInterrupt, SystemExit: As the first signal since `listen` asked.
    """
    if _received:
        _raise(_received[0])


def _handle(number: int, _: FrameType | None) -> None:
    _received.append(number)
    _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
