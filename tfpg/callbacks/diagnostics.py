"""Figures of a training run, and a callback that draws how the greedy policy improves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.core.backend import keras
from tfpg.core.files import atomic_write, check_writable
from tfpg.core.messages import alternatives
from tfpg.core.options import checked, count
from tfpg.envs import EnvLike, reward_threshold
from tfpg.models.policy import Policy
from tfpg.rollouts.evaluation import evaluate

_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


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


def learning_curve(
    history: Mapping[str, Sequence[float]],
    path: str | os.PathLike,
    title: str = "",
) -> Path:
    """Plot a training run against its environment steps.

    Args:
        history: ``history.history`` of a fit: lists ``env_steps``, ``episode_return`` and
            optionally ``entropy``, ``mean_q`` and ``epsilon``. A shorter list is of the last
            iterations.
        path: The figure, for example a ``.png`` file.
        title: Its title.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError, PermissionError: The folder is missing or not writable.
        ImportError: Matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> history = {"env_steps": [100, 200], "episode_return": [20.0, 35.0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve(history, f"{folder}/curve.png").name
        'curve.png'
    """
    panels = [("episode_return", "Episode return")]
    others = {"entropy": "Entropy (nats)", "mean_q": "Mean Q", "epsilon": "Epsilon"}
    panels += [(name, label) for name, label in others.items() if name in history]
    all_steps = np.asarray(history["env_steps"], float)
    # A wide window would hide a short run.
    window = len(all_steps) // 20
    figure, axes = _figure(len(panels))
    for axis, (name, label) in zip(axes, panels, strict=True):
        values = np.asarray(history.get(name, []), float)
        # The first iterations may have no mean return.
        steps = all_steps[len(all_steps) - len(values) :]
        if window < 2:
            axis.plot(steps, values, color="tab:blue", marker=".", linewidth=1.5)
        else:
            axis.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=1, label="iteration")
            smooth = _running_mean(values, window)
            axis.plot(steps, smooth, color="tab:blue", linewidth=2, label=f"mean of {window}")
        axis.set_ylabel(label)
    if window >= 2:
        axes[0].legend(frameon=False, loc="best")
    axes[0].set_title(title)
    axes[-1].set_xlabel("Environment steps")
    return _written(figure, axes, path)


def check_figure(path: str | os.PathLike) -> None:
    """Raise an error unless a figure can be written to ``path``.

    Raises:
        ValueError: The suffix is not that of a figure.
        FileNotFoundError, PermissionError: The folder is missing or not writable.

    Example:
        >>> check_figure("figure.png")
    """
    if Path(path).suffix not in _SUFFIXES:
        raise ValueError(f"A figure must end in {alternatives(_SUFFIXES)}, got {str(path)!r}.")
    check_writable(path)


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
    figure, axes = _figure(len(panels))
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
    return _written(figure, axes, path)


def _figure(panels: int) -> tuple[Any, Any]:
    """Return a figure of panels on top of each other, and their axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need Matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(7, 2.6 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _written(figure: Any, axes: Any, path: str | os.PathLike) -> Path:
    from matplotlib.ticker import MaxNLocator

    axes[-1].xaxis.set_major_locator(MaxNLocator(6))
    axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    path = Path(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
