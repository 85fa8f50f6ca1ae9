"""Environments that each do one thing wrong; as ids with ``misbehaving:`` before them."""

import atexit
import ctypes
import itertools
import os
import random
import subprocess
import sys
import threading
import time
import warnings

import gymnasium
import numpy as np
from gymnasium import spaces
from toys import Countdown, Endless


class Well(Countdown):
    """Five steps, nothing wrong; what the others begin with."""

    def __init__(self, render_mode=None):
        super().__init__(length=5, render_mode=render_mode)
        self.observation_space = spaces.Box(-1, 1000, (2,), np.float32)

    def _observe(self):
        return np.array([self.t, 0], np.float32)


class NaNObservation(Well):
    def _observe(self):
        return np.array([self.t, np.nan if self.t == 3 else 0], np.float32)


class OutOfBounds(Well):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = spaces.Box(0, 3, (2,), np.float32)


class WrongDtype(Well):
    def _observe(self):
        return np.array([self.t, 0.0])


class WrongShape(Well):
    def _observe(self):
        return np.zeros(3, np.float32)


class Rewarding(Well):
    """Every step is paid ``reward``."""

    def __init__(self, reward=None, render_mode=None):
        super().__init__(render_mode)
        self.reward = reward

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.reward, *rest


class Nondeterministic(Well):
    """Pays what nobody seeds, from the third step of an episode on."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, random.random() if self.t > 2 else 1.0, *rest


class Remembering(Well):
    """Each instance plays its episodes alike once, and never again."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.count = itertools.count()

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(next(self.count)), *rest


class Raising(Well):
    """Raises in the fourth step of every episode."""

    def step(self, action):
        if self.t == 3:
            raise KeyError("wheel")
        return super().step(action)


class Exiting(Well):
    def reset(self, *, seed=None, options=None):
        sys.exit("no licence")


class Unmakeable(Well):
    def __init__(self, render_mode=None):
        raise RuntimeError("no simulator\non this machine")


class Spaceless(gymnasium.Env):
    pass


class OldInterface(Well):
    """As before Gym 0.26."""

    def reset(self):
        super().reset()
        return self._observe()

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Talking(Well):
    """A step returns words."""

    def step(self, action):
        return "further"


class Untyped(Well):
    """Ends are integers or None, and infos lists."""

    def step(self, action):
        observation, reward, terminated, _, _ = super().step(action)
        return observation, reward, int(terminated), None, []


class Buffered(Well):
    """One array for all observations."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.buffer = np.zeros(2, np.float32)

    def _observe(self):
        self.buffer[0] = self.t
        return self.buffer


class Hanging(Well):
    def step(self, action):
        if self.t == 3:
            time.sleep(60)
        return super().step(action)


class Ending(Well):
    def step(self, action):
        os._exit(3)


class Helped(Well):
    """Has a process of its own, which it ends when Python does."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        helper = subprocess.Popen(["sleep", os.environ["HELPER"]])
        atexit.register(helper.kill)


class Leaving(Well):
    def step(self, action):
        if os.fork() == 0:
            os.closerange(1, 3)
            time.sleep(25)
            os._exit(0)
        os._exit(3)


class Holding(Well):
    """A step in native code that lets nothing else run, for ten seconds."""

    def step(self, action):
        ctypes.PyDLL(None).usleep(10_000_000)
        return super().step(action)


class Crashing(Well):
    def step(self, action):
        return crash()


def crash():
    """As native code does, given a wrong pointer."""
    ctypes.string_at(0)


class Spinning(Well):
    enough = threading.Event()

    def reset(self, *, seed=None, options=None):
        until = time.monotonic() + 30
        while time.monotonic() < until and not self.enough.is_set():
            pass
        return super().reset(seed=seed)


class Slow(Well):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


class Tupled(Well):
    """Spaces that tfpg has no inputs and no head for."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = spaces.Tuple([spaces.Discrete(9), spaces.Discrete(2)])
        self.action_space = spaces.Tuple([spaces.Discrete(2)])

    def step(self, action):
        return super().step(action[0])

    def _observe(self):
        return self.t, 0


class Blurred(Well):
    """Renders floats of changing size."""

    def render(self):
        return np.zeros((20 + self.t, 30, 3)) if self.render_mode else None


class Windowed(Well):
    metadata = {"render_modes": ["human"], "render_fps": 10}


class Squeaking(Well):
    def step(self, action):
        warnings.warn("The wheel squeaks.", stacklevel=1)
        print("squeak")
        return super().step(action)


class Everything(Well):
    """Much is wrong at once."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = spaces.Box(-500, 500, (1,), np.float32)
        self.buffer = np.zeros(2)

    def reset(self, *, seed=None):
        self.t = 0
        return self._observe()

    def step(self, action):
        self.t += 1
        return self._observe(), np.array([random.random()]), self.t == 5, False, {}

    def _observe(self):
        self.buffer[:] = np.nan, -7
        self.buffer[0] = self.t if self.t < 2 else np.nan
        return self.buffer

    def render(self):
        raise OSError("no GPU")


for kind in (Well, *Well.__subclasses__(), Spaceless, Endless):
    gymnasium.register(f"{kind.__name__}-v0", f"{__name__}:{kind.__name__}")
