"""Environments that report their action masks elsewhere than in their observations.

A mask says which actions are valid. Environments report it in one of three ways:

- as a part of a `Dict` observation, ``"action_mask"``, as PettingZoo's do. This is the form that
  tfpg works with: masks are stored and sent together with observations.
- in the infos of ``reset`` and ``step``, as ``info["action_mask"]``, as Gymnasium's Taxi does.
- by a method ``action_masks()``, as for MaskablePPO of Stable-Baselines3's contrib package.

`ActionMasks` turns the last two into the first, and is applied to every single environment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.messages import warn
from tfpg.envs.contracts import (
    ACTION_MASK,
    MASKABLE,
    OBSERVATION,
    PROBLEM,
    action_choices,
    flat_mask,
    named_parts,
    reset_issues,
    step_issues,
)

METHOD = "action_masks"

# The attribute of an environment that holds whether its infos have masks.
_ANSWER = "_tfpg_has_masks"


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
        self._method = _method(env)
        mask = spaces.Box(0, 1, (self._size,), np.int8)
        space: Any = named_parts(env.observation_space)
        self._is_dict = isinstance(space, spaces.Dict)
        parts = space if self._is_dict else {OBSERVATION: space}
        self.observation_space = spaces.Dict({**parts, ACTION_MASK: mask})

    # What no environment may return is returned unchanged, for others to refuse.

    def reset(self, *, seed=None, options=None):
        result = self.env.reset(seed=seed, options=options)
        if any(reset_issues(result)):
            return result
        observation, info = result
        return self._with_mask(observation, info), info

    def step(self, action):
        result = self.env.step(action)
        if any(issue.verdict == PROBLEM for issue in step_issues(result)):
            return result
        observation, reward, terminated, truncated, info = result
        return self._with_mask(observation, info, terminated), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: Any, terminated: Any = False) -> Any:
        parts = named_parts(observation) if self._is_dict else {OBSERVATION: observation}
        if not isinstance(parts, dict):
            return observation
        if terminated:
            mask = np.zeros(self._size, np.int8)
        elif self._method is not None:
            mask = flat_mask(self._method())
        elif ACTION_MASK in info:
            mask = flat_mask(info[ACTION_MASK])
        else:
            raise ValueError(f"its infos had {ACTION_MASK!r} before, but not now")
        if mask.shape != (self._size,):
            raise ValueError(
                f"its action mask has {mask.size} values, but {self.action_space} needs "
                f"{self._size}"
            )
        return {**parts, ACTION_MASK: mask}


def with_masks(env: gymnasium.Env, new: bool = False) -> gymnasium.Env:
    """Return an environment with `ActionMasks` if it reports masks that observations do not hold.

    Masks of actions that cannot be masked are ignored. So are those of ``action_masks()`` below a
    wrapper whose ``action_masks`` is None.

    Args:
        env: The environment.
        new: Whether it was made just now, so that a reset does not end an episode.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> with_masks(env) is env
        True
    """
    return env if mask_source(env, new) in (None, "observations") else ActionMasks(env)


def mask_source(env: gymnasium.Env, new: bool = False) -> str | None:
    """Return where an environment reports action masks: in which of its results, or None.

    Args:
        env: The environment.
        new: As for `with_masks`.

    Example:
        >>> from tfpg.envs.probes import Divisors
        >>> mask_source(Divisors())
        'observations'
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces:
        return "observations"
    method = _method(env)
    if isinstance(env.action_space, MASKABLE):
        return f"{METHOD}()" if method else "infos" if _reports_masks(env, new) else None
    if method:
        warn(f"Ignoring {METHOD}(): only Discrete and MultiDiscrete actions can be masked.")
    return None


def warn_about_unused_method(envs: Any) -> None:
    """Warn if environments of a vector environment have masks that only their method reports."""
    space = envs.single_observation_space
    known = isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces
    if known or not isinstance(envs.single_action_space, MASKABLE):
        return
    for env in list(getattr(envs.unwrapped, "envs", ()))[:1]:
        if isinstance(env, gymnasium.Env) and _method(env):
            warn(
                f"Ignoring {METHOD}() of the environments in {type(envs.unwrapped).__name__}. To "
                "use it, wrap each of them in tfpg.envs.action_masks.ActionMasks."
            )


def masked(build: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Make an environment whose masks have to be moved, also in another process."""
    return ActionMasks(build())


def _method(env: gymnasium.Env) -> Callable[[], Any] | None:
    """The method ``action_masks`` of an environment or of a wrapper of it, if there is one."""
    with suppress(AttributeError):
        method = env.get_wrapper_attr(METHOD)
        return method if callable(method) else None
    return None


def _reports_masks(env: gymnasium.Env, new: bool) -> bool:
    """Whether an environment's infos hold masks.

    Only a reset shows what they hold. It is left out if no code contains the key, and the answer is
    kept, because an environment that has been rendered may be impossible to copy.
    """
    known = vars(env)
    if _ANSWER not in known:
        known[_ANSWER] = any(map(_mentions_masks, _layers(env))) and _shows_masks(env, new)
    return known[_ANSWER]


def _shows_masks(env: gymnasium.Env, new: bool) -> bool:
    """Whether the infos of a reset hold masks: of a copy, as the environment may be in use."""
    try:
        env = copy.deepcopy(env)
        if env.unwrapped.render_mode == "human":  # a reset would open a window
            env.unwrapped.render_mode = None
    except Exception:
        if not new:
            return False
    with suppress(Exception):  # which training meets again, and reports
        _, info = env.reset(seed=0)
        return flat_mask(info[ACTION_MASK]).size > 0
    return False


def _layers(env: Any) -> Iterator[gymnasium.Env]:
    """An environment and those that it wraps."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _mentions_masks(env: gymnasium.Env) -> bool:
    """Whether an environment's class contains the key of masks in infos."""
    return any(_contains_key(x) for each in type(env).__mro__ for x in vars(each).values())


def _contains_key(x: Any, follow: bool = True) -> bool:
    """Whether an attribute of a class is the key, or a function that contains it.

    A function contains its constants, its defaults, the function that it decorates, and the texts
    and functions of its module that it names. Those of the latter functions are not followed.
    """
    if isinstance(x, property):
        x = x.fget
    elif isinstance(x, (classmethod, staticmethod)):
        x = x.__func__
    if isinstance(x, (tuple, frozenset)):
        return any(_contains_key(part, follow) for part in x)
    if not isinstance(x, FunctionType):
        return isinstance(x, str) and x == ACTION_MASK
    codes = list(_codes(x.__code__))
    constants = *(code.co_consts for code in codes), *(x.__kwdefaults__ or {}).values()
    named = [x.__globals__.get(name) for code in codes for name in code.co_names]
    named = [part for part in named if follow or isinstance(part, str)]
    return _contains_key((constants, x.__defaults__, *named), follow=False) or _contains_key(
        vars(x).get("__wrapped__"), follow
    )


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
