"""A progress bar over all iterations."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from tfpg.core.backend import keras
from tfpg.core.messages import number, show

_FIRST = (
    *("episode_return", "episode_length", "env_steps", "steps/s", "updates/s"),
    *("val_episode_return", "val_episode_length"),
    *("epsilon", "loss", "mean_q", "policy_loss", "value_loss", "entropy"),
)
# The values of the bar, most important first: as many as fit.
_FIRST_IN_BAR = ("episode_return", "val_episode_return", "epsilon", "steps/s", "loss", "mean_q")
_SHORT = {
    "episode_return": "return",
    "episode_length": "length",
    "val_episode_return": "val_return",
    "val_episode_length": "val_length",
}

# Columns of Keras's bar with its counts and times, and of one value.
_BAR_WIDTH, _VALUE_WIDTH = 34, 9


class ProgressBar(keras.callbacks.ProgbarLogger):
    """One Keras progress bar over all iterations, with the latest logs.

    Keras's `ProgbarLogger` starts a new bar in every epoch, but an iteration may take a hundredth
    of a second. ``verbose=1`` draws one bar, in a terminal with the logs that fit on its line.
    ``verbose=2`` prints a line for every iteration. ``"auto"`` draws in a terminal or notebook and
    prints elsewhere.

    Both show environment steps and updates per second. Logs do not contain them, so that the same
    seed gives the same logs.

    Example:
        >>> bar = ProgressBar()
        >>> bar.set_params({"verbose": 0, "epochs": 3, "steps": 1})
        >>> bar.verbose
        0
    """

    progbar: Any

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": resolve_verbose(params["verbose"])})
        self.params = params

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._reset_progbar()
        self._counted: dict[Any, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._counted is None:
            self._counted = {name: self.params.get(name, 0) for name in ("env_steps", "updates")}
            self._counted_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_test_begin(self, logs: Any = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_test_end(self, logs: Any = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.verbose:
            return
        # Keras hands the logs over in alphabetical order.
        logs = {**(logs or {}), **self._rates(logs or {})}
        logs = dict(sorted(logs.items(), key=lambda item: rank(item[0])))
        if self.verbose == 1:
            if self.progbar is None:
                self._shown = _that_fit(sorted({*self._to_come(), *logs}, key=_rank_in_bar))
                names = [_SHORT.get(name, name) for name in self._shown]
                self.progbar = keras.utils.Progbar(
                    self.epochs, width=12, stateful_metrics=names, unit_name="it"
                )
            shown = [(_SHORT.get(k, k), logs[k]) for k in self._shown if k in logs]
            self._last = epoch + 1, shown
            self.progbar.update(*self._last, finalize=False)
        elif self.verbose == 2:
            numbers = " - ".join(f"{name}: {number(x)}" for name, x in logs.items())
            show(f"{epoch + 1}/{self.epochs} - {numbers}")

    def on_train_end(self, logs: Any = None) -> None:
        if self.verbose == 1 and self.progbar is not None:
            self.progbar.update(*self._last, finalize=True)

    def _to_come(self) -> list[str]:
        """Names that the logs of the first iteration may lack."""
        names = ["episode_return", "episode_length"]
        return names + [f"val_{name}" for name in names if self.params.get("validates")]

    def _rates(self, logs: dict[str, float]) -> dict[str, float]:
        now = time.monotonic()
        seconds, self._counted_at = now - self._counted_at, now
        counted = {name: logs[name] for name in ("env_steps", "updates") if name in logs}
        before, self._counted = self._counted or {}, counted
        return {
            f"{name.removeprefix('env_')}/s": round((count - before.get(name, count)) / seconds)
            for name, count in counted.items()
            if seconds > 0
        }


def resolve_verbose(verbose: Any) -> int:
    """Return 0, 1 or 2 for a ``verbose`` argument.

    Raises:
        ValueError: It is not ``"auto"``, 0, 1 or 2.
    """
    if verbose == "auto":
        return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f'verbose must be "auto", 0, 1 or 2, got {verbose!r}.')
    return int(verbose)


def _that_fit(names: list[str]) -> list[str]:
    # A bar that wraps cannot be overwritten, and fills the terminal.
    if not sys.stdout.isatty():
        return names
    room = shutil.get_terminal_size().columns - _BAR_WIDTH
    shown: list[str] = []
    for name in names:
        room -= len(f" - {_SHORT.get(name, name)}: {'':{_VALUE_WIDTH}}")
        if room < 0 and shown:
            break
        shown.append(name)
    return shown


def rank(name: str) -> tuple[int, str]:
    """Return a sort key that puts the most important logs first."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST)), name


def _rank_in_bar(name: str) -> tuple[int, tuple[int, str]]:
    first = _FIRST_IN_BAR
    return (first.index(name) if name in first else len(first)), rank(name)
