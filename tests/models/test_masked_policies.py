"""Policies never take an action that the observation's mask excludes, whatever the model."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from masked import Pairs

import tfpg
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy

layers = keras.layers
SIZE = 3
RNG = np.random.default_rng(0)


def space_of(choices, observation=None, **others):
    mask = spaces.Box(0, 1, (sum(choices),), np.int8)
    observation = observation or spaces.Box(-9, 9, (SIZE,), np.float32)
    return spaces.Dict({"observation": observation, "action_mask": mask, **others})


def masks_of(choices, count=300):
    """Random masks with at least one valid option of each choice, often just one."""
    parts = [
        (RNG.random((count, n)) < 0.3) | (np.arange(n) == RNG.integers(n, size=(count, 1)))
        for n in choices
    ]
    return np.concatenate(parts, axis=1).astype(np.int8)


def network(outputs, activation=None):
    return keras.Sequential(
        [keras.Input((SIZE,)), layers.Dense(8, "tanh"), layers.Dense(outputs, activation)]
    )


KINDS = {  # action space, choices, outputs, activation, options
    "two": (spaces.Discrete(2), (2,), 2, None, {}),
    "categorical": (spaces.Discrete(5, start=-2), (5,), 5, None, {}),
    "softmax": (spaces.Discrete(5), (5,), 5, "softmax", {}),
    "choices": (spaces.MultiDiscrete([3, 2, 4]), (3, 2, 4), 9, None, {}),
    "choices-2d": (spaces.MultiDiscrete([[3, 2], [2, 4]]), (3, 2, 2, 4), 11, None, {}),
    "q-values": (spaces.Discrete(5), (5,), 5, None, {"epsilon": 0.5}),
    "random": (spaces.Discrete(5), (5,), 5, None, {"epsilon": 1.0}),
    "atoms": (spaces.Discrete(5), (5,), 20, None, {"epsilon": 0.5, "support": (-2.0, 5.0)}),
    "quantiles": (spaces.Discrete(5), (5,), 20, None, {"epsilon": 0.5, "support": "quantiles"}),
}


def is_valid(policy, masks, actions):
    space = policy.action_space
    columns = np.reshape(actions - getattr(space, "start", 0), (len(masks), -1))
    sizes = np.ravel(getattr(space, "nvec", getattr(space, "n", None)))
    starts = np.cumsum([0, *sizes[:-1]])
    return np.take_along_axis(masks, columns + starts, axis=1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_invalid_action_in_numpy_and_in_tensorflow(kind):
    actions, choices, outputs, activation, options = KINDS[kind]
    keras.utils.set_random_seed(1)
    model, masks = network(outputs, activation), masks_of(choices)
    observations = {
        "observation": RNG.normal(0, 3, (len(masks), SIZE)).astype("float32"),
        "action_mask": masks,
    }
    both = [
        Policy(model, (space_of(choices), actions), acting=acting, **options)
        for acting in ("numpy", "tensorflow")
    ]
    noise = both[0].head.noise(np.random.default_rng(0), len(masks))
    for drawn in (None, noise):
        decisions = [policy.actor()(observations, drawn) for policy in both]
        for policy, decision in zip(both, decisions, strict=True):
            assert is_valid(policy, masks, decision.env_actions)
            distribution = policy.distribution_of(decision.outputs)
            assert np.isfinite(distribution.log_prob(decision.actions)).all()
            assert np.isfinite(distribution.entropy()).all()
        np.testing.assert_array_equal(decisions[0].env_actions, decisions[1].env_actions)
    policy = both[0]
    inputs = policy.encode(observations)
    learned = policy.distribution(inputs)
    played = policy.distribution_of(policy.actor()(observations).outputs)
    np.testing.assert_allclose(learned.entropy(), played.entropy(), rtol=1e-4, atol=1e-5)
    chosen = policy.actor()(observations, noise).actions
    np.testing.assert_allclose(
        learned.log_prob(chosen), played.log_prob(chosen), rtol=1e-4, atol=1e-5
    )
    actor, part = pickle.loads(pickle.dumps(policy.portable_actor())), slice(3, 7)
    some = {key: x[part] for key, x in observations.items()}
    for one in (actor(some), policy.actor().of_part(3, len(masks))(some)):
        np.testing.assert_array_equal(one.actions, policy.actor()(observations).actions[part])


def test_a_softmax_learns_from_the_policy_that_played():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, "softmax")])
    model.layers[-1].set_weights([np.zeros((1, 3)), np.array([20.0, 0.0, 5.0])])
    both = space_of((3,), spaces.Box(-1, 1, (1,), np.float32)), spaces.Discrete(3)
    observations = {
        "observation": np.zeros((2, 1), np.float32),
        "action_mask": np.array([[0, 1, 1]] * 2, np.int8),
    }
    expected = np.log([1 / (1 + np.exp(5)), 1 / (1 + np.exp(-5))])
    actions = np.array([1, 2])
    for acting in ("numpy", "tensorflow"):
        policy = Policy(model, both, acting=acting)
        played = policy.distribution_of(policy.actor()(observations).outputs)
        np.testing.assert_allclose(played.log_prob(actions), expected, rtol=1e-4)
    inputs = policy.encode(observations)
    with tf.GradientTape() as tape:
        learned = policy.distribution(inputs).log_prob(actions)
        first = learned[0]
    np.testing.assert_allclose(learned, expected, rtol=1e-4)
    gradient = tape.gradient(first, model.layers[-1].bias)
    np.testing.assert_allclose(gradient, [0, 1 - 0.006693, -1 + 0.006693], atol=1e-4)


@pytest.mark.parametrize("kind", ["categorical", "atoms", "choices"])
def test_without_a_valid_action_nothing_is_nan(kind):
    actions, choices, outputs, activation, options = KINDS[kind]
    policy = Policy(network(outputs, activation), (space_of(choices), actions), **options)
    observations = {
        "observation": np.zeros((2, SIZE), "float32"),
        "action_mask": np.zeros((2, sum(choices)), np.int8),
    }
    assert np.isfinite(policy.outputs(policy.encode(observations))).all()
    assert np.isfinite(policy.actor()(observations).outputs).all()
    with pytest.raises(ValueError, match=r"mask of observation 0 is invalid: no (action|option)"):
        policy.act(observations)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = layers.Dense(4)

    def call(self, x):
        return self.last(x)


def functional(inputs, *others):
    x = [layers.Flatten()(each) for each in (inputs, *others)]
    x = x[0] if len(x) == 1 else layers.Concatenate()(x)
    return layers.Dense(4)(x)


def named_input():
    x = keras.Input((SIZE,), name="observation")
    return keras.Model(x, functional(x))


def dict_input():
    x = keras.Input((SIZE,), name="observation")
    return keras.Model({"observation": x}, functional(x))


def mask_input():
    x, mask = keras.Input((SIZE,), name="observation"), keras.Input((4,), name="action_mask")
    return keras.Model({"observation": x, "action_mask": mask}, functional(x, mask))


@pytest.mark.parametrize(
    "build", [lambda: network(4), Subclass, named_input, dict_input, mask_input]
)
@pytest.mark.parametrize("acting", ["auto", "tensorflow"])
def test_a_model_takes_the_observation_with_or_without_a_dict(build, acting):
    policy = Policy(build(), (space_of((4,)), spaces.Discrete(4)), acting=acting)
    masks = masks_of((4,), 20)
    x = RNG.normal(size=(20, SIZE)).astype("float32")
    observations = {"observation": x, "action_mask": masks}
    outputs = policy.actor()(observations).outputs
    np.testing.assert_array_equal(np.isneginf(outputs), masks == 0)
    np.testing.assert_allclose(policy.outputs(policy.encode(observations)), outputs, atol=1e-5)
    assert is_valid(policy, masks, policy.act(observations))


def test_only_an_input_of_this_name_gets_the_mask():
    x = np.zeros((2, SIZE), "float32")
    observations = {"observation": x, "action_mask": np.array([[1, 1, 1, 0], [0, 1, 1, 1]], "int8")}
    for build, same in ((dict_input, True), (mask_input, False)):
        outputs = (
            Policy(build(), (space_of((4,)), spaces.Discrete(4))).actor()(observations).outputs
        )
        assert np.array_equal(outputs[0, 1:3], outputs[1, 1:3]) is same


@pytest.mark.parametrize("others", [{}, {"goal": spaces.Discrete(2)}], ids=["one", "two"])
def test_noisy_networks_are_masked(others):
    both, masks = (space_of((4,), **others), spaces.Discrete(4)), masks_of((4,), 200)
    model = tfpg.networks.mlp(both, hidden=(8,), noisy=True, seed=0)
    observations = {"observation": RNG.normal(size=(200, SIZE)).astype("f"), "action_mask": masks}
    observations |= {key: np.zeros(200, int) for key in others}
    policies = [Policy(model, both, epsilon=0.2, acting=a) for a in ("numpy", "tensorflow")]
    noise = policies[0].head.noise(np.random.default_rng(0), 200)
    for drawn in (None, noise):
        one, other = (policy.actor()(observations, drawn).env_actions for policy in policies)
        assert is_valid(policies[0], masks, one)
        np.testing.assert_array_equal(one, other)


def test_integers_can_enter_an_embedding():
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            layers.Embedding(9, 4),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    policy = Policy(model, (space_of((4,), spaces.Discrete(9, start=3)), spaces.Discrete(4)))
    masks = masks_of((4,), 9)
    observations = {"observation": np.arange(3, 12), "action_mask": masks}
    assert is_valid(policy, masks, policy.act(observations))


@pytest.mark.parametrize(
    "make",
    [
        tfpg.networks.mlp,
        tfpg.networks.actor_critic,
        tfpg.networks.dueling,
        tfpg.networks.critic,
        lambda env: tfpg.networks.mlp(env, atoms=5),
    ],
)
def test_networks_are_those_of_the_environment_without_masks(make):
    plain = spaces.Box(-9, 9, (SIZE,), np.float32)
    one, other = make((plain, spaces.Discrete(4))), make((space_of((4,)), spaces.Discrete(4)))
    assert (one.input_shape, one.output_shape) == (other.input_shape, other.output_shape)
    several = make((space_of((4,), goal=spaces.Discrete(5)), spaces.Discrete(4)))
    assert {x.name: x.shape[1:] for x in several.inputs} == {"observation": (SIZE,), "goal": (5,)}


def test_images_are_still_convolved():
    camera = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    both = space_of((4,), camera), spaces.Discrete(4)
    assert tfpg.networks.has_images(both[0])
    policy = Policy(tfpg.networks.nature_cnn(both, hidden=8), both)
    masks = masks_of((4,), 3)
    observations = {"observation": np.zeros((3, 84, 84, 4), np.uint8), "action_mask": masks}
    assert is_valid(policy, masks, policy.act(observations))


def test_statistics_and_values_are_those_of_the_observation():
    both = space_of((4,)), spaces.Discrete(4)
    model = tfpg.networks.mlp(both, normalize=True, hidden=(4,))
    policy = Policy(model, both, value_model=tfpg.networks.critic(both, hidden=(4,)))
    observations = {
        "observation": np.full((6, SIZE), 2.0, "float32"),
        "action_mask": masks_of((4,), 6),
    }
    ObservationStatistics(model).update(policy.encode(observations))
    assert model.get_layer("observation_statistics").moving_mean.numpy().tolist() == [2.0] * SIZE
    assert policy.values(observations).shape == (6,)
    assert is_valid(policy, observations["action_mask"], policy.act(observations))
    assert list(policy.without_value().input_spec) == list(policy.input_spec)


def test_a_single_output_is_refused():
    with pytest.raises(ValueError, match="Give it two outputs"):
        Policy(network(1, "sigmoid"), (space_of((2,)), spaces.Discrete(2)))


def test_pairs_are_masked_one_by_one():
    policy = Policy(tfpg.networks.mlp(Pairs, seed=0), Pairs)
    env = Pairs()
    for seed in range(50):
        observation, _ = env.reset(seed=seed)
        rows = {
            "observation": observation["observation"][None],
            "action_mask": np.concatenate(observation["action_mask"])[None],
        }
        for k in range(4):
            (action,) = policy.act(rows, deterministic=False, seed=k)
            assert all(m[a] for m, a in zip(observation["action_mask"], action, strict=True))
