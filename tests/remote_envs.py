"""Environments of tests with workers. Importing them does not import TensorFlow."""

import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np


class Cloud(gymnasium.Env):
    """Observes random images, in episodes of seven steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.integers(0, 256, (12, 12, 1), dtype=np.uint8)

    def step(self, action):
        self.t += 1
        return self.observe(), float(action), self.t >= 7, False, {}


class Light(Cloud):
    """Observes a few random numbers."""

    observation_space = gymnasium.spaces.Box(0, 255, (6,), np.float32)

    def observe(self):
        return self.np_random.uniform(0, 255, 6).astype(np.float32)


class WithoutTensorFlow(Light):
    """Fails where TensorFlow is imported."""

    def step(self, action):
        assert not {"tensorflow", "keras"} & {*sys.modules}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
        return super().step(action)


class Faulty(Light):
    """Does something in a step of one of its episodes, or in all of them."""

    def __init__(self, folder, fault, at=3, always=False):
        self.flag, self.fault, self.at, self.always = Path(folder) / "flag", fault, at, always

    def step(self, action):
        if self.t == self.at and (self.always or self.first()):
            if self.fault == "raises":
                raise ZeroDivisionError("no torque")
            if self.fault == "nan":
                self.t += 1
                return self.observe(), np.nan, False, False, {}
            if self.fault == "hangs":
                time.sleep(100)
            if self.fault == "blocks":
                re.match("(a+)+$", "a" * 60 + "b")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)

    def first(self):
        try:
            self.flag.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Random(Light):
    """Observes other numbers each time, and dies once."""

    def __init__(self, folder):
        self.flag = Path(folder) / "flag"

    def observe(self):
        return np.frombuffer(os.urandom(6), np.uint8).astype(np.float32)

    def step(self, action):
        if self.t == 5 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Warns(Light):
    """Warns in each reset."""

    def reset(self, *, seed=None, options=None):
        warnings.warn("The torque is low.", stacklevel=1)
        return super().reset(seed=seed, options=options)


class Counts(Light):
    """Rewards the number of its episodes so far, which a seed does not restore."""

    count = 0

    def reset(self, *, seed=None, options=None):
        self.count += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.count), *rest

    def get_state(self):
        return {"count": self.count, "t": self.t}

    def set_state(self, state):
        self.count, self.t = state["count"], state["t"]
