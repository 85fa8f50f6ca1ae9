"""Functional environments as Gymnasium environments: for evaluation, videos and DQN."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfpg.core.backend import tf
from tfpg.envs import functional
from tfpg.envs.functional.func_env import FuncEnv, Random, step_seed


@cache
def _by_name(name: str) -> FuncEnv:
    return getattr(functional, name)()  # always the same, because agents compile for an environment


def _named(func_env: FuncEnv | str) -> FuncEnv:
    return _by_name(func_env) if isinstance(func_env, str) else func_env


def single(func_env: FuncEnv, render_mode: str | None = None) -> gymnasium.Env:
    """Return a functional environment as a single Gymnasium environment with its time limit."""
    env: gymnasium.Env = FunctionalEnv(func_env, render_mode)
    limit = func_env.max_episode_steps
    return env if limit is None else gymnasium.wrappers.TimeLimit(env, limit)


class _Compiled:
    """The functions of a functional environment, compiled for N environments."""

    def __init__(self, func_env: FuncEnv, num_envs: int):
        def first(seed: Any) -> Any:
            rng = Random(step_seed(seed, tf.constant(0, tf.int64)), 1)
            state = func_env.initial(rng)
            return state, func_env.observation(state, rng)

        def step(state: Any, action: Any, seed: Any, count: Any) -> Any:
            rng = Random(step_seed(seed, count), num_envs)
            after = func_env.transition(state, action, rng)
            reward = func_env.reward(state, action, after, rng)
            return after, func_env.observation(after, rng), reward, func_env.terminal(after, rng)

        self._first = tf.function(first, autograph=False)
        self._step = tf.function(step, autograph=False, jit_compile=True)

    def first(self, seed: int) -> tuple[Any, np.ndarray]:
        """The first state and observation of one environment, both with N = 1."""
        return tf.nest.map_structure(_array, self._first(tf.constant(seed, tf.int64)))

    def step(self, state: Any, action: np.ndarray, seed: int, count: int) -> Any:
        numbers = tf.constant(seed, tf.int64), tf.constant(count, tf.int64)
        state, action = tf.nest.map_structure(tf.constant, (state, action))
        return tf.nest.map_structure(_array, self._step(state, action, *numbers))


def _array(x: Any) -> np.ndarray:
    return x.numpy().copy()


class FunctionalEnv(gymnasium.Env):
    """A functional environment as a single Gymnasium environment, without a time limit.

    Args:
        func_env: The functional environment, or the name of one of tfpg's.
        render_mode: ``"rgb_array"`` or None.

    Example:
        >>> from tfpg.envs.functional import CartPole
        >>> env = FunctionalEnv(CartPole())
        >>> observation, _ = env.reset(seed=0)
        >>> env.step(1)[1:4]
        (1.0, False, False)
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, func_env: FuncEnv | str, render_mode: str | None = None):
        func_env = self.func_env = _named(func_env)
        self.metadata = func_env.metadata
        self.render_mode = render_mode
        self.observation_space = func_env.observation_space
        self.action_space = func_env.action_space
        self._compiled = _Compiled(func_env, 1)
        self._render_state: Any = None
        self._seed = self._count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._seed, self._count = int(self.np_random.integers(2**31)), 0
        self.state, observation = self._compiled.first(self._seed)
        return observation[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._count += 1
        actions = np.asarray(action)[None]
        self.state, *results = self._compiled.step(self.state, actions, self._seed, self._count)
        observation, reward, terminated = (x[0] for x in results)
        return observation, float(reward), bool(terminated), False, {}

    def render(self) -> Any:
        if self.render_mode is None:
            return None
        if self._render_state is None:
            self._render_state = self.func_env.render_init()
        self._render_state, image = self.func_env.render_image(self.state, self._render_state)
        return image

    def close(self) -> None:
        if self._render_state is not None:
            self.func_env.render_close(self._render_state)
            self._render_state = None


class FunctionalVectorEnv(VectorEnv):
    """A vector environment of N copies of a functional environment, without autoreset.

    Args:
        func_env: The functional environment, or the name of one of tfpg's.
        num_envs: N.
        max_episode_steps: Length at which episodes are truncated. None: the environment's own.
        render_mode: Ignored: only single environments are rendered.

    Attributes:
        state: The states, arrays ``[N, ...]``.

    Example:
        >>> from tfpg.envs.functional import CartPole
        >>> envs = FunctionalVectorEnv(CartPole(), num_envs=3)
        >>> envs.reset(seed=0)[0].shape
        (3, 4)
    """

    takes_seeds = True

    def __init__(
        self,
        func_env: FuncEnv | str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ):
        func_env = self.func_env = _named(func_env)
        self.num_envs = num_envs
        self.metadata = {**func_env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.max_episode_steps = max_episode_steps or func_env.max_episode_steps
        self.single_observation_space = func_env.observation_space
        self.single_action_space = func_env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._compiled = _Compiled(func_env, num_envs)
        self.state: Any = None
        self._lengths = np.zeros(num_envs, int)
        self._seed = self._count = 0

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        which = np.ones(self.num_envs, bool)
        super().reset(seed=int(seed) if isinstance(seed, (int, np.integer)) else None)
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"], bool)
        seeds: Any = [None] * self.num_envs if seed is None else seed
        if isinstance(seed, (int, np.integer)):
            seeds = [seed + n for n in range(self.num_envs)]
        if which.all():
            first = seeds[0]
            self._seed = int(self.np_random.integers(2**31) if first is None else first)
            self._count = 0
        for n in np.flatnonzero(which).tolist():
            one = self.np_random.integers(2**31) if seeds[n] is None else seeds[n]
            state, observation = self._compiled.first(int(one))
            if self.state is None:
                repeat = tf.nest.map_structure(
                    lambda x: np.repeat(x, self.num_envs, axis=0), (state, observation)
                )
                self.state, self._observations = repeat
            self._put(n, state)
            self._observations[n] = observation[0]
        self._lengths[which] = 0
        return self._observations.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        self._count += 1
        self.state, self._observations, rewards, terminated = self._compiled.step(
            self.state, np.asarray(actions), self._seed, self._count
        )
        self._lengths += 1
        truncated = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            truncated = self._lengths >= self.max_episode_steps
        return self._observations.copy(), rewards.astype(np.float64), terminated, truncated, {}

    def _put(self, n: int, state: Any) -> None:
        for x, one in zip(tf.nest.flatten(self.state), tf.nest.flatten(state), strict=True):
            x[n] = one[0]
