"""Environments that rest after their episode, and under supervision do not break a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from tfpg.core.messages import warn
from tfpg.core.seeding import reset_seed
from tfpg.errors import EnvError

ON_ENV_ERROR = ("raise", "restart", "drop")

# Failures of an environment in a row, without an episode that ended between them.
MOST_FAILURES = 10


class Parked(gymnasium.Wrapper):
    """An environment that rests after its episode until it is reset with a seed.

    A vector environment goes on stepping, and resetting, the environments whose episode is
    over while the others finish theirs. Here that costs nothing, and every episode that counts
    begins with a seed of its own.

    What the environment raises becomes an `EnvError`. Unless that is to be raised, the
    environment rests, and the infos of the step hold ``env_failed=True``: what was played of the
    episode, this step included, is void. ``env_error`` is the error. An episode that cannot begin
    is tried again, with ``"drop"`` from a seed derived from its own.

    Args:
        env: The environment.
        index: Of it in the vector environment.
        build: Makes it anew. None: it can only be reset.
        on_error: ``"raise"``, ``"restart"`` or ``"drop"``; see `tfpg.envs.make_vec`.
        tell: Is told of the first failure.

    Example:
        >>> env = Parked(gymnasium.make("CartPole-v1"))
        >>> observation, _ = env.reset(seed=7)
        >>> env.close()
    """

    def __init__(
        self,
        env: gymnasium.Env,
        index: int = 0,
        build: Callable[[], gymnasium.Env] | None = None,
        on_error: str = "raise",
        tell: Callable[[str], Any] = warn,
    ):
        super().__init__(env)
        self._index = index
        self._build = build
        self._on_error = on_error
        self._tell: Callable[[str], Any] | None = tell
        self._resting: tuple[Any, dict] | None = None
        self._seed: int | None = None
        self._steps = 0
        self._failures = 0
        space = env.observation_space
        self._shape = space.shape if isinstance(space, gymnasium.spaces.Box) else None

    def reset(self, *, seed=None, options=None):
        if seed is None and self._resting is not None:
            return self._resting
        self._resting, self._seed, self._steps = None, seed, 0
        while True:
            try:
                observation, info = self.env.reset(seed=self._seed, options=options)
                self._check_shape(observation)
                return observation, info
            except Exception as error:
                self._failed(EnvError("could not be reset", self._index, error, seed=self._seed))
                if self._on_error == "drop" and self._seed is not None:
                    self._seed = reset_seed(np.random.default_rng(self._seed))

    def step(self, action):
        if self._resting is not None:
            return self._resting[0], 0.0, False, False, self._resting[1]
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._check_shape(observation)
            if self._on_error != "raise":
                check_finite(observation, reward)
        except Exception as error:
            what = self._index, error, self._seed, self._steps, action
            info = {"env_failed": True, "env_error": self._failed(EnvError("failed", *what))}
            return self.rest(), 0.0, False, False, info
        self._steps += 1
        if terminated or truncated:
            self._resting = observation, {}
            self._failures = 0
        return observation, reward, terminated, truncated, info

    def rest(self) -> Any:
        """Rests without an episode, and observes zeros, which are returned."""
        zeros = blank(self.observation_space)
        self._resting = zeros, {}
        return zeros

    def _check_shape(self, observation: Any) -> None:
        if self._shape is not None and np.shape(observation) != self._shape:
            raise ValueError(
                f"its observation is of shape {np.shape(observation)}, and its observation_space "
                f"of {self._shape}"
            )

    def _failed(self, error: EnvError) -> EnvError:
        """Raises the error; or says it once, makes the environment anew, and gives it back."""
        self._failures += 1
        if self._on_error == "raise" or self._failures > MOST_FAILURES:
            error.advise(self._failures)
            raise error
        if self._tell:
            self._tell(told(error, self._on_error))
            self._tell = None
        if self._on_error == "restart" and self._build:
            with suppress(Exception):
                self.env.close()
            try:
                self.env = self._build()
            except Exception as cause:
                self._failed(EnvError("could not be made anew", self._index, cause))
        return error


def check_finite(observation: Any, reward: Any) -> None:
    """Raises where a number of a step is none.

    Raises:
        FloatingPointError: One is NaN or infinite.

    Example:
        >>> check_finite({"speed": np.array([1.0, 2.0])}, 0.5)
    """
    named = observation if isinstance(observation, dict) else {"observation": observation}
    for name, x in {**named, "reward": reward}.items():
        x = np.asarray(x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            wrong = int((~np.isfinite(x)).sum())
            raise FloatingPointError(
                f"{wrong} of the {x.size} numbers of its {name} are not finite"
            )


def told(error: EnvError, on_error: str) -> str:
    """What is said of a failure that does not end the training."""
    then = "played anew" if on_error == "restart" else "left out"
    return (
        f"{error} What was played of the episode is dropped and the episode {then}; this is said "
        f"once, and more than {MOST_FAILURES} failures without the end of an episode are raised."
    )


def once(tell: Callable[[str], Any]) -> Callable[[str], Any]:
    """Says the first of what it is told, whoever tells it.

    Example:
        >>> say = once(print)
        >>> say("Environment 3 failed."), say("Environment 4 failed.")
        Environment 3 failed.
        (None, None)
    """
    said = False

    def first(text: str) -> None:
        nonlocal said
        if not said:
            said = True
            tell(text)

    return first


def blank(space: gymnasium.Space) -> Any:
    """An observation of zeros, for who has none.

    Example:
        >>> blank(gymnasium.spaces.Box(0, 1, (2,)))
        array([0., 0.], dtype=float32)
    """
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: blank(part) for name, part in space.items()}
    if isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
        return space.start  # 0 may be outside
    return next(iter(iterate(batch_space(space, 1), create_empty_array(space, 1))))


def built(build: Callable[[], Any], index: int) -> Any:
    """What ``build`` makes.

    Raises:
        EnvError: It raised something.

    Example:
        >>> built(lambda: gymnasium.make("CartPole-v1"), 0).close()
    """
    try:
        return build()
    except Exception as error:
        raise EnvError("could not be made", index, error) from error


def vectorized(
    first: gymnasium.Env, build: Callable[[], gymnasium.Env], count: int, on_error: str
) -> SyncVectorEnv:
    """Vectorizes ``count`` parked environments, and closes them if not all can be made.

    Raises:
        EnvError: One could not be made.
        ValueError: ``build`` made the same one twice.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> vectorized(env, lambda: gymnasium.make("CartPole-v1"), 3, "raise").close()
    """
    tell = once(warn)
    made = [Parked(first, 0, build, on_error, tell)]
    try:
        for index in range(1, count):
            env = built(build, index)
            if any(env is other.env for other in made):
                raise ValueError(
                    "The callable returned the same environment twice: it must make a new one "
                    "each time. Give the environment itself to play in it alone."
                )
            made.append(Parked(env, index, build, on_error, tell))
        return vector_of(made, on_error)
    except BaseException:
        for parked in made:
            parked.close()
        raise


def vector_of(made: list[Parked], on_error: str) -> SyncVectorEnv:
    """A vector environment of these, that knows what comes of their errors.

    Example:
        >>> vector_of([Parked(gymnasium.make("CartPole-v1"))], "drop").on_env_error
        'drop'
    """
    makers = [lambda parked=parked: parked for parked in made]
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    envs.on_env_error = on_error  # type: ignore[attr-defined]
    return envs
