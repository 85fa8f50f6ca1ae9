"""Check an environment in stages: its spaces, random steps, determinism, rendering and speed.

Nothing here imports TensorFlow, except for drawing frames with OpenGL.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from tfpg import envs
from tfpg.agents import ALGORITHMS, Q_LEARNING, SQUASHED
from tfpg.checks.random_play import (
    ERRORS,
    Findings,
    Moment,
    RandomPlay,
    accepts,
    error_issue,
    first_difference,
    peeled,
    random_valid,
)
from tfpg.checks.report import Report
from tfpg.core.messages import one_line
from tfpg.core.seeding import check_seed
from tfpg.envs.action_masks import mask_source, with_masks
from tfpg.envs.contracts import (
    ACTION_MASK,
    PROBLEM,
    WARNING,
    Issue,
    flat_mask,
    left_out,
    mask_choices,
    named_parts,
    usable_space,
)
from tfpg.models.heads import heads_of, squash_obstacle, supports
from tfpg.models.observations import check_space
from tfpg.models.policy import Decision
from tfpg.rollouts.loop import Progress, play, seeded_reset
from tfpg.video.display import INSTALL_XVFB
from tfpg.video.frames import as_frame
from tfpg.video.render_env import open_render_env, render_images

NUM_ENVS = 8
SPEED_SECONDS = 0.3

# The rows of a report, in this order.
_ROWS = (
    *("environment", "observation space", "action space", "algorithms", "reset", "step"),
    *("observations", "copies", "rewards", "episodes", "determinism", "rendering", "speed"),
    *("closing", "warnings", "time"),
)
_IMAGE_MODES = ("rgb_array", "rgb_array_list")
# Shares of the remaining time for the random steps and for their repetitions.
_PLAY_SHARE, _REPEAT_SHARE = 0.25, 0.7
# A call may end so much later than the time limit; one that takes so long hangs.
_GRACE, _HANGS = 0.5, 2.0
# A policy's standard deviation starts at 1, so bounds should be about as far apart.
_NEAR, _FAR = 0.1, 10.0
_MAX_WARNINGS = 3


def check_env(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env],
    *,
    steps: int = 1000,
    seed: int | None = 0,
    seconds: float = 10.0,
) -> Report:
    """Check an environment by playing random actions, and report its problems.

    The environment's exceptions are reported, not raised. A call that never returns blocks; the
    command ``tfpg check`` interrupts it.

    Args:
        env: An environment id, a callable that makes an environment, or an environment. An
            environment is not closed, and not compared with a second instance.
        steps: Number of random steps. They are repeated twice, to check that equal seeds and
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
    """Run `check_env`; with ``interrupt``, an alarm signal ends calls that take too long."""
    if isinstance(env, VectorEnv) or not (isinstance(env, (str, gymnasium.Env)) or callable(env)):
        raise TypeError(
            "Expected an environment id, a Gymnasium environment or a callable that makes one, but "
            f"got {type(env).__name__}."
        )
    if steps < 1 or not 0 < seconds < math.inf:
        raise ValueError(
            f"steps must be at least 1 and seconds above 0, but they are {steps} and {seconds}."
        )
    check = _Check(env, steps, check_seed(seed), seconds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        check.run(interrupt)
    check.findings.add("warnings", _warning_issues(caught))
    name = env if isinstance(env, str) else getattr(env, "__qualname__", None) or str(env)
    return Report(name, check.seed, tuple(check.findings.rows(_ROWS)))


class _OutOfTime(BaseException):
    """The time for the check is up."""


class _Interrupted(_OutOfTime):
    """The time was up during a call."""


class _Check:
    """One check, in stages that may fail independently."""

    def __init__(self, given: Any, steps: int, seed: int, seconds: float):
        self.given, self.steps, self.seed, self.seconds = given, steps, seed, seconds
        self.deadline = time.monotonic() + seconds
        self.findings = Findings()
        self.env: Any = None
        self.play: RandomPlay | None = None
        self.made: list[gymnasium.Env] = []
        self.can_train = False
        self.playable = True  # False if its action masks do not fit its actions
        self.made_in = 0.0  # seconds
        self.hanging: tuple[str, Moment | None, float] | None = None  # and since when

    def run(self, interrupt: bool) -> None:
        stages: dict[str, Callable[[], None]] = {
            "environment": self._check_environment,
            "step": self._check_steps,
            "determinism": self._check_determinism,
            "rendering": self._check_rendering,
            "speed": self._check_speed,
            "closing": self._check_closing,
        }
        pending, since = list(stages), time.monotonic()
        try:
            with _alarm(self.seconds + _GRACE) if interrupt else nullcontext():
                for name, stage in stages.items():
                    since = time.monotonic()
                    try:
                        if self.playable or name == "closing":
                            stage()
                    except ERRORS as error:
                        issue = error_issue(error)
                        if name == "closing":  # of which training only warns
                            issue = issue._replace(verdict=WARNING)
                        self.findings.add(name, [issue])
                        if self.env is None:
                            return
                    pending.remove(name)
        except _OutOfTime as error:
            if isinstance(error, _Interrupted):
                self.hanging = self.hanging or (pending[0], None, since)
            self._report_time(pending)
        finally:
            if self.play is not None:
                self.play.summarize(self.steps)

    def _call(self, what: str, function: Callable, *args: Any, at: Any = None, **kw: Any) -> Any:
        """Call the environment, unless the time is up."""
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
            limit = min(_HANGS, self.seconds / 2)
            if what == "speed":  # which makes environments
                limit = max(limit, NUM_ENVS * self.made_in)
            verdict = PROBLEM if lasted > limit else WARNING
            detail = f"a call did not return in {lasted:.1f} s{f' ({at})' if at else ''}"
            self.findings.add(what, [Issue(verdict, "hang", detail)])
            pending = pending[1:]
        if unchecked := [name for name in pending if name != "closing"]:
            detail = (
                f"not checked within {self.seconds:.6g} s: {', '.join(unchecked)}; allow more time"
            )
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
        self.made_in = time.monotonic() - since
        made = f", made in {self.made_in:.2f} s" * (not single)
        self.findings.passed["environment"] = f"{type(env.unwrapped).__name__}{made}"
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), gymnasium.Space):
                raise TypeError(f"self.{name} is not a Gymnasium space: set it in __init__")
        self.env = env
        self._check_spaces(env.observation_space, env.action_space)

    def _check_spaces(self, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        findings, named = self.findings, named_parts(observation)
        names = [
            name
            for name in ALGORITHMS
            if supports(action, q_values=name in Q_LEARNING, squash=name in SQUASHED)
        ]
        try:
            check_space(usable_space(observation))
            findings.add("observation space", _observation_space_issues(named))
            findings.passed["observation space"] = _describe_space(named)
        except ValueError as error:
            findings.add("observation space", [Issue(PROBLEM, "kind", one_line(error, 300))])
            names = []
        masks, source = "", mask_source(self.env, new=True)
        try:
            outputs = list(heads_of(action))
            if source is not None:
                masked = with_masks(self.env, new=True).observation_space
                mask_choices(masked, action)  # raises if they do not fit
                outputs, masks = [max(outputs)], f"; its action masks are in {source}"
            findings.add("action space", _action_space_issues(action))
            findings.passed["action space"] = (
                f"{_describe_space(action)}; a model has {' or '.join(map(str, outputs))} outputs"
                f"{masks}"
            )
        except ValueError as error:
            findings.add("action space", [Issue(PROBLEM, "kind", one_line(error, 300))])
            names, self.playable = [], source is None
        needs = {"which need Discrete actions": Q_LEARNING, "which needs a bounded Box": SQUASHED}
        but = [
            f"; not {', '.join(missing)}, {reason}"
            for reason, group in needs.items()
            if (missing := [name for name in group if name not in names])
        ]
        findings.passed["algorithms"] = "".join([", ".join(names), *but])
        self.can_train = bool(names)
        if not names:
            detail = f"none of {', '.join(ALGORITHMS)} takes these spaces"
            findings.add("algorithms", [Issue(PROBLEM, "none", detail)])

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _check_steps(self) -> None:
        for name in ("seed", "options"):
            if not accepts(self.env, name):
                detail = f"has no argument {name}: def reset(self, *, seed=None, options=None)"
                self.findings.add("reset", [Issue(PROBLEM, name, detail)])
        self.play = RandomPlay(self.env, self.seed, self._call, self.findings)
        self.play.run(self.steps, _PLAY_SHARE * self._left())
        calls: dict[str, dict[str, Any]] = {"reset()": {}}
        if accepts(self.env, "options"):
            calls["reset(options={})"] = {"options": {}}
        for shown, arguments in calls.items():
            try:
                self._call("reset", peeled(self.env).reset, **arguments)
            except ERRORS as error:
                issue = error_issue(error)
                detail = f"{shown} raises {issue.detail}"
                self.findings.add("reset", [issue._replace(kind=shown, detail=detail)])

    def _check_determinism(self) -> None:
        assert self.play is not None
        if not self.play.steps:
            return
        lost, order = "runs cannot be repeated", "episodes depend on earlier ones"
        if self.env is self.given:
            places = {"in the same instance": (self.env, PROBLEM, lost)}
        else:
            places = {
                "in a second instance": (self._make_and_keep(), PROBLEM, lost),
                "again in the first": (self.env, WARNING, order),
            }
        seconds = _REPEAT_SHARE * self._left() / len(places)
        known = self.env.spec is not None and self.env.spec.nondeterministic
        count = self.play.steps
        for place, (env, verdict, consequence) in places.items():
            again = RandomPlay(env, self.seed, self._call, Findings())
            again.run(self.steps, seconds)
            count = min(count, again.steps)
            if difference := first_difference(self.play.moments, again.moments):
                detail = f"equal seeds and actions give a different {difference} {place}"
                detail += f"{', as its registration says' * known}: {consequence}"
                verdict = WARNING if known else verdict
                self.findings.add("determinism", [Issue(verdict, "different", detail)])
                return
        detail = f"equal seeds and actions give the same {count:,} steps {' and '.join(places)}"
        self.findings.passed["determinism"] = detail

    def _check_rendering(self) -> None:
        modes = tuple((self.env.metadata or {}).get("render_modes") or ())
        known, own, passed = ", ".join(modes), self.env.render_mode, self.findings.passed
        image, issue = next((mode for mode in _IMAGE_MODES if mode in modes), None), None
        if image and isinstance(self.given, str):
            self._check_frames(partial(self._make, render_mode=image), image, known)
        elif own in _IMAGE_MODES:
            self._check_frames(self.given, own, known)
        elif image:
            passed["rendering"] = f"made with render_mode={own!r}; make it with {image!r} to record"
        elif "human" not in modes:
            has = f"its render modes are {known}" if modes else "it has no render modes"
            issue = f"{has}: no videos, use tfpg train --no-video"
        elif shutil.which("Xvfb") is None:
            issue = f"it only opens a window, which needs Xvfb: {INSTALL_XVFB}"
        else:
            passed["rendering"] = "it only opens a window, which is recorded with Xvfb"
        if issue:
            self.findings.add("rendering", [Issue(WARNING, "none", issue)])

    def _check_frames(self, build: Any, mode: str, known: str) -> None:
        with ExitStack() as stack:
            env = self._call("rendering", stack.enter_context, open_render_env(build))
            images = self._call("rendering", _frames_of_a_step, env, self.seed)
        self.findings.add("rendering", frame_issues(images))
        height, width = (*np.shape(images[0]), 0, 0)[:2]
        size = f"{width} x {height} pixels"
        self.findings.passed["rendering"] = f"{mode} with {size}; render modes {known}"

    def _check_speed(self) -> None:
        refused = {"reset", "step", "observations", "rewards"} & self.findings.problems()
        if self.play is None or not self.play.steps or not self.can_train or refused:
            return
        measured: list[str] = []
        for count in [1] if self.env is self.given else [1, NUM_ENVS]:
            if measured and count * self.made_in > self._left():
                measured.append(f"not measured with {count}, each of which is made too slowly")
                break
            with self._call("speed", envs.open_vec, self.given, count) as many:
                speed = self._call("speed", _steps_per_second, many, self.seed)
            measured.append(f"{speed:,.0f} with {count} environment{'s' * (count > 1)}")
        kind = type(many.unwrapped).__name__
        self.findings.passed["speed"] = f"steps/s: {', '.join(measured)} ({kind})"

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


def frame_issues(images: Iterable[Any]) -> Iterator[Issue]:
    """Check frames that were rendered one after another.

    Example:
        >>> [issue.kind for issue in frame_issues([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))])]
        ['dtype', 'blank', 'size']
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
    if all((np.asarray(image) == first[0, 0]).all() for image in images):
        detail = "frames show a single color: it may not draw without a display"
        yield Issue(WARNING, "blank", detail)
    sizes = {np.shape(image)[:2] for image in images}
    if len(sizes) > 1:
        shown = ", ".join(map(str, sorted(sizes)))
        yield Issue(PROBLEM, "size", f"frames of several sizes, {shown}: a video has one size")


def _observation_space_issues(space: Any) -> Iterator[Issue]:
    for key in left_out(space):
        detail = f"{key!r} is left out: no model can take a {type(space[key]).__name__}"
        yield Issue(WARNING, f"left out {key}", detail)


def _action_space_issues(space: gymnasium.Space) -> Iterator[Issue]:
    if isinstance(space, spaces.Box) and space.is_bounded("both") and space.low.size:
        if obstacle := squash_obstacle(space):
            yield Issue(WARNING, "bounds", f"{obstacle}: SAC and squash=True cannot be used")
            return
        reach = (space.high.astype(np.float64) - space.low) / 2
        if reach.max() > _FAR or reach.min() < _NEAR:
            detail = (
                f"bounds from {space.low.min():.6g} to {space.high.max():.6g}, but a new policy "
                "explores with a standard deviation of 1: use gymnasium.wrappers.RescaleAction to "
                "-1, 1"
            )
            yield Issue(WARNING, "scale", detail)


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


def _frames_of_a_step(env: gymnasium.Env, seed: int) -> list[Any]:
    observation, _ = env.reset(seed=seed)
    images = render_images(env)
    action = env.action_space.sample()
    if mask_choices(env.observation_space, env.action_space):
        masks = flat_mask(observation[ACTION_MASK])[None]
        action = random_valid(env.action_space, masks, np.random.default_rng(seed))[0]
    env.step(action)
    return images + render_images(env)


def _steps_per_second(many: VectorEnv, seed: int) -> float:
    """Measure the loop that training uses, with random actions."""
    count, seeds, rng = many.num_envs, itertools.count(seed), np.random.default_rng(seed)
    space = many.single_action_space
    masked = mask_choices(usable_space(many.single_observation_space), space) is not None

    def act(observations: Any, _: Any) -> Decision:
        actions = (
            random_valid(space, observations[ACTION_MASK], rng)
            if masked
            else many.action_space.sample()
        )
        return Decision(actions, actions, actions)

    def next_seeds(over: np.ndarray, _: np.ndarray) -> list[int | None]:
        return [next(seeds) if each else None for each in over]

    observations = seeded_reset(many, [next(seeds) for _ in range(count)])
    progress = Progress(observations, np.ones(count, bool), np.zeros(count, int))
    played = play(
        many, act, itertools.repeat(None), progress, single_episode=False, next_seeds=next_seeds
    )
    steps, since = 0, time.perf_counter()
    while (passed := time.perf_counter() - since) < SPEED_SECONDS or not steps:
        next(played)
        steps += count
    return steps / passed
