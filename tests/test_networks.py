import keras
import numpy as np
import pytest
from gymnasium import spaces

from tfpg import networks

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
