"""Whole episodes and fragments of steps, in all autoreset modes."""

import gc
import weakref
from functools import cache, partial

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import Countdown, Endless

import tfpg
import tfpg.rollouts.collector
import tfpg.rollouts.loop
from tfpg.core.seeding import reset_seed, training_rng
from tfpg.envs import open_vec, spaces_of
from tfpg.errors import EnvDataError
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.loop import only_step, time_limit
from tfpg.rollouts.trajectory import flatten

MODES = list(AutoresetMode)
modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


@cache
def network(shape):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(2)])


def policy_for(envs):
    return Policy(network(spaces_of(envs)[0].shape), envs)


def episodes(envs, *counts, max_steps=None, num_envs=4, seed=0):
    with open_vec(envs, num_envs) as envs:
        collector, policy = Collector(envs, seed), policy_for(envs)
        return collector, [collector.collect_episodes(policy, n, max_steps) for n in counts]


def fragments(envs, *counts, max_steps=None, num_envs=4, seed=0, window=100, **options):
    with open_vec(envs, num_envs, **options) as envs:
        collector, policy = Collector(envs, seed, window=window), policy_for(envs)
        return collector, [collector.collect_steps(policy, n, max_steps) for n in counts]


def vector(lengths, mode, **options):
    makers = [lambda n=n: Countdown(lengths=np.atleast_1d(n).tolist()) for n in lengths]
    return SyncVectorEnv(makers, autoreset_mode=mode, **options)


class Named(gymnasium.ObservationWrapper):
    """Observes a dict."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"t": env.observation_space})

    def observation(self, observation):
        return {"t": observation}


class Reusing(gymnasium.vector.VectorWrapper):
    """Returns the same arrays of rewards and flags at each step."""

    buffers = None

    def step(self, actions):
        observations, *arrays, infos = self.env.step(actions)
        self.buffers = self.buffers or [np.zeros_like(x) for x in arrays]
        for buffer, x in zip(self.buffers, arrays, strict=True):
            buffer[:] = x
        return observations, *self.buffers, infos


@modes
class TestEpisodesInEachMode:
    def test_a_column_is_an_episode_and_its_padding(self, mode):
        _, (data,) = episodes(vector([2, 4, 1], mode), 3)
        np.testing.assert_array_equal(data.mask, [[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0]])
        np.testing.assert_array_equal(data.rewards, data.mask)
        np.testing.assert_array_equal(data.terminated, [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
        assert not data.truncated.any()
        for column, length in enumerate([2, 4, 1]):
            seen = data.observations[: length + 1, column]
            np.testing.assert_array_equal(seen[:, 0], np.arange(length + 1))
            assert (seen[:, 1] == 0).all()  # the last observation is of the same episode

    def test_each_round_begins_with_a_reset_of_all(self, mode):
        _, (data,) = episodes(vector([[2, 3], [4, 5], [1, 2]], mode), 5)
        lengths = data.mask.sum(axis=0)
        np.testing.assert_array_equal(lengths[:3], [2, 4, 1])
        # How many resets are between two rounds depends on the mode.
        assert lengths[3] in (2, 3)
        assert lengths[4] in (4, 5)
        assert data.rewards.shape == (int(lengths.max()), 5)

    def test_max_steps_truncates(self, mode):
        _, (data,) = episodes(vector([2, 4, 1], mode), 3, max_steps=2)
        # An episode that ends in its last step is both.
        np.testing.assert_array_equal(data.truncated, [[0, 0, 0], [1, 1, 0]])
        np.testing.assert_array_equal(data.terminated, [[0, 0, 1], [1, 0, 0]])
        np.testing.assert_array_equal(data.observations[2, 1], [2, 0])

    def test_buffers_that_an_environment_reuses_are_copied(self, mode):
        _, (data,) = episodes(vector([3, 5], mode, copy=False), 2)
        np.testing.assert_array_equal(data.observations[:4, 0, 0], np.arange(4))
        np.testing.assert_array_equal(data.observations[:, 1, 0], np.arange(6))

    def test_environments_beyond_the_last_episode_are_not_waited_for(self, mode):
        _, (data,) = episodes(vector([2, 9, 30], mode), 2)
        assert data.rewards.shape == (9, 2)

    def test_an_episode_that_does_not_count_may_observe_anything(self, mode):
        makers = [lambda: Broken("observation", np.nan, length=4), lambda: Countdown(length=9)]
        _, (data,) = episodes(SyncVectorEnv(makers, autoreset_mode=mode), 2)
        np.testing.assert_array_equal(data.mask.sum(axis=0), [4, 9])


class TestEpisodes:
    def test_each_environment_has_its_share_whatever_the_lengths(self):
        # Taking the first four that end would give lengths 1, 1, 1, 1.
        _, (data,) = episodes(vector([1, 50], AutoresetMode.NEXT_STEP), 4)
        assert sorted(data.mask.sum(axis=0).tolist()) == [1, 1, 50, 50]

    def test_a_seed_gives_the_same_episodes_in_any_number_of_environments(self):
        def play(num_envs):
            env = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
            return episodes(env, 6, num_envs=num_envs, seed=3)[1][0]

        one, three, six = play(1), play(3), play(6)
        for other in (three, six):
            np.testing.assert_array_equal(one.mask, other.mask)
            for name in ("actions", "rewards", "terminated", "truncated", "log_probs"):
                a, b = (flatten(data, getattr(data, name)) for data in (one, other))
                np.testing.assert_allclose(a, b, atol=1e-6)
            for rows in (slice(None, -1), slice(1, None)):  # before and after each step
                a, b = (flatten(data, data.observations[rows]) for data in (one, other))
                np.testing.assert_allclose(a, b, atol=1e-6)
        assert not np.array_equal(one.mask, episodes("CartPole-v1", 6, seed=4)[1][0].mask)

    def test_each_episode_is_reset_with_its_own_seed(self):
        env = Countdown(length=2)
        episodes(env, 3, 2, seed=9)
        assert env.seeds == [reset_seed(training_rng(9, episode)) for episode in range(5)]
        assert len(set(env.seeds)) == 5

    def test_a_collector_resumes_at_an_episode(self):
        with open_vec("CartPole-v1", 4) as envs:
            policy, collector = policy_for(envs), Collector(envs, seed=1)
            collector.collect_episodes(policy, 4)
            second = collector.collect_episodes(policy, 4)
            resumed = Collector(envs, seed=1, episode=4).collect_episodes(policy, 4)
        for a, b in zip(second, resumed, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_integer_rewards_become_floats_and_observations_keep_their_type(self):
        envs = SyncVectorEnv([lambda: Countdown(length=3, dtype=np.int64)])
        _, (data,) = episodes(envs, 1)
        assert data.rewards.dtype == np.float64
        assert data.observations.dtype == np.int64

    @pytest.mark.parametrize("kind", ["vector_entry_point", "sync", "here"])
    def test_an_environment_keeps_its_own_limit(self, kind):
        if kind == "here":
            envs = lambda: gymnasium.make("CartPole-v1", max_episode_steps=7)  # noqa: E731
        else:
            envs = gymnasium.make_vec(
                "CartPole-v1", num_envs=2, vectorization_mode=kind, max_episode_steps=7
            )
        with open_vec(envs, 2) as made:
            assert kind != "here" or time_limit(made) == 7
            _, (data,) = episodes(made, 2)
        assert data.mask.sum(axis=0).tolist() == [7, 7]
        assert data.truncated[-1].all()
        assert not data.terminated.any()

    @pytest.mark.parametrize("kind", ["vector_entry_point", "sync"])
    def test_the_limit_may_be_longer_than_the_registered_one(self, kind):
        envs = gymnasium.make_vec(
            "CartPole-v1", num_envs=2, vectorization_mode=kind, max_episode_steps=600
        )
        balance = lambda x: (x @ np.array([0.05, 0.2, 1.0, 0.6]) > 0).astype(int)  # noqa: E731
        assert tfpg.evaluate(balance, envs, 2, seed=0)["episode_lengths"] == [600, 600]

    def test_an_endless_episode_is_cut_with_a_warning(self, monkeypatch):
        monkeypatch.setattr(tfpg.rollouts.loop, "NO_LIMIT_STEPS", 20)
        with pytest.warns(UserWarning, match="was cut off after 20 steps.*max_steps"):
            _, (data,) = episodes(Endless, 2)
        assert data.mask.sum() == 40
        assert data.truncated[-1].all()

    @pytest.mark.filterwarnings("error")
    def test_max_steps_needs_no_warning(self):
        assert episodes(Endless, 2, max_steps=5)[1][0].mask.sum() == 10


@modes
class TestFragmentsInEachMode:
    def test_each_real_step_is_followed_by_what_it_led_to(self, mode):
        _, parts = fragments(vector([2, 3, 5], mode), 7, 4, 6)
        for data in parts:
            t, n = np.nonzero(data.mask)
            steps = data.observations[..., 0]
            np.testing.assert_array_equal(steps[t + 1, n], steps[t, n] + 1)
            np.testing.assert_array_equal(data.rewards, data.mask)
            assert not data.truncated.any()
            ends = (steps[1:] == [2, 3, 5]) & (data.mask > 0)
            np.testing.assert_array_equal(data.terminated, ends)

    def test_nothing_is_lost_between_fragments(self, mode):
        _, (whole,) = fragments(vector([2, 3, 5], mode), 12)
        _, parts = fragments(vector([2, 3, 5], mode), 5, 1, 6)
        for n in range(3):
            real = [data.observations[:-1, n][data.mask[:, n] > 0] for data in parts]
            expected = whole.observations[:-1, n][whole.mask[:, n] > 0]
            np.testing.assert_array_equal(np.concatenate(real), expected)

    def test_only_a_reset_in_a_step_of_its_own_takes_steps(self, mode):
        _, (data,) = fragments(vector([2, 3, 5], mode), 12)
        lost = [4, 3, 2] if mode is AutoresetMode.NEXT_STEP else [0, 0, 0]
        np.testing.assert_array_equal(data.mask.sum(axis=0), 12 - np.array(lost))

    def test_steps_of_their_own_keep_the_length(self, mode):
        _, parts = fragments(vector([2, 3], mode), 1, 2, 1, 1, 3)
        if mode is AutoresetMode.NEXT_STEP:
            assert [len(data.mask) for data in parts] == [1, 2, 1, 1, 3]
        assert sum(data.mask.sum() for data in parts) >= 10

    def test_episodes_that_ended_are_counted(self, mode):
        collector, parts = fragments(vector([2, 3], mode), 5, 5)
        assert set(collector.episode_returns) == {2.0, 3.0}
        assert collector.episode_returns == collector.episode_lengths
        assert collector.ended == sum(data.terminated.sum() for data in parts)
        assert collector.steps == sum(data.mask.sum() for data in parts)

    def test_the_window_bounds_the_returns_that_were_taken(self, mode):
        envs = vector([2, 2], mode)
        collector, _ = fragments(envs, 20, window=3)
        count = collector.ended
        assert len(collector.episode_returns) == count > 10
        assert len(collector.take_finished()) == count
        assert collector.take_finished() == []
        collector.collect_steps(policy_for(envs), 3)
        assert len(collector.episode_returns) == len(collector.episode_lengths) == 3
        assert 2 <= len(collector.take_finished()) <= 4

    def test_buffers_that_an_environment_reuses_are_copied(self, mode):
        _, (data,) = fragments(vector([4, 4], mode, copy=False), 3)
        np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 3])

    def test_observations_in_a_dict(self, mode):
        makers = [lambda n=n: Named(Countdown(length=n)) for n in (2, 3)]
        envs = SyncVectorEnv(makers, autoreset_mode=mode)
        x = keras.Input((2,), name="t")
        policy = Policy(keras.Model({"t": x}, keras.layers.Dense(2)(x)), envs)
        data = Collector(envs, 0).collect_steps(policy, 7)
        t, n = np.nonzero(data.mask)
        steps = data.observations["t"][..., 0]
        np.testing.assert_array_equal(steps[t + 1, n], steps[t, n] + 1)
        whole = Collector(envs, 0).collect_episodes(policy, 2)
        np.testing.assert_array_equal(whole.observations["t"][3, 1, 0], 3)


class TestFragments:
    def test_a_masked_row_after_an_end_holds_the_last_observation(self):
        _, (data,) = fragments(vector([2, 5], AutoresetMode.DISABLED), 4)
        np.testing.assert_array_equal(data.mask, [[1, 1], [1, 1], [0, 1], [1, 1], [1, 0]])
        np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 0, 1, 2])
        np.testing.assert_array_equal(data.observations[:5, 1, 0], [0, 1, 2, 3, 4])
        np.testing.assert_array_equal(data.terminated[:, 0], [0, 1, 0, 0, 1])

    def test_max_steps_truncates_and_the_next_episode_begins(self):
        collector, (data,) = fragments(partial(Countdown, 5), 7, max_steps=3, num_envs=2)
        assert collector.episode_lengths == [3, 3, 3, 3]
        np.testing.assert_array_equal(data.truncated[:, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0])
        assert not data.terminated.any()
        np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])

    def test_an_episode_that_ends_in_its_last_step_is_also_truncated(self):
        _, (data,) = fragments(partial(Countdown, 3), 3, max_steps=3)
        assert data.terminated[2].all()
        assert data.truncated[2].all()

    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
    def test_max_steps_needs_an_environment_that_waits_to_be_reset(self, mode):
        with pytest.raises(ValueError, match="resets itself: make it with autoreset_mode=DISABLED"):
            fragments(vector([3], mode), 2, max_steps=2)

    def test_each_episode_is_reset_with_its_own_seed(self):
        env = Countdown(length=2)
        fragments(env, 3, 4, seed=9)
        assert env.seeds == [reset_seed(training_rng(9, episode)) for episode in range(4)]

    def test_a_seed_gives_the_same_steps(self):
        def play(seed):
            return fragments("CartPole-v1", 30, 40, seed=seed, manual_resets=True)[1][1]

        for a, b in zip(play(3), play(3), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(play(3).observations, play(4).observations)

    def test_a_missing_end_is_reported_once(self, monkeypatch):
        monkeypatch.setattr(tfpg.rollouts.collector, "PATIENCE", 20)
        with pytest.warns(UserWarning, match="No episode has ended in 20 steps") as caught:
            fragments(Endless, 10, 10, 10, 10, num_envs=2)
        assert len([w for w in caught if "No episode" in str(w.message)]) == 1


@pytest.mark.parametrize("collect", ["collect_episodes", "collect_steps"])
def test_log_probs_are_those_of_the_policy_that_acted(collect):
    with open_vec("CartPole-v1", 4) as envs:
        policy = policy_for(envs)
        data = getattr(Collector(envs, seed=1), collect)(policy, 60)
    real = data.mask > 0
    assert not real.all()
    expected = policy.distribution(data.observations[:-1][real]).log_prob(data.actions[real])
    np.testing.assert_allclose(data.log_probs[real], expected, atol=1e-5)


def test_rewards_and_flags_that_an_environment_reuses_are_copied():
    _, (data,) = episodes(Reusing(vector([2, 5], AutoresetMode.NEXT_STEP)), 2)
    np.testing.assert_array_equal(data.rewards, data.mask)
    np.testing.assert_array_equal(data.terminated.sum(axis=0), [1, 1])
    assert data.terminated[1, 0]


class Broken(Countdown):
    """Returns a reward or an observation that is not finite in one step of its second episode."""

    def __init__(self, what, value, length):
        super().__init__(length)
        self.what, self.value = what, value

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.episode == 1 and self.t == 2:
            if self.what == "reward":
                reward = self.value
            else:
                observation[1] = self.value
        return observation, reward, *rest


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("what", ["reward", "observation"])
class TestNonFinite:
    def envs(self, what, value, mode, length=4):
        makers = [lambda: Countdown(length=9), lambda: Broken(what, value, length)]
        return SyncVectorEnv(makers, autoreset_mode=mode)

    def check(self, caught, what, value, env=1):
        # A reward is reported with its step, an observation with the step it was for.
        assert (caught.value.env, caught.value.step) == (env, 1 if what == "reward" else 2)
        said = f"reward of {value}" if what == "reward" else "NaN or infinity in 1 of 2 values"
        assert said in str(caught.value)

    @modes
    @pytest.mark.parametrize("length", [4, 2])  # within an episode, and at its end
    def test_a_fragment_is_refused(self, what, value, length, mode):
        with pytest.raises(EnvDataError) as caught:
            fragments(self.envs(what, value, mode, length), 20)
        self.check(caught, what, value)

    @modes
    def test_the_steps_of_earlier_fragments_are_counted(self, what, value, mode):
        with pytest.raises(EnvDataError) as caught:
            fragments(self.envs(what, value, mode), *[1] * 20)
        self.check(caught, what, value)

    def test_a_single_environment_that_ends_with_it_is_named(self, what, value):
        envs = SyncVectorEnv([lambda: Broken(what, value, length=2)])
        with pytest.raises(EnvDataError) as caught:
            fragments(envs, 20)
        assert caught.value.env == 0

    def test_whole_episodes_are_refused(self, what, value):
        with pytest.raises(EnvDataError) as caught:
            episodes(partial(Broken, what, value, 4), 2, 2, num_envs=2)
        self.check(caught, what, value, env=0)


class Counted(gymnasium.Env):
    """Observes numbers from 2 on, so 0 is no observation; has 3 to 6 steps; fails now and then."""

    observation_space = spaces.Discrete(5, start=2)
    action_space = spaces.Discrete(2)

    def __init__(self, fails=10**9):
        self.fails, self.steps = fails, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 7))
        return 2, {}

    def step(self, action):
        self.t, self.steps = self.t + 1, self.steps + 1
        if self.steps % self.fails == 0:
            raise ValueError("it fails")
        return 2 + self.t % 5, 1.0, self.t >= self.length, False, {}


@pytest.mark.filterwarnings("ignore:.*Its episode is")
@pytest.mark.parametrize("fails", [10**9, 7])
def test_padding_holds_observations_of_the_space(fails):
    policy = Policy(tfpg.networks.mlp(Counted), Counted)
    with open_vec(partial(Counted, fails), 3, on_env_error="drop") as envs:
        collector = Collector(envs, seed=0)
        parts = [collector.collect_steps(policy, 11) for _ in range(3)]
        parts.append(collector.collect_episodes(policy, 5))
    for data in parts:
        assert not data.mask.all()
        assert data.observations.min() >= 2
        policy.encode(data.observations)


class Lives(gymnasium.Env):
    """Loses a life in every third step, and ends with the third one."""

    observation_space = spaces.Box(-1, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {"lives": 3}

    def step(self, action):
        self.t += 1
        lives = 3 - self.t // 3
        return np.full(1, self.t, np.float32), 1.0, lives == 0, False, {"lives": lives}


@modes
def test_a_lost_life_terminates_a_step_and_not_the_episode(mode):
    with open_vec(SyncVectorEnv([Lives] * 2, autoreset_mode=mode)) as envs:
        collector, policy = Collector(envs, 0), policy_for(envs)
        parts = [collector.collect_steps(policy, n, end_on_life_loss=True) for n in (4, 9, 7)]
    assert set(collector.episode_lengths) == {9}
    for data in parts:
        lost = (data.observations[1:, :, 0] % 3 == 0) & (data.mask > 0)
        np.testing.assert_array_equal(data.terminated, lost)


def test_lives_must_be_reported():
    with (
        open_vec(Endless, 2) as envs,
        pytest.raises(ValueError, match="reports lives in infos.*nothing: leave it out"),
    ):
        Collector(envs, 0).collect_steps(policy_for(envs), 2, end_on_life_loss=True)


class Informed(Endless):
    """Returns a large array in each step's infos."""

    arrays = []

    def step(self, action):
        large = np.zeros(1000)
        self.arrays.append(weakref.ref(large))
        return np.zeros(1, np.float32), 0.0, False, False, {"large": large}


@pytest.mark.parametrize("collect", [fragments, partial(episodes, max_steps=12)])
def test_infos_are_not_kept(collect, monkeypatch):
    monkeypatch.setattr(Informed, "arrays", [])
    alive = []

    class Watching(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            gc.collect()
            alive.append(sum(ref() is not None for ref in Informed.arrays))
            return super().step(actions)

    collect(Watching(SyncVectorEnv([Informed])), 12 if collect is fragments else 1)
    assert len(alive) == 12
    assert max(alive) <= 2


def test_the_speed_of_environments_is_measured_while_they_play():
    calls = []

    class Counted(gymnasium.Wrapper):
        def step(self, action):
            calls.append(action)
            return super().step(action)

    with open_vec(lambda: Counted(gymnasium.make("CartPole-v1"))) as envs:
        envs.reset(seed=0)
        only_step(envs, np.array([[1]]), 60)
    assert len(calls) == 60  # the pole falls after ten steps


def test_the_speed_of_environments_without_seeds_of_their_own_is_measured():
    class Seedless(SyncVectorEnv):
        takes_seeds = False

        def reset(self, *, seed=None, options=None):
            assert not isinstance(seed, list)
            return super().reset(seed=seed, options=options)

    envs = Seedless([partial(gymnasium.make, "CartPole-v1")], autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    only_step(envs, np.array([[1]]), 60)
    envs.close()
