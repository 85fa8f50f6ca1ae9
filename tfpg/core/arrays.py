"""Functions on arrays and on dicts of arrays, which observations may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_arrays(function: Callable[..., Any], *observations: Any) -> Any:
    """The function of an array, or of every array of a dict; several trees go side by side.

    Example:
        >>> map_arrays(len, {"position": [1, 2], "image": [3, 4]})
        {'position': 2, 'image': 2}
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(x[key] for x in observations)) for key in first}
    return function(*observations)


def batch_size(observations: Any) -> int:
    """How many observations ``[N, ...]``, or a dict of such arrays, holds.

    Example:
        >>> batch_size({"position": [1, 2], "image": [3, 4]})
        2
    """
    return len(
        next(iter(observations.values())) if isinstance(observations, dict) else observations
    )
