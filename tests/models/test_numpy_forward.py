import keras
import numpy as np
import pytest

from tfpg.models.numpy_forward import mirror

layers = keras.layers


def check(model, shape=(4,), logits=False, expected=None):
    x = np.random.default_rng(0).normal(0, 3, (20, *shape)).astype("float32")
    forward = mirror(model, logits=logits)()
    expected = np.asarray(model(x)) if expected is None else expected(x)
    np.testing.assert_allclose(forward(x), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "activation",
    ["linear", "relu", "elu", "tanh", "sigmoid", "softmax", "softplus", "silu", None],
)
def test_activations(activation):
    stack = [keras.Input((4,)), layers.Dense(8, activation), layers.Dense(3, activation)]
    check(keras.Sequential(stack))
    check(keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Activation(activation)]))


def test_no_bias_flatten_rescaling_and_branches():
    check(keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)]))
    check(keras.Sequential([keras.Input((3, 2)), layers.Flatten(), layers.Dense(3)]), (3, 2))
    check(keras.Sequential([keras.Input((4,)), layers.Rescaling(0.5, 1.0), layers.Dense(3)]))
    x = keras.Input((4,))
    shared = layers.Dense(5, "tanh")(x)
    y = layers.Concatenate()(
        [layers.Dense(2)(shared), layers.Dense(3)(layers.Rescaling(0.0)(shared))]
    )
    check(keras.Model(x, y))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_leave_out_the_last_activation_only(activation):
    body, last = layers.Dense(6, activation), layers.Dense(3, activation)
    model = keras.Sequential([keras.Input((4,)), body, last])

    def expected(x):
        return np.asarray(body(x)) @ np.asarray(last.kernel) + np.asarray(last.bias)

    check(model, logits=True, expected=expected)


def test_a_snapshot_keeps_its_weights_and_the_next_has_the_new_ones():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    snapshot = mirror(model)
    x = np.ones((1, 4), "float32")
    model.set_weights([np.ones((4, 1)), np.zeros(1)])
    old = snapshot()
    model.set_weights([np.full((4, 1), 2.0), np.ones(1)])
    assert old(x)[0, 0] == 4
    assert snapshot()(x)[0, 0] == 9


def test_a_forward_pass_leaves_its_input_alone():
    model = keras.Sequential([keras.Input((4,)), layers.Flatten(), layers.Dense(2, "elu")])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    before = x.copy()
    mirror(model)()(x)
    np.testing.assert_array_equal(x, before)


def test_sequential_models_are_mirrored_however_they_were_made(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh")])
    added = keras.Sequential()
    for layer in (keras.Input((4,)), inner, layers.Dense(3, "elu"), layers.Dense(2)):
        added.add(layer)
    check(added)
    added.save(tmp_path / "model.keras")
    check(keras.saving.load_model(tmp_path / "model.keras"))


def test_loaded_functional_models_are_mirrored(tmp_path):
    import tfpg

    tfpg.networks.mlp("Pendulum-v1", seed=0).save(tmp_path / "model.keras")
    check(keras.saving.load_model(tmp_path / "model.keras"), (3,))


def shared_layer():
    dense, x = layers.Dense(4), keras.Input((4,))
    return keras.Model(x, dense(dense(x)))


def subclassed():
    class Net(keras.Model):
        def call(self, x):
            return x

    return Net()


def custom_activation():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2, activation=lambda x: x * x)])


@pytest.mark.parametrize(
    "make",
    [
        shared_layer,
        subclassed,
        custom_activation,
        lambda: keras.Sequential([keras.Input((4,)), layers.LayerNormalization()]),
        lambda: keras.Sequential([layers.Dense(2)]),
        lambda: keras.Sequential([keras.Input((2, 3)), layers.Flatten("channels_first")]),
        lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="float64")]),
    ],
)
def test_what_is_not_mirrored_says_none(make):
    assert mirror(make()) is None
