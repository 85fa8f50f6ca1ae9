"""What is drawn of a policy, computed by hand from the outputs of constant models."""

import math
import warnings

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import tfpg
from tfpg.video.drawing import short_number
from tfpg.video.explain import (
    RunningRange,
    action_bars,
    action_names,
    action_text,
    entropy,
    two_decimals,
    value_function,
    widest_bar_labels,
)
from tfpg.video.panel import Bar

layers = keras.layers
X = np.zeros((1, 3), np.float32)
INF = np.inf


class SpacesOnly(gymnasium.Env):
    """As much of an environment as a policy needs."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space, env_id=None, meanings=None):
        self.action_space = action_space
        self.spec = EnvSpec(env_id) if env_id else None
        if meanings:
            self.get_action_meanings = lambda: list(meanings)


def policy_of(space, outputs, activation=None, **options):
    """A policy whose model returns these outputs, before its activation, for every observation."""
    dense = layers.Dense(len(outputs), activation, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((3,)), dense])
    dense.bias.assign(outputs)
    return tfpg.Policy(model, SpacesOnly(space), **options)


def bars_of(policy, names, q_range=None, noise=None):
    return action_bars(policy, policy.actor()(X, noise), names, q_range or RunningRange())


def shown(bars):
    return [(bar.label, bar.text, bar.chosen) for bar in bars]


def lengths(bars):
    return [bar.length for bar in bars]


def logs(*numbers):
    return [math.log(n) for n in numbers]


def box(low, high):
    return spaces.Box(np.array(low, "float32"), np.array(high, "float32"))


class TestRunningRange:
    def test_it_widens_and_never_narrows(self):
        values = RunningRange()
        assert values.scale(np.array([0.0, 4.0])).tolist() == [0.0, 1.0]
        assert values.scale(np.array([1.0])).tolist() == [0.25]
        assert values.scale(np.array([8.0, 4.0])).tolist() == [1.0, 0.5]
        assert values.scale(np.array([-8.0, 0.0])).tolist() == [0.0, 0.5]

    def test_equal_values_lie_in_the_middle(self):
        values = RunningRange()
        assert values.scale(np.array([3.0, 3.0])).tolist() == [0.5, 0.5]
        assert values.scale(np.array([4.0, 3.0])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("space", "env_id", "names"),
    [
        (spaces.Discrete(2), "CartPole-v1", ("left", "right")),
        (spaces.Discrete(2), "phys2d/CartPole-v0", ("left", "right")),
        (spaces.Discrete(3), "CartPole-v1", ("action 0", "action 1", "action 2")),
        (spaces.Discrete(3, start=-1), None, ("action -1", "action 0", "action 1")),
        (spaces.Box(-1, 1, (2,)), "LunarLander-v3", ("main engine", "side engines")),
        (spaces.Box(-1, 1, (2, 2)), "Unknown-v0", tuple(f"action {i}" for i in range(4))),
        (spaces.Box(-1, 1, ()), None, ("action 0",)),
        (spaces.MultiDiscrete([3, 2]), None, ("action 0", "action 1")),
        (spaces.MultiBinary(3), None, ("action 0", "action 1", "action 2")),
    ],
)
def test_actions_have_their_known_names_or_numbers(space, env_id, names):
    assert action_names(SpacesOnly(space, env_id)) == names


@pytest.mark.parametrize(
    "env_id",
    [
        *("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1"),
        *("FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"),
        *("LunarLander-v3", "BipedalWalker-v3", "CarRacing-v3"),
    ],
)
def test_the_actions_of_gymnasiums_environments_have_names(env_id):
    if env_id not in gymnasium.registry:
        pytest.skip(f"this Gymnasium has no {env_id}")
    env = gymnasium.make(env_id)
    names = action_names(env)
    assert len(names) == (env.action_space.n if hasattr(env.action_space, "n") else len(names))
    assert not any(name.startswith("action ") for name in names)
    env.close()


def test_an_environment_may_name_its_actions_itself():
    space = spaces.Discrete(2)
    named = SpacesOnly(space, "ALE/Pong-v5", ("NOOP", "FIRE"))
    assert action_names(gymnasium.wrappers.TimeLimit(named, 5)) == ("noop", "fire")
    too_many = SpacesOnly(space, None, ("NOOP", "FIRE", "UP"))
    assert action_names(too_many) == ("action 0", "action 1")


@pytest.mark.parametrize(
    ("space", "action", "text"),
    [
        (spaces.Discrete(2), np.int64(1), "b"),
        (spaces.Discrete(2, start=5), np.int64(5), "a"),
        (spaces.Discrete(2, start=-1), 0, "b"),
        (spaces.MultiDiscrete([3, 2]), np.array([2, 0]), "2 0"),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), "1 0 1"),
        (spaces.Box(0, 9, (2,), np.uint8), np.array([3, 9], np.uint8), "3 9"),
        (spaces.Box(-5, 5, (2, 2)), np.array([[0.5, -1], [2.346, 0]]), "0.50 -1.00 2.35 0.00"),
    ],
)
def test_an_action_is_shown_by_its_name_or_its_numbers(space, action, text):
    assert action_text(space, action, ("a", "b", "c")) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.001, "0.00"), (-0.006, "-0.01"), (-1.5, "-1.50"), (0.0, "0.00"), (123.456, "123.46")],
)
def test_two_decimals_show_zero_without_a_sign(value, text):
    assert two_decimals(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (-21.0, "-21"), (-0.0, "0"), (0.5, "0.5"), (-3.25, "-3.2"), (-0.04, "0.0")),
        *((1234.56, "1234.6"), (np.float32(2.0), "2"), (math.nan, "nan"), (-math.inf, "-inf")),
    ],
)
def test_returns_have_a_decimal_only_if_they_need_one(value, text):
    assert short_number(value) == text


class TestBarsOfProbabilities:
    @pytest.mark.parametrize("activation", [None, "sigmoid"])
    @pytest.mark.parametrize(("positive", "start"), [(1, 0), (0, 0), (1, 7)])
    def test_one_output_is_the_probability_of_the_positive_action(
        self, activation, positive, start
    ):
        # Odds of 3 to 1 are a logit of log 3.
        space = spaces.Discrete(2, start=start)
        bars = bars_of(policy_of(space, logs(3), activation, positive_action=positive), "ab")
        expected = [("a", "0.25", False), ("b", "0.75", True)]
        if positive == 0:
            expected = [("a", "0.75", True), ("b", "0.25", False)]
        assert shown(bars) == expected
        assert lengths(bars) == pytest.approx([float(text) for _, text, _ in expected], abs=1e-6)

    @pytest.mark.parametrize("activation", [None, "softmax"])
    @pytest.mark.parametrize("start", [0, -2])
    def test_several_outputs_are_logits_or_probabilities(self, activation, start):
        bars = bars_of(
            policy_of(spaces.Discrete(3, start=start), logs(12, 20, 8), activation), "abc"
        )
        assert shown(bars) == [("a", "0.30", False), ("b", "0.50", True), ("c", "0.20", False)]
        assert lengths(bars) == pytest.approx([0.3, 0.5, 0.2], abs=1e-6)

    def test_a_sampled_action_is_the_chosen_one(self):
        policy = policy_of(spaces.Discrete(3, start=1), logs(12, 20, 8))
        bars = bars_of(policy, "abc", noise=np.array([[0.0, 0.0, 50.0]], np.float32))
        assert shown(bars) == [("a", "0.30", False), ("b", "0.50", False), ("c", "0.20", True)]

    def test_multi_discrete_shows_the_probability_of_each_choice(self):
        policy = policy_of(spaces.MultiDiscrete([3, 2], start=[5, -1]), logs(20, 30, 50, 75, 25))
        bars = bars_of(policy, ("steer", "gas"))
        assert shown(bars) == [("steer: 7", "0.50", True), ("gas: -1", "0.75", True)]
        assert lengths(bars) == pytest.approx([0.5, 0.75], abs=1e-6)
        noise = np.array([[50.0, 0, 0, 0, 50.0]], np.float32)
        sampled = bars_of(policy, ("steer", "gas"), noise=noise)
        assert shown(sampled) == [("steer: 5", "0.20", True), ("gas: 0", "0.25", True)]

    def test_the_widest_labels_of_multi_discrete_leave_room_for_every_choice(self):
        space = spaces.MultiDiscrete([3, 12], start=[-5, 0])
        assert widest_bar_labels(space, ("steer", "gas")) == ("steer: -5", "gas: 11")

    @pytest.mark.parametrize("activation", [None, "sigmoid"])
    def test_multi_binary_shows_the_probability_of_a_1(self, activation):
        policy = policy_of(spaces.MultiBinary(3), [math.log(3), -math.log(4), 0.0], activation)
        bars = bars_of(policy, "abc")
        assert shown(bars) == [("a", "0.75", True), ("b", "0.20", False), ("c", "0.50", False)]
        assert lengths(bars) == pytest.approx([0.75, 0.2, 0.5], abs=1e-6)

    def test_multi_binary_in_rows_and_with_extreme_logits(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bars = bars_of(
                policy_of(spaces.MultiBinary([2, 2]), [200.0, -5.0, -200.0, 5.0]), "abcd"
            )
        assert [bar.chosen for bar in bars] == [True, False, False, True]

    def test_too_few_names_are_an_error(self):
        with pytest.raises(ValueError, match="zip"):
            bars_of(policy_of(spaces.Discrete(3), [0.0, 2.0, 4.0]), "ab")


class TestBarsOfValues:
    @pytest.mark.parametrize("start", [0, -1])
    def test_q_values_lie_within_the_range_so_far(self, start):
        policy = policy_of(spaces.Discrete(3, start=start), [-2.0, 6.0, 0.0], epsilon=0.1)
        q_range = RunningRange()
        assert bars_of(policy, "abc", q_range) == [
            Bar("a", 0.0, "-2.00", False),
            Bar("b", 1.0, "6.00", True),
            Bar("c", 0.25, "0.00", False),
        ]
        q_range.scale(np.array([14.0]))
        assert lengths(bars_of(policy, "abc", q_range)) == [0.0, 0.5, 0.125]

    def test_a_random_action_of_a_q_network_is_the_chosen_one(self):
        policy = policy_of(spaces.Discrete(3), [-2.0, 6.0, 0.0], epsilon=0.1)
        bars = bars_of(policy, "abc", noise=np.array([[0.05, 0.9]], np.float32))
        assert shown(bars) == [("a", "-2.00", False), ("b", "6.00", False), ("c", "0.00", True)]

    @pytest.mark.parametrize(
        ("space", "outputs", "options", "texts", "expected"),
        [
            (box([-1, 0], [1, 10]), [0.5, 2.5], {}, ["0.50", "2.50"], [0.75, 0.25]),
            # What is played is clipped to the bounds.
            (spaces.Box(-2, 2, (2,)), [7.0, -7.0], {}, ["2.00", "-2.00"], [1.0, 0.0]),
            (
                *(spaces.Box(0, 10, (2,)), [math.atanh(0.5), 0.0], {"squash": True}),
                *(["7.50", "5.00"], [0.75, 0.5]),
            ),
            # Without bounds numbers lie within the range so far.
            (
                *(spaces.Box(-INF, INF, (3,)), [-4.0, 0.0, 12.0], {}),
                *(["-4.00", "0.00", "12.00"], [0.0, 0.25, 1.0]),
            ),
            (
                *(box([-1, 0, -INF], [1, INF, INF]), [0.5, 2.0, 3.5], {}),
                *(["0.50", "2.00", "3.50"], [0.75, 0.5, 1.0]),
            ),
            (
                *(spaces.Box(-1, 1, (2, 2)), [0.0, 0.5, -0.5, 1.0], {}),
                *(["0.00", "0.50", "-0.50", "1.00"], [0.5, 0.75, 0.25, 1.0]),
            ),
            # A number that cannot change.
            (box([0, -1], [0, 1]), [0.0, 0.5], {}, ["0.00", "0.50"], [0.0, 0.75]),
        ],
    )
    def test_box_actions_lie_within_their_bounds(self, space, outputs, options, texts, expected):
        bars = bars_of(policy_of(space, outputs, **options), "abcd"[: len(texts)])
        assert [(bar.text, bar.chosen) for bar in bars] == [(text, True) for text in texts]
        assert lengths(bars) == pytest.approx(expected, abs=1e-6)


class TestValue:
    def test_it_is_the_models_second_output(self):
        x = keras.Input((3,))
        model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(1, use_bias=False)(x)])
        model.layers[-1].set_weights([np.array([[1.0], [10.0], [100.0]])])
        policy = tfpg.Policy(model, SpacesOnly(spaces.Discrete(2)))
        value, act = value_function(policy), policy.actor()
        for observation, expected in (([1, 2, 3], 321.0), ([0, 0, -1], -100.0)):
            rows = np.array([observation], np.float32)
            assert value(rows, act(rows)) == expected

    def test_observations_are_encoded_first(self):
        class Rooms(SpacesOnly):
            observation_space = spaces.Discrete(3, start=1)

        env = Rooms(spaces.Discrete(2))
        model = tfpg.networks.actor_critic(env, hidden=(), seed=0)
        model.layers[-1].set_weights([np.array([[1.0], [10.0], [100.0]]), np.zeros(1)])
        policy, rooms = tfpg.Policy(model, env), np.array([2])
        assert value_function(policy)(rooms, policy.actor()(rooms)) == 10.0

    def test_it_is_the_largest_q_value_whatever_is_played(self):
        policy = policy_of(spaces.Discrete(3), [-2.0, 6.5, 0.0], epsilon=0.1)
        for noise in (None, np.array([[0.05, 0.9]], np.float32)):
            assert value_function(policy)(X, policy.actor()(X, noise)) == 6.5

    def test_it_is_the_largest_mean_of_the_distributions(self):
        outputs = [-2.0, 4.0, 1.0, 2.0, 3.0, 3.0]
        policy = policy_of(spaces.Discrete(3), outputs, epsilon=0.1, support="quantiles")
        assert value_function(policy)(X, policy.actor()(X)) == 3.0
        labels = [bar.text for bar in bars_of(policy, "abc", RunningRange())]
        assert labels == ["1.00", "1.50", "3.00"]

    def test_models_without_a_value_have_none(self):
        assert value_function(policy_of(spaces.Discrete(2), [0.0, 2.0])) is None
        assert value_function(policy_of(spaces.Box(-1, 1, (1,)), [0.0, 2.0])) is None


@pytest.mark.parametrize(
    ("space", "outputs", "options", "nats"),
    [
        (spaces.Discrete(2), logs(3), {}, 0.5623),
        (spaces.Discrete(4), [7.0] * 4, {}, math.log(4)),
        (spaces.MultiDiscrete([3, 2]), [5.0] * 5, {}, math.log(6)),
        (spaces.MultiBinary(3), [0.0] * 3, {}, 3 * math.log(2)),
        (spaces.Discrete(2), [1.0, 4.0], {"epsilon": 1.0}, math.log(2)),
        (spaces.Discrete(2), [1.0, 4.0], {"epsilon": 0.0}, 0.0),
        (spaces.Box(-1, 1, (2,)), [0.0, 0.0], {"log_std": 1.0}, 2 * 2.4189),
    ],
)
def test_entropy_is_in_nats(space, outputs, options, nats):
    policy = policy_of(space, outputs, **options)
    assert entropy(policy, policy.actor()(X)) == pytest.approx(nats, abs=1e-4)


def test_values_are_drawn_in_units_of_the_rewards():
    model = tfpg.networks.actor_critic("CartPole-v1", hidden=(8,), normalize=False, seed=0)
    x = np.ones((1, 4), np.float32)
    raw = float(model(x)[1][0, 0])
    agent = tfpg.A2C(model, reward_scale=0.25)
    policy = agent.policy_for("CartPole-v1")
    assert value_function(policy)(x, policy.actor()(x)) == pytest.approx(4 * raw)
    automatic = tfpg.A2C(model, num_envs=2)
    automatic.fit("CartPole-v1", 2, seed=0, verbose=0)
    policy = tfpg.Policy(model, "CartPole-v1")  # as a video of the model is made
    raw = float(model(x)[1][0, 0])
    std = automatic.return_scale.moments.variance**0.5
    assert std > 2
    assert value_function(policy)(x, policy.actor()(x)) == pytest.approx(std * raw, rel=1e-5)
    model = tfpg.networks.mlp("CartPole-v1", (8,), seed=0)
    agent = tfpg.PQN(model, reward_scale=0.25)
    policy = tfpg.Policy(model, agent.policy_for("CartPole-v1").env_spaces, epsilon=0.0)
    decision, raw = policy.actor()(x), model(x).numpy()[0]
    assert value_function(policy)(x, decision) == pytest.approx(4 * raw.max())
    bars = action_bars(policy, decision, ("left", "right"), RunningRange())
    assert [float(bar.text) for bar in bars] == pytest.approx(4 * raw, abs=0.01)
