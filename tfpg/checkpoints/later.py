"""Work that a thread does while a long call leaves Python's lock to others."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

# Seconds between looks whether the thread is still there, which it is not in a forked process.
_LOOK = 1.0


class _Work:
    def __init__(self, function: Callable[[], object]):
        self.function = function
        self.ended = threading.Event()
        self.failed: Exception | None = None

    def do(self) -> None:
        if self.ended.is_set():
            return
        try:
            self.function()
        except Exception as error:
            self.failed = error
        self.ended.set()


class Later:
    """A thread that does one piece of work at a time, at a moment that suits.

    Example:
        >>> done, later = [], Later()
        >>> later.give(lambda: done.append("packed"))
        >>> later.now()  # before a call that leaves Python to others
        >>> later.wait(), done
        (True, ['packed'])
        >>> later.close()
    """

    def __init__(self) -> None:
        self._works: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._work: _Work | None = None
        weakref.finalize(self, self._works.put, None)

    def give(self, function: Callable[[], object]) -> None:
        """Something to do; what was given before was waited for."""
        self._work = _Work(function)
        if self._thread is None:
            thread = threading.Thread(target=_serve, args=(self._works,), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many
                self._work.do()
            else:
                self._thread = thread

    def now(self) -> None:
        """Python's lock is going to be free: what was given, if anything, is begun."""
        if self._work is not None:
            self._works.put(self._work)

    @property
    def ended(self) -> bool:
        """Whether nothing is to be waited for."""
        return self._work is None or self._work.ended.is_set()

    def wait(self, seconds: float = math.inf) -> bool:
        """Waits for the end of what was given, and begins it where `now` did not.

        Returns:
            Whether it has ended, or there was nothing.

        Raises:
            Exception: What it raised.
        """
        work = self._work
        if work is None:
            return True
        self.now()
        until = time.monotonic() + seconds
        # An interrupt leaves it as it is: it is waited for again before anything else.
        while not work.ended.wait(min(_LOOK, max(0.0, until - time.monotonic()))):
            if self._thread is None or not self._thread.is_alive():
                break
            if time.monotonic() > until:
                return False
        self._work = None
        if work.failed is not None:
            raise work.failed
        return True

    def close(self) -> None:
        """Ends the thread when what it does has ended, and forgets what was given."""
        thread, self._thread, self._work = self._thread, None, None
        if thread is not None:
            self._works.put(None)
            thread.join(_LOOK)


def _serve(works: SimpleQueue[_Work | None]) -> None:
    """What the thread does; it knows nothing of whom it is for, who can be forgotten."""
    while (work := works.get()) is not None:
        work.do()
        del work
