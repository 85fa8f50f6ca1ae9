"""File formats: MP4, WebM, GIF and a PNG contact sheet, one class each.

Every encoder takes frames as they come, and holds a bounded number of them in memory.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfpg.video.frames import rescale, tile

# A GIF's palette is made from its first frames, which wait in memory until then.
_PALETTE_FRAMES = 32
# With more pixels, Pillow's sums of colors overflow.
_PALETTE_PIXELS = 2**23
# The rest of the palette is a coarse color cube, for colors that appear later.
_CUBE_SIDE = 5

_SHEET_FRAMES = 12
_SHEET_WIDTH = 1600  # pixels, at most


class Mp4:
    """H.264 in yuv420p with the index at the front, which every browser plays."""

    codec = "libx264"
    container_options: ClassVar[dict[str, str]] = {"movflags": "faststart"}
    max_fps = 60.0

    def __init__(self, path: Path, fps: float):
        self._path, self._fps = path, fps
        self._writer: Any = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, ``[height, width, 3]`` uint8."""
        if self._writer is None:
            self._writer = _imopen(self._path, self.codec, options=self.container_options)
            self._writer.init_video_stream(self.codec, fps=self._fps, pixel_format="yuv420p")
            # imageio has no public access to these. With several threads, equal frames may become
            # different files.
            context = self._writer._video_stream.codec_context
            context.thread_count, context.options = 1, self.codec_options()
        height, width = frame.shape[:2]
        if height % 2 or width % 2:  # yuv420p needs even sides
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._writer.write_frame(frame)

    def close(self) -> None:
        """Finish the file."""
        _close(self._writer)

    def abort(self) -> None:
        """Stop writing. The file is incomplete."""
        if self._writer is not None:
            with suppress(Exception):
                _close(self._writer)

    def codec_options(self) -> dict[str, str]:
        """Return options of x264: fast, and without its AVX-512 code.

        The parameters added to its fastest preset halve the file for little time. With AVX-512,
        equal frames sometimes became different pixels.
        """
        params = "cabac=1:8x8dct=1:deblock=1:aq-mode=1:subme=1"
        with suppress(OSError):
            if "avx512" in Path("/proc/cpuinfo").read_text():
                params += ":asm=sse2,ssse3,sse4.1,sse4.2,avx,avx2"
        return {"preset": "ultrafast", "crf": "26", "x264-params": params}


class WebM(Mp4):
    """VP9 in yuv420p."""

    codec = "libvpx-vp9"
    container_options: ClassVar[dict[str, str]] = {"fflags": "+bitexact"}  # no random identifier

    def codec_options(self) -> dict[str, str]:
        return {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}


class Gif(Mp4):
    """A looping GIF with one palette for all frames, made from the first of them."""

    codec = "gif"
    max_fps = 50.0

    def __init__(self, path: Path, fps: float):
        super().__init__(path, fps)
        self._waiting: list[np.ndarray] = []

    def write(self, frame: np.ndarray) -> None:
        if self._writer is not None:
            self._writer.write_frame(frame)
            return
        self._waiting.append(frame)
        if len(self._waiting) == _PALETTE_FRAMES:
            self._start()

    def close(self) -> None:
        if self._waiting:
            self._start()
        super().close()

    def _start(self) -> None:
        """Open the file, map colors to a palette from here on, and write the waiting frames."""
        from PIL import Image

        waiting, self._waiting = self._waiting, []
        height, width = waiting[0].shape[:2]
        writer = self._writer = _imopen(self._path, self.codec)
        writer.init_video_stream("gif", fps=self._fps, pixel_format="pal8")
        # The filter takes its size from the stream, which has none before its first frame.
        writer._video_stream.width, writer._video_stream.height = width, height
        with tempfile.TemporaryDirectory() as folder:
            palette = Path(folder) / "palette.png"
            Image.fromarray(make_palette(waiting)).save(palette)
            nodes = {
                "palette": ("movie", {"filename": str(palette)}),
                "map": ("paletteuse", "dither=none"),
            }
            edges = [
                ("video_in", "map", 0, 0),
                ("palette", "map", 0, 1),
                ("map", "video_out", 0, 0),
            ]
            writer.set_video_filter(filter_graph=(nodes, edges))
            for frame in waiting:
                writer.write_frame(frame)


class ContactSheet:
    """One image of twelve frames, evenly spaced from the first to the last.

    It has four columns, or fewer of wide frames, such as those of several episodes side by side.
    """

    codec = "png"
    max_fps = math.inf

    def __init__(self, path: Path, fps: float):
        self._path, self._count, self._spacing = path, 0, 1
        self._kept: list[np.ndarray] = []
        self._last: Any = None

    def write(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        self._columns = min(max(round(6 * height / width), 1), 4)
        self._last = rescale(frame, min(1.0, _SHEET_WIDTH / self._columns / width))
        if self._count % self._spacing == 0:
            self._kept.append(self._last)
        if len(self._kept) == 2 * self._columns * _SHEET_FRAMES:
            self._kept, self._spacing = self._kept[::2], 2 * self._spacing
        self._count += 1

    def close(self) -> None:
        from PIL import Image

        chosen = [self._kept[i] for i in evenly_spaced(len(self._kept), _SHEET_FRAMES)]
        chosen[-1] = self._last
        Image.fromarray(tile(chosen, min(len(chosen), self._columns))).save(self._path)

    def abort(self) -> None:
        pass


ENCODERS: dict[str, Any] = {".mp4": Mp4, ".gif": Gif, ".webm": WebM, ".png": ContactSheet}


def writable_suffixes() -> tuple[str, ...] | None:
    """Return the file formats whose codecs are available. None if imageio or PyAV is missing.

    Example:
        >>> writable_suffixes()
        ('.mp4', '.gif', '.webm', '.png')
    """
    try:
        import av
        import imageio  # noqa: F401
    except ImportError:
        return None
    available = av.codecs_available
    return tuple(suffix for suffix, kind in ENCODERS.items() if kind.codec in available)


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` of the indices below ``count``, from the first to the last.

    Example:
        >>> evenly_spaced(9, 3), evenly_spaced(2, 3)
        ([0, 4, 8], [0, 1])
    """
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, wanted))})


def thin_out(fps: float, max_fps: float) -> tuple[int, float]:
    """Return n such that every n-th frame is shown, and the frame rate that is left.

    Example:
        >>> thin_out(50, 60), thin_out(120, 50)
        ((1, 50.0), (3, 40.0))
    """
    every = max(1, math.ceil(fps / max_fps - 1e-9))
    return every, fps / every


def make_palette(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Return the 256 colors of a GIF, ``[16, 16, 3]`` uint8."""
    from PIL import Image

    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames])
    pixels = pixels[:: -(-len(pixels) // _PALETTE_PIXELS)]
    steps = np.linspace(0, 255, _CUBE_SIDE).round()
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    quantized = Image.fromarray(pixels[np.newaxis]).quantize(256 - len(cube))
    adaptive = np.array(quantized.getpalette("RGB"), float).reshape(-1, 3)
    colors = np.concatenate([adaptive, cube])
    padding = np.repeat(colors[-1:], 256 - len(colors), axis=0)
    return np.concatenate([colors, padding]).reshape(16, 16, 3).astype(np.uint8)


def _imopen(path: Path, codec: str, **options: Any) -> Any:
    try:
        import av
        import imageio.v3 as iio
    except ImportError as error:
        raise ImportError(
            "Writing videos needs imageio with PyAV: pip install 'imageio[pyav]'"
        ) from error
    if codec not in av.codecs_available:
        raise ImportError(
            f"{path.suffix} files need the codec {codec}, which this PyAV was built without: "
            "pip install --force-reinstall --only-binary av av"
        )
    return iio.imopen(path, "w", plugin="pyav", **options)


def _close(writer: Any) -> None:
    """Close a writer of imageio, once."""
    try:
        writer.close()
    except Exception:
        # When it is closed again it would try to write again.
        writer._video_stream = writer._container = None
        writer.close()
        raise
    finally:
        # imageio closes a writer that is deleted once more, and a Ctrl-C would be lost there.
        writer.close = lambda: None
