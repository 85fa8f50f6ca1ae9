"""Options of ``tfpg train`` that are not an algorithm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfpg.cli.command import each, finite, whole
from tfpg.core.options import (
    WithOptions,
    count,
    flag,
    nonnegative,
    one_of,
    option,
    optional,
    positive,
)


class Model(WithOptions):
    """The network and its optimizer."""

    model: Path | None = option(
        default=None,
        help="Train the model of this run or .keras file instead of a new network.",
    )
    learning_rate: float | None = option(
        default=None, check=optional(positive), help="Learning rate of Adam."
    )
    hidden: tuple[int, ...] | None = option(
        default=None, check=each(count), help="Units of each hidden layer."
    )
    activation: str | None = option(
        default=None, help="Activation of the hidden layers, by its Keras name."
    )
    normalize: bool | None = option(
        default=None,
        check=optional(flag),
        help="Standardize observations by running statistics.",
    )
    dueling: bool | None = option(
        default=None,
        check=optional(flag),
        help="Split the network into a state value and action advantages.",
    )
    log_std: float | None = option(
        default=None,
        check=optional(finite),
        help="Initial log standard deviation of continuous actions.",
    )

    def network(self) -> dict[str, Any]:
        """Return the settings of a new network that were given."""
        names = ("hidden", "activation", "normalize", "log_std")
        return {x: getattr(self, x) for x in names if getattr(self, x) is not None}

    def check_options(self) -> None:
        super().check_options()
        settings = self.network() if self.dueling is None else {"dueling": 0, **self.network()}
        if self.model is not None and settings:
            name = f"--{next(iter(settings)).replace('_', '-')}"
            raise ValueError(f"{name} shapes a new network: leave out --model or {name}.")


class Workers(WithOptions):
    """Processes that run the environments."""

    section = "Worker options"

    workers: int | None = option(
        default=None,
        check=optional(count),
        help="Number of worker processes that share the environments. Without it the environments "
        "run in the training's process.",
    )
    worker_timeout: float | None = option(
        default=None,
        check=optional(positive),
        help="Kill a worker that does not answer for this many seconds.",
    )
    on_env_error: str = option(
        default="raise",
        check=one_of("raise", "restart", "drop"),
        help="When an environment fails: stop the training, restart the episode, or drop it.",
    )

    def check_options(self) -> None:
        super().check_options()
        if self.worker_timeout is not None and self.workers is None:
            raise ValueError("--worker-timeout needs --workers: only a worker can be killed.")


class Output(WithOptions):
    """What is saved besides models and metrics."""

    video: bool = option(default=True, check=flag, help="Record a video of the best model.")
    video_at: tuple[int, ...] | None = option(
        default=None,
        check=each(whole),
        help="Also record a video after each of these iterations. 0 is before the first.",
    )
    snapshots: tuple[int, ...] | None = option(
        default=None,
        check=each(whole),
        help="Save the model after each of these iterations, for tfpg record --snapshots.",
    )
    checkpoint_every: float = option(
        default=10.0,
        check=nonnegative,
        help="Seconds between checkpoints. 0 saves one after each iteration.",
    )
