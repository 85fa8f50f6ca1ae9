"""Callbacks of tfpg. Everything else is Keras's own: any stock callback works unmodified."""

from __future__ import annotations

import sys
from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip


class ProgressBar(keras.callbacks.ProgbarLogger):
    """One Keras progress bar over all iterations, with the latest logs.

    Keras's own `ProgbarLogger` begins a bar in every epoch, which for iterations of a hundredth
    of a second is a wall of them. ``verbose=1`` draws the bar, ``verbose=2`` prints a line for
    every iteration, ``"auto"`` draws in a terminal or notebook and prints lines elsewhere.

    Example:
        >>> bar = ProgressBar()
        >>> bar.set_params({"verbose": 0, "epochs": 3, "steps": 1})
        >>> bar.verbose
        0
    """

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "verbose": resolve_verbose(params["verbose"])})
        self.initial_iteration = params.get("initial_iteration", 0)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._reset_progbar()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.verbose:
            return
        if self.progbar is None:
            self.progbar = keras.utils.Progbar(
                self.epochs,
                verbose=1,
                stateful_metrics=list(logs or {}),
                unit_name="iteration",
            )
        if self.verbose == 1:
            self._last = epoch + 1, list((logs or {}).items())
            self.progbar.update(*self._last, finalize=False)
        else:
            numbers = " - ".join(f"{name}: {_number(x)}" for name, x in (logs or {}).items())
            print(f"{epoch + 1}/{self.epochs} - {numbers}", flush=True)

    def on_train_end(self, logs: Any = None) -> None:
        if self.verbose == 1 and self.progbar is not None:
            self.progbar.update(*self._last, finalize=True)


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


def _number(x: Any) -> str:
    return f"{x:,}" if isinstance(x, int) else f"{float(x):.4g}"
