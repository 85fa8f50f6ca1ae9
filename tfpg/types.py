"""The records that travel between the parts of tfpg, and the letters of their shapes.

``T`` time steps, ``N`` environments or episodes, ``B`` a flattened batch of real steps,
``A`` actions, ``D`` dimensions, ``K`` model outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def map_arrays(function: Callable[..., Any], *observations: Any) -> Any:
    """The function of an array, or of every array of a dict; several trees go side by side.

    Example:
        >>> map_arrays(len, {"position": [1, 2], "image": [3, 4]})
        {'position': 2, 'image': 2}
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(x[key] for x in observations)) for key in first}
    return function(*observations)


def batch_size(observations: Any) -> int:
    """How many observations ``[N, ...]``, or a dict of such arrays, holds.

    Example:
        >>> batch_size({"position": [1, 2], "image": [3, 4]})
        2
    """
    return len(
        next(iter(observations.values())) if isinstance(observations, dict) else observations
    )


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


class Batch(NamedTuple):
    """Real steps only, flattened: what a gradient is taken of.

    Example:
        >>> import numpy as np
        >>> batch = Batch(np.zeros((5, 4)), np.zeros(5, "int64"), *np.ones((4, 5)))
        >>> len(batch.advantages)
        5
    """

    inputs: Any  # [B, ...]  observations as the model takes them, or a dict
    actions: Any  # [B, ...]
    advantages: Any  # [B]  the weight of each log-probability
    returns: Any  # [B]  what the value is to become
    values: Any  # [B]  what the critic said when it was played, 0 without one
    log_probs: Any  # [B]  under the policy that acted


def flatten(data: Trajectory, x: Any) -> Any:
    """The real steps of ``[T, N, ...]`` arrays as ``[B, ...]``, one column after another."""
    real = data.mask.T > 0
    return map_arrays(lambda x: np.swapaxes(x, 0, 1)[real], x)
