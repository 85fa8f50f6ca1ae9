"""Files of pictures, one class for each kind: MP4, WebM, GIF, and a sheet of some of them.

Each takes frames as they come and keeps a fixed number of them at most.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from tfpg.video.frames import scaled, tiled

# A GIF's palette is made from this many first frames, which wait in memory until then.
_PALETTE_FRAMES = 32
# The rest of a palette's 256 colours is a coarse cube, for what those frames did not show.
_CUBE = 5

_SHEET = 12  # pictures
_SHEET_COLUMNS = 4
_SHEET_WIDEST = 400  # pixels of a picture


class Encoder(Protocol):
    """Writes frames of one size to one file."""

    def write(self, frame: np.ndarray) -> None: ...

    def close(self, failed: bool) -> None:
        """Ends the file, which has a whole film in it unless that failed."""
        ...


class Mp4:
    """H.264 in yuv420p with its index in front, which every browser plays."""

    codec = "libx264"
    container: ClassVar[dict[str, str]] = {"movflags": "faststart"}
    most_fps = 60.0

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self._writer: Any = None

    def write(self, frame: np.ndarray) -> None:
        if self._writer is None:
            self._writer = _imopen(self.path, self.codec, options=self.container)
            self._writer.init_video_stream(self.codec, fps=self.fps, pixel_format="yuv420p")
            context = self._writer._video_stream.codec_context
            # The same frames shall give the same film, whichever threads come first.
            context.thread_count, context.options = 1, self.codec_options()
        self._writer.write_frame(_even(frame))

    def close(self, failed: bool) -> None:
        _close(self._writer, failed)

    @staticmethod
    def codec_options() -> dict[str, str]:
        """How x264 encodes: fast, and without its AVX-512 code.

        What is added to its fastest preset halves the file for little time. With AVX-512, equal
        frames were seen to become different pixels.
        """
        params = "cabac=1:8x8dct=1:deblock=1:aq-mode=1:subme=1"
        with suppress(OSError):
            if "avx512" in Path("/proc/cpuinfo").read_text():
                params += ":asm=sse2,ssse3,sse4.1,sse4.2,avx,avx2"
        return {"preset": "ultrafast", "crf": "26", "x264-params": params}


class WebM(Mp4):
    """VP9 in yuv420p."""

    codec = "libvpx-vp9"
    container: ClassVar[dict[str, str]] = {"fflags": "+bitexact"}  # else it gets a number by lot

    @staticmethod
    def codec_options() -> dict[str, str]:
        return {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}


class Gif:
    """A looping GIF with one palette for all frames, made from the first of them."""

    codec = "gif"
    most_fps = 50.0

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self._writer: Any = None
        self._waiting: list[np.ndarray] = []

    def write(self, frame: np.ndarray) -> None:
        if self._writer is not None:
            self._writer.write_frame(frame)
            return
        self._waiting.append(frame)
        if len(self._waiting) == _PALETTE_FRAMES:
            self._open()

    def close(self, failed: bool) -> None:
        if self._waiting and not failed:
            self._open()
        _close(self._writer, failed)

    def _open(self) -> None:
        frames, self._waiting = self._waiting, []
        height, width = frames[0].shape[:2]
        writer = self._writer = _imopen(self.path, self.codec)
        writer.init_video_stream("gif", fps=self.fps, pixel_format="pal8")
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


class Sheet:
    """A picture of twelve frames, evenly spaced from the first to the last."""

    codec = "png"
    most_fps = math.inf

    def __init__(self, path: Path, fps: float):
        self.path = path
        self._kept: list[np.ndarray] = []
        self._every, self._seen = 1, 0
        self._last: Any = None

    def write(self, frame: np.ndarray) -> None:
        frame = scaled(frame, min(1.0, _SHEET_WIDEST / frame.shape[1]))
        if self._seen % self._every == 0:
            self._kept.append(frame)
        if len(self._kept) == 8 * _SHEET:
            self._kept, self._every = self._kept[::2], 2 * self._every
        self._seen, self._last = self._seen + 1, frame

    def close(self, failed: bool) -> None:
        if failed or not self._kept:
            return
        from PIL import Image

        chosen = [self._kept[i] for i in evenly(len(self._kept), _SHEET)]
        chosen[-1] = self._last
        sheet = tiled(chosen, min(len(chosen), _SHEET_COLUMNS))
        Image.fromarray(sheet).save(self.path)


ENCODERS: dict[str, Any] = {".mp4": Mp4, ".gif": Gif, ".webm": WebM, ".png": Sheet}


def writable_suffixes() -> tuple[str, ...] | None:
    """The kinds of films whose codecs are here. None: imageio or PyAV is not installed.

    Example:
        >>> writable_suffixes()
        ('.mp4', '.gif', '.webm', '.png')
    """
    try:
        import av
        import imageio  # noqa: F401
    except ImportError:
        return None
    known = av.codecs_available
    return tuple(s for s, kind in ENCODERS.items() if kind.codec in known)


def evenly(count: int, wanted: int) -> list[int]:
    """So many of ``count`` numbers from 0, evenly spaced from the first to the last.

    Example:
        >>> evenly(9, 3), evenly(2, 3)
        ([0, 4, 8], [0, 1])
    """
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, wanted))})


def thinned(fps: float, most: float) -> tuple[int, float]:
    """Of every how many frames one is shown, and how many a second, so that no time is lost.

    Args:
        fps: Frames a second that there are.
        most: That can be shown.

    Example:
        >>> thinned(50, 60), thinned(120, 50)
        ((1, 50.0), (3, 40.0))
    """
    every = max(1, math.ceil(fps / most - 1e-9))
    return every, fps / every


def _imopen(path: Path, codec: str, **options: Any) -> Any:
    try:
        import av
        import imageio.v3 as iio
    except ImportError as error:
        raise ImportError("Films need imageio with PyAV: pip install 'imageio[pyav]'") from error
    if codec not in av.codecs_available:
        raise ImportError(
            f"{path.suffix} needs the codec {codec}, which this PyAV was built without: "
            "pip install --force-reinstall --only-binary av av"
        )
    return iio.imopen(path, "w", plugin="pyav", **options)


def _close(writer: Any, failed: bool) -> None:
    if writer is None:
        return
    try:
        writer.close()
    except Exception:
        # Closed again it would try to write once more.
        writer._video_stream = writer._container = None
        writer.close()
        if not failed:
            raise
    finally:
        # imageio closes again when it is deleted, where a Ctrl-C would be ignored.
        writer.close = lambda: None


def _even(frame: np.ndarray) -> np.ndarray:
    # yuv420p halves both sides; an odd one repeats its last row or column.
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return frame


def _palette_image(frames: Sequence[np.ndarray]) -> Any:
    """A 16 x 16 image of the 256 colours of a GIF."""
    from PIL import Image

    steps = np.linspace(0, 255, _CUBE).round()
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    sheet = Image.fromarray(np.concatenate(frames))
    adaptive = np.array(sheet.quantize(256 - len(cube)).getpalette("RGB"), float)
    colours = np.concatenate([adaptive.reshape(-1, 3), cube])
    colours = np.concatenate([colours, np.repeat(colours[-1:], 256 - len(colours), axis=0)])
    return Image.fromarray(colours.reshape(16, 16, 3).astype(np.uint8))
