"""Functions on observations, which are arrays or dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# Environments whose noise is drawn from one generator, and rows of one matrix product of acting.
# In which block an environment is depends only on its index, and so do its actions.
BLOCK = 8


def map_arrays(function: Callable[..., Any], *observations: Any) -> Any:
    """Apply a function to an array, or to each array of a dict.

    Several dicts with the same keys are mapped together.

    Example:
        >>> map_arrays(len, {"position": [1, 2], "image": [3, 4]})
        {'position': 2, 'image': 2}
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(x[key] for x in observations)) for key in first}
    return function(*observations)


def assign(target: Any, index: Any, values: Any) -> None:
    """Set ``target[index] = values``, for an array or for each array of a dict.

    Example:
        >>> x = {"position": [0, 0], "image": [0, 0]}
        >>> assign(x, 1, {"position": 5, "image": 7})
        >>> x
        {'position': [0, 5], 'image': [0, 7]}
    """
    if isinstance(target, dict):
        for key, array in target.items():
            array[index] = values[key]
    else:
        target[index] = values


def batch_size(observations: Any) -> int:
    """Return the number of observations in an array ``[N, ...]`` or a dict of such arrays.

    Example:
        >>> batch_size({"position": [1, 2], "image": [3, 4]})
        2
    """
    return len(
        next(iter(observations.values())) if isinstance(observations, dict) else observations
    )


def any_of(x: np.ndarray) -> bool:
    """Return whether a bool array holds a True, several times as fast as ``x.any()`` if small.

    Example:
        >>> any_of(np.array([False, True]))
        True
    """
    return bool(np.count_nonzero(x))
