"""Callbacks of tfpg. Everything else is Keras's own: any stock callback works unmodified."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.checkpoint import save_model

_FIRST = (
    *("episode_return", "episode_length", "env_steps"),
    *("val_episode_return", "val_episode_length"),
    *("loss", "policy_loss", "value_loss", "entropy"),
)

# Columns of Keras's bar with its counts and times, and of one value.
_BAR_WIDTH, _VALUE_WIDTH = 52, 9


class ProgressBar(keras.callbacks.ProgbarLogger):
    """One Keras progress bar over all iterations, with the latest logs.

    Keras's own `ProgbarLogger` begins a bar in every epoch, which for iterations of a hundredth
    of a second is a wall of them. ``verbose=1`` draws the bar, in a terminal with the logs that
    fit on its line; ``verbose=2`` prints a line for every iteration; ``"auto"`` draws in a
    terminal or notebook and prints lines elsewhere.

    Example:
        >>> bar = ProgressBar()
        >>> bar.set_params({"verbose": 0, "epochs": 3, "steps": 1})
        >>> bar.verbose
        0
    """

    progbar: Any

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": resolve_verbose(params["verbose"])})

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._reset_progbar()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Keras hands the logs over in alphabetical order.
        logs = dict(sorted((logs or {}).items(), key=lambda item: _rank(item[0])))
        if self.verbose == 1:
            if self.progbar is None:
                self._shown = _that_fit(list(logs))
                self.progbar = keras.utils.Progbar(
                    self.epochs, stateful_metrics=self._shown, unit_name="iteration"
                )
            self._last = epoch + 1, [(k, logs[k]) for k in self._shown if k in logs]
            self.progbar.update(*self._last, finalize=False)
        elif self.verbose == 2:
            numbers = " - ".join(f"{name}: {_number(x)}" for name, x in logs.items())
            print(f"{epoch + 1}/{self.epochs} - {numbers}", flush=True)

    def on_train_end(self, logs: Any = None) -> None:
        if self.verbose == 1 and self.progbar is not None:
            self.progbar.update(*self._last, finalize=True)


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
            self.keys = sorted({*logs, *later}, key=_rank)
        super().on_epoch_end(epoch, logs)


class KeepBest(keras.callbacks.Callback):
    """Saves the model that played the iteration with the highest ``episode_return``.

    That is the mean return of the iteration's own episodes with REINFORCE, and of the last hundred
    with A2C and PPO, the older of which earlier models played.

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
        self._waiting: Any = None
        self._not_before = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._played = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Of equals the later: it has learned for longer.
        if "episode_return" in logs and logs["episode_return"] >= self.best:
            self.best = logs["episode_return"]
            self._waiting = self._played
        if time.monotonic() >= self._not_before:
            self.write()

    def on_train_end(self, logs: Any = None) -> None:
        self.write()

    def write(self) -> None:
        """Writes what waits to be written, for example when training was interrupted."""
        if self._waiting is None:
            return
        start = time.monotonic()
        updated = self.model.get_weights()
        self.model.set_weights(self._waiting)
        try:
            save_model(self.model, self.path)
        finally:
            self.model.set_weights(updated)
        self._waiting = None
        end = time.monotonic()
        self._not_before = end + 20 * (end - start)


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

    def on_train_begin(self, logs: Any = None) -> None:
        self._before: float | None = None
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


def resolve_verbose(verbose: Any) -> int:
    """0, 1 or 2 for a ``verbose`` argument.

    Raises:
        ValueError: It is none of ``"auto"``, 0, 1 and 2.
    """
    if verbose == "auto":
        return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f'verbose must be "auto", 0, 1 or 2, and it is {verbose!r}.')
    return int(verbose)


def _that_fit(names: list[str]) -> list[str]:
    # A bar that wraps cannot be drawn over, and fills the terminal with its earlier states.
    if not sys.stdout.isatty():
        return names
    room = shutil.get_terminal_size().columns - _BAR_WIDTH
    shown: list[str] = []
    for name in names:
        room -= len(f" - {name}: {'':{_VALUE_WIDTH}}")
        if room < 0 and shown:
            break
        shown.append(name)
    return shown


def _rank(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST)), name


def _number(x: Any) -> str:
    return f"{x:,.0f}" if float(x).is_integer() else f"{float(x):.4g}"
