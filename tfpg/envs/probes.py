"""Probe environments: tiny environments with known values, each testing one ability of an agent.

An agent that fails a probe has a bug in the ability that the probe tests. One that solves all of
them is ready for larger environments. Each probe knows the values of its observations under the
best policy.

Source: the idea comes from Andy L. Jones, "Debugging RL, Without the Agonizing Pain", 2021,
https://andyljones.com/posts/rl-debugging.html.
"""

from __future__ import annotations

import abc
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Probe(gymnasium.Env, abc.ABC):
    """Base class of the probes: observes one or a few real numbers, and has Discrete actions.

    Attributes:
        num_actions: Number of actions.
        size: Number of observed values, D.
        length: Number of steps in an episode.
        truncates: Whether episodes are truncated instead of terminated.
        t: Index of the current step.
        sign: -1 or 1, drawn at the start of each episode.

    Example:
        >>> observations, values = TwoSteps().values(gamma=0.5)
        >>> observations.ravel().tolist(), values.tolist()
        ([-1.0, 1.0], [0.5, 1.0])
    """

    num_actions = 2
    size = 1
    length = 1
    truncates = False

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-2.0, 2.0, (self.size,), np.float32)
        self.action_space = spaces.Discrete(self.num_actions)
        self.t = 0

    @abc.abstractmethod
    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return observations ``[M, D]`` and their values ``[M]`` under the best policy."""

    def best_return(self) -> float:
        """Return the mean episode return of the best policy."""
        return 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.sign = int(self.np_random.integers(2)) * 2 - 1
        return np.array(self._observe(), np.float32), {}

    def step(self, action: Any) -> Any:
        reward = float(self._reward(int(action)))
        self.t += 1
        ended = self.t == self.length
        observation = np.array(self._observe(), np.float32)
        return observation, reward, ended and not self.truncates, ended and self.truncates, {}

    def _observe(self) -> Any:
        return [0.0]

    @abc.abstractmethod
    def _reward(self, action: int) -> float:
        """Return the reward of step ``t``."""


class OneAction(Probe):
    """One action, one step, reward 1. Tests whether values are learned at all."""

    num_actions = 1

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 1), np.float32), np.array([1.0])

    def _reward(self, action: int) -> float:
        return 1.0


class ObservedReward(Probe):
    """One action, one step; the reward is the observation. Tests whether values depend on it."""

    num_actions = 1

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([-1.0, 1.0])

    def best_return(self) -> float:
        return 0.0

    def _observe(self) -> Any:
        return [self.sign]

    def _reward(self, action: int) -> float:
        return self.sign


class TwoSteps(Probe):
    """One action, two steps, a reward at the end. Tests discounting."""

    num_actions = 1
    length = 2

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([gamma, 1.0])

    def _observe(self) -> Any:
        return [2 * min(self.t, 1) - 1]

    def _reward(self, action: int) -> float:
        return self.t


class OneStep(Probe):
    """Two actions, one step; one action is rewarded. Tests whether the policy learns at all."""

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 1), np.float32), np.array([1.0])

    def _reward(self, action: int) -> float:
        return 2 * action - 1


class ObservedAction(Probe):
    """Two actions, one step; the observed action is rewarded. Tests if observations are used."""

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[-1.0], [1.0]], np.float32), np.array([1.0, 1.0])

    def _observe(self) -> Any:
        return [self.sign]

    def _reward(self, action: int) -> float:
        return (2 * action - 1) * self.sign


class DelayedReward(Probe):
    """The first action is rewarded three steps later. Tests credit assignment."""

    size = 2
    length = 4

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        times = np.arange(self.length)
        chosen = np.where(times == 0, 0.0, 1.0)
        observations = np.stack([times / self.length, chosen], axis=1).astype(np.float32)
        return observations, gamma ** (self.length - 1.0 - times)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.first = 0
        return super().reset(seed=seed, options=options)

    def _observe(self) -> Any:
        return [self.t / self.length, self.first]

    def _reward(self, action: int) -> float:
        if self.t == 0:
            self.first = 2 * action - 1
        return self.first if self.t == self.length - 1 else 0


class TimeLimit(Probe):
    """Reward 1 in every step, truncated after five. Tests bootstrapping at a truncation.

    The value of every observation is that of the endless episode, 1 / (1 - gamma).
    """

    length = 5
    truncates = True

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        times = np.arange(self.length) / self.length
        endless = np.full(self.length, 1.0 / (1.0 - gamma))
        return times[:, None].astype(np.float32), endless

    def best_return(self) -> float:
        return float(self.length)

    def _observe(self) -> Any:
        return [self.t / self.length]

    def _reward(self, action: int) -> float:
        return action


class RealEnd(TimeLimit):
    """Reward 1 in every step, terminated after five. Tests that nothing is bootstrapped there.

    The steps are those of `TimeLimit`, with other values.
    """

    truncates = False

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        observations, _ = super().values(gamma)
        left = self.length - np.arange(self.length)
        return observations, (1.0 - gamma**left) / (1.0 - gamma)


class NoisyChain(Probe):
    """Ten equivalent actions with noise of mean 0 as reward. Shows overestimated Q-values.

    Agents need not solve it: plain Q-learning overestimates here, more with every state, and Double
    Q-learning hardly does, as `benchmarks/double_q.py` shows. All values are 0.
    """

    num_actions = 10
    size = 4
    length = 4

    def values(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        return np.eye(self.size, dtype=np.float32), np.zeros(self.size)

    def best_return(self) -> float:
        return 0.0

    def _observe(self) -> Any:
        return np.eye(self.size)[self.t % self.size]

    def _reward(self, action: int) -> float:
        return self.np_random.standard_normal()


class Divisors(gymnasium.Env):
    """Subtract proper divisors from a number until it is 1, in few steps. Tests action masks.

    Action ``a`` subtracts ``a + 1``, and is valid if this is less than the number, and divides it.
    A step costs 1. An invalid action costs ``largest``, and ends the episode.

    Args:
        largest: The largest number. There are half as many actions.
        masks: Observe ``"action_mask"`` next to the number. Otherwise observe the number only.

    Attributes:
        number: The current number.
        invalid: How many invalid actions were taken.

    Example:
        >>> env = Divisors(largest=6)
        >>> observation, _ = env.reset(seed=1)
        >>> observation["observation"], observation["action_mask"].tolist()
        (4, [1, 1, 0])
        >>> env.fewest_steps()[2:].tolist()
        [1, 2, 2, 3, 3]
    """

    def __init__(self, largest: int = 64, masks: bool = True):
        self.largest, self.masks = largest, masks
        self.action_space = spaces.Discrete(largest // 2)
        number = spaces.Discrete(largest, start=1)
        mask = spaces.Box(0, 1, (largest // 2,), np.int8)
        self.observation_space = (
            spaces.Dict(observation=number, action_mask=mask) if masks else number
        )
        self.number = self.invalid = 0

    def valid(self, number: int) -> np.ndarray:
        """Return which actions are valid, ``[A]`` int8."""
        divisors = 1 + np.arange(self.largest // 2)
        return ((number % divisors == 0) & (divisors < number)).astype(np.int8)

    def fewest_steps(self) -> np.ndarray:
        """Return the steps that the best policy takes from each number on, ``[largest + 1]``."""
        steps = np.zeros(self.largest + 1, int)
        for number in range(2, self.largest + 1):
            steps[number] = 1 + min(steps[number - 1 - np.flatnonzero(self.valid(number))])
        return steps

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(2, self.largest + 1))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        if not self.valid(self.number)[action]:
            self.invalid += 1
            return self._observe(), -float(self.largest), True, False, {}
        self.number -= int(action) + 1
        return self._observe(), -1.0, self.number == 1, False, {}

    def _observe(self) -> Any:
        if not self.masks:
            return self.number
        return {"observation": self.number, "action_mask": self.valid(self.number)}


class Cue(gymnasium.Env):
    """Shows a sign in the first step, and asks for it many steps later. Tests memory.

    Observes the sign, which is 0 after the first step, and whether it asks. Action 1 in the step
    that asks is right for a positive sign, and 0 for a negative one. Then the return is 1, or else
    0: a policy without a memory cannot do better than 0.5.

    Args:
        delay: Steps from the sign to the question.

    Example:
        >>> env = Cue(delay=2)
        >>> observation, _ = env.reset(seed=0)
        >>> observation.tolist(), [env.step(1)[0].tolist() for _ in range(2)]
        ([1.0, 0.0], [[0.0, 0.0], [0.0, 1.0]])
        >>> env.step(1)[1:3]
        (1.0, True)
    """

    def __init__(self, delay: int = 20):
        self.delay, self.t, self.cue = delay, 0, 0
        self.action_space = spaces.Discrete(2)
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: Any) -> Any:
        over = self.t == self.delay
        self.t += 1
        observation = np.array([0, self.t == self.delay], np.float32)
        return observation, float(over and action == self.cue), over, False, {}


PROBES = (
    *(OneAction, ObservedReward, TwoSteps, OneStep, ObservedAction),
    *(DelayedReward, TimeLimit, RealEnd),
)
