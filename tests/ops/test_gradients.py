import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but

from tfpg.agents.minibatches import Batch
from tfpg.agents.optimization import apply_gradients
from tfpg.models.heads import head_for
from tfpg.ops import gradients
from tfpg.ops.gradients import clip_by_global_norm, sum_of_squares
from tfpg.ops.policy_losses import entropy_loss, policy_gradient_loss


def slices(size):
    """The whole batch at once, or in slices; one step each is the textbooks' accumulation."""

    def estimate(step_losses, variables, batch, **options):
        return gradients.fused(step_losses, variables, batch, batch_size=size, **options)

    estimate.__name__ = f"slices of {size}"
    return estimate


ESTIMATORS = [slices(None), slices(1), slices(5), slices(100)]

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


@pytest.mark.parametrize("estimate", ESTIMATORS[1:])
@pytest.mark.parametrize("seed", slow_but([0], range(3)))
@pytest.mark.parametrize("name", HEADS)
def test_slices_equal_the_whole(name, seed, estimate):
    model, step_losses, batch = problem(name, seed)
    variables = model.trainable_variables
    fused, fused_logs = gradients.fused(step_losses, variables, batch)
    accumulated, accumulated_logs = estimate(step_losses, variables, batch)
    scale = float(tf.linalg.global_norm(fused))
    assert scale > 1e-3
    for a, b in zip(fused, accumulated, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale)
    for key in fused_logs:
        np.testing.assert_allclose(fused_logs[key], accumulated_logs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimate", slow_but(ESTIMATORS[:1], ESTIMATORS))
@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_is_that_of_finite_differences(estimate, name):
    model, step_losses, batch = problem(name)
    variables = model.trainable_variables
    analytic = tf.concat(
        [tf.reshape(g, [-1]) for g in estimate(step_losses, variables, batch)[0]], 0
    )

    def objective():
        loss = tf.reduce_mean(step_losses(batch)["loss"])
        return float(loss + gradients.weight_penalty(variables))

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


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_known_formula_of_a_linear_bernoulli(estimate):
    # d/dw [-A log pi(a)] = -A (a - p) x for p = sigmoid(w x).
    w = keras.Variable(np.array([[0.3], [-0.2]], "float32"))
    x = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], "float32")
    a, advantages = np.array([1, 0, 1]), np.array([1.0, -2.0, 0.5], "float32")

    def step_losses(batch):
        logits = tf.matmul(batch[0], w.value)[:, 0]
        from tfpg.ops.distributions import Bernoulli

        return {"loss": policy_gradient_loss(Bernoulli(logits).log_prob(batch[1]), batch[2])}

    batch = tuple(map(tf.convert_to_tensor, (x, a, advantages)))
    (gradient,), _ = estimate(step_losses, [w], batch)
    p = 1 / (1 + np.exp(-(x @ w.numpy())[:, 0]))
    expected = np.mean((-advantages * (a - p))[:, None] * x, axis=0)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_an_unused_variable_gets_zeros(estimate):
    used, unused = keras.Variable([2.0]), keras.Variable([5.0])
    grads, _ = estimate(lambda b: {"loss": b[0] * used}, [used, unused], (tf.constant([1.0, 3.0]),))
    np.testing.assert_array_equal(grads[1], [0.0])


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_any_batch_size_without_retracing(estimate):
    w = keras.Variable([2.0])
    traces = []

    @tf.function(input_signature=[(tf.TensorSpec([None], tf.float32),)], autograph=False)
    def call(batch):
        traces.append(1)
        return estimate(lambda b: {"loss": b[0] * w}, [w], batch)

    for size in (1, 2, 50):
        grads, _ = call((tf.ones([size]),))
        np.testing.assert_allclose(grads[0], [1.0], rtol=1e-5)
    assert len(traces) == 1


def test_regularizers_count_once_whatever_the_batch():
    w = keras.Variable([2.0])
    w.regularizer = keras.regularizers.L2(0.5)
    for estimate in ESTIMATORS:
        for size in (1, 4):
            grads, _ = estimate(lambda b: {"loss": 0.0 * b[0] * w}, [w], (tf.ones([size]),))
            np.testing.assert_allclose(grads[0], [2.0])


def test_embeddings_are_added_up_before_anything_looks_at_them():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,), dtype="int64"), keras.layers.Embedding(4, 3)])
    x = tf.constant([[1], [1], [1], [2]])
    results = [
        estimate(
            lambda b: {"loss": tf.reduce_sum(model(b[0]), axis=(1, 2))},
            model.trainable_variables,
            (x,),
        )[0]
        for estimate in ESTIMATORS
    ]
    for (gradient,) in results:
        assert tf.is_tensor(gradient)
        np.testing.assert_allclose(gradient, np.outer([0, 0.75, 0.25, 0], [1, 1, 1]))


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_float64_models(estimate):
    w = keras.Variable([2.0], dtype="float64")
    batch = (tf.constant([1.0, 3.0], tf.float64),)
    grads, _ = estimate(lambda b: {"loss": b[0] * w}, [w], batch)
    np.testing.assert_allclose(grads[0], [2.0])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 1), (2, 3, 4, 5)])
def test_sum_of_squares(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    assert float(sum_of_squares(tf.constant(x))) == pytest.approx((x**2).sum(), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_what_is_not_finite_stays_so_in_a_sum_of_squares(bad, jit_compile):
    call = tf.function(sum_of_squares, jit_compile=jit_compile)
    for place in range(6):
        x = np.ones(6, np.float32)
        x[place] = bad
        assert not np.isfinite(call(tf.constant(x.reshape(2, 3))))


class TestClipping:
    """An optimizer's ``global_clipnorm`` does what it does in Keras."""

    SHAPES = ((3, 4), (4,), (2, 3, 2, 2), ())

    def learned(self, step, scale, **options):
        rng = np.random.default_rng(0)
        variables = [keras.Variable(rng.normal(size=s), dtype="float32") for s in self.SHAPES]
        optimizer = keras.optimizers.Adam(0.1, **options)
        optimizer.build(variables)
        for _ in range(4):
            grads = [tf.constant(scale * rng.normal(size=s), tf.float32) for s in self.SHAPES]
            step(optimizer, grads, variables)
        return [v.numpy() for v in variables], optimizer

    def both(self, scale, **options):
        def apply(optimizer, gradients, variables):
            apply_gradients([(optimizer, variables)], gradients)

        ours, optimizer = self.learned(apply, scale, **options)
        assert optimizer.global_clipnorm == options.get("global_clipnorm")
        return ours, self.learned(lambda o, g, v: o.apply(g, v), scale, **options)[0]

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
    def test_as_keras(self, scale, options):
        for a, b in zip(*self.both(scale, **options), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_a_norm_that_is_not_finite(self):
        clipped = clip_by_global_norm([tf.constant([1.0, np.inf]), tf.constant([2.0])], 1.0)
        assert all(np.isnan(x).all() for x in clipped)

    def test_an_error_leaves_the_optimizer_as_it_was(self):
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
        v = keras.Variable([1.0])
        optimizer.build([v])
        with pytest.raises(Exception, match="hape"):
            apply_gradients([(optimizer, [v])], [tf.ones((2, 2))])
        assert optimizer.global_clipnorm == 0.5
