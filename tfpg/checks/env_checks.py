"""One look at an environment, in stages, each of which may fail on its own.

The environment is called in a thread of its own, so that the report comes also where a call never
returns. Nothing here imports TensorFlow; drawing frames by OpenGL does.
"""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tfpg import envs
from tfpg.checks.contracts import (
    OK,
    PROBLEM,
    WARNING,
    Fault,
    describe_error,
    first_difference,
    frame_faults,
)
from tfpg.checks.trying import (
    ERRORS,
    Findings,
    TimeIsUp,
    Tried,
    Walk,
    Watch,
    accepts,
    time_limit,
    walk,
)
from tfpg.checks.verdicts import Report, Row, played_rows, space_rows, warned_rows
from tfpg.core.seeding import check_seed
from tfpg.video.display import INSTALL_XVFB
from tfpg.video.render_env import pictures, rendering

NUM_ENVS = 8

# Shares of the time that is left: of the first walk, and of its repetitions.
_WALK, _AGAIN = 0.25, 0.7
_SPEED_SECONDS = 0.3
# How long a call may go on when the time is over.
_GRACE = 0.5
# A call that takes longer does not return.
_HANGS = 2.0
_IMAGES = ("rgb_array", "rgb_array_list")


def check_env(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env],
    *,
    steps: int = 1000,
    seed: int | None = 0,
    seconds: float = 10.0,
) -> Report:
    """Plays at random in an environment and tells what is wrong with it, all of it.

    Nothing that the environment does is raised, and a call that does not return is left behind.

    Args:
        env: An environment id, a callable that makes an environment, or an environment. The latter
            is played in and not closed, and there is no second one to compare it with.
        steps: Random steps. They are repeated twice, to see whether equal seeds and actions
            give the same.
        seed: Of the first episode and the actions; the episodes after it have ``seed + 1`` and so
            on. None: any.
        seconds: For everything.

    Returns:
        A `Report`; ``print`` shows it as a table.

    Raises:
        TypeError: ``env`` is none of the three.
        ValueError: ``steps``, ``seed`` or ``seconds`` is out of range.

    Example:
        >>> report = check_env("FrozenLake-v1", steps=200)
        >>> report.ok, report.rows[2].detail
        (True, 'Discrete(4); a model of 4 outputs')
    """
    if isinstance(env, VectorEnv) or not (isinstance(env, (str, gymnasium.Env)) or callable(env)):
        raise TypeError(
            "Expected an environment id, a Gymnasium environment or a callable that makes one, and "
            f"got {type(env).__name__}."
        )
    if steps < 1 or not 0 < seconds < float("inf"):
        raise ValueError(
            f"steps must be at least 1 and seconds above 0, and they are {steps} and {seconds}."
        )
    seed = check_seed(seed)
    look = _Look(env, steps, seed, Watch(seconds))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        thread = threading.Thread(target=look.run, name="tfpg check", daemon=True)
        thread.start()
        thread.join(seconds + _GRACE)
        hangs = thread.is_alive()
        rows = [*look.rows(), *warned_rows(said), *look.unfinished(seconds)]
    return Report(_named(env), seed, tuple(rows), hangs)


class _Look:
    """What has been seen so far; another thread may ask while it goes on."""

    def __init__(self, given: Any, steps: int, seed: int, watch: Watch):
        self.given, self.steps, self.seed, self.watch = given, steps, seed, watch
        self.findings, self.seen = Findings(), Walk()
        self.env: Any = None
        self.made: list[gymnasium.Env] = []
        self.before: list[Row] = []
        self.after: list[Row] = []
        self.left = ["environment", "steps", "determinism", "rendering", "speed", "closing"]

    def run(self) -> None:
        """Looks at everything, until the time is over."""
        stages = (self._environment, self._steps, self._determinism, self._rendering, self._speed)
        try:
            for stage in (*stages, self._closing):
                rows = self.after if self.seen.moments else self.before
                well = self._attempt(self.left[0], rows, stage)
                del self.left[0]
                if not well and stage == self._environment:
                    self.left.clear()
                    return
        except TimeIsUp:
            pass

    def rows(self) -> list[Row]:
        """What is known so far, in the order of the table."""
        limit = None if self.env is None else time_limit(self.env)
        played = played_rows(self.seen, self.findings, self.steps, limit)
        rows = [*self.before, *played, *self.after]
        late = self.watch.late()
        return [row for row in rows if late is None or row[:2] != (late[0], OK)]

    def unfinished(self, seconds: float) -> Iterator[Row]:
        """The call that did not return, and what was not looked at."""
        if self.watch.left() > 0 or not self.left:
            return
        left, late = self.left, self.watch.late()
        told = f"{seconds:.6g} s were over before"
        if late is not None:
            what, where, lasted = late
            hangs = lasted > min(_HANGS, seconds / 2)
            text = f"has not come back in {lasted:.1f} s{where}"
            yield Row(what, PROBLEM if hangs else WARNING, text)
            left = left[1:]
        if left := [name for name in left if name != "closing"]:
            yield Row("time", WARNING, f"{told} {', '.join(left)}: give more seconds")

    def _attempt(self, what: str, rows: list[Row], stage: Callable[[], Iterator[Row]]) -> bool:
        """Keeps the rows of a stage, and an error as one; False if there was one."""
        try:
            for row in stage():
                rows.append(row)
        except ERRORS as error:
            rows.append(Row(what, PROBLEM, describe_error(error)))
            return False
        return True

    def _make(self, **kwargs: Any) -> gymnasium.Env:
        # What Gymnasium's checker would raise is told here.
        if isinstance(self.given, str):
            kwargs = {"disable_env_checker": True, **kwargs}
            return self.watch.call("environment", envs.make, self.given, **kwargs)
        env = self.watch.call("environment", self.given)
        if not isinstance(env, gymnasium.Env):
            raise TypeError(
                f"The callable returned {type(env).__name__}, and a Gymnasium environment was "
                "expected."
            )
        return env

    def _kept(self) -> gymnasium.Env:
        env = self._make()
        if all(env is not other for other in self.made):
            self.made.append(env)
        return env

    def _environment(self) -> Iterator[Row]:
        since = time.monotonic()
        single = isinstance(self.given, gymnasium.Env)
        self.env = env = self.given if single else self._kept()
        made = f", made in {time.monotonic() - since:.2f} s" * (not single)
        yield Row("environment", OK, f"{type(env.unwrapped).__name__}{made}")
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), gymnasium.Space):
                raise TypeError(f"self.{name} is no Gymnasium space: set it in __init__.")
        yield from space_rows(env.observation_space, env.action_space)

    def _steps(self) -> Iterator[Row]:
        tried = Tried(self.env, self.watch, self.findings)
        takes = accepts(self.env, "options")
        if not takes:
            told = "it takes no options=: def reset(self, *, seed=None, options=None)"
            self.findings.add("reset", [Fault(PROBLEM, "options", told)])
        walk(tried, self.seed, self.steps, _WALK * self.watch.left(), self.seen)
        reset = tried.env.reset
        calls: dict[str, Callable] = {"reset()": reset}
        if takes:
            calls["reset(options={})"] = partial(reset, options={})
        for shown, call in calls.items():
            try:
                self.watch.call("reset", call)
            except ERRORS as error:
                told = f"{shown} raises {describe_error(error)}"
                self.findings.add("reset", [Fault(PROBLEM, shown, told)])
        yield from ()

    def _determinism(self) -> Iterator[Row]:
        if not self.seen.steps:
            return
        never, after = "runs cannot be repeated", "a reset leaves something behind"
        if self.env is self.given:
            places = {"in the same instance": (self.env, PROBLEM, never)}
        else:
            places = {
                "in a second instance": (self._kept(), PROBLEM, never),
                "again in the first": (self.env, WARNING, after),
            }
        seconds = _AGAIN * self.watch.left() / len(places)
        known = self.env.spec is not None and self.env.spec.nondeterministic
        count = self.seen.steps
        for place, (env, verdict, so) in places.items():
            again = Walk()
            walk(Tried(env, self.watch, Findings()), self.seed, self.steps, seconds, again)
            count = min(count, again.steps)
            if other := first_difference(self.seen.moments, again.moments):
                told = f"equal seeds and actions give another {other} {place}"
                also = ", as its registration says" * known
                yield Row("determinism", WARNING if known else verdict, f"{told}{also}: {so}")
                return
        told = f"equal seeds and actions give the same {count:,} steps {' and '.join(places)}"
        yield Row("determinism", OK, told)

    def _rendering(self) -> Iterator[Row]:
        modes = tuple((self.env.metadata or {}).get("render_modes") or ())
        known, own = ", ".join(modes), self.env.render_mode
        image = next((mode for mode in _IMAGES if mode in modes), None)
        if image and isinstance(self.given, str):
            yield from self._frames(partial(self._make, render_mode=image), image, known)
        elif own in _IMAGES:
            yield from self._frames(self.given, own, known)
        elif image:
            told = f"made with render_mode={own!r}, and a film takes {image!r}, which it knows"
            yield Row("rendering", OK, told)
        elif "human" not in modes:
            told = f"its render modes are {known}" if modes else "it has no render modes"
            yield Row("rendering", WARNING, f"{told}: no films, tfpg train takes --no-film")
        elif shutil.which("Xvfb") is None:
            yield Row("rendering", WARNING, f"only a window, which takes Xvfb: {INSTALL_XVFB}")
        else:
            yield Row("rendering", OK, "only a window, which is filmed by Xvfb")

    def _frames(self, build: Any, mode: str, known: str) -> Iterator[Row]:
        with ExitStack() as stack:
            env = self.watch.call("rendering", stack.enter_context, rendering(build))
            images = self.watch.call("rendering", _pictures_of_a_step, env, self.seed)
        faults = list(frame_faults(images))
        yield from (Row("rendering", fault.verdict, fault.detail) for fault in faults)
        if not faults:
            height, width = images[0].shape[:2]
            yield Row("rendering", OK, f"{mode} of {width} x {height} pixels; it knows {known}")

    def _speed(self) -> Iterator[Row]:
        if not self.seen.steps:
            return
        alone = self.watch.call("speed", _steps_per_second, self.env, self.seed)
        if self.env is self.given:
            yield Row("speed", OK, f"{alone:,.0f} steps/s")
            return
        many = self.watch.call("speed", envs.make_vec, self.given, NUM_ENVS)
        try:
            together = self.watch.call("speed", _vector_steps_per_second, many, self.seed)
        finally:
            many.close()
        kind = type(many).__name__
        told = f"{alone:,.0f} steps/s alone, {together:,.0f} with {NUM_ENVS} side by side ({kind})"
        yield Row("speed", OK, told)

    def _closing(self) -> Iterator[Row]:
        for env in self.made:
            self.watch.call("closing", env.close)
        yield from ()


def _pictures_of_a_step(env: gymnasium.Env, seed: int) -> list[Any]:
    env.reset(seed=seed)
    images = pictures(env)
    env.step(env.action_space.sample())
    return images + pictures(env)


def _steps_per_second(env: gymnasium.Env, seed: int) -> float:
    env.reset(seed=seed)
    steps, since = 0, time.perf_counter()
    while (passed := time.perf_counter() - since) < _SPEED_SECONDS or not steps:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset(seed=seed + steps)
    return steps / passed


def _vector_steps_per_second(many: VectorEnv, seed: int) -> float:
    """As a collector steps them: those that do not reset themselves are reset by seeds."""
    many.reset(seed=seed)
    by_hand = many.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
    steps, since = 0, time.perf_counter()
    while (passed := time.perf_counter() - since) < _SPEED_SECONDS or not steps:
        _, _, terminated, truncated, _ = many.step(many.action_space.sample())
        steps += many.num_envs
        ended = terminated | truncated
        if by_hand and ended.any():
            seeds: Any = [seed + steps if end else None for end in ended]
            seeds = seeds if isinstance(many, SyncVectorEnv) else None
            many.reset(seed=seeds, options={"reset_mask": ended})
    return steps / passed


def _named(env: Any) -> str:
    return env if isinstance(env, str) else getattr(env, "__qualname__", None) or str(env)
