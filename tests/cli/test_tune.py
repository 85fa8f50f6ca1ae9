"""``tfpg tune``: a study that continues, and whose best trial can be repeated."""

import csv
import shlex
import subprocess
import sys

import pytest

from tfpg.cli.main import main

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'tfpg[tune]'")

TUNE = ["tune", "a2c", "CartPole-v1", "--env-steps", "1500", "--evaluations", "3"]
SMALL = [*TUNE, "--validation-episodes", "2", "--hidden", "8"]


def run(*words, cwd):
    command = [sys.executable, "-m", "tfpg", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_search_continues_and_its_printed_command_repeats_the_best_trial(tmp_path):
    for trials in (1, 2):
        lines = run(*SMALL, "--trials", trials, cwd=tmp_path)
    said, command = lines[-2:]
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/tune.db")
    best = study.best_trial
    assert len(study.trials) == 3
    assert said == f"Best of 3 trials: number {best.number}, mean return {best.value:.1f}."
    assert f"Trial {study.trials[-1].number}: " in "\n".join(lines)
    same = ["--seed", best.number, "--validation-env-steps", "500"]
    run(*shlex.split(command)[1:], *same, "--no-video", "--run", "run", cwd=tmp_path)
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_env_steps"] != "NA"]
    returns = {}
    for row in rows:
        number = int(float(row["val_env_steps"])) // 500
        returns.setdefault(number, float(row["val_episode_return"]))
    assert best.intermediate_values == returns


@pytest.mark.slow
def test_the_options_are_in_their_ranges_and_other_ranges_begin_another_study(tmp_path):
    ranges = ["--range", "gamma=0.5:0.6", "epochs=2:3", "num_steps=8,16"]
    for more in ([], ["learning-rate=1e-3:2e-3:log"]):
        run(*SMALL, "--trials", 2, *ranges, *more, cwd=tmp_path)
    storage = f"sqlite:///{tmp_path}/tune.db"
    names = optuna.get_all_study_names(storage)
    assert len(names) == 2
    for name in names:
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            options = trial.user_attrs["options"]
            assert 0.5 <= float(options["gamma"]) <= 0.6
            assert options["epochs"] in ("2", "3")
            assert options["num_steps"] in ("8", "16")
            assert 1e-3 <= float(options.get("learning_rate", 1e-3)) <= 2e-3


@pytest.mark.parametrize("option", ["--iterations", "--seeds"])
def test_options_that_trials_cannot_have_are_refused(capsys, option):
    assert main(["tune", "a2c", "CartPole-v1", option, "2"]) == 2
    assert f"leave out {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("epochs=2:", "--range must be NAME=LOW:HIGH"),
        ("epochs=5:2", "got epochs=5:2"),
        ("epochs", "--range must be"),
        ("epoch=2:5", "Did you mean '--epochs'?"),
        ("gamma=0.9:2", "--gamma must be a number from 0 to 1, got 2"),
    ],
)
def test_wrong_ranges_are_refused_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, given, text
):
    monkeypatch.chdir(tmp_path)
    assert main([*TUNE, "--range", given]) == 1
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
