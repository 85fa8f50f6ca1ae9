"""``tfpg check ENV``: find the problems of an environment."""

from __future__ import annotations

import json

from tfpg.cli.command import WithJson, click_command, whole
from tfpg.core.options import count, option, positive


class Check(WithJson):
    """Find the problems of an environment.

    It is played at random in another process, which it may crash or block. The exit code is 0 if
    there is no problem, else 1.
    """

    env: str = option(help="Gymnasium id, or module:id.", kw_only=False)
    steps: int = option(default=1000, check=count, help="Number of random steps.")
    seed: int = option(default=0, check=whole, help="Seed of the episodes and actions.")
    seconds: float = option(default=10.0, check=positive, help="Time limit in seconds.")

    def execute(self) -> int:
        from tfpg.checks.isolated import check_isolated

        report = check_isolated(self.env, steps=self.steps, seed=self.seed, seconds=self.seconds)
        print(json.dumps(report.as_dict()) if self.json else report, flush=True)
        return 0 if report.ok else 1


check = click_command("check", Check)
