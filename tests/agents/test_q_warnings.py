"""Warnings that teach Q-learners: each for its sign, and none in a training that is well."""

import warnings

import keras
import numpy as np
import pytest
from small import SMALL, q_network
from test_dqn import train
from toys import Countdown

import tfpg
from tfpg.agents.warnings import QLearningWarnings as QAdvice
from tfpg.errors import TrainingWarning
from tfpg.rollouts.trajectory import Trajectory


def steps(count=100, reward=1.0, ends=10, truncated=False):
    """Steps of two environments, each episode ``ends`` long."""
    over = np.zeros((count, 2), bool)
    if ends:
        over[ends - 1 :: ends] = True
    return Trajectory(
        np.zeros((count + 1, 2, 1)),
        np.zeros((count, 2), int),
        np.full((count, 2), reward),
        over & (not truncated),
        over & truncated,
        np.ones((count, 2)),
        np.zeros((count, 2)),
    )


def said(values, returns=None, data=None, gamma=0.9, capacity=1000, starts=100):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        advice = QAdvice(gamma, capacity, starts)
        for each in [steps()] if data is None else data:
            advice.meet(each)
        for i, value in enumerate(values):
            logs = {"mean_q": value}
            if returns is not None:
                logs["episode_return"] = returns[i]
            advice.look(logs)
    assert all(issubclass(w.category, TrainingWarning) for w in caught)
    return [str(w.message) for w in caught]


class TestDiverging:
    def test_beyond_any_return(self):
        # Rewards of 1 at 0.9: nothing is worth more than 10.
        (text,) = said([16.0] * 20)
        assert text.startswith("Q-values diverge: their mean is 16, and with gamma=0.9 and the")
        assert "beyond 15." in text

    def test_only_when_it_lasts(self):
        assert said([16.0] * 4 + [5.0] + [16.0] * 4) == []
        assert said([14.0] * 30) == []
        assert said([-16.0] * 5)

    def test_beyond_ten_times_what_episodes_that_end_gave(self):
        # One reward of 1 at the end of ten steps.
        data = steps()
        data.rewards[:] = data.terminated
        assert said([9.0] * 5, data=[data], gamma=0.99) == []
        (text,) = said([11.0] * 5, data=[data], gamma=0.99)
        assert "beyond 10." in text

    def test_what_somebody_stopped_might_have_gone_on(self):
        data = steps(truncated=True)
        data.rewards[:] = data.truncated
        assert said([11.0] * 5, data=[data], gamma=0.99) == []
        assert said([151.0] * 5, data=[data], gamma=0.99)

    def test_without_discounting(self):
        assert said([99.0] * 5, gamma=1.0) == []
        assert said([101.0] * 5, gamma=1.0)

    def test_before_any_reward_nothing_is_said(self):
        assert said([3.0] * 9, data=[steps(reward=0.0)]) == []

    def test_in_a_training(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(1.0))
        with pytest.warns(TrainingWarning, match="Q-values diverge"):
            train(Countdown, 20, model=model, gamma=0.9)


class TestDrifting:
    def test_values_that_grow_while_returns_do_not(self):
        values = np.linspace(10, 30, 25)
        (text,) = said(gamma=0.99, values=values, returns=[9.0] * 25)
        assert text.startswith("The targets drift: mean Q went from 10 to 25.8 in 20 iterations")

    def test_not_when_returns_follow(self):
        values = np.linspace(10, 30, 25)
        assert said(gamma=0.99, values=values, returns=np.linspace(5, 50, 25)) == []

    def test_not_within_what_was_met(self):
        assert said(gamma=0.99, values=np.linspace(2, 14, 25), returns=[9.0] * 25) == []

    def test_not_before_returns_are_known(self):
        assert said(gamma=0.99, values=np.linspace(10, 30, 25)) == []


class TestReplay:
    def test_without_a_termination(self):
        data = [steps(1000, truncated=True)] * 6
        (text,) = said([1.0] * 3, data=data)
        assert text.startswith("None of 12,000 steps terminated, all episodes were truncated")
        assert said([1.0] * 3, data=data[:4]) == []
        assert said([1.0] * 3, data=[*data, steps()]) == []

    def test_smaller_than_the_warm_up(self):
        (text,) = said([], capacity=500, starts=1000)
        assert text.startswith("The replay holds 500 steps, and learning_starts=1,000")

    def test_in_a_fit(self):
        with pytest.warns(TrainingWarning, match="holds 64 steps, and learning_starts=100"):
            train(Countdown, 1, model=q_network(inputs=2), capacity=64, learning_starts=100)


def test_a_training_that_is_well_hears_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        agent = tfpg.DQN(q_network(seed=1), **{**SMALL, "updates_per_learn": 8})
        agent.fit("CartPole-v1", 30, seed=0, verbose=0)
