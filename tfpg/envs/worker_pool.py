"""Environments shared out among processes, for those whose steps are slow."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from tfpg.core.messages import warn
from tfpg.core.seeding import reset_seed
from tfpg.envs.supervised import MOST_FAILURES, blank, built, once, told
from tfpg.envs.worker_process import command_line, packed
from tfpg.errors import EnvError, EnvWorkerDied

# What a process may take to start and to make its environments, whatever its steps may take.
_START = 60.0  # seconds
_CLOSE = 0.8  # seconds


class Workers(SyncVectorEnv):
    """A vector environment whose environments are stepped in several processes at once.

    It gives, bit for bit, what a `gymnasium.vector.SyncVectorEnv` of `tfpg.envs.supervised.Parked`
    environments gives, and like it is reset by whoever plays in it (autoreset mode DISABLED). An
    exchange with a process takes some hundred microseconds, so it pays where a step takes longer.

    Args:
        build: Makes an environment. It is sent to the processes by cloudpickle.
        num_envs: N, the environments.
        workers: The processes, at most N.
        like: An environment that was made so. None: one is made here first, so that the errors
            of making it are its own.
        timeout: Seconds after which a process that gives no answer is killed. None: never.
        on_env_error: See `tfpg.envs.make_vec`.

    Raises:
        EnvError: An environment could not be made.
        TypeError: ``build`` cannot be sent.

    Example:
        >>> envs = Workers(lambda: gymnasium.make("CartPole-v1"), num_envs=3, workers=2)
        >>> observations, infos = envs.reset(seed=[1, 2, 3])
        >>> observations.shape
        (3, 4)
        >>> envs.close()
    """

    def __init__(
        self,
        build: Callable[[], gymnasium.Env],
        num_envs: int,
        workers: int,
        *,
        like: gymnasium.Env | None = None,
        timeout: float | None = None,
        on_env_error: str = "raise",
    ):
        self.timeout = timeout
        self.on_env_error = on_env_error
        self._number = 0
        self._tell = once(warn)
        self._workers: list[_Worker] = []
        if like is None:
            like = built(build, 0)
            like.close()
        self._columns = [_Column(like, n) for n in range(num_envs)]
        self._build = packed(build)
        try:
            for share in np.array_split(np.arange(num_envs), min(workers, num_envs)):
                self._workers.append(_Worker([self._columns[n] for n in share]))
            self._make(self._workers)
            makers = [lambda column=column: column for column in self._columns]
            super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.close_extras()
            raise

    def reset(self, *, seed=None, options=None):
        """As of a `SyncVectorEnv`: ``options["reset_mask"]`` says who is reset."""
        count = len(self._columns)
        seeds = [seed] * count if seed is None else seed
        seeds = [seed + n for n in range(count)] if isinstance(seed, int) else list(seeds)
        mask = np.ones(count, bool)
        others = options
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            others = {key: x for key, x in options.items() if key != "reset_mask"}
        # What does not suit is refused by the vector environment's own words below.
        suits = len(seeds) == count and mask.shape == (count,) and mask.dtype == bool
        todo = set(np.flatnonzero(mask)) if suits else set()
        while todo:
            arguments: list[Any] = [None] * count
            for n in todo:
                arguments[n] = seeds[n], others
                self._columns[n].begin(seeds[n])
            asked = [w for w in self._workers if any(c.index in todo for c in w.columns)]
            dead = self._exchange("reset", asked, arguments)
            todo &= {column.index for worker in dead for column in worker.columns}
            for n in todo if self.on_env_error == "drop" else ():
                if seeds[n] is not None:
                    seeds[n] = reset_seed(np.random.default_rng(seeds[n]))
        return super().reset(seed=seed, options=options)

    def step(self, actions):
        """As of a `SyncVectorEnv`, all processes at the same time."""
        arguments = list(iterate(self.action_space, actions))
        for column, action in zip(self._columns, arguments, strict=True):
            column.action = action
        for worker, death in self._exchange("step", self._workers, arguments).items():
            for column in worker.columns:
                column.break_off(death)
        return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of every environment, or gets an attribute."""
        self._exchange("call", self._workers, [(name, args, kwargs)] * self.num_envs)
        return tuple(column.answer for column in self._columns)

    def render(self) -> tuple[Any, ...]:
        return self.call("render")

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every environment, to one value or to one for each in a list."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        self._exchange("set", self._workers, [(name, value) for value in values])

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes, within a second."""
        for worker in self._workers:
            worker.send((0, "close", None))
        deadline = time.monotonic() + _CLOSE
        for worker in self._workers:
            worker.end(max(0.0, deadline - time.monotonic()))

    def _make(self, workers: list[_Worker], resting: bool = False) -> None:
        """Has processes make their environments."""
        while workers:
            how = {w: (w.indices, self._build, self.on_env_error, resting) for w in workers}
            workers = list(self._exchange("make", workers, how))

    def _make_anew(self, worker: _Worker) -> None:
        """Has a process that was started anew make its environments, which rest."""
        while True:
            try:
                return self._make([worker], resting=True)
            except EnvError:
                worker.failures += 1
                if worker.failures > MOST_FAILURES:
                    raise

    def _exchange(
        self, name: str, workers: list[_Worker], arguments: Any
    ) -> dict[_Worker, EnvWorkerDied]:
        """Tells processes what to do, and hands what they answer to their columns.

        Returns:
            Those that died meanwhile, and how. They were started anew.

        Raises:
            EnvError: An environment failed and this is to be raised, once all have answered.
        """
        self._number += 1
        for worker in workers:
            if worker.death is not None:
                raise worker.death
            mine = arguments[worker] if name == "make" else [arguments[n] for n in worker.indices]
            worker.send((self._number, name, mine))
        limit = self.timeout
        if limit is not None and name == "make":
            limit = max(limit, _START)
        deadline = None if limit is None else time.monotonic() + limit
        waiting = {worker.connection: worker for worker in workers}
        errors: list[EnvError] = []
        dead: dict[_Worker, EnvWorkerDied] = {}
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready: Any = wait(list(waiting), left)
            for connection in ready or list(waiting):
                worker = waiting[connection]
                try:
                    number, result, said = connection.recv() if ready else _no_answer()
                except (EOFError, OSError):
                    dead[worker] = worker.died(name, None if ready else limit)
                    del waiting[connection]
                    continue
                if number != self._number:  # it answers what was asked before an interrupt
                    continue
                del waiting[connection]
                for text in said:
                    self._tell(text)
                if isinstance(result, EnvError):
                    errors.append(result)
                else:
                    worker.deliver(name, result)
        for worker, death in dead.items():
            worker.failures += 1
            if self.on_env_error == "raise" or worker.failures > MOST_FAILURES:
                death.advise(worker.failures)
                errors.append(death)
                worker.death = death
        if errors:
            raise min(errors, key=lambda error: error.env)
        for worker, death in dead.items():
            self._tell(told(death, self.on_env_error))
            worker.start()
            if name != "make":
                self._make_anew(worker)
        return dead


class _Column(gymnasium.Env):
    """Stands for an environment of another process: hands out what that last answered."""

    def __init__(self, like: gymnasium.Env, index: int):
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self.metadata, self.spec, self.render_mode = like.metadata, like.spec, like.render_mode
        self.index = index
        self.answer: Any = None
        self.seed: int | None = None
        self.steps = 0
        self.action: Any = None
        self.over = False

    def reset(self, *, seed=None, options=None):
        return self.answer

    def step(self, action):
        return self.answer

    def begin(self, seed: int | None) -> None:
        """It is reset with this seed. Without one, it rests on where its episode is over."""
        if seed is not None or not self.over:
            self.seed, self.steps, self.over = seed, 0, False

    def break_off(self, error: EnvError) -> None:
        """Its process died in a step."""
        info = {} if self.over else {"env_failed": True, "env_error": error}
        self.answer = blank(self.observation_space), 0.0, False, False, info
        self.over = True


class _Worker:
    """A process, and the columns it plays in."""

    def __init__(self, columns: list[_Column]):
        self.columns = columns
        self.indices = [column.index for column in columns]
        self.failures = 0  # without an episode that ended between them
        self.start()

    def start(self) -> None:
        """Starts the process, which ends when its standard input does.

        Its group is its own: Ctrl-C does not reach it, and what it starts is killed with it.
        """
        self.death: EnvWorkerDied | None = None  # that was raised
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            command_line(theirs),
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
        theirs.close()

    def send(self, message: tuple) -> None:
        """Sends, also to who is dead: that is noticed when no answer comes."""
        with suppress(OSError):
            self.connection.send(message)

    def deliver(self, name: str, result: list) -> None:
        """Hands an answer to each column."""
        for column, answer in zip(self.columns, result, strict=True):
            if name == "make":
                column.observation_space, column.action_space = answer
            elif name != "reset" or answer is not None:
                column.answer = answer
            if name == "step" and not column.over:
                _, _, terminated, truncated, info = answer
                column.steps += 1
                column.over = bool(terminated or truncated or info.get("env_failed"))
                if terminated or truncated:
                    self.failures = 0

    def died(self, name: str, timeout: float | None) -> EnvWorkerDied:
        """Ends what is left of it, and says what it was doing."""
        exitcode = self.end(1.0 if timeout is None else 0.0)
        made, stepped = name != "make", name in ("step", "call")
        return EnvWorkerDied(
            self.indices,
            exitcode if timeout is None else None,
            [column.seed if made else None for column in self.columns],
            [column.steps if stepped else None for column in self.columns],
            [column.action if stepped else None for column in self.columns],
            timeout,
        )

    def end(self, seconds: float) -> int:
        """Gives it so long to end, kills it and what it started, and returns its exit code."""
        if self.process.returncode is None:
            deadline = time.monotonic() + seconds
            # Not reaped yet, so that the group's number is nobody else's when it is killed.
            ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
            with suppress(ChildProcessError, ProcessLookupError):
                while not os.waitid(os.P_PID, self.process.pid, ended):
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(0.002)
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.connection.close()
            assert self.process.stdin is not None
            self.process.stdin.close()
        return self.process.returncode


def _no_answer() -> Any:
    raise TimeoutError
