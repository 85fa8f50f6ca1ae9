"""Ray actors that play, on this machine or in a cluster."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import gymnasium
from gymnasium.vector import VectorEnv

from tfpg.core.messages import one_line, warn
from tfpg.core.options import checked, count, one_of, optional, positive
from tfpg.envs import EnvLike, is_atari, make_vec
from tfpg.envs.supervised import MAX_FAILURES, ON_ENV_ERROR, build_env
from tfpg.envs.watchdog import Watchdog
from tfpg.envs.worker_process import serialize
from tfpg.errors import ClusterLostError, EnvWorkerDied
from tfpg.rollouts.remote import Answer, Host, RemoteEnvs, Request, Share

# Seconds to wait for workers to start, and for a lost worker to be replaced before another one
# takes over its environments.
_START_SECONDS, _PATIENCE = 120.0, 5.0
_HEAD_SECONDS = 5.0  # between checks that the head node is reachable
_LONGEST_FOLDER = 24  # characters: a socket path has at most 107, and Ray and a name add 82
_KILLED = "died: it crashed, was killed, or ran out of memory"


@dataclass(frozen=True)
class RayWorkers:
    """Play in Ray actors, on this machine or in a cluster. Pass it to ``agent.fit(workers=...)``.

    Each worker plays in an equal share of the agent's ``num_envs`` environments. The trained
    weights do not depend on the number of workers. If a worker or a node is lost, another worker
    repeats its request, with the same result.

    Args:
        num_workers: Number of actors.
        address: Address of a Ray cluster: ``"auto"`` on one of its nodes, or
            ``"ray://HOST:10001"``. None: start Ray on this machine for the training run, reachable
            only from this machine.
        cpus_per_worker: CPUs that Ray reserves for an actor.
        timeout: Seconds after which an environment that has not returned is considered hung and its
            worker is replaced. Making one may take two minutes, if that is longer. None: never.
        on_env_error: What happens if an environment raises an exception: ``"raise"``,
            ``"restart"`` or ``"drop"``; see `tfpg.envs.make_vec`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> RayWorkers(64, address="auto").num_workers
        64
    """

    num_workers: int
    address: str | None = None
    cpus_per_worker: float = 1.0
    timeout: float | None = None
    on_env_error: str = "raise"

    def __post_init__(self) -> None:
        checked("num_workers", self.num_workers, count)
        checked("cpus_per_worker", self.cpus_per_worker, positive)
        checked("timeout", self.timeout, optional(positive))
        checked("on_env_error", self.on_env_error, one_of(*ON_ENV_ERROR))

    @contextmanager
    def open(self, env: EnvLike, num_envs: int) -> Iterator[RemoteEnvs]:
        """Open ``num_envs`` environments in which the workers play, for a ``with`` statement.

        Args:
            env: An environment id, or a callable that makes an environment.
            num_envs: Number of environments.

        Raises:
            ImportError: Ray is not installed.
            TypeError: The environments cannot be made in another process.
            ConnectionError: There is no cluster at the address.
            RuntimeError: No worker could be started.
        """
        made = isinstance(env, (gymnasium.Env, VectorEnv))
        if made or not (isinstance(env, str) or callable(env)):
            raise TypeError(
                "Workers make their own environments: pass an id or a callable instead of an "
                f"environment, got {type(env).__name__}."
            )
        with ExitStack() as stack:
            stack.enter_context(connected(self))
            team = RayTeam(self, env, min(self.num_workers, num_envs))
            stack.callback(team.close)
            envs = RemoteEnvs(env, num_envs, team)
            stack.callback(envs.close)
            yield envs


@contextmanager
def connected(workers: RayWorkers) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, for a ``with`` statement.

    If the caller is already connected, that connection is used.
    """
    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        ray = _imported_ray(stack, workers.address is None)
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {
            "configure_logging": False,
            "logging_level": "error",
            "log_to_driver": False,
        }
        if workers.address is None:
            folder = stack.enter_context(_session_folder())
            options |= {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": math.ceil(workers.num_workers * workers.cpus_per_worker),
                "num_gpus": 0,
                "_temp_dir": folder,
            }
        else:
            options["address"] = workers.address
        # Else it logs messages about authentication.
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            ray.init(**options)
        except (ConnectionError, ValueError) as error:
            raise ConnectionError(
                f"Cannot connect to a Ray cluster at {workers.address!r}: {one_line(error, 300)}. "
                "Start one with ray start --head, or omit the address."
            ) from error
        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
        yield


def _imported_ray(stack: ExitStack, local: bool) -> Any:
    """Import Ray, with the settings that it reads from environment variables on import."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if local:
        settings |= {
            "RAY_AUTH_TOKEN": _token(),  # else Ray writes one to the home folder
            # Ray then listens only on the loopback address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    before = {name: os.environ.get(name) for name in settings}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    stack.callback(_restore, before)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ImportError(f"RayWorkers needs Ray: pip install 'tfpg[ray]' ({error})") from error
    return ray


@contextmanager
def _session_folder() -> Iterator[str]:
    """Create the folder of a local cluster, and remove folders left by killed processes.

    By default, Ray uses a folder in /tmp and never removes it. It gives everyone access to its
    folder, so the folder above it is private.
    """
    import fcntl

    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > _LONGEST_FOLDER:
        parent = Path("/tmp")
    for left in parent.glob("tfpg-ray-*"):
        with suppress(OSError), (left / "lock").open("r+b") as lock:  # not if it is in use
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="tfpg-ray-", dir=parent)
    try:
        with Path(folder, "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(Path(folder, "r"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _token() -> str:
    """The secret of clusters that this process starts. Ray reads it only once."""
    return secrets.token_hex(32)


def _restore(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Worker:
    """A Ray actor that answers requests.

    Args:
        env: An environment id, or a callable that was serialized.
        spec: The id's registration, serialized, or None.
        on_env_error: See `RayWorkers`.
        timeout: See `RayWorkers`.
        reports: A handle of `Reports`, if there is a timeout.
        path: Folders to append to ``sys.path``.
    """

    def __init__(
        self,
        env: str | bytes,
        spec: bytes | None,
        on_env_error: str,
        timeout: float | None,
        reports: Any,
        path: Sequence[str],
    ):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # GPUs are for learning
        sys.path.extend(folder for folder in path if folder not in sys.path)
        if spec is not None:  # perhaps only the driver has registered it
            registered = ForkingPickler.loads(spec)
            gymnasium.registry[registered.id] = registered
        watchdog = None
        if timeout is not None:
            import ray

            watchdog = Watchdog(timeout, lambda error: ray.get(reports.put.remote(error)))
        self._host = Host(partial(_make, env, on_env_error, watchdog))

    def host(self) -> str:
        """Return the name of the computer."""
        return socket.gethostname()

    def answer(self, request: Request, actor: Any) -> Answer:
        return self._host.answer(request, actor)


def _make(
    env: Any, on_env_error: str, watchdog: Watchdog | None, first: int, size: int
) -> VectorEnv:
    options: dict[str, Any] = {
        "manual_resets": True,
        "on_env_error": on_env_error,
        "first_index": first,
    }
    limit = size * _START_SECONDS
    with nullcontext() if watchdog is None else watchdog.call(first, at_least=limit):
        if isinstance(env, bytes):
            env = build_env(partial(ForkingPickler.loads, env), first)
        envs: Any = make_vec(env, size, **options)
    if watchdog is not None and hasattr(envs, "envs"):  # not Atari games, which do not hang
        watchdog.watch(envs)
    return envs


class Reports:
    """A Ray actor that stores the errors that workers report before they exit."""

    def __init__(self) -> None:
        self._errors: list[EnvWorkerDied] = []

    def put(self, error: EnvWorkerDied) -> None:
        self._errors.append(error)

    def take(self, first: int, size: int) -> EnvWorkerDied | None:
        """Return the last error of some environments, and delete their errors."""
        found = [x for x in self._errors if first <= x.env < first + size]
        self._errors = [x for x in self._errors if x not in found]
        return found[-1] if found else None


class _Place:
    """A place in the team: an actor, or its replacement while it starts."""

    def __init__(self, start: Callable[[], Any]):
        self._start = start
        self.tasks = 0
        self.name = ""
        self.failures = 0  # failed starts in a row
        self.restart()

    def restart(self) -> None:
        self.actor = self._start()
        self.starting: Any = self.actor.host.remote()  # None: it has started
        self.since = time.monotonic()

    @property
    def ready(self) -> bool:
        return self.starting is None


class RayTeam:
    """Ray actors that answer requests. Lost ones are replaced.

    Args:
        workers: The settings.
        env: An environment id, or a callable that makes an environment.
        shares: The number of actors.

    Raises:
        RuntimeError: No actor could be started.
        TypeError: ``env`` cannot be sent.
    """

    def __init__(self, workers: RayWorkers, env: EnvLike, shares: int):
        import ray

        self._ray, self.shares = ray, shares
        self._deaths: Counter[Share] = Counter()  # in a row
        self._has_warned = False
        self._head = _head_address(ray, workers.address)
        self._head_seen = time.monotonic()
        spec, sent = None, cast(Any, env)
        if not isinstance(env, str):
            sent = serialize(sent)
        elif not is_atari(env):
            with suppress(gymnasium.error.Error):
                spec = bytes(ForkingPickler.dumps(gymnasium.spec(env.partition("?")[0])))
        reports: Any = None
        if workers.timeout is not None:
            here = ray.get_runtime_context().get_node_id()
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                here, soft=True
            )
            reports = ray.remote(num_cpus=0)(Reports)
            reports = reports.options(scheduling_strategy=strategy).remote()
        self._reports = reports
        kind = ray.remote(num_cpus=workers.cpus_per_worker, max_restarts=0)(Worker)
        kind = kind.options(scheduling_strategy="SPREAD")
        arguments = sent, spec, workers.on_env_error, workers.timeout, reports, sys.path
        self._places = [_Place(lambda: kind.remote(*arguments)) for _ in range(shares)]
        # share -> its actor, and how many requests it has answered
        self._has: dict[Any, tuple[Any, int]] = {}
        self._wait_for_start()

    def answers(self, requests: Sequence[Request], actor: Any) -> list[Answer]:
        """Return the answer to each request, each from any available actor.

        Raises:
            EnvWorkerDied: The actors of some environments died too many times in a row.
            ClusterLostError: The head node is lost.
        """
        ray, answers = self._ray, dict[int, Answer]()
        reference = ray.put(actor)
        waiting = {i: time.monotonic() for i in range(len(requests))}
        running: dict[Any, tuple[int, _Place, Any]] = {}
        while len(answers) < len(requests):
            if not running and time.monotonic() - min(waiting.values()) > _START_SECONDS:
                waiting = dict.fromkeys(waiting, time.monotonic())
                warn("No Ray worker is left, and none could be started yet. Waiting for a node.")
            for i in list(waiting):
                place = self._place_for(i, waiting[i])
                if place is not None:
                    del waiting[i]
                    place.tasks += 1
                    sent = self._request(requests[i], place)
                    done = place.actor.answer.remote(sent, reference)
                    running[done] = i, place, place.actor
            for done in self._next_done(running):
                i, place, asked = running.pop(done)
                place.tasks -= 1
                try:
                    answers[i] = ray.get(done)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError as error:
                    self._lost(place, asked, requests[i], error)
                    waiting[i] = time.monotonic()
                else:
                    share, number = requests[i].share, requests[i].number
                    self._has[share] = asked, number + 1
                    if isinstance(answers[i].result, Exception):
                        del self._has[share]
                    del self._deaths[share]
        return [answers[i] for i in range(len(requests))]

    def close(self) -> None:
        for place in self._places:
            with suppress(Exception):
                self._ray.kill(place.actor)
        if self._reports is not None:
            with suppress(Exception):
                self._ray.kill(self._reports)

    def _request(self, request: Request, place: _Place) -> Request:
        """The request without the state, if the actor has it."""
        actor, number = self._has.get(request.share, (None, None))
        if actor is place.actor and number == request.number and request.method:
            return request._replace(state=None)
        return request

    def _place_for(self, i: int, since: float) -> _Place | None:
        """The place to send a request to: its own or, after a delay, any that is ready."""
        own = self._places[i]
        if own.ready:
            return own
        late = time.monotonic() - since > _PATIENCE or time.monotonic() - own.since > _PATIENCE
        others = [place for place in self._places if place.ready]
        return min(others, key=lambda place: place.tasks) if late and others else None

    def _next_done(self, running: dict[Any, Any]) -> list[Any]:
        """Wait up to a second, and return the requests that are done."""
        ray = self._ray
        starting = {place.starting: place for place in self._places if not place.ready}
        pending = [*running, *starting]
        done, rest = ray.wait(pending, num_returns=1, timeout=1.0)
        if rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        self._check_head()
        for reference in [x for x in done if x in starting]:
            place = starting[reference]
            try:
                place.name, place.starting = ray.get(reference), None
                place.failures = 0
            except ray.exceptions.RayError as error:
                place.failures += 1
                if place.failures > MAX_FAILURES:
                    raise RuntimeError(
                        f"Ray workers cannot be started: {one_line(error, 400)}. The nodes need "
                        "the same versions of Python, Ray and tfpg."
                    ) from error
                place.restart()
        return [x for x in done if x in running]

    def _lost(self, place: _Place, asked: Any, request: Request, cause: Exception) -> None:
        """Replace the actor that was asked, and warn about it or raise."""
        first, size = request.share
        error: EnvWorkerDied | None = None
        if self._reports is not None:
            with suppress(self._ray.exceptions.RayError):
                found = self._reports.take.remote(first, size)
                error = self._ray.get(found, timeout=_PATIENCE)
        if error is None:
            envs, unknown = range(first, first + size), [None] * size
            kinds = self._ray.exceptions
            died = kinds.RayActorError, kinds.NodeDiedError, kinds.OutOfMemoryError
            end = _KILLED if isinstance(cause, died) else f"failed: {one_line(cause, 200)}"
            error = EnvWorkerDied(envs, None, unknown, unknown, unknown, end=end)
        error.at_host(place.name)
        if place.actor is asked:  # else it is already being restarted
            place.restart()
        self._deaths[request.share] += 1
        if self._deaths[request.share] > MAX_FAILURES:
            error.advise(self._deaths[request.share])
            raise error from cause
        if not self._has_warned:
            self._has_warned = True
            warn(
                f"{error} Another worker repeats the request, with the same result. This warning "
                f"is shown once; more than {MAX_FAILURES} failures in a row raise an error."
            )

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not all(place.ready for place in self._places):
            self._next_done({})
            if time.monotonic() > deadline:
                break
        ready = sum(place.ready for place in self._places)
        if ready < self.shares:
            cpus = self._ray.cluster_resources().get("CPU", 0)
            text = (
                f"Only {ready} of {self.shares} Ray workers could be started within "
                f"{_START_SECONDS:g} s: the cluster has {cpus:g} CPUs."
            )
            if not ready:
                raise RuntimeError(f"{text} Add nodes, or use fewer workers.")
            warn(f"{text} They also run the environments of the missing workers.")

    def _check_head(self) -> None:
        """Raise an error if the head node is lost, before Ray ends this process."""
        if self._head is None or time.monotonic() - self._head_seen < _HEAD_SECONDS:
            return
        for pause in (1.0, 2.0, 0.0):
            with suppress(OSError), socket.create_connection(self._head, timeout=_HEAD_SECONDS):
                self._head_seen = time.monotonic()
                return
            time.sleep(pause)
        raise ClusterLostError(
            f"The head node of the Ray cluster, {':'.join(map(str, self._head))}, is lost. Start a "
            "cluster, and resume the training from its last checkpoint."
        )


def _head_address(ray: Any, address: str | None) -> tuple[str, int] | None:
    """The address of the head node, to check that it is reachable."""
    if address is not None and address.startswith("ray://"):
        parts = urlsplit(address)
    else:
        parts = urlsplit(f"//{ray.get_runtime_context().gcs_address}")
    return None if parts.hostname is None or parts.port is None else (parts.hostname, parts.port)
