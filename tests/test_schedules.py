"""Schedules: values worked out by hand, and what is no schedule."""

import math

import pytest

from tfpg.schedules import exponential, linear, probability_schedule


def test_linear():
    epsilon = linear(1.0, 0.1, 1000)
    assert [epsilon(n) for n in (0, 500, 1000, 10**9, math.inf)] == [1.0, 0.55, 0.1, 0.1, 0.1]
    assert linear(0.4, 1.0, 10)(5) == pytest.approx(0.7)  # upwards too


def test_exponential_is_the_golden_formula():
    epsilon = exponential(1.0, 0.01, 1e-3)
    for n in (0, 1, 100, 3000):
        assert epsilon(n) == pytest.approx(0.01 + 0.99 * math.exp(-1e-3 * n))
    assert epsilon(math.inf) == 0.01


def test_they_print_as_they_were_made():
    assert repr(linear(1.0, 0.1, 1000)) == "linear(1.0, 0.1, 1000)"
    assert repr(exponential(1.0, 0.01, 0.001)) == "exponential(1.0, 0.01, 0.001)"


@pytest.mark.parametrize("steps", [0, -1, math.inf, math.nan])
def test_a_line_of_no_length(steps):
    with pytest.raises(ValueError, match="steps must be a finite number above 0"):
        linear(1.0, 0.1, steps)


@pytest.mark.parametrize("rate", [-1, math.inf, math.nan])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ValueError, match="rate must be a finite number of at least 0"):
        exponential(1.0, 0.1, rate)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.1x", None, lambda n: 2.0, lambda: 0.5])
def test_what_is_no_schedule(value):
    with pytest.raises(ValueError, match=r"a number from 0 to 1 or a schedule"):
        probability_schedule(value)


def test_any_callable_is_a_schedule():
    assert probability_schedule(lambda n: 1 / (1 + n))(3) == 0.25
