"""Ending a process whose environment does not return."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        # the deadline, the time limit, and the index, seed, step and action
        self._call: tuple[float, float, tuple[int, int | None, int | None, Any]] | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def watch(self, envs: SyncVectorEnv) -> None:
        """Watch the calls of the environments in a vector environment."""
        envs.envs = [WatchedEnv(env, self) for env in envs.envs]

    @contextmanager
    def call(
        self,
        index: int,
        seed: int | None = None,
        step: int | None = None,
        action: Any = None,
        at_least: float = 0.0,
    ) -> Iterator[None]:
        """Watch a call of an environment, for a ``with`` statement.

        Args:
            index: The index of the environment.
            seed: The seed of its episode. None: the environment is being made.
            step: The step of its episode. None: the environment is being reset or made.
            action: The action of the step.
            at_least: The time limit is ``timeout`` or this, whichever is longer, in seconds.
        """
        limit = max(self._timeout, at_least)
        if limit > self._timeout:
            _guard(limit)
        self._call = time.monotonic() + limit, limit, (index, seed, step, action)
        try:
            yield
        finally:
            self._call = None
            if limit > self._timeout:
                _guard(self._timeout)

    def _watch(self) -> None:
        while True:
            call = self._call
            _guard(self._timeout if call is None else call[1])
            time.sleep(self._timeout / 4)
            call = self._call
            if call is not None and time.monotonic() > call[0]:
                _, limit, (index, seed, step, action) = call
                try:
                    self._report(
                        EnvWorkerDied([index], None, [seed], [step], [action], timeout=limit)
                    )
                finally:
                    os._exit(1)


def _guard(limit: float) -> None:
    """End the process if a call does not even let other threads run."""
    faulthandler.dump_traceback_later(2 * limit + 1, exit=True)


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
        with self._watchdog.call(self.index, self.seed):
            return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.steps = 0 if self.steps is None else self.steps + 1
        with self._watchdog.call(self.index, self.seed, self.steps, action):
            return self.env.step(action)
