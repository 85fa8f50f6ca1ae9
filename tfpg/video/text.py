"""What is written under the pictures of a film: text in fixed places, and bars.

The strip has one size through a film, and its words stay where they are while numbers change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfpg.video.explain import Bar
from tfpg.video.frames import BACKGROUND

_TEXT = (235, 235, 235)
_TITLE = (255, 190, 90)
_BAR = (90, 130, 180)
_CHOSEN = (255, 165, 60)
_TRACK = (52, 52, 52)
_SALIENT = np.array([255, 40, 40], np.float32)
_PAD = 4
_MOST_BARS = 24
# As wide as a number gets before it runs into what is right of it.
_WIDEST = "-0000.0"


class Item(NamedTuple):
    """Words with a place of their own under the picture."""

    label: str
    text: str
    widest: str = _WIDEST

    def __str__(self) -> str:
        return f"{self.label} {self.text}".strip()


def number(value: float) -> str:
    """A number for people: whole if it is, else with one digit after the point.

    Example:
        >>> number(21.0), number(-3.25), number(float("nan"))
        ('21', '-3.2', 'nan')
    """
    text = str(int(value)) if float(value).is_integer() else f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def places(widths: Sequence[int], width: int, gap: int) -> tuple[list[tuple[int, int]], int]:
    """Where words go that fill lines from left to right.

    Args:
        widths: Of the words, in pixels.
        width: Of a line.
        gap: Between two words.

    Returns:
        The x and the line of each, and how many lines there are.

    Example:
        >>> places([30, 30, 50], width=70, gap=5)
        ([(0, 0), (35, 0), (0, 1)], 2)
    """
    found, x, line = [], 0, 0
    for each in widths:
        if x and x + each > width:
            x, line = 0, line + 1
        found.append((x, line))
        x += each + gap
    return found, line + 1 if found else 0


def font_size(height: int) -> int:
    """Of the words under a picture so high: small, and readable in a GIF.

    Example:
        >>> font_size(84), font_size(400), font_size(2000)
        (10, 14, 18)
    """
    return min(max(round(height / 28), 10), 18)


class Strip:
    """Draws words and bars under pictures of one size.

    Args:
        height: Of the pictures, in pixels.
        width: Of the pictures.
        items: Whose widest texts decide the places.
        bars: How many bars there are.
        labels: Of the bars.

    Attributes:
        height: Of the strip, 0 if there is nothing to draw.
        width: Of the strip: the pictures', or more where one word needs it.

    Example:
        >>> strip = Strip(400, 600, [Item("step", "0", "00000")])
        >>> strip.draw([Item("step", "7", "00000")]).shape
        (22, 600, 3)
    """

    def __init__(self, height: int, width: int, items: Sequence[Item], labels: Sequence[str] = ()):
        size = font_size(height)
        self._font = _font(size)
        self._line = size + 4
        self._labels = [_length(self._font, label) for label in labels[:_MOST_BARS]]
        self._number = _length(self._font, f"{_WIDEST}0")  # bars have two digits
        words = [_length(self._font, f"{item.label} {item.widest}".strip()) for item in items]
        label = max(self._labels, default=0)
        # A bar between its label and its number is worth at least three letters.
        narrowest = label + self._number + 4 * size if labels else 0
        self.width = max(width, *(w + 2 * _PAD for w in words), narrowest + 2 * _PAD)
        inner = self.width - 2 * _PAD
        self._places, lines = places(words, inner, size)
        self._columns = max(1, min(inner // max(narrowest, 12 * size), -(-len(labels) // 3)))
        rows = -(-min(len(labels), _MOST_BARS) // self._columns)
        self.height = (lines + rows) * self._line + _PAD if lines + rows else 0
        self._lines, self._rows, self._label = lines, rows, label

    def draw(self, items: Sequence[Item], bars: Sequence[Bar] = ()) -> np.ndarray:
        """The strip, ``[height, width, 3]`` uint8, with these words and bars."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.width, self.height), (BACKGROUND,) * 3)
        pen = ImageDraw.Draw(image)
        for item, (x, line) in zip(items, self._places, strict=True):
            colour = _TEXT if item.label else _TITLE
            at = _PAD + x, self._middle(line)
            pen.text(at, str(item), colour, self._font, anchor="lm")
        for i, bar in enumerate(bars[:_MOST_BARS]):
            self._draw_bar(pen, i, bar)
        return np.asarray(image)

    def _draw_bar(self, pen: Any, i: int, bar: Bar) -> None:
        column, row = divmod(i, self._rows)
        wide = (self.width - 2 * _PAD) // self._columns
        left, middle = _PAD + column * wide, self._middle(self._lines + row)
        start = left + self._label + _PAD
        end = left + wide - self._number - 2 * _PAD
        half = self._line // 2 - 3
        colour = _CHOSEN if bar.chosen else _BAR
        pen.text((left, middle), bar.label, _TEXT, self._font, anchor="lm")
        pen.rectangle((start, middle - half, end, middle + half), _TRACK)
        filled = start + round((end - start) * min(max(bar.share, 0.0), 1.0))
        if filled > start:
            pen.rectangle((start, middle - half, filled, middle + half), colour)
        pen.text((end + _PAD, middle), bar.text, _TEXT, self._font, anchor="lm")

    def _middle(self, line: int) -> int:
        return _PAD // 2 + line * self._line + self._line // 2


def under(picture: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """The picture with a strip under it, in the middle where the strip is wider.

    Example:
        >>> under(np.zeros((10, 4, 3), np.uint8), np.zeros((3, 6, 3), np.uint8)).shape
        (13, 6, 3)
    """
    height, width = picture.shape[:2]
    out = np.full((height + len(strip), max(width, strip.shape[1]), 3), BACKGROUND, np.uint8)
    left = (out.shape[1] - width) // 2
    out[:height, left : left + width] = picture
    if len(strip):
        out[height:] = strip
    return out


def tinted(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The picture, red where a map is strong.

    Args:
        picture: ``[H, W, 3]`` uint8.
        strength: ``[h, w]`` in [0, 1], stretched over the picture.

    Example:
        >>> tinted(np.zeros((2, 2, 3), np.uint8), np.array([[1.0]]))[0, 0].tolist()
        [178, 28, 28]
    """
    from PIL import Image

    size = picture.shape[1], picture.shape[0]
    small = Image.fromarray(strength.astype(np.float32))
    share = 0.7 * np.clip(np.asarray(small.resize(size, Image.Resampling.BICUBIC)), 0, 1)[..., None]
    return np.rint(picture * (1 - share) + _SALIENT * share).astype(np.uint8)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """Matplotlib's own, which knows more letters than Pillow's."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def _length(font: Any, text: str) -> int:
    return int(np.ceil(font.getlength(text)))
