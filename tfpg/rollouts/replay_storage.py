"""The storage of a replay buffer: the contents of its rows, their memory, and their device.

Images may be kept on a GPU. Batches are then gathered there, and an update moves row numbers to the
device instead of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import tf
from tfpg.core.memory import readable_bytes
from tfpg.envs.contracts import ACTION_MASK
from tfpg.rollouts.sum_tree import SumTree

# The arrays with a value for each row, in addition to the observations and actions.
_COLUMNS = {
    "rewards": np.float32,
    "real": np.bool_,  # a step; else an observation that ended an episode, or an earlier frame
    "terminated": np.bool_,
    "truncated": np.bool_,
}
INDEX = np.dtype(np.int32)  # of an action that is one of several

CHUNK = 64_000_000  # bytes that are moved to or from a device at a time


class HostRows:
    """An array ``[count, ...]`` in the machine's memory, whose rows are written and gathered.

    Args:
        count: Number of rows.
        row: The dtype of a row, with its shape.

    Example:
        >>> rows = HostRows(3, np.dtype((np.uint8, (2,))))
        >>> rows[np.array([2, 0])] = np.array([[1, 2], [3, 4]], np.uint8)
        >>> rows.stacked(np.array([[0, 2]])).tolist()
        [[[3, 1], [4, 2]]]
    """

    def __init__(self, count: int, row: np.dtype):
        # The system provides pages of zeros only as they are written to.
        self._rows = np.zeros((count, *row.shape), row.base)

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        self._rows[rows] = values

    def take(self, rows: np.ndarray) -> Any:
        """Return the rows, which may be an array of any shape."""
        # Indexing takes ten times as long for rows of a few numbers.
        return self._rows.take(rows, axis=0)

    def stacked(self, rows: np.ndarray) -> Any:
        """Return the rows ``[B, k]`` as ``[B, ..., k]``."""
        return np.moveaxis(self.take(rows), 1, -1)

    def numpy(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows ``[B]`` in the machine's memory."""
        return self.take(rows)


class DeviceRows:
    """The same as `HostRows`, in the memory of a device.

    Args:
        count: Number of rows.
        row: The dtype of a row, with its shape.
        device: The device's name in TensorFlow.

    Raises:
        MemoryError: The device does not have enough memory.

    Example:
        >>> rows = DeviceRows(3, np.dtype((np.uint8, (2,))), "CPU:0")
        >>> rows[np.array([2, 0])] = np.array([[1, 2], [3, 4]], np.uint8)
        >>> rows.numpy(np.array([0, 1])).tolist()
        [[3, 4], [0, 0]]
    """

    def __init__(self, count: int, row: np.dtype, device: str):
        self._bytes = row.itemsize
        try:
            with tf.device(device):
                zeros = tf.zeros((count, *row.shape), row.base)
                self._rows = tf.Variable(zeros, trainable=False)
        except tf.errors.ResourceExhaustedError:
            raise MemoryError(
                f"A replay buffer of {count:,} rows needs {readable_bytes(count * row.itemsize)} "
                f"on {device}, which does not have as much free: use a smaller capacity, or "
                "replay_device=None."
            ) from None

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        for part in self._parts(len(rows)):
            self._rows.scatter_update(tf.IndexedSlices(values[part], rows[part]))

    def take(self, rows: np.ndarray) -> tf.Tensor:
        """Return the rows, which may be an array of any shape."""
        return self._rows.sparse_read(tf.constant(rows))

    def stacked(self, rows: np.ndarray) -> tf.Tensor:
        """Return the rows ``[B, k]`` as ``[B, ..., k]``."""
        frames = self.take(rows)
        return tf.transpose(frames, [0, *range(2, len(frames.shape)), 1])

    def numpy(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows ``[B]`` in the machine's memory."""
        found = np.empty((len(rows), *self._rows.shape[1:]), self._rows.dtype.as_numpy_dtype)
        for part in self._parts(len(rows)):
            found[part] = self.take(rows[part]).numpy()
        return found

    def _parts(self, count: int) -> Iterator[slice]:
        step = max(1, CHUNK // self._bytes)
        return (slice(first, first + step) for first in range(0, count, step))


def row_of(space: gymnasium.Space, stack: int) -> Any:
    """Return the dtype, with a shape, of what a row stores of an observation, or a dict of these.

    Raises:
        ValueError: ``stack`` is above 1, and observations are not stacks of as many frames.
    """
    if isinstance(space, spaces.Dict):
        if stack > 1 and ACTION_MASK in space.spaces:
            raise ValueError(
                f"frame_stack={stack} is not possible with action masks, which are no frames: "
                "leave it out, and all observations are stored as they are."
            )
        return {key: row_of(part, stack) for key, part in space.items()}
    shape = space.shape or ()
    if stack > 1 and (not shape or shape[-1] != stack):
        raise ValueError(
            f"frame_stack={stack} is for observations of {stack} frames along their last axis, and "
            f"these have shape {shape}."
        )
    return np.dtype((space.dtype, shape if stack == 1 else shape[:-1]))


def columns_of(action: np.dtype) -> dict[str, np.dtype]:
    """Return the dtype, with a shape, of what a row stores in addition to an observation.

    Args:
        action: That of an action.

    Example:
        >>> columns_of(np.dtype((np.float32, (6,))))["actions"].shape
        (6,)
    """
    return {"actions": action} | {name: np.dtype(dtype) for name, dtype in _COLUMNS.items()}


def is_image(row: np.dtype) -> bool:
    """Return whether rows are the pixels of an image, which may be kept on a device.

    Example:
        >>> is_image(np.dtype((np.uint8, (84, 84)))), is_image(np.dtype((np.float32, (4,))))
        (True, False)
    """
    return row.base == np.uint8 and len(row.shape) > 1


def make_rows(row: Any, count: int, device: str | None) -> Any:
    """Return ``count`` rows of zeros, or a dict of these; images on the device if there is one."""

    def rows(part: np.dtype) -> HostRows | DeviceRows:
        if device is not None and is_image(part):
            return DeviceRows(count, part, device)
        return HostRows(count, part)

    return map_arrays(rows, row)


def bytes_needed(
    observation_space: gymnasium.Space,
    capacity: int,
    frame_stack: int | None = None,
    prioritized: bool = False,
    action: np.dtype = INDEX,
) -> tuple[int, int]:
    """Return the memory of a full replay buffer, and the part for images, which a device can hold.

    Example:
        >>> bytes_needed(spaces.Box(0, 255, (84, 84, 4), np.uint8), 1000, frame_stack=4)
        (7067000, 7056000)
    """
    row = row_of(observation_space, frame_stack or 1)
    parts = list(row.values()) if isinstance(row, dict) else [row]
    images = sum(part.itemsize for part in parts if is_image(part))
    others = sum(part.itemsize for part in parts if not is_image(part))
    others += sum(dtype.itemsize for dtype in columns_of(action).values())
    tree = SumTree.bytes_for(capacity) if prioritized else 0
    return capacity * (images + others) + tree, capacity * images


def replay_device(asked: str | None, space: gymnasium.Space) -> str | None:
    """Return the device that stores the images of a replay buffer. None: main memory.

    Args:
        asked: A device, None, or ``"auto"``: a GPU if TensorFlow uses one.
        space: The observation space.

    Raises:
        ValueError: TensorFlow has no such device.

    Example:
        >>> replay_device("auto", spaces.Discrete(3)), replay_device("CPU:0", spaces.Discrete(3))
        (None, None)
    """
    if asked is None or not bytes_needed(space, 1)[1]:
        return None
    devices = [d.name.split("device:")[-1] for d in tf.config.list_logical_devices()]
    if asked == "auto":
        return next((name for name in devices if name.startswith("GPU")), None)
    if asked.strip("/").split("device:")[-1] not in devices:
        raise ValueError(
            f"replay_device={asked!r} is not one of TensorFlow's devices, {', '.join(devices)}: "
            'use one of them, or "auto".'
        )
    return asked


def check_stacked(observations: Any, real: np.ndarray) -> None:
    """Raise if observations are not stacks of frames that shift by one with each step.

    Args:
        observations: ``[T + 1, N, ..., frames]`` of a `Trajectory`, or a dict of such arrays.
        real: ``[T, N]`` bool, the real steps.

    Raises:
        ValueError: The frames have not shifted by one after a step.

    Example:
        >>> check_stacked(np.array([[[1, 2]], [[2, 3]]]), np.array([[True]]))
    """
    for x in observations.values() if isinstance(observations, dict) else [observations]:
        if not np.array_equal(x[:-1][real][..., 1:], x[1:][real][..., :-1]):
            raise ValueError(
                f"frame_stack={x.shape[-1]} needs observations that are the last {x.shape[-1]} "
                "frames, but here the frames do not shift by one along the last axis with each "
                "step: leave it out."
            )
