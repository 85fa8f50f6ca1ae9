"""Statistics of a few runs, against literal values and SciPy."""

import numpy as np
import pytest
import scipy.stats

from tfpg.results.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)

VALUES = np.random.default_rng(3).normal(size=(5, 23))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], 7),
        ([0, 10], 5),
        ([90, 0, 0], 30),  # a quarter of three values is none
        ([0, 10, 20, 90], 15),
        ([100, 1, 2, 3, -100], 2),
        ([-9, -9, 1, 2, 3, 4, 9, 9], 2.5),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    assert interquartile_mean(values) == expected


@pytest.mark.parametrize("count", range(1, 24))
def test_the_interquartile_mean_is_scipys_trimmed_mean_along_the_last_axis(count):
    values = VALUES[:, :count]
    expected = scipy.stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(interquartile_mean(values), expected)


@pytest.mark.parametrize("values", [[], [1, 2, 3, np.nan], [np.inf, 1, 2, 3]])
def test_nan_is_not_trimmed_away(values):
    with pytest.raises(ValueError, match="needs values, all of them finite"):
        interquartile_mean(values)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [([1], [0], 1), ([0], [1], 0), ([1], [1], 0.5), ([1, 2], [0, 2], 5 / 8), ([3, 0], [1, 2], 0.5)],
)
def test_the_probability_of_improvement_counts_ties_half(x, y, expected):
    assert probability_of_improvement(x, y) == expected
    assert probability_of_improvement(y, x) == 1 - expected


def test_the_probability_of_improvement_is_the_statistic_of_mann_and_whitney():
    x, y = VALUES[0].round(), VALUES[1, :9].round()
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / (len(x) * len(y)))


def test_a_bootstrap_of_equal_values_is_a_point():
    low, high = bootstrap_interval(interquartile_mean, [4.0] * 5)
    assert (low, high) == (4, 4)


def test_a_bootstrap_interval_of_two_values_reaches_from_one_to_the_other():
    # Both values are drawn twice with probability 1/4.
    assert bootstrap_interval(interquartile_mean, [0, 1]) == (0, 1)
    assert bootstrap_interval(interquartile_mean, [0, 1], level=0.4) == (0.5, 0.5)


def test_bootstrap_intervals_agree_with_scipy():
    sample = VALUES[0]
    ours = bootstrap_interval(interquartile_mean, sample)
    theirs = scipy.stats.bootstrap(
        (sample,), interquartile_mean, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_the_interval_of_an_improvement_agrees_with_scipy():
    samples = VALUES[0], VALUES[1, :9] - 0.5
    ours = bootstrap_interval(probability_of_improvement, *samples)
    theirs = scipy.stats.bootstrap(
        samples, probability_of_improvement, method="percentile", rng=1, batch=1000
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_a_seed_draws_the_same_interval():
    one, same, other = (bootstrap_interval(interquartile_mean, VALUES, seed=x) for x in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one[0].shape == one[1].shape == (5,)


def test_several_tasks_are_drawn_separately():
    def mean_of_tasks(*tasks):
        assert [task.shape for task in tasks] == [(10_000, 3), (10_000, 2)]
        return interquartile_mean(np.concatenate(tasks, axis=-1))

    # Each draw has three scores of the first task and two of the second.
    low, high = bootstrap_interval(mean_of_tasks, [0, 0, 0], [100, 100])
    assert low == high == pytest.approx(100 / 3)
