"""Small environments with action masks, reported in each way that there is."""

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.envs.probes import Divisors

WAYS = ["observations", "infos", "method"]


class InInfos(gymnasium.Wrapper):
    """Moves the masks of `Divisors` or `Pairs` from its observations into its infos."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = env.observation_space["observation"]

    def reset(self, *, seed=None, options=None):
        observation, _ = self.env.reset(seed=seed)
        return observation["observation"], self.infos(observation)

    def step(self, action):
        observation, *rest, _ = self.env.step(action)
        return observation["observation"], *rest, self.infos(observation)

    def infos(self, observation):
        return {"action_mask": observation["action_mask"]}


class InMethod(InInfos):
    """Returns the masks from a method instead."""

    def infos(self, observation):
        self.mask = observation["action_mask"]
        return {}

    def action_masks(self):
        return self.mask


class Pairs(gymnasium.Env):
    """Two numbers, each as in `Divisors` with numbers up to 6; a number that is 1 stays 1.

    Observes the numbers, and masks as a tuple with one for each choice.
    """

    observation_space = spaces.Dict(
        observation=spaces.MultiDiscrete([6, 6], start=[1, 1]),
        action_mask=spaces.Tuple([spaces.MultiBinary(3)] * 2),
    )
    action_space = spaces.MultiDiscrete([3, 3])

    def __init__(self):
        self.parts, self.invalid = [Divisors(6), Divisors(6)], 0

    def masks(self):
        return tuple(
            np.eye(3, dtype=np.int8)[0] if part.number == 1 else part.valid(part.number)
            for part in self.parts
        )

    def observe(self):
        numbers = np.array([part.number for part in self.parts])
        return {"observation": numbers, "action_mask": self.masks()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        for part in self.parts:
            part.number = int(self.np_random.integers(2, 7))
        return self.observe(), {}

    def step(self, action):
        for part, mask, chosen in zip(self.parts, self.masks(), action, strict=True):
            self.invalid += not mask[chosen]
            part.number = max(1, part.number - int(chosen) - 1)
        return self.observe(), -1.0, all(part.number == 1 for part in self.parts), False, {}


def reporting(way, env=None):
    """An environment that reports its masks in one of the `WAYS`."""
    env = env or Divisors(largest=12)
    return {"observations": lambda x: x, "infos": InInfos, "method": InMethod}[way](env)
