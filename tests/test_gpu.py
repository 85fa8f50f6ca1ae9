"""On a GPU, if there is one: the same code gives the numbers of the CPU."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfpg
from tfpg.rollouts.replay import Transitions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not tf.config.list_physical_devices("GPU"),
        reason="TensorFlow sees no GPU here; tfpg doctor says why",
    ),
]


def transitions_of(space, count=64):
    rng = np.random.default_rng(0)
    shape = (2, count, *space.shape)
    images = space.dtype == np.uint8
    seen = rng.integers(256, size=shape) if images else rng.normal(size=shape)
    rewards, discounts = rng.normal(size=count), rng.choice([0.0, 0.99], count)
    return Transitions(
        seen[0].astype(space.dtype),
        rng.integers(2, size=count).astype("int32"),
        rewards.astype("float32"),
        discounts.astype("float32"),
        seen[1].astype(space.dtype),
        np.ones(count, np.float32),
        np.arange(count),
    )


def q_network(env):
    if env == "CartPole-v1":
        return tfpg.networks.dueling(env, seed=0)
    return tfpg.networks.nature_cnn(env, hidden=32, seed=0)


@pytest.fixture
def full_precision():
    """Multiply in float32 instead of TensorFloat-32, which has ten bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5"])
def test_updates_of_a_dqn_are_those_of_the_cpu(env, full_precision):
    results = []
    for device in ("CPU:0", "GPU:0"):
        with tf.device(device):
            model = q_network(env)
            # Adam would turn rounding errors of small gradients into whole steps.
            model.compile(keras.optimizers.SGD(1e-3))
            agent = tfpg.DQN(model, batch_size=16)
            agent.prepare(agent.policy_for(env))
            logs, errors = agent.learn_from(transitions_of(agent.policy.observation_space))
        assert device in model.trainable_variables[0].value.device
        results.append((logs["loss"], errors))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-2)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_dqn_trains_on_the_gpu(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = tfpg.networks.nature_cnn("ALE/Pong-v5", hidden=32, seed=0)
    finally:
        keras.config.set_dtype_policy(before)
    agent = tfpg.DQN(model, capacity=2000, learning_starts=100, steps_per_iteration=64)
    history = agent.fit("ALE/Pong-v5", 1, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert "GPU" in model.trainable_variables[0].value.device


def test_a_ppo_trains_on_the_gpu():
    model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
    history = tfpg.PPO(model).fit("CartPole-v1", 2, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert "GPU" in model.trainable_variables[0].value.device


def test_a_replay_keeps_the_same_images_on_the_gpu_as_in_memory():
    drawn = []
    for device in (None, "auto"):
        agent = tfpg.DQN(
            tfpg.networks.nature_cnn("ALE/Pong-v5", hidden=32, seed=0),
            replay_device=device,
            capacity=2000,
            learning_starts=500,
            steps_per_iteration=64,
        )
        agent.fit("ALE/Pong-v5", 1, seed=0, verbose=0)
        drawn.append(agent.replay)
    rows = np.arange(500)
    assert "GPU" in drawn[1].observations(rows).device
    assert isinstance(drawn[0].observations(rows), np.ndarray)
    # These were played at random. Steps after the first update may differ by its rounding.
    np.testing.assert_array_equal(drawn[0].observations(rows), drawn[1].observations(rows).numpy())


def test_a_replay_larger_than_the_memory_of_the_gpu_is_refused():
    from tfpg.rollouts.replay_storage import DeviceRows

    with pytest.raises(MemoryError, match="on GPU:0, which does not have as much free"):
        DeviceRows(10**9, np.dtype((np.uint8, (84, 84))), "GPU:0")
