"""Saliency maps of models that are known to look at certain pixels only."""

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces

import tfpg
from tfpg.video.saliency import saliency_function, sees_images

layers = keras.layers


class Images(gymnasium.Env):
    """As much of an environment as a policy needs."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)


def weighted_sum(weights, **options):
    """A policy whose first output is the sum of the pixels times ``weights [H, W, C]``.

    Sums of integers are exact, so a change that does not matter gives exactly 0.
    """
    dense = layers.Dense(2)
    model = keras.Sequential([keras.Input(weights.shape), layers.Flatten(), dense])
    kernel = np.zeros((weights.size, 2), np.float32)
    kernel[:, 0] = weights.ravel()
    dense.set_weights([kernel, np.array([3.0, -4.0])])
    return tfpg.Policy(model, Images(weights.shape), **options)


def noise(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), True),
        (spaces.Box(0, 255, (84, 84, 4), np.float32), False),
        (spaces.Box(0, 255, (84, 84), np.uint8), False),
        (spaces.MultiBinary([2, 2, 3]), False),
        (spaces.Dict(image=spaces.Box(0, 255, (84, 84, 4), np.uint8)), False),
    ],
)
def test_images_are_uint8_boxes_of_three_dimensions(space, expected):
    assert sees_images(space) is expected


@pytest.mark.parametrize("shape", [(24, 24, 1), (24, 36, 3)])
@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_the_only_corner_that_matters_is_salient(shape, top, left):
    def end(count, at_start):
        return slice(count) if at_start else slice(-count, None)

    weights = np.zeros(shape)
    weights[end(4, top), end(4, left)] = 1
    found = saliency_function(weighted_sum(weights))(noise(shape))
    assert found.shape == (12, 12)
    assert (found.min(), found[end(2, top), end(2, left)].max()) == (0.0, 1.0)
    # Four cells are 8 pixels, twice the corner: no blob further away reaches it.
    found[end(4, top), end(4, left)] = 0
    assert found.max() == 0.0


@pytest.mark.parametrize("acting", ["numpy", "tensorflow"])
def test_saliency_is_the_square_of_what_a_blob_changes(acting):
    # One pixel per cell, one of them lit: the change is proportional to the blob,
    # exp(-d^2 / (2 s^2)) with s = 1 / 1.5, which is exp(-1.125) = 0.3247 at a distance of 1.
    weights = np.zeros((12, 12, 1))
    weights[5, 7] = 1
    image = np.zeros((12, 12, 1), np.uint8)
    image[5, 7] = 255
    found = saliency_function(weighted_sum(weights, acting=acting))(image)
    assert found[5, 7] == 1.0
    near = [found[4, 7], found[6, 7], found[5, 6], found[5, 8]]
    assert near == pytest.approx([0.3247**2] * 4, abs=3e-3)
    diagonal = [found[4, 6], found[4, 8], found[6, 6], found[6, 8]]
    assert diagonal == pytest.approx([0.3247**4] * 4, abs=3e-3)
    assert found[5, 10] == 0.0  # changes of less than half a shade are rounded away


def test_nothing_is_salient_for_a_policy_that_ignores_the_image():
    found = saliency_function(weighted_sum(np.zeros((24, 24, 2))))(noise((24, 24, 2)))
    np.testing.assert_array_equal(found, np.zeros((12, 12)))


def test_nothing_is_salient_in_an_image_of_one_color():
    linear = saliency_function(weighted_sum(np.ones((24, 24, 1))))
    env = Images((84, 84, 4))
    network = saliency_function(tfpg.Policy(tfpg.networks.nature_cnn(env, seed=0), env))
    for value in (0, 30, 144, 255):
        assert linear(np.full((24, 24, 1), value, np.uint8)).max() == 0.0
        assert network(np.full((84, 84, 4), value, np.uint8)).max() == 0.0


def test_each_channel_is_blurred_alone():
    weights = np.zeros((24, 24, 2))
    weights[:, :, 1] = 1
    image = np.full((24, 24, 2), 100, np.uint8)
    image[:, :, 0] = noise((24, 24))
    saliency = saliency_function(weighted_sum(weights))
    assert saliency(image).max() == 0.0
    assert saliency(image[:, :, ::-1]).max() == 1.0


def test_saliency_is_relative_to_its_maximum():
    weights = np.random.default_rng(1).integers(-1000, 1000, (24, 24, 1))
    found = saliency_function(weighted_sum(weights))(noise((24, 24, 1)))
    assert found.max() == 1.0
    assert 0.0 <= found.min() < 0.5


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (13, 30, 1)])
def test_images_of_any_size_have_12_by_12_cells(shape):
    image = noise(shape)
    before = image.copy()
    found = saliency_function(weighted_sum(np.ones(shape)))(image)
    assert found.shape == (12, 12)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(image, before)


def test_weights_are_those_of_the_time_of_the_call():
    weights = np.zeros((24, 24, 1))
    weights[:4, :4] = 1
    policy, image = weighted_sum(weights, acting="numpy"), noise((24, 24, 1))
    saliency = saliency_function(policy)
    before = saliency(image)
    policy.model.layers[-1].set_weights([np.zeros((576, 2)), np.zeros(2)])
    np.testing.assert_array_equal(saliency(image), before)
    assert saliency_function(policy)(image).max() == 0.0


def test_a_convolutional_network_is_salient_where_it_looks():
    # It sees the upper half only.
    x = inputs = keras.Input((24, 24, 1), dtype="uint8")
    x = layers.Cropping2D(((0, 12), (0, 0)))(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(
        4, 4, 4, activation="relu", kernel_initializer=keras.initializers.HeNormal(0)
    )(x)
    outputs = layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(1))(
        layers.Flatten()(x)
    )
    policy = tfpg.Policy(keras.Model(inputs, outputs), Images((24, 24, 1)))
    found = saliency_function(policy)(noise((24, 24, 1)))
    assert found[:6].max() == 1.0
    assert found[9:].max() < 1e-6


def test_a_policy_that_sees_no_images_has_no_saliency():
    policy = tfpg.Policy(tfpg.networks.mlp("CartPole-v1"), "CartPole-v1")
    with pytest.raises(ValueError, match="needs a policy that sees images.*this one sees Box"):
        saliency_function(policy)
