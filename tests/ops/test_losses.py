"""Losses of policies and values: literal numbers, and which way gradients flow."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg.ops.policy_losses import clipped_surrogate_loss, entropy_loss, policy_gradient_loss
from tfpg.ops.value_losses import (
    clipped_value_loss,
    double_q_learning_targets,
    huber,
    q_learning_targets,
    td_errors,
    value_loss,
)


def gradients_of(function, *values):
    """The gradients of the sum of a loss with respect to its arguments."""
    variables = [tf.Variable(value) for value in values]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(function(*variables))
    return tape.gradient(loss, variables)


class TestPolicyLosses:
    def test_the_policy_gradient_loss_is_minus_advantage_times_log_prob(self):
        loss = policy_gradient_loss([-0.5, -2.0, -1.0], [1.0, -3.0, 0.0])
        np.testing.assert_allclose(loss, [0.5, -6.0, 0.0])

    def test_no_gradient_flows_into_the_advantages(self):
        log_probs, advantages = gradients_of(policy_gradient_loss, [-0.5, -2.0], [1.0, -3.0])
        np.testing.assert_allclose(log_probs, [-1.0, 3.0])
        assert advantages is None

    def test_the_entropy_loss_pulls_toward_more_entropy(self):
        np.testing.assert_allclose(gradients_of(entropy_loss, [0.5, 0.1])[0], [-1.0, -1.0])

    def test_the_surrogate_is_clipped_only_where_that_makes_it_worse(self):
        ratios = np.array([2.0, 0.5, 2.0, 0.5, 1.1], np.float32)
        advantages = np.array([1.0, 1.0, -1.0, -1.0, 3.0], np.float32)
        loss = clipped_surrogate_loss(np.log(ratios), np.zeros(5), advantages, 0.2)
        np.testing.assert_allclose(loss, [-1.2, -0.5, 2.0, 0.8, -3.3], rtol=1e-6)

    def test_the_surrogate_has_no_gradient_where_it_is_clipped(self):
        log_probs, old, advantages = gradients_of(
            lambda *x: clipped_surrogate_loss(*x, 0.2),
            np.log([2.0, 0.5, 2.0, 0.5]).astype("float32"),
            np.zeros(4, "float32"),
            [1.0, 1.0, -1.0, -1.0],
        )
        np.testing.assert_allclose(log_probs, [0.0, -0.5, 2.0, 0.0], rtol=1e-6)
        assert old is None
        assert advantages is None


class TestValueLosses:
    def test_the_value_loss_is_the_squared_error_and_returns_get_no_gradient(self):
        np.testing.assert_allclose(value_loss([1.0, 2.0], [3.0, 2.0]), [4.0, 0.0])
        values, returns = gradients_of(value_loss, [1.0, 2.0], [3.0, 2.0])
        np.testing.assert_allclose(values, [-4.0, 0.0])
        assert returns is None

    def test_the_clipped_value_loss_is_the_larger_of_two_squared_errors(self):
        values, returns, old = [1.0, 3.0, 0.2], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]
        loss = clipped_value_loss(values, returns, old, clip=0.5)
        np.testing.assert_allclose(loss, [6.25, 6.25, 0.04], rtol=1e-6)

    def test_the_golden_huber_loss(self):
        prediction, target = np.array([10.0, 11, 12, 10, 9]), np.array([12.0, 8, 10, 13, 11])
        assert float(tf.reduce_mean(huber(target - prediction, delta=1.0))) == pytest.approx(1.9)

    def test_huber_is_quadratic_inside_and_linear_outside_with_a_bounded_gradient(self):
        np.testing.assert_allclose(huber([-2.0, -0.5, 0.0, 1.0, 3.0]), [1.5, 0.125, 0, 0.5, 2.5])
        np.testing.assert_allclose(huber([4.0], delta=2.0), [6.0])
        (errors,) = gradients_of(huber, [-100.0, -0.25, 0.0, 0.25, 100.0])
        np.testing.assert_allclose(errors, [-1, -0.25, 0, 0.25, 1])

    def test_huber_refuses_a_delta_that_is_not_positive(self):
        with pytest.raises(ValueError, match="delta must be above 0"):
            huber([1.0], delta=0.0)


REWARDS = [1.0, 2.0, -1.0]
DISCOUNTS = [0.9, 0.0, 0.81]
TARGET = [[1.0, 5.0], [7.0, 3.0], [-2.0, -4.0]]
ONLINE = [[9.0, 0.0], [0.0, 1.0], [3.0, 4.0]]


class TestQLearning:
    def test_the_target_takes_the_largest_value(self):
        targets = q_learning_targets(REWARDS, DISCOUNTS, TARGET)
        np.testing.assert_allclose(targets, [1 + 0.9 * 5, 2.0, -1 - 0.81 * 2], rtol=1e-6)

    def test_the_double_target_values_the_online_networks_choice_by_the_target_network(self):
        targets = double_q_learning_targets(REWARDS, DISCOUNTS, TARGET, ONLINE)
        np.testing.assert_allclose(targets, [1 + 0.9 * 1, 2.0, -1 - 0.81 * 4], rtol=1e-6)

    def test_nothing_is_added_after_a_termination_whatever_its_value(self):
        for rule in (q_learning_targets, lambda *x: double_q_learning_targets(*x, x[2])):
            np.testing.assert_allclose(rule([3.0], [0.0], [[1e6, -1e6]]), [3.0])

    def test_the_error_is_that_of_the_action_taken_and_not_of_the_largest_value(self):
        errors = td_errors([[1.0, 10.0], [2.0, 20.0]], [0, 1], [5.0, 5.0])
        np.testing.assert_allclose(errors, [4.0, -15.0])

    @pytest.mark.parametrize("double", [False, True])
    def test_no_gradient_flows_into_targets(self, double):
        def loss(values, target, online):
            targets = q_learning_targets(REWARDS, DISCOUNTS, target)
            if double:
                targets = double_q_learning_targets(REWARDS, DISCOUNTS, target, online)
            return td_errors(values, [0, 1, 0], targets) ** 2

        q_values = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
        of_values, of_target, of_online = gradients_of(loss, q_values, TARGET, ONLINE)
        assert of_target is None
        assert of_online is None
        assert (np.asarray(of_values) != 0).sum() == 3
