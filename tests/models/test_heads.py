"""Every head: what is learned, what is played, and that both ways of computing agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import tfpg
from tfpg.models.heads import (
    GaussianHead,
    MultiBinaryHead,
    MultiCategoricalHead,
    SquashedGaussianHead,
    head_for,
)
from tfpg.models.policy import Policy

layers = keras.layers
OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)
BOX = spaces.Box(np.array([-1, 0, -5], "float32"), np.array([1, 2, 5], "float32"))

# action space, outputs, activation, options, shape of an action as learned
CASES = {
    "bernoulli": (spaces.Discrete(2), 1, None, {}, ()),
    "bernoulli-sigmoid": (spaces.Discrete(2), 1, "sigmoid", {}, ()),
    "bernoulli-0": (spaces.Discrete(2), 1, "sigmoid", {"positive_action": 0}, ()),
    "categorical": (spaces.Discrete(4), 4, None, {}, ()),
    "categorical-softmax": (spaces.Discrete(4, start=-2), 4, "softmax", {}, ()),
    "q-values": (spaces.Discrete(4, start=-2), 4, None, {"epsilon": 0.3}, ()),
    "multi-categorical": (spaces.MultiDiscrete([3, 2, 4]), 9, None, {}, (3,)),
    "multi-categorical-start": (
        spaces.MultiDiscrete([3, 2], start=[5, -1]),
        5,
        None,
        {},
        (2,),
    ),
    "multi-categorical-2d": (spaces.MultiDiscrete([[3, 2], [2, 2]]), 9, None, {}, (4,)),
    "multi-binary": (spaces.MultiBinary(3), 3, None, {}, (3,)),
    "multi-binary-sigmoid": (spaces.MultiBinary(3), 3, "sigmoid", {}, (3,)),
    "multi-binary-2d": (spaces.MultiBinary([2, 3]), 6, None, {}, (6,)),
    "gaussian": (BOX, 6, None, {}, (3,)),
    "gaussian-free": (BOX, 3, None, {"log_std": -0.5}, (3,)),
    "gaussian-2d": (spaces.Box(-1, 1, (2, 2), np.float64), 8, None, {}, (4,)),
    "squashed": (BOX, 6, None, {"squash": True}, (3,)),
    "squashed-free": (BOX, 3, None, {"squash": True}, (3,)),
    "squashed-float64": (spaces.Box(-0.1, 0.1, (2,), np.float64), 4, None, {"squash": True}, (2,)),
    "squashed-2d": (spaces.Box(-2, 1, (2, 1), np.float32), 4, None, {"squash": True}, (2,)),
}
cases = pytest.mark.parametrize("name", CASES)


class Place:
    """As much of an environment as a policy asks for."""

    def __new__(cls, action_space, observation_space=OBSERVATIONS):
        import gymnasium

        env = gymnasium.Env()
        env.observation_space, env.action_space = observation_space, action_space
        return env


def policy_for(name, acting="auto"):
    space, outputs, activation, options, _ = CASES[name]
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dense(outputs, activation)]
    )
    return Policy(model, Place(space), acting=acting, **options)


X = np.random.default_rng(0).normal(0, 3, (64, 3)).astype("float32")


@cases
def test_what_is_played_belongs_to_the_action_space(name):
    policy, space = policy_for(name), CASES[name][0]
    for deterministic in (True, False):
        played = policy.act(X, deterministic=deterministic, seed=3)
        for action in played:
            assert space.contains(action), (action, action.dtype)


@cases
def test_both_ways_to_act_choose_the_same(name):
    noise = policy_for(name).head.noise(np.random.default_rng(5), len(X))
    chosen = [policy_for(name, acting).actor()(X, noise) for acting in ("numpy", "tensorflow")]
    assert chosen[0].actions.shape == (64, *CASES[name][4])
    np.testing.assert_allclose(chosen[0].actions, chosen[1].actions, atol=1e-5)
    np.testing.assert_allclose(chosen[0].env_actions, chosen[1].env_actions, atol=1e-5)


@cases
def test_acting_and_learning_agree_on_the_log_probability(name):
    policy = policy_for(name)
    decision = policy.actor()(X, policy.head.noise(np.random.default_rng(5), len(X)))
    acted = policy.distribution_of(decision.outputs).log_prob(decision.actions)
    learned = policy.distribution(tf.constant(X)).log_prob(tf.constant(decision.actions))
    assert acted.shape == (64,)
    np.testing.assert_allclose(acted, learned, rtol=1e-4, atol=1e-5)


@cases
def test_noise_has_a_row_a_step(name):
    head = policy_for(name).head
    assert head.noise(np.random.default_rng(0), 7).shape == (7, *head.noise_shape)


def test_shapes_are_restored_row_by_row():
    head = head_for(CASES["multi-categorical-2d"][0], policy_for("multi-categorical-2d").model)
    assert isinstance(head, MultiCategoricalHead)
    assert head.env_actions(np.array([[1, 2, 3, 4]])).tolist() == [[[1, 2], [3, 4]]]
    head = head_for(CASES["multi-binary-2d"][0], policy_for("multi-binary-2d").model)
    assert isinstance(head, MultiBinaryHead)
    assert head.env_actions(np.array([[0, 1, 1, 0, 0, 1]])).tolist() == [[[0, 1, 1], [0, 0, 1]]]


class TestGaussian:
    def test_a_free_log_std_is_the_heads_own_weight(self):
        policy = policy_for("gaussian-free")
        (variable,) = policy.head.variables
        assert variable.value.numpy().tolist() == [-0.5] * 3
        spread = policy.distribution(tf.constant(X))
        np.testing.assert_allclose(spread.log_std, np.full((64, 3), -0.5))
        variable.assign([0.0, 1.0, 2.0])
        decision = policy.actor()(X, np.ones((64, 3), "float32"))
        np.testing.assert_allclose(
            decision.actions - decision.outputs, np.exp([[0.0, 1.0, 2.0]] * 64), rtol=1e-5
        )

    def test_a_log_std_from_the_model_leaves_the_head_without_weights(self):
        assert policy_for("gaussian").head.variables == ()

    def test_clipping_is_told(self):
        head = GaussianHead(BOX, outputs=6)
        actions = np.array([[[0, 1, 0], [0, -1, 0]], [[2, 1, 0], [-1, 0, 5]]], "float32")
        assert head.out_of_bounds(actions).tolist() == [[False, True], [True, False]]

    def test_squashing_clips_nothing(self):
        head = SquashedGaussianHead(BOX, outputs=6)
        assert not head.out_of_bounds(np.full((2, 3), 50.0, "float32")).any()
        np.testing.assert_array_equal(head.env_actions(np.full((1, 3), 50.0)), [BOX.high])
        np.testing.assert_array_equal(head.env_actions(np.zeros((1, 3))), [[0, 1, 0]])

    @pytest.mark.parametrize(
        "space",
        [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, np.inf, (1,))],
    )
    def test_squashing_needs_bounds(self, space):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        with pytest.raises(ValueError, match="squash=True is for a bounded Box"):
            head_for(space, model, squash=True)


class TestProbabilities:
    def test_of_several_choices_are_each_choices_own(self):
        x = keras.Input((3,))
        outputs = layers.Concatenate()([layers.Dense(n, "softmax")(x) for n in (3, 2)])
        model, env = keras.Model(x, outputs), Place(spaces.MultiDiscrete([3, 2]))
        with pytest.raises(ValueError, match="look like probabilities"):
            Policy(model, env)
        policy = Policy(model, env, from_logits=False)
        q = np.exp(policy.distribution(tf.constant(X)).log_prob(tf.constant([[2, 1]] * 64)))
        p = model(X).numpy()
        np.testing.assert_allclose(q, p[:, 2] * p[:, 4], rtol=1e-4)

    @pytest.mark.parametrize(
        ("space", "outputs", "activation", "message"),
        [
            (spaces.MultiDiscrete([3, 2]), 5, "softmax", "softmax over all 5 outputs"),
            (spaces.MultiDiscrete([3, 2]), 5, "sigmoid", "sigmoid over all 5 outputs"),
            (spaces.MultiBinary(3), 3, "softmax", "bits of .* are independent"),
        ],
    )
    def test_that_mean_nothing_are_refused(self, space, outputs, activation, message):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(outputs, activation)])
        with pytest.raises(ValueError, match=message):
            head_for(space, model)


class TestNetworksFitTheHeads:
    @cases
    def test_mlp_makes_what_a_head_reads(self, name):
        model = tfpg.networks.mlp((OBSERVATIONS, CASES[name][0]), hidden=(8,), seed=0)
        assert Policy(model, Place(CASES[name][0])).acting == "numpy"

    @cases
    def test_actor_critic_has_a_value_too(self, name):
        model = tfpg.networks.actor_critic((OBSERVATIONS, CASES[name][0]), hidden=(8,), seed=0)
        policy = Policy(model, Place(CASES[name][0]))
        assert policy.has_value
        assert policy.acting == "numpy"
        assert policy.distribution_and_value(tf.constant(X))[1].shape == (64,)
