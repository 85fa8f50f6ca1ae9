"""Assembling the loop's steps into a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.core.arrays import any_of, assign, map_arrays
from tfpg.models.policy import Actor, Decision
from tfpg.rollouts.finite import check_observations, check_rewards, is_finite
from tfpg.rollouts.loop import Step
from tfpg.rollouts.trajectory import Trajectory


def record(
    steps: Sequence[Step],
    actor: Actor,
    *,
    num_episodes: int | None = None,
    num_steps: int = 0,
    log_probs: bool = True,
) -> Trajectory:
    """Return successive steps as a trajectory.

    Args:
        steps: The steps, at least one. Those of an episode whose environment failed are left out;
            if it began before the first of them, the first row of its column is masked.
        actor: The actor that acted.
        num_episodes: Return only the first ``num_episodes`` columns. None: all.
        num_steps: The minimum T, to which the trajectory is padded.
        log_probs: Whether log-probabilities are needed. They are 0 otherwise.

    Raises:
        tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
    """
    if steps[0].decision.memory is not None:
        steps = [_with_memory(step) for step in steps]
    fields: Any = Step._make(zip(*steps, strict=True))
    decisions: Any = Decision._make(zip(*fields.decision, strict=True))

    def stacked(*xs: np.ndarray) -> np.ndarray:
        array = np.array(xs)
        return array if num_episodes is None else array[:, :num_episodes]

    actions, rewards = stacked(*decisions.actions), stacked(*fields.rewards)
    if log_probs:
        taken = actor.distribution_of(stacked(*decisions.outputs)).log_prob(actions)
    else:
        taken = np.zeros(rewards.shape, np.float32)
    observations = map_arrays(stacked, *fields.observations, fields.following[-1])
    real, ended, failed = (stacked(*x) for x in (fields.real, fields.ended, fields.failed))
    terminated, truncated = stacked(*fields.terminated), stacked(*fields.truncated)
    arrays = [actions, rewards, terminated, truncated, real.astype(np.float64), taken]
    data = Trajectory(observations, *arrays)
    # Environments that use a separate step to reset already have the required gaps.
    complete = np.array_equal(real[1:], ~ended[:-1]) and not any_of(failed)
    if num_episodes is not None:  # the others reset nothing, or at once
        complete = complete and not any_of(ended[:-1])
    if len(steps) < num_steps or not complete:
        lengths = stacked(*fields.lengths)
        data = _arranged(data, fields.following, ended, failed, lengths, num_steps)
    if not (is_finite(data.rewards) and is_finite(data.observations)):
        _check_finite(steps)
    return data


def _with_memory(step: Step) -> Step:
    """A step whose observations have the states of a recurrent policy."""
    from tfpg.models.recurrent import joined, memory_after

    memory, following = step.decision.memory, memory_after(step.decision)
    return step._replace(
        observations=joined(step.observations, memory or {}),
        following=joined(step.following, following),
    )


def _arranged(
    data: Trajectory,
    following: Sequence[Any],
    ended: np.ndarray,
    failed: np.ndarray,
    lengths: np.ndarray,
    num_steps: int,
) -> Trajectory:
    """Put rows between episodes, leave out the steps of those that failed, and pad."""
    real, broken = _kept(data.mask > 0, failed, lengths)
    observations = data.observations
    kept = real.astype(np.float64)
    arrays = [
        *(data.actions, np.where(real, data.rewards, 0.0)),
        *(data.terminated & real, data.truncated & real, kept, data.log_probs),
    ]
    rows = arrange(real, ended, broken)
    times, columns = np.nonzero(real)
    places = rows[times, columns]
    steps = len(real)
    length = max(places.max(initial=-1) + 1, num_steps)
    if length != steps or (places != times).any():

        def moved(x: np.ndarray, length: int = length, fill: Any = 0) -> np.ndarray:
            out = np.empty((length, *x.shape[1:]), x.dtype)
            out[:] = fill
            out[places, columns] = x[times, columns]
            return out

        arrays = [moved(x) for x in arrays]
        # Zeros may be outside the observation space.
        observations = map_arrays(lambda x: moved(x, length + 1, x[0]), observations)
        # The row after the last step of each column is still unset.
        n = np.flatnonzero(real.any(axis=0))
        ended[steps - 1 - real[::-1, n].argmax(axis=0), n] = True
    for t in np.flatnonzero(ended.any(axis=1)).tolist():
        n = np.flatnonzero(ended[t])
        last = map_arrays(lambda x, n=n: x[n], following[t])
        assign(observations, (rows[t, n] + 1, n), last)
    return Trajectory(observations, *arrays)


def arrange(real: np.ndarray, ended: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Return the row of a trajectory that each real step goes to.

    Real steps fill consecutive rows, with an extra row after the end of each episode.

    Args:
        real: ``[T, N]`` bool, the steps to keep.
        ended: ``[T, N]`` bool, the steps that ended an episode.
        broken: ``[N]`` bool, the columns that begin with a masked row.

    Returns:
        ``[T, N]`` int, meaningful only where a step is real.

    Example:
        >>> real, ended = np.array([[1, 1, 0, 1]]).T > 0, np.array([[0, 1, 0, 0]]).T > 0
        >>> arrange(real, ended, np.array([False])).ravel().tolist()
        [0, 1, 2, 3]
    """
    rows = real.cumsum(axis=0) - 1 + broken
    rows[1:] += ended[:-1].cumsum(axis=0)
    return rows


def _kept(
    real: np.ndarray, failed: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The real steps ``[T, N]`` of episodes that did not fail, and which columns begin broken."""
    real, broken = real.copy(), np.zeros(real.shape[1], bool)
    for t, n in zip(*np.nonzero(failed), strict=True):
        first = t - lengths[t, n]
        broken[n] |= first < 0
        real[max(first, 0) : t, n] = False
    return real, broken


def _check_finite(steps: Sequence[Step]) -> None:
    for step in steps:
        check_observations(step.observations, step.real, step.lengths - 1)
        check_rewards(step.rewards, step.real, step.lengths - 1)
        check_observations(step.following, step.real, step.lengths)
