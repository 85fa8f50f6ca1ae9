"""``tfpg report RUN``: write an HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from tfpg.cli.command import Command, argument, click_command, setting
from tfpg.core.backend import start_tensorflow
from tfpg.core.memory import readable_bytes
from tfpg.core.options import count, whole


class Report(Command):
    """Write an HTML page about a run, in one file that needs no network.

    The page has the score, curves of all metrics, the video, the command that trains the run again,
    the network, the options and the versions. For a folder of run folders, it compares the runs.
    """

    section = "Options"

    run: Path = argument("Run folder, or a folder of run folders.")
    out: Path | None = setting("HTML file. [default: report.html in the folder]")
    episodes: int | None = setting(
        "Number of new episodes that model.keras plays for its score. [default: none; the scores "
        "are those of the evaluations in training]",
        count,
    )
    seed: int | None = setting("Seed of these episodes. [default: random]", whole)

    def execute(self) -> None:
        start_tensorflow()
        from tfpg.sharing.run_report import report

        path = report(self.run, self.out, episodes=self.episodes, seed=self.seed)
        print(f"{path}  ({readable_bytes(path.stat().st_size)})")


report = click_command("report", Report)
