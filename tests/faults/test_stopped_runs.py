"""The command line interrupted, killed or out of room: what is left, what is said, what goes on."""

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

ROOT = Path(__file__).parents[2]

SMALL = {
    "reinforce": [*("--iterations", "200", "--episodes-per-update", "4", "--max-steps", "30")],
    "dqn": [
        *("--env-steps", "6000", "--steps-per-iteration", "64", "--learning-starts", "640"),
        *("--hidden", "16", "--updates-per-learn", "2", "--batch-size", "16", "--prioritized"),
    ],
}
SLOWLY = "reinforce", "slowly:Slow-v0"
OTHER = ["--seed", "1", "--no-film", "--verbose", "0"]

FINISHING = "\nFinishing the iteration, which is kept. Ctrl-C again ends at once.\n"
NOTHING = "\nStopped before the end of the first iteration: nothing is kept.\n"

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
    """The exit code, and what was said on standard error, but what a training teaches.

    That is of the episodes since it was gone on with.
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
    """Started in the background of a shell, a process is told to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def train(folder, algorithm="reinforce", env="CartPole-v1", run="run", more=(), **options):
    options = {"preexec_fn": listens, **options}
    args = [*SMALL[algorithm], *OTHER, "--run", run, *more]
    return start("train", algorithm, env, *args, cwd=folder, **options)


def resume(folder, run="run", *more):
    return ended(start("resume", run, "--verbose", "0", *more, cwd=folder))


def manifests(folder, run="run"):
    """Of the checkpoints that are whole by their names, in their order."""
    found = (folder / run / "checkpoints").glob("step-*/manifest.json")
    return sorted((json.loads(path.read_text()) for path in found), key=lambda m: m["step"])


def in_training(process, folder, run="run", iterations=1):
    """Waits for a checkpoint, and lets the training go on for a moment."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if manifests(folder, run)[-1]["iteration"] >= iterations:
                return
        except (IndexError, FileNotFoundError, json.JSONDecodeError):
            pass
        time.sleep(0.002)
    pytest.fail(f"It ended with {process.poll()}, or there is no checkpoint.")


def rows(folder, run="run"):
    return (folder / run / "metrics.csv").read_text().count("\n") - 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders with a run that was not stopped, by how it is trained."""

    @cache
    def of(*args):
        folder = tmp_path_factory.mktemp("whole")
        (folder / "slowly.py").write_text(SLOW)
        assert ended(train(folder, *args)) == (0, "")
        return folder

    return of


def outcome(folder, run="run"):
    """What must be equal: the rows byte for byte, and the last checkpoint's state."""
    metrics = (folder / run / "metrics.csv").read_bytes()
    assert json.loads((folder / run / "config.json").read_text())["finished"]
    assert not list((folder / run / "checkpoints").glob(".tmp-*"))
    return metrics, manifests(folder, run)[-1]["files"]["state.bin"]["sha256"]


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code", "how"),
        slow_but(
            [(signal.SIGINT, 130, "resume")],
            [
                (signal.SIGINT, 130, "resume"),
                (signal.SIGTERM, 143, "resume"),
                (signal.SIGKILL, -9, "train"),
            ],
        ),
    )
    def test_once_and_it_goes_on_as_if_nothing_had_been(self, tmp_path, whole, number, code, how):
        process = train(tmp_path)
        in_training(process, tmp_path, iterations=3)
        process.send_signal(number)
        found, err = ended(process)
        assert found == code
        done = manifests(tmp_path)[-1]["iteration"]
        if number != signal.SIGKILL:
            first, last = (
                (FINISHING, "tfpg: interrupted.\n") if number == signal.SIGINT else ("", "")
            )
            told = f"\nStopped. Iteration {done} of 200 is kept. To go on: tfpg resume run\n"
            assert err == first + told + last
            assert rows(tmp_path) == done < 200
        if how == "resume":
            assert resume(tmp_path) == (0, "")
        else:
            assert ended(train(tmp_path)) == (0, "")
        assert outcome(tmp_path) == outcome(whole())
        for name in ("model.keras", "last.keras", "learning_curve.png"):
            assert (tmp_path / "run" / name).stat().st_size > 1000

    @pytest.mark.slow
    def test_killed_again_and_again(self, tmp_path, whole):
        for iterations in (2, 30):
            process = train(tmp_path, "dqn")
            in_training(process, tmp_path, iterations=iterations)
            process.kill()
            assert ended(process)[0] == -9
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole("dqn"))

    @pytest.mark.slow
    def test_what_changes_nothing_may_be_another(self, tmp_path, whole):
        (tmp_path / "slowly.py").write_text(SLOW)
        process = train(tmp_path, *SLOWLY)
        in_training(process, tmp_path, iterations=3)
        process.kill()
        assert ended(process)[0] == -9
        more = ["--workers", "2", "--worker-timeout", "60", "--on-env-error", "drop"]
        more += ["--checkpoint-every", "3"]
        done = manifests(tmp_path)[-1]["iteration"]
        process = train(tmp_path, *SLOWLY, more=more)
        in_training(process, tmp_path, iterations=done + 9)
        process.kill()
        assert ended(process)[0] == -9
        kept = json.loads((tmp_path / "run/config.json").read_text())["arguments"]
        assert (kept["workers"], kept["on_env_error"], kept["checkpoint_every"]) == (2, "drop", 3)
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole(*SLOWLY))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("numbers", "code", "least", "most"),
        [
            ([signal.SIGINT, signal.SIGINT], 130, 0.0, 6.0),
            ([signal.SIGTERM], 143, 8.0, 16.0),
        ],
        ids=["twice", "grace"],
    )
    def test_in_a_long_iteration(self, tmp_path, whole, numbers, code, least, most):
        """A second one is heeded at once, and a SIGTERM before somebody sends a SIGKILL."""
        (tmp_path / "slowly.py").write_text(SLOW)
        process = train(tmp_path, *SLOWLY)
        in_training(process, tmp_path)
        (tmp_path / "slow").touch()
        time.sleep(1.0)
        begun = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        found, err = ended(process)
        assert found == code
        assert "\nStopped. The last checkpoint is kept. To go on: tfpg resume run\n" in err
        assert least <= time.monotonic() - begun <= most
        (tmp_path / "slow").unlink()
        assert manifests(tmp_path)[-1]["iteration"] <= rows(tmp_path) < 200
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole(*SLOWLY))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("numbers", "code", "most"),
        [([signal.SIGINT, signal.SIGINT], 130, 4.0), ([signal.SIGTERM], 143, 14.0)],
        ids=["twice", "grace"],
    )
    def test_in_one_long_call_of_tensorflow(self, tmp_path, numbers, code, most):
        """Its updates take minutes."""
        process = start(
            *("train", "ppo", "CartPole-v1", "--epochs", "20000", "--num-steps", "1024"),
            *(*OTHER, "--run", "run"),
            cwd=tmp_path,
            preexec_fn=listens,
        )
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(8.0)
        begun = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        said = f"{FINISHING}{NOTHING}tfpg: interrupted.\n" if code == 130 else NOTHING
        assert ended(process) == (code, said)
        assert time.monotonic() - begun <= most
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_before_the_first_iteration_nothing_is_left(self, tmp_path):
        (tmp_path / "slowly.py").write_text(SLOW)
        (tmp_path / "slow").touch()
        process = train(tmp_path, *SLOWLY)
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(1.5)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert ended(process) == (130, f"{FINISHING}{NOTHING}tfpg: interrupted.\n")
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, whole):
    """A folder with a run that came to its end, one that did not, and what is none."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(whole() / "run", folder / "done")
    shutil.copytree(folder / "done", folder / "killed")
    config = json.loads((folder / "done/config.json").read_text())
    del config["finished"]
    (folder / "killed/config.json").write_text(json.dumps(config))
    old = {k: v for k, v in config.items() if k != "arguments"}
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


def test_a_run_of_an_algorithm_that_is_none(tmp_path, finished):
    shutil.copytree(finished / "killed", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["arguments"]["algorithm"] = "sarsa"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    code, err = resume(tmp_path)
    assert code == 1
    assert "invalid choice: 'sarsa'" in err
    known = "is not of a training that this tfpg knows: tfpg train sarsa CartPole-v1"
    assert err.splitlines()[-1] == f"tfpg: error: run/config.json {known}"


@pytest.mark.slow
def test_an_error_says_what_is_kept(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    process = train(tmp_path, "reinforce", "breaking:Breaking-v0")
    code, err = ended(process)
    assert code == 1
    kept, error = err.strip().splitlines()
    assert kept == "The last checkpoint is kept, and tfpg resume run goes on from there."
    assert "RuntimeError: a wheel is off" in error
    assert manifests(tmp_path)


class TestRefused:
    @pytest.mark.parametrize(
        ("run", "message"),
        slow_but(
            [("none", "'none' is not a run: it has no config.json.")],
            [
                ("done", "'done' exists already, and is a run that came to its end: --model done "),
                ("none", "'none' is not a run: it has no config.json."),
                ("old", "'old' exists already, and cannot be gone on with."),
                ("cut", "'cut/config.json' is not valid JSON: "),
                ("list", "'list/config.json' is a list, not a JSON object."),
                ("empty", "'empty' is empty: there is nothing to go on with."),
                ("file", "'file' is not a run: it has no config.json."),
                ("nowhere", "No run at 'nowhere': give the folder of one."),
            ],
        ),
    )
    def test_what_cannot_be_gone_on_with(self, finished, run, message):
        code, err = resume(finished, run)
        assert code == 1
        assert err.startswith(f"tfpg: error: {message}")
        assert err.count("\n") == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("run", "more", "message"),
        [
            ("done", [], "'done' exists already, and is a run that came to its end: --model done "),
            ("none", [], "'none' exists already. Choose another folder"),
            ("cut", [], "'cut/config.json' is not valid JSON: "),
            (
                "killed",
                ["--iterations", "7"],
                "of a training with --iterations 200, and this one h",
            ),
            (
                "killed",
                ["--max-steps", "31"],
                "of a training with --max-steps 30, and this one has",
            ),
            (
                "killed",
                ["--seed", "2"],
                "of a training with --seed 1, and this one has --seed 2. Choose",
            ),
            (
                "killed",
                ["--gamma", "0.5"],
                "of a training with no --gamma, and this one has --gamma 0.5",
            ),
        ],
    )
    def test_another_training_in_its_place(self, finished, run, more, message):
        before = (finished / run / "metrics.csv").read_bytes()
        code, err = ended(train(finished, run=run, more=more))
        assert code == 1
        assert err.startswith("tfpg: error: ")
        assert message in err
        assert err.count("\n") == 1
        assert (finished / run / "metrics.csv").read_bytes() == before

    @pytest.mark.slow
    def test_the_arguments_are_as_they_were(self, finished):
        """Also where what may be another in other environments is refused."""
        config = finished / "killed/config.json"
        before = config.read_bytes()
        for more in (["--workers", "2"], ["--on-env-error", "drop"]):
            code, err = ended(train(finished, run="killed", more=more))
            assert (code, err.count("\n")) == (1, 1)
            assert f"and this one has {' '.join(more)}. Choose" in err
        claimed = os.open(finished / "killed/checkpoints", os.O_RDONLY)
        fcntl.flock(claimed, fcntl.LOCK_EX)
        code, err = ended(train(finished, run="killed", more=["--checkpoint-every", "77"]))
        os.close(claimed)
        assert (code, err.count("\n")) == (1, 1)
        assert "Another training is writing into" in err
        assert config.read_bytes() == before

    def test_another_algorithm_or_environment(self, finished):
        for algorithm, env, message in (
            (
                "ppo",
                "CartPole-v1",
                "of a training with algorithm reinforce, and this one has algorithm ppo",
            ),
            (
                "reinforce",
                "Acrobot-v1",
                "of a training with env CartPole-v1, and this one has env Acr",
            ),
        ):
            process = start("train", algorithm, env, *OTHER, "--run", "killed", cwd=finished)
            code, err = ended(process)
            assert code == 1
            assert message in err
            assert "or go on with it as it was: tfpg resume killed" in err


@pytest.mark.slow
class TestBroken:
    def test_the_newest_checkpoint(self, tmp_path, whole, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        newest = manifests(tmp_path)[-1]["step"]
        path = tmp_path / f"run/checkpoints/step-{newest}/state.bin"
        os.truncate(path, 1000)
        (tmp_path / "run/.model.tmp-1a2b.keras").write_bytes(b"half of a model")
        code, err = resume(tmp_path)
        assert code == 0
        assert "state.bin' is not whole: expected" in err
        assert "found 1,000. Going on from" in err
        assert not list((tmp_path / "run").glob(".*"))
        assert outcome(tmp_path) == outcome(whole())

    def test_all_of_them(self, tmp_path, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        for path in (tmp_path / "run/checkpoints").glob("step-*/state.bin"):
            path.unlink()
        code, err = resume(tmp_path)
        assert code == 1
        assert err.startswith("tfpg: error: ")
        assert (
            "No such file or directory. Nor is any other of the 2: begin anew in another folder.\n"
            in err
        )
        assert (tmp_path / "run/metrics.csv").exists()

    def test_none_was_written_yet(self, tmp_path, whole, finished):
        shutil.copytree(finished / "killed", tmp_path / "run")
        shutil.rmtree(tmp_path / "run/checkpoints")
        words = "There is no checkpoint in 'run/checkpoints': the training begins anew."
        assert resume(tmp_path) == (0, f"tfpg: warning: {words}\n")
        assert outcome(tmp_path) == outcome(whole())


@pytest.mark.slow
class TestFullDisk:
    def limited(self, size):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limit

    def test_it_is_full_after_some_checkpoints(self, tmp_path, whole):
        """The training goes on, and says so in the end; with more room it is as if it had been."""
        process = train(tmp_path, "dqn", preexec_fn=self.limited(60_000))
        code, err = ended(process)
        assert code == 1
        warning = "A checkpoint cannot be written into 'run/checkpoints' (File too large, "
        assert warning in err
        assert "The training goes on, and tries again." in err
        *_, last = err.splitlines()
        assert last.startswith(f"tfpg: error: {warning}")
        assert err.count("tfpg: error") == 1
        kept = manifests(tmp_path)[-1]["iteration"]
        assert kept < rows(tmp_path)
        assert not list((tmp_path / "run/checkpoints").glob(".tmp-*"))
        assert resume(tmp_path) == (0, "")
        assert outcome(tmp_path) == outcome(whole("dqn"))

    @pytest.mark.parametrize("size", [0, 300, 3_000, 10_000, 20_000])
    def test_it_is_full_at_once(self, tmp_path, size):
        code, err = ended(train(tmp_path, preexec_fn=self.limited(size)))
        assert code == 1
        last = err.splitlines()[-1]
        assert last.startswith("tfpg: error: ")
        if not size:  # Python itself finds no room
            return
        assert re.search("'run[^ ]*'.* cannot be written|cannot be written into 'run", last), last
        assert "File too large" in last
        assert err.count("tfpg: error") == 1


@pytest.mark.slow
class TestVerifyResume:
    def test_stopped_it_leaves_nothing(self, tmp_path):
        process = start(
            *("verify-resume", "CartPole-v1", "ppo", "--iterations", "100000"),
            cwd=tmp_path,
            tmp=tmp_path,
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/whole/checkpoints/step-*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert ended(process, 10.0) == (143, "")
        assert list(tmp_path.iterdir()) == []

    def test_what_says_much(self, tmp_path):
        (tmp_path / "slowly.py").write_text(
            SLOW.replace("time.sleep(30)", "__import__('sys').stderr.write('x' * 1000 + '\\n')")
        )
        (tmp_path / "slow").touch()
        arguments = ["verify-resume", "slowly:Slow-v0", "ppo", "--iterations", "4", "--json"]
        process = start(*arguments, cwd=tmp_path)
        out, _ = process.communicate(timeout=120)
        assert json.loads(out)["same"]

    def test_numbers_that_are_none(self, tmp_path):
        (tmp_path / "slowly.py").write_text(
            SLOW.replace("time.sleep(30)", "self.state = [nan] * 4")
        )
        (tmp_path / "slow").touch()
        process = start(
            *("verify-resume", "slowly:Slow-v0", "ppo", "--iterations", "2"), cwd=tmp_path
        )
        code, err = ended(process)
        assert code == 3
        assert "tfpg: error: The observation" in err
