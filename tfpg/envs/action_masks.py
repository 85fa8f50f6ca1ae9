"""Environments that report their action masks elsewhere than in their observations.

A mask says which actions are valid. Environments report it in one of three ways:

- as a part of a `Dict` observation, ``"action_mask"``, as PettingZoo's do. This is the form that
  tfpg works with: masks are stored and sent together with observations.
- in the infos of ``reset`` and ``step``, as ``info["action_mask"]``, as Gymnasium's Taxi does.
- by a method ``action_masks()``, as for MaskablePPO of Stable-Baselines3's contrib package.

`ActionMasks` turns the last two into the first, and is applied to every single environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.envs.contracts import (
    ACTION_MASK,
    OBSERVATION,
    action_choices,
    as_numbers,
    flat_mask,
    named_parts,
)

METHOD = "action_masks"

_REPORTS: WeakKeyDictionary[gymnasium.Env, bool] = WeakKeyDictionary()


class ActionMasks(gymnasium.Wrapper):
    """Moves the action masks of an environment into its observations.

    An observation becomes a dict with the keys ``"observation"`` and ``"action_mask"``; one that is
    a dict already gets the second key. Masks are those of the method ``action_masks()`` if the
    environment has it, or else of the infos. After a termination, no action is valid.

    Args:
        env: An environment with `Discrete` or `MultiDiscrete` actions.

    Raises:
        ValueError: It has other actions.

    Example:
        >>> class Ladder(gymnasium.Env):
        ...     observation_space, action_space = spaces.Discrete(5), spaces.Discrete(2)
        ...
        ...     def reset(self, *, seed=None, options=None):
        ...         return 0, {"action_mask": np.array([0, 1])}
        >>> observation, info = ActionMasks(Ladder()).reset()
        >>> observation["observation"], observation["action_mask"].tolist()
        (0, [0, 1])
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._size = sum(action_choices(env.action_space))
        self._has_method = has_method(env)
        mask = spaces.Box(0, 1, (self._size,), np.int8)
        space: Any = named_parts(env.observation_space)
        self._is_dict = isinstance(space, spaces.Dict)
        parts = space if self._is_dict else {OBSERVATION: space}
        self.observation_space = spaces.Dict({**parts, ACTION_MASK: mask})

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info, terminated), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: Any, terminated: Any = False) -> dict[str, Any]:
        if terminated:
            mask = np.zeros(self._size, np.int8)
        elif self._has_method:
            mask = flat_mask(self.env.get_wrapper_attr(METHOD)())
        elif ACTION_MASK in info:
            mask = flat_mask(info[ACTION_MASK])
        else:
            raise ValueError(f"its infos had {ACTION_MASK!r} before, but not now")
        if mask.shape != (self._size,):
            raise ValueError(
                f"its action mask has {mask.size} values, but {self.action_space} needs "
                f"{self._size}"
            )
        parts = named_parts(observation) if self._is_dict else {OBSERVATION: observation}
        return {**parts, ACTION_MASK: mask}


def with_masks(env: gymnasium.Env) -> gymnasium.Env:
    """Return an environment with `ActionMasks` if it reports masks that observations do not hold.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> with_masks(env) is env
        True
    """
    return env if mask_source(env) in (None, "observations") else ActionMasks(env)


def mask_source(env: gymnasium.Env) -> str | None:
    """Return where an environment reports action masks: in which of its results, or None.

    Example:
        >>> from tfpg.envs.probes import Divisors
        >>> mask_source(Divisors())
        'observations'
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces:
        return "observations"
    if has_method(env):
        return f"{METHOD}()"
    return "infos" if _reports_masks(env) else None


def masked(build: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Make an environment whose masks have to be moved, also in another process."""
    return ActionMasks(build())


def has_method(env: gymnasium.Env) -> bool:
    """Whether an environment, or a wrapper of it, has a method ``action_masks``."""
    with suppress(AttributeError):
        return callable(env.get_wrapper_attr(METHOD))
    return False


def _reports_masks(env: gymnasium.Env) -> bool:
    """Whether an environment's infos hold masks.

    Only a reset shows what its infos hold. An environment may be in use, slow or broken, so it is
    reset only if its code contains the key.
    """
    if env not in _REPORTS:
        _REPORTS[env] = any(map(_mentions_masks, _layers(env))) and _shows_masks(env)
    return _REPORTS[env]


def _shows_masks(env: gymnasium.Env) -> bool:
    with suppress(Exception):  # which training meets again, and reports
        _, info = env.reset(seed=0)
        return ACTION_MASK in info and as_numbers(info[ACTION_MASK]) is not None
    return False


def _layers(env: Any) -> Iterator[gymnasium.Env]:
    """An environment and those that it wraps."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _mentions_masks(env: gymnasium.Env) -> bool:
    """Whether the code of an environment's methods contains the key of masks in infos."""

    def contains(constant: Any) -> bool:
        if isinstance(constant, CodeType):
            return any(map(contains, constant.co_consts))
        return constant == ACTION_MASK or (
            isinstance(constant, tuple) and any(map(contains, constant))
        )

    functions = (x for each in type(env).__mro__ for x in vars(each).values())
    codes = (getattr(getattr(x, "__func__", x), "__code__", None) for x in functions)
    return any(map(contains, codes))
