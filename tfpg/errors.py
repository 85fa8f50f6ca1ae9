"""Errors that are tfpg's own."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_MOST = 3  # environments of one process that are told of

_PACKAGE = str(Path(__file__).parent) + os.sep


class EnvDataError(FloatingPointError):
    """An environment gave a number that is none: NaN or infinity.

    Attributes:
        env: Index of the environment.
        step: Number of the step in its episode, from 0: which gave it, or which it was for.
    """

    def __init__(self, what: str, env: int, step: int, when: str = "in"):
        super().__init__(
            f"The {what}, of environment {env} {when} step {step} of its episode. Nothing was "
            "learned from it; mend the environment (tfpg.check_env looks it over)."
        )
        self.env = env
        self.step = step


class CheckpointCorruptError(ValueError):
    """A file that is not a whole model or run of the kind that is read: cut, changed, another's."""


class UnsafeCheckpointError(ValueError):
    """A model file with something in it that no model needs, and that loading could be led by."""


class VersionSkewError(ValueError):
    """A file was written by other versions than those that are installed."""


class EnvError(RuntimeError):
    """An environment raised an exception, which is this one's cause.

    It keeps the text of its cause's traceback when it is sent to another process.

    Args:
        what: Happened to the environment: that it ``"failed"``, say.
        env: Index of the environment.
        cause: What it raised.
        seed: Of the episode's reset, where it was seeded.
        step: Number of the step in its episode, from 0. None: it was not stepped.
        action: Of that step.

    Attributes:
        env: Index of the environment.
        seed: Of the episode's reset, or None.
        step: Number of the step in its episode, or None.
        action: Of that step, or None.

    Example:
        >>> print(EnvError("failed", 3, ValueError("no torque"), seed=7, step=17, action=1))
        Environment 3 failed in step 17 of its episode (seed 7, action 1): ValueError: no torque.
    """

    _advice = "Its own traceback (--debug) shows where: mend it"

    def __init__(
        self,
        what: str,
        env: int,
        cause: BaseException | None = None,
        seed: int | None = None,
        step: int | None = None,
        action: Any = None,
    ):
        self.what, self.env, self.seed, self.step, self.action = what, env, seed, step, action
        self.__cause__ = cause
        super().__init__(self._text())

    def advise(self, failures: int = 1) -> None:
        """Adds what to do, before it is raised."""
        mend = (
            f"{self._advice}, or leave such episodes out by on_env_error='drop' (--on-env-error "
            "drop); 'restart' plays them again, for what does not happen every time."
        )
        if failures > 1:
            mend = f"It was failure {failures} without the end of an episode between: mend it."
        self.args = (f"{self.args[0]}\n{mend}",)

    def _text(self) -> str:
        where = "" if self.step is None else f" in step {self.step} of its episode"
        known = [] if self.seed is None else [f"seed {self.seed}"]
        known += [] if self.step is None else [f"action {_short(self.action)}"]
        came = f" ({', '.join(known)})" if known else ""
        cause = f"{type(self.__cause__).__name__}: {self.__cause__}"
        return (
            f"Environment {self.env} {self.what}{where}{came}: {_short(cause, 300).rstrip('.: ')}."
        )

    def __reduce__(self) -> tuple:
        state = {**self.__dict__, "args": self.args}
        text = "".join(traceback.format_exception(self.__cause__)) if self.__cause__ else ""
        return _arrived, (type(self), state, text)


class RemoteTraceback(Exception):
    """The text of a traceback of another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _arrived(kind: type[EnvError], state: dict[str, Any], text: str) -> EnvError:
    error = kind.__new__(kind)
    vars(error).update(state)
    error.args = vars(error).pop("args")
    error.__cause__ = RemoteTraceback(text) if text else None
    return error


class EnvWorkerDied(EnvError):
    """A worker process ended, or gave no answer in time and was killed.

    Args:
        envs: Indices of its environments.
        exitcode: Of the process, or None where it was killed for its silence.
        seeds: Of their episodes.
        steps: They were in, from 0.
        actions: Of those steps.
        timeout: Seconds in which there was no answer.

    Attributes:
        envs: Indices of its environments. ``env``, ``seed``, ``step`` and ``action`` are the
            first one's.
        exitcode: Of the process: -9 where signal 9 killed it.
        timeout: Seconds in which there was no answer, or None.

    Example:
        >>> print(EnvWorkerDied([3], -9, seeds=[7], steps=[None], actions=[None]))
        The process of environment 3 (being reset, seed 7) died of SIGKILL (-9, out of memory?).
    """

    _advice = "What it wrote to stderr, or the memory, tells why: mend it"

    def __init__(
        self,
        envs: Sequence[int],
        exitcode: int | None,
        seeds: Sequence[int | None],
        steps: Sequence[int | None],
        actions: Sequence[Any],
        timeout: float | None = None,
    ):
        self.envs, self.exitcode, self.timeout = list(envs), exitcode, timeout
        self._each = list(zip(envs, seeds, steps, actions, strict=True))
        super().__init__("died", envs[0], None, seeds[0], steps[0], actions[0])

    def _text(self) -> str:
        what = f"died {exit_words(self.exitcode)}"
        if self.timeout is not None:
            what = f"gave no answer within {self.timeout:g} s and was killed"
        plural = "s" * (len(self.envs) > 1)
        where = "; ".join(_doing(*each) for each in self._each[:_MOST])
        if len(self._each) > _MOST:
            where += f"; and {len(self._each) - _MOST} more,"
        return f"The process of environment{plural} {where} {what}."


def _doing(env: int, seed: int | None, step: int | None, action: Any) -> str:
    if step is not None:
        return f"{env} (step {step} of its episode, seed {seed}, action {_short(action)})"
    return f"{env} (being {'made' if seed is None else f'reset, seed {seed}'})"


def _short(thing: Any, length: int = 80) -> str:
    return " ".join(str(thing).split())[:length]


def exit_words(exitcode: int | None) -> str:
    """What to say of how a process died.

    Example:
        >>> exit_words(3), exit_words(-11)
        ('with exit code 3', 'of SIGSEGV (-11)')
    """
    if exitcode is None or exitcode >= 0:
        return f"with exit code {exitcode}"
    name = str(exitcode)
    with suppress(ValueError):
        name = signal.Signals(-exitcode).name
    hint = ", out of memory?" if exitcode == -signal.SIGKILL else ""
    return f"of {name} ({exitcode}{hint})"


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warns of the line that called into tfpg, however deep it was found.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn("The lander hovers.")
        >>> str(said[0].message)
        'The lander hovers.'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def check_rewards(rewards: np.ndarray, real: np.ndarray, steps: Any) -> None:
    """Raises where the reward of an environment is not finite.

    Args:
        rewards: ``[N]``, of one step.
        real: ``[N]``, whose reward counts.
        steps: ``[N]`` or a number, the steps in the episodes.

    Raises:
        EnvDataError: One is not.

    Example:
        >>> check_rewards(np.array([1.0, np.nan]), np.array([True, False]), 3)
    """
    wrong = real & ~np.isfinite(rewards)
    if wrong.any():
        n = int(np.argmax(wrong))
        step = int(np.broadcast_to(steps, wrong.shape)[n])
        raise EnvDataError(f"reward is {rewards[n]}", n, step)


def check_observations(observations: Any, real: np.ndarray, steps: Any) -> None:
    """Raises where an observation of an environment is not finite.

    Args:
        observations: ``[N, ...]`` of one step, or a dict of such arrays.
        real: ``[N]``, whose observation counts.
        steps: ``[N]`` or a number, the steps in the episodes.

    Raises:
        EnvDataError: One is not.

    Example:
        >>> check_observations(np.array([[1.0], [2.0]]), np.array([True, True]), 3)
    """
    named = observations if isinstance(observations, dict) else {"": observations}
    for name, x in named.items():
        if x.dtype.kind != "f":
            continue
        finite = np.isfinite(x).reshape(len(x), -1)
        wrong = real & ~finite.all(axis=1)
        if wrong.any():
            n = int(np.argmax(wrong))
            what = f"observation{f' {name!r}' if name else ''} has {int((~finite[n]).sum())}"
            what += f" non-finite of its {finite.shape[1]} values"
            raise EnvDataError(what, n, int(np.broadcast_to(steps, wrong.shape)[n]), "before")
