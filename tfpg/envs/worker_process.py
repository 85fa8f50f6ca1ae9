"""The program that a worker process runs: it plays in its share of the environments.

Workers are started with ``python -c``. They are not forked, because TensorFlow hangs in a forked
process, and not started by `multiprocessing`, which would run the user's script a second time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium
from gymnasium.vector.utils import CloudpickleWrapper

from tfpg.envs.supervised import Failures, SupervisedEnv, build_env, check_new
from tfpg.errors import EnvError

# The name of a method or attribute, and its arguments.
Call = tuple[str, tuple, dict[str, Any]]


def command_line(connection: Connection) -> list[str]:
    """Return the command that starts a worker at the other end of a connection."""
    serve = f"from tfpg.envs.worker_process import serve; serve({connection.fileno()})"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"]


def serialize(build: Callable[[], gymnasium.Env]) -> bytes:
    """Serialize a callable for a worker process.

    Raises:
        TypeError: It cannot be serialized.
    """
    try:
        return bytes(ForkingPickler.dumps(CloudpickleWrapper(build)))
    except Exception as error:
        raise TypeError(
            f"{build!r} cannot be sent to a worker process: {error}. Open files, windows and "
            "connections inside the callable instead of referring to them."
        ) from error


def serve(descriptor: int) -> None:
    """Answer requests until the connection is closed.

    A request is ``(number, kind, payload)``. The payload of ``"make"`` is the arguments of
    `_make_envs`; the payload of ``"call"`` is a `Call` or None for each environment. An answer is
    ``(number, result, warnings)``; its result is an `EnvError` if an environment raised one.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    envs: list[SupervisedEnv] = []
    warnings: list[str] = []
    with suppress(EOFError, ConnectionError):  # the parent closed the connection or ended
        while True:
            number, kind, payload = connection.recv()
            result: Any
            try:
                if kind == "make":
                    envs = _make_envs(warnings, *payload)
                    result = [(env.observation_space, env.action_space) for env in envs]
                else:
                    result = [_call(*pair) for pair in zip(envs, payload, strict=True)]
            except EnvError as error:
                result = error
            try:
                answer = ForkingPickler.dumps((number, result, warnings))
            except Exception as error:
                failure = EnvError("returned what cannot be sent", envs[0].index, error)
                answer = ForkingPickler.dumps((number, failure, warnings))
            connection.send_bytes(answer)
            warnings.clear()
    for env in envs:
        env.close()


def end_with_parent() -> None:
    """Kill this process group when standard input ends, which is when the parent process has."""
    while os.read(0, 1):
        pass
    if hasattr(os, "killpg"):  # not on Windows
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_group(process: subprocess.Popen, seconds: float | None = None) -> int:
    """Wait for a process to end, kill it and all it has started, and return its exit code.

    Args:
        process: A process that leads its group. On Windows, only the process itself is killed.
        seconds: How long to wait. None: until it ends.
    """
    try:
        _wait(process, seconds)
    finally:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # macOS: all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        code = process.wait()
    return code


def _wait(process: subprocess.Popen, seconds: float | None) -> None:
    if not hasattr(os, "waitid"):  # on Windows, and on macOS before Python 3.13
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return
    # Without reaping it, so that its group id cannot be reused before the group is killed.
    with suppress(ChildProcessError):
        if seconds is None:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            return
        deadline = time.monotonic() + seconds
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.002)


def _make_envs(
    warnings: list[str], indices: list[int], serialized: bytes, on_error: str, again: bool
) -> list[SupervisedEnv]:
    """Make the environments; ``again`` if an earlier process has died while it played in them."""
    build = build_env(lambda: ForkingPickler.loads(serialized), indices[0])
    failures = Failures(on_error, warnings.append)
    envs: list[SupervisedEnv] = []
    for index in indices:
        env = build_env(build, index, failures if again else None)
        try:
            check_new(env, envs)
        except ValueError as error:
            raise EnvError("could not be made", index, error) from error
        envs.append(SupervisedEnv(env, index, build, failures))
        if again:
            envs[-1].idle()
    return envs


def _call(env: SupervisedEnv, call: Call | None) -> Any:
    if call is None:
        return None
    name, args, kwargs = call
    try:
        attribute = env.get_wrapper_attr(name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"could not call {name!r}", env.index, error) from error
