"""``tfpg plot RUN...``: draw learning curves."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli.command import Command, argument, click_command, setting


class RunsCommand(Command):
    """A command about the metrics of runs."""

    section = "Options"

    run: tuple[Path, ...] = argument("Run folders, or folders of run folders.")
    metric: str | None = setting(
        "Column of metrics.csv. [default: val_episode_return, or episode_return if a run has no "
        "validation]"
    )
    dark: bool = setting("Draw on a dark background.", default=False)


class Plot(RunsCommand):
    """Draw learning curves of runs against environment steps.

    Runs that differ only in their seeds are one line. A folder of run folders stands for all runs
    in it.
    """

    out: Path = setting("File: .png, .svg, .pdf or .jpg.", default=Path("curves.png"))

    def execute(self) -> None:
        from tfpg.results.learning_curves import plot

        plot(list(self.run), self.out, metric=self.metric, dark=self.dark)
        print(self.out)


plot = click_command("plot", Plot)
