"""Frames, ``[height, width, 3]`` uint8, and pure functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Box = tuple[int, int, int, int]

# A dark grey, of what is around pictures.
BACKGROUND = 24


def as_frame(image: Any) -> np.ndarray:
    """A frame from whatever environments render.

    Args:
        image: ``[height, width]``, grey, or ``[height, width, 1, 3 or 4]``: grey, RGB, or RGB with
            an opacity, which is left out. Booleans, integers from 0 to 255, or floats: from 0 to 1,
            or to 255 where one of them is above 1.

    Returns:
        ``[height, width, 3]`` uint8.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> as_frame(np.array([[0.0, 0.5, 1.0]])).tolist()
        [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """
    given = np.asarray(image)
    image = given[..., np.newaxis] if given.ndim == 2 else given
    channels = image.ndim == 3 and image.shape[-1] in (1, 3, 4)
    if not channels or 0 in image.shape or image.dtype.kind not in "biuf":
        raise ValueError(
            "A frame is a (height, width, 3) array of numbers, or one of 1 or 4 channels, and this "
            f"is {given.shape} of {given.dtype}."
        )
    image = image[..., :3]
    if image.dtype != np.uint8:
        image = _as_bytes(image)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _as_bytes(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 255):  # NaN is neither
        raise ValueError(
            f"A frame holds numbers from 0 to 255, and this one of {image.dtype} from {low} to "
            f"{high}."
        )
    if image.dtype.kind == "b" or (image.dtype.kind == "f" and high <= 1):
        image = image * np.float32(255)
    return np.rint(image).astype(np.uint8)


def cropped(frame: np.ndarray, box: Box) -> np.ndarray:
    """The part of a frame from ``left`` and ``top`` up to ``right`` and ``bottom``.

    Args:
        frame: ``[H, W, 3]`` uint8.
        box: Left, top, right and bottom, in pixels from the top left corner.

    Raises:
        ValueError: It is empty, or not within the frame.

    Example:
        >>> cropped(np.zeros((10, 20, 3), np.uint8), (5, 0, 20, 4)).shape
        (4, 15, 3)
    """
    left, top, right, bottom = box
    height, width = frame.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"crop=(left, top, right, bottom) must be within the frame, which is {width} wide and "
            f"{height} high, and it is {tuple(box)}."
        )
    return frame[top:bottom, left:right]


def scaled(frame: np.ndarray, scale: float) -> np.ndarray:
    """The frame enlarged or reduced. Whole factors keep pixels sharp.

    Args:
        frame: ``[H, W, 3]`` uint8.
        scale: Above 0.

    Example:
        >>> scaled(np.zeros((10, 20, 3), np.uint8), 0.5).shape
        (5, 10, 3)
    """
    if scale == 1:
        return frame
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    return _resized(frame, height, width)


def fitted(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The frame in this size: as large as fits, black around it.

    Args:
        frame: ``[H, W, 3]`` uint8.
        height: To be.
        width: To be.

    Example:
        >>> fitted(np.full((10, 10, 3), 9, np.uint8), 4, 6)[0, :, 0].tolist()
        [0, 9, 9, 9, 9, 0]
    """
    if frame.shape[:2] == (height, width):
        return frame
    scale = min(height / frame.shape[0], width / frame.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in frame.shape[:2])
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    out[top : top + rows, left : left + columns] = _resized(frame, rows, columns)
    return out


def tiled(frames: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Frames of one size in rows, from left to right, with dark lines between them.

    Args:
        frames: Each ``[H, W, 3]`` uint8.
        columns: Frames of a row. The last row may have fewer.
        gap: Width of the lines, in pixels.

    Example:
        >>> tiled([np.zeros((10, 20, 3), np.uint8)] * 3, columns=2, gap=1).shape
        (21, 41, 3)
    """
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // columns)
    shape = rows * (height + gap) - gap, columns * (width + gap) - gap, 3
    out = np.full(shape, BACKGROUND, np.uint8)
    for i, frame in enumerate(frames):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        out[top : top + height, left : left + width] = frame
    return out


def dimmed(frame: np.ndarray) -> np.ndarray:
    """The frame at half its brightness: what is over.

    Example:
        >>> int(dimmed(np.full((1, 1, 3), 200, np.uint8)).max())
        100
    """
    return frame // 2


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    whole = height % frame.shape[0] == 0 and width % frame.shape[1] == 0
    larger = height > frame.shape[0]
    how = Image.Resampling.BICUBIC if larger else Image.Resampling.BOX
    resampling = Image.Resampling.NEAREST if whole else how
    return np.asarray(Image.fromarray(frame).resize((width, height), resampling))
