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


def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Return the columns of all trajectories in one, padded to the longest."""
    length = max(len(data.mask) for data in trajectories)

    def padded(data: Trajectory) -> Trajectory:
        missing = length - len(data.mask)
        # Zeros may be outside the observation space.
        last = map_arrays(lambda x: np.repeat(x[-1:], missing, axis=0), data.observations)
        zeros = (np.zeros((missing, *x.shape[1:]), x.dtype) for x in data[1:])
        return _joined([data, Trajectory(last, *zeros)], axis=0)

    return _joined([padded(data) for data in trajectories], axis=1)


def _joined(trajectories: Sequence[Trajectory], axis: int) -> Trajectory:
    fields = zip(*trajectories, strict=True)
    return Trajectory(
        *(map_arrays(lambda *xs: np.concatenate(xs, axis), *field) for field in fields)
    )


def flatten(data: Trajectory, x: Any) -> Any:
    """Return the real steps of ``[T, N, ...]`` arrays as ``[B, ...]``, column after column."""
    real = data.mask.T > 0
    return map_arrays(lambda x: np.swapaxes(x, 0, 1)[real], x)


def played_observations(fragments: Sequence[Trajectory]) -> Any:
    """Return the observations ``[B, ...]`` of the real steps of several trajectories."""
    played = [flatten(data, map_arrays(lambda x: x[:-1], data.observations)) for data in fragments]
    return map_arrays(lambda *xs: np.concatenate(xs), *played)
