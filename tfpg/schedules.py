"""Schedules of an exploration rate. Learning-rate schedules are Keras's own."""

from __future__ import annotations

import math
from collections.abc import Callable


def exponential(start: float, end: float, rate: float) -> Callable[[float], float]:
    """A schedule that decays from ``start`` towards ``end``.

    ``end + (start - end) * exp(-rate * n)``.

    Args:
        start: The value at 0.
        end: The value it approaches.
        rate: Per unit of what is counted, for example per episode; at least 0.

    Returns:
        A function of the count ``n``, at least 0.

    Raises:
        ValueError: ``rate`` is negative or not finite.

    Source:
        The schedule of many DQN tutorials; linear ones are the papers' (Mnih et al., 2015,
        https://doi.org/10.1038/nature14236).

    Example:
        >>> epsilon = exponential(start=1.0, end=0.01, rate=1e-3)
        >>> epsilon(0), round(epsilon(1000), 4)
        (1.0, 0.3742)
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"rate must be a finite number of at least 0, and it is {rate!r}.")
    return lambda n: end + (start - end) * math.exp(-rate * n)
