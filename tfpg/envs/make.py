"""Make Gymnasium environments from ids, environments, vector environments and callables.

`open_env` and `open_vec` close the environments that they make, and leave yours open.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import VectorEnv

from tfpg.core.backend import search_current_folder
from tfpg.core.messages import (
    MUJOCO_DEPRECATIONS,
    alternatives,
    hidden_messages,
    one_line,
    warn,
)
from tfpg.envs.contracts import usable_space, warn_about_left_out
from tfpg.envs.supervised import ON_ENV_ERROR, build_env, vectorize

Spaces = tuple[gymnasium.Space, gymnasium.Space]
FUNCTIONAL = "functional/"  # the namespace of tfpg's functional environments
POOLED = "envpool/"  # and of EnvPool's environments
_CAMERA = {"camera_id", "camera_name", "default_camera_config", "xml_file"}
_CONSTANTS = {"true": True, "false": False, "none": None}
EnvLike = str | gymnasium.Env | VectorEnv | FuncEnv | Callable[[], gymnasium.Env | VectorEnv]


def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """Make a single environment from its id.

    Args:
        env_id: An id of Gymnasium's registry, or ``"module:id"``. Without a version, the newest one
            is made. Keyword arguments may follow: ``"FrozenLake-v1?is_slippery=false"``. An id that
            starts with ``ALE/`` is an Atari game under the protocol of the DQN papers; see
            `tfpg.envs.atari`.
        **kwargs: Passed to `gymnasium.make`, for example ``render_mode="rgb_array"``.

    Returns:
        The environment.

    Raises:
        ValueError: No environment has this id. The message suggests similar ids.
        ImportError: The environment needs a package that is not installed.

    Example:
        >>> env = make("CartPole-v1")
        >>> env.action_space
        Discrete(2)
        >>> env.close()
    """
    env_id, own = _resolve(env_id)
    function: Callable[..., gymnasium.Env] = gymnasium.make
    if is_atari(env_id):
        from tfpg.envs.atari import make_game as function
    with _gymnasium_errors(env_id), ExitStack() as stack:
        spec = gymnasium.spec(env_id)
        entry_point = str(spec.entry_point)
        if "mujoco" in entry_point:
            stack.enter_context(hidden_messages(MUJOCO_DEPRECATIONS))
        options = {**own, **kwargs}
        is_gymnasiums = entry_point.startswith("gymnasium.envs.mujoco")
        if is_gymnasiums and options.get("render_mode") and not _CAMERA & {*spec.kwargs, *options}:
            # The default of Gymnasium 1.4 stands still, and HalfCheetah runs out of the picture.
            options["camera_name"] = "track"
        return function(env_id, **options)


def make_vec(
    env: EnvLike,
    num_envs: int = 1,
    *,
    manual_resets: bool = False,
    workers: int | None = None,
    timeout: float | None = None,
    on_env_error: str = "raise",
    first_index: int = 0,
    **kwargs: Any,
) -> VectorEnv:
    """Make a vector environment; see `open_vec` for one that is closed automatically.

    An id for which Gymnasium has its own vector environment (``CartPole-v1``, not ``Acrobot-v1``)
    becomes that environment. Atari games become `tfpg.envs.atari.AtariGames`. Other ids and
    callables become a `gymnasium.vector.SyncVectorEnv` of `tfpg.envs.supervised.SupervisedEnv`, or
    a `tfpg.envs.worker_pool.WorkerPool`. Only Gymnasium's own resets itself; the others do not
    (autoreset mode DISABLED). A single environment becomes a vector of one, whatever ``num_envs``
    is. A vector environment is returned unchanged.

    Args:
        env: An environment id, environment, vector environment, or a callable that makes one.
        num_envs: Number of copies to make, at least 1.
        manual_resets: Make environments that do not reset themselves, so that each reset has its
            own seed. Gymnasium's own vectorization is not used.
        workers: Number of processes to distribute the environments over, for an id or a callable
            with slow steps. None: step them in this process.
        timeout: Seconds after which a worker that has not answered is killed. None: never.
        on_env_error: What happens if an environment raises an exception or its worker dies.
            ``"raise"``: raise a `tfpg.errors.EnvError`. ``"restart"``: re-create the environment
            and play the same episode again. ``"drop"``: leave the episode out. More than ten
            failures of an environment without a finished episode raise an error in any case.
        first_index: The index of the first environment in error messages.
        **kwargs: Passed to Gymnasium if ``env`` is an id.

    Returns:
        The vector environment.

    Raises:
        ValueError: The id is unknown, or an option is invalid for this environment.
        TypeError: ``env`` is none of the four kinds.
        tfpg.errors.EnvError: An environment could not be made.

    Example:
        >>> envs = make_vec("CartPole-v1", num_envs=3)
        >>> envs.num_envs, envs.single_action_space
        (3, Discrete(2))
        >>> envs.close()
    """
    _check_options(num_envs, workers, timeout, on_env_error)
    in_process = workers is None and on_env_error == "raise"
    if isinstance(env, VectorEnv):
        return _ready_made(env, in_process)
    if isinstance(env, FuncEnv):
        from tfpg.envs.functional import FunctionalVectorEnv

        return FunctionalVectorEnv(env, num_envs)
    if isinstance(env, gymnasium.Env):
        if workers is not None:
            raise ValueError(
                "Workers make their own environments: pass an id or a callable instead of an "
                "environment."
            )
        return vectorize(_with_masks(env), on_error=on_env_error)
    if isinstance(env, str):
        env_id, own = _resolve(env)
        kwargs = {**own, **kwargs}
        with _gymnasium_errors(env_id):
            if is_atari(env_id) and workers is None:
                from tfpg.envs.atari import AtariGames

                return AtariGames(env_id, num_envs=num_envs, **kwargs)
            spec = gymnasium.spec(env_id)
            resets_itself = not env_id.startswith(FUNCTIONAL)
            if _has_vector_class(spec) and in_process and not (manual_resets and resets_itself):
                return gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs)
        build: Callable[[], Any] = partial(_make_registered, spec, kwargs)
        first = build()  # its errors are clearer than an EnvError
    elif callable(env):
        build = env
        first = build_env(build, first_index)
    else:
        raise TypeError(
            'Expected an environment id such as "CartPole-v1", a Gymnasium environment, a vector '
            f"environment or a callable that makes one, but got {type(env).__name__}."
        )
    if isinstance(first, VectorEnv):
        return _ready_made(first, in_process, close=True)
    if not isinstance(first, gymnasium.Env):
        raise TypeError(
            f"Expected a callable that returns a Gymnasium environment, but {env!r} returned "
            f"{type(first).__name__}."
        )
    first, build = _all_with_masks(first, build)
    if workers is None:
        return vectorize(first, build, num_envs, on_env_error, first_index)
    from tfpg.envs.worker_pool import WorkerPool

    first.close()
    return WorkerPool(build, first, num_envs, workers, timeout=timeout, on_env_error=on_env_error)


@contextmanager
def open_vec(env: EnvLike, num_envs: int = 1, **options: Any) -> Iterator[VectorEnv]:
    """Open a vector environment for a ``with`` statement.

    Args:
        env: As for `make_vec`. An environment that is passed in is left open.
        num_envs: Number of copies to make.
        **options: The options of `make_vec`.

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
            _close(envs)


@contextmanager
def open_env(env: EnvLike, **kwargs: Any) -> Iterator[gymnasium.Env]:
    """Open a single environment for a ``with`` statement.

    Args:
        env: An environment id, an environment, which is left open, or a callable that makes one.
        **kwargs: Passed to Gymnasium if ``env`` is an id.

    Raises:
        ValueError: The id is unknown.
        TypeError: ``env`` is something else, for example a vector environment.

    Example:
        >>> with open_env("CartPole-v1", render_mode="rgb_array") as env:
        ...     env.render_mode
        'rgb_array'
    """
    if isinstance(env, gymnasium.Env):
        yield _with_masks(env)
        return
    made: Any = env
    if isinstance(env, FuncEnv):
        from tfpg.envs.functional import single

        made = single(env, **kwargs)
    elif isinstance(env, str):
        made = make(env, **kwargs)
    elif callable(env) and not isinstance(env, VectorEnv):
        made = env()
    try:
        if not isinstance(made, gymnasium.Env):
            raise TypeError(
                "Expected a single environment (an id, a Gymnasium environment or a callable that "
                f"makes one), but got {type(made).__name__}."
            )
        yield _with_masks(made, new=True)
    finally:
        if made is not env and isinstance(made, (gymnasium.Env, VectorEnv)):
            _close(made)


def _with_masks(env: gymnasium.Env, new: bool = False) -> gymnasium.Env:
    from tfpg.envs.action_masks import with_masks

    return with_masks(env, new)


def _all_with_masks(
    first: gymnasium.Env, build: Callable[[], Any]
) -> tuple[gymnasium.Env, Callable[[], Any]]:
    """The first of several environments and how to make the others, all with masks or none."""
    from tfpg.envs.action_masks import masked

    new = _with_masks(first, new=True)
    return new, build if new is first else partial(masked, build)


def check_separate(envs: VectorEnv, other: gymnasium.Env | VectorEnv, what: str) -> None:
    """Raise an error if another environment is, or contains, one of the training environments.

    Args:
        envs: The training environments.
        other: Another environment or vector environment.
        what: Name of the other one, which begins the message.

    Raises:
        ValueError: It is, so that playing in it would cut training episodes short.
    """
    mine, theirs = _all_parts(envs), _all_parts(other)
    if any(one is another for one in mine for another in theirs):
        raise ValueError(
            f"{what} is the training environment, whose episodes it would cut short: pass a "
            "different one, such as an id or a callable that makes one."
        )


def _all_parts(envs: gymnasium.Env | VectorEnv) -> list[Any]:
    """An environment, or a vector environment and those in it, without wrappers."""
    parts = getattr(envs.unwrapped, "envs", ())
    return [envs.unwrapped, *(part.unwrapped for part in parts)]


def _close(env: gymnasium.Env | VectorEnv) -> None:
    """Close an environment. What was played in it is not lost if that fails."""
    try:
        env.close()
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 300)
        warn(f"The environment failed when it was closed: {reason}. Nothing is lost.")


def spaces_of(env: EnvLike | Spaces) -> Spaces:
    """Return the observation and action space of one environment.

    Keys of a `Dict` that no model can take, such as text, are left out. An environment id or a
    callable makes an environment for this; ``(observation_space, action_space)`` does not.

    Example:
        >>> observation_space, action_space = spaces_of("CartPole-v1")
        >>> observation_space.shape, action_space
        ((4,), Discrete(2))
    """
    if isinstance(env, tuple):
        space, actions = env
    elif isinstance(env, gymnasium.Env):
        space, actions = _with_masks(env).observation_space, env.action_space
    else:
        with open_vec(env) as envs:
            space, actions = envs.single_observation_space, envs.single_action_space
    warn_about_left_out(space)
    return usable_space(space), actions


def reward_threshold(env: EnvLike) -> float | None:
    """Return the return at which an environment counts as solved, if it is registered with one.

    Example:
        >>> reward_threshold("CartPole-v1"), reward_threshold("Pendulum-v1")
        (475.0, None)
    """
    with open_vec(env) as envs:
        return None if envs.spec is None else envs.spec.reward_threshold


def render_modes(env_id: str) -> tuple[str, ...]:
    """Return the render modes in an environment's metadata.

    Raises:
        ValueError: The id is unknown.
        ImportError: The environment needs a package that is not installed.

    Example:
        >>> render_modes("CartPole-v1")
        ('human', 'rgb_array')
    """
    env_id, _ = _resolve(env_id)
    with _gymnasium_errors(env_id):
        entry_point: Any = gymnasium.spec(env_id).entry_point
        if isinstance(entry_point, str):
            entry_point = load_env_creator(entry_point)
    return tuple((getattr(entry_point, "metadata", None) or {}).get("render_modes", ()))


def same_env(one: str, other: str) -> bool:
    """Return whether two ids name the same environment.

    Example:
        >>> same_env("CartPole", "CartPole-v1")
        True
    """
    try:
        return _resolve(one) == _resolve(other)
    except (ValueError, ImportError):
        return one == other


def has_own_vectorization(env_id: str) -> bool:
    """Return whether an id has a vector environment of its own, instead of copies of a single one.

    Example:
        >>> has_own_vectorization("CartPole-v1"), has_own_vectorization("Acrobot-v1")
        (True, False)
    """
    env_id, _ = _resolve(env_id)
    with _gymnasium_errors(env_id):
        return is_atari(env_id) or _has_vector_class(gymnasium.spec(env_id))


def split_env_id(env_id: str) -> tuple[str, dict[str, Any]]:
    """Return an id without its keyword arguments, and these.

    Raises:
        ValueError: An argument has no value.

    Example:
        >>> split_env_id("FrozenLake-v1?is_slippery=false&map_name=8x8")
        ('FrozenLake-v1', {'is_slippery': False, 'map_name': '8x8'})
    """
    name, _, query = env_id.partition("?")
    try:
        pairs = parse_qsl(
            query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query)
        )
    except ValueError as error:
        raise ValueError(f"{env_id!r} must have the form ID?KEY=VALUE&KEY=VALUE.") from error
    return name, {key: parse_value(value) for key, value in pairs}


def join_env_id(env_id: str, kwargs: Mapping[str, Any]) -> str:
    """Return an id with more keyword arguments, which replace those that it has.

    Example:
        >>> join_env_id("FrozenLake-v1?map_name=4x4", {"map_name": "8x8", "is_slippery": False})
        'FrozenLake-v1?map_name=8x8&is_slippery=false'
    """
    name, own = split_env_id(env_id)
    texts = {key: _value_text(value) for key, value in {**own, **kwargs}.items()}
    return f"{name}?{urlencode(texts, quote_via=quote, safe='[]{}:,/ ')}" if texts else name


def parse_value(text: str) -> Any:
    """Return the value of a JSON text. Anything else is text itself.

    Example:
        >>> [parse_value(text) for text in ("0.5", "True", "none", "[1, 2]", "8x8", '"5"')]
        [0.5, True, None, [1, 2], '8x8', '5']
    """
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    with suppress(ValueError):
        return json.loads(text)
    return text


def is_atari(env_id: str) -> bool:
    """Return whether an id is in the namespace ``ALE/``.

    Example:
        >>> is_atari("ALE/Pong-v5"), is_atari("CartPole-v1")
        (True, False)
    """
    return split_env_id(env_id)[0].lower().rpartition(":")[2].startswith("ale/")


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) and parse_value(value) == value else json.dumps(value)


def _register_atari() -> None:
    from tfpg.envs.atari import register

    register()


def _has_vector_class(spec: EnvSpec) -> bool:
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def _check_options(
    num_envs: int, workers: int | None, timeout: float | None, on_env_error: str
) -> None:
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, but it is {num_envs}.")
    if on_env_error not in ON_ENV_ERROR:
        choices = alternatives(map(repr, ON_ENV_ERROR))
        raise ValueError(f"on_env_error must be {choices}, but it is {on_env_error!r}.")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be an integer of at least 1, but it is {workers!r}.")
    if workers is not None and not hasattr(os, "killpg"):
        raise ValueError("Worker processes do not run on Windows: leave out workers.")
    if timeout is not None and (workers is None or not timeout > 0):
        raise ValueError(
            "timeout must be a number of seconds above 0, and needs workers, but it is "
            f"{timeout} with workers={workers}."
        )


def _ready_made(envs: VectorEnv, in_process: bool, close: bool = False) -> VectorEnv:
    """Return a vector environment, unless the options were for one that is made here."""
    for name in ("single_observation_space", "single_action_space"):
        if not isinstance(getattr(envs, name, None), gymnasium.Space):
            raise ValueError(
                f"{type(envs.unwrapped).__name__} has no {name}: set it to the space of a single "
                "environment."
            )
    if in_process:
        from tfpg.envs.action_masks import warn_about_unused_method

        warn_about_unused_method(envs)
        return envs
    if close:
        envs.close()
    raise ValueError(
        "workers and on_env_error are for environments that tfpg vectorizes, but this is a vector "
        "environment already: pass an id, or a callable that makes a single environment."
    )


def _make_registered(spec: EnvSpec, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Make an environment, also in a worker process, where its id may not be registered."""
    gymnasium.registry.setdefault(spec.id, spec)
    return make(spec.id, **kwargs)


def _resolve(env_id: str) -> tuple[str, dict[str, Any]]:
    """The full id of an environment, and its keyword arguments."""
    name, kwargs = split_env_id(env_id)
    return _full_id(name), kwargs


def _full_id(env_id: str) -> str:
    """Import the module of an id, and add the newest version if it has none."""
    module, _, name = env_id.rpartition(":")
    if module:
        search_current_folder()
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise ImportError(f"Cannot import the module of {env_id!r}: {error}.") from error
            raise ImportError(
                f"Cannot find the module {module!r} of {env_id!r}: run in its folder, or add that "
                "folder to PYTHONPATH."
            ) from error
    if is_atari(name):
        _register_atari()
    if name.startswith(FUNCTIONAL):
        importlib.import_module("tfpg.envs.functional")  # which registers them
    if name.startswith(POOLED):
        from tfpg.envs.pooled import register

        try:
            register(POOLED)
        except ModuleNotFoundError as error:
            if error.name != "envpool":
                raise ImportError(f"EnvPool cannot be imported: {error}") from error
            raise ImportError(f"{env_id} needs EnvPool: pip install envpool") from error
    if name in gymnasium.registry:
        return name
    pattern = re.compile(re.escape(name) + r"-v(\d+)")
    versions = {int(m[1]): key for key in gymnasium.registry if (m := pattern.fullmatch(key))}
    if not versions:
        raise _unknown_env(env_id)
    return versions[max(versions)]


@contextmanager
def _gymnasium_errors(env_id: str) -> Iterator[None]:
    """Turn Gymnasium's errors into ValueError and ImportError."""
    try:
        yield
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        extra = re.search(r"gymnasium\[[\w-]+\]", str(error))  # Gymnasium's advice
        fix = f"pip install '{extra[0]}'" if extra else error
        raise ImportError(f"{env_id} needs a package that is not installed: {fix}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise _unknown_env(env_id) from error
    except gymnasium.error.Error as error:
        raise ValueError(f"Cannot make the environment {env_id!r}: {error}") from error


def _unknown_env(env_id: str) -> ValueError:
    with suppress(ImportError):
        _register_atari()
    known = {name.lower(): name for name in gymnasium.registry}
    name = env_id.rpartition(":")[2].lower()
    # Atari games had other names before ALE/.
    game = re.sub(r"(-ram)?(noframeskip|deterministic)?-v\d+$", "-v5", f"ale/{name}")
    similar = [game] if game in known else difflib.get_close_matches(name, known, cutoff=0.7)
    hint = "gymnasium.pprint_registry() lists all ids."
    if similar:
        hint = f"Did you mean {alternatives(known[name] for name in similar)}?"
    if ":" not in env_id and game not in known:
        hint += " For an environment of your own, write module:id to import its module."
    return ValueError(f"Unknown environment {env_id!r}. {hint}")
