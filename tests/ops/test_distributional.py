"""Distributions of returns, against literals and against loops that follow the papers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfpg.ops.distributional import cross_entropy, project_distribution, quantile_huber_loss

RNG = np.random.default_rng(0)


def projection_of_the_paper(values, probabilities, support):
    """Algorithm 1 of Bellemare et al., 2017, for one distribution."""
    low, high = support[0], support[-1]
    distance = (high - low) / (len(support) - 1)
    out = np.zeros(len(support))
    for value, probability in zip(values, probabilities, strict=True):
        place = (min(max(value, low), high) - low) / distance
        below, above = math.floor(place), math.ceil(place)
        if below == above:
            out[below] += probability
        else:
            out[below] += probability * (above - place)
            out[above] += probability * (place - below)
    return out


def quantile_loss_of_the_paper(quantiles, targets):
    """Equation 10 of Dabney et al., 2018, with kappa = 1, for one pair of distributions."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        level = (2 * i + 1) / (2 * len(quantiles))
        for target in targets:
            error = target - quantile
            size = abs(error)
            huber = 0.5 * size**2 if size <= 1 else size - 0.5
            total += abs(level - (error < 0)) * huber / len(targets)
    return total


class TestProjection:
    def test_a_value_between_two_atoms_is_divided_between_them(self):
        found = project_distribution([[0.25]], [[1.0]], [-1.0, 0.0, 1.0]).numpy()
        np.testing.assert_allclose(found, [[0.0, 0.75, 0.25]], atol=1e-7)

    def test_values_on_atoms_stay_there(self):
        found = project_distribution([[1.0, -1.0]], [[0.3, 0.7]], [-1.0, 0.0, 1.0]).numpy()
        np.testing.assert_allclose(found, [[0.7, 0.0, 0.3]], atol=1e-7)

    def test_values_beyond_the_ends_count_as_the_ends(self):
        found = project_distribution([[-7.0, 2.0, np.inf]], [[0.2, 0.3, 0.5]], [0.0, 1.0]).numpy()
        np.testing.assert_allclose(found, [[0.2, 0.8]], atol=1e-7)

    @pytest.mark.parametrize("count", [2, 5, 51])
    def test_random_distributions_are_projected_as_in_the_paper(self, count):
        support = np.linspace(-3.0, 7.0, count)
        values = RNG.normal(2.0, 5.0, (20, 13))
        probabilities = RNG.dirichlet(np.ones(13), 20)
        found = project_distribution(values, probabilities, support).numpy()
        expected = [
            projection_of_the_paper(*each, support)
            for each in zip(values, probabilities, strict=True)
        ]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-5)

    def test_the_mean_stays_if_no_value_is_beyond_the_ends(self):
        support = np.linspace(-10.0, 10.0, 51)
        values = RNG.uniform(-10.0, 10.0, (20, 13))
        probabilities = RNG.dirichlet(np.ones(13), 20)
        found = project_distribution(values, probabilities, support).numpy()
        np.testing.assert_allclose(found @ support, (values * probabilities).sum(-1), atol=1e-4)

    def test_no_gradient_flows(self):
        values = tf.constant([[0.25]])
        with tf.GradientTape() as tape:
            tape.watch(values)
            found = project_distribution(values, [[1.0]], [0.0, 1.0])
        assert tape.gradient(found, values) is None


class TestCrossEntropy:
    def test_it_is_that_of_the_softmax(self):
        logits, targets = np.log([[0.2, 0.8], [0.5, 0.5]]), [[1.0, 0.0], [0.25, 0.75]]
        found = cross_entropy(logits, targets).numpy()
        np.testing.assert_allclose(found, [-math.log(0.2), math.log(2)], rtol=1e-6)

    def test_its_gradient_is_the_difference_of_the_distributions(self):
        logits, targets = tf.constant([[0.3, -1.0, 2.0]]), np.array([[0.5, 0.5, 0.0]])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = cross_entropy(logits, targets)
        softmax = tf.nn.softmax(logits).numpy()
        np.testing.assert_allclose(tape.gradient(loss, logits), softmax - targets, atol=1e-6)


class TestQuantileHuberLoss:
    def test_literal_values(self):
        # tau = 1/4 and 3/4. Errors: 2 - 0 = 2 and 2 - 3 = -1.
        found = quantile_huber_loss([[0.0, 3.0]], [[2.0]]).numpy()
        np.testing.assert_allclose(found, [0.25 * 1.5 + 0.25 * 0.5])

    def test_random_quantiles_have_the_loss_of_the_paper(self):
        quantiles, targets = RNG.normal(0, 2, (20, 7)), RNG.normal(0, 2, (20, 11))
        found = quantile_huber_loss(quantiles, targets).numpy()
        expected = [
            quantile_loss_of_the_paper(*each) for each in zip(quantiles, targets, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_gradient_descent_finds_the_quantiles(self):
        """Where targets are far apart, the Huber loss is linear, and its minimum is a quantile."""
        targets = np.arange(0.0, 800.0, 100.0)[None]
        quantiles = tf.Variable(np.full((1, 4), 350.0))
        for step in 100.0 * 0.97 ** np.arange(150):
            with tf.GradientTape() as tape:
                loss = quantile_huber_loss(quantiles, targets)
            quantiles.assign_sub(step * tape.gradient(loss, quantiles))
        # a quarter of the targets each, with one of two targets on either side of each level
        expected = [[50.0], [250.0], [450.0], [650.0]]
        np.testing.assert_allclose(quantiles.numpy()[0][:, None], expected, atol=60.0)

    def test_no_gradient_flows_into_the_targets(self):
        quantiles, targets = tf.constant([[0.0, 1.0]]), tf.constant([[2.0]])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([quantiles, targets])
            loss = quantile_huber_loss(quantiles, targets)
        assert tape.gradient(loss, targets) is None
        assert tape.gradient(loss, quantiles) is not None
