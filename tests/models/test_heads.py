"""What a model's outputs mean: which head reads them, what is learned, and what is played."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from kinds import BOX, HEADS, X, model_of
from stub_env import OBSERVATIONS, stub_env

import tfpg
from tfpg.models.heads import (
    BernoulliHead,
    CategoricalHead,
    EpsilonGreedyHead,
    GaussianHead,
    MultiBinaryHead,
    MultiCategoricalHead,
    supports,
)
from tfpg.models.policy import Policy

layers = keras.layers
KINDS = {
    "bernoulli": BernoulliHead,
    "categorical": CategoricalHead,
    "q-values": EpsilonGreedyHead,
    "choices": MultiCategoricalHead,
    "bits": MultiBinaryHead,
    "gaussian": GaussianHead,
}
cases = pytest.mark.parametrize("name", HEADS)


@functools.cache
def policy_for(name, acting="numpy"):
    space, outputs, activation, options, _ = HEADS[name]
    keras.utils.set_random_seed(1)
    return Policy(model_of(outputs, activation), stub_env(space), acting=acting, **options)


def head_of(space, outputs, activation=None, **options):
    return Policy(model_of(outputs, activation), stub_env(space), **options).head


def noise_for(policy):
    return policy.head.noise(np.random.default_rng(5), len(X))


@cases
def test_the_head_follows_from_the_space_and_the_outputs(name):
    *_, activation, _, action_shape = HEADS[name]
    head = policy_for(name).head
    assert type(head) is KINDS[name.split()[0]]
    assert head.from_logits is (activation not in ("sigmoid", "softmax"))
    assert head.action_shape == action_shape
    assert head.noise(np.random.default_rng(0), 7).shape == (7, *head.noise_shape)


@cases
def test_played_actions_belong_to_the_action_space(name):
    policy, space = policy_for(name), HEADS[name][0]
    for deterministic in (True, False):
        for action in policy.act(X, deterministic=deterministic, seed=3):
            assert space.contains(action), (action, action.dtype)


@cases
def test_numpy_and_tensorflow_choose_the_same_actions(name):
    policies = [policy_for(name, acting) for acting in ("numpy", "tensorflow")]
    for noise in (None, noise_for(policies[0])):
        decisions = [policy.actor()(X, noise) for policy in policies]
        assert decisions[0].actions.shape == (64, *HEADS[name][-1])
        for actions in zip(*[(d.actions, d.env_actions) for d in decisions], strict=True):
            np.testing.assert_allclose(*actions, atol=1e-5)


@cases
def test_acting_and_learning_agree_on_the_log_probability(name):
    policy = policy_for(name)
    decision = policy.actor()(X, noise_for(policy))
    acted = policy.distribution_of(decision.outputs).log_prob(decision.actions)
    learned = policy.distribution(tf.constant(X)).log_prob(tf.constant(decision.actions))
    assert acted.shape == (64,)
    np.testing.assert_allclose(acted, learned, rtol=1e-4, atol=1e-5)


@cases
def test_networks_have_the_outputs_that_a_head_reads(name):
    space = HEADS[name][0]
    model = tfpg.networks.mlp((OBSERVATIONS, space), hidden=(8,), seed=0)
    assert Policy(model, stub_env(space)).acting == "numpy"
    model = tfpg.networks.actor_critic((OBSERVATIONS, space), hidden=(8,), seed=0)
    policy = Policy(model, stub_env(space))
    assert policy.acting == "numpy"
    assert policy.distribution_and_value(tf.constant(X))[1].shape == (64,)


@pytest.mark.parametrize(
    ("space", "outputs", "message"),
    [
        (
            spaces.Discrete(2),
            3,
            r"3 outputs, but Discrete\(2\) needs 1 .* or 2 .*last layer of the mod",
        ),
        (spaces.Discrete(4), 1, r"1 output, but Discrete\(4\) needs 4 \(one for each action"),
        (spaces.Box(-1, 1, (3,)), 5, "3 .a mean for .* or 6 .a mean and a log standard dev"),
        (spaces.MultiDiscrete([3, 2]), 2, "needs 5 .one for each option of each choice"),
        (spaces.MultiBinary(3), 2, "needs 3 .one for each bit"),
        (spaces.Text(3), 3, "Unsupported action space Text.*expected Box, Discrete, Multi"),
    ],
)
def test_a_wrong_number_of_outputs_says_what_would_fit(space, outputs, message):
    with pytest.raises(ValueError, match=message):
        head_of(space, outputs)


def test_q_values_need_discrete_actions_and_policies_do_not():
    assert supports(spaces.Discrete(2), q_values=True)
    assert not supports(BOX, q_values=True)
    assert [supports(HEADS[name][0]) for name in HEADS] == [True] * len(HEADS)
    assert not supports(spaces.Text(3))


def test_actions_of_several_dimensions_are_restored_row_by_row():
    head = policy_for("choices 2d").head
    assert head.env_actions(np.array([[1, 2, 3, 4]])).tolist() == [[[1, 2], [3, 4]]]
    head = policy_for("bits 2d").head
    assert head.env_actions(np.array([[0, 1, 1, 0, 0, 1]])).tolist() == [[[0, 1, 1], [0, 0, 1]]]


class TestGaussian:
    def test_a_log_std_that_the_model_does_not_output_is_a_weight_of_the_head(self):
        policy = Policy(model_of(3), stub_env(BOX), log_std=-0.5)
        (variable,) = policy.head.variables
        np.testing.assert_allclose(policy.distribution(tf.constant(X)).log_std, -0.5)
        variable.assign([0.0, 1.0, 2.0])
        decision = policy.actor()(X, np.ones((64, 3), "float32"))
        stds = decision.actions - decision.outputs
        np.testing.assert_allclose(stds, np.exp([[0.0, 1.0, 2.0]] * 64), rtol=1e-5)
        assert policy_for("gaussian").head.variables == ()

    def test_a_policy_of_the_same_model_can_share_the_heads_weights(self):
        policy, other = (Policy(model_of(3), stub_env(BOX)) for _ in range(2))
        other.share_head_variables(policy)
        policy.head.variables[0].assign([3.0] * 3)
        np.testing.assert_array_equal(other.distribution(tf.constant(X)).log_std, [[3.0] * 3] * 64)
        smaller = Policy(model_of(1), stub_env(spaces.Box(-1, 1, (1,))))
        smaller.share_head_variables(policy)  # which has another shape
        assert smaller.head.variables[0].shape == (1,)

    def test_actions_are_clipped_to_be_played_and_not_to_be_learned(self):
        head = GaussianHead(BOX, outputs=6)
        actions = np.array([[0, 1, 0], [0, -1, 0], [2, 1, 0], [-1, 0, 5]], "float32")
        assert head.clipped(actions).tolist() == [0, 1, 1, 0]
        assert head.clipped(tf.constant(actions)).numpy().tolist() == [0, 1, 1, 0]
        assert head.env_actions(actions)[1:3].tolist() == [[0, 0, 0], [1, 1, 0]]
        unbounded = GaussianHead(spaces.Box(-np.inf, np.inf, (3,)), outputs=6)
        assert unbounded.clipped(actions) is None

    def test_integer_actions_are_rounded_to_the_nearest(self):
        head = GaussianHead(spaces.Box(-2, 2, (1,), np.int64), outputs=2)
        actions = head.env_actions(np.array([[-1.9], [-0.4], [0.6], [1.9]], "float32"))
        assert actions[:, 0].tolist() == [-2, 0, 1, 2]

    def test_squashed_actions_fill_the_bounds_and_are_never_clipped(self):
        head = GaussianHead(BOX, outputs=6, squash=True)
        assert head.clipped(np.full((2, 3), 50.0, "float32")) is None
        np.testing.assert_array_equal(head.env_actions(np.full((1, 3), 50.0)), [BOX.high])
        np.testing.assert_array_equal(head.env_actions(np.zeros((1, 3))), [[0, 1, 0]])

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32])
    def test_squashed_actions_fill_the_bounds_of_integers(self, dtype):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        head = GaussianHead(spaces.Box(low, high, (2,), dtype), outputs=4, squash=True)
        u = np.float32([[-20, 0], [0.5, 20]])
        expected = low + (float(high) - low) * (np.tanh(u) + 1) / 2
        np.testing.assert_allclose(head.env_actions(u), np.rint(expected), rtol=1e-6, atol=1)
        distribution = head.distribution(np.zeros((2, 4), "float32"))
        slope = 2 * np.log(1 / np.cosh(u)) + np.log((float(high) - low) / 2)
        expected = np.sum(-0.5 * u * u - 0.5 * np.log(2 * np.pi) - slope, axis=1)
        np.testing.assert_allclose(distribution.log_prob(u), expected, rtol=1e-5)

    @pytest.mark.parametrize(
        "space",
        [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, np.inf, (1,))],
    )
    def test_squashing_needs_bounds(self, space):
        with pytest.raises(ValueError, match="squash=True needs a bounded Box"):
            head_of(space, 2, squash=True)

    def test_squashing_needs_bounds_that_differ_but_not_by_more_than_a_float32(self):
        with pytest.raises(
            ValueError, match=r"bounded Box, but both bounds of dimension 1 are 3\."
        ):
            head_of(spaces.Box(np.float32([0, 3]), np.float32([1, 3])), 4, squash=True)
        far = r"but the bounds of dimension 0, -3e\+38 and 3e\+38, are too far apart"
        for dtype in (np.float32, np.float64):
            with pytest.raises(ValueError, match=far):
                head_of(spaces.Box(-3e38, 3e38, (1,), dtype), 2, squash=True)
        head = head_of(spaces.Box(-1e38, 1e38, (1,)), 2, squash=True)
        u = np.array([[0.5]], "float32")
        expected = (np.tanh(u) + 1) * 1e38 - 1e38
        np.testing.assert_allclose(head.env_actions(u), expected, rtol=1e-5)


class TestPositiveAction:
    """The sigmoid of a single output may be the probability of action 0."""

    def test_a_single_output_can_be_the_probability_of_action_zero(self):
        policy = policy_for("bernoulli 0")
        log_prob = policy.distribution(X).log_prob(tf.zeros(64, tf.int64))
        p0 = np.asarray(policy.model(X))[:, 0]
        np.testing.assert_allclose(np.exp(log_prob), p0, rtol=1e-5)
        other_way = Policy(policy.model, stub_env(spaces.Discrete(2)))
        np.testing.assert_array_equal(policy.act(X), 1 - other_way.act(X))

    def test_positive_action_is_for_a_single_output(self):
        with pytest.raises(ValueError, match="single output, but this one has 2"):
            head_of(spaces.Discrete(2), 2, positive_action=0)
        with pytest.raises(ValueError, match="0 or 1"):
            head_of(spaces.Discrete(2), 1, positive_action=2)


class TestLogitsOrProbabilities:
    def test_the_operation_that_makes_the_output_decides_not_the_last_layer(self):
        x = keras.Input((3,))
        inner = model_of(1, "sigmoid")
        graphs = {
            "softmax then log": (keras.ops.log(layers.Dense(2, "softmax")(x)), True),
            "sigmoid, scaled": (layers.Dense(1, "sigmoid")(x) * 4.0 - 2.0, True),
            "keras.ops.sigmoid": (keras.ops.sigmoid(layers.Dense(1)(x)), False),
            "flattened": (layers.Flatten()(layers.Dense(1, "sigmoid")(x)), False),
            "softmax layer": (layers.Softmax()(layers.Dense(2)(x)), False),
            "nested model": (inner(x), False),
        }
        for name, (output, from_logits) in graphs.items():
            policy = Policy(keras.Model(x, output), stub_env(spaces.Discrete(2)))
            assert policy.head.from_logits is from_logits, name

    def test_sequential_models_are_read_whatever_follows_the_activation(self):
        class Net(keras.Sequential):
            pass

        dense = layers.Dense(1, "sigmoid")
        for stack in ([dense], [dense, layers.Flatten()], [model_of(1, "sigmoid")]):
            for kind in (keras.Sequential, Net):
                model = kind([keras.Input((3,)), *stack])
                assert not Policy(model, stub_env(spaces.Discrete(2))).head.from_logits

    def test_from_logits_overrides_the_activation(self):
        assert head_of(spaces.Discrete(2), 1, "sigmoid", from_logits=True).from_logits

    def test_a_subclassed_model_with_a_sigmoid_needs_from_logits(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.last = layers.Dense(1, "sigmoid")

            def call(self, x):
                return self.last(x)

        env = stub_env(spaces.Discrete(2))
        with pytest.raises(ValueError, match="look like probabilities.* Pass from_logits=False if"):
            Policy(Net(), env)
        for from_logits in (True, False):
            assert Policy(Net(), env, from_logits=from_logits).head.from_logits is from_logits

    @pytest.mark.parametrize(
        "last",
        [
            [layers.Dense(1, activation=lambda x: keras.ops.sigmoid(x))],
            [layers.Dense(1, "hard_sigmoid")],
            [layers.Dense(2), layers.Lambda(keras.ops.softmax)],
        ],
    )
    def test_outputs_that_look_like_probabilities_need_from_logits(self, last):
        model = keras.Sequential([keras.Input((3,)), *last])
        env = stub_env(spaces.Discrete(2))
        with pytest.raises(ValueError, match="look like probabilities.* Pass from_logits=False"):
            Policy(model, env)
        assert not Policy(model, env, from_logits=False).head.from_logits

    def test_each_choice_can_have_a_softmax_of_its_own(self):
        x = keras.Input((3,))
        outputs = layers.Concatenate()([layers.Dense(n, "softmax")(x) for n in (3, 2)])
        model, env = keras.Model(x, outputs), stub_env(spaces.MultiDiscrete([3, 2]))
        with pytest.raises(ValueError, match="look like probabilities"):
            Policy(model, env)
        policy = Policy(model, env, from_logits=False)
        q = np.exp(policy.distribution(tf.constant(X)).log_prob(tf.constant([[2, 1]] * 64)))
        p = model(X).numpy()
        np.testing.assert_allclose(q, p[:, 2] * p[:, 4], rtol=1e-4)

    @pytest.mark.parametrize(
        ("space", "outputs", "activation", "instead"),
        [
            (spaces.Discrete(2), 1, "softmax", "a sigmoid or no activation"),
            (spaces.Discrete(2), 2, "sigmoid", "a softmax or no activation"),
            (spaces.MultiDiscrete([3, 2]), 5, "softmax", "no activation"),
            (spaces.MultiDiscrete([3, 2]), 5, "sigmoid", "no activation"),
            (spaces.MultiBinary(3), 3, "softmax", "a sigmoid or no activation"),
        ],
    )
    def test_an_activation_that_does_not_fit_the_actions(self, space, outputs, activation, instead):
        message = (
            f"A {activation} over {outputs} output.* does not give .*End the model in {instead}"
        )
        with pytest.raises(ValueError, match=message):
            head_of(space, outputs, activation)

    @pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
    @pytest.mark.parametrize(("activation", "outputs"), [("sigmoid", 1), ("softmax", 2)])
    def test_saturated_probabilities_have_finite_logarithms(self, acting, activation, outputs):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(outputs, activation)])
        policy = Policy(model, stub_env(spaces.Discrete(2)), acting=acting)
        x, bias = np.zeros((2, 3), "float32"), np.array([200.0, -200.0])[:outputs]
        for sign in (1, -1):
            model.set_weights([np.zeros((3, outputs)), sign * bias])
            acted = policy.distribution_of(policy.actor()(x).outputs)
            assert np.isfinite(acted.log_prob(np.array([0, 1]))).all()
            assert np.isfinite(policy.distribution(x).log_prob(tf.constant([0, 1]))).all()


def test_the_low_entropy_is_a_hundredth_of_the_largest_or_follows_from_the_bounds():
    actions = {"bernoulli": 2, "categorical": 4, "choices 2d": 24, "bits": 8}
    for name, count in actions.items():
        assert policy_for(name).head.low_entropy == pytest.approx(0.01 * np.log(count))
    spans = [2e-3, 2e-3, 1e-2]
    assert policy_for("gaussian").head.low_entropy == pytest.approx(np.sum(np.log(spans)))
    assert policy_for("q-values").head.low_entropy == -np.inf
