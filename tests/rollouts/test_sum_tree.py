"""The sum tree, compared with sums over all weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.rollouts.sum_tree import SumTree


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**31), st.integers(1, 6))
def test_finds_where_the_cumulative_weight_exceeds(capacity, seed, rounds):
    rng = np.random.default_rng(seed)
    tree, weights = SumTree(capacity), np.zeros(capacity)
    for _ in range(rounds):
        index = rng.integers(capacity, size=rng.integers(1, 20))
        new = rng.choice([0.0, 0.5, 1.0, 3.0], len(index))
        tree.set(index, new)
        for i, w in zip(index, new, strict=True):
            weights[i] = w
    np.testing.assert_array_equal(tree.get(np.arange(capacity)), weights)
    assert tree.total == pytest.approx(weights.sum())
    if weights.any():
        sums = rng.random(50) * tree.total
        expected = np.searchsorted(np.cumsum(weights), sums, side="right")
        np.testing.assert_array_equal(tree.find(sums), expected)


def test_a_weight_of_zero_is_never_found():
    tree = SumTree(6)
    tree.set(np.array([1, 3]), np.array([0.1, 0.2]))
    far = np.array([0.0, tree.total, np.nextafter(tree.total, 1), 10.0])
    assert set(tree.find(far)) == {1, 3}


def test_of_equal_indices_the_last_weight_counts():
    tree = SumTree(1000)
    index = np.repeat(np.arange(1000), 3)
    tree.set(index, np.tile([5.0, 6.0, 1.0], 1000))
    assert tree.total == 1000.0


def test_rounding_errors_do_not_accumulate():
    tree, rng = SumTree(64), np.random.default_rng(0)
    for _ in range(2000):
        tree.set(rng.integers(64, size=8), rng.random(8) * 10.0 ** rng.integers(-8, 8, 8))
    tree.set(np.arange(64), np.full(64, 0.25))
    assert tree.total == 16.0


def test_no_indices_set_nothing():
    tree = SumTree(4)
    tree.set(np.zeros(0, int), np.zeros(0))
    assert tree.total == 0.0
