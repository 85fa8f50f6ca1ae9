"""Statistics of a few training runs.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021. N is the number of runs, each with another seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def interquartile_mean(values: Any) -> np.ndarray:
    """Return the mean without the lowest and the highest quarter.

    A quarter of N values is rounded down to whole values, as in ``trim_mean(values, 0.25)`` of
    SciPy. It is therefore the mean of all values if there are fewer than four.

    Args:
        values: ``[..., N]``, finite.

    Returns:
        ``[...]``

    Raises:
        ValueError: A value is NaN or infinite, or there are none.

    Example:
        >>> float(interquartile_mean([0, 10, 20, 90]))
        15.0
    """
    values = np.sort(np.asarray(values, float), axis=-1)
    count = values.shape[-1]
    if not count or not np.isfinite(values).all():
        raise ValueError("The interquartile mean needs values, all of them finite.")
    cut = count // 4
    return values[..., cut : count - cut].mean(axis=-1)


def probability_of_improvement(x: Any, y: Any) -> np.ndarray:
    """Return how often a run of X scores higher than a run of Y. Ties count half.

    Args:
        x: ``[..., N]``, the scores of X.
        y: ``[..., M]``, the scores of Y.

    Returns:
        ``[...]``, from 0 to 1.

    Example:
        >>> float(probability_of_improvement([1, 2], [0, 2]))
        0.625
    """
    x, y = np.asarray(x)[..., :, None], np.asarray(y)[..., None, :]
    return (x > y).mean(axis=(-2, -1)) + (x == y).mean(axis=(-2, -1)) / 2


def bootstrap_interval(
    statistic: Callable[..., np.ndarray],
    *samples: Any,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile bootstrap interval of a statistic.

    Each sample is drawn again with replacement, independently of the others. If the samples are
    the scores of the same algorithm in several tasks, the bootstrap is stratified by task.

    Args:
        statistic: A function of arrays ``[..., draws, N]``, one for each sample, that returns
            ``[..., draws]``.
        samples: Arrays ``[..., N]``. N may differ between them.
        level: Probability that the interval covers.
        draws: Number of times to draw.
        seed: The same seed draws the same interval.

    Returns:
        The lower and the upper end, both ``[...]``.

    Example:
        >>> low, high = bootstrap_interval(interquartile_mean, [0, 10, 20, 90])
        >>> float(low), float(high)
        (0.0, 90.0)
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for sample in map(np.asarray, samples):
        count = sample.shape[-1]
        drawn.append(sample[..., rng.integers(count, size=(draws, count))])
    ends = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(statistic(*drawn), ends, axis=-1)
    return low, high
