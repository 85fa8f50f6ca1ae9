"""Running statistics, alone and as the observation normalizer of a model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfpg
from tfpg.models.normalization import Moments, ObservationStatistics
from tfpg.models.policy import Policy

RNG = np.random.default_rng(0)


class TestMoments:
    def test_equal_batches_give_the_moments_of_all_of_them(self):
        data = RNG.normal(5, 3, (40, 25, 2))
        moments = Moments.initial((2,))
        for batch in data:
            moments = moments.updated(batch)
        everything = data.reshape(-1, 2)
        np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-12)

    def test_old_batches_are_forgotten(self):
        moments = Moments.initial()
        for _ in range(500):
            moments = moments.updated(np.array([0.0]))
        for _ in range(1000):
            moments = moments.updated(np.array([9.0, 11.0]))
        assert moments.mean == pytest.approx(10, abs=0.01)
        assert moments.variance == pytest.approx(1, abs=0.1)

    def test_what_does_not_count_changes_nothing(self):
        before = Moments.initial((2,)).updated(RNG.normal(size=(5, 2)))
        batch, counts = RNG.normal(size=(4, 2)), np.array([1.0, 0.0, 1.0, 0.0])
        for found, expected in zip(
            before.updated(batch, counts), before.updated(batch[::2]), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        for found, expected in zip(before.updated(batch, 0 * counts), before, strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_tensors_give_the_same_moments(self):
        batch, counts = RNG.normal(3, 2, size=(6, 2)), np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
        before = Moments.initial((2,))
        tensors = Moments(*(tf.constant(x, tf.float32) for x in before))
        given = [tf.constant(x, tf.float32) for x in (batch, counts)]
        for found, expected in zip(
            tensors.updated(*given), before.updated(batch, counts), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


class TestObservationStatistics:
    def test_the_layer_standardizes_by_the_batches_so_far(self):
        model = tfpg.networks.mlp("CartPole-v1", normalize=True, seed=0)
        x = RNG.normal([5, -3, 0, 100], [1, 2, 1e-3, 50], (1000, 4)).astype("float32")
        ObservationStatistics(model).update(x)
        layer = model.get_layer("observation_statistics")
        z = keras.Model(model.input, layer.output)(x).numpy()
        np.testing.assert_allclose(z.mean(0), 0, atol=1e-2)
        np.testing.assert_allclose(z.std(0), 1, rtol=1e-2)

    def test_actors_use_the_new_statistics_also_when_compiled(self):
        model = tfpg.networks.mlp("CartPole-v1", normalize=True, seed=0)
        x = RNG.normal(5, 3, (100, 4)).astype("float32")
        policies = [Policy(model, "CartPole-v1", acting=a) for a in ("numpy", "tensorflow")]
        before = [policy.actor()(x).outputs for policy in policies]
        ObservationStatistics(model).update(x)
        after = [policy.actor()(x).outputs for policy in policies]
        assert np.abs(after[1] - before[1]).max() > 1e-4
        np.testing.assert_allclose(after[0], after[1], atol=1e-5)

    def test_outliers_are_clipped(self):
        model = tfpg.networks.mlp("CartPole-v1", normalize=True, seed=0)
        ObservationStatistics(model).update(np.zeros((10, 4), "float32"))
        outputs = model(np.array([[1e3] * 4, [1e6] * 4], "float32")).numpy()
        np.testing.assert_array_equal(outputs[0], outputs[1])

    def test_saved_statistics_are_continued_by_the_next_training(self, tmp_path):
        model = tfpg.networks.mlp("CartPole-v1", normalize=True, seed=0)
        ObservationStatistics(model).update(np.full((10, 4), 7.0, "float32"))
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        layer = again.get_layer("observation_statistics")
        assert not layer.trainable
        np.testing.assert_array_equal(layer.moving_mean, [7] * 4)
        ObservationStatistics(again).update(np.full((10, 4), 17.0, "float32"))
        np.testing.assert_allclose(layer.moving_mean, [7.1] * 4, rtol=1e-5)

    def test_statistics_that_were_assigned_in_between_are_continued(self):
        model = tfpg.networks.mlp("CartPole-v1", normalize=True, seed=0)
        statistics = ObservationStatistics(model)
        statistics.update(np.full((10, 4), 7.0, "float32"))
        layer = model.get_layer("observation_statistics")
        layer.moving_mean.assign([1.0] * 4)
        layer.moving_variance.assign([4.0] * 4)
        statistics.update(np.full((10, 4), 11.0, "float32"))
        np.testing.assert_allclose(layer.moving_mean, [1.1] * 4, rtol=1e-5)

    def test_a_statistics_layer_in_a_nested_model_is_refused(self):
        inner = tfpg.networks.mlp("CartPole-v1", normalize=True)
        x = keras.Input((4,))
        with pytest.raises(ValueError, match="'observation_statistics' is inside a nested model"):
            ObservationStatistics(keras.Model(x, inner(x)))

    def test_other_batch_normalization_layers_are_not_updated(self):
        x = keras.Input((4,))
        frozen = keras.layers.BatchNormalization(trainable=False, name="mine_statistics")
        model = keras.Model(x, keras.layers.Dense(2)(frozen(x)))
        ObservationStatistics(model).update(np.full((10, 4), 7.0, "float32"))
        np.testing.assert_array_equal(frozen.moving_mean, [0] * 4)
