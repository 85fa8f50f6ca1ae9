"""The command line, as a subprocess."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import imageio.v3 as iio
import pytest
from marks import slow_but
from PIL import Image

import tfpg
from tfpg.cli.train import _of_cnn

SMALL = ["--iterations", "3", "--episodes-per-update", "4", "--max-steps", "30", "--seed", "1"]


def run(*args, cwd=None, check=False, **env):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "CI")}
    return subprocess.run(
        [sys.executable, "-m", "tfpg", *map(str, args)],
        cwd=cwd,
        env={**environment, **env},
        capture_output=True,
        text=True,
        check=check,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small run in it."""
    folder = tmp_path_factory.mktemp("cli")
    done = run("train", "reinforce", "CartPole-v1", *SMALL, "--run", "runs/small", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "train.out").write_text(done.stdout)
    (folder / "train.err").write_text(done.stderr)
    return folder


class TestDQN:
    @pytest.mark.slow
    def test_trains_evaluates_and_films(self, tmp_path):
        options = ["--env-steps", "1500", "--learning-starts", "400", "--n-step", "3"]
        options += ["--epsilon", "1", "0.1", "1000", "--hidden", "16", "--prioritized"]
        done = run(
            "train", "dqn", "CartPole-v1", *options, "--seed", "1", "--run", "r", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "steps/s: " in done.stdout
        config = json.loads((tmp_path / "r/config.json").read_text())
        assert config["network"] == {"architecture": "dueling", "hidden": [16]}
        assert config["options"]["epsilon"] == "linear(1.0, 0.1, 1000.0)"
        assert config["options"]["prioritized"]
        assert config["head"] == {"epsilon": 0.1}
        with (tmp_path / "r/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert 400 < float(rows[-1]["env_steps"]) <= 1500
        # Going on, it explores as little as in the end, and does not fill the replay at random.
        more = ["--env-steps", "300", "--steps-per-iteration", "64", "--no-film"]
        done = run(
            "train", "dqn", "CartPole-v1", *more, "--model", "r", "--run", "more", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        config = json.loads((tmp_path / "more/config.json").read_text())
        assert (config["options"]["epsilon"], config["options"]["learning_starts"]) == (0.02, 128)
        greedy, explored = (
            json.loads(run("evaluate", "r", "--episodes", "9", "--json", *x, cwd=tmp_path).stdout)
            for x in (["--seed", "1"], ["--seed", "1", "--stochastic"])
        )
        assert greedy["episode_returns"] != explored["episode_returns"]

    @pytest.mark.slow
    def test_an_atari_game(self, tmp_path):
        options = ["--env-steps", "300", "--learning-starts", "100", "--capacity", "2000"]
        options += ["--dueling", "--hidden", "64"]
        done = run("train", "dqn", "ALE/Pong-v5", *options, "--seed", "1", "--run", "r",
                   "--max-steps", "40", cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert iio.improps(tmp_path / "r/film.mp4", plugin="pyav").shape[1:3] == (228, 160)
        config = json.loads((tmp_path / "r/config.json").read_text())
        assert config["options"]["reward_clip"] == 1.0
        assert config["network"] == {"architecture": "nature_cnn", "hidden": 64, "dueling": True}
        model = tfpg.load_model(tmp_path / "r/model.keras")
        assert sum(layer.name.startswith("dense") for layer in model.layers) == 4

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ({"activation": "relu"}, "--activation is for dense networks, and Atari games get a"),
            ({"normalize": True}, "--normalize is for dense networks"),
            ({"hidden": [64, 64]}, "--hidden takes one number for a nature_cnn, .* and got 2"),
        ],
    )
    def test_what_an_atari_network_does_not_have(self, network, message):
        with pytest.raises(ValueError, match=message):
            _of_cnn(network)


class TestTrain:
    def test_writes_a_run_and_says_where_everything_is(self, folder):
        out = (folder / "train.out").read_text()
        names = [
            "model.keras",
            "last.keras",
            "metrics.csv",
            "learning_curve.png",
            "config.json",
            "film.mp4",
        ]
        for name in names:
            assert f"runs/small/{name}" in out
            assert (folder / "runs/small" / name).stat().st_size > 0
        found = {p.name for p in (folder / "runs/small").iterdir()}
        assert found == {*names, "checkpoints"}

    def test_the_terminal_is_quiet_but_for_itself(self, folder):
        assert (folder / "train.err").read_text() == ""
        lines = (folder / "train.out").read_text().splitlines()
        assert [line.split(" ")[0] for line in lines[:3]] == ["1/3", "2/3", "3/3"]

    def test_metrics_have_a_row_an_iteration(self, folder):
        rows = list(csv.DictReader((folder / "runs/small/metrics.csv").open()))
        assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
        assert all(float(row["episode_return"]) > 0 for row in rows)

    def test_config_says_how_to_repeat_it(self, folder):
        config = json.loads((folder / "runs/small/config.json").read_text())
        assert config["algorithm"] == "reinforce"
        assert config["env"] == "CartPole-v1"
        assert config["seed"] == 1
        assert config["options"]["max_steps"] == 30
        assert config["optimizer"]["class_name"] == "Adam"
        assert set(config["versions"]) >= {"tfpg", "tensorflow", "keras", "gymnasium", "python"}

    def test_pictures_can_be_opened(self, folder):
        with Image.open(folder / "runs/small/learning_curve.png") as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(100_000)) > 20
        film = iio.imread(folder / "runs/small/film.mp4", plugin="pyav")
        assert film.shape[1:] == (422, 600, 3)
        assert film.mean() > 100

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_model(self, folder, tmp_path):
        args = ["train", "reinforce", "CartPole-v1", *SMALL, "--no-film"]
        run(*args, "--run", tmp_path / "again", check=True)
        rows = [
            (run_folder / "metrics.csv").read_text()
            for run_folder in (folder / "runs/small", tmp_path / "again")
        ]
        assert rows[0] == rows[1]
        assert not (tmp_path / "again/film.mp4").exists()

    @pytest.mark.slow
    def test_goes_on_from_a_model(self, folder, tmp_path):
        model = folder / "runs/small/model.keras"
        out = tmp_path / "more"
        args = ["--iterations", 1, "--episodes-per-update", 2, "--no-film"]
        done = run("train", "reinforce", "CartPole-v1", *args, "--model", model, "--run", out)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "config.json").read_text())["network"] == {"model": str(model)}

    @pytest.mark.slow
    def test_ctrl_c_and_termination_are_clean(self, tmp_path):
        # Started in the background of a shell, a process is told to ignore SIGINT.
        start = (
            "import signal, sys\nfrom tfpg.cli.main import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\nsys.exit(main())"
        )
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", start, "train", "reinforce", "CartPole-v1"),
                    *("--iterations", "100000", "--run", str(tmp_path / f"run{code}")),
                    "--no-film",
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdout.readline().startswith("1/100000")
            time.sleep(0.3)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
            assert process.returncode == code, err
            assert "Traceback" not in err


EARLY = """
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "tfpg.cli.main":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from tfpg.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_while_it_starts_is_clean():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tfpg: interrupted.\n")


@pytest.mark.parametrize("workers", slow_but([[]], [[], ["--workers", "1"]]))
def test_an_environment_that_ends_python_is_told_of(tmp_path, workers):
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    args = ["train", "ppo", "misbehaving:Exiting-v0", "--iterations", "1", "--no-film", *workers]
    done = run(*args, "--run", tmp_path / "run", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "misbehaving.py, line" in done.stderr if not workers else "died with" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


class TestAlgorithms:
    """Presets and what is said over them."""

    @pytest.mark.slow
    def test_ppo_from_its_preset(self, tmp_path):
        args = ["--env-steps", "1024", "--seed", "3", "--validation-freq", "2", "--no-film"]
        done = run("train", "ppo", "CartPole-v1", *args, "--run", tmp_path / "run")
        assert (done.returncode, done.stderr) == (0, "")
        config = json.loads((tmp_path / "run/config.json").read_text())
        assert config["preset"] == "ppo/CartPole-v1"
        assert config["options"]["epochs"] == 20
        assert config["iterations"] == 4
        rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
        assert float(rows[-1]["env_steps"]) <= 1024
        assert "val_episode_return" in done.stdout

    @pytest.mark.slow
    def test_what_is_said_goes_over_the_preset(self, tmp_path):
        said = {
            "--gamma": ("gamma", 0.5),
            "--num-envs": ("num_envs", 3),
            "--num-steps": ("num_steps", 20),
            "--epochs": ("epochs", 2),
            "--minibatches": ("minibatches", 3),
            "--gae-lambda": ("gae_lambda", 0.7),
            "--entropy-coef": ("entropy_coef", 0.25),
            "--value-coef": ("value_coef", 0.125),
            "--clip-ratio": ("clip_ratio", 0.3),
            "--target-kl": ("target_kl", 0.5),
            "--max-steps": ("max_steps", 9),
        }
        flags = [str(x) for flag, (_, value) in said.items() for x in (flag, value)]
        flags += ["--learning-rate", "0.007", "--hidden", "8", "9", "--activation", "elu"]
        flags += ["--iterations", "2", "--no-film", "--run", tmp_path / "run"]
        done = run("train", "ppo", "CartPole-v1", *flags)
        assert done.returncode == 0, done.stderr
        config = json.loads((tmp_path / "run/config.json").read_text())
        for name, value in said.values():
            assert config["options"][name] == value, name
        assert config["network"] == {"hidden": [8, 9], "activation": "elu"}
        assert config["iterations"] == 2
        rate = config["optimizer"]["config"]["learning_rate"]["config"]
        assert rate["initial_learning_rate"] == 0.007
        assert rate["decay_steps"] == 2 * 2 * 3
        import keras

        model = keras.saving.load_model(tmp_path / "run/model.keras")
        assert [layer.units for layer in model.layers if hasattr(layer, "units")][:2] == [8, 8]

    @pytest.mark.slow
    def test_a_squashed_run_plays_films_and_goes_on_as_it_learned(self, tmp_path):
        args = ["--env-steps", "4096", "--squash", "--normalize", "--run", tmp_path / "run"]
        done = run("train", "a2c", "Pendulum-v1", *args)
        assert done.returncode == 0, done.stderr
        more = ["--model", tmp_path / "run/last.keras", "--iterations", "1", "--no-film"]
        done = run("train", "a2c", "Pendulum-v1", *more, "--run", tmp_path / "more")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "more/config.json").read_text())["head"] == {"squash": True}
        assert json.loads((tmp_path / "run/config.json").read_text())["head"] == {"squash": True}
        done = run("evaluate", tmp_path / "run", "--episodes", "2", "--stochastic")
        assert done.returncode == 0, done.stderr

    @pytest.mark.slow
    def test_reinforce_with_its_own_options(self, tmp_path):
        args = ["--gradient", "accumulated", "--baseline", "value", "--episodes-per-update", "3"]
        args += ["--iterations", "2", "--max-steps", "8", "--no-film", "--run", tmp_path / "run"]
        done = run("train", "reinforce", "CartPole-v1", *args)
        assert done.returncode == 0, done.stderr
        config = json.loads((tmp_path / "run/config.json").read_text())
        assert config["options"]["gradient"] == "accumulated"
        assert config["options"]["baseline"] == "value"
        header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
        assert "grad_snr" in header

    @pytest.mark.slow
    def test_a_target_stops_it(self, tmp_path):
        args = ["--stop-at", "10", "--no-film", "--run", tmp_path / "run"]
        done = run("train", "reinforce", "CartPole-v1", *args)
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 2

    @pytest.mark.slow
    def test_an_interrupted_training_keeps_its_best_model(self, tmp_path):
        start = (
            "import signal, sys\nfrom tfpg.cli.main import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\nsys.exit(main())"
        )
        args = ["train", "ppo", "CartPole-v1", "--env-steps", "10000000", "--no-film"]
        process = subprocess.Popen(
            [sys.executable, "-c", start, *args, "--run", str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if line.startswith("9/"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        done = run("evaluate", tmp_path / "run", "--episodes", "1", "--seed", "1")
        assert done.returncode == 0, done.stderr


class TestEvaluate:
    def test_prints_one_json_object(self, folder):
        args = ["--episodes", 6, "--seed", 7, "--json"]
        by_run = run("evaluate", "runs/small", *args, cwd=folder)
        assert by_run.returncode == 0, by_run.stderr
        result = json.loads(by_run.stdout)
        assert result["episodes"] == len(result["episode_returns"]) == 6
        assert result["env"] == "CartPole-v1"
        assert max(result["episode_lengths"]) <= 30  # the run's own cap

    @pytest.mark.slow
    def test_a_run_by_its_model(self, folder):
        by_run, by_model = (
            run("evaluate", path, "--episodes", 6, "--seed", 7, "--json", cwd=folder)
            for path in ("runs/small", "runs/small/model.keras")
        )
        assert by_model.stdout == by_run.stdout

    @pytest.mark.slow
    def test_a_bare_model_needs_its_environment(self, folder, tmp_path):
        bare = tmp_path / "bare.keras"
        bare.write_bytes((folder / "runs/small/model.keras").read_bytes())
        without = run("evaluate", bare)
        assert without.returncode == 1
        assert "add --env ID" in without.stderr
        result = run("evaluate", bare, "--env", "CartPole-v1", "--episodes", 3, "--seed", 1)
        assert result.returncode == 0, result.stderr
        assert "3 greedy episodes, seed 1" in result.stdout
        (tmp_path / "config.json").write_text('{"model_type": "another program"}')
        assert run("evaluate", bare, "--env", "CartPole-v1", "--episodes", 3).returncode == 0

    @pytest.mark.slow
    def test_stochastic_episodes(self, folder):
        result = run("evaluate", folder / "runs/small", "--episodes", 3, "--stochastic")
        assert "3 sampled episodes" in result.stdout


class TestRecord:
    @pytest.mark.parametrize("name", slow_but(["film.mp4"], ["film.mp4", "film.gif"]))
    def test_films(self, folder, tmp_path, name):
        done = run("record", folder / "runs/small", tmp_path / name, "--seed", 7)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.startswith(str(tmp_path / name))
        assert [p.name for p in tmp_path.iterdir()] == [name]


USAGE = [
    (["--help"], 0, "train"),
    (["train", "--help"], 0, "--iterations"),
    (["doctor", "--help"], 0, "--json"),
    (["check", "--help"], 0, "--seconds"),
    (["check", "CartPole-v1", "--steps", "0"], 2, "at least 1, and got '0'"),
    (["--version"], 0, "tfpg 0."),
    ([], 2, "COMMAND"),
    (["fly"], 2, "invalid choice: 'fly'"),
    (["train", "dpo", "CartPole-v1"], 2, "invalid choice: 'dpo'"),
    (["train", "reinforce", "CartPole-v1", "--gamma", "1.5"], 2, "[0, 1], and got '1.5'"),
    (["train", "dqn", "CartPole-v1", "--n-step", "0"], 2, "at least 1, and got '0'"),
    (["train", "dqn", "CartPole-v1", "--entropy-coef", "1"], 2, "--entropy-coef is for reinforce"),
    (["train", "ppo", "CartPole-v1", "--dueling"], 2, "--dueling is for dqn"),
    (["train", "a2c", "CartPole-v1", "--double"], 2, "--double is for dqn"),
    (["train", "dqn", "CartPole-v1", "--epsilon", "2", "0", "9"], 2, "a number in [0, 1], or two"),
    (["train", "dqn", "CartPole-v1", "--log-std", "1"], 2, "--log-std is for reinforce and a2c"),
    (
        ["train", "dqn", "CartPole-v1", "--positive-action", "0"],
        2,
        "--positive-action is for reinforce",
    ),
    (
        ["train", "reinforce", "CartPole-v1", "--num-steps", "5"],
        2,
        "--num-steps is for a2c and ppo",
    ),
    (["train", "a2c", "CartPole-v1", "--clip-ratio", "0.1"], 2, "--clip-ratio is for ppo"),
    (
        ["train", "ppo", "CartPole-v1", "--model", "a.keras", "--hidden", "8"],
        2,
        "leave out --model",
    ),
    (["train", "reinforce", "CartPole-v1", "--iterations", "0"], 2, "at least 1, and got '0'"),
    (["train", "reinforce", "CartPole-v1", "--learing-rate", "1"], 2, "--learing-rate"),
    (["evaluate", "runs/small", "--episodes", "0"], 2, "at least 1, and got '0'"),
    (["evaluate", "runs/small", "--seed", "-1"], 2, "at least 0, and got '-1'"),
    (["evaluate", "nothing"], 1, "No run or model at 'nothing'"),
    (["evaluate", "."], 1, "is not a run"),
    (["evaluate", "broken.keras", "--env", "CartPole-v1"], 1, "not a complete .keras file"),
    (["evaluate", "runs/small", "--env", "CartPol-v1"], 1, "Did you mean"),
    (["train", "reinforce", "CartPol-v1"], 1, "CartPole-v1"),
    (["train", "reinforce", "CartPole-v1", "--run", "runs/small"], 1, "exists already"),
    (["train", "reinforce", "CartPole-v1", "--model", "no.keras"], 1, "No run or model at 'no."),
    (["record", "runs/small", "film.avi"], 1, "ending in .mp4, .gif, .webm, or .png"),
    (["record", "runs/small", "no/film.mp4"], 1, "mkdir -p no"),
    (["record", "runs/small", "/proc/film.mp4"], 1, "cannot be written"),
]


class TestUsage:
    @pytest.mark.parametrize(("args", "code", "text"), USAGE, ids=lambda x: str(x)[:40])
    def test_answers_without_tensorflow(self, folder, args, code, text):
        (folder / "broken.keras").write_bytes(b"PK nothing")
        before = sorted(folder.rglob("*"))
        script = (
            "import sys\nfrom tfpg.cli.main import main\n"
            "try:\n    code = main(sys.argv[1:])\n"
            "except SystemExit as stop:\n    code = stop.code\n"
            "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'\n"
            "sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *args],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert text in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert len(done.stderr.splitlines()) <= 3
        assert sorted(folder.rglob("*")) == before

    def test_debug_shows_the_traceback(self, folder):
        assert "Traceback" in run("evaluate", "nothing", "--debug", cwd=folder).stderr

    @pytest.mark.slow
    def test_a_closed_standard_error_is_survived(self, folder):
        python = shlex.quote(sys.executable)
        command = f"{python} -m tfpg evaluate runs/small --episodes 1 --json 2>&-"
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, timeout=120)
        assert done.returncode == 0
        assert json.loads(done.stdout.splitlines()[-1])["episodes"] == 1

    def test_the_installed_command_is_the_module(self):
        command = Path(sys.executable).with_name("tfpg")
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == run("--version").stdout


class TestErrorsWithTensorflow:
    """One line, exit code 1, and nothing left behind."""

    def check(self, done, text, code=1):
        assert done.returncode == code
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr

    @pytest.mark.slow
    def test_another_backend(self, tmp_path):
        done = run("train", "reinforce", "CartPole-v1", cwd=tmp_path, KERAS_BACKEND="jax")
        self.check(done, "KERAS_BACKEND is 'jax'. Set KERAS_BACKEND=tensorflow")
        assert list(tmp_path.iterdir()) == []

    def test_another_backend_from_keras_json(self, tmp_path):
        (tmp_path / "keras.json").write_text('{"backend": "numpy"}')
        code = "import tfpg\ntry:\n    tfpg.Reinforce\nexcept ImportError as e:\n    print(e)"
        environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, "KERAS_HOME": str(tmp_path)},
        )
        assert "keras.json is 'numpy'. Set KERAS_BACKEND=tensorflow" in done.stdout

    @pytest.mark.slow
    def test_a_model_of_another_environment(self, folder, tmp_path):
        model = folder / "runs/small/model.keras"
        train = ["train", "reinforce", "Acrobot-v1", "--model", model, "--run", "r"]
        self.check(run(*train, cwd=tmp_path), "inputs of shape (None, 4)")
        record = ["record", model, "film.mp4", "--env", "Acrobot-v1"]
        self.check(run(*record, cwd=tmp_path), "inputs of shape (None, 4)")
        assert list(tmp_path.iterdir()) == []

    def test_spaces_that_do_not_fit(self, tmp_path):
        done = run("train", "reinforce", "Blackjack-v1", cwd=tmp_path)
        self.check(done, "Unsupported observation space")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_an_unknown_activation(self, tmp_path):
        done = run("train", "reinforce", "CartPole-v1", "--activation", "spam", cwd=tmp_path)
        self.check(done, "spam")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_nan_weights(self, folder, tmp_path):
        import keras
        import numpy as np

        model = keras.saving.load_model(folder / "runs/small/model.keras")
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        model.save(tmp_path / "nan.keras")
        for args in (
            ["evaluate", "nan.keras", "--env", "CartPole-v1"],
            ["record", "nan.keras", "film.mp4", "--env", "CartPole-v1"],
            ["train", "reinforce", "CartPole-v1", "--model", "nan.keras", "--run", "runs/nan"],
        ):
            self.check(run(*args, cwd=tmp_path), "outputs are not finite", code=3)
        assert [p.name for p in tmp_path.iterdir()] == ["nan.keras"]

    @pytest.mark.slow
    def test_a_run_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        done = run("train", "reinforce", "CartPole-v1", *SMALL, "--run", "file/run", cwd=tmp_path)
        self.check(done, "Cannot make the run folder 'file/run'")
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
class TestFilms:
    @pytest.fixture(scope="class")
    def learned(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("films")
        done = run("train", "reinforce", "CartPole-v1", *SMALL, "--run", "r", "--no-film",
                   "--snapshots", "0", "2", "--film-at", "0", "3", cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return folder

    def test_training_keeps_and_films_what_is_asked_for(self, learned):
        kept = sorted(str(p.relative_to(learned / "r")) for p in (learned / "r").rglob("*-*.*"))
        assert kept == [
            *("films/iteration-0.mp4", "films/iteration-3.mp4"),
            *("snapshots/iteration-0.keras", "snapshots/iteration-2.keras"),
        ]

    def test_several_files_with_all_that_can_be_shown(self, learned):
        done = run("record", "r", "a.mp4", "a.gif", "a.webm", "a.png", "--overlay", "all",
                   "--scale", "0.5", "--seed", "1", cwd=learned)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["a.mp4", "a.gif", "a.webm", "a.png"]
        assert iio.improps(learned / "a.mp4", plugin="pyav").shape[1:] == (260, 300, 3)

    def test_snapshots_one_after_another(self, learned):
        done = run("record", "r", "s.gif", "--snapshots", "--seed", "1", cwd=learned)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count(",") == 2  # frames, and two returns

    def test_two_models_side_by_side(self, learned):
        done = run("record", "r", "v.mp4", "--versus", "r/snapshots/iteration-0.keras",
                   "--overlay", "none", "--seed", "1", "--max-steps", "5", cwd=learned)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        width, height = iio.improps(learned / "v.mp4", plugin="pyav").shape[2:0:-1]
        assert (width, height) == (1204, 422)

    def test_the_best_the_median_and_the_worst(self, learned):
        done = run("record", "r", "b.gif", "--rank", "--episodes", "5", "--scale", "0.2",
                   "--overlay", "none", cwd=learned)  # fmt: skip
        returns = [float(x) for x in done.stdout.split("return ")[1].rstrip(")\n").split(", ")]
        assert len(returns) == 3
        assert returns == sorted(returns, reverse=True)

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            (["record", "r", "b.mp4", "--overlay", "bras"], 2, "invalid choice: 'bras'"),
            (["record", "r", "b.mp4", "--overlay", "value"], 1, "'value' is not for this policy"),
            (["record", "r", "b.mp4", "--crop", "0", "0", "9999", "9"], 1, "must be within the"),
            (["record", "r", "b.mp4", "--speed", "0"], 2, "a number above 0"),
            (["record", "r/last.keras", "b.mp4", "--env", "CartPole-v1", "--snapshots"], 1, "kept"),
            (["record", "r", "b.mp4", "--versus", "r", "--snapshots"], 2, "not allowed with"),
            (["record", "r", "b.mp4", "--overlay", "bars", "none"], 2, "shows nothing"),
            (["record", "r", "b.mp4", "--rank"], 2, "--rank is of several episodes"),
            (["record", "r", "b.mp4", "b.avi"], 1, "ending in .mp4, .gif, .webm, or .png"),
        ],
    )
    def test_mistakes_are_one_line(self, learned, args, code, message):
        done = run(*args, cwd=learned)
        assert done.returncode == code
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (learned / "b.mp4").exists()


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["train", "ppo", "CartPole-v1", "--learing-rate", "0.1"], "--learning-rate"),
        (["train", "ppo", "CartPole-v1", "--learing-rate=0.1"], "--learning-rate"),
        (["record", "run", "a.mp4", "--overlya", "none"], "--overlay"),
        (["resume", "run", "--alow-version-skew"], "--allow-version-skew"),
    ],
)
def test_a_misspelt_option_is_offered_its_likely_meaning(args, meant, capsys):
    from tfpg.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"did you mean {meant}?\nTry 'tfpg {args[0]} --help'." in said


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["reinforce", "dqn"])
def test_verify_resume_shows_that_nothing_differs(algorithm):
    command = [sys.executable, "-m", "tfpg", "verify-resume", algorithm, "CartPole-v1"]
    done = subprocess.run(
        [*command, "--iterations", "3", "--kills", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *parts, verdict = done.stdout.splitlines()
    assert all(line.endswith("the same") for line in parts)
    names = {line.split("  ")[0] for line in parts}
    assert {"model", "optimizer", "environments", "metrics.csv"} <= names
    assert ("replay" in names) == (algorithm == "dqn")
    assert "killed 1 time: equal, bit for bit, to one that was not killed." in verdict


def test_verify_resume_of_what_was_never_killed_shows_nothing(monkeypatch, capsys):
    from tfpg.cli import verify_resume as cli_verify
    from tfpg.cli.main import main

    monkeypatch.setattr(cli_verify, "_run", lambda *_: "")
    monkeypatch.setattr(cli_verify, "_killed", lambda *_: False)
    assert main(["verify-resume", "CartPole-v1", "ppo", "--iterations", "1"]) == 1
    assert "before they could be killed, which shows nothing" in capsys.readouterr().err


def test_warnings_are_one_line_each_the_same_one_once(capsys):
    from tfpg.cli.startup import plain_warnings
    from tfpg.errors import TrainingWarning

    before = warnings.showwarning
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with plain_warnings(debug=False):
            for _ in range(2):
                warnings.warn("\x1b[33mWARN: The wheel\nsqueaks.\x1b[0m", stacklevel=1)
            warnings.warn("Values diverge.", TrainingWarning, stacklevel=1)
        expected = "tfpg: warning: The wheel squeaks.\ntfpg: TrainingWarning: Values diverge.\n"
        assert capsys.readouterr().err == expected
        assert shown == []
        with plain_warnings(debug=True):
            warnings.warn("As usual.", stacklevel=1)
        assert len(shown) == 1
    assert warnings.showwarning is before
