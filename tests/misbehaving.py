"""Environments with one mistake each, registered as ``misbehaving:NAME-v0``."""

import atexit
import ctypes
import itertools
import os
import random
import subprocess
import sys
import time
import warnings

import gymnasium
import numpy as np
from gymnasium import spaces
from toys import Countdown, Endless


class Well(Countdown):
    """Has no mistake, and episodes of five steps. The base class of the others."""

    def __init__(self, render_mode=None):
        super().__init__(length=5, render_mode=render_mode)
        self.observation_space = spaces.Box(-1, 1000, (2,), np.float32)

    def _observe(self):
        return np.array([self.t, 0], np.float32)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, self._pay(reward), *rest

    def _pay(self, reward):
        return reward


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


class NoReward(Well):
    def _pay(self, reward):
        return None


class Nondeterministic(Well):
    """Pays unseeded noise from the third step of an episode on."""

    def _pay(self, reward):
        return random.random() if self.t > 2 else reward


class Remembering(Well):
    """Pays the number of the step, counted over all episodes of the instance."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.count = itertools.count()

    def _pay(self, reward):
        return float(next(self.count))


class Raising(Well):
    """Raises an exception in the fourth step of every episode."""

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
    """Has the interface of Gym before 0.26."""

    def reset(self):
        super().reset()
        return self._observe()

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Talking(Well):
    """Returns a string from ``step``."""

    def step(self, action):
        return "further"


class Untyped(Well):
    """Returns an integer, None and a list where two bools and a dict are expected."""

    def step(self, action):
        observation, reward, terminated, _, _ = super().step(action)
        return observation, reward, int(terminated), None, []


class Buffered(Well):
    """Uses one array for all observations."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.buffer = np.zeros(2, np.float32)

    def _observe(self):
        self.buffer[0] = self.t
        return self.buffer


class Hanging(Well):
    """Sleeps in the fourth step of an episode."""

    def step(self, action):
        if self.t == 3:
            time.sleep(60)
        return super().step(action)


class Unclosable(Well):
    """Sleeps when it is closed."""

    def close(self):
        time.sleep(60)


class Spinning(Well):
    """Computes for a long time in a reset."""

    def reset(self, *, seed=None, options=None):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            pass
        return super().reset(seed=seed)


class Holding(Well):
    """Holds Python's lock for ten seconds in a step, in native code."""

    def step(self, action):
        ctypes.PyDLL(None).usleep(10_000_000)
        return super().step(action)


class Deadlocked(Well):
    """Waits forever in a step, in native code that holds Python's lock and ignores signals."""

    def step(self, action):
        mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock
        lock(mutex)
        lock(mutex)


class Slow(Well):
    def step(self, action):
        time.sleep(0.01)
        return super().step(action)


class Ending(Well):
    """Ends its process."""

    def step(self, action):
        os._exit(3)


class Crashing(Well):
    """Crashes its process."""

    def step(self, action):
        return crash()


def crash():
    """Read a wrong address, as broken native code does."""
    ctypes.string_at(0)


class Leaving(Well):
    """Ends its process, and leaves another one behind."""

    def step(self, action):
        if os.fork() == 0:
            os.closerange(1, 3)
            time.sleep(25)
            os._exit(0)
        os._exit(3)


class Helped(Well):
    """Starts a process, and kills it when Python exits."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        helper = subprocess.Popen(["sleep", os.environ["HELPER"]])
        atexit.register(helper.kill)


class Simulated(Well):
    """Takes a moment to start a simulator, a process that only `close` ends."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.simulator = subprocess.Popen(["sleep", os.environ["SIMULATOR"]])
        time.sleep(float(os.environ.get("STARTING", "0.4")))

    def close(self):
        self.simulator.kill()
        self.simulator.wait()


class Tupled(Well):
    """Has spaces that no model of tfpg supports: tuples in tuples."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = spaces.Tuple([spaces.Tuple([spaces.Discrete(9)])])
        self.action_space = spaces.Tuple([spaces.Discrete(2)])

    def _observe(self):
        return ((self.t,),)


class Blurred(Well):
    """Renders floats of changing size."""

    def render(self):
        return np.zeros((20 + self.t, 30, 3)) if self.render_mode else None


class Windowed(Well):
    metadata = {"render_modes": ["human"], "render_fps": 10}


class Squeaking(Well):
    """Warns and prints."""

    def step(self, action):
        warnings.warn("The wheel squeaks.", stacklevel=1)
        print("squeak")
        return super().step(action)


class Everything(Buffered):
    """Makes many mistakes at once."""

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
        self.buffer[:] = self.t if self.t < 2 else np.nan, -7
        return self.buffer

    def render(self):
        raise OSError("no GPU")


for kind in (Well, *Well.__subclasses__(), Everything, Spaceless, Endless):
    gymnasium.register(f"{kind.__name__}-v0", f"{__name__}:{kind.__name__}")
