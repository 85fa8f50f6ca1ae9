"""Policies: how they act, what they refuse, and the values that they return."""

import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from stub_env import stub_env
from toys import Countdown

import tfpg
from tfpg.models.policy import Policy, as_policy

layers = keras.layers
BOTH = pytest.mark.parametrize("acting", ["numpy", "tensorflow"])


def model_of(outputs, activation=None, inputs=4):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs, activation)])


class Subclassed(keras.Model):
    def __init__(self, dense=None):
        super().__init__()
        self.dense = dense or layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_models_are_imported_without_tensorflow():
    code = (
        "import sys, tfpg.models.policy, tfpg.models.networks, tfpg.models.normalization; "
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestActing:
    @pytest.mark.parametrize(
        "last",
        [
            [layers.Dense(1, "sigmoid"), layers.Flatten()],
            [layers.Dense(2, "softmax"), layers.Flatten()],
            [layers.Dense(2, "softmax"), layers.Activation("linear")],
            [layers.Dense(2, "softmax")],
        ],
    )
    def test_numpy_and_tensorflow_act_alike_wherever_the_probabilities_are_made(self, last):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), *last])
        policies = [Policy(model, "CartPole-v1", acting=a) for a in ("numpy", "tensorflow")]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, 4)).astype("float32")
        noise = policies[0].head.noise(rng, len(x))
        a, b = (policy.actor()(x, noise) for policy in policies)
        np.testing.assert_array_equal(a.env_actions, b.env_actions)
        exact = policies[1].distribution(x).log_prob(tf.convert_to_tensor(a.actions))
        for policy, decision in zip(policies, (a, b), strict=True):
            log_prob = policy.distribution_of(decision.outputs).log_prob(a.actions)
            np.testing.assert_allclose(log_prob, exact, rtol=1e-4, atol=1e-5)

    def test_auto_chooses_numpy_for_small_models_that_it_supports(self):
        large = keras.Sequential([keras.Input((4,)), layers.Dense(1024), layers.Dense(1024)])
        large.add(layers.Dense(2))
        other = keras.Sequential([keras.Input((4,)), layers.UnitNormalization(), layers.Dense(2)])
        for model, acting in [
            (model_of(2), "numpy"),
            (large, "tensorflow"),
            (other, "tensorflow"),
            (Subclassed(), "tensorflow"),
        ]:
            policy = Policy(model, "CartPole-v1")
            assert policy.acting == acting
            assert policy.act(np.zeros((3, 4), "float32")).shape == (3,)
        assert Policy(large, "CartPole-v1", acting="numpy").acting == "numpy"
        with pytest.raises(ValueError, match="This model cannot act in NumPy"):
            Policy(other, "CartPole-v1", acting="numpy")
        with pytest.raises(ValueError, match="acting must be .* not 'fast'"):
            Policy(other, "CartPole-v1", acting="fast")

    @BOTH
    def test_a_new_actor_has_the_new_weights(self, acting):
        model = model_of(1)
        policy = Policy(model, "CartPole-v1", acting=acting)
        x = np.ones((1, 4), "float32")
        for sign in (1, -1):
            model.set_weights([np.full((4, 1), sign, "float32"), np.zeros(1, "float32")])
            assert policy.act(x)[0] == (sign == 1)

    def test_a_frozen_policy_keeps_its_weights(self):
        model = model_of(2)
        policy = Policy(model, "CartPole-v1")
        frozen, x = policy.frozen(), np.ones((3, 4), np.float32)
        before = policy.actor()(x).outputs
        model.set_weights([w + np.arange(2) for w in model.get_weights()])
        np.testing.assert_array_equal(frozen.actor()(x).outputs, before)
        assert not np.array_equal(policy.actor()(x).outputs, before)

    def test_a_policy_with_epsilon_one_does_not_look_at_the_observations(self):
        policy = Policy(model_of(2), "CartPole-v1", epsilon=0.5)
        x = np.full((200, 4), np.nan, "float32")
        noise = policy.head.noise(np.random.default_rng(0), len(x))
        with pytest.raises(FloatingPointError):
            policy.actor()(x, noise)
        policy.head.epsilon = 1.0
        assert 60 < policy.actor()(x, noise).actions.sum() < 140

    def test_a_normalization_layer_that_is_adapted_again_is_not_stale(self):
        normalization = layers.Normalization()
        normalization.adapt(np.random.default_rng(0).normal(size=(50, 4)))
        model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(2)])
        policy = Policy(model, "CartPole-v1")
        x = np.ones((1, 4), "float32")
        before = policy.actor()(x).outputs
        normalization.adapt(np.random.default_rng(1).normal(5, 3, size=(50, 4)))
        after = policy.actor()(x).outputs
        assert not np.allclose(before, after)
        np.testing.assert_allclose(after, np.asarray(model(x)), rtol=1e-5)

    def test_mixed_precision_models_act_in_float32(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = model_of(2)
        finally:
            keras.config.set_dtype_policy("float32")
        policy = Policy(model, "CartPole-v1")
        assert policy.acting == "tensorflow"
        assert policy.actor()(np.zeros((1, 4), "float32")).outputs.dtype == np.float32

    @BOTH
    def test_integer_observations(self, acting):
        policy = Policy(model_of(2, inputs=2), Countdown(dtype=np.int64), acting=acting)
        assert policy.act(np.zeros((3, 2), np.int64)).shape == (3,)


class TestNonFiniteOutputs:
    @BOTH
    def test_weights_that_are_not_finite_are_named(self, acting):
        model = model_of(2)
        model.set_weights([np.full((4, 2), np.nan, "float32"), np.zeros(2, "float32")])
        policy = Policy(model, "CartPole-v1", acting=acting)
        with pytest.raises(FloatingPointError, match=r"not finite.*kernel.*load an earlier model"):
            policy.act(np.ones((1, 4), "float32"))

    def test_the_observation_is_shown_if_the_weights_are_finite(self):
        with pytest.raises(FloatingPointError, match=r"for observation 1, which is \[nan"):
            Policy(model_of(2), "CartPole-v1").act(np.array([[0.0] * 4, [np.nan] * 4], "float32"))

    def test_the_message_for_an_image_is_one_short_line(self):
        image = spaces.Box(0, 1, (20, 20), np.float32)
        env = stub_env(spaces.Discrete(2), image)
        policy = Policy(tfpg.networks.mlp((image, env.action_space)), env)
        with pytest.raises(FloatingPointError, match="not finite") as caught:
            policy.act(np.full((1, 20, 20), np.nan, "float32"))
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)

    def test_large_finite_outputs_are_no_error(self):
        model = model_of(2)
        model.set_weights([np.full((4, 2), 1e38, "float32"), np.zeros(2, "float32")])
        assert Policy(model, "CartPole-v1").act(np.full((8, 4), 0.8, "float32")).shape == (8,)


class TestValues:
    X = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")

    def test_a_second_output_is_the_value(self):
        x = keras.Input((4,))
        logits, value = layers.Dense(2)(x), layers.Dense(1)(x)
        for outputs in ([logits, value], {"logits": logits, "value": value}):
            model = keras.Model(x, outputs)
            policy = Policy(model, "CartPole-v1")
            assert policy.has_value
            expected = keras.Model(x, value)(self.X.reshape(-1, 4)).numpy().reshape(5, 3)
            np.testing.assert_allclose(policy.values(self.X), expected, rtol=1e-5)
            both = policy.distribution_and_value(tf.constant(self.X[0]))
            np.testing.assert_allclose(both[1], expected[0], rtol=1e-5)
            np.testing.assert_allclose(policy.value(tf.constant(self.X[0])), both[1])

    def test_a_model_of_its_own_can_give_the_value(self):
        value_model = tfpg.networks.critic("CartPole-v1", seed=0)
        policy = Policy(model_of(2), "CartPole-v1", value_model=value_model)
        expected = value_model(self.X.reshape(-1, 4)).numpy().reshape(5, 3)
        np.testing.assert_allclose(policy.values(self.X), expected, rtol=1e-5)
        _, value = policy.distribution_and_value(tf.constant(self.X[0]))
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)

    def test_the_values_of_many_observations_are_computed_in_parts(self):
        policy = Policy(tfpg.networks.actor_critic("CartPole-v1", seed=0), "CartPole-v1")
        x = np.random.default_rng(0).normal(size=(9000, 4)).astype("float32")
        np.testing.assert_allclose(policy.values(x)[8990:], policy.values(x[8990:]), rtol=1e-5)
        assert policy.values(x[:0]).shape == (0,)

    def test_a_policy_without_a_value_says_how_to_get_one(self):
        policy = Policy(model_of(2), "CartPole-v1")
        assert not policy.has_value
        assert policy.distribution_and_value(tf.constant(self.X[0]))[1] is None
        with pytest.raises(
            ValueError, match="has no value. Give it a second output .* or pass val"
        ):
            policy.values(self.X)

    def test_outputs_that_are_not_a_policy_and_a_value(self):
        x = keras.Input((4,))
        two, one = layers.Dense(2)(x), layers.Dense(1)(x)
        for outputs, message in [
            ([two, one, layers.Dense(1)(x)], "one output, or two: .* This one has 3"),
            ({"a": two, "b": one}, r"in a dict, .value.*This one has 2 \(a, b\)"),
            ([two, two], r"second output is the value and must .* has shape \(None, 2\)"),
            (layers.Reshape((2, 1))(two), r"must have shape \(batch, K\), but it has .*None, 2, 1"),
        ]:
            with pytest.raises(ValueError, match=message):
                Policy(keras.Model(x, outputs), "CartPole-v1")

    def test_a_value_model_must_be_needed_and_have_one_output(self):
        value_model = tfpg.networks.critic("CartPole-v1")
        model = tfpg.networks.actor_critic("CartPole-v1")
        with pytest.raises(ValueError, match="does not need a value_model"):
            Policy(model, "CartPole-v1", value_model=value_model)
        with pytest.raises(ValueError, match=r"must have shape \(batch, 1\), but .* \(None, 2\)"):
            Policy(model_of(2), "CartPole-v1", value_model=model_of(2))


class TestFit:
    """The model must fit the environment, and the error says how."""

    def test_inputs_of_another_shape(self):
        message = r"inputs of shape \(None, 8\).*have shape \(4,\). Build it with keras.Input"
        with pytest.raises(ValueError, match=message):
            Policy(model_of(2, inputs=8), "CartPole-v1")

    def test_a_model_that_cannot_be_called(self):
        model = Subclassed(lambda x: x @ tf.ones((7, 2)))
        with pytest.raises(ValueError, match=r"cannot be called on inputs of shape \(1, 4\)"):
            Policy(model, "CartPole-v1")

    def test_unbuilt_models_are_built(self):
        model = keras.Sequential([layers.Dense(2)])
        Policy(model, "CartPole-v1")
        assert model.built

    def test_something_that_is_not_a_model(self):
        with pytest.raises(TypeError, match="Expected a keras.Model, but got str"):
            Policy("model", "CartPole-v1")
        with pytest.raises(TypeError, match="Keras model, an agent, or a tfpg.Policy, but got int"):
            as_policy(3, "CartPole-v1")

    def test_a_policy_for_another_environment(self):
        policy = Policy(model_of(2), "CartPole-v1")
        wider = spaces.Box(-9, 9, (4,), np.float32)
        assert as_policy(policy, stub_env(policy.action_space, wider)) is policy
        with pytest.raises(ValueError, match="The policy is for"):
            as_policy(policy, "Acrobot-v1")

    @pytest.mark.parametrize(
        "layer",
        [
            layers.Dropout(0.5),
            layers.GaussianNoise(0.1),
            layers.BatchNormalization(),
            layers.Dense(3, activity_regularizer="l2"),
        ],
    )
    def test_layers_that_differ_in_training_are_refused_also_in_nested_models(self, layer):
        inner = keras.Sequential([keras.Input((4,)), layer])
        for stack in ([layer], [inner]):
            model = keras.Sequential([keras.Input((4,)), *stack, layers.Dense(2)])
            with pytest.raises(ValueError, match=f"Layer '{layer.name}'.*trained as it acted"):
                Policy(model, "CartPole-v1")
        with pytest.raises(ValueError, match="trained as it acted. Remove it from the model"):
            tfpg.Reinforce(model)

    def test_frozen_batch_normalization_and_dropout_of_nothing_are_fine(self):
        frozen = layers.BatchNormalization(trainable=False, center=False, scale=False)
        stack = [keras.Input((4,)), frozen, layers.Dropout(0.0), layers.Dense(2)]
        Policy(keras.Sequential(stack), "CartPole-v1")

    def test_observations_of_another_shape(self):
        message = r"shape \(N, 4\), but got \(4,\). For a single observation, pass x\[None\]"
        with pytest.raises(ValueError, match=message):
            Policy(model_of(2), "CartPole-v1").act(np.zeros(4, "float32"))


def test_a_portable_actor_needs_only_the_inputs_of_the_policy():
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (8, 8, 1), np.uint8), "speed": spaces.Box(-1, 1, (2,))}
    )
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    outputs = layers.Dense(3)(layers.Flatten()(layers.Conv2D(2, 3)(layers.Rescaling(0.01)(image))))
    speed = keras.Input((2,), name="speed")
    value_model = keras.Model({"speed": speed}, layers.Dense(1)(speed))
    model = keras.Model({"image": image}, outputs)
    policy = Policy(model, (space, spaces.Discrete(3)), value_model=value_model)
    assert policy.acting == "tensorflow"
    actor = pickle.loads(pickle.dumps(policy.portable_actor()))
    observations = {key: np.stack([part.sample()] * 5) for key, part in space.items()}
    expected = policy.actor()(observations)
    np.testing.assert_allclose(actor(observations).outputs, expected.outputs, atol=1e-5)
