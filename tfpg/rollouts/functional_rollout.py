"""Rollouts in functional environments, in tensors: a part of a compiled update."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.core.backend import tf
from tfpg.envs.functional.func_env import FuncEnv, Random, step_seed
from tfpg.models.policy import Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.trajectory import Trajectory

_ENV, _NOISE, _SHUFFLE, _START = range(4)  # streams of random numbers
_CIPHER_ROUNDS = 6


class Position(NamedTuple):
    """Where N environments are in their episodes, as tensors."""

    state: Any  # [N, ...]  or nested tensors
    observations: tf.Tensor  # [N, ...]
    over: tf.Tensor  # [N] bool  the next step is spent on a reset
    lengths: tf.Tensor  # [N] int32  steps of the episodes so far
    returns: tf.Tensor  # [N] float32  returns of the episodes so far


class Played(NamedTuple):
    """The results of `play`, apart from the position."""

    data: Trajectory
    returns: tf.Tensor  # [T, N] float32  of the episodes so far
    lengths: tf.Tensor  # [T, N] int32


def begin(env: FuncEnv, num_envs: int, seed: tf.Tensor, iteration: tf.Tensor) -> Position:
    """Return the position of N environments at the start of new episodes.

    Args:
        env: The environment.
        num_envs: N.
        seed: The run's seed, scalar int64.
        iteration: The number of the iteration that starts them, scalar int64.
    """
    rng = Random(step_seed(seed, iteration, _START), num_envs)
    state = env.initial(rng)
    return Position(
        state,
        env.observation(state, rng),
        tf.zeros([num_envs], tf.bool),
        tf.zeros([num_envs], tf.int32),
        tf.zeros([num_envs]),
    )


def play(
    env: FuncEnv,
    policy: Policy,
    position: Position,
    num_steps: int,
    seed: tf.Tensor,
    iteration: tf.Tensor,
    max_steps: int | None,
    single_episode: bool = False,
    epsilon: tf.Tensor | None = None,
) -> tuple[Position, Played]:
    """Step N environments ``num_steps`` times, in a TensorFlow loop.

    An environment whose episode ended is reset in its next step, which is masked, as in Gymnasium's
    autoreset mode NEXT_STEP.

    Args:
        env: The environment.
        policy: The policy that acts, by sampling.
        position: Where the environments are.
        num_steps: T.
        seed: The run's seed, scalar int64.
        iteration: The number of the rollout, scalar int64.
        max_steps: Length at which an episode is truncated. None: never.
        single_episode: Play a single episode in each environment, until the last of them ends. What
            follows is masked.
        epsilon: Of a Q-network: the probability of a random action, scalar. None: that of the
            policy's head.

    Returns:
        The position after the last step, and the rollout.
    """
    num_envs, first = position.over.shape[0], 1 + iteration * num_steps
    head = _exploring(policy.head, epsilon)
    noise = head.noise(step_seed(seed, iteration, _NOISE), num_steps, num_envs)

    def step(t: Any, now: Position, arrays: Sequence[tf.TensorArray]) -> Any:
        outputs = policy.outputs(now.observations)
        actions = head.distribution(outputs).sample(noise[t])
        rng = Random(step_seed(seed, first + tf.cast(t, tf.int64), _ENV), num_envs)
        played = head.env_actions(actions)
        after = env.transition(now.state, played, rng)
        real = ~now.over
        rewards = tf.where(real, env.reward(now.state, played, after, rng), 0.0)
        terminated = real & env.terminal(after, rng)
        lengths = tf.where(real, now.lengths + 1, now.lengths if single_episode else 0)
        truncated = tf.zeros_like(real) if max_steps is None else real & (lengths >= max_steps)
        state = tf.nest.map_structure(
            lambda last, x: _where(now.over, last, x),
            now.state if single_episode else env.initial(rng),
            after,
        )
        returns = tf.where(real | single_episode, now.returns, 0.0) + rewards
        observations = tf.cast(env.observation(state, rng), tf.float32)
        row = (
            *(now.observations, actions, rewards, terminated, truncated, real, outputs),
            *(returns, lengths),
        )
        arrays = [array.write(t, x) for array, x in zip(arrays, row, strict=True)]
        over = terminated | truncated | (now.over & single_episode)
        return t + 1, Position(state, observations, over, lengths, returns), arrays

    def more(t: Any, now: Position, _: Any) -> tf.Tensor:
        if single_episode:
            return (t < num_steps) & ~tf.reduce_all(now.over)
        return t < num_steps

    empty = _arrays(policy, position, num_steps)
    t, position, arrays = tf.while_loop(more, step, (tf.constant(0), position, empty))
    arrays[0] = arrays[0].write(t, position.observations)
    observations, actions, rewards, terminated, truncated, real, outputs, returns, lengths = (
        array.stack() for array in arrays
    )
    data = Trajectory(
        _padded(observations, t) if single_episode else observations,
        actions,
        rewards,
        terminated,
        truncated,
        tf.cast(real, tf.float32),
        head.distribution(outputs).log_prob(actions),
    )
    return position, Played(data, returns, lengths)


def _exploring(head: Any, epsilon: tf.Tensor | None) -> Any:
    """The head, with another epsilon unless that is None."""
    if epsilon is not None:
        head = copy.copy(head)
        head.epsilon = epsilon
    return head


def _padded(observations: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """The first observations instead of zeros, which may be outside the space, after a row."""
    played = tf.range(observations.shape[0]) <= last
    return _where(played, observations, tf.broadcast_to(observations[:1], observations.shape))


def _arrays(policy: Policy, position: Position, num_steps: int) -> list[tf.TensorArray]:
    """Arrays for what `play` records at each step. The first one has a row more than the others."""
    head, num_envs = policy.head, position.over.shape[0]
    shapes: list[tuple[Any, Any]] = [
        (tf.float32, position.observations.shape),
        (tf.as_dtype(head.action_dtype), [num_envs, *head.action_shape]),
        (tf.float32, [num_envs]),
        *[(tf.bool, [num_envs])] * 3,
        (tf.float32, [num_envs, head.outputs]),
        (tf.float32, [num_envs]),
        (tf.int32, [num_envs]),
    ]
    arrays = [tf.TensorArray(dtype, num_steps, element_shape=shape) for dtype, shape in shapes]
    dtype, shape = shapes[0]
    return [tf.TensorArray(dtype, num_steps + 1, element_shape=shape), *arrays[1:]]


def shuffled(
    steps: int, epochs: int, minibatches: int, seed: tf.Tensor, iteration: tf.Tensor
) -> tf.Tensor:
    """Return the indices of the steps in each update, in a new random order for each epoch.

    Sorting random numbers would take a fifth of an iteration's time. Instead, every index is
    encrypted by a Feistel network, which is a permutation whatever its keys.

    Args:
        steps: The number of steps.
        epochs: Passes over all steps.
        minibatches: Minibatches per pass. Their sizes differ by at most 1.
        seed: The run's seed, scalar int64.
        iteration: The number of the iteration, scalar int64.

    Returns:
        ``[epochs * minibatches, ceil(steps / minibatches)]`` int32, -1 where there is no step.

    Source:
        Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions",
        1988, https://doi.org/10.1137/0217022; for other sizes than powers of 2: Black and Rogaway,
        "Ciphers with Arbitrary Finite Domains", 2002, https://doi.org/10.1007/3-540-45760-7_9.

    Example:
        >>> zero = tf.constant(0, tf.int64)
        >>> order = shuffled(5, 1, 2, zero, zero)
        >>> order.shape, sorted(order.numpy().ravel().tolist())
        (TensorShape([2, 3]), [-1, 0, 1, 2, 3, 4])
    """
    keys = tf.random.stateless_uniform(
        [_CIPHER_ROUNDS, epochs, 1],
        step_seed(seed, iteration, _SHUFFLE),
        None,
        None,
        tf.uint32,
        alg="philox",
    )
    bits = max((steps - 1).bit_length(), 2)
    order = tf.tile(tf.range(steps)[None], [epochs, 1])
    # Indices beyond the steps are encrypted again.
    order = tf.while_loop(
        lambda order: tf.reduce_any(order >= steps),
        lambda order: [tf.where(order >= steps, _encrypted(order, keys, bits), order)],
        [_encrypted(order, keys, bits)],
    )[0]
    ends = np.arange(1, minibatches + 1) * steps // minibatches
    starts = np.concatenate([[0], ends[:-1]])
    places = starts[:, None] + np.arange(-(-steps // minibatches))
    chosen = tf.gather(order, np.minimum(places, steps - 1).ravel(), axis=1)
    chosen = tf.where((places < ends[:, None]).ravel(), chosen, -1)
    return tf.reshape(chosen, [epochs * minibatches, -1])


def _encrypted(numbers: tf.Tensor, keys: tf.Tensor, bits: int) -> tf.Tensor:
    """A permutation of the integers below ``2**bits``, applied to ``[epochs, B]`` int32."""

    def right(x: tf.Tensor, count: int) -> tf.Tensor:
        return tf.bitwise.right_shift(x, tf.constant(count, x.dtype))

    shift = bits // 2
    numbers = tf.cast(numbers, tf.uint32)
    halves = [right(numbers, shift), numbers & tf.constant((1 << shift) - 1, tf.uint32)]
    masks = [tf.constant((1 << count) - 1, tf.uint32) for count in (bits - shift, shift)]
    for i, key in enumerate(tf.unstack(keys)):
        mixed = (halves[1 - i % 2] + key) * tf.constant(0x9E3779B1, tf.uint32)
        mixed = (mixed ^ right(mixed, 15)) * tf.constant(0x85EBCA77, tf.uint32)
        halves[i % 2] ^= right(mixed, 15) & masks[i % 2]
    return tf.cast(halves[0] * tf.constant(1 << shift, tf.uint32) + halves[1], tf.int32)


def _where(which: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """``x`` where ``which [N]`` is true, of tensors ``[N, ...]``."""
    return tf.where(tf.reshape(which, [-1, *[1] * (len(x.shape) - 1)]), x, y)


class FunctionalCollector(Collector):
    """Holds the position of functional environments, and counts steps and episodes.

    Attributes:
        position: A `Position` of tensors.
        seed_tensor: The run's seed, scalar int64.
        env: The functional environment.
    """

    def __init__(
        self, envs: VectorEnv, seed: int, episode: int = 0, fragment: int = 0, window: int = 100
    ):
        super().__init__(envs, seed, episode, fragment, window)
        unwrapped: Any = envs.unwrapped
        self.env: FuncEnv = unwrapped.func_env
        self.max_episode_steps: int | None = unwrapped.max_episode_steps
        self.seed_tensor = tf.constant(seed % 2**60, tf.int64)
        first = tf.constant(fragment, tf.int64)
        self.position = begin(self.env, envs.num_envs, self.seed_tensor, first)

    def follow(self) -> None:
        """The position is always known."""

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        flat = tf.nest.flatten(self.position)
        return {**self.counts(), "tensors": [x.numpy() for x in flat]}

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Resume from a state. Nothing is lost."""
        self.restore_counts(state)
        flat = [tf.constant(x) for x in state["tensors"]]
        self.position = tf.nest.pack_sequence_as(self.position, flat)
        return np.zeros(self.envs.num_envs, bool)
