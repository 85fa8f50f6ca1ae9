"""Steps as they were played, put side by side as trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.models.policy import Policy
from tfpg.rollouts.finite import check_observations, check_rewards
from tfpg.rollouts.loop import Step
from tfpg.rollouts.trajectory import Trajectory


def record(steps: Iterator[Step], columns: int, policy: Policy) -> Trajectory:
    """Whole episodes, one in each of the first ``columns`` environments, padded to the longest.

    Raises:
        tfpg.errors.EnvDataError: A reward or an observation is not finite.
    """
    rows: list[tuple] = []
    finals: list[tuple[int, np.ndarray, Any]] = []
    for t, step in enumerate(steps):
        ended = step.running & (step.terminated | step.truncated)
        if ended.any():
            finals.append((t + 1, ended[:columns], map_arrays(np.array, step.following)))
        rows.append(
            (
                step.observations,
                step.decision.actions,
                step.decision.outputs,
                np.array(step.rewards),
                np.array(step.terminated),
                np.array(step.truncated),
                step.running,
            )
        )
    seen, *arrays = zip(*rows, strict=True)
    actions, outputs, rewards, terminated, truncated, running = (
        np.array(column)[:, :columns] for column in arrays
    )
    observations = map_arrays(lambda *xs: np.array([*xs, xs[-1]])[:, :columns], *seen)
    for t, ended, following in finals:

        def put(x: np.ndarray, final: np.ndarray, t: int = t, ended: np.ndarray = ended) -> None:
            x[t, ended] = final[:columns][ended]

        map_arrays(put, observations, following)
    log_probs = policy.distribution_of(outputs).log_prob(actions)
    return _checked(
        observations,
        actions,
        np.where(running, rewards, 0.0),
        terminated & running,
        truncated & running,
        running,
        log_probs,
        np.zeros(columns, int),
    )


def fragment(
    rows: list[tuple],
    finals: list[tuple[int, np.ndarray, Any]],
    last: Any,
    policy: Policy,
    begun: np.ndarray,
) -> Trajectory:
    """Steps side by side, with a masked row after each end whose last observation came apart.

    Args:
        rows: A tuple of ``[N]`` arrays for every step: observations, actions, outputs, rewards,
            terminated, truncated and whether it is a step of an episode.
        finals: The step, ``[N]`` bool and observations of ends whose last observation is not in
            the row below.
        last: Observations ``[N, ...]`` after the last step.
        policy: That acted.
        begun: ``[N]``, steps that the episodes of the first row have behind them.

    Raises:
        tfpg.errors.EnvDataError: A reward or an observation is not finite.
    """
    seen, *arrays = zip(*rows, strict=True)
    actions, outputs, rewards, terminated, truncated, real = map(np.array, arrays)
    log_probs = policy.distribution_of(outputs).log_prob(actions)
    observations = map_arrays(lambda *xs: np.array(xs), *seen, last)
    if finals:
        steps, count = rewards.shape
        breaks = np.zeros((steps + 1, count), int)
        for t, ended, _ in finals:
            breaks[t + 1] = ended
        # Where each step goes: below a row for every break above it. A break after the last step
        # needs none, for its column ends there.
        row = np.arange(steps + 1)[:, None] + breaks.cumsum(axis=0)
        length = int(row[:-1].max()) + 1
        column = np.arange(count)

        def spread(x: np.ndarray, rows: int = length, between: Any = 0) -> np.ndarray:
            out = np.empty((rows, *x.shape[1:]), x.dtype)
            out[:] = between
            keep = row[: len(x)] < rows
            out[row[: len(x)][keep], np.broadcast_to(column, keep.shape)[keep]] = x[keep]
            return out

        actions, rewards, terminated, truncated, real, log_probs = map(
            spread, (actions, rewards, terminated, truncated, real, log_probs)
        )
        # Zeros may be no observation.
        observations = map_arrays(lambda x: spread(x, length + 1, x[0]), observations)
        for t, ended, following in finals:

            def put(x: np.ndarray, final: np.ndarray, t: int = t, e: np.ndarray = ended) -> None:
                x[row[t][e] + 1, column[e]] = final[e]

            map_arrays(put, observations, following)
    rewards = np.where(real, rewards, 0.0)
    return _checked(observations, actions, rewards, terminated, truncated, real, log_probs, begun)


def _checked(
    observations: Any,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    real: np.ndarray,
    log_probs: np.ndarray,
    steps: np.ndarray,
) -> Trajectory:
    """The trajectory of these arrays, whose rewards and observations are finite.

    ``steps`` ``[N]`` are the steps that the episodes of the first row have behind them.
    """

    def finite(x: np.ndarray) -> bool:
        return x.dtype.kind != "f" or bool(np.isfinite(x).all())

    parts = observations.values() if isinstance(observations, dict) else [observations]
    if not all(map(finite, [rewards, *parts])):
        for t in range(len(real)):
            check_observations(map_arrays(lambda x, t=t: x[t], observations), real[t], steps)
            check_rewards(rewards[t], real[t], steps)
            steps = np.where(real[t], steps + 1, 0)
            check_observations(map_arrays(lambda x, t=t: x[t + 1], observations), real[t], steps)
    rewards = rewards.astype(np.float64)
    mask = real.astype(np.float64)
    return Trajectory(observations, actions, rewards, terminated, truncated, mask, log_probs)


def some_of(data: Trajectory, columns: np.ndarray) -> Trajectory:
    """Whole episodes, these columns, padded to the longest of them."""
    rows = int(data.mask[:, columns].sum(axis=0).max(initial=0))
    observations = map_arrays(lambda x: x[: rows + 1, columns], data.observations)
    return Trajectory(observations, *(x[:rows, columns] for x in data[1:]))


def side_by_side(rounds: Sequence[Trajectory]) -> Trajectory:
    """The columns of all trajectories in one, padded to the longest."""

    def join(*xs: np.ndarray) -> np.ndarray:
        rows = max(map(len, xs))
        padded = [np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)]) for x in xs]
        return np.concatenate(padded, axis=1)

    return Trajectory(*(map_arrays(join, *field) for field in zip(*rounds, strict=True)))
