"""The logs of all iterations as a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfpg.callbacks.progress import rank
from tfpg.core.backend import keras
from tfpg.core.files import describe_write_error


class MetricsLogger(keras.callbacks.CSVLogger):
    """Keras's `CSVLogger`, with columns for values that are missing in the first iteration.

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
            # Values that are not logged in every iteration need a column, too.
            later = {"episode_return", "episode_length"}
            if self.params.get("validates"):
                later |= {"val_episode_return", "val_episode_length", "val_env_steps"}
            self.keys = sorted({*logs, *later}, key=rank)
        try:
            super().on_epoch_end(epoch, logs)
        except OSError as error:
            path = Path(self.filename)
            reason = describe_write_error(error, path)
            raise OSError(
                f"{str(path)!r} cannot be written ({reason}). The earlier rows are complete: free "
                "some space and resume the run."
            ) from error
