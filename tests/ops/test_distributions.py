import numpy as np
import pytest
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
B, A, D = 40, 4, 3

LOGITS = RNG.normal(0, 2, B)
MANY = RNG.normal(0, 2, (B, A))
MEAN, LOG_STD = RNG.normal(0, 2, (B, D)), RNG.normal(-0.5, 0.7, (B, D))
OTHER_LOGITS, OTHER_MANY = RNG.normal(0, 2, B), RNG.normal(0, 2, (B, A))
OTHER_MEAN, OTHER_LOG_STD = RNG.normal(0, 2, (B, D)), RNG.normal(-0.5, 0.7, (B, D))

COINS = RNG.integers(0, 2, B)
FACES = RNG.integers(0, A, B)
POINTS = RNG.normal(0, 2, (B, D))

GROUPS, OTHER_GROUPS = RNG.normal(0, 2, (B, 5)), RNG.normal(0, 2, (B, 5))
CHOSEN = np.stack([RNG.integers(0, 3, B), RNG.integers(0, 2, B)], -1)
BITS = RNG.integers(0, 2, (B, D))
BIT_LOGITS, OTHER_BIT_LOGITS = RNG.normal(0, 2, (B, D)), RNG.normal(0, 2, (B, D))
LOW, HIGH = np.array([-1.0, 0.0, -3.0]), np.array([1.0, 10.0, 5.0])


class Choices(MultiCategorical):
    def __init__(self, logits):
        super().__init__(logits, (3, 2))


class Squashed(SquashedGaussian):
    def __init__(self, mean, log_std):
        super().__init__(mean, log_std, LOW, HIGH)


class Greedy(EpsilonGreedy):
    def __init__(self, q_values):
        super().__init__(q_values, 0.3)


CASES = {
    "epsilon-greedy": (Greedy, (MANY,), (OTHER_MANY,), FACES, (B, 2)),
    "multi-categorical": (Choices, (GROUPS,), (OTHER_GROUPS,), CHOSEN, (B, 5)),
    "multi-binary": (MultiBinary, (BIT_LOGITS,), (OTHER_BIT_LOGITS,), BITS, (B, D)),
    "squashed": (Squashed, (MEAN, LOG_STD), (OTHER_MEAN, OTHER_LOG_STD), POINTS, (B, D)),
    "bernoulli": (Bernoulli, (LOGITS,), (OTHER_LOGITS,), COINS, (B,)),
    "categorical": (Categorical, (MANY,), (OTHER_MANY,), FACES, (B, A)),
    "gaussian": (DiagonalGaussian, (MEAN, LOG_STD), (OTHER_MEAN, OTHER_LOG_STD), POINTS, (B, D)),
}
cases = pytest.mark.parametrize("name", CASES)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(name):
    """log_prob and entropy by scipy, in float64."""
    if name == "bernoulli":
        p = scipy.special.expit(LOGITS)
        return scipy.stats.bernoulli.logpmf(COINS, p), scipy.stats.bernoulli.entropy(p)
    if name == "categorical":
        p = softmax(MANY)
        log_prob = [
            scipy.stats.multinomial.logpmf(np.eye(A)[a], 1, q)
            for a, q in zip(FACES, p, strict=True)
        ]
        return np.array(log_prob), scipy.stats.entropy(p, axis=-1)
    if name == "epsilon-greedy":
        p = np.full((B, A), 0.3 / A) + 0.7 * np.eye(A)[MANY.argmax(-1)]
        return np.log(p[np.arange(B), FACES]), scipy.stats.entropy(p, axis=-1)
    if name == "multi-categorical":
        parts = [(softmax(GROUPS[:, :3]), 3), (softmax(GROUPS[:, 3:]), 2)]
        log_prob = [
            sum(
                scipy.stats.multinomial.logpmf(np.eye(n)[CHOSEN[b, d]], 1, p[b])
                for d, (p, n) in enumerate(parts)
            )
            for b in range(B)
        ]
        return np.array(log_prob), sum(scipy.stats.entropy(p, axis=-1) for p, _ in parts)
    if name == "multi-binary":
        p = scipy.special.expit(BIT_LOGITS)
        coins = scipy.stats.bernoulli
        return coins.logpmf(BITS, p).sum(-1), coins.entropy(p).sum(-1)
    if name == "squashed":
        return squashed_reference()
    std = np.exp(LOG_STD)
    normal = scipy.stats.norm(MEAN, std)
    return normal.logpdf(POINTS).sum(-1), normal.entropy().sum(-1)


def squashed_reference():
    """The density and entropy of the bounded action itself, by the change of variables."""
    log_prob, entropy = np.zeros(B), np.zeros(B)
    for b in range(B):
        for d in range(D):
            normal, half = scipy.stats.norm(MEAN[b, d], np.exp(LOG_STD[b, d])), HIGH[d] - LOW[d]
            half /= 2

            def log_slope(u, half=half):
                return np.log(half) - 2 * np.log(np.cosh(u))

            log_prob[b] += normal.logpdf(POINTS[b, d]) - log_slope(POINTS[b, d])
            ends = normal.mean() - 10 * normal.std(), normal.mean() + 10 * normal.std()
            expected, _ = scipy.integrate.quad(
                lambda u, n=normal, f=log_slope: n.pdf(u) * f(u), *ends, limit=200, epsabs=1e-12
            )
            entropy[b] += normal.entropy() + expected
    return log_prob, entropy


@cases
def test_log_prob_and_entropy_equal_scipy_in_float64(name):
    kind, parameters, _, actions, _ = CASES[name]
    log_prob, entropy = reference(name)
    np.testing.assert_allclose(
        kind(*parameters).log_prob(actions), log_prob, rtol=1e-10, atol=1e-12
    )
    loose = 1e-7 if name == "squashed" else 1e-12
    np.testing.assert_allclose(kind(*parameters).entropy(), entropy, rtol=1e-10, atol=loose)


@cases
def test_tensors_and_arrays_agree(name):
    kind, parameters, other, actions, noise_shape = CASES[name]
    arrays = kind(*parameters)
    tensors = kind(*map(tf.constant, parameters))
    noise = kind.noise(np.random.default_rng(3), noise_shape)
    pairs = [
        (arrays.log_prob(actions), tensors.log_prob(tf.constant(actions))),
        (arrays.entropy(), tensors.entropy()),
        (arrays.kl(kind(*other)), tensors.kl(kind(*map(tf.constant, other)))),
        (arrays.mode(), tensors.mode()),
        (arrays.sample(noise), tensors.sample(tf.constant(noise))),
    ]
    for array, tensor in pairs:
        assert isinstance(array, np.ndarray)
        assert tf.is_tensor(tensor)
        assert array.shape == tuple(tensor.shape)
        np.testing.assert_allclose(array, tensor, rtol=1e-10, atol=1e-12)


@cases
def test_entropy_and_kl_are_the_expectations_they_stand_for(name):
    kind, parameters, other, _, noise_shape = CASES[name]
    count, rng = 20_000, np.random.default_rng(1)
    first = [p[:5, None].repeat(count, 1) for p in parameters]
    p, q = kind(*first), kind(*[x[:5, None].repeat(count, 1) for x in other])
    samples = p.sample(kind.noise(rng, (5, count, *noise_shape[1:])))
    log_p, log_q = p.log_prob(samples), q.log_prob(samples)
    error = 5 * (log_p - log_q).std(1) / np.sqrt(count) + 5 * log_p.std(1) / np.sqrt(count) + 1e-9
    assert (np.abs(-log_p.mean(1) - p.entropy()[:, 0]) < error).all()
    assert (np.abs((log_p - log_q).mean(1) - p.kl(q)[:, 0]) < error).all()


@cases
def test_kl_is_zero_to_itself_and_positive_to_others(name):
    kind, parameters, other, _, _ = CASES[name]
    p, q = kind(*parameters), kind(*other)
    np.testing.assert_allclose(p.kl(p), 0, atol=1e-12)
    alike = np.zeros(B, bool)
    if name == "epsilon-greedy":  # greedy alike
        alike = p.mode() == q.mode()
    assert (p.kl(q) > 0)[~alike].all()
    np.testing.assert_allclose(p.kl(q)[alike], 0, atol=1e-12)


def test_epsilon_greedy_explores_evenly_and_as_often_as_it_says():
    values = np.tile([0.0, 5.0, 1.0, -3.0], (200_000, 1))
    noise = EpsilonGreedy.noise(np.random.default_rng(0), (200_000, 2)).astype("float32")
    samples = EpsilonGreedy(values, 0.4).sample(noise)
    frequencies = np.bincount(samples, minlength=4) / len(samples)
    np.testing.assert_allclose(frequencies, [0.1, 0.7, 0.1, 0.1], atol=0.004)
    assert (EpsilonGreedy(values, 0.0).sample(noise) == 1).all()
    one = np.ones((3, 2), "float32")  # noise that was rounded up
    assert EpsilonGreedy(values[:3], 1.5).sample(one).tolist() == [3, 3, 3]
    assert np.isfinite(EpsilonGreedy(values[:3], 0.0).entropy()).all()
    certain = EpsilonGreedy(tf.constant(values[:3]), 0.0)
    np.testing.assert_allclose(certain.entropy(), 0, atol=1e-6)
    np.testing.assert_allclose(certain.kl(certain), 0, atol=1e-6)
    assert np.isfinite(certain.log_prob(tf.constant([0, 1, 2]))).all()


@pytest.mark.parametrize("of", ["log_prob", "entropy", "kl"])
@cases
def test_gradients_are_those_of_finite_differences(name, of):
    kind, parameters, other, actions, _ = CASES[name]

    def value(*p, wrap=np.asarray):
        chosen = kind(*p)
        if of == "kl":
            return chosen.kl(kind(*map(wrap, other)))
        return chosen.entropy() if of == "entropy" else chosen.log_prob(wrap(actions))

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


def test_multi_categorical_samples_with_its_probabilities():
    logits = np.tile(np.log([0.2, 0.3, 0.5, 0.9, 0.1]), (100_000, 1))
    noise = MultiCategorical.noise(np.random.default_rng(0), logits.shape)
    samples = MultiCategorical(logits, (3, 2)).sample(noise)
    table = np.histogram2d(samples[:, 0], samples[:, 1], bins=(3, 2))[0] / len(samples)
    np.testing.assert_allclose(table, np.outer([0.2, 0.3, 0.5], [0.9, 0.1]), atol=0.006)


def test_multi_binary_samples_with_its_probabilities():
    logits = np.tile([-1.0, 0.0, 2.0], (100_000, 1))
    samples = MultiBinary(logits).sample(MultiBinary.noise(np.random.default_rng(0), logits.shape))
    np.testing.assert_allclose(samples.mean(0), scipy.special.expit([-1.0, 0.0, 2.0]), atol=0.006)
    assert np.abs(np.corrcoef(samples.T) - np.eye(3)).max() < 0.02


class TestSquashed:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_stays_within_its_bounds_however_far(self, dtype):
        u = np.array([[-1e3] * 3, [-9.0] * 3, [0.0] * 3, [9.0] * 3, [1e3] * 3], dtype)
        for wrap in (np.asarray, tf.constant):
            bounded = Squashed(wrap(u), wrap(0 * u)).squash(wrap(u))
            assert (np.asarray(bounded) >= LOW.astype(dtype)).all()
            assert (np.asarray(bounded) <= HIGH.astype(dtype)).all()
            np.testing.assert_allclose(bounded[2], (LOW + HIGH) / 2, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_log_prob_is_finite_in_the_tails(self, dtype):
        u = np.array([[-40.0] * 3, [40.0] * 3], dtype)
        assert np.isfinite(Squashed(u, 0 * u).log_prob(u)).all()

    def test_its_density_integrates_to_one_over_the_bounds(self):
        policy = SquashedGaussian(np.array([[0.3]]), np.array([[-0.2]]), LOW[1:2], HIGH[1:2])
        a = np.linspace(1e-9, 10 - 1e-9, 400_001)
        u = np.arctanh(a / 5 - 1)[:, None]
        density = np.exp(policy.log_prob(u))
        assert np.trapezoid(density, a) == pytest.approx(1, abs=1e-4)


def test_bernoulli_samples_with_its_probability():
    logit = np.full(200_000, 0.8)
    samples = Bernoulli(logit).sample(Bernoulli.noise(np.random.default_rng(0), logit.shape))
    p = 1 / (1 + np.exp(-0.8))
    assert abs(samples.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(logit))


def test_bernoulli_noise_is_the_textbooks_uniform_draw():
    # The scripts draw rng.random() < p; the same generator must give the same action here.
    logits = np.linspace(-3, 3, 500)
    uniform = np.array([np.random.default_rng(i).random() for i in range(500)])
    noise = np.array([Bernoulli.noise(np.random.default_rng(i), (1,))[0] for i in range(500)])
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(Bernoulli(logits).sample(noise), uniform < p)


def test_categorical_samples_with_its_probabilities():
    logits = np.tile(np.log([0.1, 0.2, 0.3, 0.4]), (200_000, 1))
    samples = Categorical(logits).sample(Categorical.noise(np.random.default_rng(0), logits.shape))
    frequencies = np.bincount(samples, minlength=4) / len(samples)
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.3, 0.4], atol=0.005)


def test_gaussian_samples_with_its_mean_and_standard_deviation():
    mean, log_std = np.full((100_000, 1), 2.0), np.full((100_000, 1), np.log(0.5))
    bell = DiagonalGaussian(mean, log_std)
    samples = bell.sample(DiagonalGaussian.noise(np.random.default_rng(0), mean.shape))
    assert samples.mean() == pytest.approx(2.0, abs=0.01)
    assert samples.std() == pytest.approx(0.5, abs=0.01)


def test_gaussian_log_prob_is_the_right_formula():
    # -0.5 * sum(((x - mu) / std)^2 + 2 log std + log 2 pi), brackets and signs as they belong.
    bell = DiagonalGaussian(np.array([[0.0, 1.0]]), np.log(np.array([[1.0, 2.0]])))
    expected = -0.5 * ((1 + 0 + np.log(2 * np.pi)) + (1 + 2 * np.log(2) + np.log(2 * np.pi)))
    np.testing.assert_allclose(bell.log_prob(np.array([[1.0, 3.0]])), [expected])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_extreme_logits_stay_finite(kind, dtype):
    wrap = tf.constant if kind == "tensor" else np.asarray
    logits = np.array([-1e4, -50.0, 0.0, 50.0, 1e4], dtype)
    coin = Bernoulli(wrap(logits))
    assert np.isfinite(coin.log_prob(wrap(np.ones(5, int)))).all()
    assert np.isfinite(coin.entropy()).all()
    die = Categorical(wrap(np.stack([logits, -logits, 0 * logits], -1)))
    assert np.isfinite(die.log_prob(wrap(np.zeros(5, int)))).all()
    assert np.isfinite(die.entropy()).all()


def test_the_gradient_at_a_logit_of_zero_is_a_half():
    logit = tf.Variable([0.0])
    with tf.GradientTape() as tape:
        value = Bernoulli(logit + 0.0).log_prob(tf.constant([1]))
    np.testing.assert_allclose(tape.gradient(value, logit), [0.5])
