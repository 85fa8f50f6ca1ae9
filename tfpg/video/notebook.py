"""Films in a notebook."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfpg.video.writer import check_suffix


def show(film: Any, width: int | None = None) -> None:
    """Displays a film or a sheet of pictures in a notebook, inside the notebook itself.

    Args:
        film: A path, or what `tfpg.record` returned.
        width: In pixels. None: the film's own.

    Raises:
        ValueError: It is of another kind than `tfpg.record` writes.
        FileNotFoundError: There is none.
        ImportError: IPython, with which notebooks display, is not installed.

    Example:
        >>> show("film.avi")
        Traceback (most recent call last):
            ...
        ValueError: A film ends in .mp4, .gif, .webm or .png, and this is 'film.avi'.
    """
    path: Path = check_suffix(film if isinstance(film, (str, os.PathLike)) else film.path)
    if not path.exists():
        raise FileNotFoundError(f"No film at {str(path)!r}.")
    try:
        from IPython.display import Image, Video, display
    except ImportError as error:
        raise ImportError("Notebooks display by IPython: pip install ipython") from error
    if path.suffix.lower() in (".gif", ".png"):
        display(Image(filename=str(path), width=width))
    else:
        attributes = "controls autoplay loop muted playsinline"
        display(Video(str(path), embed=True, width=width, html_attributes=attributes))
