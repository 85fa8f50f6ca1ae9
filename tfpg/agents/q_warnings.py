"""Warnings that teach, for Q-learning: values that cannot be, and a replay that cannot teach."""

from __future__ import annotations

from collections import deque

import numpy as np

from tfpg.agents.warnings import Judge
from tfpg.rollouts.trajectory import Trajectory

# How far values may be above the largest return that was met: the policy may still improve.
_FACTOR = 10.0
_DRIFT = 20  # iterations
_MANY = 10_000  # steps


class QAdvice(Judge):
    """Looks at what is stored and at every iteration's logs, and says once what is wrong with them.

    Args:
        gamma: Discount factor.
        capacity: Of the replay.
        learning_starts: Steps before the first update.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     _ = QAdvice(0.99, capacity=500, learning_starts=1000)
        >>> len(said)
        1
    """

    def __init__(self, gamma: float, capacity: int, learning_starts: int):
        super().__init__()
        self.gamma = gamma
        self._carried: np.ndarray | None = None
        self._largest_return = 0.0
        self._largest_reward = 0.0
        self._steps = self._terminated = self._truncated = 0
        self._values: deque[float] = deque(maxlen=_DRIFT)
        self._returns: deque[float] = deque(maxlen=_DRIFT)
        self._judge(
            "capacity",
            capacity < learning_starts,
            f"The replay holds {capacity:,} steps, and learning_starts={learning_starts:,}: what "
            "is played first is gone before it is learned from. Use a larger capacity.",
            patience=1,
        )

    def cut(self) -> None:
        """Says that the environments begin anew."""
        self._carried = None

    def meet(self, data: Trajectory) -> None:
        """Takes in what is stored."""
        real, rewards = data.mask > 0, data.rewards
        self._steps += int(real.sum())
        self._terminated += int((data.terminated & real).sum())
        self._truncated += int((data.truncated & real).sum())
        self._largest_reward = max(self._largest_reward, float(np.abs(rewards).max()))
        ended = data.terminated | data.truncated | ~real
        if self._carried is None or len(self._carried) != rewards.shape[1]:
            self._carried = np.zeros(rewards.shape[1])
        # Summed forward, as large as the return: what was met, without waiting for the end.
        for t in range(len(rewards)):
            self._carried = self.gamma * self._carried + rewards[t]
            self._largest_return = max(self._largest_return, float(np.abs(self._carried).max()))
            self._carried[ended[t]] = 0.0

    def look(self, logs: dict[str, float]) -> None:
        """Takes in the logs of an iteration."""
        value, possible = logs["mean_q"], self._possible()
        self._judge(
            "diverging",
            self._largest_reward > 0 and abs(value) > possible,
            f"Q-values diverge: their mean is {value:.3g}, and with gamma={self.gamma} and the "
            f"rewards met so far no return can be beyond {possible:.3g}. Use a smaller learning "
            "rate, double=True, a larger target_update_period, or reward_clip.",
        )
        self._judge(
            "drifting",
            self._drifts(value, logs.get("episode_return")),
            f"The targets drift: mean Q went from {self._values[0]:.3g} to {value:.3g} in "
            f"{_DRIFT} iterations, and the returns did not follow. Use a larger "
            "target_update_period, a smaller tau or a smaller learning rate.",
            patience=1,
        )
        self._judge(
            "terminals",
            self._steps >= _MANY and self._terminated == 0 and self._truncated > 0,
            f"None of {self._steps:,} steps terminated, all episodes were truncated: every value "
            "is made of another one, and nothing says what the end is worth. Either the goal was "
            "never met (explore more: explore_steps), or the environment says truncated where it "
            "means terminated. In a task without end this is as it should be.",
            patience=1,
        )

    def _possible(self) -> float:
        """What no mean of Q-values should be beyond."""
        endless = np.inf if self.gamma == 1 else 1.5 * self._largest_reward / (1 - self.gamma)
        if self._truncated:  # what would have come was not met
            return endless
        return min(endless, _FACTOR * self._largest_return)

    def _drifts(self, value: float, episode_return: float | None) -> bool:
        self._values.append(value)
        self._returns.append(np.nan if episode_return is None else episode_return)
        if len(self._values) < _DRIFT:
            return False
        sizes = np.abs(self._values)
        grows = (np.diff(sizes) > 0).mean() > 0.9 and sizes[-1] > 2 * sizes[0]
        beyond = sizes[-1] > 2 * self._largest_return
        return bool(grows and beyond and self._returns[-1] <= self._returns[0])
