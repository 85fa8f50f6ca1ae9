"""Checks that what environments return is finite, with an error that names the environment."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.errors import EnvDataError


def is_finite(observations: Any) -> bool:
    """Return whether no number of an array, or of any array of a dict, is NaN or infinite.

    Example:
        >>> is_finite({"position": np.array([1.0, np.inf]), "count": np.array([1])})
        False
    """
    if isinstance(observations, dict):
        return all(map(is_finite, observations.values()))
    return observations.dtype.kind != "f" or bool(np.isfinite(observations).all())


def check_rewards(rewards: np.ndarray, real: np.ndarray, steps: Any) -> None:
    """Raise if an environment's reward is NaN or infinite.

    Args:
        rewards: ``[N]``, the rewards of one step.
        real: ``[N]``, True where the reward counts.
        steps: ``[N]`` or a single number, the index of the step in each episode.

    Raises:
        EnvDataError: A reward that counts is NaN or infinite.

    Example:
        >>> check_rewards(np.array([1.0, np.nan]), np.array([True, False]), 3)
    """
    wrong = real & ~np.isfinite(rewards)
    if wrong.any():
        n = int(np.argmax(wrong))
        step = int(np.broadcast_to(steps, wrong.shape)[n])
        raise EnvDataError(f"a reward of {rewards[n]}", n, step)


def check_observations(observations: Any, real: np.ndarray, steps: Any) -> None:
    """Raise if an environment's observation holds NaN or infinity.

    Args:
        observations: ``[N, ...]``, the observations before one step, or a dict of such arrays.
        real: ``[N]``, True where the observation counts.
        steps: ``[N]`` or a single number, the index of the step in each episode.

    Raises:
        EnvDataError: An observation that counts holds NaN or infinity.

    Example:
        >>> check_observations(np.array([[1.0], [2.0]]), np.array([True, True]), 3)
    """
    named = observations if isinstance(observations, dict) else {"": observations}
    for name, x in named.items():
        if x.dtype.kind != "f":
            continue
        finite = np.isfinite(x).reshape(len(x), -1)
        wrong = real & ~finite.all(axis=1)
        if wrong.any():
            n = int(np.argmax(wrong))
            which = f" {name!r}" if name else ""
            values = f"{int((~finite[n]).sum())} of {finite.shape[1]} values"
            what = f"an observation{which} with NaN or infinity in {values}"
            raise EnvDataError(what, n, int(np.broadcast_to(steps, wrong.shape)[n]), "before")
