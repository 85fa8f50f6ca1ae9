"""The panel below a picture: text in fixed places, and bars.

A panel is laid out once, for the widest text of each field. All frames then have one size, and
words stay where they are while numbers change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfpg.video.frames import BACKGROUND

WIDEST_NUMBER = "-0000.0"  # a wider one runs into its neighbor

_TEXT = (235, 235, 235)
_TITLE = (255, 190, 90)
_BAR = (90, 130, 180)
_CHOSEN = (255, 165, 60)
_TRACK = (52, 52, 52)
_PAD = 4
_MAX_BARS = 24


class Field(NamedTuple):
    """A text in a fixed place: a label and the text after it."""

    label: str
    widest: str = WIDEST_NUMBER


class Bar(NamedTuple):
    """One row of a bar chart."""

    label: str
    length: float  # in [0, 1], of the full width
    text: str
    chosen: bool


class Panel:
    """Draws texts and bars below pictures of one size.

    A field without a label is a title. Only the first 24 bars are drawn.

    Attributes:
        height: Height of the panel in pixels, 0 if there is nothing to draw.
        width: Width of the panel: the pictures', or more if one text needs it.

    Example:
        >>> panel = Panel(400, 600, [Field("step", "00000")])
        >>> panel.draw(["7"]).shape
        (22, 600, 3)
    """

    def __init__(
        self, height: int, width: int, fields: Sequence[Field], bar_labels: Sequence[str] = ()
    ):
        size = self._size = font_size(height)
        self._line_height = size + 4
        self._fields = fields
        widths = [self._width_of(f"{field.label} {field.widest}".strip()) for field in fields]
        labels = bar_labels[:_MAX_BARS]
        self._label_width = max(map(self._width_of, labels), default=0)
        self._number_width = self._width_of(
            f"{WIDEST_NUMBER}0"
        )  # numbers of bars have two decimals
        # Between its label and its number, a bar needs the room of a few letters.
        min_bar = self._label_width + self._number_width + 4 * size if labels else 0
        self.width = max(width, *(each + 2 * _PAD for each in widths), min_bar + 2 * _PAD)
        inner = self.width - 2 * _PAD
        self._places, self._lines = flow(widths, inner, size)
        self._columns = max(1, min(inner // max(min_bar, 12 * size), -(-len(bar_labels) // 3)))
        self._rows = -(-len(labels) // self._columns)
        lines = self._lines + self._rows
        self.height = lines * self._line_height + _PAD if lines else 0

    def draw(self, texts: Sequence[str], bars: Sequence[Bar] = ()) -> np.ndarray:
        """Return the panel, ``[height, width, 3]`` uint8, with one text per field, and bars."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.width, self.height), (BACKGROUND,) * 3)
        canvas = ImageDraw.Draw(image)
        for field, text, (x, line) in zip(self._fields, texts, self._places, strict=True):
            color = _TEXT if field.label else _TITLE
            at = _PAD + x, self._middle(line)
            self._write(canvas, at, f"{field.label} {text}".strip(), color)
        for i, bar in enumerate(bars[:_MAX_BARS]):
            self._draw_bar(canvas, i, bar)
        return np.asarray(image)

    def _draw_bar(self, canvas: Any, i: int, bar: Bar) -> None:
        column, row = divmod(i, self._rows)
        column_width = (self.width - 2 * _PAD) // self._columns
        left, middle = _PAD + column * column_width, self._middle(self._lines + row)
        start = left + self._label_width + _PAD
        end = left + column_width - self._number_width - 2 * _PAD
        half = self._line_height // 2 - 3
        self._write(canvas, (left, middle), bar.label, _TEXT)
        canvas.rectangle((start, middle - half, end, middle + half), _TRACK)
        filled = start + round((end - start) * min(max(bar.length, 0.0), 1.0))
        if filled > start:
            color = _CHOSEN if bar.chosen else _BAR
            canvas.rectangle((start, middle - half, filled, middle + half), color)
        self._write(canvas, (end + _PAD, middle), bar.text, _TEXT)

    def _middle(self, line: int) -> int:
        return _PAD // 2 + line * self._line_height + self._line_height // 2

    def _write(self, canvas: Any, at: tuple[int, int], text: str, color: Any) -> None:
        text, font = printable(text, self._size)
        canvas.text(at, text, color, font, anchor="lm")

    def _width_of(self, text: str) -> int:
        text, font = printable(text, self._size)
        return int(np.ceil(font.getlength(text)))


def flow(widths: Sequence[int], line: int, gap: int) -> tuple[list[tuple[int, int]], int]:
    """Return the x and the line number of each word, and the number of lines.

    Lines are filled from left to right. All widths are in pixels.

    Example:
        >>> flow([30, 30, 50], line=70, gap=5)
        ([(0, 0), (35, 0), (0, 1)], 2)
    """
    places, x, y = [], 0, 0
    for width in widths:
        if x and x + width > line:
            x, y = 0, y + 1
        places.append((x, y))
        x += width + gap
    return places, y + 1 if places else 0


def font_size(height: int) -> int:
    """Return the font size for a picture of this height: small, but readable in a GIF.

    Example:
        >>> font_size(84), font_size(400), font_size(2000)
        (10, 14, 18)
    """
    return min(max(round(height / 28), 10), 18)


def printable(text: str, size: int) -> tuple[str, Any]:
    """Return a text, and a font that has its characters.

    If no font of this machine has them all, those that Matplotlib's lacks are escaped.

    Example:
        >>> printable("step", 10)[0]
        'step'
    """
    if text.isascii():
        return text, load_font(size)
    return _printable(text, size)


@lru_cache(maxsize=256)
def _printable(text: str, size: int) -> tuple[str, Any]:
    characters = set(map(ord, text)) - {ord(" ")}
    known = _characters(_MATPLOTLIB_FONT) if _MATPLOTLIB_FONT else frozenset(range(128))
    if not characters <= known:
        for path in _system_fonts():
            if characters <= _characters(path):
                return text, load_font(size, path)
        escaped = ((c, c.encode("ascii", "backslashreplace").decode()) for c in text)
        text = "".join(c if ord(c) in known else escape for c, escape in escaped)
    return text, load_font(size)


def _matplotlib_font() -> str | None:
    """Matplotlib's font, which has more letters than Pillow's, if it is installed."""
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.exists():
            return str(path)
    return None


_MATPLOTLIB_FONT = _matplotlib_font()


@lru_cache(maxsize=64)
def load_font(size: int, path: str | None = _MATPLOTLIB_FONT) -> Any:
    """Load a font. None: Pillow's own."""
    from PIL import ImageFont

    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@cache
def _characters(path: str) -> frozenset[int]:
    """The characters that a font can draw; none if it cannot be loaded."""
    from matplotlib.ft2font import FT2Font

    try:
        load_font(10, path)  # bitmap fonts have only sizes of their own
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _system_fonts() -> list[str]:
    if _MATPLOTLIB_FONT is None:
        return []
    from matplotlib.font_manager import findSystemFonts

    own = sorted(map(str, Path(_MATPLOTLIB_FONT).parent.glob("*.ttf")))
    found = [*sorted(findSystemFonts()), *own]
    # It has a sign for each script, not the characters.
    return [path for path in found if "LastResort" not in path]
