"""A picture of what an agent has learned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfpg.callbacks.plots import check_figure, diagnostics
from tfpg.core.backend import keras
from tfpg.envs import EnvLike, reward_threshold
from tfpg.models.policy import Policy
from tfpg.rollouts.evaluation import check_count, evaluate


class Diagnostics(keras.callbacks.Callback):
    """Plays greedy episodes every so often while a model trains, and draws how they went.

    The figure has the return and the length, mean and standard deviation, and epsilon where it is
    logged; it is drawn anew with every measurement, the last of which is when training ends.

    Args:
        path: Of the figure, for example a ``.png``.
        env: What to play in, apart from what is trained in: an id or a callable making one.
        every: Episodes of training between measurements, which are made at the ends of iterations;
            iterations where the agent does not log ``"episodes"``.
        episodes: Episodes of a measurement.
        solved: Return at which the environment counts as solved. None: what its registration says.
        seed: Of the measurements.
        max_steps: Where their episodes are cut. None: the environment's own limit.

    Attributes:
        measured: A dict for every measurement: ``episodes``, ``env_steps``, ``epsilon`` if logged,
            and the lists ``returns`` and ``lengths``.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu")
        >>> agent = tfpg.DQN(model, learning_starts=64, steps_per_iteration=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     look = Diagnostics(f"{folder}/figure.png", "CartPole-v1", every=2, episodes=3)
        ...     _ = agent.fit("CartPole-v1", 2, callbacks=[look], seed=0, verbose=0)
        >>> len(look.measured), len(look.measured[0]["returns"])
        (2, 3)
    """

    def __init__(
        self,
        path: str | os.PathLike,
        env: EnvLike,
        every: int = 100,
        episodes: int = 10,
        solved: float | None = None,
        seed: int = 0,
        max_steps: int | None = None,
    ):
        super().__init__()
        self.path = Path(path)
        check_figure(self.path)
        self.env = env
        self.every = check_count("every", every)
        self.episodes = check_count("episodes", episodes)
        self.solved = reward_threshold(env) if solved is None else solved
        self.seed = seed
        self.max_steps = max_steps
        self.measured: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self._due = self.every

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        return {"measured": self.measured, "last": self._last, "due": self._due}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self.measured, self._last, self._due = state["measured"], state["last"], state["due"]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        self._last = {"episodes": logs.get("episodes", epoch + 1)}
        self._last |= {name: logs[name] for name in ("env_steps", "epsilon") if name in logs}
        if self._last["episodes"] >= self._due:
            self._measure()

    def on_train_end(self, logs: Any = None) -> None:
        before = self.measured[-1]["episodes"] if self.measured else None
        if self._last and self._last["episodes"] != before:
            self._measure()

    def _measure(self) -> None:
        self._due = (self._last["episodes"] // self.every + 1) * self.every
        result = evaluate(
            Policy(self.model, self.env, **(self.params or {}).get("head", {})),
            self.env,
            self.episodes,
            seed=self.seed + len(self.measured),
            max_steps=self.max_steps,
        )
        told = {"returns": result["episode_returns"], "lengths": result["episode_lengths"]}
        self.measured.append({**self._last, **told})
        title = self.env if isinstance(self.env, str) else ""
        diagnostics(self.measured, self.path, self.solved, title)
