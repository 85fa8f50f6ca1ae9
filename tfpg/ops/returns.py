"""Returns, advantages and their standardization, masked: nothing here looks at padding.

One recursion gives them all,

    G_t = r_t + gamma (1 - terminated_t) ((1 - lambda_t) V_{t+1} + lambda_t G_{t+1}),

where ``lambda_t`` is ``gae_lambda``, and 0 where step t is the last one that counts: it ended an
episode, was cut off, or is followed by a masked row. Termination alone stops the bootstrap.

These run once per batch on data that came from NumPy environments, and no gradient ever
flows through them, so they are NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray | Sequence


def discounted_returns(
    rewards: Array,
    gamma: float,
    *,
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Returns to go: the discounted sum of the rewards from each step to its episode's end.

    `lambda_returns` with ``gae_lambda=1`` and no values. Nothing is bootstrapped: without a
    critic a time limit is treated as an end, which makes the returns of a truncated episode too
    small near its last step.

    Args:
        rewards: ``[T]`` or ``[T, N]``, of any number type; integers are not rounded.
        gamma: Discount factor, in [0, 1].
        terminated: ``[T]`` or ``[T, N]``, true where the episode ended. None: nowhere.
        truncated: The same shape, true where the episode was cut. None: nowhere.
        mask: The same shape, 1 for a real step and 0 for padding. None: all real.

    Returns:
        float64 array in the shape of ``rewards``, 0 where padded.

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
    return lambda_returns(
        rewards, gamma, terminated=terminated, truncated=truncated, mask=mask, gae_lambda=1.0
    )


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
    """Lambda-returns: the recursion of this module.

    Args:
        rewards: ``[T]`` or ``[T, N]``.
        gamma: Discount factor, in [0, 1].
        next_values: The same shape: value of what each step led to, ``V(s_{t+1})``, the true
            last observation where it was cut off. None: zeros.
        gae_lambda: In [0, 1]. 1: all rewards to come, then the value where they stop. 0: the
            one-step target of temporal-difference learning.
        terminated: See `discounted_returns`.
        truncated: See `discounted_returns`.
        mask: See `discounted_returns`.

    Returns:
        float64 array in the shape of ``rewards``, 0 where padded.

    Raises:
        ValueError: ``gamma`` or ``gae_lambda`` is outside [0, 1], or the shapes differ.

    Source:
        Sutton and Barto, 2018, equation 12.18.

    Example:
        >>> lambda_returns([1, 1], 0.5, next_values=[2, 8], truncated=[0, 1], gae_lambda=0.5)
        array([2.75, 5.  ])
    """
    rewards, values, discounts, goes_on, real = _prepared(
        rewards, gamma, next_values, terminated, truncated, mask
    )
    weights = check_fraction("gae_lambda", gae_lambda) * goes_on
    # Per step: G_t = constant_t + slope_t G_{t+1}.
    constants = rewards + discounts * (1 - weights) * values
    slopes = discounts * weights
    returns = np.empty_like(rewards)
    following = np.zeros(rewards.shape[1:])
    for t in range(len(rewards) - 1, -1, -1):
        following = constants[t] + slopes[t] * following
        returns[t] = following
    return np.where(real, returns, 0.0)


def gae(
    rewards: Array,
    gamma: float,
    values: Array,
    next_values: Array,
    *,
    gae_lambda: float = 0.95,
    terminated: Array | None = None,
    truncated: Array | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Generalized advantages: the lambda-return minus the value of the step.

    The same as ``sum_k (gamma lambda)^k delta_{t+k}`` with
    ``delta_t = r_t + gamma V(s_{t+1}) - V(s_t)``.

    Args:
        rewards: ``[T]`` or ``[T, N]``.
        gamma: Discount factor, in [0, 1].
        values: The same shape, ``V(s_t)``.
        next_values: The same shape; see `lambda_returns`.
        gae_lambda: In [0, 1].
        terminated: See `discounted_returns`.
        truncated: See `discounted_returns`.
        mask: See `discounted_returns`.

    Returns:
        float64 array in the shape of ``rewards``, 0 where padded.

    Source:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", 2016, https://arxiv.org/abs/1506.02438.

    Example:
        >>> gae([1, 1], 0.5, values=[3, 2], next_values=[2, 8], truncated=[0, 1], gae_lambda=0.5)
        array([-0.25,  3.  ])
    """
    returns = lambda_returns(
        rewards,
        gamma,
        next_values,
        gae_lambda=gae_lambda,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
    )
    values = _shaped("values", values, returns.shape)
    return returns - np.where(_real_steps(mask, returns), values, 0.0)


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
    """Returns over at most ``n`` rewards, then the value of where they stop.

    ``G_t = r_t + gamma r_{t+1} + ... + gamma^n V(s_{t+n})``, shorter where an episode ends, is cut
    off or the data stops. ``n=1`` is `lambda_returns` with ``gae_lambda=0``, and an ``n`` of at
    least T the one with ``gae_lambda=1``.

    Args:
        rewards: ``[T]`` or ``[T, N]``.
        gamma: Discount factor, in [0, 1].
        next_values: See `lambda_returns`.
        n: At least 1.
        terminated: See `discounted_returns`.
        truncated: See `discounted_returns`.
        mask: See `discounted_returns`.

    Returns:
        float64 array in the shape of ``rewards``, 0 where padded.

    Raises:
        ValueError: ``n`` is below 1, ``gamma`` outside [0, 1], or the shapes differ.

    Source:
        Sutton and Barto, 2018, equation 7.1.

    Example:
        >>> n_step_returns([1, 1, 1, 1], 0.5, next_values=[0, 0, 0, 8], n=2)
        array([1.5, 1.5, 3.5, 5. ])
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, and it is {n!r}.")
    rewards, values, discounts, goes_on, real = _prepared(
        rewards, gamma, next_values, terminated, truncated, mask
    )
    returns = rewards + discounts * values
    for _ in range(min(int(n), len(rewards)) - 1):
        following = np.concatenate([returns[1:], np.zeros_like(returns[:1])])
        returns = rewards + discounts * np.where(goes_on, following, values)
    return np.where(real, returns, 0.0)


def standardize(values: Array, mask: Array | None = None, per: str = "batch") -> np.ndarray:
    """Z-scores over the real steps: ``(values - mean) / std``, with the population std.

    Args:
        values: Array of any shape.
        mask: The same shape, 1 for a real step and 0 for padding. None: all real.
        per: ``"batch"``: over all of them; ``"episode"``: over each column ``[T, N]`` by itself.

    Returns:
        float64 array in the shape of ``values``, 0 where padded. All zeros where every real
        value is the same (there is no scale then, and nothing to prefer).

    Raises:
        ValueError: The shapes differ, or ``per`` is another word.

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
        raise ValueError(f'per must be "batch" or "episode", and it is {per!r}.')
    result = np.zeros_like(values)
    chosen = values[real]
    if chosen.size == 0:
        return result
    centered = chosen - chosen.mean()
    std = np.sqrt(np.mean(centered * centered))
    # Equal values leave a rounding error behind, not an exact zero.
    if std > 1e-12 * np.abs(chosen).max():
        result[real] = centered / std
    return result


def check_gamma(gamma: float) -> float:
    """Returns ``gamma`` as a float.

    Raises:
        ValueError: It is not a number in [0, 1].

    Example:
        >>> check_gamma(1)
        1.0
    """
    return check_fraction("gamma", gamma)


def check_fraction(name: str, value: float) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: It is not a number in [0, 1].

    Example:
        >>> check_fraction("gae_lambda", 0.95)
        0.95
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], and it is {value!r}.")
    return number


def _prepared(
    rewards: Array,
    gamma: float,
    next_values: Array | None,
    terminated: Array | None,
    truncated: Array | None,
    mask: Array | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, values, discounts, whether a step's episode goes on in the next row, and mask."""
    rewards = np.asarray(rewards, dtype=np.float64)
    real = _real_steps(mask, rewards)
    nowhere = np.zeros(rewards.shape, bool)
    ended = nowhere if terminated is None else _shaped("terminated", terminated, rewards.shape)
    cut = nowhere if truncated is None else _shaped("truncated", truncated, rewards.shape)
    values = 0.0 if next_values is None else _shaped("next_values", next_values, rewards.shape)
    ended, cut = ended > 0, cut > 0
    followed = np.concatenate([real[1:], nowhere[:1]])
    goes_on = real & followed & ~ended & ~cut
    # What padding holds is nobody's business, NaN included.
    rewards, values = np.where(real, rewards, 0.0), np.where(real, values, 0.0)
    return rewards, values, check_gamma(gamma) * (real & ~ended), goes_on, real


def _shaped(name: str, x: Array, shape: tuple[int, ...]) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.shape != shape:
        raise ValueError(
            f"{name} has shape {x.shape}, and rewards have {shape}: they must be equal."
        )
    return x


def _real_steps(mask: Array | None, values: np.ndarray) -> np.ndarray:
    if mask is None:
        return np.ones(values.shape, bool)
    real = np.asarray(mask) > 0
    if real.shape != values.shape:
        raise ValueError(
            f"mask has shape {real.shape}, and the values have {values.shape}: they must be equal."
        )
    return real
