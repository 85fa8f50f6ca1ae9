import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import Countdown, Endless

import tfpg.rollouts.loop
from tfpg.core.seeding import check_seed, evaluation_rng, reset_seed, training_rng
from tfpg.envs import open_vec
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.loop import time_limit
from tfpg.rollouts.trajectory import flatten

RNGS = (training_rng, evaluation_rng)


def policy_for(env, seed=0):
    from tfpg.envs import spaces_of

    keras.utils.set_random_seed(seed)
    shape = spaces_of(env)[0].shape
    return Policy(keras.Sequential([keras.Input(shape), keras.layers.Dense(2)]), env)


def collect(envs, num_episodes, max_steps=None, num_envs=4, seed=0, **options):
    with open_vec(envs, num_envs) as vector:
        collector = Collector(vector, seed, **options)
        return collector.collect_episodes(policy_for(vector), num_episodes, max_steps)


def vector(lengths, mode):
    """Environments whose episodes have these lengths; each one's later episodes are one longer."""
    return SyncVectorEnv(
        [lambda n=n: Countdown(lengths=[n, n + 1]) for n in lengths], autoreset_mode=mode
    )


MODES = list(AutoresetMode)


@pytest.mark.parametrize("mode", MODES)
class TestAutoresetModes:
    """The three modes give the same trajectory: a reset step is no data."""

    def test_mask_rewards_and_ends(self, mode):
        data = collect(vector([2, 4, 1], mode), 3)
        np.testing.assert_array_equal(data.mask, [[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0]])
        np.testing.assert_array_equal(data.rewards, data.mask)
        np.testing.assert_array_equal(data.terminated, [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
        assert not data.truncated.any()

    def test_the_last_observation_is_the_episodes_own(self, mode):
        data = collect(vector([2, 4, 1], mode), 3)
        assert data.observations.shape == (5, 3, 2)
        for column, length in enumerate([2, 4, 1]):
            steps = data.observations[: length + 1, column, 0]
            np.testing.assert_array_equal(steps, np.arange(length + 1))
            assert (data.observations[: length + 1, column, 1] == 0).all()

    def test_rounds_begin_anew_in_every_environment(self, mode):
        data = collect(vector([2, 4, 1], mode), 5)
        lengths = data.mask.sum(axis=0)
        # The fourth and fifth episode are the next ones of the first two environments. How many
        # resets came between is the mode's affair.
        np.testing.assert_array_equal(lengths[:3], [2, 4, 1])
        assert lengths[3] in (2, 3)
        assert lengths[4] in (4, 5)
        assert data.rewards.shape == (int(lengths.max()), 5)

    def test_a_cap_truncates_and_an_end_at_the_cap_terminates(self, mode):
        data = collect(vector([2, 4, 1], mode), 3, max_steps=2)
        np.testing.assert_array_equal(data.truncated, [[0, 0, 0], [1, 1, 0]])
        np.testing.assert_array_equal(data.terminated, [[0, 0, 1], [1, 0, 0]])
        np.testing.assert_array_equal(data.observations[2, 1], [2, 0])


def test_every_environment_has_its_quota_whatever_the_lengths():
    # Taking the first four that finish would give lengths 1, 1, 1, 1 and never the long ones.
    data = collect(vector([1, 50], AutoresetMode.NEXT_STEP), 4)
    assert sorted(data.mask.sum(axis=0).tolist()) in ([1, 1, 50, 50], [1, 2, 50, 51])


def test_the_same_seed_gives_the_same_trajectory_however_many_environments():
    def play(num_envs):
        return collect(lambda: gymnasium.make("CartPole-v1"), 6, num_envs=num_envs, seed=3)

    one, three, six = play(1), play(3), play(6)
    for other in (three, six):
        np.testing.assert_array_equal(one.mask, other.mask)
        for name in ("actions", "rewards", "terminated", "truncated", "log_probs"):
            a, b = (flatten(data, getattr(data, name)) for data in (one, other))
            np.testing.assert_allclose(a, b, atol=1e-6)
        # Every real step's observation, and what it led to.
        for rows in (slice(None, -1), slice(1, None)):
            a, b = (flatten(data, data.observations[rows]) for data in (one, other))
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.array_equal(one.mask, collect("CartPole-v1", 6, seed=4).mask)


def test_every_episode_is_reset_with_a_derived_seed_of_its_own():
    env = Countdown(length=2)
    with open_vec(env) as envs:
        collector = Collector(envs, seed=9)
        collector.collect_episodes(policy_for(env), 3)
        collector.collect_episodes(policy_for(env), 2)
    assert env.seeds == [reset_seed(training_rng(9, episode)) for episode in range(5)]
    assert len(set(env.seeds)) == 5


def test_going_on_at_an_episode_gives_what_would_have_come():
    with open_vec("CartPole-v1", 4) as envs:
        policy = policy_for(envs)
        collector = Collector(envs, seed=1)
        collector.collect_episodes(policy, 4)
        second = collector.collect_episodes(policy, 4)
        again = Collector(envs, seed=1, episode=4).collect_episodes(policy, 4)
    for a, b in zip(second, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_log_probs_are_those_of_the_policy_that_acted():
    with open_vec("CartPole-v1", 4) as envs:
        policy = policy_for(envs)
        data = Collector(envs, seed=1).collect_episodes(policy, 4)
    x = data.observations[:-1].reshape(-1, 4)
    expected = policy.distribution(x).log_prob(data.actions.reshape(-1)).numpy()
    real = data.mask.reshape(-1) > 0
    np.testing.assert_allclose(data.log_probs.reshape(-1)[real], expected[real], atol=1e-5)


def test_buffers_that_an_environment_reuses_are_copied():
    envs = SyncVectorEnv([lambda: Countdown(length=5)] * 2, copy=False)
    data = collect(envs, 2)
    np.testing.assert_array_equal(data.observations[:, 0, 0], np.arange(6))


def test_integer_rewards_and_observations_keep_their_worth():
    envs = SyncVectorEnv([lambda: Countdown(length=3, dtype=np.int64)])
    data = collect(envs, 1)
    assert data.rewards.dtype == np.float64
    assert data.observations.dtype == np.int64


def test_an_environments_own_limit_truncates():
    with open_vec(lambda: gymnasium.make("CartPole-v1", max_episode_steps=7), 2) as envs:
        assert time_limit(envs) == 7
        keras.utils.set_random_seed(0)
        data = Collector(envs, 0).collect_episodes(policy_for(envs), 2)
    assert data.mask.sum() == 14
    np.testing.assert_array_equal(data.truncated[-1], [True, True])
    assert not data.terminated.any()


def test_an_environment_that_never_ends_is_cut_and_the_cap_says_so(monkeypatch):
    monkeypatch.setattr(tfpg.rollouts.loop, "NO_LIMIT_STEPS", 20)
    with pytest.warns(UserWarning, match="was cut after 20 steps.*max_steps"):
        data = collect(Endless, 2)
    assert data.mask.sum() == 40
    assert data.truncated[-1].all()


def test_a_given_cap_needs_no_warning(recwarn):
    assert collect(Endless, 2, max_steps=5).mask.sum() == 10
    assert not [w for w in recwarn if "max_steps" in str(w.message)]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_observation_survives_reused_buffers(mode):
    makers = [lambda: Countdown(length=3), lambda: Countdown(length=5)]
    data = collect(SyncVectorEnv(makers, copy=False, autoreset_mode=mode), 2)
    assert data.observations[3, 0, 0] == 3
    assert data.observations[5, 1, 0] == 5


@pytest.mark.parametrize("kind", ["vector_entry_point", "sync"])
def test_a_vector_environment_keeps_a_limit_that_is_not_the_registered_one(kind):
    envs = gymnasium.make_vec(
        "CartPole-v1", num_envs=2, vectorization_mode=kind, max_episode_steps=7
    )
    keras.utils.set_random_seed(0)
    data = collect(envs, 2)
    assert data.mask.sum(axis=0).tolist() == [7, 7]
    assert data.truncated[-1].all()
    # Longer than the registered 500: a controller that holds the pole.
    envs = gymnasium.make_vec(
        "CartPole-v1", num_envs=2, vectorization_mode=kind, max_episode_steps=600
    )
    import tfpg

    controller = lambda x: (x @ np.array([0.05, 0.2, 1.0, 0.6]) > 0).astype(int)  # noqa: E731
    result = tfpg.evaluate(controller, envs, 2, seed=0)
    assert result["episode_lengths"] == [600, 600]


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_non_finite_reward_is_named(reward):
    class Broken(Countdown):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, reward if self.t == 2 else 1.0, *rest

    with pytest.raises(FloatingPointError, match=f"reward of {reward}"):
        collect(Broken, 2, num_envs=2)


def test_environments_beyond_the_quota_are_not_waited_for():
    data = collect(vector([2, 9, 30], AutoresetMode.NEXT_STEP), 2)
    assert data.rewards.shape == (9, 2)
    assert collect(vector([2, 9, 30], AutoresetMode.NEXT_STEP), 1).rewards.shape == (2, 1)


def test_reused_arrays_of_rewards_and_ends_are_copied():
    class Reusing(gymnasium.vector.VectorWrapper):
        buffers = None

        def step(self, actions):
            observations, *arrays, infos = self.env.step(actions)
            self.buffers = self.buffers or [np.zeros_like(x) for x in arrays]
            for buffer, x in zip(self.buffers, arrays, strict=True):
                buffer[:] = x
            return observations, *self.buffers, infos

    plain = SyncVectorEnv([lambda n=n: Countdown(length=n) for n in (2, 5)])
    data = collect(Reusing(plain), 2)
    np.testing.assert_array_equal(data.rewards, data.mask)
    np.testing.assert_array_equal(data.terminated.sum(axis=0), [1, 1])
    assert data.terminated[1, 0]


class TestSeeds:
    @pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
    def test_wrong_seeds_are_refused(self, seed):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
            check_seed(seed)

    def test_none_is_fresh_each_time(self):
        assert check_seed(None) != check_seed(None)

    def test_evaluation_does_not_replay_training(self):
        draws = {rng(s, e).random() for rng in RNGS for s in range(3) for e in range(3)}
        assert len(draws) == 18

    def test_episodes_and_seeds_have_streams_of_their_own(self):
        draws = {training_rng(s, e).random() for s in range(5) for e in range(5)}
        assert len(draws) == 25
