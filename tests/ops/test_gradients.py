"""The one place where losses are reduced: slices, regularizers, embeddings and clipping."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but

from tfpg.agents.minibatches import Batch
from tfpg.agents.optimization import apply_gradients
from tfpg.models.heads import head_for
from tfpg.ops.distributions import Bernoulli
from tfpg.ops.gradients import clip_by_global_norm, mean_gradient, sum_of_squares, weight_penalty
from tfpg.ops.policy_losses import entropy_loss, policy_gradient_loss

# The whole batch at once, or in slices. With one step in each it is the textbook's accumulation.
BATCH_SIZES = [None, 1, 5, 100]
every_batch_size = pytest.mark.parametrize("batch_size", BATCH_SIZES)

HEADS = {
    "bernoulli": (spaces.Discrete(2), 1, None),
    "bernoulli-sigmoid": (spaces.Discrete(2), 1, "sigmoid"),
    "categorical": (spaces.Discrete(5), 5, None),
    "categorical-softmax": (spaces.Discrete(3), 3, "softmax"),
    "gaussian": (spaces.Box(-1, 1, (3,)), 6, None),
    "gaussian-free": (spaces.Box(-1, 1, (3,)), 3, None),
    "multi-categorical": (spaces.MultiDiscrete([3, 2]), 5, None),
    "multi-binary": (spaces.MultiBinary(3), 3, None),
    "squashed": (spaces.Box(-1, 1, (3,)), 6, "squash"),
}


def problem(name, seed=0, size=23):
    space, outputs, activation = HEADS[name]
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(7, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Dense(outputs, activation if activation != "squash" else None),
        ]
    )
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(size, 4)).astype("float32")
    outputs = model(observations).numpy()
    head = head_for(space, model, outputs, squash=activation == "squash")
    noise = head.noise(rng, size)
    actions = head.snapshot().distribution(outputs).sample(noise)
    advantages = rng.normal(size=size).astype("float32")

    def step_losses(batch):
        distribution = head.distribution(model(batch.inputs))
        entropy = distribution.entropy()
        loss = policy_gradient_loss(distribution.log_prob(batch.actions), batch.advantages)
        return {"loss": loss + 0.1 * entropy_loss(entropy), "entropy": entropy}

    rest = np.zeros((3, size), "float32")
    batch = Batch(*map(tf.convert_to_tensor, (observations, actions, advantages, *rest)))
    return model, step_losses, batch


@pytest.mark.parametrize("seed", slow_but([0], range(3)))
@pytest.mark.parametrize("name", HEADS)
def test_slices_give_the_gradient_of_the_whole_batch(name, seed):
    model, step_losses, batch = problem(name, seed)
    variables = model.trainable_variables
    whole, whole_logs = mean_gradient(step_losses, variables, batch)
    scale = float(tf.linalg.global_norm(whole))
    assert scale > 1e-3
    for batch_size in BATCH_SIZES[1:]:
        sliced, sliced_logs = mean_gradient(step_losses, variables, batch, batch_size=batch_size)
        for a, b in zip(whole, sliced, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale)
        for key in whole_logs:
            np.testing.assert_allclose(whole_logs[key], sliced_logs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", slow_but([None], BATCH_SIZES))
@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_is_that_of_finite_differences(batch_size, name):
    model, step_losses, batch = problem(name)
    variables = model.trainable_variables
    analytic = tf.concat(
        [
            tf.reshape(g, [-1])
            for g in mean_gradient(step_losses, variables, batch, batch_size=batch_size)[0]
        ],
        0,
    )

    def objective():
        loss = tf.reduce_mean(step_losses(batch)["loss"])
        return float(loss + weight_penalty(variables))

    rng = np.random.default_rng(1)
    directions = [rng.normal(size=v.shape).astype("float32") for v in variables]
    flat = np.concatenate([d.ravel() for d in directions])
    step = 3e-3 / np.linalg.norm(flat)
    values = [v.numpy() for v in variables]

    def at(scale):
        for v, value, d in zip(variables, values, directions, strict=True):
            v.assign(value + scale * step * d)
        return objective()

    # Four points: the error of two alone is of the size of float32's.
    slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    assert slope == pytest.approx(float(analytic.numpy() @ flat), rel=5e-3, abs=5e-3)


@every_batch_size
def test_the_gradient_of_a_linear_bernoulli_policy_is_its_formula(batch_size):
    # d/dw [-A log pi(a)] = -A (a - p) x for p = sigmoid(w x).
    w = keras.Variable(np.array([[0.3], [-0.2]], "float32"))
    x = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], "float32")
    a, advantages = np.array([1, 0, 1]), np.array([1.0, -2.0, 0.5], "float32")

    def step_losses(batch):
        logits = tf.matmul(batch[0], w.value)[:, 0]
        return {"loss": policy_gradient_loss(Bernoulli(logits).log_prob(batch[1]), batch[2])}

    batch = tuple(map(tf.convert_to_tensor, (x, a, advantages)))
    (gradient,), _ = mean_gradient(step_losses, [w], batch, batch_size=batch_size)
    p = 1 / (1 + np.exp(-(x @ w.numpy())[:, 0]))
    expected = np.mean((-advantages * (a - p))[:, None] * x, axis=0)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-5)


@every_batch_size
def test_an_unused_variable_gets_a_gradient_of_zeros(batch_size):
    used, unused = keras.Variable([2.0]), keras.Variable([5.0])
    batch = (tf.constant([1.0, 3.0]),)
    losses = lambda b: {"loss": b[0] * used}  # noqa: E731
    grads, _ = mean_gradient(losses, [used, unused], batch, batch_size=batch_size)
    np.testing.assert_array_equal(grads[1], [0.0])


@every_batch_size
def test_batches_of_any_size_share_one_trace(batch_size):
    w = keras.Variable([2.0])
    traces = []

    @tf.function(input_signature=[(tf.TensorSpec([None], tf.float32),)], autograph=False)
    def call(batch):
        traces.append(1)
        return mean_gradient(lambda b: {"loss": b[0] * w}, [w], batch, batch_size=batch_size)

    for size in (1, 2, 50):
        grads, _ = call((tf.ones([size]),))
        np.testing.assert_allclose(grads[0], [1.0], rtol=1e-5)
    assert len(traces) == 1


@every_batch_size
def test_regularizers_count_once_whatever_the_size_of_the_batch(batch_size):
    w = keras.Variable([2.0])
    w.regularizer = keras.regularizers.L2(0.5)
    losses = lambda b: {"loss": 0.0 * b[0] * w}  # noqa: E731
    for size in (1, 4):
        grads, _ = mean_gradient(losses, [w], (tf.ones([size]),), batch_size=batch_size)
        np.testing.assert_allclose(grads[0], [2.0])


@every_batch_size
def test_gradients_of_embeddings_are_dense_with_repeated_rows_added_up(batch_size):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,), dtype="int64"), keras.layers.Embedding(4, 3)])
    x = tf.constant([[1], [1], [1], [2]])
    losses = lambda b: {"loss": tf.reduce_sum(model(b[0]), axis=(1, 2))}  # noqa: E731
    (gradient,), _ = mean_gradient(losses, model.trainable_variables, (x,), batch_size=batch_size)
    assert tf.is_tensor(gradient)
    np.testing.assert_allclose(gradient, np.outer([0, 0.75, 0.25, 0], [1, 1, 1]))


@every_batch_size
def test_float64_variables_get_float64_gradients(batch_size):
    w = keras.Variable([2.0], dtype="float64")
    batch = (tf.constant([1.0, 3.0], tf.float64),)
    grads, _ = mean_gradient(lambda b: {"loss": b[0] * w}, [w], batch, batch_size=batch_size)
    assert grads[0].dtype == tf.float64
    np.testing.assert_allclose(grads[0], [2.0])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 1), (2, 3, 4, 5)])
def test_the_sum_of_squares_is_over_all_elements(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    assert float(sum_of_squares(tf.constant(x))) == pytest.approx((x**2).sum(), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_sum_of_squares_is_not_finite_if_an_element_is_not(bad, jit_compile):
    call = tf.function(sum_of_squares, jit_compile=jit_compile)
    for place in range(6):
        x = np.ones(6, np.float32)
        x[place] = bad
        assert not np.isfinite(call(tf.constant(x.reshape(2, 3))))


class TestClipping:
    """Applied gradients are clipped as Keras clips them."""

    SHAPES = ((3, 4), (4,), (2, 3, 2, 2), ())

    def updated(self, step, scale, **options):
        rng = np.random.default_rng(0)
        variables = [keras.Variable(rng.normal(size=s), dtype="float32") for s in self.SHAPES]
        optimizer = keras.optimizers.Adam(0.1, **options)
        optimizer.build(variables)
        for _ in range(4):
            grads = [tf.constant(scale * rng.normal(size=s), tf.float32) for s in self.SHAPES]
            step(optimizer, grads, variables)
        return [v.numpy() for v in variables], optimizer

    def with_and_without_keras(self, scale, **options):
        ours, optimizer = self.updated(
            lambda o, g, v: apply_gradients([(o, v)], g), scale, **options
        )
        assert optimizer.global_clipnorm == options.get("global_clipnorm")
        return ours, self.updated(lambda o, g, v: o.apply(g, v), scale, **options)[0]

    @pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3, 1e25])
    @pytest.mark.parametrize(
        "options",
        [
            {"global_clipnorm": 0.5},
            {"global_clipnorm": 0.5, "gradient_accumulation_steps": 2},
            {"global_clipnorm": 0.5, "weight_decay": 0.1},
            {"clipnorm": 0.5},
            {"clipvalue": 0.5},
            {},
        ],
    )
    def test_variables_are_those_that_keras_would_give(self, scale, options):
        for a, b in zip(*self.with_and_without_keras(scale, **options), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_a_norm_that_is_not_finite_makes_all_gradients_nan(self):
        clipped = clip_by_global_norm([tf.constant([1.0, np.inf]), tf.constant([2.0])], 1.0)
        assert all(np.isnan(x).all() for x in clipped)

    def test_the_optimizer_keeps_its_clipnorm_after_an_error(self):
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
        v = keras.Variable([1.0])
        optimizer.build([v])
        with pytest.raises(Exception, match="hape"):
            apply_gradients([(optimizer, [v])], [tf.ones((2, 2))])
        assert optimizer.global_clipnorm == 0.5
