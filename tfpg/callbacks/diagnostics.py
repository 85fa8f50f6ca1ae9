"""A callback that draws how the greedy policy improves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.core.backend import keras
from tfpg.core.figures import check_figure, new_figure, save_figure
from tfpg.core.options import checked, count
from tfpg.envs import EnvLike, reward_threshold
from tfpg.models.policy import Policy
from tfpg.rollouts.evaluation import evaluate


class Diagnostics(keras.callbacks.Callback):
    """Evaluates the greedy policy during training and plots the results.

    The figure shows the mean and standard deviation of return and length, and epsilon if it is
    logged. It is written after every evaluation; the last one runs at the end of training.

    Args:
        path: The figure, for example a ``.png`` file.
        env: The environment to evaluate in: an id or a callable that makes one.
        every: Number of training episodes between evaluations, which run at the end of an
            iteration. If the agent does not log ``"episodes"``, iterations are counted instead.
        episodes: Episodes of each evaluation.
        solved: The return at which the environment counts as solved. None: the threshold in its
            registration.
        seed: The seed of the evaluations.
        max_steps: Cut off episodes after this many steps. None: the environment's own limit.

    Attributes:
        measured: A dict for each evaluation: ``episodes``, ``env_steps``, ``epsilon`` if logged,
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
        self.every = checked("every", every, count)
        self.episodes = checked("episodes", episodes, count)
        self.solved = reward_threshold(env) if solved is None else solved
        self.seed = seed
        self.max_steps = max_steps
        self.measured: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self._due = self.every

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        return {"measured": self.measured, "last": self._last, "due": self._due}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
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
            Policy(self.model, self.env),
            self.env,
            self.episodes,
            seed=self.seed + len(self.measured),
            max_steps=self.max_steps,
        )
        lists = {"returns": result["episode_returns"], "lengths": result["episode_lengths"]}
        self.measured.append({**self._last, **lists})
        title = self.env if isinstance(self.env, str) else ""
        diagnostics(self.measured, self.path, self.solved, title)


def diagnostics(
    measured: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    solved: float | None = None,
    title: str = "",
) -> Path:
    """Plot evaluations of a policy against the training episodes.

    The panels show the mean and standard deviation of return and length, and epsilon if there is
    one.

    Args:
        measured: A mapping for each evaluation: ``episodes`` trained so far, the lists ``returns``
            and ``lengths``, and optionally ``epsilon``. See `tfpg.callbacks.Diagnostics`.
        path: The figure, for example a ``.png`` file.
        solved: The return of a dashed line. None: no line.
        title: The title of the figure.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError, PermissionError: The folder is missing or not writable.
        ImportError: Matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> measured = [{"episodes": 100, "returns": [9.0, 11.0], "lengths": [9, 11]}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     diagnostics(measured, f"{folder}/figure.png", solved=475.0).name
        'figure.png'
    """
    panels = ["returns", "lengths", *(["epsilon"] if "epsilon" in measured[0] else [])]
    labels = {"returns": "Return", "lengths": "Length (steps)", "epsilon": "Epsilon"}
    trained = [each["episodes"] for each in measured]
    figure, axes = new_figure(len(panels), 1, (7, 2.6 * len(panels)), sharex=True)
    for axis, name in zip(axes, panels, strict=True):
        values = [each[name] for each in measured]
        if name == "epsilon":
            axis.plot(trained, values, color="tab:gray", marker=".", linewidth=1.5)
            axis.set_ylim(-0.05, 1.05)
        else:
            means, spreads = (np.array([f(x) for x in values]) for f in (np.mean, np.std))
            axis.errorbar(
                trained, means, spreads, color="tab:blue", marker=".", capsize=2, linewidth=1.5
            )
        axis.set_ylabel(labels[name])
        axis.margins(y=0.08)
    if solved is not None:
        axes[0].axhline(solved, color="black", linestyle="--", linewidth=1, label="solved")
        axes[0].legend(frameon=False, loc="best")
    axes[0].set_title(title)
    axes[-1].set_xlabel("Episodes trained")
    axes[-1].locator_params(axis="x", nbins=6, integer=True)
    axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    return save_figure(figure, path)
