r"""Where a policy looks: how much its outputs change when a part of the picture is blurred.

    S(i, j) = 1/2 || f(x) - f(x (1 - M(i, j)) + blurred(x) M(i, j)) ||^2

with M a Gaussian blob around (i, j), on a grid of places. Any model that sees images has one: no
gradient is needed.

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

_PLACES = 12  # along each side
_BLUR = 3.0  # pixels, as in the paper
_BATCH = 48
_NOISE = 1e-10


def sees_images(space: gymnasium.Space) -> bool:
    """Whether observations are images, ``[height, width, channels]`` uint8.

    Example:
        >>> sees_images(gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8))
        True
    """
    is_box = isinstance(space, gymnasium.spaces.Box)
    return is_box and len(space.shape or ()) == 3 and space.dtype == np.uint8


def saliency(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """A function of an image ``[height, width, channels]``: where the policy looks in it.

    It gives ``[12, 12]`` numbers in [0, 1], of the same places over the whole image, at the cost
    of 145 forward passes. It acts with the weights of this moment.

    Raises:
        ValueError: The policy sees no images.
    """
    if not sees_images(policy.observation_space):
        raise ValueError(
            "A saliency map is for policies that see images, (height, width, channels) of uint8, "
            f"and this one sees {policy.observation_space}."
        )
    act = policy.actor()

    def look(image: np.ndarray) -> np.ndarray:
        image = np.asarray(image, np.float32)
        masks = _masks(*image.shape[:2])
        softened = _blurred(image) - image
        base = act(image[np.newaxis].astype(np.uint8), None).outputs
        scores = []
        for first in range(0, len(masks), _BATCH):
            changed = image + masks[first : first + _BATCH] * softened
            outputs = act(np.rint(changed).astype(np.uint8), None).outputs
            scores.append(0.5 * np.square(outputs - base).sum(axis=1))
        found = np.concatenate(scores).reshape(_PLACES, _PLACES)
        # Below this it is how float32 rounds, which depends on how many images there are.
        noise = _NOISE * (1.0 + float(np.square(base).sum()))
        return np.where(found > noise, found, 0.0) / max(float(found.max()), noise)

    return look


@lru_cache(maxsize=2)
def _masks(height: int, width: int) -> np.ndarray:
    """A blob around every place, ``[places, height, width, 1]``, 1 at its centre."""

    def hills(side: int) -> np.ndarray:
        step = side / _PLACES
        centres = (np.arange(_PLACES) + 0.5) * step - 0.5
        return np.exp(-0.5 * np.square((np.arange(side) - centres[:, np.newaxis]) / (step / 1.5)))

    blobs = hills(height)[:, np.newaxis, :, np.newaxis] * hills(width)[np.newaxis, :, np.newaxis, :]
    return blobs.reshape(-1, height, width, 1).astype(np.float32)


def _blurred(image: np.ndarray) -> np.ndarray:
    from PIL import Image, ImageFilter

    blur: Any = ImageFilter.GaussianBlur(_BLUR)
    channels = np.moveaxis(image.astype(np.uint8), -1, 0)
    blurred = [np.asarray(Image.fromarray(channel).filter(blur)) for channel in channels]
    return np.stack(blurred, axis=-1).astype(np.float32)
