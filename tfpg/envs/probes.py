"""Probe environments: tiny, each with one thing an agent must get right, and known answers.

An agent that fails one of them has a bug where the probe points to; one that solves them all can
be tried on something larger. Each says the value of its observations under the best policy.

Source: the idea is Andy L. Jones's, "Debugging RL, Without the Agonizing Pain", 2021,
https://andyljones.com/posts/rl-debugging.html.
"""

from __future__ import annotations

import abc
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Probe(gymnasium.Env, abc.ABC):
    """What the probes share: one real number or two to observe, and a few actions.

    Example:
        >>> observations, values = TwoSteps().values(gamma=0.5)
        >>> observations.ravel().tolist(), values.tolist()
        ([-1.0, 1.0], [0.5, 1.0])
    """

    actions = 2
    numbers = 1

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-2.0, 2.0, (self.numbers,), np.float32)
        self.action_space = spaces.Discrete(self.actions)
        self.t = 0

    @abc.abstractmethod
    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Observations ``[M, D]`` and their values ``[M]`` under the best policy."""

    def best_return(self) -> float:
        """The mean return of the best policy."""
        return 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.sign = int(self.np_random.integers(2)) * 2 - 1
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        reward, terminated, truncated = self._play(int(action))
        self.t += 1
        return self._observe(), float(reward), terminated, truncated, {}

    def _observe(self) -> np.ndarray:
        return np.zeros(self.numbers, np.float32)

    @abc.abstractmethod
    def _play(self, action: int) -> tuple[float, bool, bool]:
        """Reward, and whether the step terminated or truncated the episode."""


class OneAction(Probe):
    """One action, one step, reward 1: does the value learn at all?"""

    actions = 1

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 1), np.float32), np.array([1.0])

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return 1.0, True, False


class ObservedReward(Probe):
    """One action, one step, the reward is what was observed: does the value see?"""

    actions = 1

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([-1.0, 1.0])

    def best_return(self) -> float:
        return 0.0

    def _observe(self) -> np.ndarray:
        return np.array([self.sign], np.float32)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return self.sign, True, False


class TwoSteps(Probe):
    """One action, two steps, reward at the end: is the future discounted?"""

    actions = 1

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([gamma, 1.0])

    def _observe(self) -> np.ndarray:
        return np.array([2 * min(self.t, 1) - 1], np.float32)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return self.t, self.t == 1, False


class OneStep(Probe):
    """Two actions, one step, one of them is paid: does the policy learn at all?"""

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 1), np.float32), np.array([1.0])

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return 2 * action - 1, True, False


class ObservedAction(Probe):
    """Two actions, one step, the one that was observed is paid: does the policy see?"""

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([1.0, 1.0])

    def _observe(self) -> np.ndarray:
        return np.array([self.sign], np.float32)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return (2 * action - 1) * self.sign, True, False


class DelayedReward(Probe):
    """The first action is paid three steps later: is credit assigned back in time?"""

    numbers = 2
    length = 4

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        times = np.arange(self.length)
        chosen = np.where(times == 0, 0.0, 1.0)
        observations = np.stack([times / self.length, chosen], axis=1).astype(np.float32)
        return observations, gamma ** (self.length - 1.0 - times)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.first = 0
        return super().reset(seed=seed, options=options)

    def _observe(self) -> np.ndarray:
        return np.array([self.t / self.length, self.first], np.float32)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        if self.t == 0:
            self.first = 2 * action - 1
        last = self.t == self.length - 1
        return (self.first if last else 0), last, False


class TimeLimit(Probe):
    """Reward 1 at every step, for ever; somebody stops it after five: it is not the end.

    The value of every observation is that of the endless stream, 1 / (1 - gamma).
    """

    length = 5

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        times = np.arange(self.length) / self.length
        endless = np.full(self.length, 1.0 / (1.0 - gamma))
        return times[:, None].astype(np.float32), endless

    def best_return(self) -> float:
        return float(self.length)

    def _observe(self) -> np.ndarray:
        return np.array([self.t / self.length], np.float32)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return action, False, self.t == self.length - 1


class RealEnd(TimeLimit):
    """Reward 1 at every step, and after five it ends: nothing comes after.

    The same steps as in `TimeLimit`, with other values.
    """

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        observations, _ = super().values(gamma)
        left = self.length - np.arange(self.length)
        return observations, (1.0 - gamma**left) / (1.0 - gamma)

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return action, self.t == self.length - 1, False


class NoisyChain(Probe):
    """Ten actions alike lead on, paid by noise of mean 0: are maxima of noise taken for values?

    No agent's duty: plain Q-learning overestimates here, more from state to state, and Double
    Q-learning hardly does; `benchmarks/double_q.py` shows it. All values are 0.
    """

    actions = 10
    numbers = 4

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.eye(self.numbers, dtype=np.float32), np.zeros(self.numbers)

    def best_return(self) -> float:
        return 0.0

    def _observe(self) -> np.ndarray:
        return np.eye(self.numbers, dtype=np.float32)[self.t % self.numbers]

    def _play(self, action: int) -> tuple[float, bool, bool]:
        return self.np_random.standard_normal(), self.t == self.numbers - 1, False


PROBES = (
    *(OneAction, ObservedReward, TwoSteps, OneStep, ObservedAction),
    *(DelayedReward, TimeLimit, RealEnd),
)
