"""The forward pass in NumPy equals the model's, and is refused where it would not."""

import keras
import numpy as np
import pytest

import tfpg
from tfpg.models.numpy_forward import mirror

layers = keras.layers


def check(model, shape=(4,), logits=False, expected=None):
    x = np.random.default_rng(0).normal(0, 3, (20, *shape)).astype("float32")
    forward = mirror(model, logits=logits).snapshot()
    expected = np.asarray(model(x)) if expected is None else expected(x)
    np.testing.assert_allclose(forward(x), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "activation",
    ["linear", "relu", "elu", "tanh", "sigmoid", "softmax", "softplus", "silu", None],
)
def test_activations_equal_those_of_keras(activation):
    stack = [keras.Input((4,)), layers.Dense(8, activation), layers.Dense(3, activation)]
    check(keras.Sequential(stack))
    check(keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Activation(activation)]))


def test_layers_and_branches_equal_those_of_keras():
    check(keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)]))
    check(keras.Sequential([keras.Input((3, 2)), layers.Flatten(), layers.Dense(3)]), (3, 2))
    check(keras.Sequential([keras.Input((4,)), layers.Rescaling(0.5, 1.0), layers.Dense(3)]))
    x = keras.Input((4,))
    shared = layers.Dense(5, "tanh")(x)
    branches = [layers.Dense(2)(shared), layers.Dense(3)(layers.Rescaling(0.0)(shared))]
    check(keras.Model(x, layers.Concatenate()(branches)))


def test_frozen_batch_normalization_equals_that_of_keras():
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.Input((4,)), frozen, layers.Dense(3)])
    rng = np.random.default_rng(0)
    frozen.set_weights([rng.uniform(0.5, 2, 4) for _ in frozen.weights])
    check(model)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_layer_normalization_over_the_last_axis_equals_that_of_keras(shape):
    layer = layers.LayerNormalization(epsilon=0.1)
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(3)])
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 2, 4) for _ in layer.weights])
    check(model, shape)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_leave_out_the_last_activation_only(activation):
    body, last = layers.Dense(6, activation), layers.Dense(3, activation)
    model = keras.Sequential([keras.Input((4,)), body, last])

    def expected(x):
        return np.asarray(body(x)) @ np.asarray(last.kernel) + np.asarray(last.bias)

    assert mirror(model, logits=True).gives_logits
    assert not mirror(model).gives_logits
    check(model, logits=True, expected=expected)


def test_a_snapshot_keeps_its_weights_and_the_next_one_has_the_new_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    copy = mirror(model)
    x = np.ones((1, 4), "float32")
    model.set_weights([np.ones((4, 1)), np.zeros(1)])
    old = copy.snapshot()
    model.set_weights([np.full((4, 1), 2.0), np.ones(1)])
    assert old(x)[0, 0] == 4
    assert copy.snapshot()(x)[0, 0] == 9


def test_the_input_is_not_modified():
    model = keras.Sequential([keras.Input((4,)), layers.Flatten(), layers.Dense(2, "elu")])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    before = x.copy()
    mirror(model).snapshot()(x)
    np.testing.assert_array_equal(x, before)


def test_models_are_supported_however_they_were_built(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh")])
    added = keras.Sequential()
    for layer in (keras.Input((4,)), inner, layers.Dense(3, "elu"), layers.Dense(2)):
        added.add(layer)
    functional = tfpg.networks.mlp("Pendulum-v1", seed=0)
    for model, shape in [(added, (4,)), (functional, (3,))]:
        check(model, shape)
        model.save(tmp_path / "model.keras")
        check(keras.saving.load_model(tmp_path / "model.keras"), shape)


def functional(outputs_of):
    x = keras.Input((4,))
    return keras.Model(x, outputs_of(x))


def shared_layer(x):
    dense = layers.Dense(4)
    return dense(dense(x))


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "make",
    [
        Subclassed,
        lambda: functional(shared_layer),
        lambda: functional(lambda x: layers.Dense(2)(x) + 1.0),
        lambda: functional(lambda x: x),
        lambda: functional(layers.Dense(2, activation=lambda x: x * x)),
        lambda: functional(layers.LayerNormalization(center=False)),
        lambda: keras.Sequential([keras.Input((2, 3)), layers.LayerNormalization(axis=1)]),
        lambda: functional(layers.UnitNormalization()),
        lambda: functional(layers.BatchNormalization()),
        lambda: functional(layers.Rescaling([1.0, 2.0, 3.0, 4.0])),
        lambda: functional(layers.Dense(2, dtype="float64")),
        lambda: keras.Sequential([layers.Dense(2)]),
        lambda: keras.Sequential([keras.Input((2, 3)), layers.Flatten("channels_first")]),
    ],
)
def test_other_models_are_not_supported(make):
    assert mirror(make()) is None


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_recurrent_cells_equal_those_of_keras(cell, count):
    """Outputs and states in columns, as many as a policy takes apart."""
    model = tfpg.networks.recurrent("CartPole-v1", units=6, cell=cell, normalize=False, seed=0)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 1, w.shape) for w in model.get_weights()])
    inputs = {
        name: rng.normal(size=(count, *x.shape[1:])).astype("float32")
        for name, x in model.input.items()
    }
    expected = {name: np.asarray(x) for name, x in model(inputs).items()}
    names = ["policy", "state"] if cell == "gru" else ["policy", "state", "carry"]
    columns = np.concatenate([expected[name] for name in names], axis=-1)
    found = mirror(model).snapshot()(inputs)
    np.testing.assert_allclose(found, columns, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "cell",
    [
        layers.GRUCell(3, reset_after=False),
        layers.GRUCell(3, dropout=0.1),
        layers.LSTMCell(3, use_bias=False),
        layers.LSTMCell(3, activation=lambda x: x * x),
        layers.SimpleRNNCell(3),
    ],
)
def test_other_cells_are_not_supported(cell):
    sizes = cell.state_size if isinstance(cell.state_size, list) else [cell.state_size]
    x, states = keras.Input((4,), name="observation"), [keras.Input((n,)) for n in sizes]
    y, following = cell(x, states)
    outputs = {"policy": layers.Dense(2)(y), **{f"{i}": s for i, s in enumerate(following)}}
    model = keras.Model({"observation": x, **{f"{i}": s for i, s in enumerate(states)}}, outputs)
    assert mirror(model) is None
