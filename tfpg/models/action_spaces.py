"""Which action spaces tfpg learns in, and how. Nothing here imports TensorFlow.

The heads themselves are in `tfpg.models.heads`, whose table says what their outputs mean.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

# The algorithms by what their models give.
POLICY_GRADIENT = ("reinforce", "a2c", "ppo")
Q_LEARNING = ("dqn",)
ALGORITHMS = (*POLICY_GRADIENT, *Q_LEARNING)


def heads_of(space: gymnasium.Space) -> tuple[dict[int, str], str]:
    """The heads for an action space by their number of outputs, and that in words.

    Returns:
        Names of head classes by the outputs they read, and what a model must have.

    Raises:
        ValueError: There is none.

    Example:
        >>> heads_of(spaces.Discrete(2))
        ({1: 'BernoulliHead', 2: 'CategoricalHead'}, '1 or 2 outputs')
    """
    if isinstance(space, spaces.Discrete):
        n = int(space.n)
        if n == 2:
            return {1: "BernoulliHead", 2: "CategoricalHead"}, "1 or 2 outputs"
        return {n: "CategoricalHead"}, f"{n} outputs"
    if isinstance(space, spaces.MultiDiscrete):
        n = int(space.nvec.sum())
        return {n: "MultiCategoricalHead"}, f"{n} outputs (one for each value of each choice)"
    if isinstance(space, spaces.MultiBinary):
        n = int(np.prod(space.shape))
        return {n: "MultiBinaryHead"}, f"{n} outputs (one for each bit)"
    if isinstance(space, spaces.Box):
        n = int(np.prod(space.shape))
        return {2 * n: "GaussianHead", n: "GaussianHead"}, (
            f"{2 * n} outputs (a mean and a log standard deviation for each dimension), "
            f"or {n} (the means)"
        )
    raise ValueError(
        f"No head for the action space {space}: Discrete, MultiDiscrete, MultiBinary and Box have "
        "one."
    )


def check_q_actions(space: gymnasium.Space) -> spaces.Discrete:
    """Returns the action space of a Q-network.

    Raises:
        ValueError: Its actions are not a few.

    Example:
        >>> check_q_actions(spaces.Discrete(3))
        Discrete(3)
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"Q-values are of Discrete actions, and these are {space}: tfpg.Reinforce, tfpg.A2C "
            "and tfpg.PPO learn them."
        )
    return space


def algorithms_for(space: gymnasium.Space) -> tuple[str, ...]:
    """The algorithms that learn in an action space, by their names on the command line.

    Example:
        >>> algorithms_for(spaces.Box(-1, 1, (2,))), algorithms_for(spaces.Text(5))
        (('reinforce', 'a2c', 'ppo'), ())
    """
    found: tuple[str, ...] = ()
    for names, check in ((POLICY_GRADIENT, heads_of), (Q_LEARNING, check_q_actions)):
        try:
            check(space)
        except ValueError:
            continue
        found += names
    return found
