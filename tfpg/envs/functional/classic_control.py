"""Gymnasium's classic control environments as functional environments.

Each matches Gymnasium's version step for step. States are float32 by default, so numbers differ
from Gymnasium's float64 by rounding; pass ``dtype="float64"`` for the same precision.

Source: the environments of Gymnasium, https://gymnasium.farama.org/environments/classic_control/.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.backend import tf
from tfpg.envs.functional.func_env import FuncEnv, Random

_PI = math.pi


def symmetric(high: list[float]) -> spaces.Box:
    """Return the space of observations between ``-high`` and ``high``.

    Example:
        >>> symmetric([1.0, 2.0])
        Box([-1. -2.], [1. 2.], (2,), float32)
    """
    limits = np.array(high, np.float32)
    return spaces.Box(-limits, limits)


class ClassicControl(FuncEnv):
    """The base class: states ``[N, S]``, and images rendered by the Gymnasium counterpart.

    Args:
        dtype: The precision of states, ``"float32"`` or ``"float64"``.
    """

    gymnasium_id: ClassVar[str]
    start: ClassVar[tuple[list[float], list[float]]]  # bounds of the first states
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, dtype: str = "float32"):
        super().__init__()
        self.dtype = dtype

    def initial(self, rng: Random, params: Any = None) -> tf.Tensor:
        low, high = (tf.constant(x, tf.float32) for x in self.start)
        return tf.cast(rng.uniform([len(self.start[0])], low, high), self.dtype)

    def observation(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        return tf.cast(state, tf.float32)

    def terminal(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        return tf.zeros(tf.shape(state)[:1], tf.bool)

    def render_init(self, params: Any = None, **kwargs: Any) -> gymnasium.Env:
        env = gymnasium.make(self.gymnasium_id, render_mode="rgb_array", **kwargs)
        env.reset()
        return env

    def render_image(
        self, state: Any, render_state: gymnasium.Env, params: Any = None
    ) -> tuple[gymnasium.Env, np.ndarray]:
        unwrapped: Any = render_state.unwrapped
        unwrapped.state = np.asarray(state, np.float64)[0]
        return render_state, unwrapped.render()

    def render_close(self, render_state: gymnasium.Env, params: Any = None) -> None:
        render_state.close()


class CartPole(ClassicControl):
    """Balance a pole on a cart: ``CartPole-v1``.

    Example:
        >>> CartPole().max_episode_steps, CartPole().action_space
        (500, Discrete(2))
    """

    gymnasium_id = "CartPole-v1"
    max_episode_steps = 500
    start = [-0.05] * 4, [0.05] * 4
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = symmetric([4.8, np.inf, 24 * _PI / 180, np.inf])
    action_space = spaces.Discrete(2)

    def transition(
        self, state: tf.Tensor, action: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        _, x_dot, theta, theta_dot = tf.unstack(state, axis=1)
        force = 10.0 * tf.cast(2 * action - 1, state.dtype)
        cos, sin = tf.cos(theta), tf.sin(theta)
        push = (force + 0.05 * theta_dot * theta_dot * sin) / 1.1
        theta_acc = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos * cos / 1.1))
        x_acc = push - 0.05 * theta_acc * cos / 1.1
        speeds = x_dot, x_acc, theta_dot, theta_acc
        return state + 0.02 * tf.stack(speeds, axis=1)

    def reward(
        self, state: Any, action: Any, next_state: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        return tf.ones(tf.shape(next_state)[:1])

    def terminal(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        return (tf.abs(state[:, 0]) > 2.4) | (tf.abs(state[:, 2]) > 12 * 2 * _PI / 360)


class MountainCar(ClassicControl):
    """Drive an underpowered car up a hill: ``MountainCar-v0``.

    Example:
        >>> MountainCar().max_episode_steps, MountainCar().action_space
        (200, Discrete(3))
    """

    gymnasium_id = "MountainCar-v0"
    max_episode_steps = 200
    start = [-0.6, 0.0], [-0.4, 0.0]
    observation_space = spaces.Box(
        np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32)
    )
    action_space: gymnasium.Space = spaces.Discrete(3)
    goal: ClassVar[float] = 0.5

    def transition(
        self, state: tf.Tensor, action: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        position, velocity = tf.unstack(state, axis=1)
        push = self.push(action, state.dtype) - 0.0025 * tf.cos(3.0 * position)
        velocity = tf.clip_by_value(velocity + push, -0.07, 0.07)
        position = tf.clip_by_value(position + velocity, -1.2, 0.6)
        at_the_wall = (position == tf.constant(-1.2, state.dtype)) & (velocity < 0)
        return tf.stack([position, tf.where(at_the_wall, 0 * velocity, velocity)], axis=1)

    def push(self, action: tf.Tensor, dtype: Any) -> tf.Tensor:
        """Return the acceleration ``[N]`` of actions."""
        return 0.001 * tf.cast(action - 1, dtype)

    def reward(
        self, state: Any, action: Any, next_state: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        return -tf.ones(tf.shape(next_state)[:1])

    def terminal(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        return (state[:, 0] >= self.goal) & (state[:, 1] >= 0)


class MountainCarContinuous(MountainCar):
    """The same with continuous actions: ``MountainCarContinuous-v0``.

    Example:
        >>> MountainCarContinuous().max_episode_steps, MountainCarContinuous().action_space
        (999, Box(-1.0, 1.0, (1,), float32))
    """

    gymnasium_id = "MountainCarContinuous-v0"
    max_episode_steps = 999
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    goal = 0.45

    def push(self, action: tf.Tensor, dtype: Any) -> tf.Tensor:
        return 0.0015 * tf.cast(tf.clip_by_value(action[:, 0], -1.0, 1.0), dtype)

    def reward(
        self, state: Any, action: tf.Tensor, next_state: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        bonus = tf.where(self.terminal(next_state, rng), 100.0, 0.0)
        return bonus - 0.1 * tf.square(action[:, 0])


class Pendulum(ClassicControl):
    """Swing a pendulum up and hold it there: ``Pendulum-v1``. States are an angle and its speed.

    Example:
        >>> Pendulum().max_episode_steps, Pendulum().action_space
        (200, Box(-2.0, 2.0, (1,), float32))
    """

    gymnasium_id = "Pendulum-v1"
    max_episode_steps = 200
    start = [-_PI, -1.0], [_PI, 1.0]
    observation_space = symmetric([1, 1, 8])
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def transition(
        self, state: tf.Tensor, action: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        angle, speed = tf.unstack(state, axis=1)
        torque = self._torque(action, state.dtype)
        speed = tf.clip_by_value(speed + 0.05 * (15.0 * tf.sin(angle) + 3.0 * torque), -8.0, 8.0)
        return tf.stack([angle + 0.05 * speed, speed], axis=1)

    def observation(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        angle, speed = tf.unstack(state, axis=1)
        return tf.cast(tf.stack([tf.cos(angle), tf.sin(angle), speed], axis=1), tf.float32)

    def reward(
        self, state: tf.Tensor, action: tf.Tensor, next_state: Any, rng: Random, params: Any = None
    ) -> tf.Tensor:
        angle, speed = tf.unstack(state, axis=1)
        torque = self._torque(action, state.dtype)
        off = tf.math.floormod(angle + _PI, 2 * _PI) - _PI
        costs = off * off + 0.1 * speed * speed + 0.001 * torque * torque
        return tf.cast(-costs, tf.float32)

    def render_image(
        self, state: Any, render_state: gymnasium.Env, params: Any = None
    ) -> tuple[gymnasium.Env, np.ndarray]:
        unwrapped: Any = render_state.unwrapped
        unwrapped.last_u = None  # no arrow: the action is not a part of the state
        return super().render_image(state, render_state, params)

    def _torque(self, action: tf.Tensor, dtype: Any) -> tf.Tensor:
        return tf.cast(tf.clip_by_value(action[:, 0], -2.0, 2.0), dtype)


class Acrobot(ClassicControl):
    """Swing two linked poles above a line: ``Acrobot-v1``. States are two angles and two speeds.

    Example:
        >>> Acrobot().max_episode_steps, Acrobot().action_space
        (500, Discrete(3))
    """

    gymnasium_id = "Acrobot-v1"
    max_episode_steps = 500
    start = [-0.1] * 4, [0.1] * 4
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}
    observation_space = symmetric([1, 1, 1, 1, 4 * _PI, 9 * _PI])
    action_space = spaces.Discrete(3)

    def transition(
        self, state: tf.Tensor, action: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        torque, dt = tf.cast(action - 1, state.dtype), 0.2
        k1 = self._slope(state, torque)
        k2 = self._slope(state + dt / 2 * k1, torque)
        k3 = self._slope(state + dt / 2 * k2, torque)
        k4 = self._slope(state + dt * k3, torque)
        angles, speeds = tf.split(state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), 2, axis=1)
        wrapped = tf.math.floormod(angles + _PI, 2 * _PI) - _PI
        angles = tf.where(tf.abs(angles) > _PI, wrapped, angles)
        limits = tf.constant([4 * _PI, 9 * _PI], state.dtype)
        return tf.concat([angles, tf.clip_by_value(speeds, -limits, limits)], axis=1)

    def observation(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        one, two, speed_one, speed_two = tf.unstack(state, axis=1)
        parts = tf.cos(one), tf.sin(one), tf.cos(two), tf.sin(two), speed_one, speed_two
        return tf.cast(tf.stack(parts, axis=1), tf.float32)

    def reward(
        self, state: Any, action: Any, next_state: tf.Tensor, rng: Random, params: Any = None
    ) -> tf.Tensor:
        return tf.where(self.terminal(next_state, rng), 0.0, -1.0)

    def terminal(self, state: tf.Tensor, rng: Random, params: Any = None) -> tf.Tensor:
        one, two = state[:, 0], state[:, 1]
        return -tf.cos(one) - tf.cos(one + two) > 1.0

    def _slope(self, state: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
        """The derivative of states ``[N, 4]``: links of mass, length and inertia 1."""
        one, two, speed_one, speed_two = tf.unstack(state, axis=1)
        cos, sin = tf.cos(two), tf.sin(two)
        d1 = 0.25 + (1.25 + cos) + 2.0
        d2 = 0.25 + 0.5 * cos + 1.0
        phi2 = 4.9 * tf.cos(one + two - _PI / 2)
        phi1 = -0.5 * speed_two * speed_two * sin - speed_two * speed_one * sin
        phi1 = phi1 + 14.7 * tf.cos(one - _PI / 2) + phi2
        drive = torque + d2 / d1 * phi1 - 0.5 * speed_one * speed_one * sin - phi2
        two_acc = drive / (1.25 - d2 * d2 / d1)
        one_acc = -(d2 * two_acc + phi1) / d1
        return tf.stack([speed_one, speed_two, one_acc, two_acc], axis=1)
