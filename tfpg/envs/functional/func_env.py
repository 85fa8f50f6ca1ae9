"""The protocol of functional environments: Gymnasium's `FuncEnv` for a batch of tensors.

A functional environment is stateless. Its functions map tensors ``[N, ...]`` of N
environments to tensors ``[N, ...]``, so that whole rollouts can be compiled, together with the
updates that follow.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.experimental import functional as gymnasium_functional

from tfpg.core.backend import tf

_DRAWS = 16  # seeds between two steps


class Random:
    """Random numbers for a batch of environments, derived from a seed and a counter.

    Args:
        seed: Tensor ``[2]`` int64.
        num_envs: N.

    Example:
        >>> rng = Random(tf.constant([42, 0], tf.int64), num_envs=3)
        >>> rng.uniform([2], -1.0, 1.0).shape, rng.normal().shape
        (TensorShape([3, 2]), TensorShape([3]))
    """

    def __init__(self, seed: Any, num_envs: int):
        self.num_envs = num_envs
        self._seed = seed
        self._draws = 0

    def uniform(self, shape: Any = (), low: Any = 0.0, high: Any = 1.0) -> tf.Tensor:
        """Return uniform numbers from ``[low, high)``, ``[N, *shape]`` float32."""
        drawn = tf.random.stateless_uniform([self.num_envs, *shape], self._next(), alg="philox")
        return low + (high - low) * drawn

    def normal(self, shape: Any = ()) -> tf.Tensor:
        """Return standard normal numbers, ``[N, *shape]`` float32."""
        return tf.random.stateless_normal([self.num_envs, *shape], self._next(), alg="philox")

    def integers(self, low: int, high: int, shape: Any = ()) -> tf.Tensor:
        """Return integers from ``low`` to ``high - 1``, ``[N, *shape]`` int32."""
        return tf.random.stateless_uniform(
            [self.num_envs, *shape], self._next(), low, high, tf.int32, alg="philox"
        )

    def _next(self) -> tf.Tensor:
        if self._draws == _DRAWS:
            raise ValueError(f"At most {_DRAWS} random tensors can be drawn per step.")
        self._draws += 1
        return self._seed + tf.constant([0, self._draws - 1], tf.int64)


def step_seed(seed: Any, step: Any, stream: int = 0) -> tf.Tensor:
    """Return the seed ``[2]`` int64 of a step, from a run's seed and a counter.

    Args:
        seed: Scalar int64, from 0 to ``2**60``.
        step: Scalar int64.
        stream: Streams from 0 to 3 have different numbers.
    """
    return tf.stack([4 * seed + stream, step * _DRAWS])


class FuncEnv(gymnasium_functional.FuncEnv):
    """A functional environment. All arguments and results have a first dimension N.

    Subclasses define the spaces and the five functions below. A state is a tensor, or a tuple or
    dict of tensors. Use `tf.where` or `keras.ops.where` instead of ``if``.

    Attributes:
        observation_space: The space of one observation, a float32 `Box`.
        action_space: The space of one action.
        max_episode_steps: Length at which episodes are truncated. None: never.
        metadata: As in Gymnasium. ``render_modes`` is empty without `render_image`.

    Example:
        >>> from gymnasium import spaces
        >>> class Walk(FuncEnv):
        ...     observation_space = spaces.Box(-5.0, 5.0, (1,))
        ...     action_space = spaces.Discrete(2)
        ...     max_episode_steps = 50
        ...
        ...     def initial(self, rng, params=None):
        ...         return rng.uniform([1], -1.0, 1.0)
        ...
        ...     def transition(self, state, action, rng, params=None):
        ...         return state + tf.cast(2 * action[:, None] - 1, tf.float32)
        ...
        ...     def observation(self, state, rng, params=None):
        ...         return state
        ...
        ...     def reward(self, state, action, next_state, rng, params=None):
        ...         return next_state[:, 0] / 5.0
        ...
        ...     def terminal(self, state, rng, params=None):
        ...         return tf.abs(state[:, 0]) > 4.0
        >>> env = Walk()
        >>> rng = Random(step_seed(tf.constant(0, tf.int64), tf.constant(0, tf.int64)), num_envs=3)
        >>> env.transition(env.initial(rng), tf.constant([0, 1, 1]), rng).shape
        TensorShape([3, 1])
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int | None = None
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def initial(self, rng: Random, params: Any = None) -> Any:
        """Return the first states of N episodes."""
        raise NotImplementedError

    def transition(self, state: Any, action: tf.Tensor, rng: Random, params: Any = None) -> Any:
        """Return the states that actions ``[N, ...]`` lead to."""
        raise NotImplementedError

    def observation(self, state: Any, rng: Random, params: Any = None) -> tf.Tensor:
        """Return the observations of states, ``[N, ...]`` float32."""
        raise NotImplementedError

    def reward(
        self, state: Any, action: tf.Tensor, next_state: Any, rng: Random, params: Any = None
    ) -> tf.Tensor:
        """Return the rewards of transitions, ``[N]`` float32."""
        raise NotImplementedError

    def terminal(self, state: Any, rng: Random, params: Any = None) -> tf.Tensor:
        """Return whether states end their episodes, ``[N]`` bool."""
        raise NotImplementedError

    def render_image(
        self, state: Any, render_state: Any, params: Any = None
    ) -> tuple[Any, np.ndarray]:
        """Return the render state, and an image ``[H, W, 3]`` uint8 of a state with N = 1."""
        raise NotImplementedError

    def render_init(self, params: Any = None, **kwargs: Any) -> Any:
        """Return the initial render state for `render_image`, such as a window."""
        return None

    def render_close(self, render_state: Any, params: Any = None) -> None:
        """Close the render state."""
