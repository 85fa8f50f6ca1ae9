"""Writing video files frame by frame, while the next frames are made."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.core.files import atomic_write
from tfpg.core.messages import alternatives
from tfpg.video.encoders import ENCODERS, thin_out

SUFFIXES = tuple(ENCODERS)

_MAX_WAITING = 16  # frames that may wait for the encoders
_END = object()


class VideoWriteError(OSError):
    """A video could not be written. No part of it was left on the disk."""


@contextmanager
def video_writer(
    paths: Sequence[str | os.PathLike], fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write the same frames to one or more files, which appear when all of them are complete.

    One thread per file encodes while the next frames are made, so memory does not grow with the
    video. After an error there are no files, and earlier ones at the same paths are unchanged.

    Yields:
        A function that adds a frame, ``[height, width, 3]`` uint8. All frames have the same size.

    Raises:
        ValueError: A suffix is unknown, or there was no frame.
        VideoWriteError: A file cannot be written, for example because the disk is full.
        ImportError: A codec is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with video_writer([f"{folder}/a.mp4", f"{folder}/b.png"], fps=30) as write:
        ...         for shade in range(0, 250, 10):
        ...             write(np.full((64, 96, 3), shade, np.uint8))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['a.mp4', 'b.png']
    """
    targets = [check_suffix(path) for path in paths]
    with ExitStack() as stack:
        threads = [
            _EncoderThread(path, stack.enter_context(atomic_write(path)), fps) for path in targets
        ]

        def write(frame: np.ndarray) -> None:
            frame = np.array(frame)
            for thread in threads:
                thread.write(frame)

        try:
            for thread in threads:
                thread.start()
            yield write
            for thread in threads:
                thread.finish()
        except BaseException:
            for thread in threads:
                thread.abort()
            raise


class _EncoderThread(threading.Thread):
    """Encodes frames to a temporary file."""

    def __init__(self, path: Path, temporary: Path, fps: float):
        super().__init__(name="tfpg-encoder", daemon=True)
        kind = ENCODERS[path.suffix.lower()]
        self._every, kept_fps = thin_out(fps, kind.max_fps)
        self._path, self._encoder = path, kind(temporary, kept_fps)
        self._waiting: queue.Queue[Any] = queue.Queue(_MAX_WAITING)
        self._count = 0
        self._error: Exception | None = None
        self._aborted = False
        self._finished = threading.Event()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, or raise the error of an earlier one."""
        if self._count % self._every == 0:
            self._waiting.put(frame)
        self._count += 1
        self._raise_error()

    def finish(self) -> None:
        """Complete the file."""
        if self._count == 0:
            raise ValueError(f"There are no frames to write to {str(self._path)!r}.")
        self._wait()
        self._raise_error()

    def abort(self) -> None:
        """Stop encoding, because of an exception that is on its way."""
        self._aborted = True
        with suppress(BaseException):
            self._wait()

    def _wait(self) -> None:
        """Wait until the thread has finished, even if interrupted."""
        interrupt: BaseException | None = None
        while True:
            try:
                self._waiting.put(_END)
                # Thread.join cannot safely be interrupted and repeated; Event.wait can.
                while self.is_alive() and not self._finished.wait(0.1):
                    pass
                break
            except BaseException as error:
                interrupt, self._aborted = error, True
        if interrupt is not None:
            raise interrupt

    def run(self) -> None:
        while (frame := self._waiting.get()) is not _END:
            self._try(self._encoder.write, frame)
        self._try(self._encoder.close)
        if self._aborted or self._error is not None:
            self._encoder.abort()
        self._finished.set()

    def _try(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function, unless something has failed: then the remaining frames are dropped."""
        if self._aborted or self._error is not None:
            return
        try:
            function(*args)
        except Exception as error:  # FFmpeg raises many types
            self._error = error

    def _raise_error(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, ImportError):
            raise error
        reason, free = getattr(error, "strerror", None) or str(error), ""
        with suppress(OSError):  # the folder may be gone
            free = f", with {shutil.disk_usage(self._path.parent).free:,} bytes free on the disk"
        raise VideoWriteError(
            f"Cannot write {str(self._path)!r}: {reason} (after {self._count} frames{free}). "
            "No part of it was left on the disk."
        ) from error


def check_suffix(path: str | os.PathLike) -> Path:
    """Return the path if its suffix is that of a video format.

    Raises:
        ValueError: It is not in `SUFFIXES`.

    Example:
        >>> check_suffix("cartpole.avi")
        Traceback (most recent call last):
            ...
        ValueError: Expected a file ending in .mp4, .gif, .webm, or .png, but got 'cartpole.avi'.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        known = alternatives(SUFFIXES)
        raise ValueError(f"Expected a file ending in {known}, but got {str(path)!r}.")
    return path
