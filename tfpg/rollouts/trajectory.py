"""Trajectories: the arrays that hold experience.

Shapes: ``T`` time steps, ``N`` environments or episodes, ``B`` a flattened batch of real steps,
``A`` actions, ``D`` dimensions, ``K`` model outputs.

Guarantees for each column of a `Trajectory`, for whole episodes and fragments alike:

- Row ``t + 1`` of the observations follows the action of row ``t``, for each real step ``t``. So a
  value is bootstrapped from the next row, and nothing else needs to be carried along.
- Where an episode ends and another one follows, there is a masked row between them. It holds the
  observation that the first one ended with.
- Padding is at the end. The first row is masked, too, if the environment spent the step on a reset.
- Masked rows hold observations of the environment, but rewards and flags of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import map_arrays


class Trajectory(NamedTuple):
    """Experience, time first. A column is an episode, or a fragment of steps of an environment.

    ``terminated`` and ``truncated`` are never merged. The first says that the Markov decision
    process ended, so there is nothing to bootstrap from; the second that the episode was cut off.

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

    observations: Any  #: [T+1, N, ...]  row t+1 follows the action of row t
    actions: np.ndarray  #: [T, N, ...]  as sampled, before they are fitted to the action space
    rewards: np.ndarray  #: [T, N]  float64, 0 where masked
    terminated: np.ndarray  #: [T, N]  bool
    truncated: np.ndarray  #: [T, N]  bool
    mask: np.ndarray  #: [T, N]  float64, 1 = a real step, 0 = padding or between two episodes
    log_probs: np.ndarray  #: [T, N]  under the policy that acted


class Columns(NamedTuple):
    """Some of the columns of a trajectory."""

    indices: np.ndarray  # [n]  of the columns
    data: Trajectory


def assembled(parts: Sequence[Columns]) -> Trajectory:
    """Return the trajectory that has all the columns, padded to the longest.

    Example:
        >>> zeros = np.zeros((2, 1))
        >>> short = Trajectory(np.ones((3, 1)), *[zeros] * 6)
        >>> long = Trajectory(np.ones((4, 1)), *[np.zeros((3, 1))] * 6)
        >>> assembled([Columns(np.array([1]), short), Columns(np.array([0]), long)]).mask.shape
        (3, 2)
    """
    if len(parts) == 1:
        return parts[0].data
    length = max(len(part.data.mask) for part in parts)
    count = sum(len(part.indices) for part in parts)

    def joined(rows: int, *xs: np.ndarray, pads: bool = False) -> np.ndarray:
        out = np.zeros((rows, count, *xs[0].shape[2:]), xs[0].dtype)
        for x, part in zip(xs, parts, strict=True):
            out[: len(x), part.indices] = x
            if pads:  # zeros may be outside the observation space
                out[len(x) :, part.indices] = x[-1]
        return out

    fields: Any = Trajectory._make(zip(*(part.data for part in parts), strict=True))
    join = partial(joined, length + 1, pads=True)
    observations = map_arrays(join, *fields.observations)
    return Trajectory(observations, *(joined(length, *xs) for xs in fields[1:]))


def flatten(data: Trajectory, x: Any) -> Any:
    """Return the real steps of ``[T, N, ...]`` arrays as ``[B, ...]``, column after column."""
    real = data.mask.T > 0
    return map_arrays(lambda x: np.swapaxes(x, 0, 1)[real], x)


def played_observations(fragments: Sequence[Trajectory]) -> Any:
    """Return the observations ``[B, ...]`` of the real steps of several trajectories."""
    played = [flatten(data, map_arrays(lambda x: x[:-1], data.observations)) for data in fragments]
    return map_arrays(lambda *xs: np.concatenate(xs), *played)
