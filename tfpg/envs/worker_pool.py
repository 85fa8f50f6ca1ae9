"""Environments distributed over worker processes, for environments with slow steps."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from tfpg.envs.contracts import usable_space
from tfpg.envs.supervised import Failures, zero_observation
from tfpg.envs.worker_process import Call, command_line, end_group, serialize
from tfpg.errors import EnvError, EnvWorkerDied

# Seconds in which a process must start and make its environments, even if `timeout` is shorter.
_START_SECONDS = 60.0
_CLOSE_SECONDS = 0.8


class WorkerPool(SyncVectorEnv):
    """A vector environment that steps its environments in several processes at once.

    It returns, bit for bit, what a `gymnasium.vector.SyncVectorEnv` of
    `tfpg.envs.supervised.SupervisedEnv` returns, and does not reset itself (autoreset mode
    DISABLED). A round trip to a process takes a few hundred microseconds, so workers pay off if a
    step takes longer.

    Args:
        build: Callable that makes an environment. It is sent to the processes with cloudpickle.
        template: An environment made by ``build``, for its spaces and metadata.
        num_envs: Number of environments, N.
        workers: Number of processes, at most N.
        timeout: Seconds after which a process that has not answered is killed. None: never.
        on_env_error: ``"raise"``, ``"restart"`` or ``"drop"``; see `tfpg.envs.make_vec`.

    Raises:
        EnvError: An environment could not be made.
        TypeError: ``build`` cannot be sent.

    Example:
        >>> def build():
        ...     return gymnasium.make("CartPole-v1")
        >>> envs = WorkerPool(build, build(), num_envs=3, workers=2)
        >>> observations, infos = envs.reset(seed=[1, 2, 3])
        >>> observations.shape
        (3, 4)
        >>> envs.close()
    """

    def __init__(
        self,
        build: Callable[[], gymnasium.Env],
        template: gymnasium.Env,
        num_envs: int,
        workers: int,
        *,
        timeout: float | None = None,
        on_env_error: str = "raise",
    ):
        self.timeout = timeout
        self.on_env_error = on_env_error
        self._build = serialize(build)
        self._number = 0  # of the last request
        self._failures = Failures(on_env_error)
        self._remotes = [_RemoteEnv(template, n) for n in range(num_envs)]
        self._workers: list[_Worker] = []
        try:
            for share in np.array_split(np.arange(num_envs), min(workers, num_envs)):
                self._workers.append(_Worker([self._remotes[n] for n in share]))
            self._exchange("make", {w: self._make_request(w, again=False) for w in self._workers})
            builders = [lambda remote=remote: remote for remote in self._remotes]
            super().__init__(builders, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.close_extras()
            raise

    def reset(self, *, seed=None, options=None):
        """Reset all environments, or those of ``options["reset_mask"]``, in parallel."""
        for remote in self._remotes:
            remote.answer = remote.reset_call = None
        # Gymnasium checks the arguments and distributes them, and each environment records its own.
        super().reset(seed=seed, options=None if options is None else dict(options))
        self._call({r: r.reset_call for r in self._remotes if r.reset_call is not None})
        return super().reset(seed=seed, options=options)

    def step(self, actions):
        """Step all environments, the processes in parallel."""
        calls: dict[_RemoteEnv, Call] = {}
        for remote, action in zip(self._remotes, iterate(self.action_space, actions), strict=True):
            remote.answer, remote.action = None, action
            calls[remote] = ("step", (action,), {})
        self._call(calls)
        return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every environment, or get an attribute."""
        self._call(dict.fromkeys(self._remotes, (name, args, kwargs)))
        return tuple(remote.answer for remote in self._remotes)

    def render(self) -> tuple[Any, ...]:
        return self.call("render")

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment, to one value or to one value each."""
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        pairs = zip(self._remotes, values, strict=True)
        self._call({remote: ("set_wrapper_attr", (name, value), {}) for remote, value in pairs})

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes, within a second."""
        for worker in self._workers:
            worker.connection.close()  # which tells the process to close its environments and end
        deadline = time.monotonic() + _CLOSE_SECONDS
        for worker in self._workers:
            worker.end(max(0.0, deadline - time.monotonic()))

    def _make_request(self, worker: _Worker, again: bool) -> tuple:
        return worker.indices, self._build, self.on_env_error, again

    def _call(self, calls: Mapping[_RemoteEnv, Call]) -> None:
        requests = {w: [calls.get(r) for r in w.remotes] for w in self._workers}
        self._exchange("call", {w: each for w, each in requests.items() if any(each)})

    def _exchange(self, kind: str, requests: Mapping[_Worker, Any]) -> None:
        """Send requests and deliver the answers, and restart the processes that died.

        Raises:
            EnvError: An environment or a process failed, and this error must be raised. All
                processes have answered.
        """
        self._number += 1
        for worker, payload in requests.items():
            worker.send((self._number, kind, payload))
        errors: list[EnvError] = []
        deaths: dict[_Worker, EnvWorkerDied] = {}
        for worker, answer in self._answers(kind, requests):
            if isinstance(answer, EnvWorkerDied):
                deaths[worker] = answer
                continue
            _, result, warnings = answer
            for text in warnings:
                self._failures.warn(text)
            if isinstance(result, EnvError):
                errors.append(result)
            else:
                self._deliver(kind, worker, requests[worker], result)
        for death in deaths.values():
            try:
                self._failures.handle(death)
            except EnvWorkerDied as error:
                errors.append(error)
        if errors:
            raise min(errors, key=lambda error: error.env)
        for worker, death in deaths.items():
            for remote in worker.remotes:
                remote.failure = None if remote.over else death
            worker.start()
            again = requests[worker] if kind == "make" else self._make_request(worker, again=True)
            self._exchange("make", {worker: again})

    def _deliver(self, kind: str, worker: _Worker, payload: Any, result: list) -> None:
        """Pass an answer on to the environments."""
        if kind == "make":
            for remote, spaces in zip(worker.remotes, result, strict=True):
                remote.observation_space, remote.action_space = spaces
            return
        for remote, call, answer in zip(worker.remotes, payload, result, strict=True):
            if call is not None and remote.deliver(call[0], answer):
                self._failures.reset(worker.indices[0])

    def _answers(
        self, kind: str, requests: Mapping[_Worker, Any]
    ) -> Iterator[tuple[_Worker, tuple | EnvWorkerDied]]:
        """Yield the answer of each worker, or how it died."""
        timeout = self.timeout
        if timeout is not None and kind == "make":
            timeout = max(timeout, _START_SECONDS)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = {worker.connection: worker for worker in requests}
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready: Any = wait(list(waiting), left)
            for connection in ready or list(waiting):
                worker, answer = waiting[connection], None
                if ready:
                    with suppress(EOFError, OSError):
                        answer = connection.recv()
                    if answer is not None and answer[0] != self._number:
                        continue  # the answer to a request that was interrupted
                del waiting[connection]
                if answer is None:
                    answer = worker.died(kind, requests[worker], None if ready else timeout)
                yield worker, answer


class _RemoteEnv(gymnasium.Env):
    """Stands for an environment in another process, and returns that environment's answers."""

    def __init__(self, template: gymnasium.Env, index: int):
        self.observation_space = usable_space(template.observation_space)
        self.action_space = template.action_space
        self.metadata, self.render_mode = template.metadata, template.render_mode
        self.spec = template.spec
        self.index = index
        self._zeros = zero_observation(self.observation_space)
        self.answer: Any = None  # None: there is none yet, or the process died
        self.reset_call: Call | None = None
        self.seed: int | None = None
        self.steps = 0
        self.action: Any = None
        self.over = False
        self.failure: EnvWorkerDied | None = None  # of its process, in this episode

    def reset(self, *, seed=None, options=None):
        if self.reset_call is None:
            self.reset_call = ("reset", (), {"seed": seed, "options": options})
            if seed is not None or not (self.over or self.failure):  # else it continues to idle
                self.seed, self.steps, self.over, self.failure = seed, 0, False, None
        return self.answer or (self._zeros, {})

    def step(self, action):
        if self.failure is None:  # without an answer it idles, in a process that was restarted
            return self.answer or (self._zeros, 0.0, False, False, {})
        info = {"env_failed": True, "env_error": self.failure}
        self.failure, self.over = None, True
        return self._zeros, 0.0, False, False, info

    def deliver(self, name: str, answer: Any) -> bool:
        """Take the answer to a call, and return whether it finished an episode."""
        self.answer = answer
        if name != "step" or self.over:
            return False
        _, _, terminated, truncated, info = answer
        self.steps += 1
        self.over = bool(terminated or truncated or info.get("env_failed"))
        return bool(terminated or truncated)


class _Worker:
    """A process, and the environments in it."""

    def __init__(self, remotes: list[_RemoteEnv]):
        self.remotes = remotes
        self.indices = [remote.index for remote in remotes]
        self.start()

    def start(self) -> None:
        """Start the process, which ends when its standard input does.

        It has its own process group: Ctrl-C does not reach it, and what it starts is killed with
        it.
        """
        self.death: EnvWorkerDied | None = None
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            command_line(theirs),
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
        theirs.close()

    def send(self, request: tuple) -> None:
        """Send a request. A process that has ended is noticed when no answer comes."""
        if self.death is not None:
            raise self.death
        with suppress(OSError):
            self.connection.send(request)

    def died(self, kind: str, payload: Any, timeout: float | None) -> EnvWorkerDied:
        """Clean up after the process, and describe its last activity."""
        exitcode = self.end(1.0 if timeout is None else 0.0)
        made = kind != "make"
        stepped = made and any(call is not None and call[0] != "reset" for call in payload)
        self.death = EnvWorkerDied(
            self.indices,
            exitcode if timeout is None else None,
            [remote.seed if made else None for remote in self.remotes],
            [remote.steps if stepped else None for remote in self.remotes],
            [remote.action if stepped else None for remote in self.remotes],
            timeout,
        )
        return self.death

    def end(self, seconds: float) -> int:
        """Wait for the process to end, kill it and all it has started, and return its exit code."""
        if self.process.returncode is None:
            end_group(self.process, seconds)
            self.connection.close()
            assert self.process.stdin is not None
            self.process.stdin.close()
        return self.process.returncode
