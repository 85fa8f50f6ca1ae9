"""Warnings that teach: signs of a training that goes nowhere, each said once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfpg.core.messages import warn
from tfpg.errors import TrainingWarning
from tfpg.models.heads import Head
from tfpg.ops.distributions import (
    Bernoulli,
    Categorical,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
)

_PATIENCE = 5


class Judge:
    """Says once what has been seen often enough in a row."""

    def __init__(self) -> None:
        self._lasting: dict[str, int] = {}
        self._said: set[str] = set()

    def _judge(self, sign: str, seen: bool, text: str, patience: int = _PATIENCE) -> None:
        self._lasting[sign] = self._lasting.get(sign, 0) + 1 if seen else 0
        if self._lasting[sign] >= patience and sign not in self._said:
            self._said.add(sign)
            warn(text, TrainingWarning)


class Advice(Judge):
    """Looks at every iteration's numbers and says once what is wrong with them, and a way out.

    Each sign has to last for some iterations.

    Args:
        head: Of the policy.

    Example:
        >>> import warnings
        >>> from gymnasium.spaces import Discrete
        >>> from tfpg.models.heads import BernoulliHead
        >>> advice = Advice(BernoulliHead(Discrete(2), from_logits=True, positive_action=1))
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     for _ in range(20):
        ...         advice.look({"entropy": 1e-4, "grad_norm": 1.0}, [1.0, 2.0])
        >>> len(said)
        1
    """

    def __init__(self, head: Head):
        super().__init__()
        self._entropy_floor = _entropy_floor(head)
        self._only_return: float | None = None
        self._returns_differ = False
        self._episodes = 0

    def look(self, logs: dict[str, float], episode_returns: Sequence[float]) -> None:
        """Takes in the logs of an iteration and the returns of the episodes that ended in it."""
        self._meet(episode_returns)
        constant = not self._returns_differ and self._episodes >= 10
        self._judge(
            "returns",
            constant and len(episode_returns) > 0,
            f"All {self._episodes} episodes so far returned {self._only_return}: nothing tells "
            "one action from another yet. Explore more (entropy_coef, epsilon, explore_steps), "
            "play more episodes per update, or shape the reward.",
        )
        entropy = logs.get("entropy", math.inf)
        self._judge(
            "entropy",
            entropy < self._entropy_floor,
            f"The policy's entropy fell to {entropy:.3g} nats: it hardly explores any more. If "
            "episode_return is not yet where it should be, use entropy_coef=0.01 or a smaller "
            "learning rate.",
        )
        self._judge(
            "gradient",
            logs.get("grad_norm", 1.0) < 1e-8 and len(set(episode_returns)) > 1,
            "The gradient has vanished: nothing is learned although returns differ. Look for "
            "saturated activations (large weights, inputs that are not scaled: "
            "normalize=True) or layers that are not trainable.",
        )
        clipped = logs.get("clipped_actions", 0.0)
        self._judge(
            "clipped",
            clipped > 0.5,
            f"{clipped:.0%} of the actions were outside the bounds and clipped, where the "
            "environment no longer sees a difference. Use squash=True, a smaller log_std, or "
            "gymnasium.wrappers.RescaleAction.",
        )

    def _meet(self, episode_returns: Sequence[float]) -> None:
        for value in episode_returns:
            if self._only_return is None:
                self._only_return = value
            self._returns_differ |= value != self._only_return
        self._episodes += len(episode_returns)


def _entropy_floor(head: Head) -> float:
    """A hundredth of the largest entropy; for real actions that of a thousandth of their range."""
    if head.kind is EpsilonGreedy:
        return -math.inf
    if head.kind in (Bernoulli, MultiBinary):
        return 0.01 * head.outputs * math.log(2.0)
    if head.kind is Categorical:
        return 0.01 * math.log(max(head.outputs, 1))
    if head.kind is MultiCategorical:
        return 0.01 * float(np.log(head.choices).sum())  # type: ignore[attr-defined]
    low, high = head.low, head.high  # type: ignore[attr-defined]
    bounded = np.isfinite(low) & np.isfinite(high)
    span = np.where(bounded, np.where(bounded, high, 1.0) - np.where(bounded, low, 0.0), 1.0)
    return float(np.sum(np.log(1e-3 * np.maximum(span, 1e-30))))
