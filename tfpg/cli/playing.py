"""Options of the commands that play a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tfpg
from tfpg.cli import runs
from tfpg.cli.command import Command, whole
from tfpg.core.options import count, flag, fraction, one_of, option, optional
from tfpg.envs import spaces_of


class Playing(Command):
    """A command that plays a saved model."""

    section = "Options of the model and its episodes"

    run_or_model: Path = option(help="Run folder or .keras file.", kw_only=False)
    env: str | None = option(default=None, help="Gymnasium id [default: the run's].")
    seed: int | None = option(
        default=None, check=optional(whole), help="Seed of the episodes [default: random]."
    )
    max_steps: int | None = option(
        default=None,
        check=optional(count),
        help="Cut episodes after this many steps [default: as in training].",
    )
    stochastic: bool = option(
        default=False, check=flag, help="Sample the actions instead of taking the best ones."
    )
    epsilon: float | None = option(
        default=None,
        check=optional(fraction),
        help="The model is a Q-network, and this is the probability of a random action with "
        "--stochastic.",
    )
    positive_action: int | None = option(
        default=None,
        check=optional(one_of(0, 1)),
        help="The action whose probability a model with a single output returns [default: 1].",
    )
    squash: bool | None = option(
        default=None,
        check=optional(flag),
        help="Squash continuous actions into their bounds by tanh, instead of clipping.",
    )
    allow_version_skew: bool = option(
        default=False, check=flag, help="Load models that a newer Keras saved."
    )

    def source(self, given: Path | None = None) -> runs.Source:
        """Return a saved model and how to play it.

        Args:
            given: Run folder or .keras file. None: that of the command.
        """
        names = ("positive_action", "squash", "epsilon")
        head = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        source = runs.find_model(given or self.run_or_model, self.env, head)
        spaces_of(source.env)  # raises an error if there is no such environment
        return source

    def load(self, source: runs.Source) -> Any:
        """Return a `tfpg.Policy` of a saved model."""
        model = tfpg.load_model(source.model, allow_version_skew=self.allow_version_skew)
        try:
            return tfpg.Policy(model, source.env, **source.head)
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
