"""Options of the commands that play a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tfpg
from tfpg.cli.command import Command, EnvArguments, argument, setting
from tfpg.core.options import count, fraction, one_of, whole
from tfpg.envs import render_modes, spaces_of
from tfpg.sharing import runs


class SavedModel(EnvArguments, Command):
    """A command for a saved model."""

    section = "Model options"

    run_or_model: Path = argument("Run folder, pack, .keras file, or zoo:ALGORITHM/ENV.")
    env: str | None = setting("Gymnasium id. [default: the run's]")  # type: ignore[assignment]
    epsilon: float | None = setting(
        "Probability of a random action, for a Q-network that samples actions.",
        fraction,
    )
    positive_action: int | None = setting(
        "For a model with a single output: the action whose probability it returns. [default: 1]",
        one_of(0, 1),
    )
    squash: bool | None = setting(
        "Squash continuous actions into their bounds with a tanh, instead of clipping."
    )
    allow_version_skew: bool = setting(
        "Load models that a newer version of Keras wrote.", default=False
    )

    def source(self, given: Path, env: str | None = None) -> runs.Source:
        """Return a saved model and how to play it.

        Args:
            given: Run folder, pack, or .keras file.
            env: Environment id. None: that of the run.
        """
        names = ("positive_action", "squash", "epsilon")
        head = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        source = runs.find_model(given, env, head, self.kwargs())
        render_modes(source.env)  # raises an error if there is no such environment
        return source

    def load(self, source: runs.Source, env: Any) -> Any:
        """Return a `tfpg.Policy` of a saved model, for an environment or its spaces."""
        model = tfpg.load_model(source.model, allow_version_skew=self.allow_version_skew)
        try:
            return tfpg.Policy(model, env, **source.head)
        except ValueError as error:
            if source.trained_in in (None, source.env):
                raise
            there, here = (
                " and ".join(map(str, spaces_of(x))) for x in (source.trained_in, source.env)
            )
            raise ValueError(
                f"{error} It was trained in {source.trained_in} ({there}), not in {source.env} "
                f"({here})."
            ) from error


class Playing(SavedModel):
    """A command that plays episodes with a saved model."""

    section = "Episode options"

    seed: int | None = setting("Seed of the episodes. [default: random]", whole)
    max_steps: int | None = setting(
        "Cut off episodes after this many steps. [default: as in training]", count
    )
    stochastic: bool = setting("Sample actions instead of taking the best ones.", default=False)
