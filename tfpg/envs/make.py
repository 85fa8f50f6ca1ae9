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
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from tfpg.envs import atari
from tfpg.envs.supervised import ON_ENV_ERROR, Parked, built, vector_of, vectorized
from tfpg.envs.worker_pool import Workers

EnvLike = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env | VectorEnv]

_EXPECTED = (
    'an environment id such as "CartPole-v1", a Gymnasium environment, '
    "a vector environment or a callable that makes one"
)


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
    env: EnvLike,
    num_envs: int = 1,
    *,
    seedable: bool = False,
    workers: int | None = None,
    timeout: float | None = None,
    on_env_error: str = "raise",
    **kwargs: Any,
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
        workers: Share the environments out among so many processes; see
            `tfpg.envs.worker_pool.Workers`. For an id or a callable whose steps are slow.
        timeout: Seconds after which a process that does not answer is killed. None: never.
        on_env_error: Where an environment raises an exception, or its process dies:
            ``"raise"`` an `tfpg.errors.EnvError`; ``"restart"``: make it anew and play the
            episode again; ``"drop"``: leave the episode out. More than ten failures of an
            environment without the end of an episode are raised.
        **kwargs: Passed to Gymnasium when ``env`` is an id.

    Returns:
        The vector environment.

    Raises:
        ValueError: The id is unknown, or an option does not suit.
        TypeError: ``env`` is none of the four.
        tfpg.errors.EnvError: An environment could not be made.

    Example:
        >>> envs = make_vec("CartPole-v1", num_envs=3)
        >>> envs.num_envs, envs.single_action_space
        (3, Discrete(2))
        >>> envs.close()
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, and it is {num_envs}.")
    _check_supervision(env, workers, timeout, on_env_error)
    if isinstance(env, VectorEnv):
        return env
    if isinstance(env, gymnasium.Env):
        return vector_of([Parked(env, on_error=on_env_error)], on_env_error)
    build: Any
    if isinstance(env, str):
        env_id = _registered(env)
        if atari.is_atari(env_id) and workers is None:
            return _gymnasium_call(atari.AtariGames, env_id, num_envs=num_envs, **kwargs)
        spec = _gymnasium_call(gymnasium.spec, env_id)
        if _vectorized(spec) and not seedable and workers is None and on_env_error == "raise":
            return _gymnasium_call(gymnasium.make_vec, env_id, num_envs=num_envs, **kwargs)
        build = partial(_make_registered, spec, kwargs)
    elif callable(env):
        build = env
    else:
        raise TypeError(f"Expected {_EXPECTED}, and got {type(env).__name__}.")
    # What an id's environment needs is said by `make`.
    first = build() if isinstance(env, str) else built(build, 0)
    if not isinstance(first, (gymnasium.Env, VectorEnv)):
        raise TypeError(
            f"The callable {env!r} returned {type(first).__name__}, "
            "and a Gymnasium environment was expected."
        )
    if isinstance(first, VectorEnv):
        try:
            _check_supervision(first, workers, timeout, on_env_error)
        except ValueError:
            first.close()
            raise
        return first
    if workers is None:
        return vectorized(first, build, num_envs, on_env_error)
    first.close()
    return Workers(build, num_envs, workers, like=first, timeout=timeout, on_env_error=on_env_error)


@contextmanager
def open_vec(env: EnvLike, num_envs: int = 1, **options: Any) -> Iterator[VectorEnv]:
    """`make_vec` for a ``with`` statement: closes what it made, never what it was given.

    Example:
        >>> with open_vec("CartPole-v1", num_envs=2) as envs:
        ...     observations, _ = envs.reset(seed=0)
        >>> observations.shape
        (2, 4)
    """
    envs = make_vec(env, num_envs, **options)
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


def has_own_vectorization(env_id: str) -> bool:
    """Whether many environments of an id are something else than each by itself.

    Example:
        >>> has_own_vectorization("CartPole-v1"), has_own_vectorization("Acrobot-v1")
        (True, False)
    """
    env_id = _registered(env_id)
    return atari.is_atari(env_id) or _vectorized(_gymnasium_call(gymnasium.spec, env_id))


def _vectorized(spec: EnvSpec) -> bool:
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def _check_supervision(env: Any, workers: int | None, timeout: float | None, on_error: str) -> None:
    if on_error not in ON_ENV_ERROR:
        raise ValueError(f"on_env_error is one of {ON_ENV_ERROR}, and it is {on_error!r}.")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be an integer of at least 1, and it is {workers!r}.")
    if timeout is not None and (workers is None or not timeout > 0):
        raise ValueError(
            f"timeout is the seconds, above 0, that workers have to answer, and it is {timeout} "
            f"with workers={workers}."
        )
    if isinstance(env, gymnasium.Env) and workers is not None:
        raise ValueError(
            "workers make their environments themselves: give an id or a callable, not one that "
            "is made already."
        )
    if isinstance(env, VectorEnv) and (workers is not None or on_error != "raise"):
        raise ValueError(
            "workers and on_env_error are for environments that are vectorized here, and this is "
            "a vector environment already: give an id or a callable."
        )


def _make_registered(spec: EnvSpec, kwargs: dict[str, Any]) -> gymnasium.Env:
    """An environment of this registration, which another process may not know."""
    gymnasium.registry.setdefault(spec.id, spec)
    return make(spec.id, **kwargs)


def _registered(env_id: str) -> str:
    """The full id: modules are imported, and an id without a version becomes the newest one."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise ImportError(f"The module {module!r} of {env_id!r}: {error}.") from error
            raise ImportError(
                f"The module {module!r} of {env_id!r} cannot be found: go to its folder, or name "
                "that in PYTHONPATH."
            ) from error
    if atari.is_atari(name):
        atari.register()
    if name in gymnasium.registry:
        return name
    pattern = re.compile(re.escape(name) + r"-v(\d+)")
    versions = {int(m[1]): key for key in gymnasium.registry if (m := pattern.fullmatch(key))}
    if not versions:
        raise ValueError(unknown_env(env_id))
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
    name = env_id.rpartition(":")[2].lower()
    # As games were called before ALE/.
    game = re.sub(r"(-ram)?(noframeskip|deterministic)?-v\d+$", "-v5", f"ale/{name}")
    near = [game] if game in known else difflib.get_close_matches(name, known)
    offer = ", ".join(known[name] for name in near)
    mend = f"Did you mean {offer}?" if near else "gymnasium.pprint_registry() lists them all."
    own = " One of your own is module:id, and the module is imported."
    own = "" if ":" in env_id or game in known else own
    return f"Unknown environment {env_id!r}. {mend}{own}"
