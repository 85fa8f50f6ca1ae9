"""What an environment gave, held against what it promised: pure functions of single values.

`tfpg.checks.trying` plays environments and asks these. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import math
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.video.frames import as_frame

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_BOOLS = (bool, np.bool_)
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)
_LONGEST = 300
_OTHERS = (str(Path(__file__).parents[1]) + os.sep, sysconfig.get_path("stdlib"), "<")


class Fault(NamedTuple):
    """Something wrong with a value.

    Attributes:
        verdict: `WARNING` where tfpg copes with it, `PROBLEM` where it does not.
        kind: Faults of a kind are told once.
        detail: In words.
    """

    verdict: str
    kind: str
    detail: str


class Moment(NamedTuple):
    """A reset, whose step is None, or a step: as much of it as tells whether two are the same.

    Attributes:
        seed: The episode was reset with.
        step: Number in the episode, from 0.
        observation: Fingerprint of it.
        reward: Fingerprint of it.
        end: Terminated and truncated, or the name of the exception that it raised.
    """

    seed: int
    step: int | None
    observation: Any = None
    reward: Any = None
    end: Any = None

    def where(self) -> str:
        return f"{'reset' if self.step is None else f'step {self.step}'}, seed {self.seed}"


def observation_faults(space: gymnasium.Space, observation: Any) -> Iterator[Fault]:
    """What is wrong with an observation of a space.

    Example:
        >>> space = spaces.Box(-1, 1, (2,), np.float32)
        >>> [fault.detail for fault in observation_faults(space, np.array([0.0, np.nan]))]
        ['float64, and the space says float32', '1 of 2 values is NaN or infinite']
    """
    if not isinstance(space, spaces.Dict):
        yield from _part_faults(space, observation)
        return
    if not isinstance(observation, dict):
        yield Fault(PROBLEM, "type", f"{_a(observation)}, and the space is a Dict")
        return
    for key in [*space, *(key for key in observation if key not in space.spaces)]:
        if key not in observation:
            yield Fault(PROBLEM, f"{key} missing", f"{key!r} is missing")
        elif key not in space.spaces:
            yield Fault(WARNING, f"{key} more", f"{key!r} is not in the space, and left out")
        else:
            for fault in observation_faults(space[key], observation[key]):
                named = f"{key!r}: {fault.detail}"
                yield fault._replace(kind=f"{key} {fault.kind}", detail=named)


def _part_faults(space: gymnasium.Space, observation: Any) -> Iterator[Fault]:
    kinds = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(space, kinds):
        if not space.contains(observation):
            yield Fault(PROBLEM, "outside", "outside the space")
        return
    x, dtype = _array(observation), np.dtype(cast(Any, space.dtype))
    if x is None:
        yield Fault(PROBLEM, "type", f"{_a(observation)}, and numbers were expected")
        return
    if x.shape != space.shape:
        yield Fault(PROBLEM, "shape", f"shape {x.shape}, and the space has {space.shape}")
        return
    if isinstance(observation, (list, tuple)):
        yield Fault(WARNING, "list", f"{_a(observation)}, and an array was expected")
    elif x.dtype != dtype and not (x.shape == () and x.dtype.kind == dtype.kind):
        fits = np.can_cast(x.dtype, dtype, "same_kind")
        told = f"{x.dtype}, and the space says {dtype}"
        yield Fault(WARNING if fits else PROBLEM, "dtype", told)
    finite = np.isfinite(x)
    if not finite.all():
        yield Fault(PROBLEM, "finite", f"{_of(int((~finite).sum()), x.size)} NaN or infinite")
    if isinstance(space, spaces.Box):
        yield from _bound_faults(space, x.astype(dtype), finite)
    elif finite.all() and not space.contains(_plain(x.astype(dtype))):
        yield Fault(PROBLEM, "outside", f"{x.tolist()} is outside {space}")


def _bound_faults(space: spaces.Box, x: np.ndarray, finite: np.ndarray) -> Iterator[Fault]:
    outside = finite & ((x < space.low) | (x > space.high))
    if outside.any():
        # In float64, where integers do not wrap around.
        value, low, high = (a.astype(np.float64) for a in (x, space.low, space.high))
        over = np.where(outside, np.maximum(low - value, value - high), -np.inf)
        worst = np.unravel_index(np.argmax(over), over.shape)
        bound = (low if value[worst] < low[worst] else high)[worst]
        yield Fault(
            PROBLEM,
            "outside",
            f"{_of(int(outside.sum()), x.size)} outside the space: {value[worst]:.6g}, where "
            f"its bound is {bound:.6g}",
        )


def reward_faults(reward: Any) -> Iterator[Fault]:
    """What is wrong with a reward.

    Example:
        >>> [fault.detail for fault in reward_faults(np.ones(1))]
        ['an array of shape (1,), and a float was expected: float(reward)']
    """
    if isinstance(reward, np.ndarray):
        told = f"an array of shape {reward.shape}, and a float was expected: float(reward)"
        yield Fault(PROBLEM, "type", told)
    elif not isinstance(reward, _NUMBERS):
        yield Fault(PROBLEM, "type", f"{_a(reward)}, and a float was expected")
    elif not math.isfinite(reward):
        yield Fault(PROBLEM, "finite", f"{float(reward)}")


def reset_faults(result: Any) -> Iterator[Fault]:
    """What is wrong with what ``reset`` returned.

    Example:
        >>> [fault.detail for fault in reset_faults(np.zeros(3))]
        ['it returned an ndarray, and (observation, info) was expected']
    """
    if not isinstance(result, tuple) or len(result) != 2:
        told = f"it returned {_returned(result)}, and (observation, info) was expected"
        yield Fault(PROBLEM, "tuple", told)
    elif not isinstance(result[1], dict):
        yield Fault(PROBLEM, "info", f"its info is {_a(result[1])}, and a dict was expected")


def step_faults(result: Any) -> Iterator[Fault]:
    """What is wrong with what ``step`` returned, its observation and reward aside.

    Example:
        >>> [fault.detail for fault in step_faults((0, 1.0, 0, False, {}))]
        ['terminated is an int, and a bool was expected']
    """
    if not isinstance(result, tuple) or len(result) != 5:
        old = ", as Gym's environments did before 0.26" * (_count(result) == 4)
        yield Fault(
            PROBLEM,
            "tuple",
            f"it returned {_returned(result)}{old}, and (observation, reward, terminated, "
            "truncated, info) was expected",
        )
        return
    for name, value in zip(("terminated", "truncated"), result[2:4], strict=True):
        if not isinstance(value, _BOOLS):
            verdict = WARNING if isinstance(value, (int, np.integer)) else PROBLEM
            yield Fault(verdict, name, f"{name} is {_a(value)}, and a bool was expected")
    if not isinstance(result[4], dict):
        yield Fault(PROBLEM, "info", f"its info is {_a(result[4])}, and a dict was expected")


def frame_faults(images: Iterable[Any]) -> Iterator[Fault]:
    """What is wrong with frames that were rendered one after another.

    Example:
        >>> [fault.kind for fault in frame_faults([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))])]
        ['dtype', 'size']
    """
    images = list(images)
    for image in images:
        try:
            as_frame(image)
        except (ValueError, TypeError) as error:
            yield Fault(PROBLEM, "frame", squeezed(error))
            return
    first = np.asarray(images[0])
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[-1] != 3:
        told = f"{first.dtype} {first.shape}, and uint8 (height, width, 3) is usual: converted"
        yield Fault(WARNING, "dtype", told)
    sizes = {np.shape(image)[:2] for image in images}
    if len(sizes) > 1:
        told = f"frames of several sizes, {', '.join(map(str, sorted(sizes)))}: a film has one"
        yield Fault(PROBLEM, "size", told)


def fingerprint(x: Any) -> Any:
    """Equal for equal observations, down to the bit; it keeps nothing of them.

    Example:
        >>> fingerprint(np.array([1.0, np.nan])) == fingerprint(np.array([1.0, np.nan]))
        True
    """
    if isinstance(x, dict):
        return tuple((str(key), fingerprint(part)) for key, part in x.items())
    if isinstance(x, (list, tuple)):
        return tuple(map(fingerprint, x))
    array = np.asarray(x)
    if array.dtype.kind == "O":
        return repr(x)
    return hash((array.dtype.str, array.shape, array.tobytes()))


def first_difference(one: Iterable[Moment], other: Iterable[Moment]) -> str | None:
    """What first differs in two plays of the same actions, and where; None: nothing does.

    Example:
        >>> first_difference([Moment(0, None, 1), Moment(0, 0, 2, 1.0)], [Moment(0, None, 1)])
        >>> first_difference([Moment(0, 5, 1, 1.0)], [Moment(0, 5, 1, 2.0)])
        'reward (step 5, seed 0)'
    """
    for a, b in zip(one, other, strict=False):
        if a.end != b.end and str in (type(a.end), type(b.end)):
            return f"error ({a.where()})"
        for name in ("observation", "reward", "end"):
            if getattr(a, name) != getattr(b, name):
                return f"{name} ({a.where()})"
    return None


def squeezed(error: BaseException | str) -> str:
    """A message on one line, without a terminal's colours, cut where it is long."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def describe_error(error: BaseException) -> str:
    """An exception's type, its message, and the line that raised it.

    Example:
        >>> try:
        ...     int("ten")
        ... except ValueError as error:
        ...     print(describe_error(error))
        ValueError: invalid literal for int() with base 10: 'ten'
    """
    text, line = squeezed(error), _line(error)
    return f"{type(error).__name__}{': ' * bool(text)}{text}{f' ({line})' * bool(line)}"


def _line(error: BaseException) -> str | None:
    """The innermost line of the environment's own, or of a package that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    packages = [frame for frame in frames if "site-packages" in frame.filename]
    own = [frame for frame in frames if not frame.filename.startswith(_OTHERS)]
    own = [frame for frame in own if frame not in packages] or packages
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else None


def _array(x: Any) -> np.ndarray | None:
    try:
        array = np.asarray(x)
    except (ValueError, TypeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _plain(x: np.ndarray) -> Any:
    return x[()] if x.shape == () else x


def _of(count: int, size: int) -> str:
    return f"{count} of {size} values {'is' if count == 1 else 'are'}"


def _a(x: Any) -> str:
    name = type(x).__name__
    return f"a{'n' * (name[0] in 'aeion')} {name}"  # an ndarray


def _count(x: Any) -> int | None:
    return len(x) if isinstance(x, (tuple, list)) else None


def _returned(x: Any) -> str:
    return f"{_a(x)}{f' of {len(x)}' if isinstance(x, (tuple, list)) else ''}"
