"""Targets of Q-learning, against numbers worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg.ops.value_losses import double_q_learning_targets, huber, q_learning_targets, td_errors

REWARDS = [1.0, 2.0, -1.0]
DISCOUNTS = [0.9, 0.0, 0.81]
TARGET = [[1.0, 5.0], [7.0, 3.0], [-2.0, -4.0]]
ONLINE = [[9.0, 0.0], [0.0, 1.0], [3.0, 4.0]]


class TestTargets:
    def test_q_learning_takes_the_largest_value(self):
        targets = q_learning_targets(REWARDS, DISCOUNTS, TARGET)
        np.testing.assert_allclose(targets, [1 + 0.9 * 5, 2.0, -1 - 0.81 * 2], rtol=1e-6)

    def test_double_values_the_online_networks_choice_by_the_target_network(self):
        targets = double_q_learning_targets(REWARDS, DISCOUNTS, TARGET, ONLINE)
        np.testing.assert_allclose(targets, [1 + 0.9 * 1, 2.0, -1 - 0.81 * 4], rtol=1e-6)

    def test_nothing_comes_after_a_termination_whatever_its_value(self):
        for rule in (q_learning_targets, lambda *x: double_q_learning_targets(*x, x[2])):
            np.testing.assert_allclose(rule([3.0], [0.0], [[1e6, -1e6]]), [3.0])

    def test_the_error_is_of_the_action_that_was_taken(self):
        # Not of the largest value, as the seed of this library has it.
        errors = td_errors([[1.0, 10.0], [2.0, 20.0]], [0, 1], [5.0, 5.0])
        np.testing.assert_allclose(errors, [4.0, -15.0])

    @pytest.mark.parametrize("double", [False, True])
    def test_no_gradient_flows_into_targets(self, double):
        target, online = tf.Variable(TARGET), tf.Variable(ONLINE)
        q_values = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        with tf.GradientTape() as tape:
            if double:
                targets = double_q_learning_targets(REWARDS, DISCOUNTS, target, online)
            else:
                targets = q_learning_targets(REWARDS, DISCOUNTS, target)
            loss = tf.reduce_sum(td_errors(q_values, [0, 1, 0], targets) ** 2)
        of_target, of_online, of_values = tape.gradient(loss, [target, online, q_values])
        assert of_target is None
        assert of_online is None
        assert (np.asarray(of_values) != 0).sum() == 3

    def test_huber_is_the_golden_number(self):
        errors = np.array([10, 11, 12, 10, 9.0]) - np.array([12, 8, 10, 13, 11.0])
        assert float(tf.reduce_mean(huber(errors))) == pytest.approx(1.9)
