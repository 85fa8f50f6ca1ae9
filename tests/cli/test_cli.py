"""The commands, run in processes of their own as a user runs them."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import gymnasium
import keras
import numpy as np
import pytest
from decoding import decode
from marks import slow_but
from PIL import Image

import tfpg
from tfpg.agents import presets
from tfpg.cli.main import main, tfpg_command
from tfpg.cli.reporting import plain_warnings
from tfpg.cli.run_training import nature_cnn_network, preset_of
from tfpg.errors import TrainingWarning
from tfpg.models.inspection import state_shapes

SMALL = ["--iterations", "3", "--episodes-per-update", "4", "--max-steps", "30", "--seed", "1"]
REINFORCE = ["train", "reinforce", "CartPole-v1"]


def run(*args, cwd=None, **env):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "CI")}
    return subprocess.run(
        [sys.executable, "-m", "tfpg", *map(str, args)],
        cwd=cwd,
        env={**environment, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def succeeds(*args, **options):
    """Run a command that must succeed without any message, and return what it printed."""
    done = run(*args, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small run."""
    folder = tmp_path_factory.mktemp("cli")
    out = succeeds(*REINFORCE, *SMALL, "--run", "runs/small", cwd=folder)
    (folder / "train.out").write_text(out)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a run that has snapshots and videos of its training."""
    folder = tmp_path_factory.mktemp("learned")
    args = [*SMALL, "--run", "r", "--no-video", "--snapshots", "0", "2", "--video-at", "0", "3"]
    succeeds(*REINFORCE, *args, cwd=folder)
    return folder


class TestTrain:
    def test_the_run_folder_holds_everything_and_the_output_says_where(self, folder):
        out = (folder / "train.out").read_text()
        names = [
            *("model.keras", "last.keras", "metrics.csv"),
            *("learning_curve.png", "config.json", "video.mp4"),
        ]
        for name in names:
            assert f"runs/small/{name}" in out
            assert (folder / "runs/small" / name).stat().st_size > 0
        found = {p.name for p in (folder / "runs/small").iterdir()}
        assert found == {*names, "checkpoints"}

    def test_the_output_shows_the_first_and_the_last_iteration(self, folder):
        lines = (folder / "train.out").read_text().splitlines()
        shown = [line.split(" ")[0] for line in lines if line[1:3] == "/3"]
        assert shown[0] == "1/3"
        assert shown[-1] == "3/3"

    def test_metrics_have_a_row_for_each_iteration(self, folder):
        rows = rows_of(folder / "runs/small")
        assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
        assert all(float(row["episode_return"]) > 0 for row in rows)

    def test_the_config_says_how_to_repeat_the_run(self, folder):
        config = config_of(folder / "runs/small")
        args = [*REINFORCE, *SMALL, "--run", "runs/small"]
        assert config["command"] == shlex.join(["tfpg", *args])
        assert (config["algorithm"], config["env"]) == ("reinforce", "CartPole-v1")
        assert (config["seed"], config["finished"]) == (1, True)
        assert config["options"]["max_steps"] == 30
        assert config["optimizer"]["class_name"] == "Adam"
        assert set(config["versions"]) >= {"tfpg", "tensorflow", "keras", "gymnasium", "python"}

    def test_the_learning_curve_and_the_video_show_something(self, folder):
        with Image.open(folder / "runs/small/learning_curve.png") as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(100_000)) > 20
        video = decode(folder / "runs/small/video.mp4")
        assert video.shape[1:] == (422, 600, 3)
        assert video.mean() > 100

    @pytest.mark.slow
    def test_the_seed_that_was_drawn_repeats_the_run(self, tmp_path):
        args = [*REINFORCE, *SMALL[:-2], "--no-video"]
        succeeds(*args, "--run", "one", cwd=tmp_path)
        command = shlex.split(config_of(tmp_path / "one")["command"])
        assert command[-2] == "--seed"
        succeeds(*command[1:], "--run", "other", cwd=tmp_path)
        assert rows_of(tmp_path / "one") == rows_of(tmp_path / "other")
        assert not (tmp_path / "other/video.mp4").exists()

    @pytest.mark.slow
    def test_a_saved_model_is_trained_further(self, folder, tmp_path):
        model = folder / "runs/small/model.keras"
        args = ["--iterations", 1, "--episodes-per-update", 2, "--no-video"]
        succeeds(*REINFORCE, *args, "--model", model, "--run", tmp_path / "more")
        assert config_of(tmp_path / "more")["network"] == {"model": str(model)}

    @pytest.mark.slow
    def test_an_interrupted_training_keeps_its_best_model(self, tmp_path):
        # A process started in the background of a shell ignores SIGINT.
        start = (
            "import signal, sys\nfrom tfpg.cli.main import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\nsys.exit(main())"
        )
        args = ["train", "ppo", "CartPole-v1", "--env-steps", "1e7", "--no-video", "--verbose", "2"]
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
        assert "Traceback" not in err
        succeeds("evaluate", tmp_path / "run", "--episodes", "1", "--seed", "1")


class TestOptions:
    """Options given on the command line replace those of the preset."""

    @pytest.mark.slow
    def test_ppo_with_its_preset(self, tmp_path):
        args = ["--env-steps", "1024", "--seed", "3", "--validation-env-steps", "512", "--no-video"]
        out = succeeds("train", "ppo", "CartPole-v1", *args, "--run", tmp_path / "run")
        config = config_of(tmp_path / "run")
        assert config["preset"] == "ppo/CartPole-v1"
        assert config["options"]["epochs"] == 20
        assert config["iterations"] == 4
        assert float(rows_of(tmp_path / "run")[-1]["env_steps"]) <= 1024
        assert "val_episode_return" in out
        rows = rows_of(tmp_path / "run")
        assert [row["val_episode_return"] != "NA" for row in rows] == [False, False, True, True]

    @pytest.mark.slow
    def test_several_seeds(self, tmp_path):
        args = ["--iterations", "2", "--episodes-per-update", "2", "--no-video"]
        command = ["train", "reinforce", "CartPole-v1", *args, "--run", tmp_path / "runs"]
        out = succeeds(*command, "--seeds", "2", "--seed=5")
        assert out.count("finished after") == 2
        for seed in (5, 6):
            run = tmp_path / "runs" / f"seed-{seed}"
            assert config_of(run)["seed"] == seed
            assert config_of(run)["finished"]
            assert "Best mean return" in run.with_suffix(".log").read_text()
        out = succeeds(*command, "--seeds=3", "--seed", "5")
        assert out.count("already finished") == 2
        assert (tmp_path / "runs" / "seed-7" / "model.keras").exists()

    @pytest.mark.slow
    def test_a_seed_that_fails_is_reported(self, tmp_path):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "seed-1").write_text("not a folder")
        args = ["--iterations", "1", "--no-video", "--run", tmp_path / "runs", "--seeds", "2"]
        done = run("train", "reinforce", "CartPole-v1", *args)
        assert done.returncode == 1
        assert "1 of 2 runs failed" in done.stderr
        assert (tmp_path / "runs" / "seed-0" / "model.keras").exists()

    @pytest.mark.slow
    def test_ppo_with_other_options(self, tmp_path):
        options = {
            "gamma": 0.5,
            "num_envs": 3,
            "num_steps": 20,
            "epochs": 2,
            "minibatches": 3,
            "gae_lambda": 0.7,
            "entropy_coef": 0.25,
            "value_coef": 0.125,
            "clip_ratio": 0.3,
            "value_clip": 0.4,
            "target_kl": 0.5,
            "max_steps": 9,
            "reward_scale": "auto",
            "standardize": None,
            "jit_compile": False,
        }
        words = {None: "none", False: "off"}
        flags = []
        for name, value in options.items():
            flags += [f"--{name.replace('_', '-')}", str(words.get(value, value))]
        flags += ["--learning-rate", "0.007", "--hidden", "8", "9", "--activation", "elu"]
        flags += ["--iterations", "2", "--no-video", "--run", tmp_path / "run"]
        done = run("train", "ppo", "CartPole-v1", *flags)
        assert done.returncode == 0, done.stderr
        config = config_of(tmp_path / "run")
        assert {name: config["options"][name] for name in options} == options
        network = {"normalize": False, "hidden": [8, 9], "activation": "elu"}
        assert config["network"] == network
        assert config["iterations"] == 2
        rate = config["optimizer"]["config"]["learning_rate"]["config"]
        assert rate["initial_learning_rate"] == 0.007
        assert rate["decay_steps"] == 2 * 2 * 3
        model = keras.saving.load_model(tmp_path / "run/model.keras")
        assert [layer.units for layer in model.layers if hasattr(layer, "units")][:2] == [8, 8]

    @pytest.mark.slow
    def test_reinforce_with_other_options(self, tmp_path):
        args = ["--gradient", "accumulated", "--baseline", "value", "--episodes-per-update", "3"]
        args += ["--iterations", "2", "--max-steps", "8", "--no-video", "--run", tmp_path / "run"]
        done = run(*REINFORCE, *args)
        assert done.returncode == 0, done.stderr
        options = config_of(tmp_path / "run")["options"]
        assert (options["gradient"], options["baseline"]) == ("accumulated", "value")
        assert "grad_snr" in rows_of(tmp_path / "run")[0]

    @pytest.mark.slow
    def test_squashed_actions_belong_to_the_model(self, tmp_path):
        args = ["--env-steps", "4096", "--squash", "--no-normalize", "--run", tmp_path / "run"]
        done = run("train", "a2c", "Pendulum-v1", *args)
        assert done.returncode == 0, done.stderr
        more = ["--model", tmp_path / "run/last.keras", "--iterations", "1", "--no-video"]
        done = run("train", "a2c", "Pendulum-v1", *more, "--run", tmp_path / "more")
        assert done.returncode == 0, done.stderr
        assert config_of(tmp_path / "run")["network"]["normalize"] is False
        for folder in ("run", "more"):
            head = config_of(tmp_path / folder)["head"]
            assert head.pop("value_scale") > 1  # rewards of about -6 are divided by it
            assert head == {"squash": True}
        succeeds("evaluate", tmp_path / "run", "--episodes", "2", "--stochastic")

    @pytest.mark.slow
    def test_training_stops_at_a_return(self, tmp_path):
        args = ["--stop-at", "10", "--no-video", "--run", tmp_path / "run"]
        succeeds(*REINFORCE, *args)
        assert len(rows_of(tmp_path / "run")) == 1

    @pytest.mark.slow
    def test_dqn_trains_evaluates_and_trains_further(self, tmp_path):
        options = ["--env-steps", "1500", "--learning-starts", "400", "--n-step", "3"]
        options += ["--epsilon", "1", "0.1", "1000", "--hidden", "16", "--prioritized"]
        dqn = ["train", "dqn", "CartPole-v1"]
        out = succeeds(*dqn, *options, "--seed", "1", "--run", "r", cwd=tmp_path)
        assert "steps/s: " in out
        config = config_of(tmp_path / "r")
        assert config["network"] == {"architecture": "dueling", "hidden": [16]}
        assert config["options"]["epsilon"] == "linear(1, 0.1, 1000)"
        assert config["options"]["prioritized"]
        assert config["head"] == {"epsilon": 0.1}
        assert 400 < float(rows_of(tmp_path / "r")[-1]["env_steps"]) <= 1500
        # A trained model explores with the last epsilon, and has no random warm-up.
        more = ["--env-steps", "300", "--steps-per-iteration", "64", "--no-video"]
        done = run(*dqn, *more, "--model", "r", "--run", "more", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        config = config_of(tmp_path / "more")
        assert (config["options"]["epsilon"], config["options"]["learning_starts"]) == (0.02, 128)
        evaluate = ["evaluate", "r", "--episodes", "9", "--json", "--seed", "1"]
        greedy, explored = (
            json.loads(succeeds(*evaluate, *more, cwd=tmp_path))["episode_returns"]
            for more in ([], ["--stochastic"])
        )
        assert greedy != explored

    @pytest.mark.slow
    def test_an_atari_game(self, tmp_path):
        options = ["--env-steps", "300", "--learning-starts", "100", "--capacity", "2000"]
        options += ["--dueling", "--hidden", "64", "--max-steps", "40", "--seed", "1"]
        done = run("train", "dqn", "ALE/Pong-v5", *options, "--run", "r", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert decode(tmp_path / "r/video.mp4").shape[1:3] == (228, 160)
        config = config_of(tmp_path / "r")
        assert config["options"]["reward_clip"] == 1.0
        assert config["network"] == {"architecture": "nature_cnn", "hidden": 64, "dueling": True}
        model = tfpg.load_model(tmp_path / "r/model.keras")
        assert sum(layer.name.startswith("dense") for layer in model.layers) == 4

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ({"activation": "relu"}, "--activation is for dense networks, and Atari games use"),
            ({"normalize": True}, "--normalize is for dense networks"),
            ({"layer_norm": True}, "--layer-norm is for dense networks"),
            ({"hidden": [64, 64]}, "--hidden takes one number for nature_cnn, .* got 2"),
        ],
    )
    def test_options_that_an_atari_network_does_not_have(self, network, message):
        with pytest.raises(ValueError, match=message):
            nature_cnn_network(network)

    @pytest.mark.slow
    def test_an_algorithm_in_a_module_of_the_current_folder(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "import tfpg\nfrom tfpg.core.options import count, option\n\n\n"
            "class Twice(tfpg.Reinforce):\n"
            '    """REINFORCE with every update twice."""\n\n'
            '    times: int = option(default=2, check=count, help="How often.")\n'
        )
        help_text = succeeds("train", "mine:Twice", "--help", cwd=tmp_path)
        assert "--times N  How often. [default: 2]" in help_text
        args = [*SMALL, "--times", "3", "--no-video", "--run", "run"]
        done = run("train", "mine:Twice", "CartPole-v1", *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert config_of(tmp_path / "run")["algorithm"] == "mine:Twice"
        assert run("evaluate", "run", "--episodes", "2", cwd=tmp_path).returncode == 0


class TestEvaluate:
    def test_prints_one_json_object(self, folder):
        args = ["--episodes", 6, "--seed", 7, "--json"]
        result = json.loads(succeeds("evaluate", "runs/small", *args, cwd=folder))
        assert result["episodes"] == len(result["episode_returns"]) == 6
        assert result["env"] == "CartPole-v1"
        assert max(result["episode_lengths"]) <= 30  # the run's own limit

    @pytest.mark.slow
    def test_a_run_and_its_model_play_the_same_episodes(self, folder):
        args = ["--episodes", 6, "--seed", 7, "--json"]
        by_run = succeeds("evaluate", "runs/small", *args, cwd=folder)
        assert succeeds("evaluate", "runs/small/model.keras", *args, cwd=folder) == by_run

    @pytest.mark.slow
    def test_a_model_without_a_run_needs_its_environment(self, folder, tmp_path):
        bare = tmp_path / "bare.keras"
        bare.write_bytes((folder / "runs/small/model.keras").read_bytes())
        args = ["evaluate", bare, "--env", "CartPole-v1", "--episodes", 3, "--seed", 1]
        assert "3 greedy episodes, seed 1" in succeeds(*args)
        (tmp_path / "config.json").write_text('{"model_type": "another program"}')
        assert "3 sampled episodes" in succeeds(*args, "--stochastic")

    @pytest.mark.slow
    def test_works_with_a_closed_standard_error(self, folder):
        python = shlex.quote(sys.executable)
        command = f"{python} -m tfpg evaluate runs/small --episodes 1 --json 2>&-"
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, timeout=120)
        assert done.returncode == 0
        assert json.loads(done.stdout.splitlines()[-1])["episodes"] == 1

    def test_debug_shows_the_traceback(self, folder):
        assert "Traceback" in run("evaluate", "nothing", "--debug", cwd=folder).stderr


class TestRecord:
    def test_writes_a_video_and_nothing_else(self, folder, tmp_path):
        out = succeeds("record", folder / "runs/small", tmp_path / "a.mp4", "--seed", 7)
        assert out.startswith(str(tmp_path / "a.mp4"))
        assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]

    @pytest.mark.slow
    def test_training_saves_snapshots_and_videos_of_chosen_iterations(self, learned):
        found = sorted(
            str(p.relative_to(learned / "r")) for p in (learned / "r").rglob("iteration-*")
        )
        assert found == [
            *("snapshots/iteration-0.keras", "snapshots/iteration-2.keras"),
            *("videos/iteration-0.mp4", "videos/iteration-3.mp4"),
        ]

    @pytest.mark.slow
    def test_several_files_with_everything_that_can_be_shown(self, learned):
        names = ["a.mp4", "a.gif", "a.webm", "a.png"]
        args = ["--overlay", "all", "--scale", "0.5", "--seed", "1"]
        out = succeeds("record", "r", *names, *args, cwd=learned)
        assert [line.split()[0] for line in out.splitlines()] == names
        assert decode(learned / "a.mp4").shape[1:] == (260, 300, 3)

    @pytest.mark.slow
    def test_snapshots_one_after_another(self, learned):
        out = succeeds("record", "r", "s.gif", "--snapshots", "--seed", "1", cwd=learned)
        assert out.count(",") == 2  # frames, and two returns

    @pytest.mark.slow
    def test_two_models_side_by_side(self, learned):
        args = ["--versus", "r/snapshots/iteration-0.keras", "--overlay", "none"]
        args += ["--seed", "1", "--max-steps", "5"]
        succeeds("record", "r", "v.mp4", *args, cwd=learned)
        width, height = decode(learned / "v.mp4").shape[2:0:-1]
        assert (width, height) == (1204, 422)

    @pytest.mark.slow
    def test_the_best_the_median_and_the_worst_episode(self, learned):
        args = ["--rank", "--episodes", "5", "--scale", "0.2", "--overlay", "none"]
        out = succeeds("record", "r", "b.gif", *args, cwd=learned)
        returns = [float(x) for x in out.split("return ")[1].rstrip(")\n").split(", ")]
        assert len(returns) == 3
        assert returns == sorted(returns, reverse=True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["r", "b.mp4", "--overlay", "value"], "'value'"),
            (["r", "b.mp4", "--crop", "0", "0", "9999", "9"], "must lie within the"),
            (["r/last.keras", "b.mp4", "--snapshots"], "has no snapshots"),
            (["r", "b.mp4", "b.avi"], "ending in .mp4, .gif, .webm, or .png"),
        ],
    )
    def test_a_mistake_is_one_line_and_leaves_no_file(self, learned, args, message):
        done = run("record", *args, cwd=learned)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (learned / "b.mp4").exists()


class TestErrors:
    """An error is one line, with exit code 1 or 3, and leaves nothing behind."""

    def check(self, done, text, code=1):
        assert done.returncode == code
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr

    @pytest.mark.slow
    def test_another_backend(self, tmp_path):
        done = run(*REINFORCE, cwd=tmp_path, KERAS_BACKEND="jax")
        self.check(done, "KERAS_BACKEND is 'jax'. Set KERAS_BACKEND=tensorflow")
        assert list(tmp_path.iterdir()) == []

    def test_another_backend_in_keras_json(self, tmp_path):
        (tmp_path / "keras.json").write_text('{"backend": "numpy"}')
        environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        code = "import tfpg\ntry:\n    tfpg.networks.mlp('CartPole-v1')\nexcept ImportError as e:"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\n    print(e)"],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, "KERAS_HOME": str(tmp_path)},
        )
        assert "keras.json is 'numpy'. Set KERAS_BACKEND=tensorflow" in done.stdout

    @pytest.mark.slow
    def test_a_model_for_another_environment(self, folder, tmp_path):
        model = folder / "runs/small/model.keras"
        train = ["train", "reinforce", "Acrobot-v1", "--model", model, "--run", "r"]
        self.check(run(*train, cwd=tmp_path), "inputs of shape (None, 4)")
        done = run("record", model, "out.mp4", "--env", "Acrobot-v1", cwd=tmp_path)
        self.check(done, "It was trained in CartPole-v1 (Box(")
        assert list(tmp_path.iterdir()) == []

    def test_an_environment_with_unsupported_spaces(self, tmp_path):
        (tmp_path / "cards.py").write_text(
            "import gymnasium\n"
            "from gymnasium import spaces\n\n\n"
            "class Cards(gymnasium.Env):\n"
            "    observation_space = spaces.Sequence(spaces.Discrete(52))\n"
            "    action_space = spaces.Discrete(2)\n\n\n"
            "gymnasium.register('Cards-v0', Cards)\n"
        )
        done = run("train", "reinforce", "cards:Cards-v0", "--no-video", cwd=tmp_path)
        self.check(done, "Unsupported observation space Sequence")
        assert not (tmp_path / "runs").exists()

    def test_an_environment_that_observes_a_tuple(self, tmp_path):
        short = ["--env-steps", "500", "--episodes-per-update", "4", "--hidden", "8", "--no-video"]
        succeeds("train", "reinforce", "Blackjack-v1", *short, "--run", "r", cwd=tmp_path)
        shown = succeeds("evaluate", "r", "--episodes", "3", "--json", cwd=tmp_path)
        assert set(json.loads(shown)["episode_returns"]) <= {-1.0, 0.0, 1.0}

    @pytest.mark.slow
    def test_an_unknown_activation(self, tmp_path):
        self.check(run(*REINFORCE, "--activation", "spam", cwd=tmp_path), "spam")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_nan_weights(self, folder, tmp_path):
        model = keras.saving.load_model(folder / "runs/small/model.keras")
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        model.save(tmp_path / "nan.keras")
        for args in (
            ["evaluate", "nan.keras", "--env", "CartPole-v1"],
            ["record", "nan.keras", "out.mp4", "--env", "CartPole-v1"],
            [*REINFORCE, "--model", "nan.keras", "--run", "runs/nan"],
        ):
            self.check(run(*args, cwd=tmp_path), "outputs are not finite", code=3)
        assert [p.name for p in tmp_path.iterdir()] == ["nan.keras"]

    @pytest.mark.slow
    def test_a_run_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        done = run(*REINFORCE, *SMALL, "--run", "file/run", cwd=tmp_path)
        self.check(done, "Cannot make the run folder 'file/run'")
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize("workers", slow_but([[]], [[], ["--workers", "1"]]))
    def test_an_environment_that_exits_python(self, tmp_path, workers):
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        args = ["train", "ppo", "misbehaving:Exiting-v0", "--iterations", "1", "--no-video"]
        done = run(*args, *workers, "--run", tmp_path / "run", PYTHONPATH=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "misbehaving.py, line" in done.stderr if not workers else "died with" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


# Interrupts the import of the command line.
INTERRUPTED = """
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "tfpg.cli.main":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from tfpg.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_during_start_up_shows_no_traceback():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tfpg: interrupted.\n")


class TestVerifyResume:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("algorithm", "env"),
        [("reinforce", "CartPole-v1"), ("dqn", "CartPole-v1"), ("ppo", "functional/CartPole")],
    )
    def test_a_killed_training_ends_with_the_same_result(self, algorithm, env):
        iterations = "40" if algorithm == "ppo" else "3"  # several in a call
        args = ["verify-resume", algorithm, env, "--iterations", iterations, "--kills", "1"]
        done = run(*args)
        assert done.returncode == 0, done.stderr
        *parts, verdict = done.stdout.splitlines()
        assert all(line.endswith("equal") for line in parts)
        names = {line.split("  ")[0] for line in parts}
        assert {"model", "optimizer", "environments", "metrics.csv"} <= names
        assert ("replay" in names) == (algorithm == "dqn")
        assert "killed 1 time: the result equals that of a run" in verdict

    def test_a_training_that_ends_too_soon_proves_nothing(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "executable", "true")  # every training ends at once
        assert main(["verify-resume", "ppo", "CartPole-v1", "--iterations", "1"]) == 1
        assert "The run ended before it could be killed" in capsys.readouterr().err


class TestBench:
    @pytest.mark.parametrize(
        ("algorithm", "env"),
        slow_but(
            [("a2c", "CartPole-v1")],
            [
                *((each, "CartPole-v1") for each in ("reinforce", "a2c", "dqn")),
                ("ppo", "functional/CartPole"),
            ],
        ),
    )
    def test_the_parts_are_those_of_an_iteration(self, algorithm, env, capsys):
        args = ["bench", algorithm, env, "--num-envs", "8", "--seconds", "0.2"]
        assert main([*args, "--json"]) == 0
        timing = json.loads(capsys.readouterr().out)
        assert timing["steps_per_second"] == pytest.approx(timing["steps"] / timing["whole"])
        parts = timing["parts"]
        assert set(parts) == (
            {"one compiled call"}
            if env.startswith("functional/")
            else {"environment", "acting", "rest of playing", "update", "callbacks and logs"}
        )
        assert all(seconds >= 0 for seconds in parts.values())

    def test_its_table_has_a_row_for_each_part(self, capsys):
        args = ["bench", "reinforce", "CartPole-v1", "--num-envs", "8", "--seconds", "0.2"]
        assert main(args) == 0
        shown = capsys.readouterr().out
        assert "reinforce in CartPole-v1, 8 environments" in shown
        assert all(f"  {name}" in shown for name in ("environment", "acting", "update"))


def test_a_warning_is_one_line_and_shown_once(capsys):
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


@pytest.mark.slow
def test_a_noisy_network_is_trained_evaluated_and_trained_further(tmp_path):
    short = ["CartPole-v1", "--env-steps", "1500", "--no-video", "--seed", "1"]
    network = ["--hidden", "8", "--atoms", "7", "--v-max", "100"]
    succeeds("train", "rainbow", *short, *network, "--run", "r", cwd=tmp_path)
    expected = {"architecture": "dueling", "hidden": [8], "layer_norm": True}
    expected |= {"atoms": 7, "noisy": True}
    assert config_of(tmp_path / "r")["network"] == expected
    greedy, noisy = (
        json.loads(succeeds("evaluate", "r", "--json", "--seed", "1", *more, cwd=tmp_path))
        for more in ([], ["--stochastic"])
    )
    assert greedy["episode_returns"] != noisy["episode_returns"]
    succeeds("train", "rainbow", *short, "--model", "r", "--run", "more", cwd=tmp_path)
    assert config_of(tmp_path / "more")["options"]["epsilon"] == 0.0
    more = ["--noisy", "--epsilon", "0", "--run", "dqn"]
    succeeds("train", "dqn", *short, *more, cwd=tmp_path)
    assert config_of(tmp_path / "dqn")["network"]["noisy"]


@pytest.mark.slow
def test_a_model_of_distributions_is_trained_further_by_its_algorithm_only(tmp_path):
    short = ["CartPole-v1", "--env-steps", "1500", "--no-video", "--seed", "1"]
    succeeds("train", "c51", *short, "--v-max", "100", "--run", "r", cwd=tmp_path)
    succeeds("train", "c51", *short, "--model", "r", "--run", "more", cwd=tmp_path)
    assert json.loads((tmp_path / "more/config.json").read_text())["options"]["v_max"] == 100.0
    done = run("train", "dqn", *short, "--model", "r", "--run", "other", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("of returns: use tfpg.C51 or tfpg.Rainbow.")


@pytest.mark.parametrize(
    ("algorithm", "env"), [("sac", "Pendulum-v1"), ("reinforce", "Acrobot-v1")]
)
def test_options_of_the_network_are_those_of_its_critic_too(algorithm, env):
    options = {"hidden": (8,), "activation": "relu", "normalize": True, "layer_norm": True}
    arguments = ["--hidden", "8", "--activation", "relu", "--normalize", "--layer-norm"]
    command = tfpg_command.main(["train", algorithm, env, *arguments], standalone_mode=False)
    preset = preset_of(command)
    assert preset.critic == options
    assert {**preset.network, **options} == preset.network
    names = [x.name for x in presets.make(algorithm, env, preset=preset).models[1].layers]
    assert any(name.endswith("_statistics") for name in names)
    assert any(name.startswith("layer_normalization") for name in names)


@pytest.mark.parametrize(
    ("env", "hidden"),
    [("CartPole-v1", [128, 128]), ("LunarLander-v3", [256, 256]), ("Taxi-v4", [128, 128])],
)
def test_a_network_without_streams_has_the_same_layers(env, hidden):
    command = tfpg_command.main(["train", "dqn", env, "--no-dueling"], standalone_mode=False)
    model = presets.make("dqn", env, preset=preset_of(command)).model
    dense = [(x.units, x.activation) for x in model.layers if isinstance(x, keras.layers.Dense)]
    assert dense[:-1] == [(units, keras.activations.relu) for units in hidden]


def test_a_network_without_streams_has_convolutions_for_images():
    arguments = ["train", "dqn", "CarRacing-v3", "--no-dueling"]
    command = tfpg_command.main(arguments, standalone_mode=False)
    both = gymnasium.spaces.Box(0, 255, (96, 96, 3), np.uint8), gymnasium.spaces.Discrete(5)
    model = presets.make("dqn", both, preset=preset_of(command)).model
    assert any(isinstance(x, keras.layers.Conv2D) for x in model.layers)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce"])
def test_a_recurrent_network(algorithm):
    """Its value is an output of the policy, where the preset has a value model."""
    env = "Acrobot-v1"
    options = ["--recurrent", "7", "--hidden", "8", "--layer-norm"]
    command = tfpg_command.main(["train", algorithm, env, *options], standalone_mode=False)
    agent = presets.make(algorithm, env, preset=preset_of(command))
    assert state_shapes(agent.model) == {"state": (7,)}
    assert list(agent.model.output) == ["policy", "value", "state"]
    assert agent.models == [agent.model]
    dense = [x.units for x in agent.model.layers if isinstance(x, keras.layers.Dense)]
    assert dense == [8, 3, 1]
    assert "layer_normalization" in [x.name.rstrip("_0123456789") for x in agent.model.layers]


def test_a_recurrent_network_for_images():
    arguments = ["train", "ppo", "ALE/Pong-v5", "--recurrent", "7"]
    command = tfpg_command.main(arguments, standalone_mode=False)
    agent = presets.make("ppo", "ALE/Pong-v5", preset=preset_of(command))
    assert state_shapes(agent.model) == {"state": (7,)}


def test_a_recurrent_network_is_a_new_one():
    message = "--recurrent is for new networks: leave out --model or --recurrent"
    with pytest.raises(click.ClickException, match=message):
        arguments = ["train", "ppo", "CartPole-v1", "--recurrent", "8", "--model", "r"]
        tfpg_command.main(arguments, standalone_mode=False)


@pytest.mark.slow
def test_a_recurrent_policy_is_trained_evaluated_and_recorded(tmp_path):
    short = ["CartPole-v1", "--env-steps", "2000", "--recurrent", "8", "--seed", "1"]
    succeeds("train", "reinforce", *short, "--run", "r", cwd=tmp_path)
    assert config_of(tmp_path / "r")["network"] == {
        "architecture": "recurrent",
        "hidden": [64, 64],
        "units": 8,
    }
    succeeds("evaluate", "r", "--episodes", "1", cwd=tmp_path)
    assert decode(tmp_path / "r/video.mp4").shape[3] == 3
    short = ["CartPole-v1", "--env-steps", "2000", "--model", "r", "--seed", "1", "--no-video"]
    succeeds("train", "ppo", *short, "--run", "more", cwd=tmp_path)


@pytest.mark.slow
def test_sac_trains_and_is_trained_further(tmp_path):
    short = ["Pendulum-v1", "--env-steps", "1300", "--hidden", "8", "--seed", "1", "--no-video"]
    succeeds("train", "sac", *short, "--alpha", "0.2", "--run", "r", cwd=tmp_path)
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert config["critic"] == {"hidden": [8]}
    assert config["options"]["alpha"] == 0.2
    short = [*short[:3], "--alpha", "auto", "--no-video"]
    succeeds("train", "sac", *short, "--model", "r", "--run", "more", cwd=tmp_path)
    succeeds("evaluate", "more", "--episodes", "1", cwd=tmp_path)
    done = run("train", "sac", "CartPole-v1", "--run", "other", cwd=tmp_path)
    assert done.returncode == 1
    assert "needs a Box of actions" in done.stderr
    assert not (tmp_path / "other").exists()
