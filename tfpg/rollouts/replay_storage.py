"""What a row of a replay holds, and what that takes of memory."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import map_arrays
from tfpg.rollouts.sum_tree import SumTree

# The arrays with a value for every row, beside the observations, and their bytes a row.
COLUMNS = ("actions", "rewards", "real", "terminated", "truncated")
_COLUMN_BYTES = 4 + 4 + 1 + 1 + 1


def bytes_needed(
    observation_space: gymnasium.Space,
    capacity: int,
    frame_stack: int | None = None,
    prioritized: bool = False,
) -> tuple[int, int]:
    """Memory of a full `ReplayBuffer`, and how much of it is images, which a device can hold.

    Example:
        >>> bytes_needed(spaces.Box(0, 255, (84, 84, 4), np.uint8), 1000, frame_stack=4)
        (7067000, 7056000)
    """
    row = _parts(row_of(observation_space, frame_stack or 1))
    tree = SumTree.bytes_for(capacity) if prioritized else 0
    images = capacity * sum(part.itemsize for part in row if is_image(part))
    others = capacity * (sum(part.itemsize for part in row if not is_image(part)) + _COLUMN_BYTES)
    return images + others + tree, images


def is_image(row: np.dtype) -> bool:
    """Whether what a row stores are the pixels of an image, worth a place on a device.

    Example:
        >>> is_image(np.dtype((np.uint8, (84, 84)))), is_image(np.dtype((np.float32, (4,))))
        (True, False)
    """
    return row.base == np.uint8 and len(row.shape) > 1


def make_rings(row: Any, count: int, device: str | None) -> Any:
    """Arrays of ``count`` rows, zeros, of which images are `DeviceRows` where a device is given."""

    def ring(part: np.dtype) -> Any:
        if device is not None and is_image(part):
            from tfpg.rollouts.replay_device import DeviceRows

            return DeviceRows(count, part, device)
        # Zeros are promised by the system, and taken as rows are written.
        return np.zeros((count, *part.shape), part.base)

    return map_arrays(ring, row)


def stacked(ring: Any, rows: np.ndarray) -> Any:
    """The rows ``[M, k]`` of a ring as ``[M, ..., k]``.

    Example:
        >>> stacked(np.array([[1, 2], [3, 4]]), np.array([[0, 1]])).tolist()
        [[[1, 3], [2, 4]]]
    """
    if isinstance(ring, np.ndarray):
        return np.moveaxis(ring.take(rows, axis=0), 1, -1)
    return ring.stacked(rows)


def as_numpy(ring: Any, rows: np.ndarray) -> np.ndarray:
    """The rows ``[M]`` of a ring, in the machine's memory."""
    return ring[rows] if isinstance(ring, np.ndarray) else ring.numpy(rows)


def check_stacked(observations: Any, real: np.ndarray) -> None:
    """Raises where observations are no stacks of frames, from one to the next.

    Args:
        observations: ``[T + 1, N, ..., frames]``, of a `Trajectory`, or a dict of these.
        real: ``[T, N]``, which steps are.

    Raises:
        ValueError: After a step the frames have not moved on by one.

    Example:
        >>> check_stacked(np.array([[[1, 2]], [[2, 3]]]), np.array([[True]]))
    """
    for x in _parts(observations):
        if not np.array_equal(x[:-1][real][..., 1:], x[1:][real][..., :-1]):
            raise ValueError(
                f"frame_stack={x.shape[-1]} is for observations that are the last "
                f"{x.shape[-1]} frames, and after a step these have not moved on by one along "
                "their last axis: leave it out."
            )


def row_of(space: gymnasium.Space, stack: int) -> Any:
    """What a row stores of an observation, as a dtype with a shape, or a dict of these."""
    if isinstance(space, spaces.Dict):
        return {key: row_of(part, stack) for key, part in space.items()}
    shape = space.shape or ()
    if stack > 1 and (not shape or shape[-1] != stack):
        raise ValueError(
            f"frame_stack={stack} is for observations of {stack} frames along their last axis, and "
            f"these have shape {shape}."
        )
    return np.dtype((space.dtype, shape if stack == 1 else shape[:-1]))


def _parts(observations: Any) -> list[Any]:
    return list(observations.values()) if isinstance(observations, dict) else [observations]
