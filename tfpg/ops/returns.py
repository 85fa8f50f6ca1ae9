"""Returns of steps and their standardization. Masked steps never count.

One recursion computes them all::

    G_t = r_t + gamma (1 - terminated_t) ((1 - lambda_t) V_{t+1} + lambda_t G_{t+1})

``lambda_t`` is ``gae_lambda``, but 0 at the last step that counts: where an episode ended or was
cut off, or a masked row follows. Only termination stops the bootstrap.

No gradient flows through returns. These functions compute in float64 for arrays and lists, and in
the tensors' dtype for tensors. Over a thousand steps, returns and z-scores in float32 differ from
those in float64 by less than 1e-5 of the largest value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.core.options import checked, count, fraction
from tfpg.ops import numeric as xp

_TINY = 1e-30
_ROUNDING = 100  # of values that are meant to be equal, in units of eps

Array = Any  # an array, a tensor or a sequence of numbers


def discounted_returns(
    rewards: Array,
    gamma: float,
    *,
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Return the discounted sum of the rewards from each step to the end of its episode.

    ``G_t = r_t + gamma G_{t+1}``: `lambda_returns` with ``gae_lambda=1`` and no values. Without
    values, a time limit counts as an end, so the returns near the end of a truncated episode are
    too small.

    Args:
        rewards: ``[T]`` or ``[T, N]``, of any number type.
        gamma: Discount factor, in [0, 1].
        terminated: See `lambda_returns`.
        truncated: See `lambda_returns`.
        mask: See `lambda_returns`.

    Returns:
        float64 array in the shape of ``rewards``, 0 where masked.

    Raises:
        ValueError: ``gamma`` is outside [0, 1], or the shapes differ.

    Source:
        Williams, "Simple statistical gradient-following algorithms for connectionist
        reinforcement learning", 1992, https://doi.org/10.1007/BF00992696; reward to go in
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, section 13.3.

    Example:
        >>> discounted_returns([10, 0, -50], gamma=0.8)
        array([-22., -40., -50.])
    """
    return lambda_returns(rewards, gamma, terminated=terminated, truncated=truncated, mask=mask)


def lambda_returns(
    rewards: Array,
    gamma: float,
    next_values: Array | None = None,
    *,
    gae_lambda: float = 1.0,
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Return the lambda-returns: the recursion at the top of this module.

    Minus the values ``V_t``, they are the generalized advantages
    ``sum_k (gamma lambda)^k delta_{t+k}``, with ``delta_t = r_t + gamma V_{t+1} - V_t``.

    Args:
        rewards: ``[T]`` or ``[T, N]``, of any number type.
        gamma: Discount factor, in [0, 1].
        next_values: The same shape, the value ``V_{t+1}`` of the observation that each step led to.
            Where an episode was cut off, that is its last observation. None: zeros.
        gae_lambda: In [0, 1]. 1: all rewards to come, then the value where they stop. 0: the
            one-step target of temporal-difference learning.
        terminated: The same shape, true where the Markov decision process ended. None: nowhere.
        truncated: The same shape, true where the episode was cut off. None: nowhere.
        mask: The same shape, 1 for a real step and 0 for padding. None: all are real.

    Returns:
        float64 array in the shape of ``rewards``, 0 where masked.

    Raises:
        ValueError: ``gamma`` or ``gae_lambda`` is outside [0, 1], or the shapes differ.

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, equation 12.18; advantages:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016, https://arxiv.org/abs/1506.02438.

    Example:
        >>> lambda_returns([1, 1], 0.5, next_values=[2, 8], truncated=[0, 1], gae_lambda=0.5)
        array([2.75, 5.  ])
    """
    rewards, values, discounts, continues, real = _prepared(
        rewards, gamma, next_values, terminated, truncated, mask
    )
    weights = checked("gae_lambda", gae_lambda, fraction) * continues
    returns = rewards + discounts * (1 - weights) * values
    return _solved(returns, discounts * weights) * real


def running_returns(
    rewards: Array,
    gamma: float,
    before: Array,
    *,
    ended: Array | None = None,
    mask: Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the discounted sum of the rewards from the start of each episode to each step.

    ``R_t = gamma R_{t-1} + r_t``, and 0 before the first step of an episode.

    Args:
        rewards: ``[T, N]``, of any number type.
        gamma: Discount factor, in [0, 1].
        before: ``[N]``, the sums up to the first step, 0 where an episode begins there.
        ended: ``[T, N]``, true where an episode ended or was cut off. None: nowhere.
        mask: ``[T, N]``, 1 for a real step and 0 for any other. None: all are real.

    Returns:
        The sums ``[T, N]`` in float64, unchanged by masked steps, and those to begin the next steps
        with, ``[N]``.

    Raises:
        ValueError: ``gamma`` is outside [0, 1], or the shapes differ.

    Source:
        Engstrom et al., "Implementation Matters in Deep Policy Gradients", 2020,
        https://arxiv.org/abs/2005.12729, appendix A.2.

    Example:
        >>> sums, after = running_returns([[1], [1], [1]], 0.5, [4], ended=[[0], [1], [0]])
        >>> sums.ravel(), after
        (array([3. , 2.5, 1. ]), array([1.]))
    """
    rewards = _numbers(rewards)
    real = _real_steps(mask, rewards)
    over = xp.zeros_like(real) if ended is None else _shaped("ended", ended, rewards)
    before, rewards = xp.like(before, rewards), xp.where(real > 0, rewards, xp.zeros_like(real))
    slopes = 1 + (checked("gamma", gamma, fraction) - 1) * real
    slopes = slopes * (1 - xp.shifted(over[::-1], 1)[::-1])
    # The last row comes first, as in returns, and those before the first step are a row, too.
    sums = _solved(
        xp.concatenate([rewards[::-1], before[None]], axis=0),
        xp.concatenate([slopes[::-1], xp.zeros_like(before)[None]], axis=0),
    )[::-1][1:]
    return sums, sums[-1] * (1 - over[-1])


def n_step_returns(
    rewards: Array,
    gamma: float,
    next_values: Array | None = None,
    *,
    n: int,
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Return the discounted sum of at most ``n`` rewards, plus the value of where they stop.

    ``G_t = r_t + gamma r_{t+1} + ... + gamma^n V_{t+n}``, shorter where an episode ends, is cut off
    or the data stops. With ``n=1`` this is `lambda_returns` with ``gae_lambda=0``, and from
    ``n=T`` on that with ``gae_lambda=1``.

    Args:
        rewards: ``[T]`` or ``[T, N]``, of any number type.
        gamma: Discount factor, in [0, 1].
        next_values: See `lambda_returns`.
        n: Number of rewards, at least 1.
        terminated: See `lambda_returns`.
        truncated: See `lambda_returns`.
        mask: See `lambda_returns`.

    Returns:
        float64 array in the shape of ``rewards``, 0 where masked.

    Raises:
        ValueError: ``n`` is below 1, ``gamma`` outside [0, 1], or the shapes differ.

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, equation 7.1.

    Example:
        >>> n_step_returns([1, 1, 1, 1], 0.5, next_values=[0, 0, 0, 8], n=2)
        array([1.5, 1.5, 3.5, 5. ])
    """
    n = checked("n", n, count)
    rewards, values, discounts, continues, real = _prepared(
        rewards, gamma, next_values, terminated, truncated, mask
    )
    returns = rewards + discounts * values
    for _ in range(min(n, rewards.shape[0]) - 1):
        following = xp.where(continues > 0, xp.shifted(returns, 1), values)
        returns = rewards + discounts * following
    return returns * real


def n_step_transitions(
    rewards: np.ndarray, gamma: float, terminated: np.ndarray, truncated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Combine up to ``n`` successive steps into one: rewards, discount and number of steps.

    ``R = r_0 + gamma r_1 + ... + gamma^(m-1) r_(m-1)``. The target is R plus the value after step m
    times the discount, which is ``gamma^m``, or 0 if step m terminated. m is n, or less where an
    episode ends or is cut off before.

    Args:
        rewards: ``[n, B]``, n successive rewards for each of B transitions. What comes after an
            end may belong to another episode.
        gamma: Discount factor, in [0, 1].
        terminated: ``[n, B]`` bool, true where the Markov decision process ended.
        truncated: ``[n, B]`` bool, true where the episode was cut off.

    Returns:
        ``R`` and the discounts, ``[B]`` float64, and ``m``, ``[B]`` int64.

    Raises:
        ValueError: ``gamma`` is outside [0, 1].

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, section 7.1; for Q-learning:
        Hessel et al., "Rainbow", 2018, https://arxiv.org/abs/1710.02298.

    Example:
        >>> rewards = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
        >>> terminated = np.array([[False, True, False], [False, False, False]])
        >>> truncated = np.array([[False, False, True], [False, False, False]])
        >>> n_step_transitions(rewards, 0.5, terminated, truncated)
        (array([2., 1., 1.]), array([0.25, 0.  , 0.5 ]), array([2, 1, 1]))
    """
    checked("gamma", gamma, fraction)
    returns, discounts = np.zeros(rewards.shape[1:]), np.ones(rewards.shape[1:])
    lengths = np.zeros(rewards.shape[1:], np.int64)
    running = np.ones(rewards.shape[1:], bool)
    for reward, terminal, cut in zip(rewards, terminated, truncated, strict=True):
        returns += np.where(running, discounts * reward, 0.0)
        discounts *= np.where(running, gamma * ~terminal, 1.0)
        lengths += running
        running &= ~(terminal | cut)
    return returns, discounts, lengths


def standardize(values: Array, mask: Array | None = None, per: str = "batch") -> np.ndarray:
    """Return z-scores over the real steps: ``(values - mean) / std``, with the population std.

    Args:
        values: Array of any shape.
        mask: The same shape, 1 for a real step and 0 for padding. None: all are real.
        per: ``"batch"``: over all steps; ``"episode"``: over each column ``[T, N]`` by itself.

    Returns:
        float64 array in the shape of ``values``, 0 where masked. If all real values are equal,
        there is no scale, and the result is all zeros.

    Raises:
        ValueError: The shapes differ, or ``per`` is neither.

    Source:
        The usual variance reduction for REINFORCE; see Géron, "Hands-On Machine Learning",
        3rd edition, 2022, chapter 18.

    Example:
        >>> standardize([1.0, 2.0, 3.0, 99.0], mask=[1, 1, 1, 0]).round(4)
        array([-1.2247,  0.    ,  1.2247,  0.    ])
    """
    if per not in ("batch", "episode"):
        raise ValueError(f'per must be "batch" or "episode", but it is {per!r}.')
    values = _numbers(values)
    real = _real_steps(mask, values)
    axis = 0 if per == "episode" else None
    # Masked rows may hold anything, NaN included.
    values = xp.where(real > 0, values, xp.zeros_like(real))
    centered = minus_mean(values, real, axis)
    std = xp.sqrt(xp.total(centered * centered, axis) / (xp.total(real, axis) + _TINY))
    # Equal values leave a rounding error, not an exact zero.
    eps = np.finfo(values.dtype if xp.is_array(values) else np.float32).eps
    is_spread = std > _ROUNDING * eps * xp.largest(abs(values), axis)
    counts = is_spread & (real > 0)
    return xp.where(counts, centered / (std + _TINY), xp.zeros_like(centered))


def minus_mean(values: Array, mask: Array, axis: int | None = None) -> Array:
    """Subtract the mean of the real steps, along an axis or overall.

    Args:
        values: ``[T, N]`` or of any other shape, an array or a tensor of finite numbers.
        mask: The same shape, 1 for a real step and 0 for padding.
        axis: The axis to average over: 0 for each column, 1 for each row. None: over all.

    Returns:
        The differences, in the shape of ``values``. Where all real values are equal, they are
        exactly 0, and so is padding.

    Example:
        >>> minus_mean(np.array([[1.0, 3.0], [0.1, 9.0]]), np.array([[1, 1], [1, 0]]), axis=1)
        array([[-1.,  1.],
               [ 0.,  0.]])
    """
    # Relative to one of them, equal values are exactly 0.
    relative = mask * (values - xp.largest(xp.where(mask > 0, values, 0 * mask + xp.LOWEST), axis))
    return mask * (relative - xp.total(relative, axis) / (xp.total(mask, axis) + _TINY))


def _solved(returns: Array, slopes: Array) -> Array:
    """``G_t = returns_t + slopes_t G_{t+1}``. Every pass doubles the steps that the sums reach."""
    reach = 1
    while reach < returns.shape[0]:
        returns = returns + slopes * xp.shifted(returns, reach)
        slopes = slopes * xp.shifted(slopes, reach)
        reach *= 2
    return returns


def _prepared(
    rewards: Array,
    gamma: float,
    next_values: Array | None,
    terminated: Array | None,
    truncated: Array | None,
    mask: Array | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Rewards, values, discounts, whether the episode continues in the next row, and the mask."""
    rewards = _numbers(rewards)
    real = _real_steps(mask, rewards)
    over, cut, values = (
        xp.zeros_like(real) if x is None else _shaped(name, x, rewards)
        for name, x in (
            ("terminated", terminated),
            ("truncated", truncated),
            ("next_values", next_values),
        )
    )
    continues = real * xp.shifted(real, 1) * (1 - over) * (1 - cut)
    # Masked rows may hold anything, NaN included.
    rewards, values = (xp.where(real > 0, x, xp.zeros_like(real)) for x in (rewards, values))
    discounts = checked("gamma", gamma, fraction) * real * (1 - over)
    return rewards, values, discounts, continues, real


def _numbers(x: Array) -> Array:
    """A tensor as it is, and anything else as a float64 array."""
    is_tensor = hasattr(x, "shape") and not xp.is_array(x)
    return x if is_tensor else np.asarray(x, np.float64)


def _shaped(name: str, x: Array, example: Array) -> Array:
    x = xp.like(x, example)
    if x.shape != example.shape:
        raise ValueError(
            f"{name} has shape {x.shape}, but rewards have {example.shape}: they must be equal."
        )
    return x


def _real_steps(mask: Array | None, values: Array) -> Array:
    """1 for real steps and 0 for padding, in the dtype of the values."""
    if mask is None:
        return xp.ones_like(values)
    real = xp.like(_numbers(mask) > 0, values)
    if real.shape != values.shape:
        raise ValueError(
            f"mask has shape {real.shape}, but the values have {values.shape}: they must be equal."
        )
    return real
