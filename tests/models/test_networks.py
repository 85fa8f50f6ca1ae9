import subprocess
import sys

import keras
import numpy as np
import pytest
from gymnasium import spaces

import tfpg
from tfpg.models import networks

FRAMES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
ACTIONS = spaces.Discrete(6)


class TestNatureCnn:
    def test_the_layers_are_those_of_the_paper(self):
        model = networks.nature_cnn((FRAMES, ACTIONS))
        shapes = [layer.output.shape[1:] for layer in model.layers]
        assert shapes[:5] == [(84, 84, 4), (84, 84, 4), (20, 20, 32), (9, 9, 64), (7, 7, 64)]
        assert shapes[5:] == [(7 * 7 * 64,), (512,), (6,)]
        assert model.inputs[0].dtype == "uint8"
        activations = [layer.activation.__name__ for layer in model.layers if layer.weights]
        assert activations == ["relu"] * 4 + ["linear"]

    def test_frames_are_scaled_to_one(self):
        model = networks.nature_cnn((FRAMES, ACTIONS), hidden=8)
        scaled = keras.Model(model.inputs, model.layers[1].output)
        frames = np.array([0, 255], np.uint8).repeat(84 * 84 * 4).reshape(2, 84, 84, 4)
        values = scaled.predict(frames, verbose=0)
        assert values.min() == 0.0
        assert values.max() == pytest.approx(1.0)

    def test_a_seed_gives_the_weights_and_each_layer_its_own(self):
        first, same, other = (
            networks.nature_cnn((FRAMES, ACTIONS), hidden=8, seed=seed).get_weights()
            for seed in (1, 1, 2)
        )
        for a, b, c in zip(first[::2], same[::2], other[::2], strict=True):
            np.testing.assert_array_equal(a, b)
            assert (a != c).any()
        # He's bound is that of what comes in; within it they are uniform.
        for kernel in first[::2]:
            bound = np.sqrt(6 / np.prod(kernel.shape[:-1]))
            assert 0.8 * bound < np.abs(kernel).max() <= bound
        starts = [
            kernel.ravel()[0] / np.sqrt(6 / np.prod(kernel.shape[:-1])) for kernel in first[::2]
        ]
        assert len(np.unique(np.round(starts, 4))) == len(starts)

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-1, 1, (4,)),
            spaces.Box(0, 255, (84, 84), np.uint8),
            spaces.Box(0.0, 1.0, (84, 84, 4)),
            spaces.Box(0, 255, (35, 84, 4), np.uint8),
            spaces.Dict(image=FRAMES),
        ],
    )
    def test_what_is_no_image_is_refused(self, space):
        with pytest.raises(ValueError, match="nature_cnn is for images, uint8"):
            networks.nature_cnn((space, ACTIONS))

    def test_the_smallest_image_is_one(self):
        space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        assert networks.nature_cnn((space, ACTIONS)).output_shape == (None, 6)

    def test_other_actions_are_refused(self):
        with pytest.raises(ValueError, match="nature_cnn is for Discrete actions"):
            networks.nature_cnn((FRAMES, spaces.MultiBinary(3)))

    def test_streams_for_value_and_advantages(self):
        model = networks.nature_cnn((FRAMES, ACTIONS), hidden=8, dueling=True, seed=0)
        assert model.output_shape == (None, 6)
        dense = [layer.units for layer in model.layers if hasattr(layer, "units")]
        assert sorted(dense) == [1, 6, 8, 8]


class TestDueling:
    def test_the_mean_advantage_is_nothing(self):
        model = tfpg.networks.dueling("CartPole-v1", hidden=(16, 8), seed=0)
        x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
        value_layer = [y for y in model.layers if getattr(y, "units", 0) == 1]
        value = keras.Model(model.inputs, value_layer[0].output)(x).numpy()
        np.testing.assert_allclose(model(x).numpy().mean(axis=1), value[:, 0], atol=1e-6)

    def test_streams_share_all_but_the_last_layer(self):
        model = tfpg.networks.dueling("CartPole-v1", hidden=(16, 8))
        units = sorted(x.units for x in model.layers if isinstance(x, keras.layers.Dense))
        assert units == [1, 2, 8, 8, 16]

    def test_acts_through_numpy_as_it_does_through_tensorflow(self):
        model = tfpg.networks.dueling("CartPole-v1", seed=0, normalize=True)
        x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
        fast, slow = (
            tfpg.Policy(model, "CartPole-v1", epsilon=0.0, acting=acting)
            for acting in ("auto", "tensorflow")
        )
        assert fast.acting == "numpy"
        np.testing.assert_allclose(fast.actor()(x).outputs, slow.actor()(x).outputs, atol=1e-5)

    @pytest.mark.slow
    def test_is_loaded_by_plain_keras(self, tmp_path):
        model = tfpg.networks.dueling("CartPole-v1", seed=0)
        model.save(tmp_path / "q.keras")
        code = (
            "import keras, sys, numpy; m = keras.saving.load_model(sys.argv[1]); "
            "assert 'tfpg' not in sys.modules; print(m(numpy.ones((1, 4)))[0, 0].numpy())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "q.keras"],
            capture_output=True,
            text=True,
            check=True,
        )
        expected = model(np.ones((1, 4)))[0, 0].numpy()
        assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-5)

    def test_what_it_is_not_for(self):
        with pytest.raises(ValueError, match="Q-values are of Discrete actions, and these are"):
            tfpg.networks.dueling("Pendulum-v1")
        with pytest.raises(ValueError, match="hidden must hold a layer or more for the streams"):
            tfpg.networks.dueling("CartPole-v1", hidden=())


def test_an_operation_with_a_constant_acts_through_tensorflow():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(x) + 1.0)
    assert tfpg.Policy(model, "CartPole-v1", epsilon=0.0).acting == "tensorflow"


def test_a_frozen_policy_stays_as_it_was():
    model = tfpg.networks.mlp("CartPole-v1", seed=0)
    policy = tfpg.Policy(model, "CartPole-v1")
    frozen, x = policy.frozen(), np.ones((3, 4), np.float32)
    before = policy.actor()(x).outputs
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(frozen.actor()(x).outputs, before)
    assert not np.array_equal(policy.actor()(x).outputs, before)
