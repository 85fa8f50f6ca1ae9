"""Schedules: values worked out by hand, and what is refused."""

import math

import pytest

from tfpg.schedules import exponential, linear, probability_schedule


def test_a_linear_schedule_reaches_its_end_and_stays_there():
    epsilon = linear(1.0, 0.1, 1000)
    assert [epsilon(n) for n in (0, 500, 1000, 10**9, math.inf)] == [1.0, 0.55, 0.1, 0.1, 0.1]
    assert linear(0.4, 1.0, 10)(5) == pytest.approx(0.7)  # upward too


def test_an_exponential_schedule_is_the_golden_formula():
    epsilon = exponential(1.0, 0.01, 1e-3)
    for n in (0, 1, 100, 3000):
        assert epsilon(n) == pytest.approx(0.01 + 0.99 * math.exp(-1e-3 * n))
    assert epsilon(math.inf) == 0.01


def test_schedules_print_the_call_that_made_them():
    assert repr(linear(1.0, 0.1, 1000)) == "linear(1.0, 0.1, 1000)"
    assert repr(exponential(1.0, 0.01, 0.001)) == "exponential(1.0, 0.01, 0.001)"


@pytest.mark.parametrize("steps", [0, -1, math.inf, math.nan])
def test_a_linear_schedule_needs_a_finite_number_of_steps(steps):
    with pytest.raises(ValueError, match="steps must be a finite number above 0"):
        linear(1.0, 0.1, steps)


@pytest.mark.parametrize("rate", [-1, math.inf, math.nan])
def test_an_exponential_schedule_needs_a_finite_rate_of_at_least_zero(rate):
    with pytest.raises(ValueError, match="rate must be a finite number of at least 0"):
        exponential(1.0, 0.1, rate)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.1x", None, lambda n: 2.0, lambda: 0.5])
def test_only_probabilities_and_functions_that_return_them_are_schedules(value):
    with pytest.raises(ValueError, match=r"a number from 0 to 1 or a schedule"):
        probability_schedule(value)


def test_any_function_of_a_count_is_a_schedule():
    assert probability_schedule(lambda n: 1 / (1 + n))(3) == 0.25
