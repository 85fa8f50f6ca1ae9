"""Frames, ``[height, width, 3]`` uint8, and pure functions on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

BACKGROUND = 24  # dark gray, around and below pictures

# Pictures whose larger side has fewer pixels are enlarged to at least so many.
_SMALL, _ENLARGED = 128, 200

_SALIENT = np.array([255, 40, 40], np.float32)


def as_frame(image: Any) -> np.ndarray:
    """Convert whatever an environment renders to a frame.

    Args:
        image: ``[height, width]`` for grayscale, or ``[height, width, C]`` with 1 (grayscale),
            3 (RGB) or 4 (RGBA, alpha is dropped) channels. Booleans, integers from 0 to 255, or
            floats. Floats are in [0, 1], or in [0, 255] if any of them is above 1.

    Returns:
        ``[height, width, 3]`` uint8.

    Raises:
        ValueError: The array has another shape, type or range.

    Example:
        >>> as_frame(np.array([[0.0, 0.5, 1.0]])).tolist()
        [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """
    given = np.asarray(image)
    image = given[..., np.newaxis] if given.ndim == 2 else given
    has_channels = image.ndim == 3 and image.shape[-1] in (1, 3, 4)
    if not has_channels or 0 in image.shape or image.dtype.kind not in "biuf":
        raise ValueError(
            "Expected an image of shape (height, width), or (height, width, channels) with 1, 3 "
            f"or 4 channels, but got shape {given.shape} of {given.dtype}."
        )
    image = image[..., :3]
    if image.dtype != np.uint8:
        image = _to_uint8(image)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _to_uint8(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 255):  # also catches NaN
        raise ValueError(
            f"Expected pixels between 0 and 255, but got {image.dtype} values from {low} to {high}."
        )
    if image.dtype.kind == "b" or (image.dtype.kind == "f" and high <= 1):
        image = image * np.float32(255)
    return np.rint(image).astype(np.uint8)


def crop(frame: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the part of a frame inside a box: left, top, right and bottom, in pixels.

    Raises:
        ValueError: The box is empty or not within the frame.

    Example:
        >>> crop(np.zeros((10, 20, 3), np.uint8), (5, 0, 20, 4)).shape
        (4, 15, 3)
    """
    left, top, right, bottom = box
    height, width = frame.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            "crop=(left, top, right, bottom) must lie within the frame, which is "
            f"{width} pixels wide and {height} high, but it is {tuple(box)}."
        )
    return frame[top:bottom, left:right]


def rescale(frame: np.ndarray, scale: float) -> np.ndarray:
    """Enlarge or shrink a frame. Integer factors keep pixels sharp.

    Example:
        >>> rescale(np.zeros((10, 20, 3), np.uint8), 0.5).shape
        (5, 10, 3)
    """
    if scale == 1:
        return frame
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    return _resize(frame, height, width)


def enlargement(height: int, width: int) -> int:
    """Return the whole factor by which small pictures are enlarged, so that text fits below them.

    Example:
        >>> enlargement(8, 8), enlargement(84, 84), enlargement(400, 600)
        (25, 3, 1)
    """
    largest = max(height, width)
    return 1 if largest >= _SMALL else math.ceil(_ENLARGED / largest)


def letterbox(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fit a frame into a size, keeping its aspect ratio, with black bars around it.

    Example:
        >>> letterbox(np.full((10, 10, 3), 9, np.uint8), 4, 6)[0, :, 0].tolist()
        [0, 9, 9, 9, 9, 0]
    """
    if frame.shape[:2] == (height, width):
        return frame
    scale = min(height / frame.shape[0], width / frame.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in frame.shape[:2])
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    out[top : top + rows, left : left + columns] = _resize(frame, rows, columns)
    return out


def tile(frames: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Arrange frames of one size in a grid, row by row, with dark lines between them.

    Example:
        >>> tile([np.zeros((10, 20, 3), np.uint8)] * 3, columns=2, gap=1).shape
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


def add_below(picture: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """Return the picture with a panel below it, centered where the panel is wider.

    Example:
        >>> add_below(np.zeros((10, 4, 3), np.uint8), np.zeros((3, 6, 3), np.uint8)).shape
        (13, 6, 3)
    """
    height, width = picture.shape[:2]
    out = np.full((height + len(panel), max(width, panel.shape[1]), 3), BACKGROUND, np.uint8)
    left = (out.shape[1] - width) // 2
    out[:height, left : left + width] = picture
    out[height:] = panel
    return out


def tint(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return the picture, tinted red where a map ``[h, w]`` in [0, 1] is strong.

    Example:
        >>> tint(np.zeros((2, 2, 3), np.uint8), np.array([[1.0]]))[0, 0].tolist()
        [178, 28, 28]
    """
    from PIL import Image

    size = picture.shape[1], picture.shape[0]
    small = Image.fromarray(strength.astype(np.float32))
    alpha = 0.7 * np.clip(np.asarray(small.resize(size, Image.Resampling.BICUBIC)), 0, 1)[..., None]
    return np.rint(picture * (1 - alpha) + _SALIENT * alpha).astype(np.uint8)


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    if height % frame.shape[0] == 0 and width % frame.shape[1] == 0:
        resampling = Image.Resampling.NEAREST
    elif height > frame.shape[0]:
        resampling = Image.Resampling.BICUBIC
    else:
        resampling = Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize((width, height), resampling))
