import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from toys import Bandit, Countdown

import tfpg
from tfpg.models.graph import last_activation
from tfpg.models.heads import BernoulliHead, CategoricalHead, GaussianHead, head_for
from tfpg.models.policy import Policy, as_policy
from tfpg.models.requirements import check_layers

layers = keras.layers


def model_of(outputs, activation=None, inputs=4):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs, activation)])


def flattened(outputs, activation):
    return keras.Sequential([*model_of(outputs, activation).layers, layers.Flatten()])


class TestHeadFor:
    @pytest.mark.parametrize(
        ("space", "outputs", "activation", "kind", "from_logits"),
        [
            (spaces.Discrete(2), 1, None, BernoulliHead, True),
            (spaces.Discrete(2), 1, "sigmoid", BernoulliHead, False),
            (spaces.Discrete(2), 2, None, CategoricalHead, True),
            (spaces.Discrete(2), 2, "softmax", CategoricalHead, False),
            (spaces.Discrete(7), 7, "linear", CategoricalHead, True),
            (spaces.Box(-1, 1, (3,)), 6, None, GaussianHead, True),
        ],
    )
    def test_follows_from_the_space_and_the_outputs(
        self, space, outputs, activation, kind, from_logits
    ):
        head = head_for(space, model_of(outputs, activation))
        assert type(head) is kind
        assert head.from_logits is from_logits

    @pytest.mark.parametrize(
        ("space", "outputs", "message"),
        [
            (spaces.Discrete(2), 3, "3 outputs.*Discrete.2..*1 or 2 outputs"),
            (spaces.Discrete(4), 1, "1 output, .*4 outputs"),
            (
                spaces.Box(-1, 1, (3,)),
                5,
                "5 outputs.*6 outputs .a mean and a log .*or 3 .the means",
            ),
            (spaces.MultiDiscrete([3, 2]), 2, "5 outputs .one for each value of each choice"),
            (spaces.MultiBinary(3), 2, "3 outputs .one for each bit"),
            (spaces.Text(3), 3, "No head for the action space"),
        ],
    )
    def test_says_what_would_fit(self, space, outputs, message):
        with pytest.raises(ValueError, match=message):
            head_for(space, model_of(outputs))

    def test_a_sigmoid_over_several_actions_is_refused(self):
        with pytest.raises(ValueError, match="sum to 1"):
            head_for(spaces.Discrete(2), model_of(2, "sigmoid"))

    def test_a_second_output_is_the_value_and_a_third_is_refused(self):
        x = keras.Input((4,))
        model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(1)(x)])
        assert Policy(model, "CartPole-v1").has_value
        model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(1)(x), layers.Dense(1)(x)])
        with pytest.raises(ValueError, match="one output, or two .* and this one has 3"):
            Policy(model, "CartPole-v1")
        model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)])
        with pytest.raises(ValueError, match=r"second output is the value.*\(None, 3\)"):
            Policy(model, "CartPole-v1")

    def test_from_logits_can_be_said(self):
        head = head_for(spaces.Discrete(2), model_of(1, "sigmoid"), from_logits=True)
        assert head.from_logits

    def test_the_activation_inside_a_nested_model_is_found(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), model_of(1, "sigmoid", 3)])
        assert not head_for(spaces.Discrete(2), model).from_logits

    def test_a_softmax_layer_counts(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2), layers.Softmax()])
        assert not head_for(spaces.Discrete(2), model).from_logits

    def test_what_makes_the_output_decides_not_the_last_layer(self):
        x = keras.Input((4,))
        graph = {
            "softmax then log": (keras.ops.log(layers.Dense(2, "softmax")(x)), None, True),
            "sigmoid, scaled": (layers.Dense(1, "sigmoid")(x) * 4.0 - 2.0, None, True),
            "keras.ops.sigmoid": (keras.ops.sigmoid(layers.Dense(1)(x)), "sigmoid", False),
            "flattened": (layers.Flatten()(layers.Dense(1, "sigmoid")(x)), "sigmoid", False),
            "softmax layer": (layers.Softmax()(layers.Dense(2)(x)), "softmax", False),
        }
        for name, (output, activation, from_logits) in graph.items():
            model = keras.Model(x, output)
            assert last_activation(model) == activation, name
            assert head_for(spaces.Discrete(2), model).from_logits is from_logits, name

    def test_a_subclass_of_sequential_is_read_like_one(self):
        class Net(keras.Sequential):
            pass

        assert not head_for(
            spaces.Discrete(2), Net([keras.Input((4,)), layers.Dense(1, "sigmoid")])
        ).from_logits

    def test_a_subclassed_model_with_a_sigmoid_must_say_what_it_returns(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.last = layers.Dense(1, "sigmoid")

            def call(self, x):
                return self.last(x)

        with pytest.raises(ValueError, match="say from_logits=False if its outputs are prob"):
            Policy(Net(), "CartPole-v1")
        for from_logits in (True, False):
            Policy(Net(), "CartPole-v1", from_logits=from_logits)

    @pytest.mark.parametrize(
        "last",
        [
            [layers.Dense(1, activation=lambda x: keras.ops.sigmoid(x))],
            [layers.Dense(1, "hard_sigmoid")],
            [layers.Dense(2), layers.Lambda(keras.ops.softmax)],
        ],
    )
    def test_what_looks_like_probabilities_must_be_said_to_be_so(self, last):
        model = keras.Sequential([keras.Input((4,)), *last])
        with pytest.raises(ValueError, match="look like probabilities"):
            Policy(model, "CartPole-v1")
        assert not Policy(model, "CartPole-v1", from_logits=False).head.from_logits

    def test_a_flattened_sigmoid_in_a_sequential_is_seen(self):
        stack = [keras.Input((4,)), layers.Dense(1, "sigmoid"), layers.Flatten()]
        assert not Policy(keras.Sequential(stack), "CartPole-v1").head.from_logits

    def test_a_softmax_of_one_output_is_refused(self):
        with pytest.raises(ValueError, match="softmax of one output"):
            head_for(spaces.Discrete(2), model_of(1, "softmax"))


class TestPositiveAction:
    """A sigmoid that is P(action 0) plays as well as the same one read the other way round."""

    def test_zero_swaps_the_actions(self):
        model = model_of(1, "sigmoid")
        x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
        ones = Policy(model, "CartPole-v1").act(x)
        zeros = Policy(model, "CartPole-v1", positive_action=0).act(x)
        np.testing.assert_array_equal(ones, 1 - zeros)

    def test_probabilities_are_those_of_action_zero(self):
        model = model_of(1, "sigmoid")
        x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
        p0 = np.asarray(model(x))[:, 0]
        policy = Policy(model, "CartPole-v1", positive_action=0)
        log_prob = policy.distribution(x).log_prob(tf.zeros(5, tf.int64))
        np.testing.assert_allclose(np.exp(log_prob), p0, rtol=1e-5)

    def test_is_for_a_single_output(self):
        with pytest.raises(ValueError, match="single output"):
            Policy(model_of(2), "CartPole-v1", positive_action=0)
        with pytest.raises(ValueError, match="0 or 1"):
            Policy(model_of(1), "CartPole-v1", positive_action=2)


ACTING = {
    "sigmoid": lambda: (model_of(1, "sigmoid"), "CartPole-v1"),
    "logit": lambda: (model_of(1), "CartPole-v1"),
    "flattened": lambda: (flattened(1, "sigmoid"), "CartPole-v1"),
    "flattened-softmax": lambda: (flattened(2, "softmax"), "CartPole-v1"),
    "softmax-linear": lambda: (
        keras.Sequential([*model_of(2, "softmax").layers, layers.Activation("linear")]),
        "CartPole-v1",
    ),
    "softmax": lambda: (model_of(2, "softmax"), "CartPole-v1"),
    "mlp": lambda: (tfpg.networks.mlp("CartPole-v1", activation="elu"), "CartPole-v1"),
    "acrobot": lambda: (tfpg.networks.mlp("Acrobot-v1", activation="relu"), "Acrobot-v1"),
    "gaussian": lambda: (tfpg.networks.mlp("Pendulum-v1", log_std=-0.5), "Pendulum-v1"),
}


class TestActing:
    @pytest.mark.parametrize("name", ACTING)
    def test_numpy_and_tensorflow_act_alike(self, name):
        keras.utils.set_random_seed(1)
        model, env = ACTING[name]()
        policies = [Policy(model, env, acting=acting) for acting in ("numpy", "tensorflow")]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, *policies[0].observation_space.shape)).astype("float32")
        noise = policies[0].head.noise(rng, len(x))
        for with_noise in (None, noise):
            a, b = (policy.actor()(x, with_noise) for policy in policies)
            np.testing.assert_allclose(a.env_actions, b.env_actions, rtol=1e-5, atol=1e-5)
            log_probs = [
                policy.distribution_of(decision.outputs).log_prob(a.actions)
                for policy, decision in zip(policies, (a, b), strict=True)
            ]
            np.testing.assert_allclose(*log_probs, rtol=1e-4, atol=1e-5)
        exact = policies[1].distribution(x).log_prob(tf.convert_to_tensor(a.actions))
        np.testing.assert_allclose(log_probs[0], exact, rtol=1e-4, atol=1e-5)

    def test_auto_says_what_it_chose(self):
        assert Policy(model_of(2), "CartPole-v1").acting == "numpy"
        large = keras.Sequential([keras.Input((4,)), layers.Dense(1024), layers.Dense(1024)])
        large.add(layers.Dense(2))
        assert Policy(large, "CartPole-v1").acting == "tensorflow"

    def test_what_cannot_be_mirrored_acts_through_tensorflow(self):
        model = keras.Sequential([keras.Input((4,)), layers.LayerNormalization(), layers.Dense(2)])
        assert Policy(model, "CartPole-v1").acting == "tensorflow"
        with pytest.raises(ValueError, match="cannot act through NumPy"):
            Policy(model, "CartPole-v1", acting="numpy")

    @pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
    def test_an_actor_sees_new_weights_only_when_made_anew(self, acting):
        model = model_of(1)
        policy = Policy(model, "CartPole-v1", acting=acting)
        x = np.ones((1, 4), "float32")
        for sign in (1, -1):
            model.set_weights([np.full((4, 1), sign, "float32"), np.zeros(1, "float32")])
            assert policy.act(x)[0] == (sign == 1)

    def test_a_subclassed_model_acts(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(2)

            def call(self, x):
                return self.dense(x)

        policy = Policy(Net(), "CartPole-v1")
        assert policy.acting == "tensorflow"
        assert policy.act(np.zeros((3, 4), "float32")).shape == (3,)

    def test_a_start_other_than_zero_reaches_the_environment(self):
        for outputs in (1, 2):
            env = Bandit(spaces.Discrete(2, start=5))
            policy = Policy(model_of(outputs, inputs=1), env)
            actions = policy.act(np.array([[-1.0], [1.0]], "float32"), deterministic=False, seed=0)
            assert set(actions.tolist()) <= {5, 6}
            assert actions.dtype == np.int64

    def test_box_actions_are_clipped_for_the_environment_and_not_for_learning(self):
        env = Bandit(spaces.Box(-0.1, 0.1, (2,), np.float64))
        policy = Policy(tfpg.networks.mlp(env, log_std=2.0), env)
        noise = policy.head.noise(np.random.default_rng(0), 50)
        decision = policy.actor()(np.ones((50, 1), "float32"), noise)
        assert np.abs(decision.actions).max() > 1
        assert np.abs(decision.env_actions).max() <= 0.1
        assert decision.env_actions.dtype == np.float64
        assert all(env.action_space.contains(a) for a in decision.env_actions)

    def test_actions_are_in_the_dtype_of_their_space(self):
        for space, outputs in [
            (spaces.Discrete(3, dtype=np.int32), 3),
            (spaces.Discrete(2, start=-1, dtype=np.int32), 1),
            (spaces.Box(-2, 2, (2,), np.int64), 4),
        ]:
            policy = Policy(model_of(outputs, inputs=1), Bandit(space))
            for deterministic in (True, False):
                x = np.linspace(-3, 3, 20, dtype="float32")[:, None]
                actions = policy.act(x, deterministic=deterministic, seed=0)
                assert all(space.contains(a) for a in actions), (space, actions)

    def test_integer_boxes_are_rounded_to_the_nearest(self):
        head = GaussianHead(spaces.Box(-2, 2, (1,), np.int64), outputs=2)
        actions = head.env_actions(np.array([[-1.9], [-0.4], [0.6], [1.9]], "float32"))
        assert actions[:, 0].tolist() == [-2, 0, 1, 2]

    def test_normalization_adapted_later_is_not_stale(self):
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

    def test_an_error_about_an_image_is_one_short_line(self):
        space = (spaces.Box(0, 1, (20, 20), np.float32), spaces.Discrete(2))

        class Pictures(Bandit):
            observation_space, action_space = space

            def __init__(self):
                pass

        policy = Policy(tfpg.networks.mlp(space), Pictures())
        with pytest.raises(FloatingPointError, match="not finite") as caught:
            policy.act(np.full((1, 20, 20), np.nan, "float32"))
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)

    def test_mixed_precision_acts_in_float32(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = model_of(2)
        finally:
            keras.config.set_dtype_policy("float32")
        policy = Policy(model, "CartPole-v1")
        assert policy.acting == "tensorflow"
        assert policy.actor()(np.zeros((1, 4), "float32")).outputs.dtype == np.float32

    @pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
    def test_nan_weights_are_named(self, acting):
        model = model_of(2)
        model.set_weights([np.full((4, 2), np.nan, "float32"), np.zeros(2, "float32")])
        policy = Policy(model, "CartPole-v1", acting=acting)
        with pytest.raises(FloatingPointError, match=r"not finite.*kernel.*load an earlier model"):
            policy.act(np.ones((1, 4), "float32"))

    @pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
    @pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
    def test_saturated_probabilities_stay_finite(self, acting, activation):
        model = model_of(1 if activation == "sigmoid" else 2, activation)
        bias = np.array([200.0, -200.0])[: model.output_shape[-1]]
        for sign in (1, -1):
            model.set_weights([np.zeros((4, len(bias))), sign * bias])
            policy = Policy(model, "CartPole-v1", acting=acting)
            x = np.zeros((2, 4), "float32")
            outputs = policy.actor()(x).outputs
            assert np.isfinite(policy.distribution_of(outputs).log_prob(np.array([0, 1]))).all()
            log_prob = policy.distribution(x).log_prob(tf.constant([0, 1]))
            assert np.isfinite(log_prob).all()

    def test_nan_observations_are_told_from_nan_weights(self):
        with pytest.raises(FloatingPointError, match=r"for observation 1, which is \[nan"):
            Policy(model_of(2), "CartPole-v1").act(np.array([[0.0] * 4, [np.nan] * 4], "float32"))

    def test_large_finite_outputs_are_no_error(self):
        model = model_of(2)
        model.set_weights([np.full((4, 2), 1e38, "float32"), np.zeros(2, "float32")])
        assert Policy(model, "CartPole-v1").act(np.full((8, 4), 0.8, "float32")).shape == (8,)


class TestFit:
    """The model must fit the environment, and the error says how."""

    def test_wrong_input_shape(self):
        with pytest.raises(ValueError, match=r"inputs of shape \(None, 8\).*\(4,\): build it with"):
            Policy(model_of(2, inputs=8), "CartPole-v1")

    def test_a_model_that_cannot_be_called(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(2)

            def call(self, x):
                return self.dense(x @ tf.ones((7, 2)))

        with pytest.raises(ValueError, match="cannot be called on inputs of shape"):
            Policy(Net(), "CartPole-v1")

    def test_unbuilt_models_are_built(self):
        model = keras.Sequential([layers.Dense(2)])
        Policy(model, "CartPole-v1")
        assert model.built

    def test_not_a_model(self):
        with pytest.raises(TypeError, match="Expected a keras.Model, and got str"):
            Policy("model", "CartPole-v1")
        with pytest.raises(TypeError, match="Keras model, an agent or a tfpg.Policy"):
            as_policy(3, "CartPole-v1")

    def test_a_policy_for_another_environment(self):
        policy = Policy(model_of(2), "CartPole-v1")
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
    def test_layers_that_change_in_training_are_refused(self, layer):
        inner = keras.Sequential([keras.Input((4,)), layer])
        for model in (
            keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)]),
            keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)]),
        ):
            with pytest.raises(ValueError, match=f"Layer '{layer.name}'.*Take it out"):
                check_layers(model)
            with pytest.raises(ValueError, match="what is learned from is what was played"):
                tfpg.Reinforce(model)

    def test_frozen_batch_normalization_and_empty_dropout_are_fine(self):
        frozen = layers.BatchNormalization(trainable=False, center=False, scale=False)
        check_layers(keras.Sequential([keras.Input((4,)), frozen, layers.Dropout(0.0)]))

    def test_observations_of_another_shape(self):
        with pytest.raises(ValueError, match=r"shape \(N, 4\), and got \(4,\)"):
            Policy(model_of(2), "CartPole-v1").act(np.zeros(4, "float32"))

    def test_integer_observations(self):
        env = Countdown(dtype=np.int64)
        for acting in ("numpy", "tensorflow"):
            policy = Policy(model_of(2, inputs=2), env, acting=acting)
            assert policy.act(np.zeros((3, 2), np.int64)).shape == (3,)


class TestMlp:
    def test_is_plain_keras(self):
        for env in ("CartPole-v1", "Pendulum-v1"):
            for layer in tfpg.networks.mlp(env).layers:
                assert type(layer).__module__.startswith("keras.")

    def test_the_seed_decides_the_weights(self):
        def weights(seed):
            return tfpg.networks.mlp("CartPole-v1", seed=seed).get_weights()

        for a, b in zip(weights(1), weights(1), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(weights(1)[0], weights(2)[0])
        keras.utils.set_random_seed(0)
        first = weights(None)
        keras.utils.set_random_seed(0)
        np.testing.assert_array_equal(first[0], weights(None)[0])

    def test_begins_nearly_uniform(self):
        model = tfpg.networks.mlp("Acrobot-v1", seed=0)
        x = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
        p = tf.nn.softmax(model(x)).numpy()
        np.testing.assert_allclose(p, 1 / 3, atol=0.03)

    def test_a_free_log_std_does_not_look_at_the_observation_and_learns(self):
        model = tfpg.networks.mlp("Pendulum-v1", log_std=-0.7, seed=0)
        x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
        np.testing.assert_allclose(np.asarray(model(x))[:, 1], -0.7, rtol=1e-6)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x)[:, 1])
        grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
        by_path = {v.path: g for v, g in zip(model.trainable_variables, grads, strict=True)}
        assert float(by_path["log_std/bias"][0]) == 10
        assert not np.any(by_path["log_std/kernel"])

    def test_image_like_observations_are_flattened(self):
        pair = (spaces.Box(0, 1, (3, 2), np.float32), spaces.Discrete(4))
        assert tfpg.networks.mlp(pair)(np.zeros((5, 3, 2))).shape == (5, 4)

    @pytest.mark.parametrize("hidden", [(0,), (-3,), (2.5,)])
    def test_hidden_must_be_positive_integers(self, hidden):
        with pytest.raises(ValueError, match="hidden must hold positive integers"):
            tfpg.networks.mlp("CartPole-v1", hidden=hidden)

    def test_spaces_without_a_network(self):
        box = spaces.Box(0, 1, (2,))
        with pytest.raises(ValueError, match="FlattenObservation"):
            tfpg.networks.mlp((spaces.Tuple([box]), spaces.Discrete(2)))
        with pytest.raises(ValueError, match="Policies are for Discrete"):
            tfpg.networks.mlp((box, spaces.Text(3)))
