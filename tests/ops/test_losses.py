import numpy as np
import pytest
import tensorflow as tf

from tfpg.ops.policy_losses import entropy_loss, policy_gradient_loss
from tfpg.ops.value_losses import huber
from tfpg.schedules import exponential


def test_policy_gradient_loss_is_weight_times_log_prob_and_not_reduced():
    loss = policy_gradient_loss([-0.5, -2.0, -1.0], [1.0, -3.0, 0.0])
    np.testing.assert_allclose(loss, [0.5, -6.0, 0.0])


def test_no_gradient_flows_into_the_advantages():
    log_probs, advantages = tf.Variable([-0.5, -2.0]), tf.Variable([1.0, -3.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(policy_gradient_loss(log_probs, advantages))
    into_log_probs, into_advantages = tape.gradient(loss, [log_probs, advantages])
    np.testing.assert_allclose(into_log_probs, [-1.0, 3.0])
    assert into_advantages is None


def test_entropy_loss_pulls_towards_more_entropy():
    entropies = tf.Variable([0.5, 0.1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(entropy_loss(entropies))
    np.testing.assert_allclose(tape.gradient(loss, entropies), [-1.0, -1.0])


def test_huber_golden():
    prediction, target = np.array([10.0, 11, 12, 10, 9]), np.array([12.0, 8, 10, 13, 11])
    assert float(tf.reduce_mean(huber(target - prediction, delta=1.0))) == pytest.approx(1.9)


def test_huber_is_quadratic_inside_and_linear_outside():
    np.testing.assert_allclose(huber([-2.0, -0.5, 0.0, 1.0, 3.0]), [1.5, 0.125, 0, 0.5, 2.5])
    np.testing.assert_allclose(huber([4.0], delta=2.0), [6.0])


def test_huber_has_a_bounded_gradient():
    errors = tf.Variable([-100.0, -0.25, 0.0, 0.25, 100.0])
    with tf.GradientTape() as tape:
        loss = huber(errors)
    np.testing.assert_allclose(tape.gradient(loss, errors), [-1, -0.25, 0, 0.25, 1])


def test_huber_refuses_a_delta_that_is_not_positive():
    with pytest.raises(ValueError, match="delta must be above 0"):
        huber([1.0], delta=0.0)


def test_exponential_schedule_golden():
    epsilon = exponential(start=1.0, end=0.01, rate=1e-3)
    expected = {0: 1.0, 1000: 0.01 + 0.99 / np.e, 3000: 0.01 + 0.99 * np.exp(-3)}
    for episode, value in expected.items():
        assert epsilon(episode) == pytest.approx(value, abs=1e-12)
    assert epsilon(10**6) == pytest.approx(0.01)


def test_exponential_schedule_refuses_a_negative_rate():
    with pytest.raises(ValueError, match="rate"):
        exponential(1.0, 0.1, -1.0)
