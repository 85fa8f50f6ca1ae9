"""Gymnasium environments from an id, an environment, a vector environment or a callable.

Whoever makes an environment closes it: `open_env` and `open_vec` are context managers that
close what they made and leave alone what they were given.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tfpg.envs import atari

EnvLike = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env | VectorEnv]

_EXPECTED = (
    'an environment id such as "CartPole-v1", a Gymnasium environment, '
    "a vector environment or a callable that makes one"
)


class Parked(gymnasium.Wrapper):
    """An environment that rests after its episode until it is reset with a seed.

    A vector environment goes on stepping, and resetting, the environments whose episode is
    over while the others finish theirs. Here that costs nothing, and every episode that counts
    begins with a seed of its own.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._resting: tuple[Any, dict] | None = None

    def reset(self, *, seed=None, options=None):
        if seed is None and self._resting is not None:
            return self._resting
        self._resting = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        if self._resting is not None:
            return self._resting[0], 0.0, False, False, self._resting[1]
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self._resting = observation, {}
        return observation, reward, terminated, truncated, info


def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """A Gymnasium environment, or a `ValueError` that offers the nearest ids.

    Args:
        env_id: An id of Gymnasium's registry, or ``"module:id"``. One of ``ALE/`` is an Atari
            game by the protocol of the DQN papers; see `tfpg.envs.atari`.
        **kwargs: Passed to `gymnasium.make`, for example ``render_mode="rgb_array"``.

    Returns:
        The environment.

    Raises:
        ValueError: No environment has this id.
        ImportError: The environment needs a package that is not installed.

    Example:
        >>> env = make("CartPole-v1")
        >>> env.action_space
        Discrete(2)
        >>> env.close()
    """
    env_id = _registered(env_id)
    build = atari.make_game if atari.is_atari(env_id) else gymnasium.make
    return _gymnasium_call(build, env_id, **kwargs)


def make_vec(
    env: EnvLike, num_envs: int = 1, *, seedable: bool = False, **kwargs: Any
) -> VectorEnv:
    """A vector environment for collecting episodes; see `open_vec` for one that closes itself.

    An id that Gymnasium can vectorize itself (``CartPole-v1``) is made that way, and Atari games
    are `tfpg.envs.atari.AtariGames`. Other ids and callables become a
    `gymnasium.vector.SyncVectorEnv` of `Parked` environments. Both of these are reset by whoever
    plays in them (autoreset mode DISABLED). A single environment becomes a vector of one, whatever
    ``num_envs`` says, and a vector environment is returned as it is.

    Args:
        env: An environment id, environment, vector environment, or a callable making one.
        num_envs: How many copies to make, at least 1.
        seedable: Never Gymnasium's own vectorization, which resets by itself.
        **kwargs: Passed to Gymnasium when ``env`` is an id.

    Returns:
        The vector environment.

    Raises:
        ValueError: The id is unknown or ``num_envs`` is below 1.
        TypeError: ``env`` is none of the four.

    Example:
        >>> envs = make_vec("CartPole-v1", num_envs=3)
        >>> envs.num_envs, envs.single_action_space
        (3, Discrete(2))
        >>> envs.close()
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, and it is {num_envs}.")
    if isinstance(env, VectorEnv):
        return env
    if isinstance(env, gymnasium.Env):
        return _sync([lambda: Parked(env)])
    if isinstance(env, str):
        env_id = _registered(env)
        if atari.is_atari(env_id):
            return _gymnasium_call(atari.AtariGames, env_id, num_envs=num_envs, **kwargs)
        spec = _gymnasium_call(gymnasium.spec, env_id)
        own = spec.vector_entry_point is not None and not spec.additional_wrappers
        if own and not seedable:
            return _gymnasium_call(gymnasium.make_vec, env_id, num_envs=num_envs, **kwargs)
        return _parked(lambda: make(env_id, **kwargs), num_envs)
    if callable(env):
        build: Callable[[], Any] = env
        first = build()
        if isinstance(first, VectorEnv):
            return first
        if isinstance(first, gymnasium.Env):
            ready = [first]
            return _parked(lambda: ready.pop() if ready else build(), num_envs)
        raise TypeError(
            f"The callable {env!r} returned {type(first).__name__}, "
            "and a Gymnasium environment was expected."
        )
    raise TypeError(f"Expected {_EXPECTED}, and got {type(env).__name__}.")


@contextmanager
def open_vec(env: EnvLike, num_envs: int = 1, *, seedable: bool = False) -> Iterator[VectorEnv]:
    """`make_vec` for a ``with`` statement: closes what it made, never what it was given.

    Example:
        >>> with open_vec("CartPole-v1", num_envs=2) as envs:
        ...     observations, _ = envs.reset(seed=0)
        >>> observations.shape
        (2, 4)
    """
    envs = make_vec(env, num_envs, seedable=seedable)
    try:
        yield envs
    finally:
        if not isinstance(env, (gymnasium.Env, VectorEnv)):
            envs.close()


@contextmanager
def open_env(env: EnvLike, **kwargs: Any) -> Iterator[gymnasium.Env]:
    """A single environment for a ``with`` statement: closes what it made.

    Args:
        env: An environment id, an environment, or a callable making one.
        **kwargs: Passed to Gymnasium when ``env`` is an id.

    Raises:
        ValueError: The id is unknown.
        TypeError: ``env`` is something else, a vector environment included.

    Example:
        >>> with open_env("CartPole-v1", render_mode="rgb_array") as env:
        ...     env.render_mode
        'rgb_array'
    """
    if isinstance(env, gymnasium.Env):
        yield env
        return
    made: Any = env
    if isinstance(env, str):
        made = make(env, **kwargs)
    elif callable(env) and not isinstance(env, VectorEnv):
        made = env()
    if not isinstance(made, gymnasium.Env):
        if made is not env and isinstance(made, VectorEnv):
            made.close()
        raise TypeError(
            "Expected a single environment (an id, a Gymnasium environment or a callable that "
            f"makes one), and got {type(made).__name__}."
        )
    try:
        yield made
    finally:
        made.close()


def spaces_of(env: EnvLike) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Observation and action space of one environment.

    Example:
        >>> observation_space, action_space = spaces_of("CartPole-v1")
        >>> observation_space.shape, action_space
        ((4,), Discrete(2))
    """
    if isinstance(env, gymnasium.Env):
        return env.observation_space, env.action_space
    with open_vec(env) as envs:
        return envs.single_observation_space, envs.single_action_space


def reward_threshold(env: EnvLike) -> float | None:
    """The return at which an environment counts as solved, where its registration says so.

    Example:
        >>> reward_threshold("CartPole-v1"), reward_threshold("Pendulum-v1")
        (475.0, None)
    """
    with open_vec(env) as envs:
        return None if envs.spec is None else envs.spec.reward_threshold


def render_modes(env_id: str) -> tuple[str, ...]:
    """The render modes that an environment says it has; empty where it says nothing.

    Raises:
        ValueError: The id is unknown.
        ImportError: The environment needs a package that is not installed.

    Example:
        >>> render_modes("CartPole-v1")
        ('human', 'rgb_array')
    """
    spec = _gymnasium_call(gymnasium.spec, _registered(env_id))
    build = spec.entry_point
    if isinstance(build, str):
        build = _gymnasium_call(lambda _: load_env_creator(spec.entry_point), env_id)
    return tuple((getattr(build, "metadata", None) or {}).get("render_modes", ()))


def same_env(one: str, other: str) -> bool:
    """Whether two ids name the same environment, in whatever spelling.

    Example:
        >>> same_env("CartPole", "CartPole-v1")
        True
    """
    try:
        return _registered(one) == _registered(other)
    except (ValueError, ImportError):
        return one == other


def _parked(build: Callable[[], gymnasium.Env], count: int) -> SyncVectorEnv:
    """Vectorizes ``count`` parked environments, and closes them if not all can be made."""
    made: list[Parked] = []
    try:
        for _ in range(count):
            env = build()
            if any(env is other.env for other in made):
                raise ValueError(
                    "The callable returned the same environment twice: it must make a new one "
                    "each time. Give the environment itself to play in it alone."
                )
            made.append(Parked(env))
        remaining = iter(made)
        return _sync([lambda: next(remaining)] * count)
    except BaseException:
        for parked in made:
            parked.close()
        raise


def _sync(makers: list[Callable[[], gymnasium.Env]]) -> SyncVectorEnv:
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


def _registered(env_id: str) -> str:
    """The full id: modules are imported, and an id without a version becomes the newest one."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"The module {module!r} of {env_id!r} cannot be found.") from error
    if atari.is_atari(name):
        atari.register()
    if name in gymnasium.registry:
        return name
    pattern = re.compile(re.escape(name) + r"-v(\d+)")
    versions = {int(m[1]): key for key in gymnasium.registry if (m := pattern.fullmatch(key))}
    if not versions:
        raise ValueError(unknown_env(name))
    return versions[max(versions)]


def _gymnasium_call(function: Callable, env_id: str, **kwargs: Any) -> Any:
    try:
        return function(env_id, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"{env_id} needs a package that is not installed: {error}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise ValueError(unknown_env(env_id)) from error
    except gymnasium.error.Error as error:
        raise ValueError(f"Environment {env_id!r} cannot be made: {error}") from error
    except ModuleNotFoundError as error:
        raise ImportError(f"{env_id} needs a package that is not installed: {error}") from error


def unknown_env(env_id: str) -> str:
    """The sentence that says an id is unknown and offers the nearest ones."""
    with suppress(ImportError):
        atari.register()
    known = {name.lower(): name for name in gymnasium.registry}
    # As games were called before ALE/.
    game = re.sub(r"(-ram)?(noframeskip|deterministic)?-v\d+$", "-v5", f"ale/{env_id.lower()}")
    near = [game] if game in known else difflib.get_close_matches(env_id.lower(), known)
    offer = ", ".join(known[name] for name in near)
    mend = f"Did you mean {offer}?" if near else "gymnasium.pprint_registry() lists them all."
    return f"Unknown environment {env_id!r}. {mend}"
