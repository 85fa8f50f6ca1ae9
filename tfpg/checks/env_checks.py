"""Play at random in an environment, and report everything that is wrong with it.

Nothing here imports TensorFlow; drawing frames by OpenGL does.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import shutil
import signal
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, VectorEnv

from tfpg import envs
from tfpg.agents import ALGORITHMS, Q_LEARNING
from tfpg.checks.report import Report, Row
from tfpg.core.messages import one_line
from tfpg.core.seeding import check_seed
from tfpg.envs.contracts import (
    PROBLEM,
    WARNING,
    Issue,
    observation_issues,
    reset_issues,
    reward_issues,
    step_issues,
)
from tfpg.models.heads import heads_of, supports
from tfpg.models.observations import check_space
from tfpg.video.display import INSTALL_XVFB
from tfpg.video.frames import as_frame
from tfpg.video.render_env import pictures, rendering

NUM_ENVS = 8
SPEED_SECONDS = 0.3

# The rows of a report, in this order.
_ROWS = (
    *("environment", "observation space", "action space", "algorithms", "reset", "step"),
    *("observations", "copies", "rewards", "episodes", "determinism", "rendering", "speed"),
    *("closing", "warnings", "time"),
)
# What an environment may raise. sys.exit() raises SystemExit.
_ERRORS = (Exception, SystemExit)
_MAX_ERRORS = 10
_MAX_WARNINGS = 3
# Wrappers that hide mistakes or stumble over them. The step limit is applied here instead.
_PEELED = (wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)
_IMAGE_MODES = ("rgb_array", "rgb_array_list")
# Shares of the remaining time for the first random steps and for their repetitions.
_PLAY_SHARE, _REPEAT_SHARE = 0.25, 0.7
# A call may take so much longer than the time limit, and hangs if it takes that long.
_GRACE, _HANGS = 0.5, 2.0
# A policy's standard deviation starts at 1, so bounds should be about as far apart.
_NEAR, _FAR = 0.1, 10.0
# Inputs above this are large for a network.
_LARGE = 100.0


class _OutOfTime(BaseException):
    """The time for the check is over."""


class _Interrupted(_OutOfTime):
    """The time was over during a call."""


def check_env(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env],
    *,
    steps: int = 1000,
    seed: int | None = 0,
    seconds: float = 10.0,
) -> Report:
    """Check an environment by playing random actions, and report everything that is wrong.

    The environment's exceptions are reported, not raised. A call that never returns blocks; the
    command ``tfpg check`` interrupts it.

    Args:
        env: An environment id, a callable that makes an environment, or an environment. The latter
            is not closed, and is not compared with a second instance.
        steps: Number of random steps. They are repeated twice to see whether equal seeds and
            actions give equal results.
        seed: Seed of the first episode and of the actions. The next episodes have ``seed + 1``
            and so on. None: a random seed.
        seconds: Time limit for the whole check.

    Returns:
        A `Report`. Printing it shows a table.

    Raises:
        TypeError: ``env`` is none of the three kinds.
        ValueError: ``steps``, ``seed`` or ``seconds`` is out of range.

    Example:
        >>> report = check_env("FrozenLake-v1", steps=200)
        >>> report.ok, report.rows[2].detail
        (True, 'Discrete(4); a model has 4 outputs')
    """
    return run_checks(env, steps, seed, seconds)


def run_checks(
    env: Any, steps: int, seed: int | None, seconds: float, interrupt: bool = False
) -> Report:
    """Run `check_env`; with ``interrupt``, a signal ends calls that take too long."""
    if isinstance(env, VectorEnv) or not (isinstance(env, (str, gymnasium.Env)) or callable(env)):
        raise TypeError(
            "Expected an environment id, a Gymnasium environment or a callable that makes one, and "
            f"got {type(env).__name__}."
        )
    if steps < 1 or not 0 < seconds < math.inf:
        raise ValueError(
            f"steps must be at least 1 and seconds above 0, and they are {steps} and {seconds}."
        )
    check = _Check(env, steps, check_seed(seed), seconds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        check.run(interrupt)
    check.findings.add("warnings", _warning_issues(caught))
    name = env if isinstance(env, str) else getattr(env, "__qualname__", None) or str(env)
    return Report(name, check.seed, tuple(check.findings.rows()))


class Moment(NamedTuple):
    """A reset, whose step is None, or a step, with what is compared between repetitions.

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


class _Findings:
    """Issues, grouped by their kind, and what was seen where there are none."""

    def __init__(self) -> None:
        self._issues: dict[tuple[str, str], list[tuple[Issue, Moment | None]]] = {}
        self._passed: dict[str, str] = {}

    def add(self, what: str, issues: Iterable[Issue], at: Moment | None = None) -> None:
        for issue in issues:
            self._issues.setdefault((what, issue.kind), []).append((issue, at))

    def passed(self, what: str, detail: str) -> None:
        """Describe what was checked, for the case that there is no issue."""
        self._passed[what] = detail

    def rows(self) -> Iterator[Row]:
        for what in _ROWS:
            found = [group for (name, _), group in self._issues.items() if name == what]
            for group in found:
                issue, at = group[0]
                more = len(group) - 1
                times = f", and {more:,} more time{'s' * (more > 1)}" if more else ""
                place = f" ({at}{times})" if at else ""
                yield Row(what, issue.verdict, f"{issue.detail}{place}")
            if not found and what in self._passed:
                yield Row(what, "ok", self._passed[what])


@dataclass
class _Played:
    """Random steps, and what was seen in them."""

    moments: list[Moment] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of finished episodes
    truncated: int = 0  # of these episodes
    steps: int = 0
    errors: int = 0
    cut: bool = False  # out of time before all steps were made
    rewards: list[float] = field(default_factory=list)
    observed: tuple[float, float] = (math.inf, -math.inf)  # lowest and highest number
    has_floats: bool = False
    last: tuple[Any, Any, Moment] | None = None  # observation, fingerprint and moment

    def see(self, observation: Any) -> None:
        for part in observation.values() if isinstance(observation, dict) else [observation]:
            x = np.asarray(part)
            if x.dtype.kind in "biuf" and x.size:
                low, high = self.observed
                self.observed = min(low, float(x.min())), max(high, float(x.max()))
                self.has_floats |= x.dtype.kind == "f"


class _Unplayable(Exception):
    """A step returned nothing that can be played on with, which has been reported."""


class _Check:
    """One check, in stages that may fail independently."""

    def __init__(self, given: Any, steps: int, seed: int, seconds: float):
        self.given, self.steps, self.seed, self.seconds = given, steps, seed, seconds
        self.deadline = time.monotonic() + seconds
        self.findings = _Findings()
        self.played = _Played()
        self.env: Any = None
        self.made: list[gymnasium.Env] = []
        self.hanging: tuple[str, Moment | None, float] | None = None  # and since when
        self.at = Moment(seed, None)

    def run(self, interrupt: bool) -> None:
        stages: dict[str, Callable[[], None]] = {
            "environment": self._check_environment,
            "steps": self._check_steps,
            "determinism": self._check_determinism,
            "rendering": self._check_rendering,
            "speed": self._check_speed,
            "closing": self._check_closing,
        }
        pending = list(stages)
        try:
            with _alarm(self.seconds + _GRACE) if interrupt else nullcontext():
                for name, stage in stages.items():
                    try:
                        stage()
                    except _ERRORS as error:
                        self.findings.add(name, [_error_issue(error)])
                        if self.env is None:
                            return
                    pending.remove(name)
        except _OutOfTime:
            self._report_time(pending)
        finally:
            self._report_played()

    def _call(self, what: str, function: Callable, *args: Any, at: Any = None, **kw: Any) -> Any:
        """Call the environment, unless the time is over."""
        now = time.monotonic()
        if now >= self.deadline:
            raise _OutOfTime
        try:
            return function(*args, **kw)
        except _Interrupted:
            self.hanging = self.hanging or (what, at, now)  # the innermost call
            raise

    def _report_time(self, pending: list[str]) -> None:
        if self.hanging is not None:
            what, at, since = self.hanging
            lasted = time.monotonic() - since
            verdict = PROBLEM if lasted > min(_HANGS, self.seconds / 2) else WARNING
            detail = f"a call did not return in {lasted:.1f} s{f' ({at})' if at else ''}"
            self.findings.add(what, [Issue(verdict, "hang", detail)])
            pending = pending[1:]
        if unchecked := [name for name in pending if name != "closing"]:
            detail = f"{self.seconds:.6g} s were over before {', '.join(unchecked)}: use --seconds"
            self.findings.add("time", [Issue(WARNING, "time", detail)])

    def _make(self, **kwargs: Any) -> gymnasium.Env:
        if isinstance(self.given, str):
            # Gymnasium's checker would raise what is reported here.
            kwargs = {"disable_env_checker": True, **kwargs}
            return self._call("environment", envs.make, self.given, **kwargs)
        env = self._call("environment", self.given)
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"expected a callable that returns a Gymnasium environment, got {env}")
        return env

    def _make_and_keep(self) -> gymnasium.Env:
        env = self._make()
        if all(env is not other for other in self.made):
            self.made.append(env)
        return env

    def _check_environment(self) -> None:
        since, single = time.monotonic(), isinstance(self.given, gymnasium.Env)
        env = self.given if single else self._make_and_keep()
        made = f", made in {time.monotonic() - since:.2f} s" * (not single)
        self.findings.passed("environment", f"{type(env.unwrapped).__name__}{made}")
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), gymnasium.Space):
                raise TypeError(f"self.{name} is not a Gymnasium space: set it in __init__")
        self.env = env
        self._check_spaces(env.observation_space, env.action_space)

    def _check_spaces(self, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        usable = True
        names = [name for name in ALGORITHMS if supports(action, q_values=name in Q_LEARNING)]
        try:
            check_space(observation)
            self.findings.add("observation space", _observation_space_issues(observation))
        except ValueError as error:
            usable = False
            self.findings.add("observation space", [Issue(PROBLEM, "kind", one_line(error, 300))])
        try:
            outputs = " or ".join(map(str, heads_of(action)))
            detail = f"{_describe_space(action)}; a model has {outputs} outputs"
            self.findings.passed("action space", detail)
            self.findings.add("action space", _action_space_issues(action))
        except ValueError as error:
            self.findings.add("action space", [Issue(PROBLEM, "kind", one_line(error, 300))])
        self.findings.passed("observation space", _describe_space(observation))
        missing = ", ".join(name for name in ALGORITHMS if name not in names)
        but = f"; not {missing}, which needs Discrete actions" * bool(missing)
        self.findings.passed("algorithms", ", ".join(names) + but)
        if not usable or not names:
            detail = f"none of {', '.join(ALGORITHMS)} takes these spaces"
            self.findings.add("algorithms", [Issue(PROBLEM, "none", detail)])

    def _check_steps(self) -> None:
        for name in ("seed", "options"):
            if not _accepts(self.env, name):
                detail = f"has no argument {name}: def reset(self, *, seed=None, options=None)"
                self.findings.add("reset", [Issue(PROBLEM, name, detail)])
        seconds = _PLAY_SHARE * (self.deadline - time.monotonic())
        self._play(self.env, self.played, self.findings, seconds)
        calls: dict[str, dict[str, Any]] = {"reset()": {}}
        if _accepts(self.env, "options"):
            calls["reset(options={})"] = {"options": {}}
        for shown, arguments in calls.items():
            try:
                self._call("reset", _peeled(self.env).reset, **arguments)
            except _ERRORS as error:
                issue = _error_issue(error)
                detail = f"{shown} raises {issue.detail}"
                self.findings.add("reset", [issue._replace(kind=shown, detail=detail)])

    def _play(self, env: Any, played: _Played, findings: _Findings, seconds: float) -> None:
        """Play random actions in episodes with ``seed``, ``seed + 1`` and so on."""
        until = time.monotonic() + seconds
        actions = _random_actions(env.action_space, self.seed)
        for seed in itertools.count(self.seed):
            try:
                for _ in self._episode(env, seed, actions, played, findings):
                    if played.steps >= self.steps:
                        return
                    if time.monotonic() >= until:
                        played.cut = True
                        return
            except _Unplayable:
                return
            except _ERRORS as error:
                what = "reset" if self.at.step is None else "step"
                findings.add(what, [_error_issue(error)], self.at)
                played.moments.append(self.at._replace(end=type(error).__name__))
                played.errors += 1
                if played.errors >= _MAX_ERRORS:
                    return

    def _episode(
        self, env: Any, seed: int, actions: Iterator, played: _Played, findings: _Findings
    ) -> Iterator[None]:
        limit = None if env.spec is None else env.spec.max_episode_steps
        env = _peeled(env)
        at = self.at = Moment(seed, None)
        arguments = {"seed": seed} if _accepts(env, "seed") else {}
        result = self._call("reset", env.reset, at=at, **arguments)
        findings.add("reset", reset_issues(result), at)
        observation = result[0] if isinstance(result, tuple) and result else result
        self._observe(env, observation, played, findings)
        yield
        for t in itertools.count():
            at = self.at = Moment(seed, t)
            result = self._call("step", env.step, next(actions), at=at)
            findings.add("step", step_issues(result), at)
            if not isinstance(result, (tuple, list)) or len(result) < 4:
                raise _Unplayable
            observation, reward, terminated = result[0], result[1], bool(result[2])
            truncated = t + 1 == limit or (len(result) > 4 and bool(result[3]))
            findings.add("rewards", reward_issues(reward), at)
            if isinstance(reward, (int, float, np.number)) and math.isfinite(reward):
                played.rewards.append(float(reward))
            played.steps += 1
            self._observe(env, observation, played, findings, reward, (terminated, truncated))
            ended = terminated or truncated
            if ended:
                played.lengths.append(t + 1)
                played.truncated += not terminated
            yield
            if ended:
                return

    def _observe(
        self, env: Any, x: Any, played: _Played, findings: _Findings, reward: Any = None, end=None
    ) -> None:
        """Check an observation, and that the one before has not changed."""
        try:
            findings.add("observations", observation_issues(env.observation_space, x), self.at)
        except _ERRORS as error:  # of a space
            findings.add("observations", [_error_issue(error)], self.at)
        if played.last is not None and fingerprint(played.last[0]) != played.last[1]:
            detail = "an observation changes after it was returned; tfpg copies it, and so must you"
            findings.add("copies", [Issue(WARNING, "in place", detail)], played.last[2])
        played.last = x, fingerprint(x), self.at
        played.see(x)
        played.moments.append(
            self.at._replace(observation=played.last[1], reward=fingerprint(reward), end=end)
        )

    def _report_played(self) -> None:
        """Describe the random steps, for where there is no issue."""
        played, passed = self.played, self.findings.passed
        if not played.moments:
            return
        low, high = played.observed
        large = played.has_floats and _LARGE < max(-low, high) < math.inf and low > -math.inf
        hint = ": networks with normalize=True standardize them" * large
        seen = f", {_range(low, high)}{hint}" if low <= high else ""
        passed("reset", "returns (observation, info), takes seed= and options=")
        passed("observations", f"finite and in their space{seen}")
        passed("copies", "observations do not change after they were returned")
        if played.steps:
            cut = f" of {self.steps:,}: time was short, use --seconds" * played.cut
            passed("step", f"returns five values, {played.steps:,} times{cut}")
        if played.rewards:
            bounds = _range(min(played.rewards), max(played.rewards))
            passed("rewards", f"finite numbers, {bounds}")
        if played.lengths or played.cut or played.steps >= self.steps:
            self._report_episodes(played)

    def _report_episodes(self, played: _Played) -> None:
        limit = None if self.env.spec is None else self.env.spec.max_episode_steps
        if not played.lengths:
            none = f"none ended in {played.steps:,} random steps"
            self.findings.passed("episodes", f"{none}; time limit {limit}")
            if limit is None:
                detail = f"{none}, and there is no time limit: set max_steps"
                self.findings.add("episodes", [Issue(WARNING, "endless", detail)])
            return
        count, short, long = len(played.lengths), min(played.lengths), max(played.lengths)
        lengths = f"{short:,}" if short == long else f"{short:,} to {long:,}"
        cut = "all" if played.truncated == count else f"{played.truncated:,}"
        detail = f"{count:,} ended, after {lengths} steps"
        detail += f" ({cut} truncated)" * bool(played.truncated)
        detail += f"; time limit {limit:,}" if limit else "; no time limit" * (cut == "0")
        self.findings.passed("episodes", detail)

    def _check_determinism(self) -> None:
        if not self.played.steps:
            return
        lost, order = "runs cannot be repeated", "episodes depend on earlier ones"
        if self.env is self.given:
            places = {"in the same instance": (self.env, PROBLEM, lost)}
        else:
            places = {
                "in a second instance": (self._make_and_keep(), PROBLEM, lost),
                "again in the first": (self.env, WARNING, order),
            }
        seconds = _REPEAT_SHARE * (self.deadline - time.monotonic()) / len(places)
        known = self.env.spec is not None and self.env.spec.nondeterministic
        count = self.played.steps
        for place, (env, verdict, consequence) in places.items():
            again = _Played()
            self._play(env, again, _Findings(), seconds)
            count = min(count, again.steps)
            if difference := first_difference(self.played.moments, again.moments):
                detail = f"equal seeds and actions give another {difference} {place}"
                detail += f"{', as it is registered' * known}: {consequence}"
                verdict = WARNING if known else verdict
                self.findings.add("determinism", [Issue(verdict, "different", detail)])
                return
        detail = f"equal seeds and actions give the same {count:,} steps {' and '.join(places)}"
        self.findings.passed("determinism", detail)

    def _check_rendering(self) -> None:
        modes = tuple((self.env.metadata or {}).get("render_modes") or ())
        known, own = ", ".join(modes), self.env.render_mode
        image = next((mode for mode in _IMAGE_MODES if mode in modes), None)
        issue = detail = None
        if image and isinstance(self.given, str):
            self._check_frames(partial(self._make, render_mode=image), image, known)
        elif own in _IMAGE_MODES:
            self._check_frames(self.given, own, known)
        elif image:
            detail = f"made with render_mode={own!r}; for videos, make it with {image!r}"
        elif "human" not in modes:
            has = f"its render modes are {known}" if modes else "it has no render modes"
            issue = f"{has}: no videos, use tfpg train --no-film"
        elif shutil.which("Xvfb") is None:
            issue = f"it only opens a window, which needs Xvfb: {INSTALL_XVFB}"
        else:
            detail = "it only opens a window, which is recorded with Xvfb"
        if issue:
            self.findings.add("rendering", [Issue(WARNING, "none", issue)])
        if detail:
            self.findings.passed("rendering", detail)

    def _check_frames(self, build: Any, mode: str, known: str) -> None:
        with ExitStack() as stack:
            env = self._call("rendering", stack.enter_context, rendering(build))
            images = self._call("rendering", _frames_of_a_step, env, self.seed)
        self.findings.add("rendering", frame_issues(images))
        height, width = (*np.shape(images[0]), 0, 0)[:2]
        detail = f"{mode} with {width} x {height} pixels; render modes {known}"
        self.findings.passed("rendering", detail)

    def _check_speed(self) -> None:
        if not self.played.steps:
            return
        measured = []
        for count in [1] if self.env is self.given else [1, NUM_ENVS]:
            with self._call("speed", envs.open_vec, self.given, count) as many:
                speed = self._call("speed", _steps_per_second, many, self.seed)
            plural = "s" * (count > 1)
            measured.append(f"{speed:,.0f} with {count} environment{plural}")
        detail = f"steps/s: {', '.join(measured)} ({type(many.unwrapped).__name__})"
        self.findings.passed("speed", detail)

    def _check_closing(self) -> None:
        for env in self.made:
            self._call("closing", env.close)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `_Interrupted` in the main thread after some seconds."""

    def interrupt(*_: Any) -> None:
        raise _Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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
    """Return what differs first between two sequences of moments, or None.

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


def frame_issues(images: Iterable[Any]) -> Iterator[Issue]:
    """Check frames that were rendered one after another.

    Example:
        >>> [issue.kind for issue in frame_issues([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))])]
        ['dtype', 'size']
    """
    images = list(images)
    for image in images:
        try:
            as_frame(image)
        except (ValueError, TypeError) as error:
            yield Issue(PROBLEM, "frame", one_line(error, 300))
            return
    first = np.asarray(images[0])
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[-1] != 3:
        detail = f"{first.dtype} {first.shape} is converted to uint8 (height, width, 3)"
        yield Issue(WARNING, "dtype", detail)
    sizes = {np.shape(image)[:2] for image in images}
    if len(sizes) > 1:
        shown = ", ".join(map(str, sorted(sizes)))
        yield Issue(PROBLEM, "size", f"frames of several sizes, {shown}: a video has one size")


def _observation_space_issues(space: gymnasium.Space) -> Iterator[Issue]:
    for part in space.values() if isinstance(space, spaces.Dict) else [space]:
        shape = part.shape or ()
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
            yield Issue(
                WARNING,
                "channels",
                f"{shape} looks like an image with its channels first, but Keras's convolutions "
                "expect them last: use gymnasium.wrappers.TransformObservation",
            )


def _action_space_issues(space: gymnasium.Space) -> Iterator[Issue]:
    if isinstance(space, spaces.Box) and space.is_bounded("both") and space.low.size:
        reach = (space.high.astype(np.float64) - space.low) / 2
        if reach.max() > _FAR or reach.min() < _NEAR:
            yield Issue(
                WARNING,
                "scale",
                f"bounds from {space.low.min():.6g} to {space.high.max():.6g}, but a new policy "
                "explores with a standard deviation of 1: use gymnasium.wrappers.RescaleAction to "
                "-1, 1",
            )


def _describe_space(space: gymnasium.Space) -> str:
    if isinstance(space, spaces.Box):
        bounds = f", from {space.low.min():.6g} to {space.high.max():.6g}" if space.low.size else ""
        return f"Box {space.shape} {space.dtype}{bounds}"
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{key}: {_describe_space(part)}" for key, part in space.items())
    return str(space)


def _warning_issues(caught: Iterable[warnings.WarningMessage]) -> Iterator[Issue]:
    """Yield an environment's own warnings. What Gymnasium's checker says is checked here."""
    texts = [
        one_line(re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: "), 300)
        for warning in caught
        if issubclass(warning.category, (UserWarning, RuntimeWarning))
        and "passive_env_checker" not in warning.filename
    ]
    for text in list(dict.fromkeys(texts))[:_MAX_WARNINGS]:
        yield Issue(WARNING, text, text)


def _error_issue(error: BaseException) -> Issue:
    """Describe an exception and the innermost line of the environment, or of what it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    ignored = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<")
    packages = [frame for frame in frames if "site-packages" in frame.filename]
    own = [f for f in frames if not f.filename.startswith(ignored) and f not in packages]
    last = (own or packages)[-1:]
    line = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    name = type(error).__name__
    return Issue(PROBLEM, f"{name}{line}", one_line(f"{name}: {error}", 300) + line)


def _peeled(env: gymnasium.Env) -> gymnasium.Env:
    """Remove the outer wrappers that would stumble over mistakes."""
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    peeled = (*_PEELED, wrappers.TimeLimit) if limited else _PEELED
    while isinstance(env, peeled):
        env = env.env
    return env


def _accepts(env: gymnasium.Env, name: str) -> bool:
    """Return whether the environment's own ``reset`` has an argument of this name."""
    parameters = inspect.signature(env.unwrapped.reset).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _random_actions(space: gymnasium.Space, seed: int) -> Iterator[Any]:
    copy = deepcopy(space)  # the environment's own generator stays as it is
    copy.seed(seed)
    while True:
        yield copy.sample()


def _range(low: float, high: float) -> str:
    return f"always {low:.6g}" if low == high else f"from {low:.6g} to {high:.6g}"


def _frames_of_a_step(env: gymnasium.Env, seed: int) -> list[Any]:
    env.reset(seed=seed)
    images = pictures(env)
    env.step(env.action_space.sample())
    return images + pictures(env)


def _steps_per_second(many: VectorEnv, seed: int) -> float:
    many.reset(seed=seed)
    disabled = many.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
    steps, since = 0, time.perf_counter()
    while (passed := time.perf_counter() - since) < SPEED_SECONDS or not steps:
        _, _, terminated, truncated, _ = many.step(many.action_space.sample())
        steps += many.num_envs
        ended = terminated | truncated
        if disabled and ended.any():
            seeds: Any = [seed + steps if end else None for end in ended]
            many.reset(seed=seeds, options={"reset_mask": ended})
    return steps / passed
