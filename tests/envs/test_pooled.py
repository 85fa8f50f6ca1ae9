"""EnvPool's environments: equal to Gymnasium's, where EnvPool is installed."""

import importlib.util

import gymnasium
import numpy as np
import pytest

import tfpg
from tfpg.envs import make, open_vec

INSTALLED = importlib.util.find_spec("envpool") is not None
needs_envpool = pytest.mark.skipif(not INSTALLED, reason="needs EnvPool: pip install envpool")


@pytest.mark.skipif(INSTALLED, reason="EnvPool is installed")
def test_the_error_says_what_to_install():
    with pytest.raises(ImportError, match="envpool/Hopper-v5 needs EnvPool: pip install envpool"):
        make("envpool/Hopper-v5")


@needs_envpool
@pytest.mark.parametrize(
    ("name", "steps"),
    [("Hopper-v5", 100), ("Walker2d-v5", 100), ("Swimmer-v5", 100), ("HalfCheetah-v5", 10)],
)
def test_steps_are_those_of_gymnasium(name, steps):
    # Without noise, all episodes begin in the same state. Later steps of HalfCheetah are chaotic.
    env = gymnasium.make(name, reset_noise_scale=0.0)
    with open_vec(f"envpool/{name}?reset_noise_scale=0.0", 2) as envs:
        assert envs.single_observation_space == env.observation_space
        assert envs.single_action_space == env.action_space
        assert envs.spec.max_episode_steps == env.spec.max_episode_steps
        seen, expected = envs.reset(seed=0)[0], env.reset(seed=0)[0]
        rng = np.random.default_rng(0)
        for _ in range(steps):
            np.testing.assert_allclose(seen, [expected, expected], atol=1e-9)
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            seen, rewards, terminated, _, _ = envs.step(np.stack([action, action]))
            expected, reward, ended, _, _ = env.step(action)
            np.testing.assert_allclose(rewards, reward, rtol=1e-6, atol=1e-6)
            assert (terminated == ended).all()
            if ended:
                break
    env.close()


@needs_envpool
def test_equal_seeds_give_equal_episodes_and_environments_differ():
    with open_vec("envpool/Hopper-v5", 3) as envs:
        first, again, other = (envs.reset(seed=[seed, 7, 8])[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[1:], other[1:])
    assert (first[0] != other[0]).any()
    assert (first[0] != first[1]).any()


@needs_envpool
def test_seeds_are_random_unless_given_and_may_be_large():
    first = []
    for _ in range(2):
        with open_vec("envpool/Hopper-v5", 2) as envs:
            first.append(envs.reset()[0])
            envs.reset(seed=2**32 - 1)
    assert (first[0] != first[1]).any()


@needs_envpool
def test_options_of_pools_are_left_out_of_single_environments():
    with open_vec("envpool/Hopper-v5?num_threads=1", 2) as envs:
        assert type(envs.unwrapped).__name__ == "PooledEnvs"
    with open_vec("envpool/Hopper-v5?num_threads=1", 2, manual_resets=True) as envs:
        envs.reset(seed=0)
    make("envpool/Hopper-v5?num_threads=1").close()


@needs_envpool
def test_it_trains_reproducibly_and_other_commands_know_the_id():
    def history():
        model = tfpg.networks.actor_critic("envpool/Hopper-v5", hidden=(8,), seed=0)
        agent = tfpg.PPO(model, num_envs=4, num_steps=64)
        return agent, agent.fit("envpool/Hopper", 3, seed=1, verbose=0).history

    (agent, one), (_, two) = history(), history()
    assert one["loss"] == two["loss"]
    assert one["episode_length"][-1] > 1
    result = tfpg.evaluate(agent, "envpool/Hopper-v5", 2, seed=0, max_steps=10)
    assert result["episode_length"] <= 10
    assert make("envpool/Hopper-v5", render_mode="rgb_array").render_mode == "rgb_array"
    assert tfpg.presets.find("ppo", "envpool/Hopper-v5") == tfpg.presets.find("ppo", "Hopper-v5")
