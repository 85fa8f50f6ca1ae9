"""Double DQN on a chain of noisy rewards, all of whose true values are 0."""

import keras
import numpy as np
import pytest

import tfpg
from tfpg.envs.probes import NoisyChain


def mean_q(double, seed, iterations=16):
    """Over states and actions, and the second half of the training."""
    states, _ = NoisyChain().values(gamma=0.99)
    model = tfpg.networks.mlp(NoisyChain, hidden=(32,), activation="tanh", seed=seed)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    # A small replay keeps the estimates noisy; the copies are so far apart that it is another by
    # the next one.
    agent = tfpg.DQN(
        model,
        double=double,
        loss="mse",
        capacity=256,
        batch_size=32,
        updates_per_learn=64,
        target_update_period=512,
        epsilon=1.0,
        learning_starts=256,
        steps_per_iteration=256,
        jit_compile=False,
    )
    measured = []
    measure = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: measured.append(np.asarray(model(states)).mean())
    )
    agent.fit(NoisyChain, iterations, [measure], seed=seed, verbose=0)
    return np.mean(measured[iterations // 2 :])


@pytest.mark.slow
def test_plain_overestimates_and_double_hardly_does():
    plain, double = (np.mean([mean_q(d, seed) for seed in (0, 1)]) for d in (False, True))
    assert plain > 0.5
    assert abs(double) < plain / 2


def test_the_chain_is_what_it_says():
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
