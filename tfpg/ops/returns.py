"""Returns of steps and their standardization. Masked steps never count.

One recursion computes them all:

    G_t = r_t + gamma (1 - terminated_t) ((1 - lambda_t) V_{t+1} + lambda_t G_{t+1})

``lambda_t`` is ``gae_lambda``, but 0 at the last step that counts: where an episode ended or was
cut off, or a masked row follows. Only termination stops the bootstrap.

No gradient flows through returns, and rewards come from NumPy, so these functions are NumPy in
float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpg.core.options import checked, count, fraction

Array = np.ndarray | Sequence


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
    # G_t = constants_t + slopes_t G_{t+1}
    constants = rewards + discounts * (1 - weights) * values
    slopes = discounts * weights
    returns = np.empty_like(rewards)
    following = np.zeros(rewards.shape[1:])
    for t in range(len(rewards) - 1, -1, -1):
        following = constants[t] + slopes[t] * following
        returns[t] = following
    return np.where(real, returns, 0.0)


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
    for _ in range(min(n, len(rewards)) - 1):
        following = np.concatenate([returns[1:], np.zeros_like(returns[:1])])
        returns = rewards + discounts * np.where(continues, following, values)
    return np.where(real, returns, 0.0)


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
    values = np.asarray(values, dtype=np.float64)
    real = _real_steps(mask, values)
    if per == "episode":
        columns = [standardize(values[:, i], real[:, i]) for i in range(values.shape[1])]
        return np.stack(columns, axis=1)
    if per != "batch":
        raise ValueError(f'per must be "batch" or "episode", but it is {per!r}.')
    result = np.zeros_like(values)
    chosen = values[real]
    if chosen.size == 0:
        return result
    centered = chosen - chosen.mean()
    std = np.sqrt(np.mean(centered * centered))
    # Equal values leave a rounding error, not an exact zero.
    if std > 1e-12 * np.abs(chosen).max():
        result[real] = centered / std
    return result


def _prepared(
    rewards: Array,
    gamma: float,
    next_values: Array | None,
    terminated: Array | None,
    truncated: Array | None,
    mask: Array | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, values, discounts, whether the episode continues in the next row, and the mask."""
    rewards = np.asarray(rewards, dtype=np.float64)
    real = _real_steps(mask, rewards)
    zeros = np.zeros(rewards.shape)
    ended, cut, values = (
        zeros if x is None else _shaped(name, x, rewards.shape)
        for name, x in (
            ("terminated", terminated),
            ("truncated", truncated),
            ("next_values", next_values),
        )
    )
    followed = np.concatenate([real[1:], np.zeros_like(real[:1])])
    continues = real & followed & ~(ended > 0) & ~(cut > 0)
    # Masked rows may hold anything, NaN included.
    rewards, values = np.where(real, rewards, 0.0), np.where(real, values, 0.0)
    discounts = checked("gamma", gamma, fraction) * (real & ~(ended > 0))
    return rewards, values, discounts, continues, real


def _shaped(name: str, x: Array, shape: tuple[int, ...]) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.shape != shape:
        raise ValueError(
            f"{name} has shape {x.shape}, but rewards have {shape}: they must be equal."
        )
    return x


def _real_steps(mask: Array | None, values: np.ndarray) -> np.ndarray:
    if mask is None:
        return np.ones(values.shape, bool)
    real = np.asarray(mask) > 0
    if real.shape != values.shape:
        raise ValueError(
            f"mask has shape {real.shape}, but the values have {values.shape}: they must be equal."
        )
    return real
