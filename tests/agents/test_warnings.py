"""Warnings that teach: shown once, when a sign lasts, and never in a training that goes well."""

import warnings

import keras
import numpy as np
import pytest
from gymnasium import spaces
from small import BOX, SMALL, q_network, small_agent, small_model, small_sac
from toys import Countdown, Walk

import tfpg
from tfpg.agents.warnings import QLearningWarnings, TrainingWarnings
from tfpg.core.options import options_of
from tfpg.errors import TrainingWarning
from tfpg.models.heads import (
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    MultiBinaryHead,
    MultiCategoricalHead,
)
from tfpg.rollouts.trajectory import Trajectory

HEADS = {  # with the largest entropy
    "bernoulli": (BernoulliHead(spaces.Discrete(2), True, 1), np.log(2)),
    "categorical": (CategoricalHead(spaces.Discrete(4), True), np.log(4)),
    "multi-categorical": (MultiCategoricalHead(spaces.MultiDiscrete([3, 2]), True), np.log(6)),
    "multi-binary": (MultiBinaryHead(spaces.MultiBinary(3), True), 3 * np.log(2)),
}


def training_warnings(function):
    """The texts of the `TrainingWarning`s of a call, which issues no other warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    assert all(issubclass(w.category, TrainingWarning) for w in caught)
    return [str(w.message) for w in caught]


class TestPolicies:
    def warnings_of(self, *iterations, head=HEADS["bernoulli"][0]):
        """The warnings after iterations, each given as logs and the returns that ended in it."""
        signs = TrainingWarnings(head)

        def look():
            for logs, returns in iterations:
                signs.look({"entropy": 0.5, "grad_norm": 1.0, **logs}, returns)

        return training_warnings(look)

    def test_a_training_that_goes_well_shows_no_warning(self):
        assert self.warnings_of(*[({}, [1.0, 2.0])] * 50) == []

    @pytest.mark.parametrize("name", HEADS)
    def test_an_entropy_that_stays_collapsed_is_a_warning(self, name):
        head, largest = HEADS[name]
        fallen, low = ({"entropy": x * largest} for x in (0.009, 0.011))
        (text,) = self.warnings_of(*[(fallen, [1.0, 2.0])] * 30, head=head)
        assert "hardly explores anymore" in text
        assert self.warnings_of(*[(low, [1.0, 2.0])] * 30, head=head) == []
        dips = *[(fallen, [1.0, 2.0])] * 4, ({}, [1.0]), *[(fallen, [1.0])] * 4
        assert self.warnings_of(*dips, head=head) == []

    def test_a_standard_deviation_far_below_the_bounds_is_a_warning(self):
        def iterations(std):
            entropy = 2 * (np.log(std) + 0.5 * np.log(2 * np.pi * np.e))
            return [({"entropy": entropy}, [1.0, 2.0])] * 9

        bounded = GaussianHead(BOX, 4)
        unbounded = GaussianHead(spaces.Box(-np.inf, np.inf, (2,)), 4)
        assert len(self.warnings_of(*iterations(1e-4), head=bounded)) == 1
        assert self.warnings_of(*iterations(1e-2), head=bounded) == []
        assert self.warnings_of(*iterations(1e-2), head=unbounded) == []

    def test_returns_that_never_differ_are_a_warning(self):
        (text,) = self.warnings_of(*[({"grad_norm": 0.0}, [-500.0] * 4)] * 20)
        assert "episodes so far have the return -500.0: no action looks better" in text
        # A single other return is enough, even if it is long ago.
        assert self.warnings_of(({}, [-400.0]), *[({}, [-500.0] * 4)] * 20) == []

    def test_equal_returns_of_a_trained_model_are_no_warning(self):
        signs = TrainingWarnings(HEADS["bernoulli"][0], trained=True)
        look = lambda: [signs.look({"entropy": 0.5}, [500.0] * 4) for _ in range(20)]  # noqa: E731
        assert training_warnings(look) == []

    def test_only_options_of_the_agent_are_recommended(self):
        def texts(agent):
            signs = TrainingWarnings(HEADS["bernoulli"][0], options_of(agent))
            return training_warnings(
                lambda: [signs.look({"entropy": 0.5}, [-500.0] * 4) for _ in range(20)]
            )

        assert "Explore more (entropy_coef), play" in texts(tfpg.PPO)[0]
        assert "Explore more (explore_steps, epsilon), play" in texts(tfpg.DQN)[0]

    @pytest.mark.parametrize(
        ("alpha", "advice"), [("auto", "a larger target_entropy or"), (1e-6, "a larger alpha or")]
    )
    def test_what_determines_the_entropy_of_sac_is_recommended(self, alpha, advice):
        agent = small_sac(alpha=alpha)
        agent.model.layers[-1].bias.assign([0.0, -20.0])
        agent.model.compile(keras.optimizers.SGD(0.0))
        agent.critic.compile(keras.optimizers.SGD(0.0))
        texts = training_warnings(lambda: agent.fit("Pendulum-v1", 6, seed=0, verbose=0))
        assert any(f"use {advice} a smaller" in text for text in texts)

    def unexplained(self, returns, explained=0.0, steps=2000, count=60):
        step = iter(range(0, 10**9, steps))
        return self.warnings_of(
            *(
                ({"explained_variance": explained, "env_steps": next(step)}, returns(i))
                for i in range(count)
            )
        )

    def test_a_value_function_that_explains_nothing_is_a_warning(self):
        noise = np.random.default_rng(0).normal(100, 30, (60, 5))
        (text,) = self.unexplained(lambda i: noise[i])
        assert "explains nothing" in text
        assert self.unexplained(lambda i: noise[i], explained=0.2) == []
        assert self.unexplained(lambda i: noise[i], steps=100) == []  # too early
        assert self.unexplained(lambda i: noise[i] + 10 * i) == []  # it improves
        assert self.unexplained(lambda i: [500.0] * 4 if i % 9 else [480.0, 500.0]) == []  # solved

    def test_a_vanished_gradient_is_a_warning_if_returns_differ(self):
        (text,) = self.warnings_of(*[({"grad_norm": 1e-12}, [1.0, 2.0])] * 20)
        assert "gradient has vanished" in text
        equal = [({"grad_norm": 1e-12}, [1.0, 1.0])] * 3
        assert self.warnings_of(*equal, *[({}, [2.0])] * 9) == []

    def test_many_clipped_actions_are_a_warning(self):
        (text,) = self.warnings_of(*[({"clipped_actions": 0.8}, [1.0, 2.0])] * 20)
        assert "80% of the actions are out of bounds" in text
        assert "squash=True" in text
        assert self.warnings_of(*[({"clipped_actions": 0.4}, [1.0, 2.0])] * 20) == []


def rollout(steps=100, reward=1.0, length=10, truncated=False):
    """Steps of two environments with episodes of a given length, which pay the same each step."""
    over = np.zeros((steps, 2), bool)
    over[length - 1 :: length] = True
    return Trajectory(
        np.zeros((steps + 1, 2, 1)),
        np.zeros((steps, 2), int),
        np.full((steps, 2), reward),
        over & (not truncated),
        over & truncated,
        np.ones((steps, 2)),
        np.zeros((steps, 2)),
    )


class TestQValues:
    def warnings_of(
        self, values, returns=None, data=None, gamma=0.9, capacity=1000, starts=100, support=None
    ):
        """The warnings after iterations with the given mean Q-values and returns."""

        def look():
            signs = QLearningWarnings(gamma, capacity, starts)
            signs.support = support
            for each in [rollout()] if data is None else data:
                signs.meet(each)
            for i, value in enumerate(values):
                episode_return = {} if returns is None else {"episode_return": returns[i]}
                signs.look({"mean_q": value, **episode_return})

        return training_warnings(look)

    def test_values_that_stay_beyond_any_discounted_return_are_a_warning(self):
        # With rewards of 1 and gamma=0.9 nothing is worth more than 10.
        (text,) = self.warnings_of([16.0] * 20)
        assert text.startswith("Q-values diverge: their mean is 16, but with gamma=0.9 and the")
        assert "exceed 15." in text
        assert self.warnings_of([-16.0] * 5)
        assert self.warnings_of([16.0] * 4 + [5.0] + [16.0] * 4) == []
        assert self.warnings_of([14.0] * 30) == []

    def test_values_beyond_ten_times_the_returns_of_terminated_episodes_are_a_warning(self):
        data = rollout()
        data.rewards[:] = data.terminated  # 1 at the end of ten steps
        assert self.warnings_of([9.0] * 5, data=[data], gamma=0.99) == []
        (text,) = self.warnings_of([11.0] * 5, data=[data], gamma=0.99)
        assert "exceed 10." in text

    def test_values_may_be_larger_if_episodes_were_truncated(self):
        data = rollout(truncated=True)
        data.rewards[:] = data.truncated
        assert self.warnings_of([11.0] * 5, data=[data], gamma=0.99) == []
        assert self.warnings_of([151.0] * 5, data=[data], gamma=0.99)

    def test_without_discounting_only_the_returns_bound_the_values(self):
        assert self.warnings_of([99.0] * 5, gamma=1.0) == []
        assert self.warnings_of([101.0] * 5, gamma=1.0)

    def test_before_any_reward_there_is_no_warning(self):
        assert self.warnings_of([3.0] * 9, data=[rollout(reward=0.0)]) == []

    def test_values_that_grow_while_the_returns_do_not_are_a_warning(self):
        values = np.linspace(10, 30, 25)
        (text,) = self.warnings_of(values, [9.0] * 25, gamma=0.99)
        assert text.startswith("The targets drift: the mean Q-value went from 10 to 25.8 in 20 it")
        assert self.warnings_of(values, np.linspace(5, 50, 25), gamma=0.99) == []
        assert self.warnings_of(values, gamma=0.99) == []  # no episode has ended yet
        within_the_returns = np.linspace(2, 14, 25)
        assert self.warnings_of(within_the_returns, [9.0] * 25, gamma=0.99) == []

    def test_many_steps_without_a_termination_are_a_warning(self):
        data = [rollout(1000, truncated=True)] * 6
        (text,) = self.warnings_of([1.0] * 3, data=data)
        assert text.startswith("None of 12,000 steps terminated; all episodes were truncated")
        assert self.warnings_of([1.0] * 3, data=data[:4]) == []
        assert self.warnings_of([1.0] * 3, data=[*data, rollout()]) == []

    def test_returns_beyond_the_range_of_the_distributions_are_a_warning(self):
        # Ten rewards of 1 with gamma=0.9 are worth 6.51.
        (text,) = self.warnings_of([1.0] * 3, support=(0.0, 6.4))
        assert text.startswith(
            "Discounted returns range from 1 to 6.51, outside the network's range"
        )
        assert "v_min=0 to v_max=6.4" in text
        (text,) = self.warnings_of([-1.0] * 3, data=[rollout(reward=-1.0)], support=(-6.4, 0.0))
        assert text.startswith("Discounted returns range from -6.51 to -1,")
        assert self.warnings_of([1.0] * 3, support=(0.0, 6.4), gamma=0.85) == []
        # A last reward is the return of the last step.
        crash = rollout(steps=100, length=100)
        crash.rewards[:] = -20.0 * crash.terminated
        (text,) = self.warnings_of([-1.0] * 3, data=[crash], support=(-10.0, 10.0))
        assert text.startswith("Discounted returns range from -20 to -0.00059,")
        # One percent beyond is fine.
        assert self.warnings_of([1.0] * 3, support=(0.0, 6.46)) == []

    def test_a_replay_smaller_than_the_warm_up_is_a_warning(self):
        (text,) = self.warnings_of([], capacity=500, starts=1000)
        assert text.startswith(
            "The replay buffer holds 500 steps, fewer than learning_starts=1,000"
        )


class TestInTraining:
    def test_warnings_point_at_the_line_that_calls_fit(self):
        constant = small_agent(tfpg.Reinforce, Countdown, episodes_per_update=8)
        with pytest.warns(TrainingWarning, match="All .* episodes so far have the ret") as shown:
            constant.fit(Countdown, 12, seed=0, verbose=0)
        assert [each.filename for each in shown] == [__file__]

        small = tfpg.DQN(q_network(2), **{**SMALL, "capacity": 64, "learning_starts": 100})
        with pytest.warns(TrainingWarning, match="holds 64 steps, fewer than learn") as shown:
            small.fit(Countdown, 1, seed=0, verbose=0)
        assert __file__ in [each.filename for each in shown]

    def test_dead_units_are_a_warning(self):
        x = keras.Input((3,))
        minus_one = keras.initializers.Constant(-1)
        dead = keras.layers.Dense(4, "relu", kernel_initializer="zeros", bias_initializer=minus_one)
        model = keras.Model(x, keras.layers.Dense(2, use_bias=False)(dead(x)))
        agent = tfpg.Reinforce(model, episodes_per_update=8)
        with pytest.warns(TrainingWarning, match="gradient has vanished"):
            agent.fit(Walk, 8, seed=0, verbose=0)

    def test_diverging_q_values_are_a_warning(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(1.0))
        agent = tfpg.DQN(model, **{**SMALL, "gamma": 0.9})
        with pytest.warns(TrainingWarning, match="Q-values diverge"):
            agent.fit(Countdown, 20, seed=3, verbose=0)

    def test_a_range_that_is_too_small_is_a_warning(self):
        model = small_model(tfpg.C51, Countdown)
        agent = small_agent(tfpg.C51, Countdown, model, v_min=-1.0, v_max=-0.5)
        with pytest.warns(TrainingWarning, match="Discounted returns range from"):
            agent.fit(Countdown, 1, seed=3, verbose=0)

    def test_the_next_fit_remembers_returns_and_uses_its_own_gamma(self):
        class Paying(Countdown):
            reward = 1.0

            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, self.reward, *rest

        def warnings_of_fit(first, last):
            options = {"initial_iteration": first, "seed": 0, "verbose": 0}
            texts = training_warnings(lambda: agent.fit(Paying, last, **options))
            return [text for text in texts if text.startswith("Q-values")]

        model = q_network(2, optimizer=keras.optimizers.SGD(0.0))
        agent = tfpg.DQN(model, **SMALL)
        model.layers[-1].bias.assign([5.0, 5.0])  # below ten times the return of 3
        assert warnings_of_fit(0, 1) == []
        Paying.reward = 1e-3  # without the returns of before, 5 would be too much
        assert warnings_of_fit(1, 7) == []
        model.layers[-1].bias.assign([40.0, 40.0])
        agent.gamma = 0.5
        (text,) = warnings_of_fit(7, 12)
        assert "but with gamma=0.5 and the rewards so far" in text

    def test_a_dqn_that_learns_shows_no_warning(self):
        agent = tfpg.DQN(q_network(seed=1), **{**SMALL, "updates_per_learn": 8})
        fit = lambda: agent.fit("CartPole-v1", 30, seed=0, verbose=0)  # noqa: E731
        assert training_warnings(fit) == []

    def test_a_greedy_agent_without_noise_is_warned(self):
        agent = small_agent(tfpg.Rainbow, model=small_model(tfpg.C51))
        with pytest.warns(TrainingWarning, match="Nothing explores: epsilon is 0, and the model"):
            agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        agent = small_agent(tfpg.PQN, epsilon=0)
        expected = "Nothing explores: epsilon is 0. Use a schedule for epsilon."
        assert expected in training_warnings(lambda: agent.fit("CartPole-v1", 1, seed=0, verbose=0))
