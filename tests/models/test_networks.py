"""The networks: their layers, their initial weights, and that plain Keras is all they need."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import tfpg
from tfpg.models import networks
from tfpg.models.normalization import ObservationStatistics

FRAMES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
ACTIONS = spaces.Discrete(6)
RNG = np.random.default_rng(0)


class TestMlp:
    def test_the_layers_are_plain_keras(self):
        for env in ("CartPole-v1", "Pendulum-v1"):
            for layer in networks.mlp(env).layers:
                assert type(layer).__module__.startswith("keras.")

    def test_the_seed_decides_the_weights(self):
        def weights(seed):
            return networks.mlp("CartPole-v1", hidden=(8,), seed=seed).get_weights()

        for a, b in zip(weights(1), weights(1), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(weights(1)[0], weights(2)[0])
        keras.utils.set_random_seed(0)
        first = weights(None)
        keras.utils.set_random_seed(0)
        np.testing.assert_array_equal(first[0], weights(None)[0])

    def test_a_new_policy_is_nearly_uniform(self):
        model = networks.mlp("Acrobot-v1", seed=0)
        p = tf.nn.softmax(model(RNG.normal(size=(100, 6)).astype("float32"))).numpy()
        np.testing.assert_allclose(p, 1 / 3, atol=0.03)

    def test_log_standard_deviations_ignore_the_observation_and_are_trained(self):
        model = networks.mlp("Pendulum-v1", log_std=-0.7, seed=0)
        x = RNG.normal(size=(10, 3)).astype("float32")
        np.testing.assert_allclose(np.asarray(model(x))[:, 1], -0.7, rtol=1e-6)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x)[:, 1])
        grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
        by_path = {v.path: g for v, g in zip(model.trainable_variables, grads, strict=True)}
        assert float(by_path["log_std/bias"][0]) == 10
        assert not np.any(by_path["log_std/kernel"])

    def test_log_standard_deviations_may_depend_on_the_observation(self):
        model = networks.mlp("Pendulum-v1", log_std=None, seed=0)
        x = RNG.normal(size=(10, 3)).astype("float32")
        log_stds = np.asarray(model(x))[:, 1]
        assert 0 < np.ptp(log_stds) < 0.1
        np.testing.assert_allclose(log_stds, 0.0, atol=0.05)

    def test_observations_of_several_dimensions_are_flattened(self):
        pair = (spaces.Box(0, 1, (3, 2), np.float32), spaces.Discrete(4))
        assert networks.mlp(pair)(np.zeros((5, 3, 2))).shape == (5, 4)

    @pytest.mark.parametrize("hidden", [(0,), (-3,), (2.5,)])
    def test_hidden_must_be_positive_integers(self, hidden):
        with pytest.raises(ValueError, match="hidden must be positive integers"):
            networks.mlp("CartPole-v1", hidden=hidden)

    @pytest.mark.parametrize("atoms", [0, -1, 2.5])
    def test_atoms_must_be_a_positive_integer(self, atoms):
        for make in (networks.mlp, networks.dueling):
            with pytest.raises(ValueError, match="atoms must be a positive integer, but it is"):
                make("CartPole-v1", atoms=atoms)

    def test_sizes_may_be_integers_of_numpy(self):
        for make in (networks.mlp, networks.dueling):
            model = make("CartPole-v1", hidden=(np.int64(8),), atoms=np.int32(5))
            assert model.output_shape == (None, 10)

    def test_unsupported_spaces_are_refused(self):
        box = spaces.Box(0, 1, (2,))
        with pytest.raises(ValueError, match="FlattenObservation"):
            networks.mlp((spaces.Graph(box, box), spaces.Discrete(2)))
        with pytest.raises(ValueError, match="Unsupported action space Text"):
            networks.mlp((box, spaces.Text(3)))


@pytest.mark.parametrize("make", [networks.mlp, networks.dueling, networks.actor_critic])
def test_layer_norm_normalizes_each_hidden_layer_before_its_activation(make):
    plain, model = (make("CartPole-v1", (16, 8), "tanh", layer_norm=x, seed=0) for x in (0, 1))
    kinds = [type(layer).__name__ for layer in model.layers]
    hidden = sum(layer.units in (16, 8) for layer in model.layers if hasattr(layer, "units"))
    assert kinds.count("LayerNormalization") == kinds.count("Activation") == hidden
    assert [x.shape for x in plain.get_weights() if x.ndim == 2] == [
        x.shape for x in model.get_weights() if x.ndim == 2
    ]
    x = RNG.normal(size=(9, 4)).astype("float32")
    first, norm, activation = (
        next(x for x in model.layers if type(x) is kind)
        for kind in (keras.layers.Dense, keras.layers.LayerNormalization, keras.layers.Activation)
    )
    seen = keras.Model(model.input, [first.output, norm.output, activation.output])
    features, normalized, after = (np.asarray(x) for x in seen(x))
    centered = features - features.mean(axis=-1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + norm.epsilon)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)
    np.testing.assert_allclose(after, np.tanh(expected), atol=1e-5)


def test_layer_norm_normalizes_the_channels_of_convolutions():
    model = networks.cnn((image(9, 9, 3), ACTIONS), layer_norm=True, seed=0)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("LayerNormalization") == kinds.count("Conv2D") + kinds.count("Dense") - 1


class TestActorCritic:
    def test_the_hidden_layers_are_shared_only_on_request(self):
        counts = {
            shared: len(
                [
                    layer
                    for layer in networks.actor_critic("CartPole-v1", (8, 5), shared=shared).layers
                    if getattr(layer, "units", None) in (8, 5)
                ]
            )
            for shared in (False, True)
        }
        assert counts == {False: 4, True: 2}


def image(*shape, high=255, dtype=np.uint8):
    return spaces.Box(0, high, shape, dtype)


class TestImages:
    @pytest.mark.parametrize(
        ("space", "sizes"),
        [  # height, width and channels, then the outputs of the convolutions
            (image(84, 84, 4), [(84, 84, 4), (20, 20, 32), (9, 9, 64), (7, 7, 64)]),
            (image(4, 84, 84), [(84, 84, 4), (20, 20, 32), (9, 9, 64), (7, 7, 64)]),
            (image(4, 96, 96, 3), [(96, 96, 12), (23, 23, 32), (10, 10, 64), (8, 8, 64)]),
            (image(4, 3, 40, 50), [(40, 50, 12), (9, 11, 32), (3, 4, 64), (1, 2, 64)]),
            (image(144, 200, 3), [(72, 100, 3), (17, 24, 32), (7, 11, 64), (5, 9, 64)]),
            (image(3, 480, 640), [(80, 106, 3), (19, 25, 32), (8, 11, 64), (6, 9, 64)]),
            (image(36, 48), [(36, 48, 1), (8, 11, 32), (3, 4, 64), (1, 2, 64)]),
            (image(7, 7, 3), [(7, 7, 3), (7, 7, 32), (4, 4, 64), (2, 2, 64)]),
            (image(3, 9, 5), [(9, 5, 3), (9, 5, 32), (5, 3, 64), (3, 2, 64)]),
            (image(8, 8, high=5, dtype=np.int64), [(8, 8, 1), (8, 8, 32), (4, 4, 64), (2, 2, 64)]),
        ],
    )
    def test_convolutions_see_height_and_width_in_any_order_of_the_axes(self, space, sizes):
        model = networks.cnn((space, ACTIONS))
        convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
        found = [convolutions[0].input, *(x.output for x in convolutions)]
        assert [x.shape[1:] for x in found] == sizes

    def test_channels_are_moved_not_mixed(self):
        first, last = (networks.cnn((x, ACTIONS), seed=0) for x in (image(3, 9, 9), image(9, 9, 3)))
        x = RNG.integers(0, 255, (5, 9, 9, 3), np.uint8)
        one, other = first(np.moveaxis(x, -1, 1)), last(x)
        np.testing.assert_allclose(one, other, atol=1e-6)

    @pytest.mark.parametrize("high", [1.0, 10.0, 255.0])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
    def test_images_are_divided_by_their_largest_value(self, high, dtype):
        model = networks.cnn((image(8, 8, 3, high=high, dtype=dtype), ACTIONS))
        inner = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D)).input
        x = np.full((1, 8, 8, 3), high, dtype)
        np.testing.assert_allclose(keras.Model(model.input, inner)(x), 1.0, rtol=1e-6)

    @pytest.mark.parametrize("kind", [networks.cnn, networks.actor_critic, networks.critic])
    @pytest.mark.parametrize(
        "actions", [ACTIONS, spaces.Box(-1, 1, (3,)), spaces.MultiBinary(2)], ids=str
    )
    def test_there_is_a_network_for_images_with_any_actions_and_a_value(self, kind, actions):
        both = spaces.Dict(camera=image(40, 40, 3), speed=spaces.Box(-1, 1, (2,), np.float32))
        for space in (image(7, 7, 3), both):
            model = kind((space, actions))
            assert sum(isinstance(x, keras.layers.Conv2D) for x in model.layers) == 3
        x = {"camera": np.zeros((5, 40, 40, 3), np.uint8), "speed": np.zeros((5, 2), "float32")}
        assert all(len(output) == 5 for output in keras.tree.flatten(model(x)))

    def test_a_dueling_network_has_convolutions_too(self):
        model = networks.dueling((image(7, 7, 3), ACTIONS))
        assert model.output_shape == (None, 6)
        assert sum(isinstance(x, keras.layers.Conv2D) for x in model.layers) == 3

    def test_normalize_standardizes_each_channel_of_a_grid_but_no_picture(self):
        picture, grid = (
            networks.cnn((x, ACTIONS), normalize=True) for x in (FRAMES, image(7, 7, 3))
        )
        assert not [x for x in picture.layers if x.name.endswith("_statistics")]
        x = np.zeros((10, 7, 7, 3), np.uint8)
        x[..., 1], x[5:, ..., 2] = 4, 2
        statistics = ObservationStatistics(grid)
        statistics.update(x)
        (layer,) = statistics.layers
        np.testing.assert_allclose(layer.moving_mean, [0, 4, 1])
        np.testing.assert_allclose(layer.moving_variance, [0, 0, 1])

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-1, 1, (4,)),
            spaces.Box(-np.inf, np.inf, (8, 8, 3)),
            spaces.Box(-np.finfo("f4").max, np.finfo("f4").max, (8, 8, 3), np.float32),
            spaces.Box(0, np.iinfo(np.int64).max, (8, 8), np.int64),
            spaces.Box(np.iinfo(np.int64).min, 0, (8, 8, 3), np.int64),
            spaces.Box(0, 1, (8, 8)),
            image(2, 9, 2),
            spaces.Dict(a=spaces.Discrete(3)),
        ],
    )
    def test_a_cnn_needs_images(self, space):
        with pytest.raises(ValueError, match="cnn needs images, but the observation space is"):
            networks.cnn((space, ACTIONS))
        networks.actor_critic((space, ACTIONS))

    def test_plain_keras_is_all_they_need(self, tmp_path):
        model = networks.actor_critic((image(3, 9, 9), ACTIONS), seed=0)
        model.save(tmp_path / "model.keras")
        x = np.full((2, 3, 9, 9), 9, np.uint8)
        for one, other in zip(
            model(x), keras.saving.load_model(tmp_path / "model.keras")(x), strict=True
        ):
            np.testing.assert_array_equal(one, other)


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
        scaled = keras.Model(model.input, model.layers[1].output)
        frames = np.array([0, 255], np.uint8).repeat(84 * 84 * 4).reshape(2, 84, 84, 4)
        values = scaled(frames).numpy()
        assert values.min() == 0.0
        assert values.max() == pytest.approx(1.0)

    def test_the_seed_decides_the_weights_which_are_hes_and_differ_between_layers(self):
        first, same, other = (
            networks.nature_cnn((FRAMES, ACTIONS), hidden=8, seed=seed).get_weights()[::2]
            for seed in (1, 1, 2)
        )
        starts = set()
        for a, b, c in zip(first, same, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert (a != c).any()
            bound = np.sqrt(6 / np.prod(a.shape[:-1]))  # uniform within what its inputs say
            assert 0.8 * bound < np.abs(a).max() <= bound
            starts.add(round(float(a.ravel()[0] / bound), 4))
        assert len(starts) == len(first)

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-1, 1, (4,)),
            spaces.Box(-np.inf, np.inf, (84, 84, 4)),
            spaces.Box(0, 255, (35, 84, 4), np.uint8),
            spaces.Dict(image=FRAMES),
        ],
    )
    def test_observations_that_are_not_images_are_refused(self, space):
        with pytest.raises(ValueError, match="nature_cnn needs images of at"):
            networks.nature_cnn((space, ACTIONS))

    def test_the_smallest_image_has_36_pixels_a_side(self):
        space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        assert networks.nature_cnn((space, ACTIONS)).output_shape == (None, 6)

    def test_actions_that_are_not_discrete_are_refused(self):
        with pytest.raises(ValueError, match="nature_cnn needs Discrete actions"):
            networks.nature_cnn((FRAMES, spaces.MultiBinary(3)))

    def test_dueling_streams_each_have_a_hidden_layer(self):
        model = networks.nature_cnn((FRAMES, ACTIONS), hidden=8, dueling=True, seed=0)
        assert model.output_shape == (None, 6)
        units = [layer.units for layer in model.layers if hasattr(layer, "units")]
        assert sorted(units) == [1, 6, 8, 8]


class TestDueling:
    def test_the_mean_of_the_q_values_is_the_value(self):
        model = networks.dueling("CartPole-v1", hidden=(16, 8), seed=0)
        x = RNG.normal(size=(9, 4)).astype("float32")
        (value_layer,) = [layer for layer in model.layers if getattr(layer, "units", 0) == 1]
        value = keras.Model(model.input, value_layer.output)(x).numpy()
        np.testing.assert_allclose(model(x).numpy().mean(axis=1), value[:, 0], atol=1e-6)

    def test_streams_share_all_hidden_layers_but_the_last(self):
        model = networks.dueling("CartPole-v1", hidden=(16, 8))
        units = sorted(x.units for x in model.layers if isinstance(x, keras.layers.Dense))
        assert units == [1, 2, 8, 8, 16]

    def test_it_acts_in_numpy_as_in_tensorflow(self):
        model = networks.dueling("CartPole-v1", seed=0, normalize=True)
        x = RNG.normal(size=(50, 4)).astype("float32")
        fast, slow = (
            tfpg.Policy(model, "CartPole-v1", epsilon=0.0, acting=acting)
            for acting in ("auto", "tensorflow")
        )
        assert fast.acting == "numpy"
        np.testing.assert_allclose(fast.actor()(x).outputs, slow.actor()(x).outputs, atol=1e-5)

    @pytest.mark.slow
    def test_plain_keras_loads_it(self, tmp_path):
        model = networks.dueling("CartPole-v1", seed=0)
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

    def test_it_needs_discrete_actions_and_a_hidden_layer(self):
        with pytest.raises(ValueError, match="Q-values need Discrete actions, but the action sp"):
            networks.dueling("Pendulum-v1")
        with pytest.raises(ValueError, match="hidden must have at least one layer"):
            networks.dueling("CartPole-v1", hidden=())


class TestTwinCritic:
    def test_its_networks_share_no_weights(self):
        model = networks.twin_critic("Pendulum-v1", (8,), seed=0)
        x, actions = (RNG.normal(size=(10, n)).astype("float32") for n in (3, 1))
        before = np.asarray(model([x, actions]))
        assert before.shape == (10, 2)
        assert not np.allclose(before[:, 0], before[:, 1])
        used = []
        for i in range(2):
            with tf.GradientTape() as tape:
                output = model([x, actions])[:, i]
            values = [v.value for v in model.trainable_variables]
            used.append([g is not None and np.any(g) for g in tape.gradient(output, values)])
        assert np.sum(used, axis=0).tolist() == [1] * 8

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Discrete(3),
            spaces.Box(0, 255, (40, 40, 3), np.uint8),
            spaces.Dict({"scaled_actions": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)}),
        ],
    )
    def test_it_takes_any_observation_and_is_saved_and_loaded(self, space, tmp_path):
        both = space, spaces.Box(-1, 1, (2, 2))
        model = networks.twin_critic(both, (8,), seed=0)
        assert model.output_shape == (None, 2)
        tfpg.save_model(model, tmp_path / "critic.keras")
        loaded = tfpg.load_model(tmp_path / "critic.keras")
        policy = tfpg.Policy(networks.mlp(both, log_std=None), both, squash=True)
        batch = [space.sample() for _ in range(3)]
        if isinstance(space, spaces.Dict):
            batch = {key: np.stack([x[key] for x in batch]) for key in space}
        else:
            batch = np.stack(batch)
        inputs = keras.tree.map_structure(tf.constant, policy.encode(batch))
        actions = tf.zeros((3, 4))
        np.testing.assert_array_equal(loaded([inputs, actions]), model([inputs, actions]))
