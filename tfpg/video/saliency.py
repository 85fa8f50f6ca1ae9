r"""Saliency maps: how much a policy's outputs change when a part of the picture is blurred.

    S(i, j) = 1/2 || f(x) - f(x (1 - M(i, j)) + blurred(x) M(i, j)) ||^2

M(i, j) is a Gaussian blob centered on a cell of a grid. No gradient is needed, so this works for
every model that sees images.

Source: Greydanus et al., "Visualizing and Understanding Atari Agents", 2018,
https://arxiv.org/abs/1711.00138.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np

from tfpg.models.policy import Policy

_CELLS = 12  # along each side
_BLUR_RADIUS = 3.0  # pixels, as in the paper
_BATCH_SIZE = 48
_EPSILON = 1e-10


def sees_images(space: gymnasium.Space) -> bool:
    """Return whether observations are images, ``[height, width, channels]`` uint8.

    Example:
        >>> sees_images(gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8))
        True
    """
    is_box = isinstance(space, gymnasium.spaces.Box)
    return is_box and len(space.shape or ()) == 3 and space.dtype == np.uint8


def saliency_function(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of an image ``[height, width, channels]``: its saliency map.

    The map is ``[12, 12]``, covers the whole image and is relative to its largest value, so it
    lies in [0, 1]. It takes 145 forward passes, with the weights at the time of this call.

    Raises:
        ValueError: The policy does not see images.
    """
    if not sees_images(policy.observation_space):
        raise ValueError(
            "A saliency map needs a policy that sees images, (height, width, channels) uint8, and "
            f"this one sees {policy.observation_space}."
        )
    act = policy.actor()

    def saliency(image: np.ndarray) -> np.ndarray:
        image = np.asarray(image, np.float32)
        masks = _masks(*image.shape[:2])
        difference = _blur(image) - image
        base = act(image[np.newaxis].astype(np.uint8), None).outputs
        scores = []
        for first in range(0, len(masks), _BATCH_SIZE):
            changed = image + masks[first : first + _BATCH_SIZE] * difference
            outputs = act(np.rint(changed).astype(np.uint8), None).outputs
            scores.append(0.5 * np.square(outputs - base).sum(axis=1))
        found = np.concatenate(scores).reshape(_CELLS, _CELLS)
        # Smaller differences are float32 rounding, which depends on the size of the batch.
        noise = _EPSILON * (1.0 + float(np.square(base).sum()))
        return np.where(found > noise, found, 0.0) / max(float(found.max()), noise)

    return saliency


@lru_cache(maxsize=2)
def _masks(height: int, width: int) -> np.ndarray:
    """One blob per cell, ``[cells, height, width, 1]``, 1 at its center."""

    def bumps(side: int) -> np.ndarray:
        step = side / _CELLS
        centers = (np.arange(_CELLS) + 0.5) * step - 0.5
        return np.exp(-0.5 * np.square((np.arange(side) - centers[:, np.newaxis]) / (step / 1.5)))

    blobs = bumps(height)[:, np.newaxis, :, np.newaxis] * bumps(width)[np.newaxis, :, np.newaxis, :]
    return blobs.reshape(-1, height, width, 1).astype(np.float32)


def _blur(image: np.ndarray) -> np.ndarray:
    from PIL import Image, ImageFilter

    gaussian: Any = ImageFilter.GaussianBlur(_BLUR_RADIUS)
    channels = np.moveaxis(image.astype(np.uint8), -1, 0)
    blurred = [np.asarray(Image.fromarray(channel).filter(gaussian)) for channel in channels]
    return np.stack(blurred, axis=-1).astype(np.float32)
