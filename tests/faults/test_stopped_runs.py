"""The command line interrupted, killed or out of space: what is left, and how it resumes."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from marks import slow_but

from tfpg.agents.digests import digests
from tfpg.checkpoints.store import Store, read_file

ROOT = Path(__file__).parents[2]

SMALL = {
    "reinforce": [*("--iterations", "200", "--episodes-per-update", "4", "--max-steps", "30")],
    "dqn": [
        *("--env-steps", "6000", "--steps-per-iteration", "64", "--learning-starts", "640"),
        *("--hidden", "16", "--updates-per-learn", "2", "--batch-size", "16", "--prioritized"),
    ],
}
OTHER = ["--seed", "1", "--no-video", "--verbose", "0", "--checkpoint-every", "0.1"]
SLOWLY = "reinforce", "slowly:Slow-v0"
FINISHING = "\nFinishing the iteration and saving a checkpoint. Ctrl-C again stops at once.\n"

# Its steps are slow while there is a file of this name.
SLOW = """
import os, time
from math import nan
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Env(CartPoleEnv):
    def step(self, action):
        if os.path.exists("slow"):
            time.sleep(30)
        return super().step(action)

gymnasium.register("Slow-v0", Env, max_episode_steps=30)
"""

BREAKING = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Env(CartPoleEnv):
    steps = 0
    def step(self, action):
        Env.steps += 1
        if Env.steps == 3000:
            raise RuntimeError("a wheel is off")
        return super().step(action)

gymnasium.register("Breaking-v0", Env, max_episode_steps=30)
"""


def start(*args, cwd, tmp=None, **options):
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "CI")}
    if tmp is not None:
        env["TMPDIR"] = str(tmp)
    return subprocess.Popen(
        [sys.executable, "-m", "tfpg", *map(str, args)],
        cwd=cwd,
        env={**env, "PYTHONPATH": f"{ROOT}:{cwd}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(process, seconds=120.0):
    """Return the exit code and the standard error, without training warnings.

    Those depend on the episodes since the run was resumed.
    """
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        pytest.fail(f"It did not end within {seconds} s:\n{err}")
    assert "Traceback" not in err, err
    lines = err.splitlines(keepends=True)
    return process.returncode, "".join(x for x in lines if "TrainingWarning:" not in x)


def listens():
    """A process that a shell starts in the background ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def train(folder, algorithm="reinforce", env="CartPole-v1", run="run", more=(), **options):
    options = {"preexec_fn": listens, **options}
    args = [*SMALL[algorithm], *OTHER, "--run", run, *more]
    return start("train", algorithm, env, *args, cwd=folder, **options)


def resume(folder, run="run", *more):
    return ended(start("resume", run, "--verbose", "0", *more, cwd=folder))


def iteration(folder, run="run"):
    """Return the iteration of the newest checkpoint, 0 if there is none."""
    steps = Store(folder / run / "checkpoints").steps()
    return read_file(folder / f"{run}/checkpoints/step-{steps[-1]}.ckpt")[0]["iteration"]


def wait_for(process, condition):
    """Wait until a process that still runs has done something."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.002)
    pytest.fail(f"It ended with {process.poll()}, or 60 seconds have passed.")


def wait_for_checkpoint(process, folder, run="run", iterations=1):
    def reached():
        try:
            return iteration(folder, run) >= iterations
        except (IndexError, OSError, ValueError):  # none, or removed in the meantime
            return False

    wait_for(process, reached)


def rows(folder, run="run"):
    return (folder / run / "metrics.csv").read_text().count("\n") - 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders with a run that was never stopped, by how it is trained."""

    @cache
    def of(*args):
        folder = tmp_path_factory.mktemp("whole")
        (folder / "slowly.py").write_text(SLOW)
        assert ended(train(folder, *args)) == (0, "")
        return folder

    return of


def outcome(folder, run="run"):
    """Return what must be equal: the rows byte for byte, and the last checkpoint's contents."""
    assert json.loads((folder / run / "config.json").read_text())["finished"]
    assert not list((folder / run).rglob("*.tmp-*"))
    return (folder / run / "metrics.csv").read_bytes(), digests(folder / run / "checkpoints")


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code", "command"),
        slow_but(
            [(signal.SIGINT, 130, "resume")],
            [
                (signal.SIGINT, 130, "resume"),
                (signal.SIGTERM, 143, "resume"),
                (signal.SIGKILL, -9, "train"),
            ],
        ),
    )
    def test_a_stopped_run_resumes_with_the_same_result(
        self, tmp_path, whole, number, code, command
    ):
        process = train(tmp_path)
        wait_for_checkpoint(process, tmp_path, iterations=3)
        process.send_signal(number)
        found, err = ended(process)
        assert found == code
        if number != signal.SIGKILL:
            done = iteration(tmp_path)
            first, last = (
                (FINISHING, "tfpg: interrupted.\n") if number == signal.SIGINT else ("", "")
            )
            text = f"\nStopped after iteration {done}. To resume: tfpg resume run\n"
            assert err == first + text + last
            assert rows(tmp_path) == done < 200
        resumed = resume(tmp_path) if command == "resume" else ended(train(tmp_path))
        assert resumed == (0, "")
        assert outcome(tmp_path) == outcome(whole())
        for name in ("model.keras", "last.keras", "learning_curve.png"):
            assert (tmp_path / "run" / name).stat().st_size > 1000

    @pytest.mark.slow
    def test_a_run_killed_twice(self, tmp_path, whole):
        for iterations in (2, 30):
            process = train(tmp_path, "dqn")
            wait_for_checkpoint(process, tmp_path, iterations=iterations)
            process.kill()
            assert ended(process)[0] == -9
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole("dqn"))

    @pytest.mark.slow
    def test_a_run_killed_before_its_first_checkpoint_starts_from_scratch(self, tmp_path, whole):
        process = train(tmp_path, more=["--checkpoint-every", "1000"])
        wait_for(process, (tmp_path / "run/metrics.csv").exists)
        process.kill()
        assert ended(process)[0] == -9
        text = "There is no checkpoint in 'run/checkpoints': training starts from scratch."
        assert resume(tmp_path) == (0, f"tfpg: warning: {text}\n")
        assert outcome(tmp_path) == outcome(whole())

    @pytest.mark.slow
    def test_options_that_change_no_number_may_change(self, tmp_path, whole):
        (tmp_path / "slowly.py").write_text(SLOW)
        process = train(tmp_path, *SLOWLY)
        wait_for_checkpoint(process, tmp_path, iterations=3)
        process.kill()
        assert ended(process)[0] == -9
        more = ["--workers", "2", "--worker-timeout", "60", "--on-env-error", "drop"]
        more += ["--checkpoint-every", "0.01"]
        done = iteration(tmp_path)
        process = train(tmp_path, *SLOWLY, more=more)
        wait_for_checkpoint(process, tmp_path, iterations=done + 9)
        process.kill()
        assert ended(process)[0] == -9
        saved = json.loads((tmp_path / "run/config.json").read_text())["command"]
        assert saved.endswith(" ".join(more))
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole(*SLOWLY))

    @pytest.mark.slow
    def test_a_second_signal_in_a_long_iteration_stops_at_once(self, tmp_path, whole):
        (tmp_path / "slowly.py").write_text(SLOW)
        process = train(tmp_path, *SLOWLY)
        wait_for_checkpoint(process, tmp_path)
        (tmp_path / "slow").touch()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.send_signal(signal.SIGINT)
        code, err = ended(process, 8.0)
        assert code == 130
        assert err.startswith(FINISHING)
        assert "To resume: tfpg resume run\ntfpg: interrupted.\n" in err
        (tmp_path / "slow").unlink()
        assert iteration(tmp_path) <= rows(tmp_path) < 200
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole(*SLOWLY))

    @pytest.mark.slow
    def test_stopped_in_the_first_iteration_nothing_is_left(self, tmp_path):
        (tmp_path / "slowly.py").write_text(SLOW)
        (tmp_path / "slow").touch()
        process = train(tmp_path, *SLOWLY)
        wait_for(process, (tmp_path / "run/config.json").exists)
        time.sleep(1.5)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert ended(process) == (130, f"{FINISHING}tfpg: interrupted.\n")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, whole):
    """A folder with a finished run, a killed one, and several that are not runs."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(whole() / "run", folder / "done")
    shutil.copytree(folder / "done", folder / "killed")
    config = json.loads((folder / "done/config.json").read_text())
    del config["finished"]
    (folder / "killed/config.json").write_text(json.dumps(config))
    old = {k: v for k, v in config.items() if k != "command"}
    for name, text in (
        ("none", None),
        ("old", json.dumps(old)),
        ("cut", json.dumps(config)[:-5]),
        ("list", "[1, 2]"),
    ):
        shutil.copytree(folder / "killed", folder / name)
        (folder / name / "config.json").unlink()
        if text is not None:
            (folder / name / "config.json").write_text(text)
    (folder / "empty").mkdir()
    (folder / "file").write_text("text")
    return folder


@pytest.mark.slow
def test_an_error_in_an_environment_says_how_to_resume(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    process = train(tmp_path, "reinforce", "breaking:Breaking-v0")
    code, err = ended(process)
    assert code == 1
    saved, error = err.strip().split("\n", 1)
    assert saved == "The last checkpoint is saved. To resume from it: tfpg resume run"
    assert "RuntimeError: a wheel is off" in error
    assert iteration(tmp_path) > 1


class TestRefused:
    @pytest.mark.parametrize(
        ("run", "message"),
        slow_but(
            [("none", "'none' is not a run: ")],
            [
                ("done", "'done' is a finished run. "),
                ("none", "'none' is not a run: "),
                ("old", "'old' cannot be resumed: "),
                ("cut", "'cut/config.json' is not valid JSON: "),
                ("list", "'list/config.json' is a list, not a JSON object"),
                ("empty", "'empty' is empty: "),
                ("file", "'file' is not a run: "),
                ("nowhere", "No run at 'nowhere': "),
            ],
        ),
    )
    def test_folders_that_cannot_be_resumed(self, finished, run, message):
        code, err = resume(finished, run)
        assert code == 1
        assert err.startswith(f"tfpg: error: {message}")
        assert err.count("\n") == 1

    @pytest.mark.slow
    def test_a_run_of_an_unknown_algorithm(self, tmp_path, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        config = json.loads((tmp_path / "run/config.json").read_text())
        config["command"] = config["command"].replace("reinforce", "sarsa")
        (tmp_path / "run/config.json").write_text(json.dumps(config))
        code, err = resume(tmp_path)
        assert code == 1
        assert "sarsa" in err.splitlines()[-1]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("run", "more", "messages"),
        [
            ("done", [], ["'done' is a finished run. "]),
            ("none", [], ["'none' is not a run: ", "Choose another folder"]),
            ("cut", [], ["'cut/config.json' is not valid JSON: "]),
            ("killed", ["--iterations", "7"], ["--iterations 200", "--iterations 7"]),
            ("killed", ["--max-steps", "31"], ["--max-steps 30", "--max-steps 31"]),
            ("killed", ["--seed", "2"], ["--seed 1", "--seed 2"]),
            ("killed", ["--gamma", "0.5"], ["--gamma 0.5"]),
            ("killed", ["--workers", "2"], ["--workers 2"]),
            ("killed", ["--on-env-error", "drop"], ["--on-env-error drop"]),
        ],
    )
    def test_another_training_in_the_folder_of_a_run(self, finished, run, more, messages):
        files = [finished / run / name for name in ("metrics.csv", "config.json")]
        before = [path.read_bytes() for path in files if path.exists()]
        code, err = ended(train(finished, run=run, more=more))
        assert code == 1
        assert err.startswith("tfpg: error: ")
        assert all(message in err for message in messages), err
        assert err.count("\n") == 1
        assert [path.read_bytes() for path in files if path.exists()] == before

    @pytest.mark.slow
    def test_a_run_that_another_process_is_training(self, finished):
        config = finished / "killed/config.json"
        before = config.read_bytes()
        lock = os.open(finished / "killed/checkpoints", os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, err = ended(train(finished, run="killed", more=["--checkpoint-every", "77"]))
        os.close(lock)
        assert (code, err.count("\n")) == (1, 1)
        assert "Another run is writing to" in err
        assert config.read_bytes() == before

    @pytest.mark.slow
    def test_another_algorithm_or_environment(self, finished):
        for algorithm, env, message in (
            ("ppo", "CartPole-v1", "algorithm ppo"),
            ("reinforce", "Acrobot-v1", "env Acrobot-v1"),
        ):
            process = start("train", algorithm, env, *OTHER, "--run", "killed", cwd=finished)
            code, err = ended(process)
            assert code == 1
            assert message in err
            assert "tfpg resume killed" in err


@pytest.mark.slow
class TestBroken:
    def test_the_newest_checkpoint(self, tmp_path, whole, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        newest = Store(tmp_path / "run/checkpoints").steps()[-1]
        os.truncate(tmp_path / f"run/checkpoints/step-{newest}.ckpt", 5000)
        (tmp_path / "run/.model.tmp-1a2b.keras").write_bytes(b"half of a model")
        code, err = resume(tmp_path)
        assert code == 0
        assert "is damaged: expected" in err
        assert "Resuming from" in err
        assert not list((tmp_path / "run").glob(".*"))
        assert outcome(tmp_path) == outcome(whole())

    def test_all_checkpoints(self, tmp_path, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        for path in (tmp_path / "run/checkpoints").glob("step-*"):
            os.truncate(path, 5000)
        code, err = resume(tmp_path)
        assert code == 1
        assert err.startswith("tfpg: error: ")
        assert "None of the 2 checkpoints is intact. Start again in another folder." in err
        assert (tmp_path / "run/metrics.csv").exists()


@pytest.mark.slow
class TestFullDisk:
    def limited(self, size):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limit

    def test_after_some_checkpoints(self, tmp_path, whole):
        """Training continues, and fails at the end; with more space it resumes."""
        more = ["--checkpoint-every", "0"]
        process = train(tmp_path, "dqn", more=more, preexec_fn=self.limited(40_000))
        code, err = ended(process)
        assert code == 1
        warning = "A checkpoint cannot be written to 'run/checkpoints' (File too large, "
        assert err.count(f"tfpg: warning: {warning}") == 1
        assert "Training continues, and tries again." in err
        *_, last = err.splitlines()
        assert last.startswith(f"tfpg: error: {warning}")
        assert err.count("tfpg: error") == 1
        assert iteration(tmp_path) < rows(tmp_path)
        assert not list((tmp_path / "run/checkpoints").rglob("*.tmp-*"))
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole("dqn"))

    @pytest.mark.parametrize("size", [300, 3_000, 10_000, 20_000])
    def test_from_the_start(self, tmp_path, size):
        code, err = ended(train(tmp_path, preexec_fn=self.limited(size)))
        assert code == 1
        last = err.splitlines()[-1]
        assert last.startswith("tfpg: error: ")
        assert re.search("'run[^ ]*'.* cannot be written|cannot be written to 'run", last), last
        assert "File too large" in last
        assert err.count("tfpg: error") == 1


@pytest.mark.slow
class TestVerifyResume:
    def test_stopped_it_leaves_nothing(self, tmp_path):
        process = start(
            *("verify-resume", "ppo", "CartPole-v1", "--iterations", "100000"),
            cwd=tmp_path,
            tmp=tmp_path,
        )
        wait_for(process, lambda: list(tmp_path.glob("*/whole/checkpoints/step-*")))
        process.send_signal(signal.SIGTERM)
        assert ended(process, 10.0) == (143, "")
        assert list(tmp_path.iterdir()) == []

    def test_an_environment_that_prints_a_lot(self, tmp_path):
        (tmp_path / "slowly.py").write_text(
            SLOW.replace("time.sleep(30)", "__import__('sys').stderr.write('x' * 1000 + '\\n')")
        )
        (tmp_path / "slow").touch()
        arguments = ["verify-resume", "ppo", "slowly:Slow-v0", "--iterations", "4", "--json"]
        process = start(*arguments, cwd=tmp_path)
        out, _ = process.communicate(timeout=120)
        assert json.loads(out)["same"]

    def test_an_environment_that_gives_nan(self, tmp_path):
        (tmp_path / "slowly.py").write_text(
            SLOW.replace("time.sleep(30)", "self.state = [nan] * 4")
        )
        (tmp_path / "slow").touch()
        process = start(
            *("verify-resume", "ppo", "slowly:Slow-v0", "--iterations", "2"), cwd=tmp_path
        )
        code, err = ended(process)
        assert code == 3
        assert "tfpg: error: Environment 0 returned an observation with NaN" in err
