"""From trajectories to batches: advantages, returns, and the minibatches of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.ops.returns import lambda_returns, n_step_returns, standardize
from tfpg.rollouts.trajectory import Trajectory, flatten


class Batch(NamedTuple):
    """Steps that a gradient is computed from, without padding.

    Example:
        >>> import numpy as np
        >>> batch = Batch(np.zeros((5, 4)), np.zeros(5, "int64"), *np.ones((4, 5)))
        >>> len(batch.advantages)
        5
    """

    inputs: Any  # [B, ...]  model inputs, or a dict of them
    actions: Any  # [B, ...]
    advantages: Any  # [B] float32  weights of the log-probabilities
    returns: Any  # [B] float32  targets of the values
    values: Any  # [B] float32  under the model that acted, 0 without a value
    log_probs: Any  # [B] float32  under the policy that acted


def make_batch(
    data: Trajectory,
    gamma: float,
    *,
    values: np.ndarray | None = None,
    gae_lambda: float = 1.0,
    n_step: int | None = None,
    per: str | None = "batch",
    center: bool = False,
    encode: Callable[[Any], Any] = lambda observations: observations,
) -> Batch:
    """Return the real steps of a trajectory with their advantages and returns.

    Args:
        data: A trajectory, ``[T, N]``.
        gamma: Discount factor, in [0, 1].
        values: ``[T+1, N]``, the values of the observations. None: nothing is bootstrapped, and
            the advantages are the returns.
        gae_lambda: Weight of later rewards.
        n_step: Bootstrap after this many rewards instead of weighting them by ``gae_lambda``.
        per: Standardize the advantages over the ``"batch"`` or each ``"episode"``. None: do not
            standardize.
        center: Whether to subtract the mean of the advantages.
        encode: Maps observations to model inputs.

    Returns:
        A `Batch`, column by column. All but the inputs and actions are float32.

    Raises:
        FloatingPointError: Rewards or values are not finite.

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
    if not np.isfinite(returns).all():
        culprits = "rewards" if values is None or np.isfinite(values).all() else "values"
        raise FloatingPointError(
            f"The returns are not finite, because the {culprits} are not. Nothing was learned "
            "from them."
        )
    baseline = np.zeros_like(returns) if values is None else values[:-1].astype(np.float64)
    advantages = returns - baseline
    if center:
        advantages = advantages - advantages[data.mask > 0].mean()
    if per is not None:
        advantages = standardize(advantages, data.mask, per)

    def take(x: np.ndarray) -> np.ndarray:
        return flatten(data, x).astype(np.float32)

    return Batch(
        inputs=encode(flatten(data, map_arrays(lambda x: x[:-1], data.observations))),
        actions=flatten(data, data.actions),
        advantages=take(advantages),
        returns=take(returns),
        values=take(baseline),
        log_probs=take(data.log_probs),
    )


def _value_targets(
    data: Trajectory,
    gamma: float,
    values: np.ndarray | None,
    gae_lambda: float,
    n_step: int | None,
) -> np.ndarray:
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


def explained_variance(batch: Batch) -> float:
    """Return the share of the returns' variance that the values explain.

    1 means all of it and 0 none; below 0, the values are worse than a constant.

    Example:
        >>> import numpy as np
        >>> returns = np.array([1.0, 2.0, 3.0])
        >>> explained_variance(Batch(None, None, None, returns, 0.5 * returns, None))
        0.75
    """
    variance = float(np.var(batch.returns))
    if variance == 0:
        return 0.0
    return 1.0 - float(np.var(batch.returns - batch.values)) / variance


def minibatch_order(
    count: int, capacity: int, epochs: int, minibatches: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of each update, in a shape that does not depend on their number.

    Args:
        count: The number of real steps, at least 1.
        capacity: The largest possible number of steps.
        epochs: Passes over all steps, each in a new random order.
        minibatches: Minibatches per pass. Their sizes differ by at most 1.
        rng: Draws the orders. A single minibatch needs none.

    Returns:
        Indices ``[epochs * minibatches, ceil(capacity / minibatches)]`` int32, and a float32
        array that is 1 for steps and 0 for padding. Updates without steps are left out.

    Example:
        >>> order, valid = minibatch_order(5, 6, 1, 2, np.random.default_rng(0))
        >>> order.shape, valid.sum(axis=1).tolist(), sorted(order[valid > 0].tolist())
        ((2, 3), [3.0, 2.0], [0, 1, 2, 3, 4])
    """
    size = -(-capacity // minibatches)
    order = np.zeros((epochs * minibatches, size), np.int32)
    valid = np.zeros((epochs * minibatches, size), np.float32)
    for epoch in range(epochs):
        steps = np.arange(count) if minibatches == 1 else rng.permutation(count)
        for part, chosen in enumerate(np.array_split(steps, minibatches)):
            order[epoch * minibatches + part, : len(chosen)] = chosen
            valid[epoch * minibatches + part, : len(chosen)] = 1.0
    filled = valid.any(axis=1)
    return order[filled], valid[filled]


def padded(batch: Batch, capacity: int) -> Batch:
    """Return a batch with zeros appended, ``capacity`` steps in total."""
    missing = capacity - len(batch.advantages)
    if not missing:
        return batch

    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    return Batch(*(map_arrays(pad, x) for x in batch))
