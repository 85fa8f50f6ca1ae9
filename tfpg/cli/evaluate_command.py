"""``tfpg evaluate RUN_OR_MODEL``: measure a saved model."""

from __future__ import annotations

from tfpg.cli.command import WithJson, click_command, setting
from tfpg.cli.playing import Playing
from tfpg.core.backend import start_tensorflow
from tfpg.core.messages import number
from tfpg.core.options import count


class Evaluate(Playing, WithJson):
    """Measure the return of a saved model over new episodes."""

    episodes: int = setting("Number of episodes.", count, default=100)

    def execute(self) -> None:
        source = self.source(self.run_or_model, self.env)
        start_tensorflow()
        from tfpg.rollouts.evaluation import evaluate, open_envs

        with open_envs(source.env, self.episodes) as envs:
            result = evaluate(
                self.load(source, envs),
                envs,
                self.episodes,
                seed=self.seed,
                deterministic=not self.stochastic,
                max_steps=self.max_steps or source.max_steps,
            )
        model = source.pack or source.model
        if self.json:
            self.print_json({"model": str(model), "env": source.env, **result})
            return
        kind, returns = "sampled" if self.stochastic else "greedy", result["episode_returns"]
        print(
            f"{model} in {source.env}, {self.episodes} {kind} episodes, "
            f"seed {result['seed']}:\n"
            f"  return  {number(result['episode_return'])}"
            f"  (standard deviation {number(result['episode_return_std'])},"
            f" from {number(min(returns))} to {number(max(returns))})\n"
            f"  length  {number(result['episode_length'])}"
        )


evaluate = click_command("evaluate", Evaluate)
