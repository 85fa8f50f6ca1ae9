"""From trajectories to batches: returns, advantages and their standardization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.ops.returns import lambda_returns, n_step_returns, standardize
from tfpg.rollouts.trajectory import Trajectory, flatten


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


STANDARDIZE = ("batch", "episode", None)


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
    """The real steps of a trajectory with their advantages and returns.

    Args:
        data: A trajectory, ``[T, N]``.
        gamma: Discount factor, in [0, 1].
        values: ``[T+1, N]``, of the observations. None: there is no critic, nothing is
            bootstrapped, and the advantages are the returns to go.
        gae_lambda: Of the lambda-returns.
        n_step: Bootstrap after so many rewards, instead of by ``gae_lambda``.
        per: Standardize the advantages over the ``"batch"``, each ``"episode"`` or not (None).
        center: Subtract the mean of the advantages.
        encode: From observations to model inputs.

    Returns:
        A `Batch`, one column after another.

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
    returns = _returns(data, gamma, values, gae_lambda, n_step)
    if not np.isfinite(returns).all():
        what = "values" if values is not None and not np.isfinite(values).all() else "rewards"
        raise FloatingPointError(
            f"The returns are not finite, because {what} are not. Nothing was learned from them."
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


def episode_ends(data: Trajectory) -> np.ndarray:
    """``[B]``, true at the last real step of every column, in the order of a batch."""
    real = data.mask.T > 0
    last = real & ~np.concatenate([real[:, 1:], np.zeros_like(real[:, :1])], axis=1)
    return last[real]


def explained_variance(batch: Batch) -> float:
    """How much of the returns' variance the values explain: 1 all, 0 none, below 0 worse than none.

    Example:
        >>> import numpy as np
        >>> returns = np.array([1.0, 2.0, 3.0])
        >>> explained_variance(Batch(None, None, None, returns, 0.5 * returns, None))
        0.75
    """
    spread = float(np.var(batch.returns))
    return 1.0 - float(np.var(batch.returns - batch.values)) / spread if spread > 0 else 0.0


def _returns(
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


def minibatch_order(
    count: int, capacity: int, epochs: int, minibatches: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which steps each update sees, in a shape that does not depend on how many there are.

    Args:
        count: Real steps, at least 1.
        capacity: The most there may be.
        epochs: Passes over all steps, each in an order of its own.
        minibatches: Parts of a pass, of sizes that differ by one at most.
        rng: Of the orders. A single minibatch needs none.

    Returns:
        Indices ``[epochs * minibatches, ceil(capacity / minibatches)]`` int32, and 1 where one
        counts, else 0, float32.

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
    # With fewer steps than minibatches some have none, and no mean.
    filled = valid.any(axis=1)
    return order[filled], valid[filled]


def padded(batch: Batch, capacity: int) -> Batch:
    """A batch with zeros behind it, up to so many steps."""
    missing = capacity - len(batch.advantages)
    if not missing:
        return batch

    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    return Batch(*(map_arrays(pad, x) for x in batch))
