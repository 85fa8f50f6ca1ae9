"""The best model so far, kept in a file."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from tfpg.core.backend import keras
from tfpg.core.messages import warn
from tfpg.models.saving import save_model


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
