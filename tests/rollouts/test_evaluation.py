import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from toys import Countdown, Endless

import tfpg
from tfpg.envs.probes import Divisors


def zeros(observations):
    return np.zeros(len(observations), int)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def test_returns_and_lengths_of_whole_episodes():
    result = tfpg.evaluate(zeros, lambda: Countdown(length=5), 7, seed=0)
    assert result["episode_return"] == result["episode_length"] == 5
    assert result["episode_returns"] == [5.0] * 7
    assert result["episode_return_std"] == 0


def test_each_environment_has_its_share_of_the_episodes():
    envs = SyncVectorEnv([lambda n=n: Countdown(length=n) for n in (1, 9)])
    result = tfpg.evaluate(zeros, envs, 6, seed=0)
    assert result["episode_lengths"] == [1, 9] * 3
    assert result["episode_returns"] == [1.0, 9.0] * 3  # nothing after an episode's end counts
    assert result["episode_return_std"] == 4.0  # of the population
    assert tfpg.evaluate(zeros, envs, 5, seed=0)["episode_lengths"] == [1, 9, 1, 9, 1]


def test_each_episode_has_its_own_seed():
    env = Countdown(length=1)
    tfpg.evaluate(zeros, env, 4, seed=0)
    assert len(set(env.seeds)) == 4


def test_a_model_an_agent_a_policy_and_a_callable_give_the_same_result(model):
    policy = tfpg.Policy(model, "CartPole-v1")
    subjects = [model, tfpg.Reinforce(model), policy, policy.act]
    results = [tfpg.evaluate(subject, "CartPole-v1", 10, seed=5) for subject in subjects]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_seed_gives_the_same_episodes_and_another_seed_other_ones(model, deterministic):
    one, same, other = (
        tfpg.evaluate(model, "CartPole-v1", 20, seed=seed, deterministic=deterministic)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one["episode_returns"] != other["episode_returns"]


def test_more_episodes_than_environments(model):
    result = tfpg.evaluate(model, lambda: gymnasium.make("CartPole-v1"), 70, seed=1)
    assert len(result["episode_returns"]) == 70
    assert len(set(result["episode_returns"])) > 1


def test_max_steps_cuts_episodes():
    result = tfpg.evaluate(zeros, Endless, 3, seed=0, max_steps=11)
    assert result["episode_lengths"] == [11, 11, 11]


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_is_reported_with_its_step(reward):
    class Broken(Countdown):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, reward if self.t == 2 else 1.0, *rest

    with pytest.raises(tfpg.errors.EnvDataError, match=f"reward of {reward}") as caught:
        tfpg.evaluate(zeros, Broken, 2, seed=0)
    assert (caught.value.env, caught.value.step) == (0, 1)


@pytest.mark.parametrize("episodes", [0, -1, 1.5, None])
def test_there_must_be_an_episode(model, episodes):
    with pytest.raises(ValueError, match="episodes must be an integer of at least 1"):
        tfpg.evaluate(model, "CartPole-v1", episodes)


def test_what_is_no_policy_is_refused():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfpg.evaluate("policy", "CartPole-v1", 1)


def test_a_callable_must_return_an_action_for_each_observation():
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 observations.*\(2, ...\)"):
        tfpg.evaluate(lambda observations: np.zeros(1, int), "CartPole-v1", 2)
    keys = r"shape \(2,\) for 3 observations \(a dict with 'observation', 'action_mask'\)"
    with pytest.raises(ValueError, match=keys):
        tfpg.evaluate(zeros, Divisors, 3)
