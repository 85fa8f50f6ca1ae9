"""Rainbow: six improvements to deep Q-learning, combined.

Double Q-learning, prioritized replay, n-step returns and distributions of returns are those of
`tfpg.C51` with its options. The dueling streams and the noise for exploration are parts of the
network; see `tfpg.networks.dueling`.

Source: Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning", 2018,
https://arxiv.org/abs/1710.02298.
"""

from __future__ import annotations

from collections.abc import Callable

from tfpg.agents.c51 import C51
from tfpg.core.options import flag, option
from tfpg.schedules import probability_schedule


class Rainbow(C51):
    """Rainbow, for environments with `Discrete` actions.

    The model has N outputs for each action, dueling streams, and noisy layers.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range.

    Source:
        Hessel et al., 2018, https://arxiv.org/abs/1710.02298.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.dueling("CartPole-v1", atoms=51, noisy=True, seed=0)
        >>> agent = Rainbow(model, v_min=0, v_max=100, learning_starts=200, steps_per_iteration=256)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["epsilon"]
        [0.0, 0.0]
    """

    prioritized: bool = option(
        default=True,
        check=flag,
        help="Sample transitions in proportion to their errors instead of uniformly.",
    )
    epsilon: float | Callable[[float], float] = option(
        default=0.0,
        check=probability_schedule,
        help="Probability of a random action: a number or a schedule (see `tfpg.schedules`). "
        "With 0, only the network's noise explores.",
    )
