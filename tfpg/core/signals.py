"""Signals that ask the process to stop: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

`raise_on_signals` turns them into exceptions, so that videos, displays and files are closed on the
way out. `deferred_signals` lets a training loop finish its iteration first. A signal that was
already ignored when the process started, as SIGHUP is under ``nohup``, stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# Printed when Ctrl-C ends a command.
INTERRUPTED = "tfpg: interrupted.\n"

_STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Terminated(SystemExit):
    """Raised for SIGTERM and SIGHUP. Its code is 128 plus the signal's number."""


class StopRequest:
    """The signal that asked the process to stop, if one did.

    Attributes:
        signal: The signal's number, or None.

    Example:
        >>> request = StopRequest()
        >>> bool(request)
        False
        >>> request.raise_if_set()  # nothing happens
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_if_set(self) -> None:
        """Raise the signal's exception if there was a signal.

        Raises:
            KeyboardInterrupt: The signal was SIGINT.
            Terminated: It was another one.
        """
        if self.signal is not None:
            _raise(self.signal)


def raise_on_signals() -> None:
    """Make SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP raise `Terminated`."""
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


@contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back during the block; a process that is started in it never receives them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPPING, signal.SIGQUIT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deferred_signals(notice: str = "") -> Iterator[StopRequest]:
    """Record the first signal during the block instead of raising an exception.

    The second signal has the effect it had before the block. Python handles signals only between
    its own instructions, so neither has an effect until a running TensorFlow call returns. Outside
    the main thread, where Python handles no signals, the block changes nothing.

    Args:
        notice: Text to write to standard error when a SIGINT arrives.

    Yields:
        The `StopRequest` to check.
    """
    request, before, owner = StopRequest(), dict[int, Any](), os.getpid()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, _: FrameType | None) -> None:
        restore()
        if os.getpid() != owner:  # a forked child, whose signals do not concern the run
            os.kill(os.getpid(), number)
            return
        request.signal = number
        if number == signal.SIGINT:
            with suppress(OSError):
                os.write(2, notice.encode())

    if threading.current_thread() is threading.main_thread():
        for number in _STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()


def _raise(number: int, _: FrameType | None = None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(128 + number)
