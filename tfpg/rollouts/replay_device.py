"""Rows of a replay in the memory of a device, for images that a GPU learns from.

What is drawn is gathered there: an update moves the numbers of its rows to the device in place of
their pixels, which the CPU neither gathers nor stacks.
"""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
from gymnasium import spaces  # noqa: F401  (of the examples)

from tfpg.core.backend import tf
from tfpg.core.memory import readable_bytes
from tfpg.rollouts.replay_storage import bytes_needed

# What is moved at a time where many rows are.
_CHUNK = 64_000_000  # bytes


class DeviceRows:
    """An array ``[count, ...]`` on a device, whose rows are written and gathered.

    Args:
        count: Rows.
        row: A dtype with a shape, of one row.
        device: As TensorFlow names it.

    Raises:
        MemoryError: The device has not as much.

    Example:
        >>> rows = DeviceRows(3, np.dtype((np.uint8, (2,))), "CPU:0")
        >>> rows[np.array([2, 0])] = np.array([[1, 2], [3, 4]], np.uint8)
        >>> rows.numpy(np.array([0, 1])).tolist()
        [[3, 4], [0, 0]]
    """

    def __init__(self, count: int, row: np.dtype, device: str):
        self._bytes = row.itemsize
        shape = (count, *row.shape)
        try:
            with tf.device(device):
                self._rows = tf.Variable(tf.zeros(shape, row.base), trainable=False)
        except tf.errors.ResourceExhaustedError:
            raise MemoryError(
                f"A replay's {count:,} rows need {readable_bytes(count * row.itemsize)} on "
                f"{device}, which has not as much free: use a smaller capacity, or "
                "replay_device=None."
            ) from None

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        for part in self._parts(len(rows)):
            self._rows.scatter_update(tf.IndexedSlices(values[part], rows[part]))

    def take(self, rows: np.ndarray, axis: int = 0) -> tf.Tensor:
        """Rows of whichever shape, as NumPy's ``take`` gives them along the first axis."""
        return self._rows.sparse_read(tf.constant(rows))

    def stacked(self, rows: np.ndarray) -> tf.Tensor:
        """The rows ``[M, k]`` as ``[M, ..., k]``."""
        frames = self.take(rows)
        last = len(frames.shape)
        return tf.transpose(frames, [0, *range(2, last), 1])

    def numpy(self, rows: np.ndarray) -> np.ndarray:
        """The rows ``[M]``, in the machine's memory."""
        found = np.empty((len(rows), *self._rows.shape[1:]), self._rows.dtype.as_numpy_dtype)
        for part in self._parts(len(rows)):
            found[part] = self.take(rows[part]).numpy()
        return found

    def _parts(self, count: int) -> Iterator[slice]:
        step = max(1, _CHUNK // self._bytes)
        return (slice(first, first + step) for first in range(0, count, step))


def replay_device(asked: str | None, space: gymnasium.Space) -> str | None:
    """The device that a replay's images are kept on; None: the machine's memory.

    Args:
        asked: A device, None, or ``"auto"``: the GPU where TensorFlow uses one.
        space: Of the observations.

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
            f"replay_device={asked!r} is none of TensorFlow's devices, {', '.join(devices)}: name "
            'one of them, or "auto".'
        )
    return asked
