"""Playing in other processes: the messages, the workers that answer them, and the collector.

A run's N environments are divided into shares of consecutive environments. For each fragment or
round of episodes, each share has one `Request`, which any worker can answer. The answer contains
the trajectories and the resulting state. So if a worker dies, another one repeats its request from
the previous state, with the same result.
"""

from __future__ import annotations

import socket
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tfpg.core.arrays import map_arrays
from tfpg.core.messages import warn
from tfpg.envs import EnvLike, make_vec
from tfpg.errors import EnvDataError
from tfpg.models.policy import Actor, Policy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.env_state import with_earlier
from tfpg.rollouts.player import Fragment, Player
from tfpg.rollouts.trajectory import Columns, Trajectory


class Share(NamedTuple):
    """Consecutive environments of a run, assigned to one worker."""

    first: int  # index of its first environment
    size: int


class Request(NamedTuple):
    """A call of a method of the `Player` of a share."""

    share: Share
    total: int  # the number of environments in the run
    seed: int
    begun: int  # see `Player`
    number: int  # requests for the share before this one
    state: dict[str, Any] | None  # of the player before the call
    method: str  # "episodes" or "steps"; "": only restore the state
    arguments: tuple  # after the actor


class Answer(NamedTuple):
    """The answer to a `Request`."""

    result: Any  # of the method, or the exception that it raised
    state: dict[str, Any] | None  # of the player after the call, with the actions that are new
    lost: np.ndarray | None  # [n] bool  environments that could not be restored before the call
    warnings: list[str]
    host: str  # name of the computer
    seconds: float  # time to answer, excluding transfer


class Team(Protocol):
    """Workers that answer requests, in other processes."""

    shares: int  #: the number of shares

    def answers(self, requests: Sequence[Request], actor: Any) -> list[Answer]:
        """Return the answer to each request. All requests use the same actor."""

    def close(self) -> None:
        """End the workers."""


class Host:
    """Answers requests in a worker process.

    Args:
        make: Makes a vector environment from the index of its first environment and the number of
            environments.
    """

    def __init__(self, make: Callable[[int, int], VectorEnv]):
        self._make = make
        # the players, and how many requests each has answered
        self._players: dict[Share, tuple[int, Player]] = {}

    def answer(self, request: Request, actor: Actor) -> Answer:
        """Answer a request."""
        start = time.perf_counter()
        result, state, lost = None, None, None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                player, lost = self._player_for(request)
                if request.method:
                    result = getattr(player, request.method)(actor, *request.arguments)
                    lost = None if lost is None or not lost.any() else lost
                # A full state replaces the driver's if it was restored with losses.
                state = player.get_state(new=True)
                self._players[request.share] = request.number + 1, player
            except Exception as error:
                self._forget(request.share)
                if isinstance(error, EnvDataError):  # which counts the environments of the share
                    env = request.share.first + error.env
                    error = EnvDataError(error.what, env, error.step, error.when)
                result = _sendable(error)
        texts = [str(each.message) for each in caught if each.category is not DeprecationWarning]
        seconds = time.perf_counter() - start
        return Answer(result, state, lost, texts, socket.gethostname(), seconds)

    def _player_for(self, request: Request) -> tuple[Player, np.ndarray | None]:
        """The share's player in the state before the request, and the environments it lost."""
        number, player = self._players.get(request.share, (None, None))
        if player is not None and number == request.number and request.state is None:
            return player, None
        self._forget(request.share)
        envs = self._make(*request.share)
        player = Player(envs, request.seed, request.share.first, request.total, request.begun)
        self._players[request.share] = request.number, player
        if request.state is None:
            if request.number:
                raise RuntimeError(f"A request for {request.share} needs the state before it.")
            player.follow()
            return player, None
        lost = player.set_state(request.state)
        return player, lost

    def _forget(self, share: Share) -> None:
        _, player = self._players.pop(share, (0, None))
        if player is not None:
            player.envs.close()


def _sendable(error: Exception) -> Exception:
    """The exception, or a description of it if it cannot be sent, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, OSError):
        error.add_note(f"In another process:\n{text}")
    return error


class RemoteEnvs(VectorEnv):
    """A stand-in for environments in which a `Team` plays.

    Args:
        env: An id or a callable.
        num_envs: N.
        team: The team. Closing this closes it too.
    """

    def __init__(self, env: EnvLike, num_envs: int, team: Team):
        self._template = make_vec(env, 1, manual_resets=True)
        one: Any = self._template
        self.envs = getattr(one.unwrapped, "envs", [])
        self.frame_stack = getattr(one, "frame_stack", None)
        self.spec, self.num_envs, self.team = one.spec, num_envs, team
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = one.single_observation_space
        self.single_action_space = one.single_action_space

    def close_extras(self, **kwargs: Any) -> None:
        try:
            self.team.close()
        finally:
            self._template.close()


class RemoteCollector(Collector):
    """A collector that lets a `Team` play.

    It returns the same data as a `Collector` in this process.

    Args:
        envs: The `RemoteEnvs`.
        seed: See `Collector`.
        episode: See `Collector`.
        fragment: See `Collector`.
        window: See `Collector`.
    """

    envs: RemoteEnvs

    def __init__(
        self, envs: VectorEnv, seed: int, episode: int = 0, fragment: int = 0, window: int = 100
    ):
        super().__init__(envs, seed, episode, fragment, window)
        self._begun = episode
        parts = np.array_split(np.arange(envs.num_envs), min(self.envs.team.shares, envs.num_envs))
        self._shares = [Share(int(part[0]), len(part)) for part in parts]
        self._numbers = [0] * len(parts)
        self._states: list[dict[str, Any] | None] = [None] * len(parts)
        self._seen_warnings: set[str] = set()

    def follow(self) -> None:
        """Do nothing: the positions are always known."""

    @property
    def is_known(self) -> bool:
        """Whether the workers have reported their positions."""
        return None not in self._states

    def get_state(self) -> dict[str, Any]:
        states = [each or {} for each in self._states]
        return {**self.counts(), "player": merged(states)}

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        self.restore_counts(state)
        self._states = [part_of(state["player"], share) for share in self._shares]
        return np.concatenate([each.lost for each in self._answers(None, "")])

    def _actor(self, policy: Policy, weights: Sequence[np.ndarray] | None) -> Actor:
        return policy.portable_actor(weights)

    def _play_episodes(self, actor: Any, *arguments: Any) -> list[Columns]:
        return [x for each in self._answers(actor, "episodes", *arguments) for x in each.result]

    def _play_steps(self, actor: Any, *arguments: Any) -> list[Fragment]:
        found = []
        for each in self._answers(actor, "steps", *arguments):
            fragment = each.result
            if each.lost is not None:
                indices, data = fragment.played
                fragment = fragment._replace(played=Columns(indices, broken(data, each.lost)))
            found.append(fragment)
        return found

    def _answers(self, actor: Any, method: str, *arguments: Any) -> list[Any]:
        total = self.envs.num_envs
        requests = [
            Request(share, total, self.seed, self._begun, number, state, method, arguments)
            for share, number, state in zip(self._shares, self._numbers, self._states, strict=True)
        ]
        answers = self.envs.team.answers(requests, actor)
        for text in dict.fromkeys(x for each in answers for x in each.warnings):
            if text not in self._seen_warnings:
                self._seen_warnings.add(text)
                warn(text)
        errors = [each.result for each in answers if isinstance(each.result, Exception)]
        if errors:
            raise min(errors, key=lambda error: getattr(error, "env", -1))
        for i, each in enumerate(answers):
            before = self._states[i]
            self._numbers[i] += 1
            assert each.state is not None
            if "position" in each.state:
                earlier = None if before is None else before.get("position")
                position = with_earlier(each.state["position"], earlier)
                each.state["position"] = position
            self._states[i] = each.state
        return answers


def broken(data: Trajectory, lost: np.ndarray) -> Trajectory:
    """Return a fragment with a masked row at the start of the ``lost`` columns (``[n]`` bool).

    Example:
        >>> zeros, ones = np.zeros((2, 2)), np.ones((2, 2))
        >>> data = Trajectory(np.ones((3, 2)), zeros, ones, zeros, zeros, ones, zeros)
        >>> broken(data, np.array([False, True])).mask.tolist()
        [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    """

    def moved(x: np.ndarray, pads: bool = False) -> np.ndarray:
        later, end = (x[:1], x[-1:]) if pads else (np.zeros_like(x[:1]), np.zeros_like(x[:1]))
        where = lost.reshape(1, -1, *[1] * (x.ndim - 2))
        return np.where(where, np.concatenate([later, x]), np.concatenate([x, end]))

    observations = map_arrays(lambda x: moved(x, pads=True), data.observations)
    return Trajectory(observations, *map(moved, data[1:]))


def part_of(state: Mapping[str, Any], share: Share) -> dict[str, Any]:
    """Return the part of a player's state that belongs to a share.

    Example:
        >>> part_of({"seeds": [5, 6, 7], "held_for": 2}, Share(1, 2))
        {'seeds': [6, 7], 'held_for': 2}
    """
    which = slice(share.first, share.first + share.size)

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return part_of(value, share)
        return value[which] if isinstance(value, (list, np.ndarray)) else value

    return {name: part(value) for name, value in state.items()}


def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of several players into the state of one.

    Example:
        >>> merged([{"seeds": [5], "held_for": 2}, {"seeds": [6, 7], "held_for": 2}])
        {'seeds': [5, 6, 7], 'held_for': 2}
    """

    def joined(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict):
            return merged(values)
        if isinstance(first, np.ndarray):
            return np.concatenate(values)
        return list(chain(*values)) if isinstance(first, list) else first

    # A player that has not played yet does not know its position.
    names = [name for name in states[0] if all(name in state for state in states)]
    return {name: joined([state[name] for state in states]) for name in names}
