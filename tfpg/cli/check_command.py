"""``tfpg check ENV``: find the problems of an environment."""

from __future__ import annotations

from tfpg.cli.command import EnvArguments, WithJson, argument, click_command, setting
from tfpg.core.options import count, positive, whole


class Check(EnvArguments, WithJson):
    """Find problems in an environment.

    Play random actions in a separate process, because the environment may crash or hang. The exit
    code is 0 if no problem was found, and 1 otherwise.
    """

    env: str = argument("Gymnasium id, or module:id.")
    steps: int = setting("Number of random steps.", count, default=1000)
    seed: int = setting("Seed of the episodes and actions.", whole, default=0)
    seconds: float = setting("Time limit in seconds.", positive, default=10.0)

    def execute(self) -> int:
        from tfpg.checks.isolated import check_isolated

        report = check_isolated(self.env, steps=self.steps, seed=self.seed, seconds=self.seconds)
        if self.json:
            self.print_json(report.as_dict())
        else:
            print(report, flush=True)
        return 0 if report.ok else 1


check = click_command("check", Check)
