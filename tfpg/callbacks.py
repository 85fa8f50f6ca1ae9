"""Callbacks of tfpg. Everything else is Keras's own: any stock callback works unmodified."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.checkpoint import save_model
from tfpg.envs import EnvLike, reward_threshold
from tfpg.errors import warn
from tfpg.evaluation import check_count, evaluate
from tfpg.filming import RecordVideo, Snapshots
from tfpg.plotting import check_figure, diagnostics
from tfpg.policy import Policy
from tfpg.progress import ProgressBar, rank, resolve_verbose
from tfpg.resuming.disk import room_needed

__all__ = [
    "Diagnostics",
    "KeepBest",
    "MetricsLogger",
    "ProgressBar",
    "RecordVideo",
    "Snapshots",
    "StopAtReturn",
    "StopAtSteps",
    "resolve_verbose",
]


class MetricsLogger(keras.callbacks.CSVLogger):
    """Keras's `CSVLogger` with a column for what is logged, and none for what might be.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.NamedTemporaryFile("r") as file:
        ...     log = MetricsLogger(file.name)
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 1, callbacks=[log], verbose=0)
        ...     file.readline()
        'epoch,episode_return,episode_length,env_steps,loss,policy_loss,entropy,grad_norm\\n'
    """

    keys: Any

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.keys is None:
            # What is not known yet, or not measured every time, has its column too.
            later = {"episode_return", "episode_length"}
            if self.params.get("validates"):
                later |= {"val_episode_return", "val_episode_length"}
            self.keys = sorted({*logs, *later}, key=rank)
        try:
            super().on_epoch_end(epoch, logs)
        except OSError as error:
            path = Path(self.filename)
            raise OSError(
                f"A row of {str(path)!r} cannot be written ({room_needed(error, path)}). What is "
                "kept before it is whole: free some, and go on from there."
            ) from error


class KeepBest(keras.callbacks.Callback):
    """Saves the model that played the iteration with the highest ``episode_return``.

    That is the mean return of the iteration's own episodes with REINFORCE; with A2C and PPO of the
    last hundred and with DQN of its `window`, where fewer ended in the iteration, so that
    earlier models played the older of them.

    Keras's `ModelCheckpoint` saves at the end of an epoch, after the update; here that is another
    policy than the one whose return was measured. The optimizer's state is that after the update.
    A model that is better than the last by little comes soon after it: writing takes a twentieth
    of the time at most, and what waits is written with a later iteration, or at the end.

    Args:
        path: Of the model, ending in ``.keras``; written beside and renamed.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = KeepBest(f"{folder}/best.keras")
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 1, callbacks=[keep], verbose=0)
        ...     keep.best > 0, keep.path.exists()
        (True, True)
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = Path(path)
        self.best = -math.inf
        self._weights: Any = None  # of the best
        self._waiting = False  # to be written
        self._not_before = 0.0

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        return {"best": self.best, "weights": self._weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self.best, self._weights = state["best"], state["weights"]
        self._waiting = self._weights is not None  # the file may be of a later iteration

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._played = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Of equals the later: it has learned for longer.
        if "episode_return" in logs and logs["episode_return"] >= self.best:
            self.best = logs["episode_return"]
            self._weights, self._waiting = self._played, True
        if time.monotonic() >= self._not_before:
            try:
                self.write()
            except OSError as error:
                warn(f"{error} It is tried again with a later iteration.")

    def on_train_end(self, logs: Any = None) -> None:
        self.write()

    def write(self) -> None:
        """Writes what waits to be written, for example when training was interrupted.

        Raises:
            OSError: It cannot be written, and still waits.
        """
        if not self._waiting:
            return
        start = time.monotonic()
        updated = self.model.get_weights()
        self.model.set_weights(self._weights)
        try:
            save_model(self.model, self.path)
        finally:
            self.model.set_weights(updated)
        self._waiting = False
        end = time.monotonic()
        self._not_before = end + 20 * (end - start)


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


class StopAtReturn(keras.callbacks.Callback):
    """Stops training when the mean return has reached a target.

    Args:
        target: To be reached.
        monitor: ``"episode_return"``, or ``"val_episode_return"`` for the greedy policy's.

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
    """Stops training before the environment steps exceed a budget.

    It stops when another iteration as long as the longest so far would.

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
        """What `set_state` takes."""
        return {"before": self._before, "longest": self._longest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._before, self._longest = state["before"], state["longest"]

    def on_train_begin(self, logs: Any = None) -> None:
        self._before = None
        self._longest = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._before is None:
            self._before = float(self.params.get("env_steps", 0))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = (logs or {})["env_steps"]
        self._longest = max(self._longest, now - self._before)
        self._before = now
        if now + self._longest > self.env_steps:
            self.model.stop_training = True
