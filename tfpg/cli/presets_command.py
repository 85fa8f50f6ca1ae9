"""``tfpg presets``: the environments with measured settings, and their scores."""

from __future__ import annotations

from tfpg.agents.presets import PRESETS
from tfpg.cli.command import WithJson, click_command
from tfpg.core.messages import number


class Presets(WithJson):
    """List the environments with tuned settings, and their scores.

    A score is the greedy mean return of 100 episodes: the interquartile mean over ten training
    runs, with its 95% interval. tfpg train uses these settings; for all other environments, it
    uses the defaults of the algorithm.
    """

    def execute(self) -> None:
        if self.json:
            found = [
                {
                    "algorithm": algorithm,
                    "env": env,
                    "env_steps": preset.env_steps,
                    "score": preset.score and preset.score._asdict(),
                }
                for (algorithm, env), preset in PRESETS.items()
            ]
            self.print_json({"presets": found})
            return
        print(f"{'algorithm':11}{'environment':26}{'env steps':>11}  score")
        for (algorithm, env), preset in sorted(PRESETS.items()):
            score = ""
            if preset.score is not None:
                mean, low, high = map(number, preset.score)
                score = f"{mean} ({low} to {high})"
            print(f"{algorithm:11}{env:26}{preset.env_steps:>11,}  {score}")
        print("A trained model of each: tfpg record zoo:ALGORITHM/ENVIRONMENT video.mp4")


presets = click_command("presets", Presets)
