import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces

import tfpg
from tfpg.video.saliency import saliency, sees_images

layers = keras.layers


class Place(gymnasium.Env):
    """As much of an environment as a policy asks for."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)


def policy_that_sees(weights, **options):
    """Its first output is the sum of the pixels by these weights ``[height, width, channels]``.

    Sums of whole numbers are exact, so what changes nothing gives exactly 0.
    """
    dense = layers.Dense(2)
    model = keras.Sequential([keras.Input(weights.shape), layers.Flatten(), dense])
    kernel = np.zeros((weights.size, 2), np.float32)
    kernel[:, 0] = weights.ravel()
    dense.set_weights([kernel, np.array([3.0, -4.0])])
    return tfpg.Policy(model, Place(weights.shape), **options)


def noisy(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class TestSeesImages:
    @pytest.mark.parametrize(
        ("space", "expected"),
        [
            (spaces.Box(0, 255, (84, 84, 4), np.uint8), True),
            (spaces.Box(0, 255, (1, 1, 1), np.uint8), True),
            (spaces.Box(0, 255, (84, 84, 4), np.float32), False),
            (spaces.Box(0, 255, (84, 84), np.uint8), False),
            (spaces.Box(0, 255, (2, 84, 84, 4), np.uint8), False),
            (spaces.Box(0, 255, (128,), np.uint8), False),
            (spaces.Discrete(3), False),
            (spaces.MultiBinary([2, 2, 3]), False),
            (spaces.Dict(image=spaces.Box(0, 255, (84, 84, 4), np.uint8)), False),
        ],
    )
    def test_height_width_channels_of_bytes(self, space, expected):
        assert sees_images(space) is expected


class TestSaliency:
    @pytest.mark.parametrize("shape", [(24, 24, 1), (24, 36, 3)])
    @pytest.mark.parametrize("top", [True, False])
    @pytest.mark.parametrize("left", [True, False])
    def test_is_strong_in_the_only_corner_that_is_looked_at(self, shape, top, left):
        height, width, _ = shape
        corner = (
            slice(4) if top else slice(height - 4, None),
            slice(4) if left else slice(width - 4, None),
        )
        weights = np.zeros(shape)
        weights[corner] = 1
        found = saliency(policy_that_sees(weights))(noisy(shape))
        assert found.shape == (12, 12)
        assert found.max() == 1.0
        assert found.min() == 0.0
        rows = slice(2) if top else slice(-2, None)
        columns = slice(2) if left else slice(-2, None)
        assert found[rows, columns].max() == 1.0
        # Four places are 8 pixels, twice what is looked at: a blob further away does not reach it.
        rest = found.copy()
        rest[slice(4) if top else slice(-4, None), slice(4) if left else slice(-4, None)] = 0
        assert rest.max() == 0.0

    @pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
    def test_is_the_square_of_what_a_blob_changes(self, acting):
        # A pixel a place, and one pixel lit: what changes there is in proportion to the blob,
        # exp(-d^2 / (2 s^2)) with s = 1 / 1.5, at a distance of 1 exp(-1.125) = 0.3247.
        weights = np.zeros((12, 12, 1))
        weights[5, 7] = 1
        image = np.zeros((12, 12, 1), np.uint8)
        image[5, 7] = 255
        found = saliency(policy_that_sees(weights, acting=acting))(image)
        assert found[5, 7] == 1.0
        beside = [found[4, 7], found[6, 7], found[5, 6], found[5, 8]]
        assert beside == pytest.approx([0.3247**2] * 4, abs=3e-3)
        diagonal = [found[4, 6], found[4, 8], found[6, 6], found[6, 8]]
        assert diagonal == pytest.approx([0.3247**4] * 4, abs=3e-3)
        assert found[5, 10] == 0.0  # what is changed by less than half a shade is not changed
        assert np.count_nonzero(found) < 25

    def test_is_0_for_a_policy_that_ignores_the_image(self):
        found = saliency(policy_that_sees(np.zeros((24, 24, 2))))(noisy((24, 24, 2)))
        np.testing.assert_array_equal(found, np.zeros((12, 12)))

    @pytest.mark.parametrize("value", [0, 90, 255])
    def test_is_0_where_there_is_nothing_to_blur(self, value):
        look = saliency(policy_that_sees(np.ones((24, 24, 1))))
        assert look(np.full((24, 24, 1), value, np.uint8)).max() == 0.0

    def test_channels_are_blurred_by_themselves(self):
        weights = np.zeros((24, 24, 2))
        weights[:, :, 1] = 1
        image = np.full((24, 24, 2), 100, np.uint8)
        image[:, :, 0] = noisy((24, 24))
        assert saliency(policy_that_sees(weights))(image).max() == 0.0
        assert saliency(policy_that_sees(weights))(image[:, :, ::-1]).max() == 1.0

    def test_numbers_are_in_0_to_1_whatever_the_outputs(self):
        weights = np.random.default_rng(1).integers(-1000, 1000, (24, 24, 1))
        found = saliency(policy_that_sees(weights))(noisy((24, 24, 1)))
        assert found.max() == 1.0
        assert 0.0 <= found.min() < 0.5

    @pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (13, 30, 1)])
    def test_any_size_has_12_by_12_places(self, shape):
        found = saliency(policy_that_sees(np.ones(shape)))(noisy(shape))
        assert found.shape == (12, 12)
        assert np.isfinite(found).all()

    def test_acts_with_the_weights_of_its_moment(self):
        weights = np.zeros((24, 24, 1))
        weights[:4, :4] = 1
        policy, image = policy_that_sees(weights, acting="numpy"), noisy((24, 24, 1))
        look = saliency(policy)
        before = look(image)
        policy.model.layers[-1].set_weights([np.zeros((576, 2)), np.zeros(2)])
        np.testing.assert_array_equal(look(image), before)
        assert saliency(policy)(image).max() == 0.0

    def test_leaves_the_image_as_it_is(self):
        image = noisy((24, 24, 1))
        kept = image.copy()
        saliency(policy_that_sees(np.ones((24, 24, 1))))(image)
        np.testing.assert_array_equal(image, kept)

    def test_follows_a_convolution(self):
        # Sees the upper half, through layers as Atari networks have them.
        x = inputs = keras.Input((24, 24, 1), dtype="uint8")
        x = layers.Rescaling(1 / 255)(x)
        x = layers.Cropping2D(((0, 12), (0, 0)))(x)
        x = layers.Conv2D(4, 4, 4, activation="relu")(x)
        keras.utils.set_random_seed(0)
        model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
        found = saliency(tfpg.Policy(model, Place((24, 24, 1))))(noisy((24, 24, 1)))
        assert found[:6].max() == 1.0
        assert found[9:].max() < 1e-6

    def test_of_a_policy_that_sees_no_images_is_an_error(self):
        policy = tfpg.Policy(tfpg.networks.mlp("CartPole-v1"), "CartPole-v1")
        with pytest.raises(ValueError, match="A saliency map is for policies that see") as error:
            saliency(policy)
        assert "and this one sees Box(" in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_a_convolution_sees_nothing_in_one_colour():
    env = Place((84, 84, 4))
    look = saliency(tfpg.Policy(tfpg.networks.nature_cnn(env, seed=0), env))
    for value in (0, 30, 144):
        assert look(np.full((84, 84, 4), value, np.uint8)).max() == 0.0
