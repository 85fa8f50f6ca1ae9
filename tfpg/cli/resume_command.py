"""``tfpg resume RUN``: resume a stopped training run."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli.command import Command, argument, click_command, setting
from tfpg.cli.run_training import Training
from tfpg.cli.train_command import VERBOSE, parse
from tfpg.core.options import one_of
from tfpg.envs import render_modes
from tfpg.sharing import runs


class Resume(Command):
    """Resume a stopped training run.

    The run continues from its newest checkpoint, and has the same result as a run that was never
    stopped.
    """

    run: Path = argument("Run folder.")
    verbose: int = setting(VERBOSE, one_of(0, 1, 2), default=1)
    allow_version_skew: bool = setting(
        "Resume from a checkpoint that a newer version of tfpg or Keras wrote.", default=False
    )

    def execute(self) -> None:
        folder = self.run
        if not folder.exists():
            raise FileNotFoundError(f"No run at {str(folder)!r}: pass a run folder.")
        if runs.is_free(folder):
            raise ValueError(f"{str(folder)!r} is empty: there is nothing to resume.")
        command = parse(runs.unfinished_command(folder))
        render_modes(command.env)
        command.verbose = self.verbose
        command.allow_version_skew = self.allow_version_skew
        Training(command, folder, resuming=True).run()


resume = click_command("resume", Resume)
