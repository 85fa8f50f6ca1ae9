"""Playing at random in an environment that may be broken: what it does wrong is noted, not raised.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers

from tfpg.checks.contracts import (
    PROBLEM,
    WARNING,
    Fault,
    Moment,
    describe_error,
    fingerprint,
    observation_faults,
    reset_faults,
    reward_faults,
    step_faults,
)

# What an environment may raise: SystemExit is sys.exit()'s.
ERRORS = (Exception, SystemExit)
# After so many of them it is not played on.
_ENOUGH = 10
# Wrappers that only look, raise, and count steps, which is done here.
_PEELED = (wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)


class TimeIsUp(BaseException):
    """Nothing more is called."""


class Unplayable(Exception):
    """What came back cannot be understood, which has been noted."""


class Watch:
    """The time there is for everything, and what is being called now.

    Example:
        >>> watch = Watch(seconds=10)
        >>> watch.call("adding", sum, [1, 2]), watch.late()
        (3, None)
    """

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds
        self._calling: tuple[str, Moment | None, float] | None = None

    def left(self) -> float:
        """Seconds; below 0 when they are over."""
        return self.end - time.monotonic()

    def call(self, what: str, function: Callable, *args: Any, at: Moment | None = None, **kw: Any):
        """What the function returns.

        Raises:
            TimeIsUp: The function has not been called.
        """
        now = time.monotonic()
        if now >= self.end:
            raise TimeIsUp
        outer, self._calling = self._calling, (what, at, now)
        try:
            return function(*args, **kw)
        finally:
            self._calling = outer

    def late(self) -> tuple[str, str, float] | None:
        """What is being called, where, and for how many seconds by now."""
        if (calling := self._calling) is None:
            return None
        what, at, since = calling
        return what, f" ({at.where()})" if at else "", time.monotonic() - since


class Findings:
    """Faults, those of a kind together.

    Example:
        >>> findings = Findings()
        >>> for step in range(3):
        ...     findings.add("rewards", [Fault(PROBLEM, "finite", "nan")], Moment(0, step))
        >>> findings.of("rewards")
        [('problem', 'nan (step 0, seed 0, and 2 times more)')]
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list] = {}

    def add(self, what: str, faults: Any, at: Moment | None = None) -> None:
        for fault in faults:
            entry = self._found.setdefault((what, fault.kind), [fault, at, 0])
            entry[2] += 1

    def of(self, what: str) -> list[tuple[str, str]]:
        """Verdict and detail of each kind."""
        return [
            (fault.verdict, f"{fault.detail}{_where(at, count)}")
            for (name, _), (fault, at, count) in list(self._found.items())
            if name == what
        ]


def _where(at: Moment | None, count: int) -> str:
    if at is None:
        return ""
    more = f", and {count - 1:,} time{'s' * (count > 2)} more" if count > 1 else ""
    return f" ({at.where()}{more})"


@dataclass
class Walk:
    """Random steps, and what was seen on the way.

    Attributes:
        moments: Every reset and step.
        steps: How many steps there were.
        lengths: Of the episodes that ended.
        truncated: How many of them by a truncation.
        resets: That gave an observation.
        errors: What the environment raised.
        cut: Time was up before all steps were made.
        rewards: Lowest and highest.
        observed: Lowest and highest number.
        real: Among them are real ones.
    """

    moments: list[Moment] = field(default_factory=list)
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0
    resets: int = 0
    errors: int = 0
    cut: bool = False
    rewards: tuple[float, float] = (math.inf, -math.inf)
    observed: tuple[float, float] = (math.inf, -math.inf)
    real: bool = False

    def see(self, observation: Any) -> None:
        for part in observation.values() if isinstance(observation, dict) else [observation]:
            x = np.asarray(part)
            if x.dtype.kind in "biuf" and x.size:
                low, high = self.observed
                self.real |= x.dtype.kind == "f"
                self.observed = min(low, float(x.min())), max(high, float(x.max()))

    def gain(self, reward: Any) -> None:
        if isinstance(reward, (int, float, np.number)) and math.isfinite(reward):
            low, high = self.rewards
            self.rewards = min(low, float(reward)), max(high, float(reward))


class Tried:
    """An environment that is called as if it were well, whose mistakes are noted.

    Args:
        env: The environment. Its outermost wrappers are left away that would stumble over mistakes.
        watch: Has the time.
        findings: Where mistakes are noted.

    Attributes:
        limit: Steps after which an episode is truncated, or None.
    """

    def __init__(self, env: gymnasium.Env, watch: Watch, findings: Findings):
        self.watch, self.findings = watch, findings
        self.limit = time_limit(env)
        while isinstance(env, _PEELED):
            env = env.env
        self.env = env
        self._last: tuple[Any, Any, Moment] | None = None

    def reset(self, at: Moment) -> Any:
        """The first observation of an episode with the moment's seed."""
        known = accepts(self.env, "seed")
        if not known:
            told = "it takes no seed=: def reset(self, *, seed=None, options=None)"
            self.findings.add("reset", [Fault(PROBLEM, "seed", told)])
        seed = {"seed": at.seed} if known else {}
        result = self.watch.call("reset", self.env.reset, at=at, **seed)
        self.findings.add("reset", reset_faults(result), at)
        return self._seen(result[0] if isinstance(result, tuple) and result else result, at)

    def step(self, action: Any, at: Moment) -> tuple[Any, Any, bool, bool]:
        """Observation, reward, terminated, truncated.

        Raises:
            Unplayable: It returned nothing like them.
        """
        result = self.watch.call("step", self.env.step, action, at=at)
        self.findings.add("step", step_faults(result), at)
        if not isinstance(result, (tuple, list)) or len(result) < 4:
            raise Unplayable
        observation, reward, terminated = self._seen(result[0], at), result[1], bool(result[2])
        self.findings.add("rewards", reward_faults(reward), at)
        ran_out = self.limit is not None and at.step is not None and at.step + 1 >= self.limit
        return observation, reward, terminated, ran_out or (len(result) > 4 and bool(result[3]))

    def _seen(self, observation: Any, at: Moment) -> Any:
        self.findings.add("observations", self._faults(observation), at)
        if self._last is not None:
            last, known, before = self._last
            if fingerprint(last) != known:
                told = "an observation is changed by what follows; tfpg copies it, do so too"
                self.findings.add("copies", [Fault(WARNING, "in place", told)], before)
        self._last = observation, fingerprint(observation), at
        return observation

    def _faults(self, observation: Any) -> list[Fault]:
        try:
            return list(observation_faults(self.env.observation_space, observation))
        except ERRORS as error:  # a space may be broken too
            return [Fault(PROBLEM, "space", describe_error(error))]


def walk(tried: Tried, seed: int, steps: int, seconds: float, out: Walk) -> None:
    """Random steps from resets with ``seed``, ``seed + 1``, ... until there were enough.

    Args:
        tried: Where.
        seed: Of the first episode, and of the actions: the same seed gives the same ones.
        steps: How many.
        seconds: How long at most.
        out: What is seen goes here, so that it is known wherever this ends.

    Raises:
        TimeIsUp: The watch's time is over.
    """
    until = time.monotonic() + seconds
    actions = _actions(tried.env.action_space, seed)
    for episode in itertools.count(seed):
        try:
            for _ in _episode(tried, actions, episode, out):
                if out.steps >= steps:
                    return
                if time.monotonic() >= until:
                    out.cut = True
                    return
        except Unplayable:
            return
        except ERRORS as error:
            at = Moment(episode, _following(out.moments, episode))
            place = "reset" if at.step is None else "step"
            told = describe_error(error)
            kind = f"{type(error).__name__} {told.rpartition('(')[2]}"
            tried.findings.add(place, [Fault(PROBLEM, kind, told)], at)
            out.moments.append(at._replace(end=type(error).__name__))
            out.errors += 1
            if out.errors >= _ENOUGH:
                return


def _episode(tried: Tried, actions: Iterator, seed: int, out: Walk) -> Iterator[Moment]:
    at = Moment(seed, None)
    observation = tried.reset(at)
    out.see(observation)
    out.resets += 1
    out.moments.append(at._replace(observation=fingerprint(observation)))
    yield at
    for t in itertools.count():
        at = Moment(seed, t)
        observation, reward, terminated, truncated = tried.step(next(actions), at)
        out.steps += 1
        out.see(observation)
        out.gain(reward)
        seen = fingerprint(observation), fingerprint(reward), (terminated, truncated)
        out.moments.append(Moment(seed, t, *seen))
        if terminated or truncated:
            out.lengths.append(t + 1)
            out.truncated += not terminated
        yield at
        if terminated or truncated:
            return


def _following(moments: list[Moment], seed: int) -> int | None:
    """The step that was being made: the one after an episode's last moment."""
    if not moments or moments[-1].seed != seed:
        return None
    last = moments[-1].step
    return 0 if last is None else last + 1


def _actions(space: gymnasium.Space, seed: int) -> Iterator[Any]:
    own = deepcopy(space)  # whose generator is seeded without a trace
    own.seed(seed)
    while True:
        yield own.sample()


def time_limit(env: gymnasium.Env) -> int | None:
    """After how many steps a wrapper truncates an episode.

    Example:
        >>> time_limit(gymnasium.make("CartPole-v1")), time_limit(gymnasium.make("Blackjack-v1"))
        (500, None)
    """
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def accepts(env: gymnasium.Env, name: str) -> bool:
    """Whether the environment's own ``reset`` takes an argument of this name.

    Example:
        >>> accepts(gymnasium.make("CartPole-v1"), "seed")
        True
    """
    parameters = inspect.signature(env.unwrapped.reset).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
