"""The best model so far, in a file."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from tfpg.core.backend import keras
from tfpg.core.messages import warn
from tfpg.models.saving import critic_path, save_model

# Writing takes at most this share of the time.
_SHARE = 0.05


class KeepBest(keras.callbacks.Callback):
    """Saves the model that played the iteration with the highest ``episode_return``.

    Keras's `ModelCheckpoint` saves the weights at the end of an epoch, after the update. This
    callback saves the weights from before it, which are the ones that played. (Except in REINFORCE,
    ``episode_return`` is a mean over the last episodes, some of which earlier weights played.)
    The optimizer's state is that after the update.

    Writing takes at most a twentieth of the time. If a better model follows soon after another one,
    it is written later, or at the end of training.

    Args:
        path: The ``.keras`` file. It is replaced atomically.
        critic: The critic or value model of the agent, to train the model further. Its weights of
            the same moment are saved next to it, as ``best.critic.keras`` for ``best.keras``.

    Attributes:
        best: The highest ``episode_return`` so far.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = KeepBest(f"{folder}/best.keras")
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 1, callbacks=[keep], verbose=0)
        ...     keep.best > 0, keep.path.exists()
        (True, True)
    """

    def __init__(self, path: str | os.PathLike, critic: keras.Model | None = None):
        super().__init__()
        self.path = Path(path)
        self.critic = critic
        self.best = -math.inf
        self._weights: Any = None  # those of the best model, and of its critic
        self._critics_weights: Any = None
        self._unsaved = False
        self._not_before = 0.0

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        critics = {} if self.critic is None else {"critic": self._critics_weights}
        return {"best": self.best, "weights": self._weights, **critics}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.best, self._weights = state["best"], state["weights"]
        self._critics_weights = state.get("critic")
        self._unsaved = self._weights is not None  # the file may be of a later iteration

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._played = self.model.get_weights()
        self._played_with = None if self.critic is None else self.critic.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Of two equal models the later one has learned for longer.
        if "episode_return" in logs and logs["episode_return"] >= self.best:
            self.best = logs["episode_return"]
            self._weights, self._critics_weights = self._played, self._played_with
            self._unsaved = True
        if time.monotonic() >= self._not_before:
            try:
                self.write()
            except OSError as error:
                warn(f"{error} Saving is tried again after a later iteration.")

    def on_train_end(self, logs: Any = None) -> None:
        self.write()

    def write(self) -> None:
        """Write the best model, if it is not in the file yet.

        Raises:
            OSError: The file cannot be written.
        """
        if not self._unsaved:
            return
        start = time.monotonic()
        if self._critics_weights is not None:
            _save(self.critic, self._critics_weights, critic_path(self.path))
        _save(self.model, self._weights, self.path)
        self._unsaved = False
        end = time.monotonic()
        self._not_before = end + (end - start) / _SHARE


def _save(model: Any, weights: Any, path: Path) -> None:
    """Save a model with other weights than it has now."""
    updated = model.get_weights()
    model.set_weights(weights)
    try:
        save_model(model, path)
    finally:
        model.set_weights(updated)
