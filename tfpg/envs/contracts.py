"""The requirements of Gymnasium's interface and an environment's own spaces on each value.

Each function is pure, and yields an `Issue` for everything that is wrong with a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces

WARNING, PROBLEM = "warning", "problem"

_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Issue(NamedTuple):
    """Something that is wrong with a value.

    Attributes:
        verdict: `WARNING` if tfpg can handle it, `PROBLEM` if not.
        kind: Issues of the same kind are reported once.
        detail: Description for the user.
    """

    verdict: str
    kind: str
    detail: str


def observation_issues(space: gymnasium.Space, observation: Any) -> Iterator[Issue]:
    """Check an observation against its space.

    Example:
        >>> space = spaces.Box(-1, 1, (2,), np.float32)
        >>> [issue.detail for issue in observation_issues(space, np.array([0.0, np.nan]))]
        ['float64, but the space has float32', '1 of 2 values is NaN or infinite']
    """
    if not isinstance(space, spaces.Dict):
        yield from _array_issues(space, observation)
        return
    if not isinstance(observation, dict):
        yield Issue(PROBLEM, "type", f"expected a dict, got {_type(observation)}")
        return
    for key in [*space, *(key for key in observation if key not in space.spaces)]:
        if key not in observation:
            yield Issue(PROBLEM, f"{key} missing", f"{key!r} is missing")
        elif key not in space.spaces:
            yield Issue(WARNING, f"{key} extra", f"{key!r} is not in the space, and is ignored")
        else:
            for issue in observation_issues(space[key], observation[key]):
                kind, detail = f"{key} {issue.kind}", f"{key!r}: {issue.detail}"
                yield issue._replace(kind=kind, detail=detail)


def _array_issues(space: gymnasium.Space, observation: Any) -> Iterator[Issue]:
    kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(space, kinds):
        if not space.contains(observation):
            yield Issue(PROBLEM, "outside", "outside the space")
        return
    x, dtype = _array(observation), np.dtype(cast(Any, space.dtype))
    if x is None:
        yield Issue(PROBLEM, "type", f"expected numbers, got {_type(observation)}")
        return
    if x.shape != space.shape:
        yield Issue(PROBLEM, "shape", f"shape {x.shape}, but the space has {space.shape}")
        return
    if isinstance(observation, (list, tuple)):
        yield Issue(WARNING, "list", f"expected an array, got {_type(observation)}")
    elif x.dtype != dtype and not (x.shape == () and x.dtype.kind == dtype.kind):
        verdict = WARNING if np.can_cast(x.dtype, dtype, "same_kind") else PROBLEM
        yield Issue(verdict, "dtype", f"{x.dtype}, but the space has {dtype}")
    finite = np.isfinite(x)
    if not finite.all():
        yield Issue(PROBLEM, "finite", f"{_count(~finite)} NaN or infinite")
    if isinstance(space, spaces.Box):
        yield from _bound_issues(space, x.astype(dtype), finite)
    elif finite.all() and not space.contains(x.astype(dtype)[()]):
        yield Issue(PROBLEM, "outside", f"{x.tolist()} is outside {space}")


def _bound_issues(space: spaces.Box, x: np.ndarray, finite: np.ndarray) -> Iterator[Issue]:
    # In float64, where integers do not wrap around.
    value, low, high = (a.astype(np.float64) for a in (x, space.low, space.high))
    excess = np.where(finite, np.maximum(low - value, value - high), -np.inf)
    outside = excess > 0
    if outside.any():
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        sign, bound = ("<", low) if value[worst] < low[worst] else (">", high)
        comparison = f"{value[worst]:.6g} {sign} {bound[worst]:.6g}"
        yield Issue(PROBLEM, "outside", f"{_count(outside)} outside the space: {comparison}")


def reward_issues(reward: Any) -> Iterator[Issue]:
    """Check that a reward is a finite number.

    Example:
        >>> [issue.detail for issue in reward_issues(np.ones(1))]
        ['expected a float, got an array of shape (1,): use float(reward)']
    """
    if isinstance(reward, np.ndarray):
        detail = f"expected a float, got an array of shape {reward.shape}: use float(reward)"
        yield Issue(PROBLEM, "type", detail)
    elif not isinstance(reward, _NUMBERS):
        yield Issue(PROBLEM, "type", f"expected a float, got {_type(reward)}")
    elif not math.isfinite(reward):
        yield Issue(PROBLEM, "finite", f"{float(reward)}")


def reset_issues(result: Any) -> Iterator[Issue]:
    """Check the form of the return value of ``reset``.

    Example:
        >>> [issue.detail for issue in reset_issues(np.zeros(3))]
        ['expected (observation, info), got ndarray']
    """
    if not isinstance(result, tuple) or len(result) != 2:
        yield Issue(PROBLEM, "tuple", f"expected (observation, info), got {_type(result)}")
    elif not isinstance(result[1], dict):
        yield Issue(PROBLEM, "info", f"expected a dict as info, got {_type(result[1])}")


def step_issues(result: Any) -> Iterator[Issue]:
    """Check the form of the return value of ``step``, except for observation and reward.

    Example:
        >>> [issue.detail for issue in step_issues((0, 1.0, 0, False, {}))]
        ['expected a bool as terminated, got int']
    """
    if not isinstance(result, tuple) or len(result) != 5:
        old = isinstance(result, (tuple, list)) and len(result) == 4
        yield Issue(
            PROBLEM,
            "tuple",
            "expected (observation, reward, terminated, truncated, info), got "
            f"{_type(result)}{' (the interface of Gym before 0.26)' * old}",
        )
        return
    for name, value in zip(("terminated", "truncated"), result[2:4], strict=True):
        if not isinstance(value, (bool, np.bool_)):
            verdict = WARNING if isinstance(value, (int, np.integer)) else PROBLEM
            yield Issue(verdict, name, f"expected a bool as {name}, got {_type(value)}")
    if not isinstance(result[4], dict):
        yield Issue(PROBLEM, "info", f"expected a dict as info, got {_type(result[4])}")


def _array(x: Any) -> np.ndarray | None:
    try:
        array = np.asarray(x)
    except (ValueError, TypeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _count(wrong: np.ndarray) -> str:
    count = int(wrong.sum())
    return f"{count} of {wrong.size} values {'is' if count == 1 else 'are'}"


def _type(x: Any) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__
