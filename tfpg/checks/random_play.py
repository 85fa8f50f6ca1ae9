"""Random steps in an environment that may be broken. Its mistakes are collected, not raised."""

from __future__ import annotations

import inspect
import itertools
import math
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import wrappers

from tfpg.checks.report import Row
from tfpg.core.messages import one_line
from tfpg.envs.action_masks import with_masks
from tfpg.envs.contracts import (
    ACTION_MASK,
    PROBLEM,
    WARNING,
    Issue,
    as_numbers,
    flat_mask,
    mask_choices,
    mask_issues,
    observation_issues,
    reset_issues,
    reward_issues,
    step_issues,
)
from tfpg.models.heads import heads_of

# The exceptions that an environment may raise. sys.exit() raises SystemExit.
ERRORS = (Exception, SystemExit)
_MAX_ERRORS = 10
# Inputs above this are large for a network.
_LARGE = 100.0


class Moment(NamedTuple):
    """A reset, whose step is None, or a step, with the values to compare between repetitions.

    Attributes:
        seed: Seed of the episode.
        step: Index of the step in the episode.
        observation: Its fingerprint.
        reward: Its fingerprint.
        end: ``(terminated, truncated)``, or the name of the exception.
    """

    seed: int
    step: int | None
    observation: Any = None
    reward: Any = None
    end: Any = None

    def __str__(self) -> str:
        return f"{'reset' if self.step is None else f'step {self.step}'}, seed {self.seed}"


class Findings:
    """Issues, grouped by their kind, and descriptions for where there is no issue.

    Example:
        >>> findings = Findings()
        >>> for step in range(3):
        ...     findings.add("rewards", [Issue(PROBLEM, "finite", "nan")], Moment(0, step))
        >>> findings.passed["rewards"] = "finite numbers"  # not shown
        >>> [row.detail for row in findings.rows(["observations", "rewards"])]
        ['nan (step 0, seed 0, and 2 more times)']
    """

    def __init__(self) -> None:
        self.passed: dict[str, str] = {}
        self._issues: dict[tuple[str, str], list[tuple[Issue, Moment | None]]] = {}

    def add(self, what: str, issues: Iterable[Issue], at: Moment | None = None) -> None:
        """Add the issues of a value."""
        for issue in issues:
            self._issues.setdefault((what, issue.kind), []).append((issue, at))

    def problems(self) -> set[str]:
        """Return the names of what has a problem."""
        return {
            what for (what, _), ((issue, _), *_) in self._issues.items() if issue.verdict == PROBLEM
        }

    def rows(self, order: Iterable[str]) -> Iterator[Row]:
        """Yield the rows of a report, in this order of what was checked."""
        for what in order:
            groups = [group for (name, _), group in self._issues.items() if name == what]
            for group in groups:
                issue, at = group[0]
                more = len(group) - 1
                times = f", and {more:,} more time{'s' * (more > 1)}" if more else ""
                place = f" ({at}{times})" if at else ""
                yield Row(what, issue.verdict, f"{issue.detail}{place}")
            if not groups and what in self.passed:
                yield Row(what, "ok", self.passed[what])


class RandomPlay:
    """Random steps in episodes with ``seed``, ``seed + 1`` and so on.

    Args:
        env: The environment.
        seed: Seed of the first episode, and of the actions.
        call: Calls a function of the environment: ``call(what, function, *args, at, **kwargs)``.
        findings: Where issues are added.

    Attributes:
        limit: Number of steps after which an episode is truncated, or None.
        moments: All resets and steps.
        lengths: Numbers of steps of the finished episodes.
        truncated: How many of these were truncated.
        steps: Number of steps.
        cut: Whether the time was up before all steps were made.
    """

    def __init__(self, env: gymnasium.Env, seed: int, call: Callable, findings: Findings):
        self.limit = None if env.spec is None else env.spec.max_episode_steps
        self.env = with_masks(peeled(env), new=True)
        self._choices = mask_choices(self.env.observation_space, self.env.action_space)
        self.moments: list[Moment] = []
        self.lengths: list[int] = []
        self.truncated = 0
        self.steps = 0
        self.cut = False
        self._seed, self._call, self._findings = seed, call, findings
        self._errors = 0
        self._rng = np.random.default_rng(seed)  # for actions that are valid
        self._at = Moment(seed, None)
        self._last: tuple[Any, Any, Moment] | None = None  # observation, fingerprint and moment
        self._rewards: list[float] = []
        self._low, self._high = math.inf, -math.inf  # of all observed numbers
        self._has_floats = False

    def run(self, steps: int, seconds: float) -> None:
        """Play this many steps, or for this many seconds. An error keeps the earlier findings."""
        until = time.monotonic() + seconds
        actions = _random_actions(self.env.action_space, self._seed)
        for seed in itertools.count(self._seed):
            try:
                for _ in self._episode(seed, actions):
                    self.cut = time.monotonic() >= until and self.steps < steps
                    if self.cut or self.steps >= steps:
                        return
            except ERRORS as error:
                what = "reset" if self._at.step is None else "step"
                self._findings.add(what, [error_issue(error)], self._at)
                self.moments.append(self._at._replace(end=type(error).__name__))
                self._errors += 1
            if self._errors >= _MAX_ERRORS:
                return

    def _episode(self, seed: int, actions: Iterator) -> Iterator[None]:
        at = self._at = Moment(seed, None)
        arguments = {"seed": seed} if accepts(self.env, "seed") else {}
        result = self._call("reset", self.env.reset, at=at, **arguments)
        self._findings.add("reset", reset_issues(result), at)
        observation = result[0] if isinstance(result, tuple) and result else result
        self._observe(observation)
        yield
        ended = False
        while not ended:
            t = 0 if at.step is None else at.step + 1
            at = self._at = Moment(seed, t)
            action = next(actions)
            if self._choices is not None:
                masks = flat_mask(observation[ACTION_MASK])[None]
                action = random_valid(self.env.action_space, masks, self._rng)[0]
            result = self._call("step", self.env.step, action, at=at)
            self._findings.add("step", step_issues(result), at)
            if not isinstance(result, (tuple, list)) or len(result) < 4:
                self._errors = _MAX_ERRORS  # there is nothing to play on with
                return
            observation, reward, terminated = result[0], result[1], bool(result[2])
            truncated = t + 1 == self.limit or (len(result) > 4 and bool(result[3]))
            self._findings.add("rewards", reward_issues(reward), at)
            if isinstance(reward, (int, float, np.number)) and math.isfinite(reward):
                self._rewards.append(float(reward))
            self.steps += 1
            self._observe(observation, reward, (terminated, truncated))
            ended = terminated or truncated
            if ended:
                self.lengths.append(t + 1)
                self.truncated += not terminated
            yield

    def _observe(self, x: Any, reward: Any = None, end: Any = None) -> None:
        """Check an observation, and that the previous one has not changed."""
        try:
            issues = list(observation_issues(self.env.observation_space, x))
            fits = all(issue.verdict != PROBLEM for issue in issues)
            if self._choices is not None and fits and not (end and end[0]):
                issues += mask_issues(self._choices, flat_mask(x[ACTION_MASK]))
        except ERRORS as error:  # of a space
            issues = [error_issue(error)]
        self._findings.add("observations", issues, self._at)
        if self._last is not None and fingerprint(self._last[0]) != self._last[1]:
            detail = "an observation changes after it is returned; tfpg copies it, and so must you"
            self._findings.add("copies", [Issue(WARNING, "in place", detail)], self._last[2])
        self._last = x, fingerprint(x), self._at
        self.moments.append(Moment(*self._at[:2], self._last[1], fingerprint(reward), end))
        for part in x.values() if isinstance(x, dict) else [x]:
            array = as_numbers(part)
            if array is not None and array.size:
                self._low = min(self._low, float(array.min()))
                self._high = max(self._high, float(array.max()))
                self._has_floats |= array.dtype.kind == "f"

    def summarize(self, steps: int) -> None:
        """Describe the observed values, for the rows without an issue.

        Args:
            steps: Number of steps that were wanted.
        """
        passed = self._findings.passed
        if not self.moments:
            return
        passed["reset"] = "returns (observation, info), takes seed= and options="
        passed["copies"] = "observations do not change after they are returned"
        passed["observations"] = "finite and in their space"
        if self._low <= self._high:
            large = self._has_floats and _LARGE < max(-self._low, self._high) < math.inf
            hint = ": networks with normalize=True standardize them" * large
            passed["observations"] += f", {_range(self._low, self._high)}{hint}"
        if self.steps:
            cut = f" of {steps:,}: out of time; allow more seconds" * self.cut
            passed["step"] = f"returns five values, {self.steps:,} times{cut}"
        if self._rewards:
            bounds = _range(min(self._rewards), max(self._rewards))
            passed["rewards"] = f"finite numbers, {bounds}"
        if self.lengths:
            count, short, long = len(self.lengths), min(self.lengths), max(self.lengths)
            lengths = f"{short:,}" if short == long else f"{short:,} to {long:,}"
            cut = "all" if self.truncated == count else f"{self.truncated:,}"
            detail = f"{count:,} ended, after {lengths} steps"
            detail += f" ({cut} truncated)" * bool(self.truncated)
            detail += f"; time limit {self.limit:,}" if self.limit else ""
            passed["episodes"] = detail
        elif self.cut or self.steps >= steps:
            none = f"none ended in {self.steps:,} random steps"
            passed["episodes"] = f"{none}; time limit {self.limit}"
            if self.limit is None:
                detail = f"{none}, and there is no time limit: set max_steps"
                self._findings.add("episodes", [Issue(WARNING, "endless", detail)])


def fingerprint(x: Any) -> Any:
    """Return a value that is equal for bitwise equal observations, without a reference to them.

    Example:
        >>> fingerprint(np.array([1.0, np.nan])) == fingerprint(np.array([1.0, np.nan]))
        True
    """
    if isinstance(x, dict):
        return tuple((str(key), fingerprint(part)) for key, part in x.items())
    if isinstance(x, (list, tuple)):
        return tuple(map(fingerprint, x))
    array = np.asarray(x)
    if array.dtype.kind == "O":
        return repr(x)
    return hash((array.dtype.str, array.shape, array.tobytes()))


def first_difference(one: Iterable[Moment], other: Iterable[Moment]) -> str | None:
    """Return the first difference between two sequences of moments, or None.

    Example:
        >>> first_difference([Moment(0, None, 1), Moment(0, 0, 2, 1.0)], [Moment(0, None, 1)])
        >>> first_difference([Moment(0, 5, 1, 1.0)], [Moment(0, 5, 1, 2.0)])
        'reward (step 5, seed 0)'
    """
    for a, b in zip(one, other, strict=False):
        if a.end != b.end and str in (type(a.end), type(b.end)):
            return f"error ({a})"
        for name in ("observation", "reward", "end"):
            if getattr(a, name) != getattr(b, name):
                return f"{name} ({a})"
    return None


def error_issue(error: BaseException) -> Issue:
    """Describe an exception, with the innermost line of the environment or of what it calls.

    Example:
        >>> error_issue(ValueError("no torque")).detail
        'ValueError: no torque'
    """
    frames = traceback.extract_tb(error.__traceback__)
    ignored = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<")
    packages = [frame for frame in frames if "site-packages" in frame.filename]
    own = [f for f in frames if not f.filename.startswith(ignored) and f not in packages]
    last = (own or packages)[-1:]
    line = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    name = type(error).__name__
    return Issue(PROBLEM, f"{name}{line}", one_line(f"{name}: {error}", 300) + line)


def peeled(env: gymnasium.Env) -> gymnasium.Env:
    """Remove the outer wrappers that hide mistakes or fail because of them.

    Example:
        >>> type(peeled(gymnasium.make("CartPole-v1"))).__name__
        'CartPoleEnv'
    """
    kinds: tuple[type, ...] = (wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)
    if env.spec is not None and env.spec.max_episode_steps is not None:
        kinds += (wrappers.TimeLimit,)  # `RandomPlay` applies this limit itself
    while isinstance(env, kinds):
        env = env.env  # type: ignore[attr-defined]
    return env


def accepts(env: gymnasium.Env, name: str) -> bool:
    """Return whether the environment's own ``reset`` has an argument of this name.

    Example:
        >>> accepts(gymnasium.make("CartPole-v1"), "seed")
        True
    """
    parameters = inspect.signature(env.unwrapped.reset).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def random_valid(space: gymnasium.Space, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uniformly random valid actions ``[N, ...]`` for action masks ``[N, A]``.

    Example:
        >>> space = gymnasium.spaces.Discrete(3, start=1)
        >>> random_valid(space, np.array([[0, 0, 1]]), np.random.default_rng(0))
        array([3])
    """
    heads = heads_of(space)
    head: Any = heads[max(heads)](space)  # type: ignore[call-arg]
    outputs = head.masked(np.zeros(masks.shape, np.float32), masks)
    actions = head.distribution(outputs).sample(head.noise(rng, len(masks)))
    return head.env_actions(actions)


def _random_actions(space: gymnasium.Space, seed: int) -> Iterator[Any]:
    copy = deepcopy(space)  # the environment's own generator stays as it is
    copy.seed(seed)
    while True:
        yield copy.sample()


def _range(low: float, high: float) -> str:
    return f"always {low:.6g}" if low == high else f"from {low:.6g} to {high:.6g}"
