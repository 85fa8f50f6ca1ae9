"""Several steps made one: the rewards between two observations, and what the second counts for.

For every transition sampled from a replay there are n rows of rewards and ends, time first, of
which those behind an end belong to somebody else. NumPy in float64, as in `tfpg.ops.returns`.
"""

from __future__ import annotations

import numpy as np

from tfpg.ops.returns import check_gamma


def n_step_transitions(
    rewards: np.ndarray, gamma: float, terminated: np.ndarray, truncated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discounted rewards of up to n steps, the discount of what follows, and how many they were.

    ``R = r_0 + gamma r_1 + ... + gamma^(m-1) r_(m-1)``. The value of what was observed after step m
    is to be added times ``gamma^m``, or 0 where step m terminated. m is n, or less where an episode
    terminates or is truncated before.

    Args:
        rewards: ``[n, M]``, n successive rewards for each of M transitions.
        gamma: Discount factor, in [0, 1].
        terminated: ``[n, M]``, whether the Markov decision process ended with the step.
        truncated: ``[n, M]``, whether somebody stopped the episode after it.

    Returns:
        ``R [M]`` and the discounts ``[M]``, float64, and ``m [M]``, int64.

    Raises:
        ValueError: ``gamma`` is outside [0, 1].

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, section 7.1; of Q-learning:
        Hessel et al., "Rainbow", 2018, https://arxiv.org/abs/1710.02298.

    Example:
        >>> rewards = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
        >>> terminated = np.array([[False, True, False], [False, False, False]])
        >>> truncated = np.array([[False, False, True], [False, False, False]])
        >>> n_step_transitions(rewards, 0.5, terminated, truncated)
        (array([2., 1., 1.]), array([0.25, 0.  , 0.5 ]), array([2, 1, 1]))
    """
    check_gamma(gamma)
    returns = np.zeros(rewards.shape[1:])
    discounts = np.ones(rewards.shape[1:])
    lengths = np.zeros(rewards.shape[1:], np.int64)
    going = np.ones(rewards.shape[1:], bool)
    for reward, terminal, cut in zip(rewards, terminated, truncated, strict=True):
        returns += np.where(going, discounts * reward, 0.0)
        discounts *= np.where(going, gamma * ~terminal, 1.0)
        lengths += going
        going &= ~(terminal | cut)
    return returns, discounts, lengths
