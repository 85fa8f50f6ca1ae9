"""Video files written frame by frame: memory does not grow with the film.

``.mp4`` is H.264 in yuv420p with its index in front, which every browser plays. ``.gif`` loops,
with one palette for all frames, made from the first of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tfpg.files import written_beside

SUFFIXES = (".mp4", ".gif")

# A GIF's palette is made from this many first frames, which wait in memory until then.
_PALETTE_FRAMES = 32
# The rest of a palette's 256 colours is a coarse cube, for what those frames did not show.
_CUBE = 5


class VideoWriteError(OSError):
    """A film could not be written. Nothing of it was left behind."""


class VideoWriter:
    """Writes frames to a film as they come; the file appears when all of it is there.

    Use it in a ``with`` block: an exception in the block leaves no file, and an earlier film at
    the same path as it was.

    Args:
        path: Ends in ``.mp4`` or ``.gif``. Its folder exists.
        fps: Frames per second, above 0. A GIF can show 50 at most.

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
        self.fps = float(fps)
        self.frames = 0
        self._shape: tuple[int, ...] | None = None
        self._writer: Any = None
        self._waiting: list[np.ndarray] = []

    def __enter__(self) -> VideoWriter:
        self._beside = written_beside(self.path)
        self._temporary = self._beside.__enter__()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame: ``[height, width, 3]`` uint8."""
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
        self.frames += 1
        try:
            self._encode(frame)
        except ImportError:
            raise
        except Exception as error:  # FFmpeg has many of its own
            raise self._failed(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = error
        if kind is None and self.frames == 0:
            failure = ValueError(f"No frames for {str(self.path)!r}: nothing was written.")
        try:
            self._finish(failed=failure is not None)
        except Exception as unwritten:
            failure = self._failed(unwritten)
        except BaseException as interrupt:
            failure = interrupt
        if failure is None:
            self._beside.__exit__(None, None, None)
            return
        with suppress(type(failure)):
            self._beside.__exit__(type(failure), failure, failure.__traceback__)
        if failure is not error:
            raise failure

    def _encode(self, frame: np.ndarray) -> None:
        if self.path.suffix.lower() == ".mp4":
            if self._writer is None:
                self._open_mp4()
            self._writer.write_frame(_even(frame))
        elif self._writer is not None:
            self._writer.write_frame(frame)
        else:
            self._waiting.append(np.array(frame))
            if len(self._waiting) == _PALETTE_FRAMES:
                self._open_gif()

    def _finish(self, failed: bool) -> None:
        if self._waiting and not failed:
            self._open_gif()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except Exception:
            # Closed again, by us or the garbage collector, it would try to write once more.
            writer._video_stream = writer._container = None
            writer.close()
            if not failed:
                raise

    def _open_mp4(self) -> None:
        self._writer = _imopen(self._temporary, options={"movflags": "faststart"})
        self._writer.init_video_stream("libx264", fps=self.fps, pixel_format="yuv420p")
        codec = self._writer._video_stream.codec_context
        codec.thread_count, codec.options = 1, _x264_options()

    def _open_gif(self) -> None:
        frames, self._waiting = self._waiting, []
        height, width = frames[0].shape[:2]
        writer = self._writer = _imopen(self._temporary)
        writer.init_video_stream("gif", fps=min(self.fps, 50.0), pixel_format="pal8")
        # The filter takes its size from the stream, which has none before its first frame.
        writer._video_stream.width, writer._video_stream.height = width, height
        with tempfile.TemporaryDirectory() as folder:
            palette = Path(folder) / "palette.png"
            _palette_image(frames).save(palette)
            writer.set_video_filter(
                filter_graph=(
                    {
                        "palette": ("movie", {"filename": str(palette)}),
                        "use": ("paletteuse", "dither=none"),
                    },
                    [
                        ("video_in", "use", 0, 0),
                        ("palette", "use", 0, 1),
                        ("use", "video_out", 0, 0),
                    ],
                )
            )
            for frame in frames:
                writer.write_frame(frame)

    def _failed(self, error: Exception) -> VideoWriteError:
        reason = getattr(error, "strerror", None) or str(error)
        free = shutil.disk_usage(self.path.parent).free
        return VideoWriteError(
            f"Cannot write {str(self.path)!r}: {reason} (after {self.frames} frames, with "
            f"{free:,} bytes free on the disk). Nothing of it was left behind."
        )


def check_suffix(path: str | os.PathLike) -> Path:
    """Returns the path.

    Raises:
        ValueError: It does not end in a suffix of `SUFFIXES`.

    Example:
        >>> check_suffix("film.avi")
        Traceback (most recent call last):
            ...
        ValueError: A film ends in .mp4 or .gif, and this is 'film.avi'.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"A film ends in {' or '.join(SUFFIXES)}, and this is {str(path)!r}.")
    return path


def _imopen(path: Path, **options: Any) -> Any:
    try:
        import imageio.v3 as iio

        return iio.imopen(path, "w", plugin="pyav", **options)
    except ImportError as error:
        raise ImportError("Films need imageio with PyAV: pip install 'imageio[pyav]'") from error


def _x264_options() -> dict[str, str]:
    # The same frames shall give the same film. x264 threads gain nothing on small frames, and
    # its AVX-512 code was seen to encode equal frames to different pixels.
    options = {"preset": "veryfast"}
    with suppress(OSError):
        if "avx512" in Path("/proc/cpuinfo").read_text():
            options["x264-params"] = "asm=sse2,ssse3,sse4.1,sse4.2,avx,avx2"
    return options


def _even(frame: np.ndarray) -> np.ndarray:
    # yuv420p halves both sides; an odd one repeats its last row or column.
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return frame


def _palette_image(frames: list[np.ndarray]) -> Any:
    """A 16 x 16 image of the 256 colours of a GIF."""
    from PIL import Image

    steps = np.linspace(0, 255, _CUBE).round()
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    sheet = Image.fromarray(np.concatenate(frames))
    adaptive = np.array(sheet.quantize(256 - len(cube)).getpalette("RGB"), float)
    colours = np.concatenate([adaptive.reshape(-1, 3), cube])
    colours = np.concatenate([colours, np.repeat(colours[-1:], 256 - len(colours), axis=0)])
    return Image.fromarray(colours.reshape(16, 16, 3).astype(np.uint8))
