"""Every agent solves every probe, and its values are right."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but

import tfpg
import tfpg.ops.returns
from tfpg.envs.probes import PROBES, NoisyChain, ObservedAction, OneAction, RealEnd, TimeLimit
from tfpg.schedules import linear

GAMMA = 0.7


def reinforce(env, **options):
    model = tfpg.networks.mlp(env, hidden=(16,), seed=0)
    model.compile(keras.optimizers.Adam(0.02))
    return tfpg.Reinforce(model, gamma=GAMMA, episodes_per_update=32, **options), 60


def reinforce_with_value(env, **options):
    critic = tfpg.networks.critic(env, hidden=(16,), seed=0)
    critic.compile(keras.optimizers.Adam(0.02))
    return reinforce(env, value_model=critic, value_updates=10, **options)


# Values are compared in units of the rewards.
PLAIN = {"reward_scale": 1.0, "entropy_coef": 0.0, "jit_compile": False}


def a2c(env):
    model = tfpg.networks.actor_critic(env, hidden=(16,), normalize=False, seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    options = {"num_envs": 8, "num_steps": 8, **PLAIN}
    return tfpg.A2C(model, gamma=GAMMA, gae_lambda=1.0, standardize=None, **options), 500


def ppo(env):
    model = tfpg.networks.actor_critic(env, hidden=(16,), normalize=False, seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    options = {"num_envs": 8, "num_steps": 16, "epochs": 4, "minibatches": 2, **PLAIN}
    return tfpg.PPO(model, gamma=GAMMA, **options), 80


def dqn(env, model=None, algorithm=tfpg.DQN, **options):
    atoms = None if algorithm is tfpg.DQN else 21
    network = {"hidden": (16,), "activation": "relu", "seed": 0, "atoms": atoms}
    model = model or tfpg.networks.mlp(env, **network)
    model.compile(keras.optimizers.Adam(0.01))
    settings = {
        "gamma": GAMMA,
        "batch_size": 64,
        "n_step": 1,
        "target_update_period": 128,
        "learning_starts": 100,
        "learn_period": 64,
        "updates_per_learn": 32,
        "steps_per_iteration": 256,
        "epsilon": 0.3,
        "jit_compile": False,
    }
    return algorithm(model, **{**settings, **options}), 12


def dqn_with_everything(env):
    model = tfpg.networks.dueling(env, hidden=(16,), seed=0)
    options = {"prioritized": True, "tau": 0.05, "target_update_period": None}
    return dqn(env, model, n_step=2, overlap=True, **options)


def c51(env):
    return dqn(env, algorithm=tfpg.C51, v_min=-1.0, v_max=4.0)


def qrdqn(env):
    return dqn(env, algorithm=tfpg.QRDQN)


def noisy_dqn(env):
    model = tfpg.networks.mlp(env, hidden=(16,), noisy=True, seed=0)
    return dqn(env, model, epsilon=0.0)


def rainbow(env):
    model = tfpg.networks.dueling(env, hidden=(16,), atoms=51, noisy=True, seed=0)
    return dqn(env, model, tfpg.Rainbow, v_min=-1.0, v_max=4.0, epsilon=0.0)


def pqn(env):
    model = tfpg.networks.mlp(env, (16,), "relu", layer_norm=True, seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    options = {"num_envs": 8, "num_steps": 16, "epochs": 4, "minibatches": 2, "jit_compile": False}
    return tfpg.PQN(model, gamma=GAMMA, epsilon=linear(1.0, 0.0, 8000), **options), 80


AGENTS = {
    "dqn": dqn,
    "pqn": pqn,
    "c51": c51,
    "qrdqn": qrdqn,
    "noisy dqn": noisy_dqn,
    "rainbow": rainbow,
    "dqn with everything": dqn_with_everything,
    "reinforce": reinforce,
    "reinforce with a value": reinforce_with_value,
    "a2c": a2c,
    "ppo": ppo,
}


@pytest.mark.parametrize(
    ("name", "probe"),
    slow_but(
        [
            ("reinforce", ObservedAction),
            *itertools.product(["reinforce with a value", "ppo", "dqn"], [TimeLimit]),
        ],
        itertools.product(AGENTS, PROBES),
    ),
)
def test_every_agent_solves_every_probe(name, probe):
    agent, iterations = AGENTS[name](probe)
    agent.fit(probe, iterations, seed=0, verbose=0)
    best = probe().best_return()
    result = agent.evaluate(probe, 200, seed=1)
    spread = 0.2 if probe.__name__ == "ObservedReward" else 0.01
    assert result["episode_return"] == pytest.approx(best, abs=spread)
    if "dqn" in name or name == "c51":
        observations, values = probe().values(GAMMA)
        found = agent.head.q_values(agent.model(observations)).numpy().max(axis=1)
        np.testing.assert_allclose(found, values, atol=0.15 * max(values))
    elif name != "reinforce":
        observations, values = probe().values(GAMMA)
        found = agent.policy_for(probe).values(observations)
        np.testing.assert_allclose(found, values, atol=0.15 * max(values))


def continuous(probe):
    """The probe with a number as action, whose sign chooses between two actions."""

    class Continuous(probe):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-1, 1, (1,), np.float32)

        def step(self, action):
            return super().step(action[0] > 0 and self.num_actions > 1)

    return Continuous


@pytest.mark.parametrize("probe", slow_but([TimeLimit], PROBES))
def test_sac_solves_every_probe(probe):
    env = continuous(probe)
    model = tfpg.networks.mlp(env, (16,), "relu", log_std=None, seed=0)
    critic = tfpg.networks.twin_critic(env, (16,), seed=0)
    for each in (model, critic):
        each.compile(keras.optimizers.Adam(0.01))
    options = {"gamma": GAMMA, "alpha": 0.01, "tau": 0.05, "batch_size": 64}
    options |= {"learning_starts": 100, "steps_per_iteration": 256, "jit_compile": False}
    agent = tfpg.SAC(model, critic=critic, **options)
    agent.fit(env, 12, seed=0, verbose=0)
    spread = 0.2 if probe.__name__ == "ObservedReward" else 0.01
    result = agent.evaluate(env, 200, seed=1)
    assert result["episode_return"] == pytest.approx(probe().best_return(), abs=spread)
    observations, values = probe().values(GAMMA)
    actions = tf.constant(agent.predict(observations))  # the bounds are -1 and 1
    found = agent.q_values(tf.constant(observations), actions).numpy()
    np.testing.assert_allclose(found, np.stack([values] * 2, 1), atol=0.15 * max(values))


def test_a_time_limit_and_a_real_end_have_different_values():
    _, endless = TimeLimit().values(GAMMA)
    _, ending = RealEnd().values(GAMMA)
    np.testing.assert_allclose(endless, 1 / 0.3)
    np.testing.assert_allclose(ending, [2.7731, 2.533, 2.19, 1.7, 1.0])


@pytest.mark.parametrize("probe", PROBES)
def test_the_stated_values_are_the_returns_of_the_best_actions(probe):
    env = probe()
    observations, values = env.values(GAMMA)
    if probe is TimeLimit:  # the returns below end at the limit
        values = (1 - GAMMA ** (env.length - np.arange(env.length))) / (1 - GAMMA)
    for seed in range(4):
        seen, rewards = [env.reset(seed=seed)[0]], []
        over = False
        while not over:
            good = 0 if env.num_actions == 1 else 1
            if probe.__name__ == "ObservedAction":
                good = int(seen[-1][0] > 0)
            observation, reward, terminated, truncated, _ = env.step(good)
            over = terminated or truncated
            seen.append(observation)
            rewards.append(reward)
        returns = tfpg.ops.returns.discounted_returns(rewards, GAMMA)
        for observation, value in zip(seen[:-1], returns, strict=True):
            (place,) = np.flatnonzero((observations == observation).all(axis=1))
            assert values[place] == pytest.approx(value)


def test_probes_pass_the_checker_of_gymnasium():
    from gymnasium.utils.env_checker import check_env

    for probe in PROBES:
        check_env(probe(), skip_render_check=True)
    assert OneAction().best_return() == 1.0


def test_the_noisy_chain_has_four_steps_and_rewards_of_mean_zero():
    env = NoisyChain()
    rewards = []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        for t in range(4):
            np.testing.assert_array_equal(observation, np.eye(4)[t])
            observation, reward, terminated, truncated, _ = env.step(seed % 10)
            rewards.append(reward)
            assert (terminated, truncated) == (t == 3, False)
    assert abs(np.mean(rewards)) < 0.15
    assert np.std(rewards) > 0.9
