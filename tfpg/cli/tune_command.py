"""``tfpg tune ALGORITHM ENV``: search for good options with Optuna."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tfpg.cli.command import Setting, setting
from tfpg.cli.run_training import Training
from tfpg.cli.several_runs import without
from tfpg.cli.train_command import AlgorithmCommand, AlgorithmGroup, Train, parse
from tfpg.cli.values import dashed
from tfpg.core.backend import keras
from tfpg.core.messages import show
from tfpg.core.options import count
from tfpg.envs import render_modes

_OWN = ("--trials", "--evaluations", "--study", "--seed", "--run")
_POLICY_GRADIENT = {"entropy_coef": "1e-5:0.1:log"}
_ACTOR_CRITIC = {**_POLICY_GRADIENT, "num_steps": "8,16,32,64,128", "gae_lambda": "0.8:1"}
RANGES = {
    "": {"learning_rate": "1e-4:1e-2:log", "gamma": "0.9,0.95,0.98,0.99,0.995,0.999"},
    "reinforce": {**_POLICY_GRADIENT, "episodes_per_update": "4:32:log"},
    "a2c": _ACTOR_CRITIC,
    "ppo": {**_ACTOR_CRITIC, "epochs": "2:20"},
    "pqn": {"num_steps": "8,16,32,64,128", "q_lambda": "0:1", "epochs": "1:4"},
    "dqn": {"n_step": "1:10", "batch_size": "32,64,128,256", "updates_per_learn": "1,4,16"},
    "sac": {"batch_size": "64,128,256,512", "n_step": "1:5"},
}


class Tune(Train):
    """Search for good options with Optuna, and print the best ones as a command.

    A trial is a training run that stops early if its learning curve falls below the median of the
    other trials. Run the same command again, or in several terminals at once, to add trials.
    """

    section = "Search options"

    range: tuple[str, ...] | None = setting(
        "Options to search over, such as learning_rate=1e-4:1e-2:log epochs=2:20 "
        "num_steps=32,64,128. [default: the learning rate and a handful of others]"
    )
    trials: int = setting("Number of trials to run in this process.", count, default=50)
    evaluations: int = setting(
        "Number of evaluations of the greedy policy per trial.", count, default=10
    )
    study: Path = setting("SQLite file that stores the study.", default=Path("tune.db"))

    def check_options(self) -> None:
        super().check_options()
        if self.iterations is not None:
            raise ValueError("Trials are as long as --env-steps: leave out --iterations.")
        if self.seeds is not None:
            raise ValueError("Each trial has its own seed: leave out --seeds.")

    def execute(self) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ImportError(f"tfpg tune needs Optuna: pip install optuna ({error})") from error
        render_modes(self.env)  # raises an error if there is no such environment
        words = [*without(self.words, *_OWN, several=["--range"]), "--no-video"]
        ranges = self.ranges()
        for name, text in ranges.items():  # reject invalid ranges before training starts
            for value in _values(name, text):
                parse(_command(words, {name: value}))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            study_name=f"{_command(words, ranges)}, {self.evaluations} evaluations",
            storage=f"sqlite:///{self.study}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=5, n_warmup_steps=self.evaluations // 5
            ),
            load_if_exists=True,
        )

        def objective(trial: Any) -> float:
            options = {name: self._suggest(trial, name, text) for name, text in ranges.items()}
            trial.set_user_attr("options", options)
            return self._play(_command([*words, "--seed", str(trial.number)], options), trial)

        def report(study: Any, trial: Any) -> None:
            value = trial.state.name.lower()
            if trial.value is not None:
                value = f"mean return {trial.value:.1f}"
            options = ", ".join(f"{k}={v}" for k, v in trial.user_attrs["options"].items())
            show(f"Trial {trial.number}: {value} with {options}")

        study.optimize(objective, self.trials, catch=FloatingPointError, callbacks=[report])
        if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
            raise RuntimeError("No trial was completed: there is no best one.")
        best = study.best_trial
        show(
            f"\nBest of {len(study.trials)} trials: number {best.number}, mean return "
            f"{best.value:.1f}.\n{_command(words[:-1], best.user_attrs['options'])}"
        )

    def ranges(self) -> dict[str, str]:
        """Return the range of each option."""
        if not self.range:
            return {**RANGES[""], **RANGES.get(self.algorithm, {})}
        parts = (text.partition("=") for text in self.range)
        return {name.replace("-", "_"): values for name, _, values in parts}

    def _suggest(self, trial: Any, name: str, text: str) -> str:
        """A value of an option, as on the command line."""
        if ":" not in text:
            return trial.suggest_categorical(name, text.split(","))
        low, high, *scale = text.split(":")
        params = AlgorithmCommand(self.algorithm, Train).params
        kinds = next(x.kind.types for x in params if isinstance(x, Setting) and x.name == name)
        if int in kinds and float not in kinds:
            return str(trial.suggest_int(name, int(low), int(high), log=bool(scale)))
        return f"{trial.suggest_float(name, float(low), float(high), log=bool(scale)):.6g}"

    def _play(self, command: str, trial: Any) -> float:
        """Train, and return the mean return in the second half of the evaluations."""
        training = Training(parse(command), Path(), resuming=False)
        budget = training.preset.env_steps
        every = max(1, budget // self.evaluations)
        curve = dict[int, float]()
        with training.environments() as envs:
            training.agent.fit(
                envs,
                iterations=training.iterations,
                env_steps=budget,
                validation_envs=self.env,
                validation_env_steps=every,
                validation_episodes=self.validation_episodes,
                callbacks=[_reports(trial, curve, every)],
                seed=trial.number,
                verbose=0,
                workers=training.ray_workers(),
            )
        if not curve:
            raise ValueError("A trial ended before the first evaluation: use more --env-steps.")
        late = list(curve.values())[len(curve) // 2 :]
        return sum(late) / len(late)


def _values(name: str, text: str) -> list[str]:
    """The values of a range, or its ends."""
    ends, values = text.split(":"), text.split(",")
    if ":" not in text and all(values):
        return values
    try:
        low, high = map(float, ends[:2])
        valid = low < high and ends[2:] in ([], ["log"])
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            "--range must be NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=VALUE,VALUE, got "
            f"{name}={text}."
        )
    return ends[:2]


def _command(words: list[str], options: dict[str, str]) -> str:
    flags = [word for name, value in options.items() for word in (dashed(name), value)]
    return shlex.join(["tfpg", "train", *words, *flags])


def _reports(trial: Any, curve: dict[int, float], every: int) -> Any:
    """A callback that reports the learning curve, and ends a trial that falls behind."""
    import optuna

    def report(iteration: int, logs: Any) -> None:
        # Trials are compared by evaluation number, because iterations differ in length.
        number = int(logs.get("val_env_steps", 0) // every)
        if number and number not in curve:
            curve[number] = logs["val_episode_return"]
            trial.report(curve[number], number)
            if trial.should_prune():
                raise optuna.TrialPruned

    return keras.callbacks.LambdaCallback(on_epoch_end=report)


tune = AlgorithmGroup("tune", Tune)
