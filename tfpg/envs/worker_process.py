"""What a worker process does: it plays in its share of the environments as it is told.

The process is started with ``python -c``, not forked, because TensorFlow hangs in a forked process,
and not by `multiprocessing`, which would run the user's script a second time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium

from tfpg.envs.supervised import Parked, built
from tfpg.errors import EnvError


def command_line(connection: Connection) -> list[str]:
    """What starts a process that serves at the other end of this connection."""
    serve = f"from tfpg.envs.worker_process import serve; serve({connection.fileno()})"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"]


def packed(build: Callable[[], gymnasium.Env]) -> bytes:
    """A callable as it travels to a worker.

    Raises:
        TypeError: It cannot.
    """
    from gymnasium.vector.utils import CloudpickleWrapper

    try:
        return bytes(ForkingPickler.dumps(CloudpickleWrapper(build)))
    except Exception as error:
        raise TypeError(
            f"{build!r} cannot be sent to a worker process: {error}. What it refers to must be "
            "picklable: open files, windows and connections inside it."
        ) from error


def serve(descriptor: int) -> None:
    """Answers commands ``(number, name, one argument for each environment)`` until the end.

    An answer is ``(number, results, what is to be said)``, with an `EnvError` in place of the
    result of each environment where one raised it.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    envs: list[Parked] = []
    indices: list[int] = []
    said: list[str] = []
    try:
        while True:
            number, name, arguments = connection.recv()
            if name == "close":
                break
            results: Any = []
            try:
                if name == "make":
                    indices = arguments[0]
                    envs = _made(said, *arguments)
                    results = [(env.observation_space, env.action_space) for env in envs]
                else:
                    for env, argument in zip(envs, arguments, strict=True):
                        results.append(_COMMANDS[name](env, argument))
            except EnvError as error:
                results = error
            except Exception as error:
                results = EnvError(f"could not {name}", indices[len(results)], error)
            try:
                answer = ForkingPickler.dumps((number, results, said))
            except Exception as error:
                failure = EnvError("gave what cannot be sent", indices[0], error)
                answer = ForkingPickler.dumps((number, failure, said))
            connection.send_bytes(answer)
            said.clear()
    except (EOFError, ConnectionError):  # the parent is gone
        pass
    for env in envs:
        env.close()


def _made(
    said: list, indices: list[int], build: bytes, on_error: str, resting: bool
) -> list[Parked]:
    unpacked = built(lambda: ForkingPickler.loads(build), indices[0])
    envs = []
    for index in indices:
        envs.append(Parked(built(unpacked, index), index, unpacked, on_error, said.append))
        if resting:
            envs[-1].rest()
    return envs


def _reset(env: Parked, how: tuple | None) -> Any:
    return None if how is None else env.reset(seed=how[0], options=how[1])


def _call(env: Parked, how: tuple) -> Any:
    name, args, kwargs = how
    attribute = env.get_wrapper_attr(name)
    return attribute(*args, **kwargs) if callable(attribute) else attribute


_COMMANDS: dict[str, Callable[[Parked, Any], Any]] = {
    "step": Parked.step,
    "reset": _reset,
    "call": _call,
    "set": lambda env, pair: env.set_wrapper_attr(*pair),
}


def _end_with_parent() -> None:
    """Standard input ends with the process that started this one, however that ended."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
