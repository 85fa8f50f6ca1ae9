"""Recurrent policies: Keras models whose state is both an input and an output of the same
name.

Such a model computes one step: from an observation and the state before it to the outputs and the
state after it. In plain Keras, it is an ordinary model of named inputs and outputs. For tfpg, the
state is a part of the observation: the two are stored together, and `BEGIN` marks the first
observation of an episode, where the state is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import batch_size
from tfpg.core.backend import tf
from tfpg.envs.contracts import BEGIN, OBSERVATION

Shapes = Mapping[str, tuple[int, ...]]


def with_states(space: gymnasium.Space, shapes: Shapes) -> gymnasium.Space:
    """Return an observation space with the states of a policy.

    Args:
        space: The environment's observation space.
        shapes: The shape of each state by its name. If there are none, the space is returned.

    Raises:
        ValueError: An observation has the name of a state.

    Example:
        >>> list(with_states(spaces.Discrete(5), {"h": (8,)}))
        ['/begin', 'h', 'observation']
    """
    if not shapes:
        return space
    parts: dict[str, Any] = {OBSERVATION: space}
    if isinstance(space, spaces.Dict):
        parts = dict(space.items())
    if taken := set(shapes) & set(parts):
        raise ValueError(
            f"The model's state {min(taken)!r} has the name of an observation. Rename the state."
        )
    states = {name: spaces.Box(-np.inf, np.inf, shape) for name, shape in shapes.items()}
    return spaces.Dict({**parts, **states, BEGIN: spaces.Box(0, 1, (), np.int8)})


def joined(observations: Any, memory: Mapping[str, Any]) -> dict[str, Any]:
    """Return observations ``[N, ...]`` with the states and `BEGIN` of their policy.

    Example:
        >>> joined(np.zeros((2, 3)), {"h": np.zeros((2, 8))}).keys()
        dict_keys(['observation', 'h'])
    """
    parts = observations if isinstance(observations, dict) else {OBSERVATION: observations}
    return {**parts, **memory}


def memory_after(decision: Any) -> dict[str, np.ndarray]:
    """Return what a policy remembers after a `tfpg.models.policy.Decision`, in the same episode."""
    return {**decision.state, BEGIN: np.zeros_like(decision.memory[BEGIN])}


def forgotten(memory: Mapping[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    """Return the memory after some environments, ``[N]`` bool, have begun an episode."""
    states = {
        name: np.where(which.reshape(-1, *[1] * (x.ndim - 1)), np.zeros_like(x), x)
        for name, x in memory.items()
    }
    return {**states, BEGIN: np.maximum(memory[BEGIN], which)}


class RecurrentActor:
    """A recurrent policy that acts in N environments, and remembers their states.

    Args:
        actor: The `tfpg.models.policy.Actor`, which acts with given states.
        count: N.

    Attributes:
        memory: The states ``[N, ...]`` by their names, and `BEGIN`, ``[N]`` int8.
    """

    def __init__(self, actor: Any, count: int):
        self._actor = actor
        self.memory: dict[str, np.ndarray] = {
            name: np.zeros((count, *shape), np.float32) for name, shape in actor.states.items()
        }
        self.memory[BEGIN] = np.ones(count, np.int8)

    def __call__(self, observations: Any, noise: np.ndarray | None = None) -> Any:
        """Act, and store the next states.

        Raises:
            ValueError: There are not as many observations as environments.
        """
        before = self.memory
        given, count = batch_size(observations), len(before[BEGIN])
        if given != count:
            raise ValueError(
                f"There are {given} observations, but this policy acts in {count} environments. "
                f"For {given}, use policy.actor().for_envs({given})."
            )
        decision = self._actor(joined(observations, before), noise)._replace(memory=before)
        self.memory = memory_after(decision)
        return decision

    def reset(self, which: Any) -> None:
        """Begin new episodes in some environments, ``[N]`` bool, or a bool if N is 1."""
        which = np.atleast_1d(which)
        if which.any():
            self.memory = forgotten(self.memory, which)


def unrolled(
    step: Callable[[dict[str, Any]], tuple[Sequence[tf.Tensor], dict[str, tf.Tensor]]],
    inputs: Mapping[str, Any],
    names: Sequence[str],
    length: int | tf.Tensor,
) -> list[tf.Tensor]:
    """Return the outputs of a model for sequences of steps, with gradients through its states.

    Args:
        step: Maps model inputs ``[S, ...]`` to outputs and states ``[S, ...]``.
        inputs: Model inputs ``[S * L, ...]``, one sequence after another, with the states that each
            step was played with. Those of the first step of a sequence, and of the first step of
            an episode, are used; the others are computed.
        names: The names of the states.
        length: L, the number of steps of a sequence.

    Returns:
        The outputs ``[S * L, ...]``.
    """

    def by_time(x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(x, [tf.shape(x)[0] // length, length, *x.shape[1:]])
        return tf.transpose(x, [1, 0, *range(2, len(x.shape))])

    rows = {name: by_time(x) for name, x in inputs.items()}
    rows[BEGIN] = tf.concat([tf.ones_like(rows[BEGIN][:1]), rows[BEGIN][1:]], axis=0)

    def advance(before: Any, now: dict[str, tf.Tensor]) -> Any:
        _, states = before
        for name in names:
            begins = tf.reshape(now[BEGIN] > 0, [-1] + [1] * (len(now[name].shape) - 1))
            now = {**now, name: tf.where(begins, now[name], states[name])}
        return step(now)

    first = {name: x[0] for name, x in rows.items()}
    # Only their shapes matter.
    nothing = [tf.zeros_like(x) for x in step(first)[0]]
    # XLA takes minutes to compile an unrolled Python loop.
    outputs, _ = tf.scan(advance, rows, (nothing, {name: first[name] for name in names}))

    def by_sequence(x: tf.Tensor) -> tf.Tensor:
        x = tf.transpose(x, [1, 0, *range(2, len(x.shape))])
        return tf.reshape(x, [-1, *x.shape[2:]])

    return [by_sequence(x) for x in outputs]
