"""Figures with a common style, made with Matplotlib but without the state of pyplot."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.core.files import atomic_write, check_writable
from tfpg.core.messages import alternatives

_SUFFIXES = (".png", ".svg", ".pdf", ".jpg")
_DPI = 200


class Theme(NamedTuple):
    """The colors of a figure.

    Attributes:
        lines: Colors that people with color vision deficiencies can tell apart. Source: Okabe and
            Ito, "Color Universal Design", 2008.
    """

    background: str
    text: str
    muted: str
    lines: tuple[str, ...]


LIGHT = Theme(
    *("white", "#1a1a1a", "#666666"),
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
)
DARK = Theme(
    *("#14161a", "#ececec", "#9a9da3"),
    ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF"),
)


def new_figure(
    rows: int, columns: int, size: tuple[float, float], theme: Theme = LIGHT, sharex: Any = False
) -> tuple[Any, list[Any]]:
    """Return a Matplotlib figure, which notebooks display, and its axes.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        size: Width and height of the figure, in inches.
        theme: Its colors.
        sharex: As in `matplotlib.figure.Figure.subplots`.

    Raises:
        ImportError: Matplotlib is not installed.

    Example:
        >>> figure, axes = new_figure(1, 2, (7, 3))
        >>> len(axes)
        2
    """
    figure = _figure_class()(figsize=size, layout="constrained", facecolor=theme.background)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel().tolist()
    for axis in axes:
        axis.set_facecolor(theme.background)
        axis.grid(color=theme.muted, alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(theme.muted)
        axis.tick_params(colors=theme.muted, labelcolor=theme.text, labelsize=9)
        for text in (axis.xaxis.label, axis.yaxis.label, axis.title):
            text.set_color(theme.text)
    return figure, axes


@cache
def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need Matplotlib: pip install matplotlib") from error

    class NotebookFigure(Figure):
        """A figure that notebooks display even if pyplot is not imported."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            from PIL import Image

            full, picture = io.BytesIO(), io.BytesIO()
            self.savefig(full, format="png", dpi=_DPI)
            # With a palette, it takes less than half of the space in a notebook.
            Image.open(full).convert("RGB").quantize(64).save(picture, "png", optimize=True)
            width, height = (round(100 * inches) for inches in self.get_size_inches())
            return picture.getvalue(), {"width": width, "height": height}

    return NotebookFigure


def check_figure(path: str | os.PathLike) -> None:
    """Raise an error unless a figure can be written to ``path``.

    Raises:
        ValueError: The suffix is not that of a figure.
        FileNotFoundError, PermissionError: The folder is missing or not writable.

    Example:
        >>> check_figure("figure.png")
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"A figure must end in {alternatives(_SUFFIXES)}, got {str(path)!r}.")
    check_writable(path)


def save_figure(figure: Any, path: str | os.PathLike) -> Path:
    """Write a figure in the format of the suffix, and return the path.

    Raises:
        FileNotFoundError, PermissionError: The folder is missing or not writable.
    """
    path = Path(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)
    return path


def short_count(x: float) -> str:
    """Return a number of steps with at most three digits and a unit.

    Example:
        >>> short_count(500), short_count(19_769), short_count(1_500_000)
        ('500', '19.8k', '1.5M')
    """
    # The unit is that of the rounded number: 999,999 is 1M.
    x = float(f"{x:.3g}")
    unit = next((u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(x) >= u[0]), (1.0, ""))
    return f"{x / unit[0]:.3g}{unit[1]}"
