"""Distributions with logits or Q-values of minus infinity: invalid actions have no probability."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg.ops.distributions import Categorical, EpsilonGreedy, MultiCategorical, with_one_valid

INF = np.inf
KINDS = pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["array", "tensor"])
RNG = np.random.default_rng(0)
MASKS = (RNG.random((200, 7)) < 0.4) | (np.arange(7) == RNG.integers(7, size=(200, 1)))
LOGITS = RNG.normal(0, 3, (200, 7)).astype("float32")


def masked(logits, mask=MASKS):
    return np.where(mask, logits, -INF).astype(logits.dtype)


def value_and_gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x).numpy()


@KINDS
def test_a_categorical_by_hand(convert):
    logits = np.log([[1.0, 3.0, 4.0], [1.0, 3.0, 4.0]])
    logits[0, 2] = logits[1, :2] = -INF
    die = Categorical(convert(logits))
    probabilities = np.stack([np.exp(die.log_prob(np.array([a, a]))) for a in range(3)], axis=1)
    np.testing.assert_allclose(probabilities, [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], atol=1e-12)
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    np.testing.assert_allclose(die.entropy(), [entropy, 0.0], atol=1e-12)
    np.testing.assert_array_equal(die.mode(), [1, 2])


@KINDS
def test_a_categorical_equals_that_of_its_valid_actions(convert):
    die = Categorical(convert(masked(LOGITS)))
    entropy = np.asarray(die.entropy())
    for n, (row, mask) in enumerate(zip(LOGITS, MASKS, strict=True)):
        smaller = Categorical(row[mask][None])
        np.testing.assert_allclose(entropy[n], smaller.entropy()[0], rtol=1e-4, atol=1e-6)
        for place, action in enumerate(np.flatnonzero(mask)):
            one = Categorical(convert(masked(LOGITS)[n : n + 1])).log_prob(np.array([action]))
            expected = smaller.log_prob(np.array([place]))
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_its_gradients_are_those_of_its_valid_actions():
    actions = MASKS.argmax(axis=1)

    def log_prob(mask, action):
        return lambda x: Categorical(tf.where(mask, x, -INF)).log_prob(action)

    def entropy(mask):
        return lambda x: Categorical(tf.where(mask, x, -INF)).entropy()

    for row, mask, action in zip(LOGITS, MASKS, actions, strict=True):
        place = np.flatnonzero(mask).tolist().index(action)
        whole, part = row[None], row[mask][None]
        everything = np.ones((1, mask.sum()), bool)
        pairs = (
            (log_prob(mask[None], [action]), log_prob(everything, [place])),
            (entropy(mask[None]), entropy(everything)),
        )
        for function, smaller in pairs:
            y, gradient = value_and_gradient(function, whole)
            expected, expected_gradient = value_and_gradient(smaller, part)
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(gradient[0, mask], expected_gradient[0], atol=1e-5)
            assert not gradient[0, ~mask].any()


@KINDS
def test_samples_are_valid(convert):
    noise = Categorical.noise(np.random.default_rng(1), (500, *LOGITS.shape)).astype("float32")
    for part in noise[:50]:
        actions = np.asarray(Categorical(convert(masked(LOGITS))).sample(convert(part)))
        assert np.take_along_axis(MASKS, actions[:, None], axis=1).all()
    valid = with_one_valid(MASKS, (3, 4))
    pairs = MultiCategorical(convert(masked(LOGITS, valid)), (3, 4))
    actions = np.asarray(pairs.sample(convert(noise[0])))
    assert np.take_along_axis(valid, actions + np.array([[0, 3]]), axis=1).all()
    assert np.isfinite(pairs.entropy()).all()
    assert np.isfinite(pairs.log_prob(pairs.mode())).all()


class TestEpsilonGreedy:
    @KINDS
    def test_it_explores_each_valid_action_equally_often(self, convert):
        q_values = np.array([[5.0, -INF, 1.0, -INF, 2.0]], "float32")
        positions = (np.arange(3000) + 0.5) / 3000
        noise = np.stack([np.zeros(3000), positions], axis=-1).astype("float32")
        policy = EpsilonGreedy(convert(np.repeat(q_values, 3000, 0)), 0.3, masked=True)
        drawn = np.asarray(policy.sample(convert(noise)))
        assert np.bincount(drawn, minlength=5).tolist() == [1000, 0, 1000, 0, 1000]
        expected = np.log([0.8, 0.1, 0.1])
        for action, log_prob in zip([0, 2, 4], expected, strict=True):
            found = policy.log_prob(np.full(3000, action))
            np.testing.assert_allclose(found, np.full(3000, log_prob), rtol=1e-5)
        np.testing.assert_allclose(np.asarray(policy.entropy())[0], 0.639, atol=1e-3)

    @KINDS
    def test_noise_of_one_draws_the_last_valid_action(self, convert):
        q_values = convert(np.array([[1.0, 0.0, -INF]], "float32"))
        noise = convert(np.array([[0.0, 1.0]], "float32"))
        assert EpsilonGreedy(q_values, 0.5, masked=True).sample(noise)[0] == 1

    @KINDS
    def test_without_invalid_actions_nothing_changes(self, convert):
        noise = RNG.random((200, 2)).astype("float32")
        one, other = (EpsilonGreedy(convert(LOGITS), 0.5, masked) for masked in (False, True))
        np.testing.assert_array_equal(one.sample(convert(noise)), other.sample(convert(noise)))
        np.testing.assert_allclose(one.entropy(), other.entropy(), rtol=1e-6)

    @KINDS
    def test_a_single_valid_action_is_certain(self, convert):
        policy = EpsilonGreedy(convert(np.array([[-INF, 2.0]], "float32")), 0.4, masked=True)
        for noise in ([0.0, 0.0], [0.0, 0.99], [0.9, 0.5]):
            assert policy.sample(convert(np.array([noise], "float32")))[0] == 1
        np.testing.assert_allclose(policy.log_prob(np.array([1])), [0.0], atol=1e-6)
        np.testing.assert_allclose(policy.entropy(), [0.0], atol=1e-6)


@KINDS
def test_choices_without_a_valid_option_are_not_masked(convert):
    mask = convert(np.array([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], np.int8))
    assert np.asarray(with_one_valid(mask, (2, 3))).astype(int).tolist() == [
        [1, 1, 0, 1, 0],
        [1, 0, 1, 1, 1],
    ]
    assert np.asarray(with_one_valid(mask, (5,))).astype(int).tolist() == mask.__array__().tolist()
