"""``tfpg check``: what is wrong is found, all of it, and what is well is left alone."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import gymnasium
import misbehaving
import numpy as np
import pytest
from gymnasium import spaces
from marks import slow_but
from misbehaving import Well
from toys import Bandit, Countdown

import tfpg
from tfpg.checks import env_checks as look
from tfpg.checks.contracts import (
    Moment,
    describe_error,
    fingerprint,
    first_difference,
    observation_faults,
    reward_faults,
    step_faults,
)
from tfpg.checks.trying import Findings, TimeIsUp, Tried, Walk, Watch, walk


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(look, "_SPEED_SECONDS", 0.01)


def check(kind, **options):
    env = f"misbehaving:{kind.__name__}-v0" if isinstance(kind, type) else kind
    return tfpg.check_env(env, **{"steps": 100, **options})


def rows(report, verdict=None):
    """Details by what was looked at."""
    found = {}
    for row in report.rows:
        if verdict in (None, row.verdict):
            found.setdefault(row.what, []).append(row.detail)
    return found


class TestContracts:
    BOX = spaces.Box(0, 255, (2,), np.uint8)

    @pytest.mark.parametrize(
        ("space", "observation", "details"),
        [
            (BOX, np.array([0, 255], np.uint8), []),
            (BOX, np.array([0, 255]), ["problem int64, and the space says uint8"]),
            (BOX, [0, 255], ["warning a list, and an array was expected"]),
            (BOX, None, ["problem a NoneType, and numbers were expected"]),
            (BOX, [[1], [2, 3]], ["problem a list, and numbers were expected"]),
            (
                spaces.Box(-1, 1, (2,), np.float32),
                np.array([3, -np.inf], np.float32),
                [
                    "problem 1 of 2 values is NaN or infinite",
                    "problem 1 of 2 values is outside the space: 3, where its bound is 1",
                ],
            ),
            (spaces.Box(-1, 1, (1,), np.float32), np.array([1 + 1e-9]), ["warning float64, and"]),
            (spaces.Discrete(3, start=1), 3, []),
            (spaces.Discrete(3, start=1), np.int32(3), []),
            (spaces.Discrete(3), 3, ["problem 3 is outside Discrete(3)"]),
            (spaces.Discrete(3), 1.0, ["problem float64, and the space says int64"]),
            (spaces.MultiDiscrete([2, 2]), np.array([1, 2]), ["problem [1, 2] is outside"]),
            (spaces.MultiBinary(2), np.array([0, 1], np.int8), []),
            (spaces.Text(3), "four", ["problem outside the space"]),
            (
                spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)),
                {"a": 2, "c": 0},
                [
                    "problem 'a': 2 is outside Discrete(2)",
                    "problem 'b' is missing",
                    "warning 'c' is not in the space, and left out",
                ],
            ),
            (spaces.Dict(a=spaces.Discrete(2)), 1, ["problem an int, and the space is a Dict"]),
        ],
    )
    def test_observations(self, space, observation, details):
        found = [f"{f.verdict} {f.detail}" for f in observation_faults(space, observation)]
        assert len(found) == len(details)
        for text, begins in zip(found, details, strict=True):
            assert text.startswith(begins)

    @pytest.mark.parametrize("reward", [1, 0.5, np.float32(1), np.int64(2), True])
    def test_numbers_are_rewards(self, reward):
        assert not list(reward_faults(reward))

    @pytest.mark.parametrize("reward", [None, "1", [1.0], np.ones(1), np.array(1.0), np.nan])
    def test_others_are_not(self, reward):
        assert [fault.verdict for fault in reward_faults(reward)] == ["problem"]

    def test_the_five_of_a_step(self):
        assert not list(step_faults((0, 0, np.bool_(True), False, {})))
        kinds = [(f.verdict, f.kind) for f in step_faults((0, 0, 1, "no", None))]
        assert kinds == [("warning", "terminated"), ("problem", "truncated"), ("problem", "info")]

    def test_fingerprints_tell_bits_apart(self):
        one = {"a": np.array([1.0, np.nan]), "b": (1, "x")}
        assert fingerprint(one) == fingerprint({"a": np.array([1.0, np.nan]), "b": (1, "x")})
        for other in (np.array([1.0, 2.0]), np.array([1.0, np.nan], np.float32)):
            assert fingerprint(one) != fingerprint({**one, "a": other})

    def test_an_error_is_a_difference(self):
        well = [Moment(0, None, 1), Moment(0, 0, 2, 3, (False, False))]
        assert first_difference(well, well) is None
        assert first_difference(well, [*well[:1], Moment(0, 0, end="KeyError")]) == (
            "error (step 0, seed 0)"
        )

    def test_an_error_says_which_line_of_the_environment(self):
        env = misbehaving.Raising()
        env.reset()
        env.t = 3
        with pytest.raises(KeyError) as caught:
            env.step(0)
        assert describe_error(caught.value).startswith("KeyError: 'wheel' (misbehaving.py:")


class TestWell:
    @pytest.mark.parametrize(
        ("env_id", "algorithms"),
        [
            ("CartPole-v1", "reinforce, a2c, ppo, dqn"),
            ("Pendulum-v1", "reinforce, a2c, ppo; not dqn, whose actions are Discrete"),
            ("FrozenLake-v1", "reinforce, a2c, ppo, dqn"),
        ],
    )
    def test_gymnasiums_environments(self, env_id, algorithms):
        report = tfpg.check_env(env_id, steps=300)
        assert {row.verdict for row in report.rows} == {"ok"}, report
        assert rows(report)["algorithms"] == [algorithms]
        assert report.ok
        assert not report.hangs

    def test_an_atari_game(self, monkeypatch):
        pytest.importorskip("ale_py")
        monkeypatch.setattr(look, "NUM_ENVS", 2)
        report = tfpg.check_env("ALE/Pong-v5", steps=30, seconds=60)
        assert {row.verdict for row in report.rows} == {"ok"}, report
        assert "(AtariGames)" in rows(report)["speed"][0]
        assert rows(report)["observation space"] == ["Box (84, 84, 4) uint8, from 0 to 255"]

    def test_the_table_of_one(self):
        table = check(Well).table(80).splitlines()
        assert all(len(line) <= 80 for line in table)
        assert table[4:10] == [
            "reset              ok  returns (observation, info), takes seed= and options=",
            "step               ok  returns its five values, 100 times",
            "observations       ok  finite and in their space, from 0 to 5",
            "copies             ok  observations stay as they were given",
            "rewards            ok  finite numbers, always 1",
            "episodes           ok  20 ended, after 5 steps; no time limit",
        ]

    def test_a_callable_and_what_it_makes(self):
        made = []

        def build():
            made.append(Well())
            return made[-1]

        report = check(build)
        assert "warning" not in {row.verdict for row in report.rows}
        assert "8 side by side" in rows(report)["speed"][0]
        assert len(made) == 2 + look.NUM_ENVS

    def test_a_single_environment_is_left_open(self):
        env = Well(render_mode="rgb_array")
        env.close = lambda: pytest.fail("closed")
        report = check(env)
        assert report.ok
        assert rows(report)["determinism"][0].endswith("100 steps in the same instance")
        assert "32 pixels" in rows(report)["rendering"][0]

    def test_a_time_limit_truncates(self):
        report = check(lambda: gymnasium.wrappers.TimeLimit(misbehaving.Endless(), 7))
        assert rows(report)["episodes"] == ["14 ended, after 7 steps (all truncated); time limit 7"]

    def test_large_numbers_have_a_hint(self):
        report = check(lambda: Countdown(length=200), steps=300)
        assert rows(report, "ok")["observations"][0].endswith(
            "from 0 to 200: networks with normalize=True standardize them"
        )

    def test_seeds_are_in_the_report(self):
        assert check(Well, seed=5).seed == 5
        assert check(Well, seed=None).seed != check(Well, seed=None).seed

    def test_what_is_given_must_be_an_environment(self):
        with pytest.raises(TypeError, match="and got int"):
            tfpg.check_env(3)
        with pytest.raises(TypeError, match="and got SyncVectorEnv"):
            tfpg.check_env(gymnasium.vector.SyncVectorEnv([Well]))
        with pytest.raises(ValueError, match="steps must be at least 1"):
            tfpg.check_env("CartPole-v1", steps=0)


BROKEN = [
    ("NaNObservation", "observations", "1 of 2 values is NaN or infinite (step 2, seed 0, and "),
    ("OutOfBounds", "observations", "1 of 2 values is outside the space: 4, where its bound is 3"),
    ("WrongShape", "observations", "shape (3,), and the space has (2,) (reset, seed 0, and "),
    ("Rewarding", "rewards", "a NoneType, and a float was expected (step 0, seed 0, and 99 times"),
    ("Raising", "step", "KeyError: 'wheel' (misbehaving.py:"),
    ("Exiting", "reset", "SystemExit: no licence (misbehaving.py:"),
    ("Talking", "step", "it returned a str, and (observation, reward, terminated, truncated, "),
    ("Untyped", "step", "truncated is a NoneType, and a bool was expected"),
    ("Untyped", "step", "its info is a list, and a dict was expected"),
    ("OldInterface", "step", "it returned a tuple of 4, as Gym's environments did before 0.26"),
    ("OldInterface", "reset", "it returned an ndarray, and (observation, info) was expected"),
    ("OldInterface", "reset", "it takes no seed=: def reset(self, *, seed=None, options=None)"),
    ("OldInterface", "reset", "it takes no options=: def reset"),
    ("Tupled", "observation space", "Observations must be Box, Discrete, "),
    ("Tupled", "action space", "No head for the action space Tuple("),
    ("Tupled", "algorithms", "none of reinforce, a2c, ppo, dqn takes these spaces"),
    ("Unmakeable", "environment", "RuntimeError: no simulator on this machine (misbehaving.py:"),
    ("Spaceless", "environment", "TypeError: self.observation_space is no Gymnasium space"),
    ("Blurred", "rendering", "frames of several sizes, (20, 30), (21, 30): a film has one"),
    (
        "Nondeterministic",
        "determinism",
        "equal seeds and actions give another reward (step 2, seed 0) in a second instance",
    ),
]


class TestBroken:
    @pytest.mark.parametrize(("name", "what", "begins"), BROKEN)
    def test_each_is_told(self, name, what, begins):
        report = check(getattr(misbehaving, name))
        assert not report.ok
        problems = rows(report, "problem")
        assert any(detail.startswith(begins) for detail in problems[what]), report

    @pytest.mark.parametrize(
        ("name", "what", "begins"),
        [
            ("Endless", "episodes", "none ended in 100 random steps, and there is no time limit"),
            ("Endless", "rendering", "it has no render modes: no films"),
            ("WrongDtype", "observations", "float64, and the space says float32"),
            ("Buffered", "copies", "an observation is changed by what follows"),
            (
                "Remembering",
                "determinism",
                "equal seeds and actions give another reward (step 0, seed 0) again in the first",
            ),
            ("Squeaking", "warnings", "The wheel squeaks."),
        ],
    )
    def test_what_tfpg_copes_with_is_a_warning(self, name, what, begins):
        report = check(getattr(misbehaving, name))
        assert report.ok
        assert rows(report, "warning")[what][0].startswith(begins)

    def test_a_single_one_is_compared_with_itself(self):
        told = rows(check(misbehaving.Remembering()), "problem")["determinism"]
        assert told[0].endswith("in the same instance: runs cannot be repeated")

    def test_everything_at_once(self):
        report = check(misbehaving.Everything)
        assert rows(report, "problem").keys() >= {
            *("reset", "observations", "rewards", "determinism", "rendering", "speed")
        }
        assert rows(report, "warning").keys() == {"action space", "observations", "copies"}
        assert len(rows(report)["observations"]) == 3

    @pytest.mark.parametrize("reward", [np.ones(1), np.inf, "1"])
    def test_rewards_that_are_none(self, reward):
        report = check(lambda: misbehaving.Rewarding(reward))
        assert "rewards" in rows(report, "problem")

    def test_an_unknown_id(self):
        (row,) = tfpg.check_env("CartPol-v1").rows
        assert row[:2] == ("environment", "problem")
        assert "Did you mean CartPole-v1" in row.detail

    def test_a_callable_of_something_else(self):
        (row,) = tfpg.check_env(lambda: 3).rows
        assert row.detail.startswith("TypeError: The callable returned int")

    def test_a_callable_of_the_same_one_again(self):
        env = Well()
        assert "the same environment twice" in rows(check(lambda: env), "problem")["speed"][0]

    def test_one_that_cannot_be_closed(self):
        class Sticky(Well):
            def close(self):
                raise OSError("in use")

        report = check(lambda: Sticky())
        assert rows(report, "problem")["closing"][0].startswith("OSError: in use")

    def test_a_registration_may_say_so(self):
        gymnasium.register("Random-v0", misbehaving.Nondeterministic, nondeterministic=True)
        try:
            report = check("Random-v0")
        finally:
            del gymnasium.registry["Random-v0"]
        assert report.ok
        assert "as its registration says" in rows(report, "warning")["determinism"][0]

    @pytest.mark.parametrize(
        ("space", "verdict"),
        [
            (spaces.Box(-2, 2, (2,)), "ok"),
            (spaces.Box(-500, 500, (2,)), "warning"),
            (spaces.Box(0, 0.01, (2,)), "warning"),
            (spaces.Box(-np.inf, np.inf, (2,)), "ok"),
        ],
    )
    def test_how_far_actions_reach(self, space, verdict):
        report = check(lambda: Bandit(space))
        assert [row.verdict for row in report.rows if row.what == "action space"] == [verdict]


class TestRendering:
    def test_only_a_window(self, monkeypatch):
        assert (
            "filmed by Xvfb"
            in rows(check(misbehaving.Windowed, seconds=60.0), "ok")["rendering"][0]
        )
        monkeypatch.setattr(look.shutil, "which", lambda name: None)
        assert (
            "apt-get install xvfb"
            in rows(check(misbehaving.Windowed, seconds=60.0), "warning")["rendering"][0]
        )

    def test_one_that_was_made_without(self):
        detail = rows(check(lambda: Well()), "ok")["rendering"][0]
        assert detail == "made with render_mode=None, and a film takes 'rgb_array', which it knows"


class TestTime:
    @pytest.mark.parametrize(
        ("kind", "what", "where"),
        [
            (misbehaving.Hanging, "step", r"\(step 3, seed 0\)"),
            (misbehaving.Spinning, "reset", r"\(reset, seed 0\)"),
        ],
    )
    def test_a_call_that_never_returns(self, kind, what, where):
        began = time.monotonic()
        misbehaving.Spinning.enough.clear()
        report = check(kind, seconds=0.5)
        misbehaving.Spinning.enough.set()  # or it slows what comes next
        assert time.monotonic() - began < 5
        assert report.hangs
        assert not report.ok
        assert [row.detail for row in report.rows if row.what == what] == [
            row.detail for row in report.rows if row.verdict == "problem"
        ]
        assert re.fullmatch(rf"has not come back in [\d.]+ s {where}", rows(report)[what][-1])
        assert "before determinism, rendering, speed" in rows(report)["time"][0]

    def test_slow_steps_are_cut(self):
        report = check(misbehaving.Slow, seconds=1)
        assert report.ok
        assert "of 100: time was short" in rows(report)["step"][0]

    def test_nothing_is_called_when_time_is_up(self):
        with pytest.raises(TimeIsUp):
            Watch(0).call("nothing", pytest.fail)

    def test_what_is_being_called(self):
        watch = Watch(10)
        inner = watch.call("outer", lambda: watch.call("inner", watch.late, at=Moment(3, 7)))
        assert inner[:2] == ("inner", " (step 7, seed 3)")
        assert watch.call("outer", watch.late)[:2] == ("outer", "")
        assert watch.late() is None


def test_a_walk_is_the_same_again():
    walks = []
    for _ in range(2):
        seen = Walk()
        walk(Tried(gymnasium.make("CartPole-v1"), Watch(10), Findings()), 4, 50, 10, seen)
        walks.append(seen)
    assert walks[0] == walks[1]
    assert walks[0].steps == 50
    seeds = [moment.seed for moment in walks[0].moments if moment.step is None]
    assert seeds == list(range(4, 4 + walks[0].resets))


def run(*args, **environ):
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    script = (
        "import os, sys\nfrom tfpg.cli import check as cli_check, main as cli\n"
        "if 'inside' in os.environ: cli.check = cli_check._check\n"  # so that this sees all
        "code = cli.main(sys.argv[1:])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'\nsys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, "check", *args],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestCommand:
    @pytest.mark.parametrize("environ", [{}, {"inside": "1"}], ids=["outside", "inside"])
    def test_prints_a_table(self, environ):
        done = run("CartPole-v1", "--steps", "200", **environ)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert all(len(line) <= 80 for line in lines)
        assert lines[2] == "action space       ok  Discrete(2); a model of 1 or 2 outputs"

    def test_prints_one_json_object(self):
        done = run("misbehaving:Squeaking-v0", "--json", "--seed", "3", "--steps", "9")
        told = json.loads(done.stdout)
        assert done.returncode == 0
        assert "squeak" in done.stderr
        assert (told["env"], told["seed"], told["ok"]) == ("misbehaving:Squeaking-v0", 3, True)
        assert told["rows"][-1] == {
            "what": "warnings",
            "verdict": "warning",
            "detail": "The wheel squeaks.",
        }

    def test_ends_with_1_also_where_a_step_hangs(self):
        done = run("misbehaving:Hanging-v0", "--seconds", "0.5")
        assert (done.returncode, done.stderr) == (1, "")
        assert "problem  has not come back in" in done.stdout

    @pytest.mark.parametrize(
        ("how", "words"),
        [("Ending", "died with exit code 3"), ("Crashing", "died of SIGSEGV (-11)")],
    )
    def test_an_environment_that_ends_the_process(self, how, words):
        done = run(f"misbehaving:{how}-v0", "--seconds", "5")
        assert (done.returncode, done.stdout) == (1, "")
        name = f"'misbehaving:{how}-v0'"
        told = f"tfpg: error: The process in which {name} was played {words}, and a training would "
        assert done.stderr.startswith(told)
        assert done.stderr.count("\n") == 1
        told = json.loads(run(f"misbehaving:{how}-v0", "--seconds", "5", "--json").stdout)
        assert not told["ok"]
        assert words in told["rows"][0]["detail"]
        shown = run(f"misbehaving:{how}-v0", "--seconds", "5", "--debug").stderr
        assert ("in crash" in shown) == (how == "Crashing")

    def test_nobody_who_reads_it(self):
        reads, writes = os.pipe()
        os.close(reads)
        done = subprocess.run(
            [sys.executable, "-m", "tfpg", "check", "CartPole-v1", "--steps", "9"],
            stdout=writes,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        os.close(writes)
        assert (done.returncode, done.stderr) == (1, b"")

    def test_what_an_environment_ends_with_python_is_ended(self):
        seconds = f"300.{os.getpid()}"  # by which it is known
        assert run("misbehaving:Helped-v0", "--steps", "9", HELPER=seconds).returncode == 0
        running = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                running.append(path.read_bytes())
        assert f"sleep\0{seconds}\0".encode() not in running

    @pytest.mark.parametrize("closed", [">&-", "2>&-"])
    def test_closed_outputs_are_no_fault_of_the_environment(self, closed):
        command = (
            f"{shlex.quote(sys.executable)} -m tfpg check CartPole-v1 --steps 9 --debug {closed}"
        )
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_one_that_leaves_a_process_behind_is_not_waited_for(self):
        begun = time.monotonic()
        done = run("misbehaving:Leaving-v0", "--seconds", "5")
        assert "died with exit code 3, and a training would" in done.stderr
        assert time.monotonic() - begun < 20

    @pytest.mark.parametrize(
        ("numbers", "code"),
        slow_but(
            [([signal.SIGINT], 130)],
            [
                ([signal.SIGINT], 130),
                ([signal.SIGINT, signal.SIGINT], 130),
                ([signal.SIGTERM], 143),
                ([signal.SIGKILL], -9),
            ],
        ),
    )
    @pytest.mark.parametrize("env", slow_but(["Hanging"], ["Hanging", "Holding"]))
    def test_stopped_it_leaves_nothing_running(self, env, numbers, code):
        process = subprocess.Popen(
            [sys.executable, "-m", "tfpg", "check", f"misbehaving:{env}-v0", "--seconds", "60"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 30
        while not children.read_text() and time.monotonic() < until:
            time.sleep(0.01)
        (child,) = children.read_text().split()
        time.sleep(1.5)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        assert process.wait(20) == code
        until = time.monotonic() + (40 if env == "Holding" else 5)
        while Path(f"/proc/{child}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
