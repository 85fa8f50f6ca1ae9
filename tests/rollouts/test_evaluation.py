import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from toys import Countdown, Endless

import tfpg


def model(inputs=4):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(2)])


def test_counts_whole_episodes_of_a_known_environment():
    result = tfpg.evaluate(lambda x: np.zeros(len(x), int), lambda: Countdown(length=5), 7, seed=0)
    assert result["episode_return"] == result["episode_length"] == 5
    assert result["episode_returns"] == [5.0] * 7
    assert result["episode_return_std"] == 0


def test_a_share_for_every_environment_fixed_in_advance():
    envs = SyncVectorEnv([lambda n=n: Countdown(length=n) for n in (1, 9)])
    result = tfpg.evaluate(lambda x: np.zeros(len(x), int), envs, 6, seed=0)
    assert result["episode_lengths"] == [1, 9] * 3
    assert result["episode_returns"] == [1.0, 9.0] * 3  # nothing after an episode's end counts
    assert result["episode_return_std"] == 4.0  # population
    odd = tfpg.evaluate(lambda x: np.zeros(len(x), int), envs, 5, seed=0)
    assert odd["episode_lengths"] == [1, 9, 1, 9, 1]


def test_every_round_begins_elsewhere():
    env = Countdown(length=1)
    tfpg.evaluate(lambda x: np.zeros(len(x), int), env, 4, seed=0)
    assert len(set(env.seeds)) == 4


def test_models_agents_policies_and_callables_are_alike():
    keras.utils.set_random_seed(0)
    net = model()
    policy = tfpg.Policy(net, "CartPole-v1")
    subjects = [net, tfpg.Reinforce(net), policy, policy.act]
    results = [tfpg.evaluate(s, "CartPole-v1", 10, seed=5) for s in subjects]
    assert all(r == results[0] for r in results)


def test_the_same_seed_gives_the_same_episodes_and_another_others():
    keras.utils.set_random_seed(0)
    net = model()
    for deterministic in (True, False):
        a, b, c = (
            tfpg.evaluate(net, "CartPole-v1", 20, seed=s, deterministic=deterministic)
            for s in (1, 1, 2)
        )
        assert a == b
        assert a["episode_returns"] != c["episode_returns"]


def test_more_episodes_than_environments():
    result = tfpg.evaluate(model(), lambda: gymnasium.make("CartPole-v1"), 70, seed=1)
    assert len(result["episode_returns"]) == 70
    assert len(set(result["episode_returns"])) > 1


def test_a_cap_counts_as_an_end():
    zeros = lambda x: np.zeros(len(x), int)  # noqa: E731
    result = tfpg.evaluate(zeros, Endless, 3, seed=0, max_steps=11)
    assert result["episode_lengths"] == [11, 11, 11]


@pytest.mark.parametrize("episodes", [0, -1, 1.5, None])
def test_at_least_one_episode(episodes):
    with pytest.raises(ValueError, match="episodes must be an integer of at least 1"):
        tfpg.evaluate(model(), "CartPole-v1", episodes)


def test_what_is_no_policy_is_refused():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfpg.evaluate("policy", "CartPole-v1", 1)
