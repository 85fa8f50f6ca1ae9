"""Environments that raise, die and hang: errors are clear, and no broken episode is learned."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import gymnasium
import keras
import numpy as np
import psutil
import pytest
from faulty import Faulty, Slow, WrongShape
from marks import slow_but

import tfpg
from tfpg.core.seeding import reset_seed, training_rng
from tfpg.envs import make_vec, open_vec, spaces_of, supervised
from tfpg.errors import EnvError, EnvWorkerDied
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.loop import time_limit
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.trajectory import flatten

ROOT = Path(__file__).parents[2]
SEEDS = [reset_seed(training_rng(0, episode)) for episode in range(40)]
# In fragments: the second episode of environment 1, and the first of environment 0.
SECOND, FIRST = reset_seed(training_rng(0, 1, 1)), SEEDS[0]

# What can happen, and in how many processes. A hang costs a second of waiting.
TYPICAL = [("raises", None), ("killed", 2)]
FAULTS = slow_but(TYPICAL, [*TYPICAL, ("raises", 2), ("exits", 2), ("hangs", 2)])
quiet = pytest.mark.filterwarnings("ignore:.*Its episode is")


def policy_for(env):
    keras.utils.set_random_seed(0)
    shape = spaces_of(env)[0].shape
    return Policy(keras.Sequential([keras.Input(shape), keras.layers.Dense(2)]), env)


@pytest.fixture(scope="module")
def policy():
    return policy_for(Faulty)


def open_faulty(folder, fault, workers, on_env_error, **options):
    build = partial(Faulty, str(folder), fault, **options)
    timeout = 1.0 if fault == "hangs" else None
    return open_vec(build, 3, workers=workers, timeout=timeout, on_env_error=on_env_error)


def has_ended(pid, seconds=2.0):
    """Whether a process ends within some seconds, zombies included."""
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def children(pid=None):
    return {child.pid for child in psutil.Process(pid).children()}


def seeds_in(data):
    """The episodes with a real step, by the seeds that the environments show."""
    return set(data.observations[:-1][data.mask > 0][:, 1].astype(int).tolist())


def shown(*episodes):
    return {SEEDS[episode] % 997 for episode in episodes}


class TestRaise:
    @pytest.mark.parametrize("workers", [None, 2])
    def test_an_exception_in_a_step_is_reported_with_its_place_and_cause(self, tmp_path, workers):
        with open_vec(partial(Faulty, str(tmp_path), seed=SEEDS[2]), 3, workers=workers) as envs:
            envs.reset(seed=SEEDS[:3])
            envs.step(np.zeros(3, int))
            envs.step(np.zeros(3, int))
            expected = (
                rf"Environment 2 failed in step 2 of its episode \(seed {SEEDS[2]}, action 1\): "
                r"ZeroDivisionError: no torque\.\n.* on_env_error='drop'"
            )
            with pytest.raises(EnvError, match=expected) as caught:
                envs.step(np.array([0, 0, 1]))
        error = caught.value
        assert (error.env, error.seed, error.step, error.action) == (2, SEEDS[2], 2, 1)
        if workers is None:
            assert isinstance(error.__cause__, ZeroDivisionError)
        else:
            assert "in raises\n" in str(error.__cause__)
            assert "ZeroDivisionError: no torque" in str(error.__cause__)

    @pytest.mark.parametrize("workers", [None, 2])
    def test_after_an_exception_in_a_reset_the_environment_can_be_reset(self, tmp_path, workers):
        build = partial(Faulty, str(tmp_path), seed=SEEDS[1], at=None)
        with open_vec(build, 3, workers=workers) as envs:
            with pytest.raises(EnvError, match="Environment 1 could not be reset") as caught:
                envs.reset(seed=SEEDS[:3])
            error = caught.value
            assert (error.env, error.seed, error.step, error.action) == (1, SEEDS[1], None, None)
            assert envs.reset(seed=SEEDS[:3])[0].shape == (3, 3)
            assert envs.step(np.zeros(3, int))[0][1, 0] == 1

    @pytest.mark.parametrize("workers", [None, 2])
    def test_an_exception_in_the_first_constructor_is_the_cause(self, tmp_path, workers):
        with pytest.raises(EnvError, match="Environment 0 could not be made: Zero") as caught:
            make_vec(partial(Faulty, str(tmp_path), at="made"), 3, workers=workers)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_an_exception_in_a_later_constructor_names_the_environment(self):
        # With workers, the first one is made in this process and leaves one to the worker.
        for workers, index in ((None, 2), (1, 1)):
            left = [Faulty, Faulty]
            with pytest.raises(EnvError, match="could not be made: IndexError: pop") as caught:
                make_vec(lambda left=left: left.pop()(), 3, workers=workers)
            assert caught.value.env == index

    @pytest.mark.parametrize(
        ("fault", "words", "exitcode"),
        [
            ("killed", r"SIGKILL \(-9, out of memory\?\)", -9),
            ("exits", r"with exit code 3", 3),
            ("hangs", "within 1 s and was killed", None),
        ],
    )
    def test_the_death_of_a_worker_is_reported(self, tmp_path, fault, words, exitcode):
        with open_faulty(tmp_path, fault, 3, "raise", seed=SEEDS[1]) as envs:
            envs.reset(seed=SEEDS[:3])
            for _ in range(2):
                envs.step(np.zeros(3, int))
            with pytest.raises(EnvWorkerDied, match=words) as caught:
                envs.step(np.ones(3, int))
            error = caught.value
            assert (error.envs, error.exitcode) == ([1], exitcode)
            assert (error.env, error.seed, error.step, error.action) == (1, SEEDS[1], 2, 1)
            assert "(step 2 of its episode, seed" in str(error)
            with pytest.raises(EnvWorkerDied):  # it is still dead
                envs.step(np.ones(3, int))

    def test_the_death_of_a_worker_names_all_its_environments(self, tmp_path):
        with open_faulty(tmp_path, "killed", 1, "raise", at=None) as envs:
            expected = (
                r"environments 0 \(being reset, seed 5\); 1 \(.*6\); 2 \(being reset, seed 7\)"
            )
            with pytest.raises(EnvWorkerDied, match=expected) as caught:
                envs.reset(seed=5)
        assert caught.value.envs == [0, 1, 2]

    @pytest.mark.parametrize("workers", slow_but([None], [None, 1]))
    @pytest.mark.parametrize("late", [False, True])
    def test_an_observation_of_the_wrong_shape(self, workers, late):
        shapes = r"its observation: shape \(3,\), but the space has \(2,\)"
        with (
            open_vec(partial(WrongShape, late), 2, workers=workers) as envs,
            pytest.raises(EnvError, match=f"Environment 0 .*{shapes}"),
        ):
            envs.reset(seed=0)
            envs.step(np.zeros(2, int))


@quiet
@pytest.mark.parametrize(("fault", "workers"), FAULTS)
class TestWholeEpisodes:
    @pytest.mark.parametrize("at", slow_but([2], [2, None]))
    def test_restart_collects_what_a_run_without_failures_collects(
        self, tmp_path, policy, fault, workers, at
    ):
        with open_vec(Faulty, 3) as envs:
            expected = Collector(envs, 0).collect_episodes(policy, 8)
        with open_faulty(
            tmp_path, fault, workers, "restart", seed=SEEDS[4], times=2, at=at
        ) as envs:
            collector = Collector(envs, 0)
            data = collector.collect_episodes(policy, 8)
        assert len(list(tmp_path.iterdir())) == 2
        np.testing.assert_array_equal(data.mask, expected.mask)
        for name in ("actions", "rewards", "terminated", "truncated", "log_probs"):
            np.testing.assert_array_equal(*(flatten(d, getattr(d, name)) for d in (data, expected)))
        for rows in (slice(None, -1), slice(1, None)):
            np.testing.assert_array_equal(
                *(flatten(d, d.observations[rows]) for d in (data, expected))
            )
        assert (collector.steps, collector.ended, collector.episode) == (expected.mask.sum(), 8, 8)

    def test_drop_plays_another_episode_instead(self, tmp_path, policy, fault, workers):
        with open_faulty(tmp_path, fault, workers, "drop", seed=SEEDS[4], times=1) as envs:
            collector = Collector(envs, 0)
            data = collector.collect_episodes(policy, 8)
        lengths = data.mask.sum(axis=0).astype(int)
        assert data.rewards.shape == (lengths.max(), 8)
        assert data.terminated[lengths - 1, np.arange(8)].all()
        assert data.terminated.sum() == 8
        # The other episode in the same process is dropped too.
        dropped = {4} if fault == "raises" else {3, 4}
        others = {reset_seed(training_rng(0, episode, 1)) % 997 for episode in dropped}
        assert seeds_in(data) == shown(*(set(range(8)) - dropped)) | others
        assert collector.episode == 8


@quiet
@pytest.mark.parametrize("on_env_error", ["restart", "drop"])
@pytest.mark.parametrize(("fault", "workers"), FAULTS)
class TestFragments:
    def test_the_steps_of_a_failed_episode_are_masked(
        self, tmp_path, policy, fault, workers, on_env_error
    ):
        with open_faulty(tmp_path, fault, workers, on_env_error, seed=SECOND) as envs:
            collector = Collector(envs, 0)
            data = collector.collect_steps(policy, 30)
        assert list(tmp_path.iterdir())
        check_fragment(data)
        assert not data.mask.all()
        assert (SECOND % 997 in seeds_in(data)) == (on_env_error == "restart")
        assert collector.steps == data.mask.sum()
        assert collector.ended == data.terminated.sum()
        assert min(collector.episode_lengths) >= 3

    def test_the_steps_of_an_earlier_fragment_count_as_truncated(
        self, tmp_path, policy, fault, workers, on_env_error
    ):
        with open_faulty(tmp_path, fault, workers, on_env_error, seed=FIRST) as envs:
            collector = Collector(envs, 0)
            replay = ReplayBuffer(envs.single_observation_space, 300, 3, n_step=2)
            parts = [collector.collect_steps(policy, n) for n in (1, 12, 5)]
            for data in parts:
                replay.add(data)
        assert parts[0].mask.all()
        assert parts[1].mask[0, 0] == 0
        check_fragment(parts[1], after=parts[0])
        drawn = replay.sample(np.random.default_rng(0), 2000)
        # Two steps ahead, or fewer at an end, and always in the same episode.
        np.testing.assert_array_equal(drawn.observations[:, 1], drawn.next_observations[:, 1])
        ahead = drawn.next_observations[:, 0] - drawn.observations[:, 0]
        assert set(ahead.tolist()) == {1.0, 2.0}
        broken = (drawn.observations[:, 1] == FIRST % 997) & (drawn.observations[:, 0] == 0)
        if on_env_error == "drop":
            assert broken.any()
            np.testing.assert_array_equal(ahead[broken], 1)
            np.testing.assert_allclose(drawn.discounts[broken], 0.99)


def check_fragment(data, after=None):
    """Every real step is followed by its next observation, and episodes begin after an end."""
    t, n = np.nonzero(data.mask)
    x = data.observations
    np.testing.assert_array_equal(x[t + 1, n, 0], x[t, n, 0] + 1)
    np.testing.assert_array_equal(x[t + 1, n, 1], x[t, n, 1])
    assert not data.truncated.any()
    assert not (data.terminated & (data.mask == 0)).any()
    assert (data.rewards[data.mask == 0] == 0).all()
    for column in range(data.mask.shape[1]):
        real = np.flatnonzero(data.mask[:, column])
        step, ends = x[real, column, 0], data.terminated[real, column]
        assert step[0] == 0 or (real[0] == 0 and after is not None)
        np.testing.assert_array_equal(step[1:] == 0, ends[:-1])


class TestFailureCounts:
    @pytest.mark.parametrize("workers", [None, 2])
    def test_one_warning_for_all_environments(self, tmp_path, policy, workers):
        build = partial(Faulty, str(tmp_path), at=1, times=8)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with open_vec(build, 2, workers=workers, on_env_error="drop") as envs:
                data = Collector(envs, 0).collect_episodes(policy, 4)
        assert data.mask.shape[1] == 4
        texts = [str(w.message) for w in caught if "Its episode is left out" in str(w.message)]
        assert len(texts) == 1
        assert texts[0].startswith("Environment ")
        assert "in step 1 of its episode" in texts[0]

    @quiet
    @pytest.mark.parametrize("on_env_error", ["restart", "drop"])
    @pytest.mark.parametrize(("fault", "workers"), TYPICAL)
    @pytest.mark.parametrize("at", slow_but([1], [1, None]))
    def test_too_many_failures_in_a_row_are_raised(
        self, tmp_path, monkeypatch, policy, fault, workers, on_env_error, at
    ):
        most = 10
        if fault == "killed":  # starting a process takes a moment
            most = 2
            monkeypatch.setattr(supervised, "MAX_FAILURES", most)
        with (
            open_faulty(tmp_path, fault, workers, on_env_error, at=at, times=1000) as envs,
            pytest.raises(EnvError, match=f"failure {most + 1} without a finished episode"),
        ):
            Collector(envs, 0).collect_episodes(policy, 3)

    @quiet
    @pytest.mark.parametrize(("fault", "workers"), [("raises", None), ("killed", 1)])
    def test_a_finished_episode_resets_the_count(
        self, tmp_path, monkeypatch, policy, fault, workers
    ):
        monkeypatch.setattr(supervised, "MAX_FAILURES", 2)
        build = partial(Faulty, str(tmp_path), fault, seed=SEEDS[:2] + SEEDS[3:5], times=1)
        with open_vec(build, 1, workers=workers, on_env_error="restart") as envs:
            data = Collector(envs, 0).collect_episodes(policy, 6)
        assert len(list(tmp_path.iterdir())) == 4
        assert seeds_in(data) == shown(*range(6))

    @quiet
    @pytest.mark.parametrize("on_env_error", ["restart", "drop"])
    @pytest.mark.parametrize(("fault", "workers"), slow_but(TYPICAL, [*TYPICAL, ("raises", 2)]))
    def test_the_first_step_reports_a_failed_reset(self, tmp_path, fault, workers, on_env_error):
        with open_faulty(tmp_path, fault, workers, on_env_error, seed=SEEDS[1], at=None) as envs:
            envs.reset(seed=SEEDS[:3])
            *_, infos = envs.step(np.zeros(3, int))
            # The first process has environments 0 and 1.
            expected = [fault == "killed", True, False]
            np.testing.assert_array_equal(infos["env_failed"], expected)
            assert isinstance(infos["env_error"][1], EnvError)
            *_, infos = envs.step(np.zeros(3, int))
            assert "env_failed" not in infos

    @quiet
    def test_a_process_that_dies_in_a_reset_breaks_off_its_other_episodes(self, tmp_path):
        with open_faulty(tmp_path, "killed", 1, "restart", seed=99, at=None) as envs:
            envs.reset(seed=SEEDS[:3])
            envs.step(np.zeros(3, int))
            envs.reset(seed=[99, None, None], options={"reset_mask": np.arange(3) == 0})
            *_, infos = envs.step(np.zeros(3, int))
        np.testing.assert_array_equal(infos["env_failed"], [True, True, True])

    @quiet
    @pytest.mark.parametrize(("on_env_error", "count"), [("drop", 1), ("restart", 2)])
    def test_only_restart_makes_the_environment_again(self, tmp_path, policy, on_env_error, count):
        made = []

        def build():
            made.append(Faulty(str(tmp_path)))
            return made[-1]

        with open_vec(build, 1, on_env_error=on_env_error) as envs:
            Collector(envs, 0).collect_episodes(policy, 1)
        assert len(made) == count

    @quiet
    @pytest.mark.parametrize(("fault", "workers"), TYPICAL)
    def test_a_constructor_that_fails_after_a_failure_is_tried_again(
        self, tmp_path, policy, fault, workers
    ):
        class FailsTwice(Faulty):
            def __init__(self):
                made = tmp_path / "made"
                made.touch()
                count = len(made.read_text())
                made.write_text("x" * (count + 1))
                if count in ((1, 2) if workers is None else (2, 3)):
                    raise OSError("the port is taken")
                super().__init__(str(tmp_path), fault)

        with open_vec(FailsTwice, 1, workers=workers, on_env_error="restart") as envs:
            data = Collector(envs, 0).collect_episodes(policy, 2)
        assert len((tmp_path / "made").read_text()) == (4 if workers is None else 5)
        assert data.terminated.sum() == 2

    @quiet
    def test_an_evaluation_raises_failures(self, tmp_path, policy):
        with (
            open_faulty(tmp_path, "raises", None, "restart") as envs,
            pytest.raises(EnvError, match="failed in step 2"),
        ):
            tfpg.evaluate(policy, envs, 2, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_env_error": "ignore"}, "on_env_error must be 'raise', 'restart', or 'drop', but"),
        ({"workers": 0}, "workers must be an integer of at least 1"),
        ({"timeout": 2.0}, "with workers=None"),
        ({"workers": 2, "timeout": 0}, "above 0"),
    ],
)
def test_invalid_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_vec(Faulty, 2, **options)


def test_an_environment_that_exists_takes_no_workers():
    with pytest.raises(ValueError, match="pass an id or a callable"):
        make_vec(Faulty(), workers=2)
    for given in (make_vec(Faulty, 2), lambda: make_vec(Faulty, 2)):
        with pytest.raises(ValueError, match="vector environment already"):
            make_vec(given, workers=2)


def test_a_callable_that_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to a worker process: cannot pickle"):
        make_vec(lambda: (lock, Faulty())[1], 2, workers=2)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "Pendulum-v1", partial(Faulty, named=True)], ids=["0", "1", "dict"]
)
def test_workers_return_what_one_process_returns(env):
    with open_vec(env, 3, manual_resets=True) as here, open_vec(env, 3, workers=2) as there:
        assert here.single_observation_space == there.single_observation_space
        assert (here.action_space, here.metadata) == (there.action_space, there.metadata)
        assert_same(here.reset(seed=5), there.reset(seed=5))
        here.action_space.seed(0)
        for t in range(60):
            actions = here.action_space.sample()
            one, other = here.step(actions), there.step(actions)
            assert_same(one, other)
            ended = one[2] | one[3]
            if ended.any():  # every other time they are left idle
                seeds = [t + n if e and t % 2 else None for n, e in enumerate(ended)]
                results = [
                    envs.reset(seed=seeds, options={"reset_mask": ended.copy()})
                    for envs in (here, there)
                ]
                assert_same(*results)
        with pytest.raises(ValueError, match="length must match num_envs=3"):
            there.reset(seed=[1, 2])
        with pytest.raises(TypeError, match="dtype=np.bool_"):
            there.reset(options={"reset_mask": np.ones(3, int)})


def test_workers_make_environments_that_only_this_process_has_registered():
    if "Faulty-v0" not in gymnasium.registry:
        gymnasium.register("Faulty-v0", entry_point=lambda: Faulty(), max_episode_steps=4)
    with open_vec("Faulty-v0", 2, workers=2) as envs:
        assert time_limit(envs) == 4
        assert envs.reset(seed=0)[0].shape == (2, 3)


def test_attributes_of_environments_in_workers():
    with open_vec(Faulty, 3, workers=2) as envs:
        envs.reset(seed=[4, 5, 6])
        assert envs.get_attr("began") == (4, 5, 6)
        envs.set_attr("began", [7, 8, 9])
        assert envs.call("observe")[2][1] == 9
        with pytest.raises(EnvError, match="could not call 'nothing': AttributeError"):
            envs.call("nothing")
        assert envs.step(np.zeros(3, int))[0][0, 1] == 7


class TestProcesses:
    def interrupted(self, envs, seconds=0.05):
        """Interrupt a step, as Ctrl-C does."""
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(KeyboardInterrupt):
                envs.step(np.zeros(envs.num_envs, int))
        finally:
            signal.signal(signal.SIGALRM, previous)

    def test_closing_takes_a_second_even_in_the_middle_of_a_step(self):
        before = children()
        envs = make_vec(partial(Slow, 60), 2, workers=2, timeout=0.2)
        pids = children() - before
        assert len(pids) == 2
        envs.reset(seed=0)
        self.interrupted(envs)
        start = time.monotonic()
        envs.close()
        assert time.monotonic() - start < 1.5
        assert all(has_ended(pid, 0.1) for pid in pids)

    def test_the_answer_to_an_interrupted_request_is_discarded(self):
        with open_vec(partial(Slow, 0.2), 2, workers=2) as envs:
            envs.reset(seed=[1, 2])
            self.interrupted(envs)
            observations, _ = envs.reset(seed=[3, 4])
            np.testing.assert_array_equal(observations[:, :2], [[0, 3], [0, 4]])

    def start_program(self, tmp_path, body):
        """Start a program without a guard for its main module, and return it and its workers."""
        (tmp_path / "program.py").write_text(
            textwrap.dedent(
                f"""
                import sys
                sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
                import numpy as np
                from faulty import Slow
                from tfpg.envs import make_vec

                class Mine(Slow):
                    pass

                envs = make_vec(lambda: Mine(60), 2, workers=2)
                envs.reset(seed=0)
                print("ready", flush=True)
                """
            )
            + body
        )
        command = [sys.executable, str(tmp_path / "program.py")]
        program = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        assert program.stdout.readline() == "ready\n", program.stderr.read()
        pids = children(program.pid)
        assert len(pids) == 2
        time.sleep(0.3)
        return program, pids

    @pytest.mark.parametrize("body", ["import time; time.sleep(60)", "envs.step(np.zeros(2, int))"])
    def test_workers_end_with_a_parent_that_is_killed(self, tmp_path, body):
        program, pids = self.start_program(tmp_path, body)
        program.kill()
        assert all(has_ended(pid) for pid in pids)
        program.communicate()

    def test_ctrl_c_ends_a_step_at_once(self, tmp_path):
        program, pids = self.start_program(tmp_path, "envs.step(np.zeros(2, int))")
        start = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=10)
        assert time.monotonic() - start < 3
        assert err.count("KeyboardInterrupt") == 1, err  # and none in the workers
        assert all(has_ended(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "on_env_error"), [("Reinforce", "restart"), ("A2C", "drop"), ("DQN", "restart")]
)
def test_agents_train_through_failures(tmp_path, kind, on_env_error):
    with open_faulty(tmp_path, "killed", 3, on_env_error, at=1, times=6) as envs:
        network = tfpg.networks.actor_critic if kind == "A2C" else tfpg.networks.mlp
        options = {"learn_period": 6, "learning_starts": 30} if kind == "DQN" else {}
        agent = getattr(tfpg, kind)(network(envs), **options)
        agent.fit(envs, 4, seed=0, verbose=0)
    assert len(list(tmp_path.iterdir())) == 6
