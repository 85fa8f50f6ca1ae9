"""Ending a process whose environment does not return."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import SyncVectorEnv

from tfpg.errors import EnvWorkerDied


class Watchdog:
    """Ends the process if a call to an environment takes too long.

    Args:
        timeout: Time limit of a call, in seconds.
        report: Called with the error before the process ends.
    """

    def __init__(self, timeout: float, report: Callable[[EnvWorkerDied], Any]):
        self._timeout, self._report = timeout, report
        self._call: tuple[float, WatchedEnv, Any] | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def watch(self, envs: SyncVectorEnv) -> None:
        """Watch the calls of the environments in a vector environment."""
        envs.envs = [WatchedEnv(env, self) for env in envs.envs]

    def begin(self, env: WatchedEnv, action: Any = None) -> None:
        """Record the start of a call."""
        self._call = time.monotonic(), env, action

    def end(self) -> None:
        """Record the end of the call."""
        self._call = None

    def _watch(self) -> None:
        while True:
            # This ends the process if the call does not even let other threads run.
            faulthandler.dump_traceback_later(2 * self._timeout + 1, exit=True)
            time.sleep(self._timeout / 4)
            call = self._call
            if call is not None and time.monotonic() - call[0] > self._timeout:
                env, action = call[1:]
                place = [env.index], None, [env.seed], [env.steps], [action]
                try:
                    self._report(EnvWorkerDied(*place, timeout=self._timeout))
                finally:
                    os._exit(1)


class WatchedEnv(gymnasium.Wrapper):
    """A `tfpg.envs.supervised.SupervisedEnv` whose calls are watched."""

    def __init__(self, env: gymnasium.Env, watchdog: Watchdog):
        super().__init__(env)
        self.index: int = env.get_wrapper_attr("index")
        self.seed: int | None = None
        self.steps: int | None = None
        self._watchdog = watchdog

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed = seed
        self.steps = None
        self._watchdog.begin(self)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            self._watchdog.end()

    def step(self, action):
        self.steps = 0 if self.steps is None else self.steps + 1
        self._watchdog.begin(self, action)
        try:
            return self.env.step(action)
        finally:
            self._watchdog.end()
