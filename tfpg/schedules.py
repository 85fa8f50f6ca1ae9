"""Schedules of epsilon and other probabilities. Learning-rate schedules are Keras's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

# A count after which no schedule changes. Not infinity, for which some have no value.
IN_THE_END = 10**15


class Schedule:
    """A function of a count that prints as the call that made it.

    Args:
        function: A function of a count of at least 0.
        text: What the schedule prints as.

    Example:
        >>> Schedule(lambda n: 1 / (1 + n), "1 / (1 + n)")(3)
        0.25
    """

    def __init__(self, function: Callable[[float], float], text: str):
        self._function = function
        self._text = text

    def __call__(self, n: float) -> float:
        return self._function(n)

    def __repr__(self) -> str:
        return self._text


def linear(start: float, end: float, steps: float) -> Schedule:
    """Return a schedule that changes linearly from ``start`` to ``end``, and then stays there.

    Args:
        start: The value at 0.
        end: The value at ``steps`` and later.
        steps: The count, for example of environment steps, at which ``end`` is reached. Above 0.

    Raises:
        ValueError: ``steps`` is not above 0.

    Source:
        Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    Example:
        >>> epsilon = linear(start=1.0, end=0.5, steps=1000)
        >>> epsilon(0), epsilon(500), epsilon(2000)
        (1.0, 0.75, 0.5)
    """
    if not 0 < steps < math.inf:
        raise ValueError(f"steps must be a finite number above 0, got {steps!r}.")
    return Schedule(partial(_linear, start, end, steps), f"linear({start}, {end}, {steps})")


def exponential(start: float, end: float, rate: float) -> Schedule:
    """Return a schedule that decays from ``start`` towards ``end``.

    ``end + (start - end) * exp(-rate * n)``

    Args:
        start: The value at 0.
        end: The value it approaches.
        rate: The rate of decay per count, for example per episode. At least 0.

    Raises:
        ValueError: ``rate`` is negative or not finite.

    Source:
        Many DQN tutorials. The papers use linear schedules (Mnih et al., 2015,
        https://doi.org/10.1038/nature14236).

    Example:
        >>> epsilon = exponential(start=1.0, end=0.01, rate=1e-3)
        >>> epsilon(0), round(epsilon(1000), 4)
        (1.0, 0.3742)
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"rate must be a finite number of at least 0, got {rate!r}.")
    return Schedule(partial(_exponential, start, end, rate), f"exponential({start}, {end}, {rate})")


def from_text(value: Any) -> Any:
    """Return the schedule that a text is the ``repr`` of, and anything else as it is.

    Example:
        >>> from_text("linear(1.0, 0.5, 1000)")(500), from_text("auto"), from_text(0.1)
        (0.75, 'auto', 0.1)
    """
    call = re.fullmatch(r"(linear|exponential)\(([^,]+), ([^,]+), ([^,]+)\)", str(value))
    if call is None:
        return value
    name, *numbers = call.groups()
    return {"linear": linear, "exponential": exponential}[name](*map(float, numbers))


def probability_schedule(value: Any) -> Callable[[float], float]:
    """Return a schedule as it is, and a probability as a constant schedule.

    Raises:
        ValueError: It is neither, or its first value is not a probability.

    Example:
        >>> probability_schedule(0.05)(10)
        0.05
    """
    schedule = value if callable(value) else Schedule(partial(_constant, value), repr(value))
    try:
        first = float(schedule(0))
    except (TypeError, ValueError, ArithmeticError):
        first = math.nan
    if not 0 <= first <= 1:
        raise ValueError(
            "a number from 0 to 1 or a schedule of them such as "
            "tfpg.schedules.linear(1.0, 0.05, 10_000)"
        )
    return schedule


# Not lambdas, which cannot be pickled.
def _linear(start: float, end: float, steps: float, n: float) -> float:
    return end if n >= steps else start + (end - start) * n / steps


def _exponential(start: float, end: float, rate: float, n: float) -> float:
    return end + (start - end) * math.exp(-rate * n)


def _constant(value: float, n: float) -> float:
    return value
