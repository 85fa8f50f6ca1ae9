"""Collecting a number of steps: fragments that hold what every step led to, in all modes."""

from functools import partial

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import Countdown, Endless

import tfpg.models.networks
import tfpg.rollouts.collector
from tfpg.core.seeding import reset_seed, training_rng
from tfpg.envs import open_vec, spaces_of
from tfpg.errors import EnvDataError
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector

MODES = list(AutoresetMode)


def policy_for(env):
    keras.utils.set_random_seed(0)
    shape = spaces_of(env)[0].shape
    return Policy(keras.Sequential([keras.Input(shape), keras.layers.Dense(2)]), env)


def vector(lengths, mode, **options):
    makers = [lambda n=n: Countdown(length=n) for n in lengths]
    return SyncVectorEnv(makers, autoreset_mode=mode, **options)


def collect(envs, *steps, seed=0, max_steps=None, window=100):
    collector = Collector(envs, seed, window=window)
    policy = policy_for(envs)
    return collector, [collector.collect_steps(policy, n, max_steps) for n in steps]


@pytest.mark.parametrize("mode", MODES)
class TestModes:
    def test_every_real_step_is_followed_by_what_it_led_to(self, mode):
        _, fragments = collect(vector([2, 3, 5], mode), 7, 4, 6)
        for data in fragments:
            t, n = np.nonzero(data.mask)
            steps = data.observations[..., 0]
            np.testing.assert_array_equal(steps[t + 1, n], steps[t, n] + 1)
            np.testing.assert_array_equal(data.rewards, data.mask)

    def test_ends_are_where_the_episodes_end(self, mode):
        _, fragments = collect(vector([2, 3, 5], mode), 7, 4, 6)
        for data in fragments:
            assert not data.truncated.any()
            led_to = data.observations[1:, :, 0]
            expected = (led_to == [2, 3, 5]) & (data.mask > 0)
            np.testing.assert_array_equal(data.terminated, expected)

    def test_nothing_is_lost_between_fragments(self, mode):
        _, (whole,) = collect(vector([2, 3, 5], mode), 12)
        _, parts = collect(vector([2, 3, 5], mode), 5, 1, 6)
        for n in range(3):
            real = [data.observations[:-1, n, 0][data.mask[:, n] > 0] for data in parts]
            expected = whole.observations[:-1, n, 0][whole.mask[:, n] > 0]
            np.testing.assert_array_equal(np.concatenate(real), expected)

    def test_steps_are_all_real_unless_the_reset_takes_one(self, mode):
        _, (data,) = collect(vector([2, 3, 5], mode), 12)
        # 3-step, 4-step and 6-step rounds with the reset; the last one's may be yet to come.
        lost = [4, 3, 2] if mode is AutoresetMode.NEXT_STEP else [0, 0, 0]
        np.testing.assert_array_equal(data.mask.sum(axis=0), 12 - np.array(lost))

    def test_finished_episodes_are_counted(self, mode):
        collector, _ = collect(vector([2, 3], mode), 5, 5)
        assert set(collector.episode_returns) == {2.0, 3.0}
        assert collector.episode_returns == collector.episode_lengths

    def test_a_window_of_them_is_kept_or_all_that_are_new(self, mode):
        envs = vector([2, 2], mode)
        collector, _ = collect(envs, 20, window=3)
        count = collector.ended
        assert len(collector.episode_returns) == count > 10
        assert len(collector.take_finished()) == count
        assert collector.take_finished() == []
        collector.collect_steps(policy_for(envs), 3)
        assert len(collector.episode_returns) == len(collector.episode_lengths) == 3
        assert 2 <= len(collector.take_finished()) <= 4

    def test_reused_buffers_are_copied(self, mode):
        _, (data,) = collect(vector([4, 4], mode, copy=False), 3)
        np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 3])

    def test_dict_observations(self, mode):
        class Named(gymnasium.ObservationWrapper):
            def __init__(self, env):
                super().__init__(env)
                self.observation_space = spaces.Dict({"t": env.observation_space})

            def observation(self, observation):
                return {"t": observation}

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


def test_a_break_after_an_end_holds_the_last_observation():
    _, (data,) = collect(vector([2, 5], AutoresetMode.DISABLED), 4)
    np.testing.assert_array_equal(data.mask, [[1, 1], [1, 1], [0, 1], [1, 1], [1, 0]])
    np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(data.observations[:5, 1, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(data.terminated[:, 0], [0, 1, 0, 0, 1])


def test_a_cap_truncates_and_begins_anew():
    with open_vec(lambda: Countdown(length=5), 2) as envs:
        collector, (data,) = collect(envs, 7, max_steps=3)
    assert list(collector.episode_lengths) == [3, 3, 3, 3]
    np.testing.assert_array_equal(data.truncated[:, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0])
    assert not data.terminated.any()
    np.testing.assert_array_equal(data.observations[:, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


def test_a_cap_and_an_end_at_once_are_both_said():
    with open_vec(lambda: Countdown(length=3), 1) as envs:
        _, (data,) = collect(envs, 3, max_steps=3)
    assert data.terminated[2, 0]
    assert data.truncated[2, 0]


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_cap_needs_an_environment_that_waits_to_be_reset(mode):
    mode = AutoresetMode.NEXT_STEP if mode is AutoresetMode.DISABLED else mode
    with pytest.raises(ValueError, match="resets itself: make it with autoreset_mode=DISABLED"):
        collect(vector([3], mode), 2, max_steps=2)


def test_every_reset_has_a_derived_seed_of_its_own():
    env = Countdown(length=2)
    with open_vec(env) as envs:
        collect(envs, 3, 4, seed=9)
    assert env.seeds == [reset_seed(training_rng(9, episode)) for episode in range(4)]


def test_the_same_seed_gives_the_same_steps():
    def play(seed):
        with open_vec("CartPole-v1", 4, seedable=True) as envs:
            return collect(envs, 30, 40, seed=seed)[1][1]

    for a, b in zip(play(3), play(3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(play(3).observations, play(4).observations)


def test_log_probs_are_those_of_the_policy_that_acted():
    with open_vec("CartPole-v1", 4) as envs:
        policy = policy_for(envs)
        data = Collector(envs, seed=1).collect_steps(policy, 60)
    real = data.mask > 0
    assert not real.all()
    expected = policy.distribution(data.observations[:-1][real]).log_prob(data.actions[real])
    np.testing.assert_allclose(data.log_probs[real], expected, atol=1e-5)


def test_an_endless_environment_is_said_once(monkeypatch):
    monkeypatch.setattr(tfpg.rollouts.collector, "PATIENCE", 20)
    with open_vec(Endless, 2) as envs, pytest.warns(UserWarning, match="No episode has en") as seen:
        collect(envs, 10, 10, 10, 10)
    assert len([w for w in seen if "set max_steps" in str(w.message)]) == 1


class Broken(Countdown):
    """Gives a number that is none in one step of its second episode."""

    what, value = "reward", np.nan

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.episode == 1 and self.t == 2:
            if self.what == "reward":
                reward = self.value
            else:
                observation[1] = self.value
        return observation, reward, *rest


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_that_does_not_count_may_see_what_it_likes(mode):
    class Unseen(Broken):
        what = "observation"

    makers = [lambda: Unseen(length=4), lambda: Countdown(length=9)]
    envs = SyncVectorEnv(makers, autoreset_mode=mode)
    data = Collector(envs, 0).collect_episodes(policy_for(envs), 2)
    np.testing.assert_array_equal(data.mask.sum(axis=0), [4, 9])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("what", ["reward", "observation"])
class TestNumbersThatAreNone:
    def broken(self, what, value, length=4):
        made = iter([Countdown(length=9), Broken(length=length)])

        def make():
            env = next(made, None) or Broken(length=length)
            env.what, env.value = what, value
            return env

        return make

    def message(self, what, value):
        return f"reward of {value}" if what == "reward" else "NaN or infinity in 1 of 2 values"

    def test_are_named_by_environment_and_step(self, what, value):
        with open_vec(self.broken(what, value), 2) as envs:
            with pytest.raises(EnvDataError, match=self.message(what, value)) as caught:
                collect(envs, 20)
            assert caught.value.env == 1
            assert caught.value.step == (1 if what == "reward" else 2)

    def test_an_episode_that_began_in_an_earlier_fragment_counts_its_steps(self, what, value):
        with (
            open_vec(self.broken(what, value), 2) as envs,
            pytest.raises(EnvDataError) as caught,
        ):
            collect(envs, *[1] * 20)
        assert (caught.value.env, caught.value.step) == (1, 1 if what == "reward" else 2)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("length", [4, 2])  # in the middle of an episode, at its end
    def test_an_environment_that_resets_itself_is_named_too(self, what, value, length, mode):
        envs = SyncVectorEnv([self.broken(what, value, length)] * 2, autoreset_mode=mode)
        with pytest.raises(EnvDataError) as caught:
            collect(envs, 20)
        assert (caught.value.env, caught.value.step) == (1, 1 if what == "reward" else 2)

    def test_in_whole_episodes_too(self, what, value):
        with open_vec(self.broken(what, value), 2) as envs:
            policy = policy_for(envs)
            collector = Collector(envs, 0)
            collector.collect_episodes(policy, 2)
            with pytest.raises(EnvDataError, match=self.message(what, value)) as caught:
                collector.collect_episodes(policy, 2)
        assert (caught.value.env, caught.value.step) == (1, 1 if what == "reward" else 2)


class Counted(gymnasium.Env):
    """Observes numbers from 2 on, so that 0 is none; has 3 to 6 steps, and fails now and then."""

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


@pytest.mark.filterwarnings("ignore:.*What was pl")
@pytest.mark.parametrize("fails", [10**9, 7])
def test_what_stands_for_no_observation_is_one(fails):
    """It is encoded like the others, and 0 may be outside the space."""
    policy = Policy(tfpg.networks.mlp(Counted), Counted)
    with open_vec(partial(Counted, fails), 3, on_env_error="drop") as envs:
        collector = Collector(envs, seed=0)
        for _ in range(3):
            data = collector.collect_steps(policy, 11)
            assert data.observations.min() >= 2
            assert not data.mask.all()  # some columns are shorter
            policy.encode(data.observations)
