"""What a policy thinks, in numbers worked out by hand from the outputs of constant models."""

import math
import warnings

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import tfpg
from tfpg.video.explain import (
    Bar,
    Range,
    action_names,
    action_text,
    bar_labels,
    bars,
    entropy,
    two_digits,
    value_reader,
)

layers = keras.layers
X = np.zeros((1, 3), np.float32)


class Place(gymnasium.Env):
    """As much of an environment as a policy asks for."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space, env_id=None):
        self.action_space = action_space
        self.spec = EnvSpec(env_id) if env_id else None


class Arcade(Place):
    def get_action_meanings(self):
        return ["NOOP", "FIRE"]


def policy_of(space, outputs, activation=None, **options):
    """A policy whose model gives these outputs, before its activation, whatever it sees."""
    dense = layers.Dense(len(outputs), activation, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((3,)), dense])
    dense.bias.assign(outputs)
    return tfpg.Policy(model, Place(space), **options)


def bars_of(policy, names, seen=None, noise=None):
    return bars(policy, policy.actor()(X, noise), names, seen or Range())


def shown(found):
    return [(bar.label, bar.text, bar.chosen) for bar in found]


class TestRange:
    def test_widens_and_never_narrows(self):
        seen = Range()
        assert seen.share(np.array([0.0, 4.0])).tolist() == [0.0, 1.0]
        assert seen.share(np.array([1.0])).tolist() == [0.25]
        assert seen.share(np.array([8.0, 4.0])).tolist() == [1.0, 0.5]
        assert seen.share(np.array([-8.0, 0.0])).tolist() == [0.0, 0.5]
        assert (seen.low, seen.high) == (-8.0, 8.0)

    def test_equal_values_are_half_way(self):
        seen = Range()
        assert seen.share(np.array([3.0, 3.0, 3.0])).tolist() == [0.5, 0.5, 0.5]
        assert seen.share(np.array([3.0])).tolist() == [0.5]
        assert seen.share(np.array([4.0, 3.0])).tolist() == [1.0, 0.0]

    def test_negative_values(self):
        assert Range().share(np.array([-3.0, -1.0, -2.0])).tolist() == [0.0, 1.0, 0.5]


class TestActionNames:
    @pytest.mark.parametrize(
        ("space", "env_id", "names"),
        [
            (spaces.Discrete(2), "CartPole-v1", ("left", "right")),
            (spaces.Discrete(2), "phys2d/CartPole-v0", ("left", "right")),
            (spaces.Discrete(3), "CartPole-v1", ("action 0", "action 1", "action 2")),
            (spaces.Discrete(3), "MountainCar-v0", ("left", "coast", "right")),
            (spaces.Discrete(3, start=-1), None, ("action -1", "action 0", "action 1")),
            (spaces.Discrete(1), None, ("action 0",)),
            (
                spaces.Discrete(4),
                "LunarLander-v3",
                ("coast", "left engine", "main engine", "right engine"),
            ),
            (spaces.Box(-1, 1, (2,)), "LunarLander-v3", ("main engine", "side engines")),
            (spaces.Box(-2, 2, (1,)), "Pendulum-v1", ("torque",)),
            (spaces.Box(-1, 1, (2, 2)), "Unknown-v0", tuple(f"action {i}" for i in range(4))),
            (spaces.Box(-1, 1, ()), None, ("action 0",)),
            (spaces.MultiDiscrete([3, 2]), None, ("action 0", "action 1")),
            (spaces.MultiBinary(3), None, ("action 0", "action 1", "action 2")),
        ],
    )
    def test_are_known_or_numbers(self, space, env_id, names):
        assert action_names(Place(space, env_id)) == names

    def test_an_environment_may_say_them_itself(self):
        assert action_names(Arcade(spaces.Discrete(2))) == ("noop", "fire")

    def test_are_seen_through_wrappers(self):
        env = gymnasium.wrappers.TimeLimit(Arcade(spaces.Discrete(2), "ALE/Pong-v5"), 5)
        assert action_names(env) == ("noop", "fire")

    @pytest.mark.parametrize(
        ("env_id", "names"),
        [
            ("CartPole-v1", ("left", "right")),
            ("Acrobot-v1", ("torque -1", "torque 0", "torque +1")),
            ("MountainCarContinuous-v0", ("force",)),
            ("CliffWalking-v1", ("up", "right", "down", "left")),
            ("Blackjack-v1", ("stick", "hit")),
            ("FrozenLake8x8-v1", ("left", "down", "right", "up")),
        ],
    )
    def test_of_gymnasiums_own(self, env_id, names):
        env = gymnasium.make(env_id)
        assert action_names(env) == names
        env.close()


class TestActionText:
    @pytest.mark.parametrize(
        ("space", "action", "text"),
        [
            (spaces.Discrete(2), np.int64(1), "b"),
            (spaces.Discrete(2, start=5), np.int64(5), "a"),
            (spaces.Discrete(2, start=-1), 0, "b"),
            (spaces.MultiDiscrete([3, 2]), np.array([2, 0]), "2 0"),
            (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), "1 0 1"),
            (spaces.Box(0, 9, (2,), np.uint8), np.array([3, 9], np.uint8), "3 9"),
        ],
    )
    def test_is_a_name_or_whole_numbers(self, space, action, text):
        assert action_text(space, action, ("a", "b", "c")) == text

    def test_real_numbers_have_two_digits_row_by_row(self):
        box = spaces.Box(-5, 5, (2, 2))
        action = np.array([[0.5, -1.0], [2.346, 0.0]], np.float32)
        assert action_text(box, action, "abcd") == "0.50 -1.00 2.35 0.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.001, "0.00"), (-0.006, "-0.01"), (-1.5, "-1.50"), (0.0, "0.00"), (123.456, "123.46")],
)
def test_two_digits_and_no_sign_of_a_zero(value, text):
    assert two_digits(value) == text


class TestBars:
    # The odds of 3 to 1 are a logit of log 3.
    @pytest.mark.parametrize("activation", [None, "sigmoid"])
    def test_of_a_single_output(self, activation):
        policy = policy_of(spaces.Discrete(2), [math.log(3)], activation)
        found = bars_of(policy, ("left", "right"))
        assert shown(found) == [("left", "0.25", False), ("right", "0.75", True)]
        assert [bar.share for bar in found] == pytest.approx([0.25, 0.75], abs=1e-6)

    @pytest.mark.parametrize("activation", [None, "sigmoid"])
    def test_of_a_single_output_for_action_0(self, activation):
        policy = policy_of(spaces.Discrete(2), [math.log(3)], activation, positive_action=0)
        found = bars_of(policy, ("left", "right"))
        assert shown(found) == [("left", "0.75", True), ("right", "0.25", False)]
        assert [bar.share for bar in found] == pytest.approx([0.75, 0.25], abs=1e-6)

    def test_of_a_single_output_whose_actions_do_not_begin_at_0(self):
        policy = policy_of(spaces.Discrete(2, start=7), [math.log(3)])
        found = bars_of(policy, ("action 7", "action 8"))
        assert shown(found) == [("action 7", "0.25", False), ("action 8", "0.75", True)]

    @pytest.mark.parametrize("activation", [None, "softmax"])
    @pytest.mark.parametrize("start", [0, 3, -2])
    def test_of_logits_and_probabilities(self, activation, start):
        policy = policy_of(
            spaces.Discrete(3, start=start), [math.log(12), math.log(20), math.log(8)], activation
        )
        found = bars_of(policy, "abc")
        assert shown(found) == [("a", "0.30", False), ("b", "0.50", True), ("c", "0.20", False)]
        assert [bar.share for bar in found] == pytest.approx([0.3, 0.5, 0.2], abs=1e-6)

    def test_equal_probabilities(self):
        found = bars_of(policy_of(spaces.Discrete(4), [5.0] * 4), "abcd")
        assert [bar.text for bar in found] == ["0.25"] * 4
        assert [bar.chosen for bar in found] == [True, False, False, False]

    def test_what_was_sampled_is_chosen(self):
        policy = policy_of(spaces.Discrete(3, start=1), [math.log(12), math.log(20), math.log(8)])
        found = bars_of(policy, "abc", noise=np.array([[0.0, 0.0, 50.0]], np.float32))
        assert shown(found) == [("a", "0.30", False), ("b", "0.50", False), ("c", "0.20", True)]

    @pytest.mark.parametrize("start", [0, -1])
    def test_of_q_values_between_the_lowest_and_the_highest_so_far(self, start):
        policy = policy_of(spaces.Discrete(3, start=start), [-2.0, 6.0, 0.0], epsilon=0.1)
        seen = Range()
        assert bars_of(policy, "abc", seen) == [
            Bar("a", 0.0, "-2.00", False),
            Bar("b", 1.0, "6.00", True),
            Bar("c", 0.25, "0.00", False),
        ]
        seen.share(np.array([14.0]))
        assert [bar.share for bar in bars_of(policy, "abc", seen)] == [0.0, 0.5, 0.125]

    def test_of_equal_q_values(self):
        policy = policy_of(spaces.Discrete(2), [3.0, 3.0], epsilon=0.1)
        assert bars_of(policy, "ab") == [Bar("a", 0.5, "3.00", True), Bar("b", 0.5, "3.00", False)]

    def test_a_q_network_that_explores_is_shown_to(self):
        policy = policy_of(spaces.Discrete(3), [-2.0, 6.0, 0.0], epsilon=0.1)
        found = bars_of(policy, "abc", noise=np.array([[0.05, 0.9]], np.float32))
        assert [bar.chosen for bar in found] == [False, False, True]
        assert [bar.text for bar in found] == ["-2.00", "6.00", "0.00"]

    def test_of_several_choices_are_those_of_what_was_chosen(self):
        outputs = [math.log(p) for p in (20, 30, 50, 75, 25)]
        policy = policy_of(spaces.MultiDiscrete([3, 2]), outputs)
        found = bars_of(policy, ("steer", "gas"))
        assert [bar.text for bar in found] == ["0.50", "0.75"]
        assert [bar.share for bar in found] == pytest.approx([0.5, 0.75], abs=1e-6)
        assert all(bar.chosen for bar in found)
        assert [bar.label.split()[0].rstrip(":") for bar in found] == ["steer", "gas"]

    def test_of_several_choices_follow_the_sample(self):
        outputs = [math.log(p) for p in (20, 30, 50, 75, 25)]
        policy = policy_of(spaces.MultiDiscrete([3, 2]), outputs)
        noise = np.array([[50.0, 0, 0, 0, 50.0]], np.float32)
        assert [bar.text for bar in bars_of(policy, "ab", noise=noise)] == ["0.20", "0.25"]

    @pytest.mark.parametrize("activation", [None, "sigmoid"])
    def test_of_bits_are_the_probabilities_of_1(self, activation):
        outputs = [math.log(3), -math.log(4), 0.0]
        found = bars_of(policy_of(spaces.MultiBinary(3), outputs, activation), "abc")
        assert shown(found) == [("a", "0.75", True), ("b", "0.20", False), ("c", "0.50", False)]
        assert [bar.share for bar in found] == pytest.approx([0.75, 0.2, 0.5], abs=1e-6)

    def test_of_bits_in_rows(self):
        policy = policy_of(spaces.MultiBinary([2, 2]), [5.0, -5.0, -5.0, 5.0])
        assert [bar.chosen for bar in bars_of(policy, "abcd")] == [True, False, False, True]

    def test_of_a_bounded_box_lie_within_its_bounds(self):
        box = spaces.Box(np.array([-1, 0], "float32"), np.array([1, 10], "float32"))
        assert bars_of(policy_of(box, [0.5, 2.5]), ("steer", "gas")) == [
            Bar("steer", 0.75, "0.50", True),
            Bar("gas", 0.25, "2.50", True),
        ]

    def test_what_is_played_is_within_the_bounds(self):
        box = spaces.Box(-2, 2, (2,))
        assert bars_of(policy_of(box, [7.0, -7.0, 0.0, 0.0]), "ab") == [
            Bar("a", 1.0, "2.00", True),
            Bar("b", 0.0, "-2.00", True),
        ]

    def test_of_a_squashed_box_are_what_is_played(self):
        policy = policy_of(spaces.Box(0, 10, (2,)), [math.atanh(0.5), 0.0], squash=True)
        found = bars_of(policy, "ab")
        assert shown(found) == [("a", "7.50", True), ("b", "5.00", True)]
        assert [bar.share for bar in found] == pytest.approx([0.75, 0.5], abs=1e-6)

    def test_of_a_box_without_bounds_lie_between_the_numbers_so_far(self):
        policy = policy_of(spaces.Box(-np.inf, np.inf, (3,)), [-4.0, 0.0, 12.0])
        found = bars_of(policy, "abc")
        assert [bar.share for bar in found] == [0.0, 0.25, 1.0]
        assert [bar.text for bar in found] == ["-4.00", "0.00", "12.00"]

    def test_of_a_box_with_some_bounds(self):
        low = np.array([-1, 0, -np.inf], "float32")
        high = np.array([1, np.inf, np.inf], "float32")
        found = bars_of(policy_of(spaces.Box(low, high), [0.5, 2.0, 3.5]), "abc")
        assert [bar.share for bar in found] == [0.75, 0.5, 1.0]

    def test_of_a_box_in_rows(self):
        box = spaces.Box(-1, 1, (2, 2))
        found = bars_of(policy_of(box, [0.0, 0.5, -0.5, 1.0]), "abcd")
        assert [bar.share for bar in found] == [0.5, 0.75, 0.25, 1.0]

    def test_too_few_names_are_an_error(self):
        with pytest.raises(ValueError, match="zip"):
            bars_of(policy_of(spaces.Discrete(3), [0.0, 2.0, 4.0]), "ab")


class TestValue:
    def test_is_the_models_second_output(self):
        x = keras.Input((3,))
        model = keras.Model(x, [layers.Dense(2)(x), layers.Dense(1, use_bias=False)(x)])
        model.layers[-1].set_weights([np.array([[1.0], [10.0], [100.0]])])
        policy = tfpg.Policy(model, Place(spaces.Discrete(2)))
        read, act = value_reader(policy), policy.actor()
        for observation, value in (([1, 2, 3], 321.0), ([0, 0, -1], -100.0)):
            rows = np.array([observation], np.float32)
            found = read(rows, act(rows))
            assert type(found) is float
            assert found == value

    def test_is_a_q_networks_largest(self):
        policy = policy_of(spaces.Discrete(3), [-2.0, 6.5, 0.0], epsilon=0.1)
        # Whatever is played.
        for noise in (None, np.array([[0.05, 0.9]], np.float32)):
            found = value_reader(policy)(X, policy.actor()(X, noise))
            assert type(found) is float
            assert found == 6.5

    def test_is_none_where_the_model_has_none(self):
        assert value_reader(policy_of(spaces.Discrete(2), [0.0, 2.0])) is None
        assert value_reader(policy_of(spaces.Box(-1, 1, (1,)), [0.0, 2.0])) is None

    def test_of_observations_that_are_encoded(self):
        class Rooms(Place):
            observation_space = spaces.Discrete(3, start=1)

        model = tfpg.networks.actor_critic(Rooms(spaces.Discrete(2)), hidden=(), seed=0)
        model.layers[-1].set_weights([np.array([[1.0], [10.0], [100.0]]), np.zeros(1)])
        policy = tfpg.Policy(model, Rooms(spaces.Discrete(2)))
        rooms = np.array([2])
        assert value_reader(policy)(rooms, policy.actor()(rooms)) == 10.0


class TestEntropy:
    @pytest.mark.parametrize(
        ("space", "outputs", "options", "nats"),
        [
            (spaces.Discrete(2), [0.0], {}, math.log(2)),
            (spaces.Discrete(2), [math.log(3)], {}, 0.5623),
            (spaces.Discrete(4), [7.0] * 4, {}, math.log(4)),
            (spaces.MultiDiscrete([3, 2]), [5.0] * 5, {}, math.log(6)),
            (spaces.MultiBinary(3), [0.0] * 3, {}, 3 * math.log(2)),
            (spaces.Discrete(2), [1.0, 4.0], {"epsilon": 1.0}, math.log(2)),
            (spaces.Discrete(2), [1.0, 4.0], {"epsilon": 0.0}, 0.0),
            (spaces.Box(-1, 1, (1,)), [0.0, 0.0], {}, 1.4189),
            (spaces.Box(-1, 1, (2,)), [0.0, 0.0], {"log_std": 1.0}, 2 * 2.4189),
        ],
    )
    def test_in_nats(self, space, outputs, options, nats):
        policy = policy_of(space, outputs, **options)
        found = entropy(policy, policy.actor()(X))
        assert type(found) is float
        assert found == pytest.approx(nats, abs=1e-4)


def test_a_number_that_cannot_move_is_half_way_or_full_and_no_nan():
    box = spaces.Box(np.array([0, -1], "float32"), np.array([0, 1], "float32"))
    found = bars_of(policy_of(box, [0.0, 0.5]), "ab")
    assert np.isfinite([bar.share for bar in found]).all()


def test_improbable_bits_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bars_of(policy_of(spaces.MultiBinary(2), [-200.0, 200.0]), "ab")


def test_choices_are_called_as_the_environment_calls_them():
    policy = policy_of(spaces.MultiDiscrete([3, 2], start=[5, -1]), [3.0, 0, 0, 4, 0])
    assert [bar.label for bar in bars_of(policy, ("x", "y"))] == ["x: 5", "y: -1"]


def test_labels_of_choices_are_not_covered_by_their_bars():
    space = spaces.MultiDiscrete([3, 12], start=[-5, 0])
    policy = policy_of(space, [3.0, 0, 0] + [0.0] * 11 + [4.0])
    found = [bar.label for bar in bars_of(policy, ("steer", "gas"))]
    assert found == ["steer: -5", "gas: 11"]
    assert bar_labels(space, ("steer", "gas")) == ("steer: -5", "gas: 11")


def test_too_many_meanings_are_not_taken():
    class Fewer(Place):
        def get_action_meanings(self):
            return ["NOOP", "FIRE", "UP"]

    assert action_names(Fewer(spaces.Discrete(2))) == ("action 0", "action 1")
