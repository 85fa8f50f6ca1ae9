"""Showing videos in a notebook."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfpg.video.writer import check_suffix


def show(video: Any, width: int | None = None) -> None:
    """Display a video or an image in a notebook, embedded in the notebook file.

    Args:
        video: A path, or the `tfpg.video.record.Recording` that `tfpg.record` returned.
        width: Width in pixels. None: the width of the video.

    Raises:
        ValueError: The file has a suffix that `tfpg.record` does not write.
        FileNotFoundError: There is no such file.
        ImportError: IPython is not installed.

    Example:
        >>> show("cartpole.avi")
        Traceback (most recent call last):
            ...
        ValueError: Expected a file ending in .mp4, .gif, .webm, or .png, but got 'cartpole.avi'.
    """
    path: Path = check_suffix(video if isinstance(video, (str, os.PathLike)) else video.path)
    if not path.exists():
        raise FileNotFoundError(f"There is no video at {str(path)!r}.")
    try:
        from IPython.display import Image, Video, display
    except ImportError as error:
        raise ImportError("tfpg.show needs IPython: pip install ipython") from error
    if path.suffix.lower() in (".gif", ".png"):
        display(Image(filename=str(path), width=width))
    else:
        attributes = "controls autoplay loop muted playsinline"
        display(Video(str(path), embed=True, width=width, html_attributes=attributes))
