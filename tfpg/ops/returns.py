"""Returns and their standardization, masked: nothing here looks at padding.

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

    ``G_t = r_t + gamma * (1 - end_t) * G_{t+1}``, where ``end_t`` is ``terminated`` or
    ``truncated``. Nothing is bootstrapped: without a critic a time limit is treated as an end,
    which makes the returns of a truncated episode too small near its last step.

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
    gamma = check_gamma(gamma)
    rewards = np.asarray(rewards, dtype=np.float64)
    real = _real_steps(mask, rewards)
    ends = np.zeros(rewards.shape, bool)
    for name, flags in (("terminated", terminated), ("truncated", truncated)):
        if flags is not None:
            flags = np.asarray(flags, dtype=bool)
            if flags.shape != rewards.shape:
                raise ValueError(
                    f"{name} has shape {flags.shape}, and rewards have {rewards.shape}: "
                    "they must be equal."
                )
            ends |= flags
    rewards = np.where(real, rewards, 0.0)
    discounts = gamma * (real & ~ends)
    returns = np.empty_like(rewards)
    following = np.zeros(rewards.shape[1:])
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + discounts[t] * following
        returns[t] = following
    return returns


def standardize(values: Array, mask: Array | None = None) -> np.ndarray:
    """Z-scores over all real steps: ``(values - mean) / std``, with the population std.

    Args:
        values: Array of any shape.
        mask: The same shape, 1 for a real step and 0 for padding. None: all real.

    Returns:
        float64 array in the shape of ``values``, 0 where padded. All zeros where every real
        value is the same (there is no scale then, and nothing to prefer).

    Raises:
        ValueError: The shapes differ.

    Source:
        The usual variance reduction for REINFORCE; see Géron, "Hands-On Machine Learning",
        3rd edition, 2022, chapter 18.

    Example:
        >>> standardize([1.0, 2.0, 3.0, 99.0], mask=[1, 1, 1, 0]).round(4)
        array([-1.2247,  0.    ,  1.2247,  0.    ])
    """
    values = np.asarray(values, dtype=np.float64)
    real = _real_steps(mask, values)
    chosen = values[real]
    result = np.zeros_like(values)
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
    try:
        value = float(gamma)
    except (TypeError, ValueError):
        value = np.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"gamma must be a number in [0, 1], and it is {gamma!r}.")
    return value


def _real_steps(mask: Array | None, values: np.ndarray) -> np.ndarray:
    if mask is None:
        return np.ones(values.shape, bool)
    real = np.asarray(mask) > 0
    if real.shape != values.shape:
        raise ValueError(
            f"mask has shape {real.shape}, and the values have {values.shape}: they must be equal."
        )
    return real
