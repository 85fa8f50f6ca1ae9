"""The options of ``tfpg train`` that all algorithms share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfpg.cli.command import setting
from tfpg.cli.values import each, finite, whole
from tfpg.core.options import (
    WithOptions,
    count,
    nonnegative,
    one_of,
    positive,
)


class Model(WithOptions):
    """The network and its optimizer."""

    model: Path | None = setting(
        "Run or .keras file with the model to train, instead of a new network."
    )
    learning_rate: float | None = setting("Learning rate of Adam.", positive)
    hidden: tuple[int, ...] | None = setting("Units of each hidden layer.", each(count))
    activation: str | None = setting("Keras name of the activation function of the hidden layers.")
    normalize: bool | None = setting("Standardize observations with running statistics.")
    dueling: bool | None = setting(
        "Split the network into streams for the state value and the advantages."
    )
    log_std: float | None = setting("Initial log standard deviation of continuous actions.", finite)

    def network(self) -> dict[str, Any]:
        """Return the settings of a new network that were given."""
        names = ("hidden", "activation", "normalize", "log_std")
        return {x: getattr(self, x) for x in names if getattr(self, x) is not None}

    def check_options(self) -> None:
        super().check_options()
        settings = self.network() if self.dueling is None else {"dueling": 0, **self.network()}
        if self.model is not None and settings:
            name = f"--{next(iter(settings)).replace('_', '-')}"
            raise ValueError(f"{name} is for new networks: leave out --model or {name}.")


class Workers(WithOptions):
    """Processes that run the environments."""

    section = "Worker options"

    workers: int | None = setting(
        "Number of worker processes to distribute the environments over. [default: none]",
        count,
    )
    worker_timeout: float | None = setting(
        "Kill a worker that does not answer within this many seconds.", positive
    )
    on_env_error: str = setting(
        "If an environment fails: stop training, restart the episode, or drop it.",
        one_of("raise", "restart", "drop"),
        default="raise",
    )

    def check_options(self) -> None:
        super().check_options()
        if self.worker_timeout is not None and self.workers is None:
            raise ValueError("--worker-timeout needs --workers: only a worker can be killed.")


class Output(WithOptions):
    """Files to save in addition to the models and metrics."""

    video: bool = setting("Record a video of the best model.", default=True)
    video_at: tuple[int, ...] | None = setting(
        "Also record a video after each of these iterations. 0: before the first one.",
        each(whole),
    )
    snapshots: tuple[int, ...] | None = setting(
        "Save the model after each of these iterations, for tfpg record --snapshots.", each(whole)
    )
    checkpoint_every: float = setting(
        "Seconds between checkpoints. 0: save one after each iteration.", nonnegative, default=10.0
    )
