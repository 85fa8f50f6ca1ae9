"""Errors that are tfpg's own."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGE = str(Path(__file__).parent) + os.sep


class EnvDataError(FloatingPointError):
    """An environment gave a number that is none: NaN or infinity.

    Attributes:
        env: Index of the environment.
        step: Number of the step in its episode, from 0.
    """

    def __init__(self, what: str, env: int, step: int):
        super().__init__(
            f"The {what}, of environment {env} in step {step} of its episode. Nothing was learned "
            "from it; mend the environment (gymnasium.utils.env_checker.check_env looks it over)."
        )
        self.env = env
        self.step = step


class CheckpointCorruptError(ValueError):
    """A file that is not a whole model or run of the kind that is read: cut, changed, another's."""


class UnsafeCheckpointError(ValueError):
    """A model file with something in it that no model needs, and that loading could be led by."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warns of the line that called into tfpg, however deep it was found.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn("The lander hovers.")
        >>> str(said[0].message)
        'The lander hovers.'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def check_rewards(rewards: np.ndarray, real: np.ndarray, steps: Any) -> None:
    """Raises where the reward of an environment is not finite.

    Args:
        rewards: ``[N]``, of one step.
        real: ``[N]``, whose reward counts.
        steps: ``[N]`` or a number, the steps in the episodes.

    Raises:
        EnvDataError: One is not.

    Example:
        >>> check_rewards(np.array([1.0, np.nan]), np.array([True, False]), 3)
    """
    wrong = real & ~np.isfinite(rewards)
    if wrong.any():
        n = int(np.argmax(wrong))
        step = int(np.broadcast_to(steps, wrong.shape)[n])
        raise EnvDataError(f"reward is {rewards[n]}", n, step)


def check_observations(observations: Any, real: np.ndarray, steps: Any) -> None:
    """Raises where an observation of an environment is not finite.

    Args:
        observations: ``[N, ...]`` of one step, or a dict of such arrays.
        real: ``[N]``, whose observation counts.
        steps: ``[N]`` or a number, the steps in the episodes.

    Raises:
        EnvDataError: One is not.

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
            what = f"observation{f' {name!r}' if name else ''} has {int((~finite[n]).sum())}"
            what += f" non-finite of its {finite.shape[1]} values"
            raise EnvDataError(what, n, int(np.broadcast_to(steps, wrong.shape)[n]))
