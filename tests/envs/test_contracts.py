"""Single values against Gymnasium's interface and their spaces."""

import numpy as np
import pytest
from gymnasium import spaces

from tfpg.envs.contracts import observation_issues, reset_issues, reward_issues, step_issues

BOX = spaces.Box(0, 255, (2,), np.uint8)
PAIR = spaces.Tuple([spaces.Discrete(2)] * 2)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (BOX, np.array([0, 255], np.uint8), []),
        (BOX, np.array([0, 255]), ["warning: int64, but the space has uint8"]),
        (BOX, np.array([0.0, 7.5]), ["problem: float64, but the space has uint8"]),
        (BOX, [0, 255], ["warning: expected an array, got list"]),
        (BOX, None, ["problem: expected numbers, got NoneType"]),
        (BOX, [[1], [2, 3]], ["problem: expected numbers, got list"]),
        (
            spaces.Box(-1, 1, (2,), np.float32),
            np.array([3, -np.inf], np.float32),
            [
                "problem: 1 of 2 values is NaN or infinite",
                "warning: 1 of 2 values is outside the space: 3 > 1",
            ],
        ),
        (
            spaces.Box(-1, 1, (2,), np.float32),
            np.array([-2, -3], np.float32),
            ["warning: 2 of 2 values are outside the space: -3 < -1"],
        ),
        (
            spaces.Box(-1, 1, (1,), np.float32),
            np.array([1 + 1e-9]),
            ["warning: float64, but the space has float32"],
        ),
        (BOX, np.zeros(3, np.uint8), ["problem: shape (3,), but the space has (2,)"]),
        (spaces.Discrete(3, start=1), 3, []),
        (spaces.Discrete(3, start=1), np.int32(3), []),
        (spaces.Discrete(3), 3, ["problem: 3 is outside Discrete(3)"]),
        (spaces.Discrete(3), 1.0, ["warning: float64, but the space has int64"]),
        (spaces.Discrete(3), 1.5, ["problem: float64, but the space has int64"]),
        (
            spaces.MultiDiscrete([2, 2]),
            np.array([1, 2]),
            ["problem: [1, 2] is outside MultiDiscrete([2 2])"],
        ),
        (spaces.MultiBinary(2), np.array([0, 1], np.int8), []),
        (spaces.Text(3), "four", ["problem: outside the space"]),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)),
            {"a": 2, "c": 0},
            [
                "problem: 'a': 2 is outside Discrete(2)",
                "problem: 'b' is missing",
                "warning: 'c' is not in the space, and is ignored",
            ],
        ),
        (spaces.Dict(a=spaces.Discrete(2)), 1, ["problem: expected a dict, got int"]),
        (PAIR, (1, 2), ["problem: '1': 2 is outside Discrete(2)"]),
        (PAIR, (1,), ["problem: '1' is missing"]),
        (PAIR, (0, 1, 2), ["warning: '2' is not in the space, and is ignored"]),
        (PAIR, 1, ["problem: expected a tuple, got int"]),
    ],
)
def test_observations(space, observation, expected):
    issues = observation_issues(space, observation)
    assert [f"{issue.verdict}: {issue.detail}" for issue in issues] == expected


@pytest.mark.parametrize("reward", [1, 0.5, np.float32(1), np.int64(2), True])
def test_finite_numbers_are_rewards(reward):
    assert not list(reward_issues(reward))


@pytest.mark.parametrize("reward", [[1.0], np.ones(1), np.ones((1, 1))])
def test_arrays_with_a_single_number_are_rewards(reward):
    assert [issue.verdict for issue in reward_issues(reward)] == ["warning"]


@pytest.mark.parametrize("reward", [None, "1", [1.0, 2.0], np.ones(0), {}, np.nan, np.inf])
def test_other_values_are_not_rewards(reward):
    assert [issue.verdict for issue in reward_issues(reward)] == ["problem"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ((0, 0, np.bool_(True), False, {}), []),
        (
            (0, 0, 1, "no", None),
            [("warning", "terminated"), ("problem", "truncated"), ("problem", "info")],
        ),
        ((0, 0, False, {}), [("problem", "tuple")]),
        ("further", [("problem", "tuple")]),
    ],
)
def test_results_of_step(result, expected):
    assert [(issue.verdict, issue.kind) for issue in step_issues(result)] == expected


@pytest.mark.parametrize(
    ("result", "kinds"), [((0, {}), []), ((0, None), ["info"]), ((0,), ["tuple"]), (0, ["tuple"])]
)
def test_results_of_reset(result, kinds):
    assert [issue.kind for issue in reset_issues(result)] == kinds
