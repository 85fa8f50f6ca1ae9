"""The boundary to environments: what their results may be, and the one form they are brought into.

=======================  =====================================  ===================================
value                    accepted                               becomes
=======================  =====================================  ===================================
observation              numbers of the space's shape that its  a new array of the space's dtype;
                         dtype can hold; a `Dict`'s keys, or a  keys that are not in it, or are no
                         `Tuple`'s parts                        numbers, are left out; the parts of
                                                                a tuple get the keys "0", "1", ...
reward                   a number, or an array with a single    float
                         one
terminated, truncated    True, False, 0, 1, or an array with a  bool
                         single one of these
info                     a dict                                 its ``lives``, if that is a number
=======================  =====================================  ===================================

The part ``"action_mask"`` of a `Dict` observation has a 1 for each valid action of a `Discrete`,
or for each valid option of each choice of a `MultiDiscrete`, and 0 for the others. There has to be
one, unless the episode has terminated. `tfpg.envs.action_masks` makes this part from other masks.

A vector environment returns all of them ``[N, ...]``, and may return ``[N, 1]`` rewards and flags.
Anything else is refused, with the name of the value. NaN and infinity are found later, where a
whole trajectory is checked at once.

`observation_issues` and its like are pure functions that yield an `Issue` for each thing that is
wrong with a value: a `PROBLEM` is refused, a `WARNING` is not. ``tfpg check`` reports the issues;
`single_step` and `VectorForm` raise an error for the first problem.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from tfpg.core.arrays import assign, map_arrays
from tfpg.core.messages import one_line, warn

WARNING, PROBLEM = "warning", "problem"

# The spaces whose observations are numbers. A `Dict` or `Tuple` of them is supported as well.
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

# The spaces whose actions can be masked.
MASKABLE = (spaces.Discrete, spaces.MultiDiscrete)

# The key of a `Dict` observation that holds which actions are valid, and that of the rest if there
# is only one other part.
ACTION_MASK, OBSERVATION = "action_mask", "observation"
# The key of a flag that recurrent policies add: 1 for the first observation of an episode.
BEGIN = "/begin"

_BOOL = np.dtype(bool)


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


def named_parts(x: Any) -> Any:
    """Return a `Tuple` space as a `Dict`, or a tuple as a dict, with keys "0", "1", and so on.

    Anything else is returned unchanged.

    Example:
        >>> named_parts((3, 5))
        {'0': 3, '1': 5}
    """
    if not isinstance(x, (tuple, spaces.Tuple)):
        return x
    named = {str(i): part for i, part in enumerate(x)}
    return spaces.Dict(named) if isinstance(x, spaces.Tuple) else named


def usable_space(space: Any) -> Any:
    """Return an observation space without the keys of a `Dict` that no model can take.

    A `Tuple` becomes a `Dict`, as `named_parts` names its parts, and an action mask becomes a `Box`
    with one axis. The space itself is returned if nothing changes, or none of its keys can be used.

    Example:
        >>> usable_space(spaces.Dict(goal=spaces.Text(9), room=spaces.Discrete(4)))
        Dict('room': Discrete(4))
    """
    named = named_parts(space)
    if not isinstance(named, spaces.Dict):
        return space
    parts = {key: _flat(part) if key == ACTION_MASK else part for key, part in named.items()}
    usable: dict[str, gymnasium.Space] = {
        key: part for key, part in parts.items() if isinstance(part, NUMERIC)
    }
    unchanged = named is space and all(usable.get(key) is part for key, part in named.items())
    return space if unchanged or not usable else spaces.Dict(usable)


def _flat(space: Any) -> Any:
    """The space of a mask as a `Box` with one axis."""
    parts = space.spaces if isinstance(space, spaces.Tuple) else (space,)
    binary = (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)
    if not all(isinstance(part, binary) for part in parts):
        return space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype != _BOOL:
        return space
    size = sum(int(np.prod(cast(Any, part.shape))) for part in parts)
    return spaces.Box(0, 1, (size,), np.int8)


def flat_mask(mask: Any) -> Any:
    """Return a mask as a new array with one axis: one of several, or one mask for each choice.

    Example:
        >>> flat_mask((np.array([1, 0]), [True, True, False])).tolist()
        [1, 0, 1, 1, 0]
    """
    array = as_numbers(mask)
    if array is None and isinstance(mask, (tuple, list)):  # of different sizes
        array = np.concatenate([flat_mask(part) for part in mask])
    if array is None:
        raise ValueError(f"its action mask must be numbers or booleans, but it is {_type(mask)}")
    array = array.flatten()
    return array.view(np.int8) if array.dtype == _BOOL else array


def mask_choices(space: gymnasium.Space, actions: gymnasium.Space) -> tuple[int, ...] | None:
    """Return the numbers of options that an action mask has for each choice.

    Args:
        space: The observation space.
        actions: The action space.

    Returns:
        ``(A,)`` for a `Discrete` with A actions, one number for each choice of a `MultiDiscrete`,
        or None if observations have no mask.

    Raises:
        ValueError: The mask does not fit the actions.

    Example:
        >>> mask = spaces.Dict(action_mask=spaces.MultiBinary(5))
        >>> mask_choices(mask, spaces.MultiDiscrete([3, 2]))
        (3, 2)
    """
    if not isinstance(space, spaces.Dict) or ACTION_MASK not in space.spaces:
        return None
    choices = action_choices(actions)
    shape = _flat(space[ACTION_MASK]).shape
    if shape != (sum(choices),):
        raise ValueError(
            f"The action mask has shape {shape}, but {actions} needs {sum(choices)} values: one "
            f"for each {'action' if len(choices) == 1 else 'option of each choice'}."
        )
    return choices


def action_choices(actions: gymnasium.Space) -> tuple[int, ...]:
    """Return the numbers of options of each choice of an action that can be masked.

    Raises:
        ValueError: The actions cannot be masked.

    Example:
        >>> action_choices(spaces.Discrete(4)), action_choices(spaces.MultiDiscrete([3, 2]))
        ((4,), (3, 2))
    """
    if isinstance(actions, spaces.Discrete):
        return (int(actions.n),)
    if isinstance(actions, spaces.MultiDiscrete):
        return tuple(actions.nvec.ravel().tolist())
    raise ValueError(
        f"An action mask needs Discrete or MultiDiscrete actions, but the action space is "
        f"{actions}. Remove the mask, or give it another name to use it as an observation."
    )


def mask_issues(choices: tuple[int, ...], mask: np.ndarray) -> Iterator[Issue]:
    """Check that a mask ``[sum(choices)]`` holds zeros and ones, and a 1 for each choice.

    Example:
        >>> [issue.detail for issue in mask_issues((2, 3), np.array([0, 1, 0, 0, 0]))]
        ['no option of choice 1 is valid, but the episode has not terminated']
    """
    valid = mask != 0
    if not np.array_equal(mask, valid):
        wrong = mask[(mask != 0) & (mask != 1)]
        yield Issue(PROBLEM, "mask", f"expected zeros and ones, got {wrong[0]:g}")
    if len(choices) == 1:
        if not valid.any():
            detail = "no action is valid, but the episode has not terminated"
            yield Issue(PROBLEM, "none valid", detail)
        return
    for d, part in enumerate(np.split(valid, np.cumsum(choices)[:-1])):
        if not part.any():
            detail = f"no option of choice {d} is valid, but the episode has not terminated"
            yield Issue(PROBLEM, "none valid", detail)


def warn_about_unused_mask(
    space: gymnasium.Space, actions: gymnasium.Space, info: dict[str, Any]
) -> None:
    """Warn if the infos of a reset hold an action mask that the observations do not."""
    if ACTION_MASK in info and not (isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces):
        how = (
            "To use it, return it as a part of a Dict observation; for a single environment, "
            "tfpg.envs.action_masks.ActionMasks does this."
            if isinstance(actions, MASKABLE)
            else "Only Discrete and MultiDiscrete actions can be masked."
        )
        warn(f"Ignoring the {ACTION_MASK!r} in the infos. {how}")


def warn_about_left_out(space: Any) -> None:
    """Warn about each key of a `Dict` that `usable_space` leaves out, unless it holds text."""
    named = named_parts(space)
    if usable_space(space) is space:
        return
    for key in left_out(named):
        if not _holds_text(named[key]):
            warn(
                f"Ignoring the observation {key!r}: {type(named[key]).__name__} spaces are not "
                "supported. To use it, wrap the environment."
            )


def _holds_text(space: gymnasium.Space) -> bool:
    with suppress(Exception):  # custom spaces may not implement sample()
        return isinstance(copy.deepcopy(space).sample(), str)
    return False


def left_out(space: Any) -> list[Any]:
    """Return the keys of a `Dict` that no model can take.

    Example:
        >>> left_out(spaces.Dict(goal=spaces.Text(9), room=spaces.Discrete(4)))
        ['goal']
    """
    parts = space.items() if isinstance(space, spaces.Dict) else ()
    return [
        key
        for key, part in parts
        if not isinstance(_flat(part) if key == ACTION_MASK else part, NUMERIC)
    ]


def observation_issues(space: gymnasium.Space, observation: Any) -> Iterator[Issue]:
    """Check an observation against its space.

    Example:
        >>> space = spaces.Box(-1, 1, (2,), np.float32)
        >>> [issue.detail for issue in observation_issues(space, np.array([0.0, np.nan]))]
        ['float64, but the space has float32', '1 of 2 values is NaN or infinite']
    """
    expected = "tuple" if isinstance(space, spaces.Tuple) else "dict"
    space, observed = named_parts(space), named_parts(observation)
    if not isinstance(space, spaces.Dict):
        yield from _array_issues(space, observation)
        return
    if not isinstance(observed, dict):
        yield Issue(PROBLEM, "type", f"expected a {expected}, got {_type(observation)}")
        return
    for key in [*space, *(key for key in observed if key not in space.spaces)]:
        if key in space.spaces and not isinstance(space[key], NUMERIC):
            continue
        if key not in observed:
            yield Issue(PROBLEM, f"{key} missing", f"{key!r} is missing")
        elif key not in space.spaces:
            yield Issue(WARNING, f"{key} extra", f"{key!r} is not in the space, and is ignored")
        else:
            for issue in observation_issues(space[key], observed[key]):
                kind, detail = f"{key} {issue.kind}", f"{key!r}: {issue.detail}"
                yield issue._replace(kind=kind, detail=detail)


def _array_issues(space: gymnasium.Space, observation: Any) -> Iterator[Issue]:
    if not isinstance(space, NUMERIC):
        if not space.contains(observation):
            yield Issue(PROBLEM, "outside", "outside the space")
        return
    x, dtype = as_numbers(observation), np.dtype(cast(Any, space.dtype))
    if x is None:
        yield Issue(PROBLEM, "type", f"expected numbers, got {_type(observation)}")
        return
    if x.shape != space.shape:
        yield Issue(PROBLEM, "shape", f"shape {x.shape}, but the space has {space.shape}")
        return
    if isinstance(observation, (list, tuple)):
        yield Issue(WARNING, "list", f"expected an array, got {_type(observation)}")
    elif x.dtype != dtype and not (x.shape == () and x.dtype.kind == dtype.kind):
        verdict = WARNING if _holds(dtype, x) else PROBLEM
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
        yield Issue(WARNING, "outside", f"{_count(outside)} outside the space: {comparison}")


def reward_issues(reward: Any) -> Iterator[Issue]:
    """Check that a reward is a finite number.

    Example:
        >>> [issue.detail for issue in reward_issues(np.ones(2))]
        ['expected a float, got an array of shape (2,)']
    """
    x = as_numbers(reward)
    if x is None:
        yield Issue(PROBLEM, "type", f"expected a float, got {_type(reward)}")
    elif x.size != 1:
        yield Issue(PROBLEM, "type", f"expected a float, got an array of shape {x.shape}")
    elif x.shape:
        detail = f"expected a float, got an array of shape {x.shape}: use float(reward)"
        yield Issue(WARNING, "type", detail)
    if x is not None and not np.isfinite(x).all():
        yield Issue(PROBLEM, "finite", f"{_count(~np.isfinite(x))} NaN or infinite")


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
        ['expected a bool as terminated, got 0 (int)']
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
            verdict = PROBLEM if _flags(value, 1) is None else WARNING
            yield Issue(verdict, name, f"expected a bool as {name}, got {_shown(value)}")
    if not isinstance(result[4], dict):
        yield Issue(PROBLEM, "info", f"expected a dict as info, got {_type(result[4])}")


def as_numbers(x: Any) -> np.ndarray | None:
    """Return a value as an array of numbers, or None if it is something else.

    Example:
        >>> as_numbers("go") is None
        True
    """
    try:
        array = np.asarray(x)
        if array.dtype == object:  # which may hold numbers
            array = np.asarray(array.tolist())
    except (ValueError, TypeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _holds(dtype: np.dtype, x: np.ndarray) -> bool:
    """Whether numbers can be cast to a dtype: to floats with rounding, else without any change."""
    if np.can_cast(x.dtype, dtype, "same_kind"):
        return True
    with np.errstate(invalid="ignore"):  # NaN as an integer
        return bool((x.astype(dtype) == x).all())


def _count(wrong: np.ndarray) -> str:
    count = int(wrong.sum())
    return f"{count} of {wrong.size} values {'is' if count == 1 else 'are'}"


def _type(x: Any) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__


def _shown(x: Any) -> str:
    array = as_numbers(x)
    return _type(x) if array is None or array.size > 8 else f"{one_line(x, 80)} ({_type(x)})"


def _flags(x: Any, count: int) -> np.ndarray | None:
    """Zeros and ones as ``[count]`` bool, or None if they are something else."""
    array = as_numbers(x)
    if array is None or array.size != count or array.ndim > 2 or not np.isin(array, (0, 1)).all():
        return None
    return array.reshape(count).astype(bool)


def _refuse(what: str, issues: Iterable[Issue]) -> None:
    for issue in issues:
        if issue.verdict == PROBLEM and not issue.kind.endswith("finite"):
            raise ValueError(f"its {what}: {issue.detail}")


def observation_in(space: gymnasium.Space, observation: Any) -> Any:
    """Return an observation in the form of its space: a new array, or a dict of new arrays.

    Raises:
        ValueError: It does not fit the space.

    Example:
        >>> observation_in(spaces.Box(-1, 1, (2,), np.float32), [0, 0.5])
        array([0. , 0.5], dtype=float32)
    """
    if isinstance(space, spaces.Box):
        if (
            type(observation) is np.ndarray
            and observation.dtype == space.dtype
            and observation.shape == space.shape
        ):
            return observation.copy()
    elif isinstance(space, spaces.Dict) and isinstance(observation, (dict, tuple)):
        observation = named_parts(observation)
        if ACTION_MASK in space.spaces and ACTION_MASK in observation:
            mask = flat_mask(observation[ACTION_MASK])
            observation = {**observation, ACTION_MASK: mask}
        with suppress(KeyError, ValueError):  # which are named below, with their keys
            return {key: observation_in(space[key], observation[key]) for key in space}
    _refuse("observation", observation_issues(space, observation))
    if isinstance(space, NUMERIC):
        return np.array(observation, space.dtype)
    return observation


def single_reset(
    space: gymnasium.Space, result: Any, choices: tuple[int, ...] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return what ``reset`` of an environment returned, in one form.

    Args:
        space: The observation space.
        result: What it returned.
        choices: What `mask_choices` returns.

    Raises:
        ValueError: Something in it is refused.
    """
    _refuse("reset()", reset_issues(result))
    observation, info = result
    observation = observation_in(space, observation)
    if choices is not None:
        _refuse(ACTION_MASK, mask_issues(choices, observation[ACTION_MASK]))
    return observation, _known(info)


def single_step(
    space: gymnasium.Space, result: Any, choices: tuple[int, ...] | None = None
) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Return what ``step`` of an environment returned, in one form.

    Args:
        space: The observation space.
        result: What it returned.
        choices: What `mask_choices` returns.

    Raises:
        ValueError: Something in it is refused.

    Example:
        >>> single_step(spaces.Discrete(3), (1, np.ones(1), 0, 1, {"lives": 2, "path": [1]}))
        (array(1), 1.0, False, True, {'lives': 2})
        >>> single_step(spaces.Discrete(3), (1, 1.0, 2, 1, {}))
        Traceback (most recent call last):
            ...
        ValueError: its step(): expected a bool as terminated, got 2 (int)
    """
    _refuse("step()", step_issues(result))
    observation, reward, terminated, truncated, info = result
    if not isinstance(reward, float):
        _refuse("reward", reward_issues(reward))
        reward = float(np.asarray(reward).reshape(()))
    # NumPy takes microseconds for a single flag.
    flags = [x if isinstance(x, bool) else bool(np.ravel(x)[0]) for x in (terminated, truncated)]
    observation = observation_in(space, observation)
    if choices is not None and not flags[0]:
        _refuse(ACTION_MASK, mask_issues(choices, observation[ACTION_MASK]))
    return observation, reward, *flags, _known(info)


def _known(info: dict[str, Any]) -> dict[str, Any]:
    lives = info.get("lives")
    is_number = isinstance(lives, (int, float, np.number)) and not isinstance(lives, bool)
    return {"lives": lives} if is_number else {}


class VectorForm:
    """Brings the results of a vector environment into one form. One for each environment.

    Args:
        envs: The vector environment, N environments.

    Example:
        >>> from tfpg.envs import open_vec
        >>> with open_vec("CartPole-v1", num_envs=2) as envs:
        ...     form = VectorForm(envs)
        ...     observations = form.reset(envs.reset(seed=0))
        >>> observations.dtype
        dtype('float32')
    """

    def __init__(self, envs: VectorEnv):
        self._count = envs.num_envs
        self._shape = (self._count,)
        self._space = usable_space(envs.single_observation_space)
        self._steps: Any = None
        self._terminated: Any = None  # [N], in the last step
        # A `SupervisedEnv` checks its own masks.
        is_checked = hasattr(envs.unwrapped, "on_env_error")
        self._actions = envs.single_action_space
        self._choices = None if is_checked else mask_choices(self._space, self._actions)

    def step(
        self, result: Any, steps: Any = None
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Return what ``step`` returned, in one form.

        Args:
            result: What it returned.
            steps: ``[N]``, the index of the step in each episode, for errors.

        Returns:
            Observations ``[N, ...]`` and float64 rewards ``[N]``, which are new arrays, the flags
            ``[N]`` bool, and the infos.

        Raises:
            ValueError: Something in it is refused.
        """
        self._steps = steps
        if type(result) is not tuple or len(result) != 5 or not isinstance(result[4], dict):
            for issue in step_issues(result):
                if issue.kind in ("tuple", "info"):
                    where = "" if steps is None else f" in step {steps[0]} of environment 0"
                    raise ValueError(f"The vector environment's step(){where}: {issue.detail}.")
        observations, rewards, terminated, truncated, infos = result
        terminated = self._flags("terminated", terminated)
        truncated = self._flags("truncated", truncated)
        is_array = type(rewards) is np.ndarray and rewards.dtype.kind in "biuf"
        if not is_array or rewards.shape != self._shape:
            array = as_numbers(rewards)
            if array is None or array.shape not in (self._shape, (self._count, 1)):
                raise self._refused("rewards", "numbers", rewards, _is_reward)
            rewards = array.reshape(self._count)
        rewards = np.array(rewards, np.float64)
        observations = self.observations(observations, steps)
        self._terminated = terminated
        if self._choices is not None:
            self._check_masks(observations[ACTION_MASK], ~terminated)
        return observations, rewards, terminated, truncated, infos

    def reset(self, result: Any) -> Any:
        """Return the observations that ``reset`` returned, as a new array or a dict of them.

        Raises:
            ValueError: Something in it is refused.
        """
        for issue in reset_issues(result):
            raise ValueError(f"The vector environment's reset(): {issue.detail}.")
        warn_about_unused_mask(self._space, self._actions, result[1])
        observations = self.observations(result[0])
        if self._choices is not None:
            self._check_masks(observations[ACTION_MASK], np.ones(self._shape, bool))
        return observations

    def observations(self, observations: Any, steps: Any = None) -> Any:
        """Return observations ``[N, ...]`` as a new array of their space, or a dict of them.

        Args:
            observations: The observations.
            steps: ``[N]``, the index of the step in each episode, for errors. None: of a reset.

        Raises:
            ValueError: They do not fit the space.
        """
        space, self._steps = self._space, steps
        if not isinstance(space, spaces.Dict):
            return self._stacked(space, observations)
        observations = self._flat_masks(observations)
        if not isinstance(observations, dict) or not set(space) <= set(observations):
            keys = ", ".join(map(repr, space))
            raise ValueError(
                f"The vector environment returned observations{self._where(None)} that are not a "
                f"dict with {keys}: {_described(observations)}."
            )
        return {key: self._stacked(space[key], observations[key], key) for key in space}

    def _flat_masks(self, observations: Any) -> Any:
        """Observations whose parts have names, and whose masks are ``[N, A]`` if they fit."""
        observations = named_parts(observations)
        masks = observations.get(ACTION_MASK) if isinstance(observations, dict) else None
        if masks is None or (isinstance(masks, np.ndarray) and masks.ndim == 2):
            return observations
        parts = masks if isinstance(masks, tuple) else (masks,)
        with suppress(ValueError, TypeError):
            rows = [np.reshape(part, (self._count, -1)) for part in parts]
            return {**observations, ACTION_MASK: np.concatenate(rows, axis=1)}
        return observations

    def with_final(
        self, observations: Any, over: np.ndarray, infos: dict[str, Any], steps: Any
    ) -> Any:
        """Return the observations, with the final ones for episodes that ended.

        Environments that reset in the same step return the final observations in their infos.

        Args:
            observations: What `step` returned, the first observations of the next episodes.
            over: ``[N]`` bool, whether an episode ended.
            infos: What `step` returned.
            steps: As for `step`.

        Raises:
            ValueError: They are missing, or do not fit the space.
        """
        observations, self._steps = map_arrays(np.array, observations), steps
        if self._choices is not None:
            self._check_masks(observations[ACTION_MASK], over)
        final = self._flat_masks(infos.get("final_obs", infos.get("final_observation")))
        if final is None:
            raise ValueError(
                "An episode ended in a vector environment whose autoreset mode is SAME_STEP, but "
                "its infos have no 'final_obs', the last observations of episodes that ended."
            )
        for n in np.flatnonzero(over).tolist():
            try:
                each = {k: x[n] for k, x in final.items()} if isinstance(final, dict) else final[n]
                assign(observations, n, observation_in(self._space, each))
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(
                    f"The vector environment returned an invalid final_obs{self._where(n)}: "
                    f"{one_line(error, 200)}."
                ) from error
        if self._choices is not None:
            self._check_masks(observations[ACTION_MASK], over & ~self._terminated)
        return observations

    def _check_masks(self, masks: np.ndarray, playing: np.ndarray) -> None:
        """Check the masks of the environments that are playing ``[N]``."""
        assert self._choices is not None
        for n in np.flatnonzero(playing).tolist():
            for issue in mask_issues(self._choices, masks[n]):
                raise ValueError(
                    f"The vector environment returned an invalid {ACTION_MASK}{self._where(n)}: "
                    f"{issue.detail}."
                )

    def _flags(self, name: str, x: Any) -> np.ndarray:
        if type(x) is np.ndarray and x.dtype is _BOOL and x.shape == self._shape:
            return x
        found = _flags(x, self._count)
        if found is None:
            raise self._refused(name, "booleans", x, lambda row: _flags(row, 1) is not None)
        return found

    def _stacked(self, space: Any, x: Any, key: str = "") -> np.ndarray:
        fits = type(x) is np.ndarray and x.dtype is space.dtype and x.shape[1:] == space.shape
        if fits and len(x) == self._count:
            return x.copy()
        shape = self._count, *(space.shape or ())
        array, dtype = as_numbers(x), np.dtype(space.dtype)
        if array is None or array.shape != shape or not _holds(dtype, array):
            which = f"observations {key!r}" if key else "observations"
            raise self._refused(which, str(dtype), x, lambda row: _fits(space, row), space.shape)
        return array.astype(dtype)

    def _refused(
        self, name: str, what: str, x: Any, fits: Callable[[Any], bool], shape: Any = ()
    ) -> ValueError:
        is_sequence = isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.ndim > 0)
        rows = list(x) if is_sequence else []
        wrong = [n for n, row in enumerate(rows) if not fits(row)]
        n = wrong[0] if len(rows) == self._count and wrong else None
        expected = f"{[self._count, *(shape or ())]} {what}"
        shown = "" if n is None else f" {_described(rows[n])} in"
        return ValueError(
            f"The vector environment returned {name}{self._where(n)} that are not {expected}:"
            f"{shown} {_described(x)}."
        )

    def _where(self, n: int | None) -> str:
        if self._steps is None:
            return " after a reset" if n is None else f" of environment {n} after a reset"
        return f" in step {self._steps[n or 0]} of environment {n or 0}"


def _is_reward(row: Any) -> bool:
    array = as_numbers(row)
    return array is not None and array.size == 1


def _fits(space: Any, row: Any) -> bool:
    array = as_numbers(row)
    return array is not None and array.shape == space.shape and _holds(np.dtype(space.dtype), array)


def _described(x: Any) -> str:
    array = as_numbers(x)
    return _type(x) if array is None else f"{_shown(x)} of shape {array.shape}, {array.dtype}"
