"""`check_env` finds everything that is wrong with an environment, and nothing else."""

import time

import gymnasium
import misbehaving
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from misbehaving import Well
from toys import Bandit, Countdown

import tfpg
from tfpg.checks import env_checks
from tfpg.checks.random_play import Moment, fingerprint, first_difference

POLICIES, Q_NETWORKS = "reinforce, a2c, ppo", "dqn, c51, qrdqn, rainbow, pqn"
DISCRETE = f"{POLICIES}, {Q_NETWORKS}"


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(env_checks, "SPEED_SECONDS", 0.01)


def check(kind, **options):
    env = f"misbehaving:{kind.__name__}-v0" if isinstance(kind, type) else kind
    return tfpg.check_env(env, **{"steps": 100, **options})


def rows(report, verdict=None):
    """Details by what was checked."""
    found = {}
    for row in report.rows:
        if verdict in (None, row.verdict):
            found.setdefault(row.what, []).append(row.detail)
    return found


class TestComparison:
    def test_fingerprints_differ_in_a_bit_or_a_dtype(self):
        one = {"a": np.array([1.0, np.nan]), "b": (1, "x")}
        assert fingerprint(one) == fingerprint({"a": np.array([1.0, np.nan]), "b": (1, "x")})
        for other in (np.array([1.0, 2.0]), np.array([1.0, np.nan], np.float32)):
            assert fingerprint(one) != fingerprint({**one, "a": other})

    def test_an_error_is_a_difference(self):
        moments = [Moment(0, None, 1), Moment(0, 0, 2, 3, (False, False))]
        assert first_difference(moments, moments) is None
        failed = [*moments[:1], Moment(0, 0, end="KeyError")]
        assert first_difference(moments, failed) == "error (step 0, seed 0)"


class TestGoodEnvironments:
    @pytest.mark.parametrize(
        ("env_id", "algorithms"),
        [
            ("CartPole-v1", f"{DISCRETE}; not sac, which needs a bounded Box"),
            ("Pendulum-v1", f"{POLICIES}, sac; not {Q_NETWORKS}, which need Discrete actions"),
            ("FrozenLake-v1", f"{DISCRETE}; not sac, which needs a bounded Box"),
        ],
    )
    def test_gymnasiums_environments_have_no_issue(self, env_id, algorithms):
        report = tfpg.check_env(env_id, steps=300)
        assert {row.verdict for row in report.rows} == {"ok"}, report
        assert rows(report)["algorithms"] == [algorithms]
        assert report.ok

    def test_an_atari_game_has_no_issue(self, monkeypatch):
        pytest.importorskip("ale_py")
        monkeypatch.setattr(env_checks, "NUM_ENVS", 2)
        report = tfpg.check_env("ALE/Pong-v5", steps=30, seconds=60)
        assert {row.verdict for row in report.rows} == {"ok"}, report
        assert "(AtariGames)" in rows(report)["speed"][0]
        assert rows(report)["observation space"] == ["Box (84, 84, 4) uint8, from 0 to 255"]

    def test_the_table(self):
        table = check(Well).table(80).splitlines()
        assert all(len(line) <= 80 for line in table)
        assert table[3].startswith("algorithms         ok  reinforce, a2c, ")
        assert table[5:11] == [
            "reset              ok  returns (observation, info), takes seed= and options=",
            "step               ok  returns five values, 100 times",
            "observations       ok  finite and in their space, from 0 to 5",
            "copies             ok  observations do not change after they are returned",
            "rewards            ok  finite numbers, always 1",
            "episodes           ok  20 ended, after 5 steps",
        ]

    def test_a_callable_makes_one_environment_to_compare_and_some_to_measure(self):
        made = []

        def build():
            made.append(Well())
            return made[-1]

        report = check(build)
        assert "warning" not in {row.verdict for row in report.rows}
        assert "with 8 environments" in rows(report)["speed"][0]
        assert len(made) == 2 + 1 + env_checks.NUM_ENVS

    def test_an_environment_is_left_open(self):
        env = Well(render_mode="rgb_array")
        env.close = lambda: pytest.fail("closed")
        report = check(env)
        assert report.ok
        assert rows(report)["determinism"][0].endswith("100 steps in the same instance")
        assert "32 pixels" in rows(report)["rendering"][0]

    def test_a_time_limit_truncates_episodes(self):
        report = check(lambda: gymnasium.wrappers.TimeLimit(misbehaving.Endless(), 7))
        assert rows(report)["episodes"] == ["14 ended, after 7 steps (all truncated)"]

    def test_large_observations_have_a_hint(self):
        report = check(lambda: Countdown(length=200), steps=300)
        assert rows(report, "ok")["observations"][0].endswith(
            "from 0 to 200: networks with normalize=True standardize them"
        )

    def test_the_report_contains_the_seed(self):
        assert check(Well, seed=5).seed == 5
        assert check(Well, seed=None).seed != check(Well, seed=None).seed


def test_other_objects_and_options_are_refused():
    with pytest.raises(TypeError, match="but got int"):
        tfpg.check_env(3)
    with pytest.raises(TypeError, match="but got SyncVectorEnv"):
        tfpg.check_env(gymnasium.vector.SyncVectorEnv([Well]))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tfpg.check_env("CartPole-v1", steps=0)


BROKEN = [
    ("NaNObservation", "observations", "1 of 2 values is NaN or infinite (step 2, seed 0, and "),
    ("WrongShape", "observations", "shape (3,), but the space has (2,) (reset, seed 0, and "),
    ("NoReward", "rewards", "expected a float, got NoneType (step 0, seed 0, and 99 more times)"),
    ("Raising", "step", "KeyError: 'wheel' (misbehaving.py:"),
    ("Exiting", "reset", "SystemExit: no licence (misbehaving.py:"),
    ("Talking", "step", "expected (observation, reward, terminated, truncated, info), got str"),
    ("Untyped", "step", "expected a bool as truncated, got NoneType"),
    ("Untyped", "step", "expected a dict as info, got list"),
    (
        "OldInterface",
        "step",
        "expected (observation, reward, terminated, truncated, info), got a tuple of 4 (the "
        "interface of Gym before 0.26)",
    ),
    ("OldInterface", "reset", "expected (observation, info), got ndarray"),
    ("OldInterface", "reset", "has no argument seed: def reset(self, *, seed=None, options=None)"),
    ("OldInterface", "reset", "has no argument options: def reset"),
    ("Tupled", "observation space", "Unsupported observation space Tuple("),
    ("Tupled", "action space", "Unsupported action space Tuple("),
    (
        "Tupled",
        "algorithms",
        f"none of {DISCRETE}, sac takes these spaces",
    ),
    ("Unmakeable", "environment", "RuntimeError: no simulator on this machine (misbehaving.py:"),
    ("Spaceless", "environment", "TypeError: self.observation_space is not a Gymnasium space"),
    ("Blurred", "rendering", "frames of several sizes, (20, 30), (21, 30): a video has one size"),
    (
        "Nondeterministic",
        "determinism",
        "equal seeds and actions give a different reward (step 2, seed 0) in a second instance",
    ),
]


class TestProblems:
    @pytest.mark.parametrize(("name", "what", "begins"), BROKEN)
    def test_each_is_reported(self, name, what, begins):
        report = check(getattr(misbehaving, name))
        assert not report.ok
        problems = rows(report, "problem")
        assert any(detail.startswith(begins) for detail in problems[what]), report

    @pytest.mark.parametrize(
        ("name", "what", "begins"),
        [
            ("Endless", "episodes", "none ended in 100 random steps, and there is no time limit"),
            ("Endless", "rendering", "it has no render modes: no videos"),
            ("OutOfBounds", "observations", "1 of 2 values is outside the space: 4 > 3"),
            ("WrongDtype", "observations", "float64, but the space has float32"),
            ("Buffered", "copies", "an observation changes after it is returned"),
            (
                "Remembering",
                "determinism",
                "equal seeds and actions give a different reward (step 0, seed 0) again in the "
                "first",
            ),
            ("Squeaking", "warnings", "The wheel squeaks"),
        ],
    )
    def test_what_tfpg_copes_with_is_a_warning(self, name, what, begins):
        report = check(getattr(misbehaving, name))
        assert report.ok
        assert rows(report, "warning")[what][0].startswith(begins)

    def test_an_environment_is_compared_with_itself(self):
        problems = rows(check(misbehaving.Remembering()), "problem")
        assert problems["determinism"][0].endswith("in the same instance: runs cannot be repeated")

    def test_many_at_once(self):
        report = check(misbehaving.Everything)
        assert rows(report, "problem").keys() >= {
            *("reset", "observations", "determinism", "rendering")
        }
        assert rows(report, "warning").keys() == {
            *("action space", "observations", "copies", "rewards")
        }
        assert len(rows(report)["observations"]) == 3

    def test_an_unknown_id(self):
        (row,) = tfpg.check_env("CartPol-v1").rows
        assert row[:2] == ("environment", "problem")
        assert "Did you mean CartPole-v1" in row.detail

    def test_a_callable_that_returns_something_else(self):
        (row,) = tfpg.check_env(lambda: 3).rows
        assert row.detail.startswith("TypeError: expected a callable that returns a Gymnasium env")

    def test_a_callable_that_returns_the_same_environment(self):
        env = Well()
        assert "the same environment twice" in rows(check(lambda: env), "problem")["speed"][0]

    def test_an_environment_that_cannot_be_closed(self):
        class Sticky(Well):
            def close(self):
                raise OSError("in use")

        report = check(lambda: Sticky(), steps=10)
        assert rows(report, "warning")["closing"][0].startswith("OSError: in use")

    def test_nondeterminism_in_the_registration_is_a_warning(self):
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
    def test_bounds_of_actions_far_from_a_new_policys(self, space, verdict):
        report = check(lambda: Bandit(space))
        assert [row.verdict for row in report.rows if row.what == "action space"] == [verdict]

    def test_a_dimension_with_a_single_value_is_not_for_sac(self):
        space = spaces.Box(np.float32([-1, 2]), np.float32([1, 2]))
        report = check(lambda: Bandit(space))
        expected = "both bounds of dimension 1 are 2: SAC and squash=True cannot be used"
        assert rows(report, "warning")["action space"] == [expected]
        assert "not sac" in rows(report)["algorithms"][0]

    def test_keys_that_no_model_can_take_are_a_warning_and_not_checked(self):
        class Mission(Well):
            def __init__(self):
                super().__init__()
                parts = {"x": self.observation_space, "mission": spaces.Text(1)}
                self.observation_space = spaces.Dict(parts)

            def reset(self, **options):
                x, info = super().reset(**options)
                return {"x": x, "mission": "find the key"}, info

            def step(self, action):
                x, *rest = super().step(action)
                return {"x": x}, *rest

        report = check(lambda: Mission(), steps=3)
        text = "'mission' is left out: no model can take a Text"
        assert rows(report, "warning")["observation space"] == [text]
        assert "observations" not in rows(report, "warning")
        assert report.ok

    def test_a_tuple_of_observations_is_described_by_part(self):
        space = spaces.Tuple([spaces.Discrete(3), Well().observation_space])
        report = check(lambda: TransformObservation(Well(), lambda x: (1, x), space), steps=3)
        assert report.ok
        assert rows(report, "ok")["observation space"][0].startswith("0: Discrete(3); 1: Box")

    def test_an_unsupported_space_is_its_only_problem(self):
        space = spaces.Tuple([spaces.Tuple([Well().observation_space])])
        report = check(lambda: TransformObservation(Well(), lambda x: ((x,),), space), steps=3)
        assert list(rows(report, "problem")) == ["observation space", "algorithms"]


class TestRendering:
    def test_environments_that_only_open_a_window_need_xvfb(self, monkeypatch):
        monkeypatch.setattr(env_checks.shutil, "which", lambda name: f"/usr/bin/{name}")
        assert "recorded with Xvfb" in rows(check(misbehaving.Windowed), "ok")["rendering"][0]
        monkeypatch.setattr(env_checks.shutil, "which", lambda name: None)
        detail = rows(check(misbehaving.Windowed), "warning")["rendering"][0]
        assert "apt-get install xvfb" in detail

    def test_an_environment_made_without_a_render_mode(self):
        detail = rows(check(lambda: Well()), "ok")["rendering"][0]
        assert detail == "made with render_mode=None; make it with 'rgb_array' to record"


class TestTime:
    def test_slow_steps_are_cut(self):
        report = check(misbehaving.Slow, seconds=1)
        assert report.ok
        assert "of 100: out of time" in rows(report)["step"][0]

    def test_what_there_is_no_time_for_is_reported(self):
        began = time.monotonic()
        report = check(misbehaving.Slow, seconds=0.05)
        assert time.monotonic() - began < 5
        assert rows(report, "warning")["time"][0].startswith("not checked within 0.05 s: ")
