"""Films written frame by frame: memory does not grow with them, and who renders need not wait."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tfpg.core.files import written_beside
from tfpg.video.encoders import ENCODERS, thinned

SUFFIXES = tuple(ENCODERS)

# Frames that may wait for the encoder.
_WAITING = 16
_END = object()


class VideoWriteError(OSError):
    """A film could not be written. Nothing of it was left behind."""


class VideoWriter:
    """Writes frames to a film as they come; the file appears when all of it is there.

    A thread encodes while the next frames are made. Use it in a ``with`` block: an exception in
    the block leaves no file, and an earlier film at the same path as it was.

    Args:
        path: Ends in ``.mp4`` (H.264), ``.webm`` (VP9), ``.gif`` (looping) or ``.png`` (a sheet of
            twelve frames, evenly spaced). Its folder exists.
        fps: Frames per second, above 0. Beyond 60, of a GIF 50, frames are left out.

    Attributes:
        frames: That were written, those left out included.

    Raises:
        ValueError: The suffix is another, ``fps`` is not positive, a frame is not an image or
            has another size than the first, or there was no frame at all.
        VideoWriteError: The file cannot be written, for example because the disk is full.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "film.mp4"
        ...     with VideoWriter(path, fps=30) as video:
        ...         for shade in range(0, 250, 10):
        ...             video.write(np.full((64, 96, 3), shade, "uint8"))
        ...     video.frames, path.stat().st_size > 0
        (25, True)
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        self.path = check_suffix(path)
        if not 0.0 < fps < np.inf:
            raise ValueError(f"fps must be above 0, and it is {fps!r}.")
        kind = ENCODERS[self.path.suffix.lower()]
        self._every, self.fps = thinned(float(fps), kind.most_fps)
        self._kind = kind
        self.frames = 0
        self._open = False
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> VideoWriter:
        self.frames, self._shape = 0, None
        self._beside = written_beside(self.path)
        temporary = self._beside.__enter__()
        self._encoder = self._kind(temporary, self.fps)
        self._frames: queue.Queue[Any] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._abandoned = False
        self._ended = threading.Event()
        thread = threading.Thread(target=self._encode, name="tfpg-film", daemon=True)
        try:
            thread.start()
            self._open = True
        except BaseException as error:
            self.abandon(error)
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame: ``[height, width, 3]`` uint8. It is copied.

        Raises:
            VideoWriteError: This frame or an earlier one cannot be written.
        """
        if not self._open:
            raise ValueError("A VideoWriter takes frames in its with block: with writer: ...")
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"A frame is a (height, width, 3) array of uint8, and frame {self.frames} is "
                f"{frame.shape} of {frame.dtype}."
            )
        if self._shape not in (None, frame.shape):
            raise ValueError(
                f"Frame {self.frames} has size {frame.shape[:2]}, and the film has "
                f"{self._shape[:2]}: all frames of a film have one size."
            )
        self._shape = frame.shape
        if self.frames % self._every == 0:
            self._frames.put(np.array(frame))
        self.frames += 1
        self._raise_failure()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abandon(error)
            return
        try:
            self.finish()
        except BaseException as failure:
            self.abandon(failure)
            raise
        self.publish()

    def finish(self) -> None:
        """Ends the film, which is not at its path yet.

        Raises:
            ValueError: There was no frame.
            VideoWriteError: It cannot be written.
        """
        if self.frames == 0:
            raise ValueError(f"No frames for {str(self.path)!r}: nothing was written.")
        self._end()
        self._raise_failure()

    def publish(self) -> None:
        """Puts the finished film to its path."""
        self._beside.__exit__(None, None, None)

    def abandon(self, error: BaseException) -> None:
        """Leaves nothing of the film."""
        self._abandoned = True
        with suppress(BaseException):  # an error is on its way already
            self._end()
        with suppress(type(error)):
            self._beside.__exit__(type(error), error, error.__traceback__)

    def _end(self) -> None:
        """Waits until the encoder has ended, however often it is interrupted."""
        interrupt: BaseException | None = None
        self._open = False
        while not self._ended.is_set():
            try:
                # More than one does no harm, and an interrupt may have come before the first.
                self._frames.put(_END)
                self._ended.wait()
            except BaseException as error:
                interrupt, self._abandoned = error, True
        if interrupt is not None:
            raise interrupt

    def _encode(self) -> None:
        """What the thread does. After an error it takes what comes, so that nobody waits."""
        try:
            while (frame := self._frames.get()) is not _END:
                if self._error is None and not self._abandoned:
                    self._try(self._encoder.write, frame)
            self._try(self._encoder.close, self._abandoned or self._error is not None)
        finally:
            self._ended.set()

    def _try(self, function: Any, argument: Any) -> None:
        try:
            function(argument)
        except Exception as error:  # FFmpeg has many of its own
            self._error = self._error or error

    def _raise_failure(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, ImportError):
            raise error
        reason, room = getattr(error, "strerror", None) or str(error), ""
        with suppress(OSError):  # the folder may be gone
            room = f", with {shutil.disk_usage(self.path.parent).free:,} bytes free on the disk"
        raise VideoWriteError(
            f"Cannot write {str(self.path)!r}: {reason} (after {self.frames} frames{room}). "
            "Nothing of it was left behind."
        ) from error


@contextmanager
def films(paths: Sequence[str | os.PathLike], fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Several films of the same frames, of which all appear or none.

    Args:
        paths: See `VideoWriter`.
        fps: Frames per second.

    Yields:
        A function that writes a frame to all of them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with films([f"{folder}/a.gif", f"{folder}/b.png"], fps=30) as write:
        ...         write(np.zeros((8, 8, 3), np.uint8))
        ...     len(list(Path(folder).iterdir()))
        2
    """
    begun: list[VideoWriter] = []
    try:
        for path in paths:
            begun.append(VideoWriter(path, fps).__enter__())

        def write(frame: np.ndarray) -> None:
            for writer in begun:
                writer.write(frame)

        yield write
        for writer in begun:
            writer.finish()
    except BaseException as error:
        for writer in begun:
            writer.abandon(error)
        raise
    for writer in begun:
        writer.publish()


def check_suffix(path: str | os.PathLike) -> Path:
    """Returns the path.

    Raises:
        ValueError: It does not end in a suffix of `SUFFIXES`.

    Example:
        >>> check_suffix("film.avi")
        Traceback (most recent call last):
            ...
        ValueError: A film ends in .mp4, .gif, .webm or .png, and this is 'film.avi'.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise ValueError(f"A film ends in {known}, and this is {str(path)!r}.")
    return path
