"""Search for good options of an algorithm with Optuna, and stop bad trials early.

python scripts/tune.py ppo CartPole-v1 --trials 50 --env-steps 50000

Run it again to continue the study, and in several processes at a time to share it.
"""

import argparse
import shlex

import keras
import optuna

import tfpg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("algorithm", choices=["reinforce", "a2c", "ppo", "dqn"])
parser.add_argument("env", help="Gymnasium id")
parser.add_argument("--trials", type=int, default=50, help="trials of this process")
parser.add_argument("--env-steps", type=int, default=100_000, help="length of a trial")
parser.add_argument("--evaluations", type=int, default=10, help="of the greedy policy in a trial")
parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
parser.add_argument("--storage", default="sqlite:///tune.db")
args = parser.parse_args()


def suggest(trial):
    """Return the options of a trial. Change them, and their ranges, to your needs."""
    found = {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}
    found["gamma"] = 1 - trial.suggest_float("1 - gamma", 1e-3, 0.1, log=True)
    if args.algorithm != "dqn":
        found["entropy_coef"] = trial.suggest_float("entropy_coef", 1e-5, 0.1, log=True)
    if args.algorithm == "reinforce":
        found["episodes_per_update"] = trial.suggest_int("episodes_per_update", 4, 32, log=True)
    if args.algorithm in ("a2c", "ppo"):
        found["num_steps"] = trial.suggest_categorical("num_steps", [8, 16, 32, 64, 128])
        found["gae_lambda"] = trial.suggest_float("gae_lambda", 0.8, 1.0)
    if args.algorithm == "ppo":
        found["epochs"] = trial.suggest_int("epochs", 2, 20)
    if args.algorithm == "dqn":
        found["n_step"] = trial.suggest_int("n_step", 1, 10)
        found["batch_size"] = trial.suggest_categorical("batch_size", [32, 64, 128, 256])
        found["updates_per_learn"] = trial.suggest_categorical("updates_per_learn", [1, 4, 16])
    # Rounded, so that training with the printed options repeats the trial.
    return {name: round(x, 6) if isinstance(x, float) else x for name, x in found.items()}


class Report(keras.callbacks.Callback):
    """Reports the learning curve of the greedy policy, and ends a trial that falls behind."""

    def __init__(self, trial):
        super().__init__()
        self.trial, self.returns = trial, {}

    def on_epoch_end(self, epoch, logs=None):
        # Trials are compared at the same number, though iterations differ in length.
        number = int(logs.get("val_env_steps", 0) // every)
        if number and number not in self.returns:
            self.returns[number] = logs["val_episode_return"]
            self.trial.report(self.returns[number], number)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def objective(trial):
    """Return the mean return in the second half of the evaluations."""
    options = suggest(trial)
    trial.set_user_attr("options", options)
    rate = {"learning_rate": options["learning_rate"]}
    found = tfpg.presets.find(args.algorithm, args.env)
    others = {name: x for name, x in options.items() if name not in rate}
    changed = found._replace(options={**found.options, **others})
    preset = tfpg.presets.with_budget(changed, args.env_steps)
    # Made as `tfpg train` makes it, so that the command that is printed repeats the trial.
    agent = tfpg.presets.make(args.algorithm, args.env, trial.number, preset=preset, **rate)
    report = Report(trial)
    agent.fit(
        args.env,
        iterations=tfpg.presets.iterations_of(preset),
        env_steps=args.env_steps,
        validation_envs=args.env,
        validation_env_steps=every,
        validation_episodes=args.episodes,
        callbacks=[report],
        seed=trial.number,
        verbose=0,
    )
    returns = list(report.returns.values())
    return sum(returns[len(returns) // 2 :]) / len(returns[len(returns) // 2 :])


every = max(1, args.env_steps // args.evaluations)
study = optuna.create_study(
    study_name=f"{args.algorithm} {args.env} {args.env_steps}",
    storage=args.storage,
    direction="maximize",
    pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=args.evaluations // 5),
    load_if_exists=True,
)
study.optimize(objective, args.trials, catch=FloatingPointError)  # NaN

best = study.best_trial
options = best.user_attrs["options"]
flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
budget = f"--env-steps={args.env_steps}"
print(f"Best of {len(study.trials)} trials: number {best.number}, mean return {best.value:.1f}.")
print(shlex.join(["tfpg", "train", args.algorithm, args.env, budget, *flags]))
values = ", ".join(f"{name}={value!r}" for name, value in options.items())
print(f'agent = tfpg.presets.make("{args.algorithm}", "{args.env}", {values})')
