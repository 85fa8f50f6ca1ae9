"""``tfpg resume RUN``: resume a training that was stopped."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli import runs
from tfpg.cli.command import Command, click_command
from tfpg.cli.run_training import Training
from tfpg.cli.train_command import VERBOSE, parse
from tfpg.core.options import flag, one_of, option, optional
from tfpg.envs import spaces_of


class Resume(Command):
    """Resume a training that was stopped.

    It continues from its newest checkpoint, and ends with the same result as a training that was
    not stopped.
    """

    run: Path = option(help="Run folder.", kw_only=False)
    verbose: int | None = option(default=None, check=optional(one_of(0, 1, 2)), help=VERBOSE)
    allow_version_skew: bool = option(
        default=False, check=flag, help="Resume from a checkpoint of newer versions."
    )

    def execute(self) -> None:
        folder = self.run
        if not folder.exists():
            raise FileNotFoundError(f"No run at {str(folder)!r}: give a run folder.")
        if runs.is_free(folder):
            raise ValueError(f"{str(folder)!r} is empty: there is nothing to resume.")
        command = parse(runs.unfinished_command(folder))
        spaces_of(command.env)
        command.verbose = self.verbose
        command.allow_version_skew = self.allow_version_skew
        Training(command, folder, resuming=True).run()


resume = click_command("resume", Resume)
