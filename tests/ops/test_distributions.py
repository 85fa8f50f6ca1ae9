"""Distributions against scipy, against their own samples, and against finite differences."""

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf

from tfpg.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
    SquashedGaussian,
)

RNG = np.random.default_rng(0)
B, A, D = 20, 4, 3
MEAN, LOG_STD = RNG.normal(0, 2, (B, D)), RNG.normal(-0.5, 0.7, (B, D))
POINTS, FACES = RNG.normal(0, 2, (B, D)), RNG.integers(0, A, B)
LOW, HIGH = np.array([-1.0, 0.0, -3.0]), np.array([1.0, 10.0, 5.0])

# How a distribution is made from its parameters, the parameters, actions, and the noise's shape.
CASES = {
    "bernoulli": (Bernoulli, (RNG.normal(0, 2, B),), RNG.integers(0, 2, B), (B,)),
    "categorical": (Categorical, (RNG.normal(0, 2, (B, A)),), FACES, (B, A)),
    "multi-categorical": (
        lambda logits: MultiCategorical(logits, (3, 2)),
        (RNG.normal(0, 2, (B, 5)),),
        np.stack([RNG.integers(0, 3, B), RNG.integers(0, 2, B)], -1),
        (B, 5),
    ),
    "multi-binary": (
        MultiBinary,
        (RNG.normal(0, 2, (B, D)),),
        RNG.integers(0, 2, (B, D)),
        (B, D),
    ),
    "epsilon-greedy": (
        lambda q_values: EpsilonGreedy(q_values, 0.3),
        (RNG.normal(0, 2, (B, A)),),
        FACES,
        (B, 2),
    ),
    "gaussian": (DiagonalGaussian, (MEAN, LOG_STD), POINTS, (B, D)),
    "squashed": (
        lambda mean, log_std: SquashedGaussian(mean, log_std, LOW, HIGH),
        (MEAN, LOG_STD),
        POINTS,
        (B, D),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def table_reference(probabilities, actions):
    chosen = np.take_along_axis(probabilities, actions[:, None], axis=-1)[:, 0]
    return np.log(chosen), scipy.stats.entropy(probabilities, axis=-1)


def squashed_reference():
    """The density and entropy of the bounded action itself, by the change of variables."""
    log_prob, entropy = np.zeros(B), np.zeros(B)
    for b, d in itertools.product(range(B), range(D)):
        normal, half = scipy.stats.norm(MEAN[b, d], np.exp(LOG_STD[b, d])), (HIGH[d] - LOW[d]) / 2

        def log_slope(u, half=half):
            return np.log(half) - 2 * np.log(np.cosh(u))

        log_prob[b] += normal.logpdf(POINTS[b, d]) - log_slope(POINTS[b, d])
        ends = normal.mean() - 10 * normal.std(), normal.mean() + 10 * normal.std()
        expected, _ = scipy.integrate.quad(
            lambda u, n=normal, f=log_slope: n.pdf(u) * f(u), *ends, limit=200, epsabs=1e-12
        )
        entropy[b] += normal.entropy() + expected
    return log_prob, entropy


def reference(name):
    """log_prob and entropy by scipy, in float64."""
    _, parameters, actions, _ = CASES[name]
    logits = parameters[0]
    if name == "squashed":
        return squashed_reference()
    if name == "gaussian":
        normal = scipy.stats.norm(MEAN, np.exp(LOG_STD))
        return normal.logpdf(POINTS).sum(-1), normal.entropy().sum(-1)
    if name in ("bernoulli", "multi-binary"):
        p, coins = scipy.special.expit(logits).reshape(B, -1), scipy.stats.bernoulli
        return coins.logpmf(actions.reshape(B, -1), p).sum(-1), coins.entropy(p).sum(-1)
    if name == "multi-categorical":
        parts = logits[:, :3], logits[:, 3:]
        each = [
            table_reference(scipy.special.softmax(x, -1), a)
            for x, a in zip(parts, actions.T, strict=True)
        ]
        return tuple(np.sum(each, axis=0))
    if name == "categorical":
        return table_reference(scipy.special.softmax(logits, -1), actions)
    return table_reference(0.3 / A + 0.7 * np.eye(A)[logits.argmax(-1)], actions)


@cases
def test_log_prob_and_entropy_equal_scipy_in_float64(name):
    make, parameters, actions, _ = CASES[name]
    log_prob, entropy = reference(name)
    distribution = make(*parameters)
    np.testing.assert_allclose(distribution.log_prob(actions), log_prob, rtol=1e-10, atol=1e-12)
    atol = 1e-7 if name == "squashed" else 1e-12
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-10, atol=atol)


@cases
def test_tensors_and_arrays_agree(name):
    make, parameters, actions, noise_shape = CASES[name]
    arrays, tensors = make(*parameters), make(*map(tf.constant, parameters))
    noise = type(arrays).noise(np.random.default_rng(3), noise_shape)
    pairs = [
        (arrays.log_prob(actions), tensors.log_prob(tf.constant(actions))),
        (arrays.entropy(), tensors.entropy()),
        (arrays.mode(), tensors.mode()),
        (arrays.sample(noise), tensors.sample(tf.constant(noise))),
    ]
    for array, tensor in pairs:
        assert isinstance(array, np.ndarray)
        assert tf.is_tensor(tensor)
        assert array.shape == tuple(tensor.shape)
        np.testing.assert_allclose(array, tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("of", ["log_prob", "entropy"])
@cases
def test_gradients_are_those_of_finite_differences(name, of):
    make, parameters, actions, _ = CASES[name]

    def value(*p, wrap=np.asarray):
        distribution = make(*p)
        return distribution.entropy() if of == "entropy" else distribution.log_prob(wrap(actions))

    variables = [tf.Variable(p) for p in parameters]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(value(*[v + 0.0 for v in variables], wrap=tf.constant))
    grads = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    rng, h = np.random.default_rng(5), 1e-5
    for i, gradient in enumerate(grads):
        direction = rng.normal(size=gradient.shape)
        ends = [
            value(*[p + sign * h * direction * (i == j) for j, p in enumerate(parameters)]).sum()
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / (2 * h)
        assert slope == pytest.approx(float(np.sum(gradient * direction)), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("make", "row", "noise_shape", "choices"),
    [
        (Bernoulli, 0.8, (), (2,)),
        (Categorical, np.log([0.1, 0.2, 0.3, 0.4]), (4,), (4,)),
        (lambda x: EpsilonGreedy(x, 0.4), [0.0, 5.0, 1.0, -3.0], (2,), (4,)),
        (lambda x: MultiCategorical(x, (3, 2)), np.log([0.2, 0.3, 0.5, 0.9, 0.1]), (5,), (3, 2)),
        (MultiBinary, [-1.0, 0.0, 2.0], (3,), (2, 2, 2)),
    ],
)
def test_discrete_samples_have_the_stated_probabilities(make, row, noise_shape, choices):
    count = 100_000
    distribution = make(np.stack([row] * count))
    noise = type(distribution).noise(np.random.default_rng(0), (count, *noise_shape))
    samples = distribution.sample(noise.astype("float32"))
    total = 0.0
    for outcome in itertools.product(*map(range, choices)):
        actions = np.broadcast_to(outcome, (count, len(choices))).reshape(samples.shape)
        p = np.exp(distribution.log_prob(actions)[0])
        frequency = (samples == actions).reshape(count, -1).all(axis=-1).mean()
        assert frequency == pytest.approx(p, abs=0.006)
        total += p
    assert total == pytest.approx(1)


def test_gaussian_samples_have_the_stated_mean_and_standard_deviation():
    mean, log_std = np.full((100_000, 1), 2.0), np.full((100_000, 1), np.log(0.5))
    noise = DiagonalGaussian.noise(np.random.default_rng(0), mean.shape)
    samples = DiagonalGaussian(mean, log_std).sample(noise)
    assert samples.mean() == pytest.approx(2.0, abs=0.01)
    assert samples.std() == pytest.approx(0.5, abs=0.01)


def test_bernoulli_noise_is_the_textbook_uniform_draw():
    # Scripts draw rng.random() < p; the same generator must give the same action here.
    logits = np.linspace(-3, 3, 500)
    uniform = np.array([np.random.default_rng(i).random() for i in range(500)])
    noise = np.array([Bernoulli.noise(np.random.default_rng(i), (1,))[0] for i in range(500)])
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(Bernoulli(logits).sample(noise), uniform < p)


def test_gaussian_log_prob_of_literal_values():
    # -0.5 * sum(((x - mu) / std)^2 + 2 log std + log 2 pi)
    normal = DiagonalGaussian(np.array([[0.0, 1.0]]), np.log(np.array([[1.0, 2.0]])))
    expected = -0.5 * ((1 + 0 + np.log(2 * np.pi)) + (1 + 2 * np.log(2) + np.log(2 * np.pi)))
    np.testing.assert_allclose(normal.log_prob(np.array([[1.0, 3.0]])), [expected])


def test_the_gradient_of_a_bernoulli_at_logit_zero_is_a_half():
    logit = tf.Variable([0.0])
    with tf.GradientTape() as tape:
        log_prob = Bernoulli(logit + 0.0).log_prob(tf.constant([1]))
    np.testing.assert_allclose(tape.gradient(log_prob, logit), [0.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wrap", [np.asarray, tf.constant], ids=["array", "tensor"])
def test_extreme_logits_stay_finite(wrap, dtype):
    logits = np.array([-1e4, -50.0, 0.0, 50.0, 1e4], dtype)
    coin = Bernoulli(wrap(logits))
    assert np.isfinite(coin.log_prob(wrap(np.ones(5, int)))).all()
    assert np.isfinite(coin.entropy()).all()
    die = Categorical(wrap(np.stack([logits, -logits, 0 * logits], -1)))
    assert np.isfinite(die.log_prob(wrap(np.zeros(5, int)))).all()
    assert np.isfinite(die.entropy()).all()


@pytest.mark.parametrize("wrap", [np.asarray, tf.constant], ids=["array", "tensor"])
class TestEpsilonGreedyAtItsLimits:
    VALUES = np.tile(np.array([0.0, 5.0, 1.0, -3.0], "float32"), (3, 1))

    def test_epsilon_zero_is_greedy_with_finite_logarithms(self, wrap):
        greedy = EpsilonGreedy(wrap(self.VALUES), 0.0)
        noise = EpsilonGreedy.noise(np.random.default_rng(0), (3, 2)).astype("float32")
        assert np.asarray(greedy.sample(wrap(noise))).tolist() == [1, 1, 1]
        np.testing.assert_allclose(greedy.entropy(), 0, atol=1e-6)
        assert np.isfinite(greedy.log_prob(wrap(np.array([0, 1, 2])))).all()

    def test_noise_that_was_rounded_up_to_one_draws_the_last_action(self, wrap):
        random = EpsilonGreedy(wrap(self.VALUES), 1.5)
        assert np.asarray(random.sample(wrap(np.ones((3, 2), "float32")))).tolist() == [3, 3, 3]


class TestSquashedGaussian:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_squashed_actions_stay_within_the_bounds(self, dtype):
        u = np.array([[-1e3] * 3, [-9.0] * 3, [0.0] * 3, [9.0] * 3, [1e3] * 3], dtype)
        for wrap in (np.asarray, tf.constant):
            squashed = SquashedGaussian(wrap(u), wrap(0 * u), LOW, HIGH).squash(wrap(u))
            assert (np.asarray(squashed) >= LOW.astype(dtype)).all()
            assert (np.asarray(squashed) <= HIGH.astype(dtype)).all()
            np.testing.assert_allclose(squashed[2], (LOW + HIGH) / 2, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_log_prob_is_finite_in_the_tails(self, dtype):
        u = np.array([[-40.0] * 3, [40.0] * 3], dtype)
        assert np.isfinite(SquashedGaussian(u, 0 * u, LOW, HIGH).log_prob(u)).all()

    def test_the_density_integrates_to_one_over_the_bounds(self):
        policy = SquashedGaussian(np.array([[0.3]]), np.array([[-0.2]]), LOW[1:2], HIGH[1:2])
        a = np.linspace(1e-9, 10 - 1e-9, 400_001)
        u = np.arctanh(a / 5 - 1)[:, None]
        assert np.trapezoid(np.exp(policy.log_prob(u)), a) == pytest.approx(1, abs=1e-4)
