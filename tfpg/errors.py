"""Public exceptions and warnings."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

from tfpg.core.messages import describe_exit, one_line

_MAX_LISTED = 3  # environments named in one message


class CheckpointCorruptError(ValueError):
    """A model or checkpoint that is damaged, incomplete, or not of the type that its name says."""


class UnsafeCheckpointError(ValueError):
    """A model file with content that no model needs and that could harm the user who loads it."""


class VersionSkewError(ValueError):
    """A file written by a newer version of a package than the installed one."""


class TrainingWarning(UserWarning):
    """A sign that a training run is unlikely to succeed, although it runs without errors."""


class EnvDataError(FloatingPointError):
    """An environment returned NaN or infinity.

    Args:
        what: The value that is not finite, such as ``"a reward of nan"``.
        env: The index of the environment.
        step: The index of the step in its episode, from 0.
        when: ``"in"`` the step, or ``"before"`` it.

    Attributes:
        env: The index of the environment.
        step: The index of the step in its episode.
        what: See above.
        when: See above.

    Example:
        >>> print(EnvDataError("a reward of nan", env=1, step=17))  # doctest: +ELLIPSIS
        Environment 1 returned a reward of nan in step 17 of its episode. No update has used it...
    """

    def __init__(self, what: str, env: int, step: int, when: str = "in"):
        place = "after the reset, before" if (when, step) == ("before", 0) else when
        super().__init__(
            f"Environment {env} returned {what} {place} step {step} of its episode. No update has "
            "used it. Fix the environment; tfpg.check_env can help find the cause."
        )
        self.what, self.env, self.step, self.when = what, env, step, when

    def __reduce__(self) -> tuple:
        return type(self), (self.what, self.env, self.step, self.when)


class EnvError(RuntimeError):
    """An environment raised an exception, which is the cause of this one.

    When the error is sent from a worker process, the text of the cause's traceback goes with it.

    Args:
        what: What happened to the environment, such as ``"failed"``.
        env: The index of the environment.
        cause: The exception that the environment raised.
        seed: The seed that the episode was reset with, if any.
        step: The index of the step in its episode, from 0, or None if it was not stepped.
        action: The action of that step.

    Attributes:
        env: The index of the environment.
        seed: The seed that the episode was reset with, or None.
        step: The index of the step in its episode, or None.
        action: The action of that step, or None.

    Example:
        >>> print(EnvError("failed", 3, ValueError("no torque"), seed=7, step=17, action=1))
        Environment 3 failed in step 17 of its episode (seed 7, action 1): ValueError: no torque.
    """

    _advice = "Fix the environment (--debug shows the traceback)"

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
        """Add what to do about the error to its message.

        Args:
            failures: The number of failures since an episode was last finished.
        """
        advice = (
            f"{self._advice}, or skip such episodes of training with on_env_error='drop' "
            "(--on-env-error drop). 'restart' plays them again, which helps if the error does not "
            "always occur."
        )
        if failures > 1:
            advice = f"This is failure {failures} without a finished episode. {self._advice}."
        self.args = (f"{self.args[0]}\n{advice}",)

    def _text(self) -> str:
        where = "" if self.step is None else f" in step {self.step} of its episode"
        details = [] if self.seed is None else [f"seed {self.seed}"]
        details += [] if self.step is None else [f"action {one_line(self.action, 80)}"]
        known = f" ({', '.join(details)})" if details else ""
        cause = one_line(f"{type(self.__cause__).__name__}: {self.__cause__}", 300)
        return f"Environment {self.env} {self.what}{where}{known}: {cause}."

    def __reduce__(self) -> tuple:
        text = "".join(traceback.format_exception(self.__cause__)) if self.__cause__ else ""
        return _unpickle, (type(self), {**self.__dict__, "args": self.args}, text)


class EnvWorkerDied(EnvError):
    """A worker process died, or was killed because it did not respond in time.

    Args:
        envs: The indices of its environments.
        exitcode: The exit code of the process, or None if it was killed because it did not respond.
        seeds: The seed of each environment's episode.
        steps: The step that each environment was in, from 0.
        actions: The action of each of those steps.
        timeout: The time limit that the process exceeded, in seconds.
        end: How it ended, if there is no exit code.

    Attributes:
        envs: The indices of its environments. ``env``, ``seed``, ``step`` and ``action`` are
            those of the first one.
        exitcode: The exit code of the process, -9 if signal 9 killed it.
        timeout: The time limit that the process exceeded, in seconds, or None.

    Example:
        >>> print(EnvWorkerDied([3], -9, seeds=[7], steps=[None], actions=[None]))
        The process of environment 3 (being reset, seed 7) died of SIGKILL (-9, out of memory?).
    """

    _advice = "Fix the cause (see the stderr output and the memory usage of the process)"

    def __init__(
        self,
        envs: Sequence[int],
        exitcode: int | None,
        seeds: Sequence[int | None],
        steps: Sequence[int | None],
        actions: Sequence[Any],
        timeout: float | None = None,
        end: str = "",
    ):
        self.envs, self.exitcode, self.timeout = list(envs), exitcode, timeout
        self.host, self._end = "", end
        self._episodes = list(zip(envs, seeds, steps, actions, strict=True))
        super().__init__("died", envs[0], None, seeds[0], steps[0], actions[0])

    def at_host(self, host: str) -> None:
        """Add the name of the computer to the message."""
        self.host = host
        self.args = (self._text(),)

    def _text(self) -> str:
        end = self._end or f"died {describe_exit(self.exitcode)}"
        if self.timeout is not None:
            end = f"did not respond within {self.timeout:g} s and was killed"
        plural = "s" * (len(self.envs) > 1)
        where = "; ".join(_activity(*each) for each in self._episodes[:_MAX_LISTED])
        if self._end:  # and nothing is known about the episodes
            where = f"{self.envs[0]} to {self.envs[-1]}" if plural else f"{self.env}"
        elif len(self._episodes) > _MAX_LISTED:
            where += f"; and {len(self._episodes) - _MAX_LISTED} more"
        on_host = f" on {self.host}" if self.host else ""
        return f"The process of environment{plural} {where}{on_host} {end}."


class ClusterLostError(ConnectionError):
    """The head node of a Ray cluster cannot be reached anymore, so its workers are lost."""


class RemoteTraceback(Exception):
    """The text of a traceback from another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _activity(env: int, seed: int | None, step: int | None, action: Any) -> str:
    if step is not None:
        return f"{env} (step {step} of its episode, seed {seed}, action {one_line(action, 80)})"
    return f"{env} (being {'made' if seed is None else f'reset, seed {seed}'})"


def _unpickle(kind: type[EnvError], state: dict[str, Any], text: str) -> EnvError:
    error = kind.__new__(kind)
    vars(error).update(state)
    error.args = vars(error).pop("args")
    error.__cause__ = RemoteTraceback(text) if text else None
    return error
