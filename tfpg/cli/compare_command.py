"""``tfpg compare RUN...``: compare the final scores of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfpg.cli.command import WithJson, click_command, setting
from tfpg.cli.plot_command import RunsCommand


class Compare(RunsCommand, WithJson):
    """Compare the final scores of runs, separately for each environment.

    The score of a run is its mean over the last tenth of training. Runs that differ only in their
    seeds are one row. A folder of run folders stands for all runs in it.
    """

    out: Path | None = setting("Also draw the scores: a .png, .svg, .pdf or .jpg file.")

    def execute(self) -> None:
        from tfpg.results.comparison import compare

        result = compare(list(self.run), self.out, metric=self.metric, dark=self.dark)
        if self.json:
            self.print_json(dataclasses.asdict(result))
            return
        print(result)
        if self.out is not None:
            print(f"\n{self.out}")


compare = click_command("compare", Compare)
