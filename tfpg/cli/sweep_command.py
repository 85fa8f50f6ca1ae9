"""``tfpg sweep ALGORITHM ENV``: train with several seeds and settings, and compare them."""

from __future__ import annotations

import shlex
from pathlib import Path

from tfpg.cli.command import Setting, setting
from tfpg.cli.several_runs import grid, seeds, train_all, without
from tfpg.cli.train_command import (
    AlgorithmCommand,
    AlgorithmGroup,
    Train,
    check_finished,
    parse,
)
from tfpg.cli.values import dashed
from tfpg.core.messages import show
from tfpg.core.options import count
from tfpg.envs import render_modes, split_env_id

_OWN = ("--seeds", "--seed", "--run", "--jobs", "--cluster")
CURVES, SCORES = "curves.png", "scores.png"
_SWITCHES = {"on": True, "true": True, "off": False, "false": False}


class Sweep(Train):
    """Train with several seeds and settings, and compare them.

    Each run has its own folder. To resume a stopped sweep, run the same command again: finished
    runs are kept.
    """

    section = "Sweep options"

    set: tuple[str, ...] | None = setting(
        "Settings to try, in all combinations, such as learning_rate=1e-3,3e-4 hidden='64 64,256'."
    )
    seeds: int | None = setting("Number of seeds for each setting.", count, default=5)
    jobs: int | None = setting(
        "Number of runs to train at a time. [default: the number of cores, or as many as fit in "
        "the cluster]",
        count,
    )
    cluster: str | None = setting(
        "Address of a Ray cluster to train on. Its nodes must share the run folder. [default: "
        "processes on this machine]"
    )

    def execute(self) -> None:
        from tfpg.results.comparison import compare
        from tfpg.results.learning_curves import plot

        render_modes(self.env)  # raises an error if there is no such environment
        name, _ = split_env_id(self.env)
        folder = self.run or Path("runs") / f"sweep-{self.algorithm}-{name.split('/')[-1]}"
        if self.cluster is not None:
            folder = folder.resolve()
        words = without(self.words, *_OWN, several=["--set"])
        jobs = grid(self.settings_to_try(), seeds(self.seed or 0, self.seeds or 1))
        for job in jobs:
            parse(shlex.join(["tfpg", "train", *words, *job.words]))
        train_all(folder, words, jobs, self.jobs, self.cluster, check_finished)
        plot(folder, folder / CURVES)
        compare(folder, folder / SCORES)
        show(f"\n  {folder / CURVES}\n  {folder / SCORES}")

    def settings_to_try(self) -> dict[str, list[tuple[str, list[str]]]]:
        """Return the values of each setting, as texts and as words of the command line.

        Raises:
            ValueError: A setting is not of the form NAME=VALUE,VALUE.
        """
        found = {}
        for text in self.set or ():
            name, equals, values = text.partition("=")
            name = name.replace("-", "_")
            if not equals or not name.isidentifier():
                raise ValueError(f"--set must be NAME=VALUE,VALUE, got {text!r}.")
            found[name] = [(value, self._words(name, value)) for value in values.split(",")]
        return found

    def _words(self, name: str, value: str) -> list[str]:
        params = AlgorithmCommand(self.algorithm, Train).params
        switches = [x.name for x in params if isinstance(x, Setting) and x.is_switch]
        if name not in switches:
            return [dashed(name), *value.split()]
        if value not in _SWITCHES:
            raise ValueError(f"--set {name} must be on or off, got {value!r}.")
        return [dashed(name if _SWITCHES[value] else f"no_{name}")]


sweep = AlgorithmGroup("sweep", Sweep)
