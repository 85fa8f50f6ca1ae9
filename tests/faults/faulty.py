"""Environments that fail as they are told to. Worker processes import this: no TensorFlow here."""

import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


def boom():
    raise ZeroDivisionError("no torque")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    os._exit(3)


def hangs():
    time.sleep(60)


FAULTS = {"boom": boom, "killed": killed, "exits": exits, "hangs": hangs}


class Faulty(gymnasium.Env):
    """Observes the step, the seed of its episode and noise; has 3 to 6 steps, by its seed.

    In step ``at`` of the episode of seed ``seed``, or in its reset with ``at=None``, it fails
    ``times`` times, whichever process it is in: a file in ``folder`` is left for each. With
    several seeds it fails so often in each of their episodes, with ``seed=None`` in any episode,
    and with ``at="made"`` when it is made.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, folder=None, fault="boom", seed=None, at=2, times=1, named=False):
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({"x": box}) if named else box
        self.folder, self.fault, self.seed, self.at, self.times = folder, fault, seed, at, times
        self.named = named
        self._maybe("made", None)

    def _maybe(self, at, seed):
        several = isinstance(self.seed, list)
        meant = seed in self.seed if several else self.seed in (None, seed)
        if self.folder is None or at != self.at or not meant:
            return
        for count in range(self.times):
            name = f"{seed}-{count}" if several else str(count)
            try:
                (Path(self.folder) / name).touch(exist_ok=False)
            except FileExistsError:
                continue
            FAULTS[self.fault]()

    def _observe(self):
        x = np.array([self.t, self.began % 997, self.np_random.random()], np.float32)
        return {"x": x} if self.named else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._maybe(None, seed)
        self.began, self.t = seed, 0
        return self._observe(), {"seed": seed}

    def step(self, action):
        self._maybe(self.t, self.began)
        self.t += 1
        return self._observe(), float(action), self.t >= 3 + self.began % 4, False, {"t": self.t}


class Slow(Faulty):
    """Takes so many seconds for a step."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def step(self, action):
        time.sleep(self.seconds)
        return super().step(action)
