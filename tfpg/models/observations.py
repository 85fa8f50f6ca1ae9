"""Observations as the inputs of a Keras model.

======================  ==========================================================
observation space       model input
======================  ==========================================================
``Box``                 unchanged; images as uint8
``Discrete(n)``         one-hot, ``[n]`` float32; or integers from 0, ``[1]`` int32
``MultiDiscrete(n)``    concatenated one-hots, ``[sum(n)]`` float32; or integers, ``[D]`` int32
``MultiBinary(n)``      ``[n]`` float32
``Dict``                a dict of these, for a model that takes a dict with the same keys,
                        or whose inputs are named after them
``Tuple``               as a ``Dict`` with the keys "0", "1", and so on
======================  ==========================================================

The part ``"action_mask"`` of a `Dict` is for the head. A model gets it only if it has an input of
this name. If the only other part is ``"observation"``, a model can take it without a dict.

A model receives integers, for example for an `Embedding` layer, if its input has an integer dtype
and the shape above.

Environments, trajectories and callables hold observations as the environment returns them. They
are encoded right before they enter a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.envs.contracts import ACTION_MASK, NUMERIC, OBSERVATION
from tfpg.ops import numeric as xp


def without_mask(space: gymnasium.Space) -> gymnasium.Space:
    """Return an observation space without its action mask, if it has one.

    If only ``"observation"`` is left, its space is returned instead of a `Dict`.

    Example:
        >>> mask = spaces.MultiBinary(4)
        >>> without_mask(spaces.Dict(observation=spaces.Discrete(9), action_mask=mask))
        Discrete(9)
    """
    if not isinstance(space, spaces.Dict) or ACTION_MASK not in space.spaces:
        return space
    rest = {key: part for key, part in space.items() if key != ACTION_MASK}
    return rest[OBSERVATION] if list(rest) == [OBSERVATION] else spaces.Dict(rest)


class Codes(spaces.Box):
    """A `Discrete` or `MultiDiscrete` whose observations enter a model as integers from 0.

    Example:
        >>> encode(Codes(spaces.Discrete(3, start=1)), np.array([1, 3])).tolist()
        [[0], [2]]
    """

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete):
        counts = np.ravel(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
        super().__init__(
            np.zeros_like(counts, np.int32), (counts - 1).astype(np.int32), dtype=np.int32
        )
        self.start, self.axes = space.start, len(space.shape or ())


def encode(space: gymnasium.Space, observations: Any, keys: Sequence[str] | None = None) -> Any:
    """Return the model inputs for a batch of observations, as arrays or tensors.

    Args:
        space: The space of one observation.
        observations: Array or tensor ``[..., *shape]``, or a dict of such for a `Dict`.
        keys: The keys of a `Dict` to encode. None: all.

    Returns:
        ``[..., *input_shape(space)]``, or a dict of such for a `Dict`.

    Raises:
        ValueError: An array holds integers outside the space. (A tensor becomes zeros there.)

    Example:
        >>> encode(spaces.Discrete(3, start=1), np.array([1, 3])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if isinstance(space, spaces.Dict):
        return {key: encode(space[key], observations[key]) for key in keys or space}
    if isinstance(space, Codes):
        codes = _from_zero(observations, space.start)
        return xp.cast(_with_shape(codes, space.axes, space.shape), np.int32)
    if isinstance(space, spaces.Box):
        return observations
    if isinstance(space, spaces.Discrete):
        return _one_hot(_from_zero(observations, space.start), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        codes = _from_zero(observations, space.start)
        columns = _with_shape(codes, len(space.shape), (space.nvec.size,))
        parts = [_one_hot(columns[..., d], int(n)) for d, n in enumerate(space.nvec.ravel())]
        return xp.concatenate(parts)
    return xp.cast(_numbers(observations), np.float32)


def map_space(
    function: Callable[[Any], Any],
    space: gymnasium.Space,
    keys: str | Sequence[str] | None = None,
) -> Any:
    """Return the function of a space, or, for a `Dict`, a dict with that of each part.

    Args:
        function: A function of a space that is not a `Dict`.
        space: An observation space.
        keys: The keys of a `Dict` to include, or the key of the only part. None: all.

    Example:
        >>> map_space(input_shape, spaces.Dict({"room": spaces.Discrete(4)}))
        {'room': (4,)}
    """
    if isinstance(keys, str):
        return function(space[keys])  # type: ignore[index]
    if isinstance(space, spaces.Dict):
        return {key: function(space[key]) for key in keys or space}
    return function(space)


def input_shape(space: gymnasium.Space) -> tuple[int, ...]:
    """Return the shape of the model input for one observation that is not a `Dict`.

    Example:
        >>> input_shape(spaces.MultiDiscrete([3, 2]))
        (5,)
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return (int(space.nvec.sum()),)
    return space.shape or ()


def input_dtype(space: gymnasium.Space) -> np.dtype:
    """Return the NumPy dtype of the model input: a `Box` has its own, the others float32."""
    return np.dtype(space.dtype if isinstance(space, spaces.Box) else np.float32)


def check_space(space: gymnasium.Space) -> None:
    """Raise if observations of a space cannot be model inputs.

    Raises:
        ValueError: The space is of another kind, or a `Dict` in a `Dict`.

    Example:
        >>> check_space(spaces.Sequence(spaces.Discrete(2)))
        Traceback (most recent call last):
            ...
        ValueError: Unsupported observation space Sequence(Discrete(2), stack=False): expected \
Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these. Wrap the environment, for \
example in gymnasium.wrappers.FlattenObservation.
    """
    parts = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    if not parts or not all(isinstance(part, NUMERIC) for part in parts.values()):
        raise ValueError(
            f"Unsupported observation space {space}: expected Box, Discrete, MultiDiscrete, "
            "MultiBinary, or a Dict or Tuple of these. Wrap the environment, for example in "
            "gymnasium.wrappers.FlattenObservation."
        )
    for key in parts:
        if not isinstance(key, str):
            raise ValueError(
                f"Unsupported observation space {space}: its keys must be text, but one is "
                f"{key!r}. Wrap the environment to rename it."
            )


def _numbers(x: Any) -> Any:
    return x if hasattr(x, "shape") else np.asarray(x)


def _from_zero(x: Any, start: Any) -> Any:
    """Integers, which a space counts from its start, counted from zero."""
    x, start = _numbers(x), np.asarray(start, np.int64)
    return x - start if xp.is_array(x) else xp.as_integer(x) - start


def _with_shape(x: Any, axes: int, shape: tuple[int, ...]) -> Any:
    """``x`` with another shape in place of its last axes. The first may be of unknown size."""
    batch = [-1 if n is None else n for n in x.shape[: len(x.shape) - axes]]
    return xp.reshape(x, (*batch, *shape))


def _one_hot(index: Any, count: int) -> Any:
    if not xp.is_array(index):
        return xp.one_hot(index, count)
    if index.size and not 0 <= index.min() <= index.max() < count:
        raise ValueError(
            f"An observation is outside its space: expected integers from 0 to {count - 1}, but "
            f"got {index.min()} to {index.max()}."
        )
    encoded = np.zeros((*index.shape, count), np.float32)
    np.put_along_axis(encoded, index[..., None], 1.0, axis=-1)
    return encoded
