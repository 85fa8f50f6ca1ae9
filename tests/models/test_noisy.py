"""Noisy networks: their layers and updates against the paper's, and how they act."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from small import SMALL, flat_weights, prepared, random_transitions

import tfpg

DICT = (
    spaces.Dict({"a": spaces.Box(-9, 9, (4,)), "b": spaces.Box(-9, 9, (3,))}),
    spaces.Discrete(2),
)
SPREAD = {"epsilon": 0.0, "support": (-2.0, 3.0)}
MODELS = {
    "mlp": (lambda: tfpg.networks.mlp("CartPole-v1", (8,), noisy=True, seed=0), {"epsilon": 0.0}),
    "dueling": (
        lambda: tfpg.networks.dueling("CartPole-v1", (8,), noisy=True, atoms=5, seed=0),
        SPREAD,
    ),
    "dict": (lambda: tfpg.networks.mlp(DICT, (8,), noisy=True, seed=0), {"epsilon": 0.0}),
}


def one_layer():
    model = tfpg.networks.mlp("CartPole-v1", hidden=(), noisy=True, seed=0)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def rooted(noise):
    return tf.sign(noise) * tf.sqrt(tf.abs(noise))


def of_the_paper(model, x, noise):
    """The outputs ``[B, 2]`` of a network of one layer, with a matrix of weights for each row."""
    kernel, bias, sigma, sigma_of_bias = model.trainable_variables
    inputs, outputs = rooted(noise[:, :4]), rooted(noise[:, 4:])
    weights = kernel + sigma * inputs[:, :, None] * outputs[:, None, :]
    return tf.squeeze(x[:, None, :] @ weights, 1) + bias + sigma_of_bias * outputs


def test_a_layer_is_that_of_the_paper():
    model = one_layer()
    policy = tfpg.Policy(model, "CartPole-v1", epsilon=0.0)
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(6, 4)).astype("f"), policy.head.noise(rng, 6)
    assert noise.shape == (6, 2 + 4 + 2)
    expected = of_the_paper(model, x, noise[:, 2:])
    np.testing.assert_allclose(policy.actor()(x, noise).outputs, expected, atol=1e-5)


def test_the_noise_is_normal_and_its_first_size_is_that_of_the_paper():
    model = tfpg.networks.mlp("CartPole-v1", hidden=(25,), noisy=True)
    sigmas = [w for w in model.get_weights() if (w > 0).all()]
    assert [(x.shape, float(x.ravel()[0])) for x in sigmas] == [
        *(((4, 25), 0.25), ((25,), 0.25)),
        *(((25, 2), pytest.approx(0.1)), ((2,), pytest.approx(0.1))),
    ]
    policy = tfpg.Policy(model, "CartPole-v1", epsilon=0.0)
    noise = policy.head.noise(np.random.default_rng(0), 1000)[:, 2:]
    assert noise.shape == (1000, 4 + 25 + 25 + 2)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_all_forward_passes_agree(name):
    """In NumPy, in TensorFlow, after pickling, and without noise in plain Keras."""
    make, options = MODELS[name]
    model, space = make(), DICT if name == "dict" else "CartPole-v1"
    fast, slow = (tfpg.Policy(model, space, acting=x, **options) for x in ("numpy", "tensorflow"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype("f")
    if name == "dict":
        x = {"a": x, "b": rng.normal(size=(20, 3)).astype("f")}
    noise = fast.head.noise(rng, 20)
    for given in (None, noise):
        expected = slow.actor()(x, given)
        for policy in (fast, slow):
            worker = pickle.loads(pickle.dumps(policy.portable_actor()))
            for actor in (policy.actor(), worker):
                np.testing.assert_allclose(actor(x, given).outputs, expected.outputs, atol=1e-5)
    greedy, sampled = (slow.actor()(x, given).outputs for given in (None, noise))
    np.testing.assert_allclose(greedy, model(x), atol=1e-5)
    assert np.abs(sampled - greedy).min(axis=-1).mean() > 0.01


def test_a_row_does_not_depend_on_the_others():
    policy = tfpg.Policy(MODELS["mlp"][0](), "CartPole-v1", epsilon=0.0)
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(20, 4)).astype("f"), policy.head.noise(rng, 20)
    together = policy.actor()(x, noise).outputs
    part = policy.actor().of_part(8, 20)(x[8:16], noise[8:16]).outputs
    assert np.array_equal(together[8:16], part)


@pytest.mark.parametrize("double", [False, True])
def test_an_update_is_that_of_the_paper(double):
    """The target network has noise of its own, and the next action that of the online network."""
    data = random_transitions(16)
    options = {**SMALL, "double": double, "target_update_period": 100, "epsilon": 0.0}
    agent = prepared(tfpg.DQN(one_layer(), **options), "CartPole-v1")
    model, target = one_layer(), one_layer()
    logs, _ = agent.learn_from(data, (3, 4))
    noise = np.random.default_rng((3, 4)).standard_normal((2, 2, 6), np.float32)
    losses = []
    for update in range(2):
        part = type(data)(*(x[8 * update : 8 * update + 8] for x in data))
        online, other = (tf.repeat(noise[update, i : i + 1], 8, axis=0) for i in range(2))
        following = of_the_paper(target, part.next_observations, other)
        chooser = of_the_paper(model, part.next_observations, online) if double else following
        best = tf.gather(following, tf.argmax(chooser, axis=-1), batch_dims=1)
        with tf.GradientTape() as tape:
            q = tf.gather(
                of_the_paper(model, part.observations, online), part.actions, batch_dims=1
            )
            error = tf.abs(part.rewards + part.discounts * best - q)
            huber = tf.where(error <= 1, 0.5 * error**2, error - 0.5)
            loss = tf.reduce_mean(part.weights * huber)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
    np.testing.assert_allclose(flat_weights(agent.model), flat_weights(model), atol=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert not np.allclose(model.get_weights()[2], 0.25, atol=1e-4)  # the sigmas learn


def test_plain_keras_loads_the_file_and_draws_noise_in_training_only(tmp_path):
    model = one_layer()
    agent = tfpg.DQN(model, **{**SMALL, "epsilon": 0.0})
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    path = tfpg.save_model(model, tmp_path / "model.keras")
    plain, x = keras.saving.load_model(path), np.ones((3, 4), "f")
    np.testing.assert_allclose(plain(x), model(x), atol=1e-6)
    assert np.std(plain(x, training=True), axis=0).min() > 0.01
    loaded = tfpg.Policy(tfpg.load_model(path), "CartPole-v1")
    for options in ({}, {"deterministic": False, "seed": 5}):
        found = loaded.act(np.repeat(x, 20, axis=0), **options)
        assert np.array_equal(found, agent.policy.act(np.repeat(x, 20, axis=0), **options))


@pytest.mark.parametrize("algorithm", [tfpg.Reinforce, tfpg.PPO])
def test_only_q_networks_can_be_noisy(algorithm):
    with pytest.raises(ValueError, match="for DQN, C51, QRDQN and Rainbow only"):
        algorithm(one_layer())


@pytest.mark.parametrize("before", [False, True])
def test_noise_on_something_else_is_refused(before):
    x, noise = keras.Input((4,)), keras.layers.GaussianNoise(1.0)
    used = noise(keras.ops.zeros_like(x)) if before else 0.0
    model = keras.Model(x, keras.layers.Dense(2)(noise(x) + used))
    with pytest.raises(ValueError, match="is random in training"):
        tfpg.DQN(model)


@keras.saving.register_keras_serializable("test_noisy")
class Doubled(keras.layers.Layer):
    def call(self, x, training=False):
        return 2 * x if training else x


def test_other_layers_that_differ_in_training_are_refused_in_noisy_networks():
    model = one_layer()
    model = keras.Model(model.input, Doubled()(model.output))
    with pytest.raises(ValueError, match="With training=True the model returns different outputs"):
        tfpg.Policy(model, "CartPole-v1", epsilon=0.0)


def on_float_images(space):
    """A noisy network of images in bytes, with an input of floats."""
    x = keras.Input(space.shape)
    y = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    return keras.Model(x, y + keras.layers.GaussianNoise(1.0)(keras.ops.zeros_like(y)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [tfpg.networks.nature_cnn, tfpg.networks.cnn, on_float_images])
def test_images(make):
    space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
    both = space, spaces.Discrete(2)
    model = make(space) if make is on_float_images else make(both, noisy=True, seed=0)
    policy = tfpg.Policy(model, both, epsilon=0.0)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(5, 40, 40, 3)).astype(np.uint8)
    greedy = policy.actor()(images).outputs
    np.testing.assert_allclose(greedy, model(images.astype(model.input.dtype)), rtol=1e-4)
    sampled = policy.actor()(images, policy.head.noise(rng, 5)).outputs
    assert np.abs(sampled - greedy).min() > 1e-4
