"""Environments that wait for a seed after each episode, and can fail without ending a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from tfpg.core.messages import warn
from tfpg.envs.contracts import (
    mask_choices,
    single_reset,
    single_step,
    usable_space,
    warn_about_left_out,
    warn_about_unused_mask,
)
from tfpg.errors import EnvError

ON_ENV_ERROR = ("raise", "restart", "drop")

# Failures of an environment, or of a worker process, without a finished episode in between.
MAX_FAILURES = 10


class Failures:
    """Counts the failures of environments, and decides whether to raise or to warn.

    Args:
        on_error: ``"raise"``, ``"restart"`` or ``"drop"``; see `tfpg.envs.make_vec`.
        show: Called with the text of the first warning. There is only one for all environments.

    Example:
        >>> failures = Failures("drop", print)
        >>> failures.handle(EnvError("failed", 3, ValueError("no torque")))
        Environment 3 failed: ValueError: no torque. Its episode is left out. This warning is \
shown once; more than 10 failures without a finished episode raise an error.
        >>> failures.handle(EnvError("failed", 4, ValueError("no torque")))
    """

    def __init__(self, on_error: str = "raise", show: Callable[[str], Any] = warn):
        self.on_error = on_error
        self._show: Callable[[str], Any] | None = show
        self._counts: Counter[int] = Counter()  # since an episode was finished

    def handle(self, error: EnvError) -> None:
        """Raise the error, or warn about it.

        Raises:
            EnvError: ``on_error`` is ``"raise"``, or the environment failed too often.
        """
        self._counts[error.env] += 1
        if self.on_error == "raise" or self._counts[error.env] > MAX_FAILURES:
            error.advise(self._counts[error.env])
            raise error
        outcome = "played again" if self.on_error == "restart" else "left out"
        self.warn(
            f"{error} Its episode is {outcome}. This warning is shown once; more than "
            f"{MAX_FAILURES} failures without a finished episode raise an error."
        )

    def warn(self, text: str) -> None:
        """Show a warning, unless there was one before."""
        show, self._show = self._show, None
        if show is not None:
            show(text)

    def reset(self, env: int) -> None:
        """Count an environment's failures from 0 again, after a finished episode."""
        del self._counts[env]


class SupervisedEnv(gymnasium.Wrapper):
    """An environment that idles after its episode until it is reset with a seed.

    A vector environment keeps stepping and resetting all its environments, including those that
    have finished while others still play. Here this costs nothing, and every episode that counts
    starts from its own seed.

    Exceptions become an `EnvError`, which `Failures` may raise. Otherwise the environment idles,
    and the infos of the step contain ``env_failed=True`` and the error as ``env_error``: all steps
    of the episode, including this one, are void. If a reset fails, the first step of the episode
    reports it.

    Args:
        env: The environment.
        index: Index of the environment in the vector environment.
        build: Callable that makes the environment again for ``"restart"``. None: it is only reset.
        failures: Handles exceptions. None: they are raised.

    Example:
        >>> env = SupervisedEnv(gymnasium.make("CartPole-v1"))
        >>> observation, _ = env.reset(seed=7)
        >>> env.close()
    """

    def __init__(
        self,
        env: gymnasium.Env,
        index: int = 0,
        build: Callable[[], gymnasium.Env] | None = None,
        failures: Failures | None = None,
    ):
        super().__init__(env)
        self.index = index
        self._build = build
        self._failures = failures or Failures()
        self._space = self.observation_space = usable_space(env.observation_space)
        self._choices = mask_choices(self._space, env.action_space)
        if index == 0:
            warn_about_left_out(env.observation_space)
        self._idle = False
        self._observation: Any = None  # while it idles
        self._error: EnvError | None = None  # of the last reset
        self._seed: int | None = None
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        if seed is None and self._idle:
            return self._observation, {}
        self._idle, self._error, self._seed, self._steps = False, None, seed, 0
        try:
            result = self.env.reset(seed=seed, options=options or None)
            observation, info = single_reset(self._space, result, self._choices)
            if self.index == 0:
                warn_about_unused_mask(self._space, self.action_space, result[1])
        except Exception as error:
            self._error = self._fail("could not be reset", error)
            return self._observation, {}
        return observation, info

    def step(self, action):
        error, self._error = self._error, None
        if not self._idle:
            try:
                result = self.env.step(action)
                observation, reward, terminated, truncated, info = single_step(
                    self._space, result, self._choices
                )
                if self._failures.on_error != "raise":
                    _check_finite(observation, reward)
                self._steps += 1
                if terminated or truncated:
                    self._idle, self._observation = True, observation
                    self._failures.reset(self.index)
                return observation, reward, terminated, truncated, info
            except Exception as cause:
                error = self._fail("failed", cause, self._steps, action)
        info = {} if error is None else {"env_failed": True, "env_error": error}
        return self._observation, 0.0, False, False, info

    def idle(self) -> None:
        """Stop playing, and observe zeros, until the next reset with a seed."""
        self._idle, self._observation = True, zero_observation(self.observation_space)

    def _fail(self, what: str, cause: Exception, *where: Any) -> EnvError:
        """Raise the failure; or warn about it, prepare the next episode, and return the error."""
        error = EnvError(what, self.index, cause, self._seed, *where)
        self._failures.handle(error)
        if self._failures.on_error == "restart" and self._build is not None:
            with suppress(Exception):
                self.env.close()
            self.env = build_env(self._build, self.index, self._failures)
        self.idle()
        return error


def _check_finite(observation: Any, reward: Any) -> None:
    named = observation if isinstance(observation, dict) else {"observation": observation}
    for name, value in {**named, "reward": reward}.items():
        x = np.asarray(value)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            count = int((~np.isfinite(x)).sum())
            raise FloatingPointError(f"{count} of {x.size} numbers of its {name} are not finite")


def zero_observation(space: gymnasium.Space) -> Any:
    """Return an observation of zeros, or of a space's lowest values if zero is outside.

    Example:
        >>> zero_observation(gymnasium.spaces.Box(0, 1, (2,)))
        array([0., 0.], dtype=float32)
    """
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: zero_observation(part) for name, part in space.items()}
    if isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
        return space.start
    return next(iter(iterate(batch_space(space, 1), create_empty_array(space, 1))))


def build_env(build: Callable[[], Any], index: int, failures: Failures | None = None) -> Any:
    """Call ``build``, and turn an exception into an `EnvError`.

    Args:
        build: Makes an environment.
        index: Index of the environment.
        failures: Handles exceptions, and ``build`` is called again. None: they are raised.

    Raises:
        EnvError: ``build`` raised an exception.

    Example:
        >>> build_env(lambda: gymnasium.make("CartPole-v1"), 0).close()
    """
    while True:
        try:
            return build()
        except Exception as cause:
            error = EnvError("could not be made", index, cause)
            if failures is None:
                raise error from cause
            failures.handle(error)


def check_new(env: gymnasium.Env, others: Iterable[gymnasium.Env]) -> None:
    """Raise an error if an environment is one of the others, in whichever wrappers.

    Raises:
        ValueError: It is.
    """
    if any(env.unwrapped is other.unwrapped for other in others):
        raise ValueError(
            "The callable returned the same environment twice. It must make a new one each time; "
            "to play in a single environment, pass the environment itself."
        )


def vectorize(
    first: gymnasium.Env,
    build: Callable[[], gymnasium.Env] | None = None,
    num_envs: int = 1,
    on_error: str = "raise",
    first_index: int = 0,
) -> SyncVectorEnv:
    """Make a vector environment of supervised environments.

    Args:
        first: The first environment.
        build: Makes the others, and the first one again after a failure.
        num_envs: Number of environments.
        on_error: ``"raise"``, ``"restart"`` or ``"drop"``; see `tfpg.envs.make_vec`.
        first_index: The index of the first environment, if others are in other processes.

    Returns:
        The vector environment, which does not reset itself (autoreset mode DISABLED).

    Raises:
        EnvError: An environment could not be made. Those made before it are closed.
        ValueError: ``build`` returned the same environment twice, or a mask does not fit.

    Example:
        >>> def build():
        ...     return gymnasium.make("CartPole-v1")
        >>> vectorize(build(), build, num_envs=3).close()
    """
    failures, made = Failures(on_error), [first]
    try:
        made[0] = SupervisedEnv(first, first_index, build, failures)
        for index in range(first_index + 1, first_index + num_envs):
            assert build is not None
            env = build_env(build, index)
            check_new(env, made)
            made.append(SupervisedEnv(env, index, build, failures))
        builders = [lambda env=env: env for env in made]
        envs = SyncVectorEnv(builders, autoreset_mode=AutoresetMode.DISABLED)
    except BaseException:
        for env in made if build is not None else ():
            env.close()
        raise
    envs.on_env_error = on_error  # type: ignore[attr-defined]
    return envs
