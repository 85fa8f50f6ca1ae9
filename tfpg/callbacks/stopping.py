"""Stop training when it has reached its goal or its budget."""

from __future__ import annotations

import math
from typing import Any

from tfpg.core.backend import keras


class StopAtReturn(keras.callbacks.Callback):
    """Stops training when the mean return reaches a target.

    Args:
        target: The return to reach.
        monitor: ``"episode_return"``, or ``"val_episode_return"`` for the greedy policy.

    Example:
        >>> import tfpg
        >>> agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"))
        >>> stop = StopAtReturn(5.0)
        >>> history = agent.fit("CartPole-v1", 10, callbacks=[stop], seed=0, verbose=0)
        >>> len(history.epoch)
        1
    """

    def __init__(self, target: float, monitor: str = "episode_return"):
        super().__init__()
        self.target = float(target)
        self.monitor = monitor

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (logs or {}).get(self.monitor, -math.inf) >= self.target:
            self.model.stop_training = True


class StopAtSteps(keras.callbacks.Callback):
    """Stops training before its environment steps exceed a budget.

    It stops when another iteration, as long as the longest so far, would exceed the budget.

    Args:
        env_steps: The budget.

    Example:
        >>> import tfpg
        >>> agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"), max_steps=10)
        >>> history = agent.fit("CartPole-v1", 99, callbacks=[StopAtSteps(1000)], verbose=0)
        >>> 600 < history.history["env_steps"][-1] <= 1000
        True
    """

    def __init__(self, env_steps: int):
        super().__init__()
        self.env_steps = env_steps
        self._before: float | None = None
        self._longest = 0.0

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        return {"before": self._before, "longest": self._longest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self._before, self._longest = state["before"], state["longest"]

    def on_train_begin(self, logs: Any = None) -> None:
        self._before = None
        self._longest = 0.0
        # For the progress bar.
        others = self.params.get("max_env_steps", math.inf)
        self.params["max_env_steps"] = min(self.env_steps, others)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._before is None:
            self._before = float(self.params.get("env_steps", 0))

    def is_reached(self, now: float) -> bool:
        """Return whether another iteration would exceed the budget.

        Args:
            now: Environment steps after the current iteration.
        """
        return now + max(self._longest, now - (self._before or 0)) > self.env_steps

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = (logs or {})["env_steps"]
        if self.is_reached(now):
            self.model.stop_training = True
        self._longest = max(self._longest, now - self._before)
        self._before = now
