"""``tfpg bench ALGORITHM ENV``: measure the speed of training, and where the time goes."""

from __future__ import annotations

from tfpg.agents.registry import algorithm_class
from tfpg.cli.command import EnvArguments, WithJson, argument, click_command, setting
from tfpg.core.options import count, positive


class Bench(EnvArguments, WithJson):
    """Measure training speed, and show where the time of each iteration goes.

    Uses the preset's settings. Each part of an iteration is measured separately.
    """

    algorithm: str = argument("Algorithm name, as in tfpg train.")
    env: str = argument("Gymnasium id, or module:id.")
    num_envs: int | None = setting("Number of environments. [default: the preset's]", count)
    seconds: float = setting("Approximate measuring time, in seconds.", positive, default=5.0)

    def execute(self) -> int:
        algorithm_class(self.algorithm)
        from tfpg.agents import presets
        from tfpg.checks.bench import measure

        preset = presets.find(self.algorithm, self.env)
        options = {} if self.num_envs is None else {"num_envs": self.num_envs}
        agent = presets.make(self.algorithm, self.env, seed=0, preset=preset, **options)
        timing = measure(agent, self.env, self.seconds)
        if self.json:
            self.print_json({**timing._asdict(), "steps_per_second": timing.steps_per_second})
            return 0
        print(
            f"{self.algorithm} in {self.env}, {agent.num_envs} environments, "
            f"{agent.model.count_params():,} parameters:\n"
            f"{timing.steps_per_second:,.0f} steps/s; an iteration of {timing.steps:,.0f} steps "
            f"takes {1e3 * timing.whole:.2f} ms"
        )
        for name, seconds in timing.parts.items():
            share = seconds / timing.whole
            print(f"  {name:20}{1e3 * seconds:10.3f} ms  {share:4.0%}  {'#' * round(40 * share)}")
        return 0


bench = click_command("bench", Bench)
