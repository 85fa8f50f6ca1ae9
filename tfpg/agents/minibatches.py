"""From trajectories to batches: advantages, returns, and the minibatches of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import tf
from tfpg.ops import numeric as xp
from tfpg.ops.returns import lambda_returns, minus_mean, n_step_returns, standardize
from tfpg.rollouts.trajectory import Trajectory, flatten

NOT_FINITE = "The returns are not finite, because the {} are not. Nothing was learned from them."


class Batch(NamedTuple):
    """Steps that a gradient is computed from.

    Example:
        >>> import numpy as np
        >>> batch = Batch(np.zeros((5, 4)), np.zeros(5, "int64"), *np.ones((4, 5)))
        >>> len(batch.advantages)
        5
    """

    inputs: Any  #: [B, ...]  model inputs, or a dict of them
    actions: Any  #: [B, ...]
    advantages: Any  #: [B] float32  weights of the log-probabilities
    returns: Any  #: [B] float32  targets of the values
    values: Any  #: [B] float32  under the model that acted, or another baseline, or 0
    log_probs: Any  #: [B] float32  under the policy that acted


def make_batch(
    data: Trajectory,
    gamma: float,
    *,
    values: Any = None,
    gae_lambda: float = 1.0,
    n_step: int | None = None,
    per: str | None = "batch",
    baseline: str | None = None,
    encode: Callable[[Any], Any] = lambda observations: observations,
) -> Batch:
    """Return the steps of a trajectory with their advantages and returns.

    Args:
        data: A trajectory, ``[T, N]``, of arrays or of tensors.
        gamma: Discount factor, in [0, 1].
        values: ``[T+1, N]``, the values of the observations. None: nothing is bootstrapped, and
            ``baseline`` is subtracted from the returns instead.
        gae_lambda: Lambda of generalized advantage estimation, in [0, 1].
        n_step: Bootstrap after this many rewards instead of weighting them by ``gae_lambda``.
        per: Standardize the advantages, or the returns if ``baseline`` is ``"step"``, over the
            ``"batch"`` or each ``"episode"``. None: do not standardize.
        baseline: Without ``values``, what to subtract from the returns: their ``"mean"``, or their
            mean over the episodes at the same ``"step"``, subtracted after standardizing. None, or
            ``"step"`` with a single episode: nothing.
        encode: Maps observations to model inputs.

    Returns:
        A `Batch`. For arrays, it holds the real steps, column by column, in float32 (except the
        inputs and actions). For tensors, it holds all ``T * N`` steps, row by row; the advantages
        and returns of masked steps are 0.

    Raises:
        FloatingPointError: Rewards or values in arrays are not finite.

    Example:
        >>> import numpy as np
        >>> data = Trajectory(
        ...     observations=np.zeros((4, 2, 1)),
        ...     actions=np.zeros((3, 2), int),
        ...     rewards=np.array([[10.0, 10.0], [0.0, 20.0], [-50.0, 0.0]]),
        ...     terminated=np.array([[0, 0], [0, 1], [1, 0]]),
        ...     truncated=np.zeros((3, 2)),
        ...     mask=np.array([[1, 1], [1, 1], [1, 0]]),
        ...     log_probs=np.zeros((3, 2)),
        ... )
        >>> make_batch(data, gamma=0.8).advantages.round(4)
        array([-0.2844, -0.866 , -1.1891,  1.2667,  1.0728], dtype=float32)
    """
    returns = _value_targets(data, gamma, values, gae_lambda, n_step)
    if xp.is_array(returns) and not np.isfinite(returns).all():
        culprits = "rewards" if values is None or np.isfinite(values).all() else "values"
        raise FloatingPointError(NOT_FINITE.format(culprits))
    real = xp.like(data.mask, returns)
    compared = values is None and baseline == "step" and returns.shape[1] > 1
    if values is not None:
        expected = xp.like(values[:-1], returns)
        advantages = real * (returns - expected)
    elif baseline == "mean" or compared:
        advantages = minus_mean(returns, real, axis=1 if compared else None)
        expected = returns - advantages
    else:
        expected, advantages = xp.zeros_like(returns), real * returns
    if compared and per is not None:
        # In units of the returns' spread, so that advantages shrink as episodes become alike.
        advantages = minus_mean(standardize(returns, data.mask, per), real, axis=1)
    elif per is not None:
        advantages = standardize(advantages, data.mask, per)

    def take(x: Any) -> Any:
        return steps_of(data, x).astype(np.float32) if xp.is_array(x) else steps_of(data, x)

    return Batch(
        inputs=encode(steps_of(data, map_arrays(lambda x: x[:-1], data.observations))),
        actions=steps_of(data, data.actions),
        advantages=take(advantages),
        returns=take(returns),
        values=take(expected),
        log_probs=take(data.log_probs),
    )


def _value_targets(
    data: Trajectory,
    gamma: float,
    values: Any,
    gae_lambda: float,
    n_step: int | None,
) -> Any:
    ends: Any = {"terminated": data.terminated, "truncated": data.truncated, "mask": data.mask}
    if values is None:
        return lambda_returns(data.rewards, gamma, **ends)
    if n_step is not None:
        return n_step_returns(data.rewards, gamma, values[1:], n=n_step, **ends)
    return lambda_returns(data.rewards, gamma, values[1:], gae_lambda=gae_lambda, **ends)


def episode_ends(data: Trajectory) -> np.ndarray:
    """Return ``[B]`` bool, true at the last real step of every column, in the order of a batch."""
    real = data.mask.T > 0
    last = real & ~np.concatenate([real[:, 1:], np.zeros_like(real[:, :1])], axis=1)
    return last[real]


def steps_of(data: Trajectory, x: Any) -> Any:
    """Return the real steps of arrays ``[T, N, ...]``, or all steps ``[T * N, ...]`` of tensors."""
    if xp.is_array(data.mask):
        return flatten(data, x)
    return map_arrays(lambda x: tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]]), x)


def explained_variance(returns: Any, values: Any, mask: Any) -> Any:
    """Return the share of the returns' variance that the values explain.

    1 means all of it and 0 none; below 0, the values are worse than a constant.

    Args:
        returns: Array or tensor of any shape.
        values: The same shape.
        mask: The same shape, 1 for a real step and 0 for padding.

    Example:
        >>> import numpy as np
        >>> returns = np.array([1.0, 2.0, 3.0])
        >>> float(explained_variance(returns, 0.5 * returns, np.ones(3)))
        0.75
    """

    def variance(x: Any) -> Any:
        centered = mask * (x - xp.total(mask * x) / (xp.total(mask) + 1e-30))
        return xp.total(centered * centered)[(0,) * len(x.shape)]

    total = variance(returns)
    share = 1.0 - variance(returns - values) / xp.where(total > 0, total, xp.ones_like(total))
    return xp.where(total > 0, share, xp.zeros_like(share))


def without_gaps(
    data: Trajectory, num_steps: int, gamma: float, values: Callable[[Any], np.ndarray]
) -> Trajectory:
    """Return a rollout without the rows between episodes, so that its length does not vary.

    The row after a truncated episode holds the observation to bootstrap from. Its discounted value
    is added to the last reward instead, and that step is marked as terminated. The returns do not
    change.

    Args:
        data: Arrays ``[T, N]``.
        num_steps: Steps per environment. A rollout of exactly this length is returned unchanged.
        gamma: Discount factor.
        values: Returns the values ``[B]`` of observations ``[B, ...]``.

    Returns:
        A `Trajectory` of ``num_steps`` rows, or more if a column has more real steps.

    Example:
        >>> flags = np.zeros((3, 1), bool)
        >>> cut = np.array([[True], [False], [False]])
        >>> mask, ones = np.array([[1.0], [0.0], [1.0]]), np.ones((3, 1))
        >>> data = Trajectory(np.arange(4.0)[:, None], ones, ones, flags, cut, mask, ones)
        >>> data = without_gaps(data, 2, 0.5, lambda observations: 10 * observations)
        >>> data.rewards.ravel(), data.terminated.ravel(), data.observations.ravel()
        (array([6., 1.]), array([ True, False]), array([0., 2., 3.]))
    """
    if len(data.mask) == num_steps:
        return data
    real = data.mask > 0
    times, columns = np.nonzero(real)
    rows = (real.cumsum(axis=0) - 1)[times, columns]
    length = max(num_steps, rows.max(initial=-1) + 1)

    def moved(x: np.ndarray) -> np.ndarray:
        out = np.zeros((length, *x.shape[1:]), x.dtype)
        out[rows, columns] = x[times, columns]
        return out

    def moved_observations(x: np.ndarray) -> np.ndarray:
        out = np.empty((length + 1, *x.shape[1:]), x.dtype)
        out[:] = x[0]  # zeros may be outside the observation space
        out[rows + 1, columns] = x[times + 1, columns]
        out[rows, columns] = x[times, columns]
        return out

    t, n = np.nonzero(data.truncated & ~data.terminated & real)
    if len(t):
        last = map_arrays(lambda x: x[t + 1, n], data.observations)
        rewards, terminated = data.rewards.copy(), data.terminated.copy()
        rewards[t, n] += gamma * values(last)
        terminated[t, n] = True
        data = data._replace(rewards=rewards, terminated=terminated)
    arrays = (moved(x) for x in data[1:])
    return Trajectory(map_arrays(moved_observations, data.observations), *arrays)


def minibatch_order(
    steps: np.ndarray, capacity: int, epochs: int, minibatches: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the steps of each update, in a shape that does not depend on their number.

    Args:
        steps: The indices of the real steps, at least one.
        capacity: The largest possible number of steps.
        epochs: Passes over all steps, each in a new random order.
        minibatches: Minibatches per pass. Their sizes differ by at most 1.
        rng: Draws the orders.

    Returns:
        Indices ``[epochs * minibatches, ceil(capacity / minibatches)]`` int32, -1 where there is
        no step. Updates without steps are left out.

    Example:
        >>> order = minibatch_order(np.arange(5), 6, 1, 2, np.random.default_rng(0))
        >>> order.shape, sorted(order.ravel().tolist())
        ((2, 3), [-1, 0, 1, 2, 3, 4])
    """
    order = np.full((epochs * minibatches, -(-capacity // minibatches)), -1, np.int32)
    for epoch in range(epochs):
        for part, chosen in enumerate(np.array_split(rng.permutation(steps), minibatches)):
            order[epoch * minibatches + part, : len(chosen)] = chosen
    return order[order[:, 0] >= 0]


def sequence_order(
    shape: tuple[int, ...],
    length: int,
    epochs: int,
    minibatches: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the steps of each update in sequences of successive steps, for recurrent policies.

    Args:
        shape: ``(T, N)``, the numbers of steps and environments of a rollout. T is a multiple of
            ``length``.
        length: L, the number of steps of a sequence.
        epochs: See `minibatch_order`.
        minibatches: See `minibatch_order`. It counts sequences.
        rng: See `minibatch_order`.

    Returns:
        Indices into ``[T * N]`` steps, row by row, as those of `minibatch_order`.

    Raises:
        ValueError: T is not a multiple of ``length``.

    Example:
        >>> sequence_order((4, 2), 2, 1, 1, np.random.default_rng(1)).tolist()
        [[0, 2, 1, 3, 4, 6, 5, 7]]
    """
    steps, envs = shape
    if steps % length:
        raise ValueError(
            f"A rollout of {steps} steps cannot be cut into sequences of {length}: their number "
            "must be a multiple of sequence_length."
        )
    starts = envs * np.arange(0, steps, length)[:, None] + np.arange(envs)
    order = minibatch_order(starts.ravel(), starts.size, epochs, minibatches, rng)[..., None]
    sequences = np.where(order < 0, -1, order + envs * np.arange(length))
    return sequences.reshape(len(order), -1).astype(np.int32)
