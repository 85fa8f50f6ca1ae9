"""From trajectories to batches: weights of steps, minibatches, and the scale of rewards."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small import episodes_of

from tfpg.agents.minibatches import make_batch, minibatch_order
from tfpg.agents.on_policy import ReturnScale
from tfpg.rollouts.trajectory import Trajectory


class TestAdvantages:
    def test_the_golden_values_leave_padding_out(self):
        data = episodes_of([[10, 10], [0, 20], [-50, 99]], [[1, 1], [1, 1], [1, 0]])
        batch = make_batch(data, gamma=0.8)
        expected = [-0.28435071, -0.86597718, -1.18910299, 1.26665318, 1.0727777]
        np.testing.assert_allclose(batch.advantages, expected, rtol=1e-6)
        np.testing.assert_array_equal(batch.inputs[:, 0], [0, 2, 4, 1, 3])

    def test_one_step_and_equal_returns_weigh_nothing(self):
        assert make_batch(episodes_of([[5.0]]), 0.9).advantages.tolist() == [0.0]
        assert (make_batch(episodes_of([[3.0, 3.0, 3.0]]), 0.9).advantages == 0).all()

    def test_a_baseline_is_subtracted(self):
        data = episodes_of([[10, 10], [0, 20], [-50, 99]], [[1, 1], [1, 1], [1, 0]])
        # The returns are -22, -40, -50 and 26, 20.
        for baseline, values, advantages in [
            (None, [0, 0, 0, 0, 0], [-22, -40, -50, 26, 20]),
            ("mean", [-13.2] * 5, [-8.8, -26.8, -36.8, 39.2, 33.2]),
            ("step", [2, -10, -50, 2, -10], [-24, -30, 0, 24, 30]),
        ]:
            batch = make_batch(data, gamma=0.8, per=None, baseline=baseline)
            np.testing.assert_allclose(batch.values, values, rtol=1e-6)
            np.testing.assert_allclose(batch.advantages, advantages, rtol=1e-5)

    def test_z_scores_are_compared_at_the_same_step(self):
        data = episodes_of([[10, 10], [0, 20], [-50, 99]], [[1, 1], [1, 1], [1, 0]])
        batch = make_batch(data, gamma=0.8, baseline="step")
        std = np.std([-22, -40, -50, 26, 20])
        expected = np.array([-24, -30, 0, 24, 30]) / std
        np.testing.assert_allclose(batch.advantages, expected, rtol=1e-6)

    def test_a_single_episode_is_not_compared_with_itself(self):
        data = episodes_of([[1.0], [1.0], [1.0]])
        alone = make_batch(data, 0.9, baseline="step").advantages
        np.testing.assert_array_equal(alone, make_batch(data, 0.9).advantages)
        assert alone.any()

    def test_equal_episodes_differ_in_nothing_but_rounding_and_weigh_nothing(self):
        rewards = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 7, axis=1)
        batch = make_batch(episodes_of(rewards), 0.97, baseline="step")
        assert (batch.advantages == 0).all()

    def test_a_truncation_is_an_end_without_values(self):
        data = episodes_of([[1.0], [1.0], [1.0]])
        cut = data._replace(terminated=data.truncated, truncated=data.terminated)
        one, other = (make_batch(each, 0.9).advantages for each in (data, cut))
        np.testing.assert_array_equal(one, other)


@given(
    count=st.integers(1, 60),
    spare=st.integers(0, 10),
    epochs=st.integers(1, 3),
    parts=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_every_epoch_of_minibatches_has_every_step_once(count, spare, epochs, parts):
    capacity = max(count + spare, parts)
    rng = np.random.default_rng(0)
    steps = 2 * np.arange(count)
    order = minibatch_order(steps, capacity, epochs, parts, rng)
    assert order.shape[1] == -(-capacity // parts)
    assert (order >= 0).any(axis=1).all()
    used = min(parts, count)
    assert len(order) == epochs * used
    for epoch in range(epochs):
        rows = order[epoch * used : (epoch + 1) * used]
        assert sorted(rows[rows >= 0].tolist()) == steps.tolist()
    assert np.ptp((order >= 0).sum(axis=1)) <= 1


class TestReturnScale:
    def rollout(self, rewards, ended):
        never = np.zeros_like(ended)
        return Trajectory(None, None, rewards, ended, never, np.ones_like(rewards), None)

    def test_rewards_are_divided_by_the_standard_deviation_of_the_discounted_return(self):
        rng = np.random.default_rng(0)
        rewards = rng.normal(3, 2, (200, 8))
        ended = rng.random((200, 8)) < 0.1
        running, returns = np.zeros(8), []
        for t in range(200):
            running = 0.9 * running + rewards[t]
            returns.append(running)
            running = np.where(ended[t], 0, running)
        scale, scaled = ReturnScale.initial(8).scaled(self.rollout(rewards, ended), 0.9)
        np.testing.assert_allclose(scaled, rewards / np.std(returns), rtol=1e-6)
        np.testing.assert_allclose(scale.returns, running)

    def test_returns_that_are_all_the_same_are_not_scaled(self):
        one = np.ones((1, 3))
        _, scaled = ReturnScale.initial(3).scaled(self.rollout(one, one > 0), 0.9)
        np.testing.assert_array_equal(scaled, one)

    def test_the_return_is_summed_across_rollouts(self):
        one, scale = np.ones((1, 1)), ReturnScale.initial(1)
        for expected in (1.0, 2.0, 3.0):
            scale, _ = scale.scaled(self.rollout(one, one < 0), 1.0)
            assert scale.returns.tolist() == [expected]
