"""Rewards in units of the standard deviation of the return."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.models.normalization import RunningMoments
from tfpg.rollouts.trajectory import Trajectory


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return.

    The return is summed forward from the start of each episode, ``R_t = gamma R_{t-1} + r_t``,
    across rollouts.

    Args:
        gamma: Discount factor.

    Source:
        Engstrom et al., "Implementation Matters in Deep Policy Gradients", 2020,
        https://arxiv.org/abs/2005.12729, appendix A.2.

    Example:
        >>> ReturnScale(0.99).moments.batches
        0
    """

    def __init__(self, gamma: float):
        self.gamma = gamma
        self.moments = RunningMoments()
        self._carried: np.ndarray | None = None  # [N]  returns of the current episodes so far

    def __call__(self, data: Trajectory) -> np.ndarray:
        """Return the scaled rewards ``[T, N]`` of a rollout, after taking it into account."""
        real, ended = data.mask > 0, data.terminated | data.truncated
        if self._carried is None or len(self._carried) != real.shape[1]:
            self._carried = np.zeros(real.shape[1])
        returns = np.zeros(real.shape)
        for t in range(len(real)):
            summed = self.gamma * self._carried + data.rewards[t]
            self._carried = np.where(real[t], summed, self._carried)
            returns[t] = self._carried
            self._carried = np.where(ended[t], 0.0, self._carried)
        self.moments.update(returns[real])
        std = float(np.sqrt(self.moments.variance))
        # Returns that are all the same have no scale.
        return data.rewards / std if std > 1e-6 * abs(self.moments.mean) else data.rewards

    def start_episodes(self, which: np.ndarray | None = None) -> None:
        """Forget the current episodes of environments ``[N]`` bool, or of all."""
        if which is None or self._carried is None:
            self._carried = None
        else:
            self._carried = np.where(which, 0.0, self._carried)

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        return {"moments": self.moments.get_state(), "carried": self._carried}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.moments.set_state(state["moments"])
        self._carried = None if state["carried"] is None else np.array(state["carried"])
