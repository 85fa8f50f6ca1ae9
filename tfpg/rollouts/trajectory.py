"""The record of what was played, and the letters of its shapes.

``T`` time steps, ``N`` environments or episodes, ``B`` a flattened batch of real steps,
``A`` actions, ``D`` dimensions, ``K`` model outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import map_arrays


class Trajectory(NamedTuple):
    """Experience, time first. A column is one episode, padded at its end where ``mask`` is 0.

    ``terminated`` and ``truncated`` are never merged: the first says that the Markov decision
    process ended and there is nothing to bootstrap from, the second that somebody stopped it.

    Example:
        >>> import numpy as np
        >>> steps, episodes = 3, 2
        >>> trajectory = Trajectory(
        ...     observations=np.zeros((steps + 1, episodes, 4), "float32"),
        ...     actions=np.zeros((steps, episodes), "int64"),
        ...     rewards=np.ones((steps, episodes)),
        ...     terminated=np.array([[False, False], [False, True], [True, False]]),
        ...     truncated=np.zeros((steps, episodes), bool),
        ...     mask=np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]),
        ...     log_probs=np.zeros((steps, episodes), "float32"),
        ... )
        >>> int(trajectory.mask.sum())
        5
    """

    observations: np.ndarray  # [T+1, N, ...]  row t+1 follows the action of row t
    actions: np.ndarray  # [T, N, ...]  as sampled, before they are fitted to the action space
    rewards: np.ndarray  # [T, N]  float64, 0 where padded
    terminated: np.ndarray  # [T, N]  bool
    truncated: np.ndarray  # [T, N]  bool
    mask: np.ndarray  # [T, N]  float64, 1 = a real step, 0 = padding
    log_probs: np.ndarray  # [T, N]  under the policy that acted


def flatten(data: Trajectory, x: Any) -> Any:
    """The real steps of ``[T, N, ...]`` arrays as ``[B, ...]``, one column after another."""
    real = data.mask.T > 0
    return map_arrays(lambda x: np.swapaxes(x, 0, 1)[real], x)


def played_observations(fragments: Sequence[Trajectory]) -> Any:
    """The observations ``[B, ...]`` of the real steps of several trajectories."""
    played = [flatten(data, map_arrays(lambda x: x[:-1], data.observations)) for data in fragments]
    return map_arrays(lambda *xs: np.concatenate(xs), *played)
