"""Checks of the options that agents share."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv


def check_coef(name: str, value: float) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: It is not a finite number of at least 0.

    Example:
        >>> check_coef("entropy_coef", 0)
        0.0
    """
    if not 0.0 <= value < np.inf:
        raise ValueError(f"{name} must be at least 0, and it is {value!r}.")
    return float(value)


def check_positive(name: str, value: Any, other: str = "") -> float:
    """Returns the value as a float.

    Args:
        name: Of the option.
        value: Of it.
        other: What else the option may be, for the error.

    Raises:
        ValueError: It is not a finite number above 0.

    Example:
        >>> check_positive("reward_scale", 0.5)
        0.5
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0.0 < number < np.inf:
        raise ValueError(f"{name} must be a number above 0{other}, and it is {value!r}.")
    return number


def check_jit(jit_compile: bool | str) -> bool | str:
    """Returns the value: True, False or ``"auto"``.

    Raises:
        ValueError: It is another.

    Example:
        >>> check_jit("auto")
        'auto'
    """
    one_of("jit_compile", jit_compile, (True, False, "auto"))
    return jit_compile


def one_of(name: str, value: Any, known: tuple) -> None:
    """Raises unless the value is a known one.

    Raises:
        ValueError: It is another.

    Example:
        >>> one_of("gradient", "fused", ("fused", "streaming"))
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, and it is {value!r}.")


def plain(option: Any) -> Any:
    """An option as a config file holds it: a schedule is its text, or its number.

    Example:
        >>> from tfpg.schedules import check_schedule, linear
        >>> plain(linear(1.0, 0.1, 100)), plain(check_schedule("epsilon", 0.05)), plain("auto")
        ('linear(1.0, 0.1, 100)', 0.05, 'auto')
    """
    if not callable(option):
        return option
    try:
        return float(repr(option))
    except ValueError:
        return repr(option)


def check_apart(envs: Any, validation_envs: Any) -> None:
    """Raises where a policy would be measured in the environment object that it is trained in.

    Raises:
        ValueError: They are the same.

    Example:
        >>> check_apart("CartPole-v1", "CartPole-v1")
    """
    one, other = (getattr(e, "unwrapped", e) for e in (envs, validation_envs))
    if one is other and isinstance(one, (gymnasium.Env, VectorEnv)):
        raise ValueError(
            "validation_envs is the environment that is trained in, whose episodes measuring would "
            "break off: give another, an id or a callable."
        )
