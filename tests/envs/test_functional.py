"""Functional environments equal Gymnasium's, step for step."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode

import tfpg
from tfpg.envs import functional, open_env, open_vec
from tfpg.envs.functional.func_env import step_seed

NAMES = ["Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum"]
STEPS = 10_000
SEED = tf.constant(0, tf.int64)


def rng(num_envs, step=0):
    return functional.Random(step_seed(SEED, tf.constant(step, tf.int64)), num_envs)


def gymnasium_steps(name, count):
    """States, actions, next states, observations, rewards and flags of random steps."""
    env = gymnasium.make(getattr(functional, name).gymnasium_id)
    env.action_space.seed(0)
    rows = []
    env.reset(seed=0)
    for _ in range(count):
        before = np.array(env.unwrapped.state, np.float64)
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        after = np.array(env.unwrapped.state, np.float64)
        rows.append((before, action, after, observation, reward, terminated, truncated))
        if terminated or truncated:
            env.reset()
    env.close()
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", NAMES)
class TestEqualToGymnasium:
    @pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-7), ("float32", 2e-5)])
    def test_every_single_step(self, name, dtype, error):
        before, action, after, observation, reward, terminated, _ = gymnasium_steps(name, STEPS)
        env = getattr(functional, name)(dtype)
        state, random = tf.constant(before, dtype), rng(STEPS)
        following = env.transition(state, tf.constant(action), random)
        np.testing.assert_allclose(following, after, atol=error, rtol=error)
        np.testing.assert_allclose(
            env.observation(following, random), observation, atol=error, rtol=error
        )
        rewards = env.reward(state, tf.constant(action), following, random)
        np.testing.assert_allclose(rewards, reward, atol=10 * error, rtol=10 * error)
        wrong = env.terminal(following, random).numpy() != terminated
        assert wrong.sum() <= (0 if dtype == "float64" else 1)  # one that ends within rounding

    def test_whole_episodes_with_their_time_limit(self, name):
        theirs = gymnasium.make(getattr(functional, name).gymnasium_id)
        env = functional.FunctionalVectorEnv(getattr(functional, name)("float64"), 1)
        theirs.action_space.seed(1)
        observations, _ = env.reset(seed=3)
        theirs.reset(seed=0)
        theirs.unwrapped.state = env.state[0].copy()
        ended = False
        while not ended:
            action = theirs.action_space.sample()
            expected, reward, *flags, _ = theirs.step(action)
            observations, rewards, *found, _ = env.step(np.array([action]))
            np.testing.assert_allclose(observations[0], expected, atol=1e-4)
            assert rewards[0] == pytest.approx(reward, abs=1e-4)
            assert [bool(x[0]) for x in found] == [bool(x) for x in flags]
            ended = any(flags)
        theirs.close()

    def test_first_states_have_the_same_distribution(self, name):
        first = getattr(functional, name)().initial(rng(4000)).numpy()
        env = gymnasium.make(getattr(functional, name).gymnasium_id)
        theirs = []
        for seed in range(400):
            env.reset(seed=seed)
            theirs.append(np.array(env.unwrapped.state))
        env.close()
        theirs = np.array(theirs)
        np.testing.assert_allclose(first.min(axis=0), theirs.min(axis=0), atol=0.05)
        np.testing.assert_allclose(first.max(axis=0), theirs.max(axis=0), atol=0.05)
        np.testing.assert_allclose(first.std(axis=0), theirs.std(axis=0), rtol=0.1, atol=1e-3)

    def test_spaces_are_the_same(self, name):
        ours, theirs = (
            getattr(functional, name),
            gymnasium.make(getattr(functional, name).gymnasium_id),
        )
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert ours.max_episode_steps == theirs.spec.max_episode_steps
        with open_vec(f"functional/{name}") as envs:
            assert envs.spec.reward_threshold == theirs.spec.reward_threshold
        theirs.close()


class TestAdapters:
    def test_a_seed_gives_the_same_episode_in_any_vector(self):
        for count in (1, 3):
            with open_vec("functional/CartPole", count) as envs:
                first, _ = envs.reset(seed=[7, 8, 9][:count])
                after = envs.step(np.ones(count, int))[0]
            assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
            if count == 1:
                alone = first[0], after[0]
        np.testing.assert_array_equal(first[0], alone[0])
        np.testing.assert_allclose(after[0], alone[1], atol=1e-7)

    def test_only_the_environments_of_the_mask_are_reset(self):
        with open_vec(functional.Pendulum(), 3) as envs:
            envs.reset(seed=0)
            before = envs.step(np.zeros((3, 1), "float32"))[0]
            mask = np.array([False, True, False])
            after, _ = envs.reset(seed=[None, 5, None], options={"reset_mask": mask})
        assert (before == after).all(axis=1).tolist() == [True, False, True]

    def test_a_single_environment_is_rendered_and_cut_at_its_limit(self):
        with open_env("functional/MountainCar", render_mode="rgb_array") as env:
            env.reset(seed=0)
            for _ in range(199):
                assert not env.step(1)[3]
            assert env.step(1)[3]
            assert env.render().shape == (400, 600, 3)

    @pytest.mark.parametrize("name", NAMES)
    def test_evaluation_takes_an_id_or_an_environment(self, name):
        env = getattr(functional, name)()
        model = tfpg.networks.mlp(env, seed=0)
        one, other = (
            tfpg.evaluate(model, each, 3, seed=1, max_steps=20)
            for each in (env, f"functional/{name}")
        )
        assert one["episode_returns"] == other["episode_returns"]

    def test_random_numbers_differ_from_draw_to_draw_and_step_to_step(self):
        random = rng(5)
        first, second = random.uniform(), random.uniform()
        assert (first.numpy() != second.numpy()).all()
        assert (rng(5, step=1).uniform().numpy() != first.numpy()).all()
        drawn = random.integers(2, 4, [100]).numpy()
        assert set(drawn.ravel().tolist()) == {2, 3}
        assert abs(random.normal([1000]).numpy().mean()) < 0.1
