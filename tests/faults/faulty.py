"""Environments that fail on purpose. Worker processes import this file: no TensorFlow here."""

import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


def raises():
    raise ZeroDivisionError("no torque")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    os._exit(3)


def hangs():
    time.sleep(60)


FAULTS = {"raises": raises, "killed": killed, "exits": exits, "hangs": hangs}


class Faulty(gymnasium.Env):
    """Observes the step, its episode's seed and noise. An episode has 3 to 6 steps, by its seed.

    It fails in step ``at`` of the episode with seed ``seed``, or in the reset with ``at=None``,
    or when it is made with ``at="made"``; ``times`` times in all processes together, which is
    counted by files in ``folder``. With a list of seeds it fails ``times`` times for each of them,
    and with ``seed=None`` in any episode.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, folder=None, fault="raises", seed=None, at=2, times=1, named=False):
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({"x": box}) if named else box
        self.folder, self.fault, self.seed, self.at, self.times = folder, fault, seed, at, times
        self.named = named
        self._maybe_fail("made", None)

    def _maybe_fail(self, at, seed):
        several = isinstance(self.seed, list)
        due = seed in self.seed if several else self.seed in (None, seed)
        if self.folder is None or at != self.at or not due:
            return
        for count in range(self.times):
            name = f"{seed}-{count}" if several else str(count)
            try:
                (Path(self.folder) / name).touch(exist_ok=False)
            except FileExistsError:
                continue
            FAULTS[self.fault]()

    def observe(self):
        x = np.array([self.t, self.began % 997, self.np_random.random()], np.float32)
        return {"x": x} if self.named else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._maybe_fail(None, seed)
        self.began, self.t = seed, 0
        return self.observe(), {"seed": seed}

    def step(self, action):
        self._maybe_fail(self.t, self.began)
        self.t += 1
        return self.observe(), float(action), self.t >= 3 + self.began % 4, False, {"t": self.t}


class Slow(Faulty):
    """Takes some seconds for a step."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)


class WrongShape(gymnasium.Env):
    """Observes three numbers where its space says two: from a step on, or from the reset."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, late=False):
        self.late = late

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2 if self.late else 3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}
