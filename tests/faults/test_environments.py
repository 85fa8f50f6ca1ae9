"""Environments that raise, die and hang: what is said, and that no half episode is learned from."""

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
import pytest
from faulty import Faulty, Slow
from gymnasium import spaces
from marks import slow_but

import tfpg.envs.supervised
import tfpg.envs.worker_pool
import tfpg.rollouts.loop
from tfpg.core.seeding import reset_seed, training_rng
from tfpg.envs import make_vec, open_vec, spaces_of
from tfpg.errors import EnvError, EnvWorkerDied
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.trajectory import flatten

ROOT = Path(__file__).parents[2]
SEEDS = [reset_seed(training_rng(0, episode)) for episode in range(40)]

# What can happen, and in how many processes. A hang takes a second of waiting.
TYPICAL = [("boom", None), ("killed", 2)]
FAULTS = slow_but(TYPICAL, [*TYPICAL, ("boom", 2), ("exits", 2), ("hangs", 2)])


def policy_for(env):
    keras.utils.set_random_seed(0)
    shape = spaces_of(env)[0].shape
    return Policy(keras.Sequential([keras.Input(shape), keras.layers.Dense(2)]), env)


def supervised(tmp_path, fault, workers, on_env_error, **options):
    build = partial(Faulty, str(tmp_path), fault, **options)
    timeout = 1.0 if fault == "hangs" else None
    return open_vec(build, 3, workers=workers, timeout=timeout, on_env_error=on_env_error)


def gone(pid, seconds=2.0):
    """Whether a process ends within so many seconds; one that nobody waits for counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def seeds_in(data):
    """The episodes that have a real step, as the environments show their seeds."""
    return set(data.observations[:-1][data.mask > 0][:, 1].astype(int).tolist())


def shown(*episodes):
    return {SEEDS[episode] % 997 for episode in episodes}


class TestRaise:
    """What is reported when nothing was asked for."""

    @pytest.mark.parametrize("workers", [None, 2])
    def test_an_exception_in_a_step(self, tmp_path, workers):
        with open_vec(partial(Faulty, str(tmp_path), seed=SEEDS[2]), 3, workers=workers) as envs:
            envs.reset(seed=SEEDS[:3])
            envs.step(np.zeros(3, int))
            envs.step(np.zeros(3, int))
            expected = (
                rf"Environment 2 failed in step 2 of its episode \(seed {SEEDS[2]}, action 1\): "
                r"ZeroDivisionError: no torque\.\nFix the environment .* on_env_error='drop'"
            )
            with pytest.raises(EnvError, match=expected) as caught:
                envs.step(np.array([0, 0, 1]))
        error = caught.value
        assert (error.env, error.seed, error.step, error.action) == (2, SEEDS[2], 2, 1)
        if workers is None:
            assert isinstance(error.__cause__, ZeroDivisionError)
        else:
            assert "in boom\n" in str(error.__cause__)
            assert "ZeroDivisionError: no torque" in str(error.__cause__)

    @pytest.mark.parametrize("workers", [None, 2])
    def test_an_exception_in_a_reset(self, tmp_path, workers):
        build = partial(Faulty, str(tmp_path), seed=SEEDS[1], at=None)
        with open_vec(build, 3, workers=workers) as envs:
            with pytest.raises(EnvError, match="Environment 1 could not be reset") as caught:
                envs.reset(seed=SEEDS[:3])
            error = caught.value
            assert (error.env, error.seed, error.step, error.action) == (1, SEEDS[1], None, None)
            # Once is not for ever.
            assert envs.reset(seed=SEEDS[:3])[0].shape == (3, 3)
            assert envs.step(np.zeros(3, int))[0][1, 0] == 1

    @pytest.mark.parametrize("workers", [None, 2])
    def test_an_exception_in_a_constructor_is_its_own(self, tmp_path, workers):
        with pytest.raises(EnvError, match="Environment 0 could not be made: Zero") as caught:
            make_vec(partial(Faulty, str(tmp_path), at="made"), 3, workers=workers)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_an_exception_in_a_later_constructor(self):
        # The one that is made here first leaves one to the worker process.
        for workers, index in ((None, 2), (1, 1)):
            left = [Faulty, Faulty]
            with pytest.raises(EnvError, match="could not be made: IndexError: pop") as caught:
                make_vec(lambda left=left: left.pop()(), 3, workers=workers)
            assert caught.value.env == index

    @pytest.mark.parametrize(
        ("fault", "words", "exitcode"),
        [
            ("killed", r"died of SIGKILL \(-9, out of memory\?\)", -9),
            ("exits", r"died with exit code 3", 3),
            pytest.param("hangs", "did not answer within 1 s and was killed", None),
        ],
    )
    def test_a_worker_that_dies(self, tmp_path, fault, words, exitcode):
        with supervised(tmp_path, fault, 3, "raise", seed=SEEDS[1]) as envs:
            envs.reset(seed=SEEDS[:3])
            for _ in range(2):
                envs.step(np.zeros(3, int))
            with pytest.raises(EnvWorkerDied, match=words) as caught:
                envs.step(np.ones(3, int))
            error = caught.value
            assert error.envs == [1]
            assert error.exitcode == exitcode
            assert (error.env, error.seed, error.step, error.action) == (1, SEEDS[1], 2, 1)
            assert "(step 2 of its episode, seed" in str(error)
            with pytest.raises(EnvWorkerDied):  # it is still dead
                envs.step(np.ones(3, int))

    def test_a_worker_of_several_names_them_all(self, tmp_path):
        with supervised(tmp_path, "killed", 1, "raise", at=None) as envs:
            expected = (
                r"environments 0 \(being reset, seed 5\); 1 \(.*6\); 2 \(being reset, seed 7\)"
            )
            with pytest.raises(EnvWorkerDied, match=expected) as caught:
                envs.reset(seed=5)
        assert caught.value.envs == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*What was pl", "error:An episode went on")
@pytest.mark.parametrize(("fault", "workers"), FAULTS)
class TestWholeEpisodes:
    def test_restart_gives_what_there_would_have_been(self, tmp_path, fault, workers):
        with open_vec(Faulty, 3) as envs:
            policy = policy_for(envs)
            expected = Collector(envs, 0).collect_episodes(policy, 8)
        with supervised(tmp_path, fault, workers, "restart", seed=SEEDS[4], times=2) as envs:
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

    def test_drop_leaves_the_episode_out(self, tmp_path, fault, workers):
        with supervised(tmp_path, fault, workers, "drop", seed=SEEDS[4], times=1) as envs:
            collector = Collector(envs, 0)
            data = collector.collect_episodes(policy_for(envs), 8)
        lengths = data.mask.sum(axis=0).astype(int)
        assert data.rewards.shape == (lengths.max(), 8)
        last = data.terminated[lengths - 1, np.arange(8)]
        assert last.all()
        assert data.terminated.sum() == 8
        # The episode of the same process, which was going on, is left out with it.
        dropped = {4} if fault == "boom" else {3, 4}
        assert seeds_in(data) == shown(*(set(range(8 + len(dropped))) - dropped))
        assert collector.episode == 8 + len(dropped)


@pytest.mark.filterwarnings("ignore:.*What was pl")
@pytest.mark.parametrize("on_env_error", ["restart", "drop"])
@pytest.mark.parametrize(("fault", "workers"), FAULTS)
class TestFragments:
    def test_no_step_of_a_broken_episode(self, tmp_path, fault, workers, on_env_error):
        with supervised(tmp_path, fault, workers, on_env_error, seed=SEEDS[4]) as envs:
            collector = Collector(envs, 0)
            data = collector.collect_steps(policy_for(envs), 30)
        assert list(tmp_path.iterdir())
        check_fragment(data)
        assert not data.mask.all()
        assert (SEEDS[4] % 997 in seeds_in(data)) == (on_env_error == "restart")
        assert collector.steps == data.mask.sum()
        assert collector.ended == data.terminated.sum()
        assert min(collector.episode_lengths) >= 3

    def test_an_episode_of_an_earlier_fragment_is_cut(self, tmp_path, fault, workers, on_env_error):
        with supervised(tmp_path, fault, workers, on_env_error, seed=SEEDS[0]) as envs:
            collector, policy = Collector(envs, 0), policy_for(envs)
            replay = ReplayBuffer(envs.single_observation_space, 300, 3, n_step=2)
            parts = [collector.collect_steps(policy, n) for n in (1, 12, 5)]
            for data in parts:
                replay.add(data)
        assert parts[0].mask.all()
        assert parts[1].mask[:2, 0].sum() == 0
        check_fragment(parts[1], begun=parts[0])
        drawn = replay.sample(np.random.default_rng(0), 2000)
        # Two rewards on, or fewer at an end, and always of the same episode.
        np.testing.assert_array_equal(drawn.observations[:, 1], drawn.next_observations[:, 1])
        ahead = drawn.next_observations[:, 0] - drawn.observations[:, 0]
        assert set(ahead.tolist()) == {1.0, 2.0}
        # What was pl of the broken episode in the first fragment is truncated, not ended.
        broken = (drawn.observations[:, 1] == SEEDS[0] % 997) & (drawn.observations[:, 0] == 0)
        if on_env_error == "drop":
            assert broken.any()
            np.testing.assert_array_equal(ahead[broken], 1)
            np.testing.assert_allclose(drawn.discounts[broken], 0.99)


def check_fragment(data, begun=None):
    """Every real step is followed by what it led to, and every episode ends or reaches the end."""
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
        first = real[0] == 0 and begun is not None
        assert first or step[0] == 0
        # After an end a beginning, and a beginning only after an end.
        np.testing.assert_array_equal(step[1:] == 0, ends[:-1])


class Larger(gymnasium.Env):
    """Observes another number of numbers than it says: from a step on, or from its reset."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, late=False):
        self.late = late

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2 if self.late else 3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize("workers", slow_but([None], [None, 1]))
@pytest.mark.parametrize("late", [False, True])
def test_an_observation_of_another_shape_than_its_space(workers, late):
    shapes = r"its observation is of shape \(3,\), and its observation_space of \(2,\)"
    with (
        open_vec(partial(Larger, late), 2, workers=workers) as envs,
        pytest.raises(EnvError, match=f"Environment 0 .*{shapes}"),
    ):
        Collector(envs, 0).collect_episodes(policy_for(envs), 1)


class TestSupervision:
    @pytest.mark.parametrize("workers", [None, 2])
    def test_it_is_said_once_of_all_environments(self, tmp_path, workers):
        build = partial(Faulty, str(tmp_path), at=1, times=8)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with open_vec(build, 2, workers=workers, on_env_error="drop") as envs:
                data = Collector(envs, 0).collect_episodes(policy_for(envs), 4)
        assert data.mask.shape[1] == 4
        said = [str(w.message) for w in said if "What was pl" in str(w.message)]
        assert len(said) == 1
        assert said[0].startswith("Environment ")
        assert "in step 1 of its episode" in said[0]

    @pytest.mark.filterwarnings("ignore:.*What was pl")
    @pytest.mark.parametrize("on_env_error", ["restart", "drop"])
    @pytest.mark.parametrize(("fault", "workers"), slow_but(TYPICAL, [*TYPICAL, ("boom", 2)]))
    @pytest.mark.parametrize("at", slow_but([1], [1, None]))
    def test_failures_in_a_row_are_raised(
        self, tmp_path, monkeypatch, fault, workers, on_env_error, at
    ):
        most = 10
        if fault == "killed":  # processes take a moment to start
            most = 2
            monkeypatch.setattr(tfpg.envs.worker_pool, "MOST_FAILURES", most)
        with supervised(tmp_path, fault, workers, on_env_error, at=at, times=1000) as envs:
            words = f"failure {most + 1} without a finished episode"
            with pytest.raises(EnvError, match=words):
                Collector(envs, 0).collect_episodes(policy_for(envs), 3)

    @pytest.mark.filterwarnings("ignore:.*What was pl")
    @pytest.mark.parametrize(("fault", "workers"), [("boom", None), ("killed", 1)])
    def test_failures_between_which_an_episode_ends_are_not(
        self, tmp_path, monkeypatch, fault, workers
    ):
        for module in (tfpg.envs.supervised, tfpg.envs.worker_pool):
            monkeypatch.setattr(module, "MOST_FAILURES", 2)
        build = partial(Faulty, str(tmp_path), fault, seed=SEEDS[:2] + SEEDS[3:5], times=1)
        with open_vec(build, 1, workers=workers, on_env_error="restart") as envs:
            data = Collector(envs, 0).collect_episodes(policy_for(envs), 6)
        assert len(list(tmp_path.iterdir())) == 4
        assert seeds_in(data) == shown(*range(6))

    @pytest.mark.filterwarnings("ignore:.*What was pl")
    @pytest.mark.parametrize(("fault", "workers"), slow_but(TYPICAL, [*TYPICAL, ("boom", 2)]))
    def test_a_reset_is_tried_again(self, tmp_path, fault, workers):
        with open_vec(Faulty, 3) as envs:
            expected = envs.reset(seed=SEEDS[:3])[0]
        options = {"seed": SEEDS[1], "at": None}
        for on_env_error in ("restart", "drop"):
            folder = tmp_path / on_env_error
            folder.mkdir()
            with supervised(folder, fault, workers, on_env_error, **options) as envs:
                observations = envs.reset(seed=SEEDS[:3])[0]
            np.testing.assert_array_equal(observations[2], expected[2])
            same = observations[1, 1] == expected[1, 1]
            assert same == (on_env_error == "restart")
            assert observations[1, 0] == 0

    def test_restart_makes_the_environment_anew_and_drop_does_not(self, tmp_path):
        made = []

        def build():
            folder = tmp_path / on_env_error
            folder.mkdir(exist_ok=True)
            made.append(Faulty(str(folder)))
            return made[-1]

        for on_env_error, count in (("drop", 1), ("restart", 2)):
            del made[:]
            with (
                open_vec(build, 1, on_env_error=on_env_error) as envs,
                pytest.warns(UserWarning, match="What was pl"),
            ):
                Collector(envs, 0).collect_episodes(policy_for(envs), 1)
            assert len(made) == count

    @pytest.mark.filterwarnings("ignore:.*What was pl")
    def test_a_constructor_that_fails_when_it_is_made_anew(self, tmp_path):
        class Twice(Faulty):
            made = 0

            def __init__(self):
                type(self).made += 1
                if self.made in (2, 3):
                    raise OSError("the port is taken")
                super().__init__(str(tmp_path))

        with open_vec(Twice, 1, on_env_error="restart") as envs:
            data = Collector(envs, 0).collect_episodes(policy_for(envs), 2)
        assert Twice.made == 4
        assert data.terminated.sum() == 2

    def test_who_does_not_know_of_failures_raises_them(self, tmp_path):
        with (
            supervised(tmp_path, "boom", None, "restart") as envs,
            pytest.raises(EnvError, match="failed in step 2"),
            pytest.warns(UserWarning, match="What was pl"),
        ):
            tfpg.evaluate(policy_for(envs), envs, 2, seed=0)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"on_env_error": "ignore"}, "on_env_error is one of"),
            ({"workers": 0}, "workers must be an integer of at least 1"),
            ({"timeout": 2.0}, "with workers=None"),
            ({"workers": 2, "timeout": 0}, "above 0"),
        ],
    )
    def test_options_that_do_not_suit(self, options, words):
        with pytest.raises(ValueError, match=words):
            make_vec(Faulty, 2, **options)

    def test_what_is_made_already_has_no_workers(self):
        with pytest.raises(ValueError, match="give an id or a callable"):
            make_vec(Faulty(), workers=2)
        for given in (make_vec(Faulty, 2), lambda: make_vec(Faulty, 2)):
            with pytest.raises(ValueError, match="vector environment already"):
                make_vec(given, workers=2)

    def test_a_callable_that_cannot_be_sent(self):
        lock = threading.Lock()
        with pytest.raises(TypeError, match="cannot be sent to a worker process: cannot pickle"):
            make_vec(lambda: (lock, Faulty())[1], 2, workers=2)


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "Pendulum-v1", partial(Faulty, named=True)], ids=["0", "1", "dict"]
)
def test_workers_give_what_one_process_gives(env):
    here, there = (make_vec(env, 3, seedable=True, workers=workers) for workers in (None, 2))
    try:
        assert here.single_observation_space == there.single_observation_space
        assert (here.action_space, here.metadata) == (there.action_space, there.metadata)
        same(here.reset(seed=5), there.reset(seed=5))
        here.action_space.seed(0)
        for t in range(60):
            actions = here.action_space.sample()
            one, other = here.step(actions), there.step(actions)
            same(one, other)
            ended = one[2] | one[3]
            if ended.any() and t % 2:
                seeds = [t + n if e else None for n, e in enumerate(ended)]
                results = [
                    envs.reset(seed=seeds, options={"reset_mask": ended.copy()})
                    for envs in (here, there)
                ]
                same(*results)
            elif ended.any():  # they rest
                same(*(e.reset(options={"reset_mask": ended.copy()}) for e in (here, there)))
        with pytest.raises(ValueError, match="length must match num_envs=3"):
            there.reset(seed=[1, 2])
        with pytest.raises(TypeError, match="dtype=np.bool_"):
            there.reset(options={"reset_mask": np.ones(3, int)})
    finally:
        here.close()
        there.close()


def test_an_id_that_only_this_process_knows():
    if "Faulty-v0" not in gymnasium.registry:
        gymnasium.register("Faulty-v0", entry_point=lambda: Faulty(), max_episode_steps=4)
    with open_vec("Faulty-v0", 2, workers=2) as envs:
        assert tfpg.rollouts.loop.time_limit(envs) == 4
        assert envs.reset(seed=0)[0].shape == (2, 3)


def test_attributes_of_the_environments():
    with open_vec(Faulty, 3, workers=2) as envs:
        envs.reset(seed=[4, 5, 6])
        assert envs.get_attr("began") == (4, 5, 6)
        envs.set_attr("began", [7, 8, 9])
        assert envs.call("_observe")[2][1] == 9
        with pytest.raises(EnvError, match="could not call: AttributeError"):
            envs.call("nothing")
        assert envs.step(np.zeros(3, int))[0][0, 1] == 7


class TestProcesses:
    def test_close_takes_no_second_whatever_they_do(self):
        envs = make_vec(partial(Slow, 60), 2, workers=2, timeout=0.2)
        pids = [worker.process.pid for worker in envs._workers]
        envs.reset(seed=0)
        for worker in envs._workers:
            worker.send((9, "step", [0]))
        start = time.monotonic()
        envs.close()
        assert time.monotonic() - start < 1.5
        assert all(gone(pid, 0.0) or gone(pid, 0.1) for pid in pids)

    def script(self, tmp_path, body):
        """A program without a guard for its main module, that says whom it has started."""
        (tmp_path / "program.py").write_text(
            textwrap.dedent(
                """
                import sys
                sys.path[:0] = [{root!r}, {here!r}]
                import numpy as np
                from faulty import Slow
                from tfpg.envs import make_vec

                class Mine(Slow):
                    pass

                envs = make_vec(lambda: Mine({seconds}), 2, workers=2)
                print(*(worker.process.pid for worker in envs._workers), flush=True)
                envs.reset(seed=0)
                """
            ).format(root=str(ROOT), here=str(Path(__file__).parent), seconds=60)
            + textwrap.dedent(body)
        )
        command = [sys.executable, str(tmp_path / "program.py")]
        program = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(pids) == 2, program.stderr.read()
        return program, pids

    @pytest.mark.parametrize("body", ["import time; time.sleep(60)", "envs.step(np.zeros(2, int))"])
    def test_none_outlives_a_parent_that_is_killed(self, tmp_path, body):
        program, pids = self.script(tmp_path, body)
        time.sleep(0.3)
        program.kill()
        assert all(gone(pid) for pid in pids)
        program.communicate()

    def test_ctrl_c_ends_a_step_at_once(self, tmp_path):
        program, pids = self.script(tmp_path, "envs.step(np.zeros(2, int))")
        time.sleep(0.3)
        start = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=10)
        assert time.monotonic() - start < 3
        assert err.count("KeyboardInterrupt") == 1, err  # the workers did not hear of it
        assert all(gone(pid) for pid in pids)

    def test_an_answer_after_an_interrupt_is_not_taken_for_another(self):
        with open_vec(partial(Slow, 0.2), 2, workers=2) as envs:
            envs.reset(seed=[1, 2])
            previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(KeyboardInterrupt):
                    envs.step(np.zeros(2, int))
            finally:
                signal.signal(signal.SIGALRM, previous)
            observations, infos = envs.reset(seed=[3, 4])
            np.testing.assert_array_equal(observations[:, 0], 0)
            np.testing.assert_array_equal(infos["seed"], [3, 4])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Reinforce", "A2C", "DQN"])
@pytest.mark.parametrize("on_env_error", ["restart", "drop"])
def test_agents_train_through_failures(tmp_path, kind, on_env_error):
    with supervised(tmp_path, "killed", 3, on_env_error, at=1, times=6) as envs:
        model = {
            "Reinforce": lambda: tfpg.networks.mlp(envs),
            "A2C": lambda: tfpg.networks.actor_critic(envs),
            "DQN": lambda: tfpg.networks.mlp(envs),
        }[kind]()
        options = {"learn_period": 6, "learning_starts": 30} if kind == "DQN" else {}
        agent = getattr(tfpg, kind)(model, **options)
        agent.fit(envs, 4, seed=0, verbose=0)
    assert len(list(tmp_path.iterdir())) == 6
