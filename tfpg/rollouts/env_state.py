"""The positions of environments in their episodes, and how to restore them in new instances.

The internal state of an environment cannot be read. But it follows from the seed of the episode and
the actions since, so these are kept, and repeated on resume. A running hash of the observations of
the episode, and its return, then show whether the environment is in the same state.

An environment that keeps state across episodes cannot be restored this way. It needs
``get_state()``, which returns plain values and arrays, and ``set_state(state)``.

Gymnasium's own vectorized CartPole resets itself from a single generator; a few of its arrays are
its state. Other environments that reset themselves cannot be restored.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from gymnasium.wrappers.utils import RunningMeanStd

from tfpg.checkpoints.serialization import pack
from tfpg.core.arrays import map_arrays
from tfpg.core.messages import one_line, warn
from tfpg.envs.action_masks import ActionMasks
from tfpg.envs.contracts import VectorForm
from tfpg.envs.supervised import SupervisedEnv
from tfpg.envs.watchdog import WatchedEnv
from tfpg.models.policy import Decision

# Bytes of an observation that are hashed in a step. Of larger ones, other parts in each step.
_HASHED_BYTES = 4096

# Wrappers that carry nothing, or that `_set_own_state` knows.
_WITHOUT_STATE = (
    *(SupervisedEnv, WatchedEnv, ActionMasks),
    *(OrderEnforcing, PassiveEnvChecker, TimeLimit),
)

_CARTPOLE = ("state", "steps", "prev_done")

# Gymnasium's wrappers that keep running statistics, and the attribute that holds them.
_STATISTICS = {"NormalizeObservation": "obs_rms", "NormalizeReward": "return_rms"}


class EnvTracker:
    """Keeps the seeds that N environments were reset with, and the actions since.

    Args:
        envs: The environments to track.

    Attributes:
        restorable: Whether the positions can be restored at all.

    Example:
        >>> from tfpg.envs import open_vec
        >>> with open_vec("Acrobot-v1", num_envs=2) as envs:
        ...     tracker = EnvTracker(envs)
        ...     observations, _ = envs.reset(seed=[7, 8])
        ...     tracker.reset([0, 1], [7, 8])
        ...     for _ in range(5):
        ...         actions = np.array([0, 2])
        ...         tracker.step(actions, observations)
        ...         observations = envs.step(actions)[0]
        ...     state = tracker.get_state(observations)
        >>> with open_vec("Acrobot-v1", num_envs=2) as others:
        ...     restored, same = EnvTracker(others).set_state(state)
        >>> bool((restored == observations).all()), same.tolist()
        (True, [True, True])
    """

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        self._cartpole = isinstance(envs.unwrapped, CartPoleVectorEnv)
        mode = envs.metadata.get("autoreset_mode")
        self.restorable = self._cartpole or mode is AutoresetMode.DISABLED
        self._own = _with_own_state(envs)
        self._seeds = [0] * envs.num_envs
        self._resets = [0] * envs.num_envs  # resets without a seed, since the last one with one
        self._first = [0] * envs.num_envs  # index of the first action of the current episode
        self._actions: list[np.ndarray] = []  # [N, ...] each
        self._given = 0  # actions that were returned by get_state
        self._seen = [0] * envs.num_envs  # running hash of the current episode's observations

    def reset(self, which: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Record that environments were reset, with a seed or from their own generators."""
        for n, seed in zip(which, seeds, strict=True):
            self._resets[n] = self._resets[n] + 1 if seed is None else 0
            self._seeds[n] = self._seeds[n] if seed is None else seed
            self._first[n], self._seen[n] = len(self._actions), 0
        if min(self._first) == len(self._actions):
            self._actions, self._first, self._given = [], [0] * len(self._first), 0

    def step(self, actions: np.ndarray, observations: Any) -> None:
        """Record that all environments are stepped.

        Args:
            actions: The actions ``[N, ...]``.
            observations: The observations ``[N, ...]`` that they follow.
        """
        if not self._cartpole:
            self._see(len(self._actions), observations)
            self._actions.append(np.array(actions))

    def _see(self, t: int, observations: Any) -> None:
        for x in observations.values() if isinstance(observations, dict) else [observations]:
            rows = np.ascontiguousarray(x).reshape(len(x), -1)
            stride = max(1, -(-rows[0].nbytes // _HASHED_BYTES))
            for n, first in enumerate(self._first):
                row = rows[n] if stride == 1 else rows[n, (t - first) % stride :: stride].tobytes()
                self._seen[n] = zlib.crc32(row, self._seen[n])

    def recorded(self, act: Callable[[Any, Any], Decision]) -> Callable[[Any, Any], Decision]:
        """Return the actor, with its actions recorded as those of steps."""

        def acting(observations: Any, noise: Any) -> Decision:
            decision = act(observations, noise)
            self.step(decision.env_actions, observations)
            return decision

        return acting

    def get_state(self, observations: Any, new: bool = False) -> dict[str, Any]:
        """Return the state for `set_state`. Its lists have an entry for each environment.

        Args:
            observations: The last observations ``[N, ...]``, or a dict of such arrays.
            new: Return only the actions since the last call, for `with_earlier`.
        """
        if self._cartpole:
            envs: Any = self.envs.unwrapped
            state = {name: np.array(getattr(envs, name)) for name in _CARTPOLE}
            state["rng"] = envs.np_random.bit_generator.state
            return {**state, "observations": np.array(observations)}
        oldest = min(self._first)
        del self._actions[:oldest]
        self._first = [first - oldest for first in self._first]
        given = max(self._given - oldest, 0) if new else 0
        self._given = len(self._actions)
        rows = np.array(self._actions[given:]) if self._actions[given:] else None
        actions = [
            np.zeros(0, np.int8) if rows is None else _small(rows[max(first - given, 0) :, n])
            for n, first in enumerate(self._first)
        ]
        continues = {"continues": [first < given for first in self._first]} if new else {}
        return {
            **self._own_states(observations),
            **continues,
            "seeds": list(self._seeds),
            "resets": list(self._resets),
            "actions": actions,
            "hashes": self._hashes(observations),
            "seen": list(self._seen),
        }

    def _own_states(self, observations: Any) -> dict[str, Any]:
        if self._own is None:
            return {}
        try:
            own = [_own_state(env) for env in self._own]
            pack(own)
        except Exception as error:
            warn(
                "Checkpoints do not use the environment's get_state(), which must return plain "
                f"values and arrays: {one_line(error, 200)}"
            )
            self._own = None
            return {}
        return {"own": own, "observations": map_arrays(np.array, observations)}

    def set_state(
        self, state: dict[str, Any], returns: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray]:
        """Bring new environments to the positions of the state.

        Args:
            state: The state to restore.
            returns: ``[N]``, the returns of the episodes so far; NaN where they are unknown.

        Returns:
            The observations ``[N, ...]``, and ``[N]`` bool, the environments whose observation and
            return are the same. The others do not take the same steps every time.

        Raises:
            ValueError: The environments of the state were vectorized in a different way.
        """
        if ("rng" in state) != self._cartpole:
            raise ValueError(
                "The environments of the checkpoint were vectorized in a different way: pass the "
                "same num_envs, workers and on_env_error."
            )
        if self._cartpole:
            envs: Any = self.envs
            envs.reset(seed=0)
            for name in _CARTPOLE:
                setattr(envs.unwrapped, name, np.array(state[name]))
            envs.unwrapped.np_random.bit_generator.state = state["rng"]
            return np.array(state["observations"]), np.ones(self.envs.num_envs, bool)
        self._seeds, self._resets = list(state["seeds"]), list(state["resets"])
        self._actions, self._first = self._aligned(state["actions"])
        self._given = len(self._actions)
        if self._own is not None and "own" in state:
            self._reset_again(range(len(self._first)))
            for n, (env, own) in enumerate(zip(self._own, state["own"], strict=True)):
                _set_own_state(env, own, len(self._actions) - self._first[n])
            self._seen = list(state["seen"])
            observations = map_arrays(np.array, state["observations"])
            return observations, np.ones(self.envs.num_envs, bool)
        observations, given = self._replay()
        same = np.array(self._hashes(observations)) == np.array(state["hashes"])
        same &= np.array(self._seen) == np.array(state["seen"])
        if returns is not None:
            same &= np.isnan(returns) | (given == returns)
        return observations, same

    def _aligned(self, actions: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
        """The actions ``[N, ...]`` of each step, up to now, and each environment's first one."""
        longest = max(map(len, actions))
        space = self.envs.single_action_space
        columns = []
        for each in actions:
            some = each if len(each) else np.zeros((1, *(space.shape or ())))
            # What an environment does before its episode begins does not count.
            before = np.repeat(some[:1], longest - len(each), axis=0)
            columns.append(np.concatenate([before, each]) if len(each) else before)
        rows = np.stack(columns, axis=1).astype(space.dtype)
        return list(rows), [longest - len(each) for each in actions]

    def _replay(self) -> tuple[Any, np.ndarray]:
        """Take all steps again, and return the observations and the returns of the episodes."""
        form, first = VectorForm(self.envs), np.array(self._first)
        given = np.zeros(self.envs.num_envs)
        observations = self._reset_again(range(len(first)))
        self._seen = [0] * len(first)
        for t, row in enumerate(self._actions, start=1):
            self._see(t - 1, observations)
            result = self.envs.step(np.array(row))
            observations, rewards, terminated, truncated, _ = form.step(result)
            given += rewards
            # All are stepped, so those whose episode begins later are reset when it does, or when
            # actions that were not meant for them have ended another one.
            begins = first == t
            given[begins] = 0.0
            self._seen = [0 if begins[n] else seen for n, seen in enumerate(self._seen)]
            over = terminated | truncated
            which = begins | (over & (first > t))
            if which.any():
                observations = self._reset_again(np.flatnonzero(which).tolist())
            if (over & ~which).any():  # they idle until all have ended, like `play_episodes`
                mask = {"reset_mask": over & ~which}
                observations = form.reset(self.envs.reset(options=mask))
        return observations, given

    def _reset_again(self, which: Sequence[int]) -> Any:
        """Reset environments as their episodes began, and return the observations of all."""
        mask = np.isin(np.arange(self.envs.num_envs), which)
        seeds: Any = [seed if m else None for seed, m in zip(self._seeds, mask, strict=True)]
        result = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        for times in range(max(self._resets[n] for n in which)):
            more = mask & (np.array(self._resets) > times)
            result = self.envs.reset(options={"reset_mask": more})
        return VectorForm(self.envs).reset(result)

    def _hashes(self, observations: Any) -> list[str]:
        return [
            _hash(map_arrays(lambda x, n=n: x[n], observations)) for n in range(self.envs.num_envs)
        ]


def with_earlier(state: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Return a state with all actions of the episodes.

    Args:
        state: A state with the actions since the state before.
        before: That state, with all actions. None: there is none.
    """
    if before is None or "continues" not in state:
        return state
    pairs = zip(before["actions"], state["actions"], state["continues"], strict=True)
    actions = [np.concatenate([a, b]) if c and len(b) else a if c else b for a, b, c in pairs]
    return {**state, "actions": actions}


def _with_own_state(envs: VectorEnv) -> list[Any] | None:
    """The environments in a vector environment, if all have get_state() and set_state()."""
    parts = envs.unwrapped.envs if type(envs.unwrapped) is SyncVectorEnv else []
    for part in parts:
        while isinstance(part, gymnasium.Wrapper):
            if type(part) not in _WITHOUT_STATE:
                return None
            part = part.env
        if not all(callable(getattr(part, name, None)) for name in ("get_state", "set_state")):
            return None
    return list(parts) or None


def _own_state(env: gymnasium.Env) -> dict[str, Any]:
    inner: Any = env.unwrapped
    return {"state": inner.get_state(), "rng": inner.np_random.bit_generator.state}


def _set_own_state(env: gymnasium.Env, state: dict[str, Any], steps: int) -> None:
    inner: Any = env.unwrapped
    inner.np_random.bit_generator.state = state["rng"]
    inner.set_state(state["state"])
    if env.has_wrapper_attr("_elapsed_steps"):  # of a TimeLimit
        env.set_wrapper_attr("_elapsed_steps", steps)


def describe_env(envs: VectorEnv) -> str:
    """Describe an environment by its id, arguments and time limit, or else by its class.

    Example:
        >>> from tfpg.envs import open_vec
        >>> with open_vec("Acrobot-v1", num_envs=2) as envs:
        ...     describe_env(envs)
        'Acrobot-v1, time limit 500'
    """
    parts = getattr(envs.unwrapped, "envs", None)
    spec = envs.spec or (parts[0].spec if parts else None)
    if spec is None and hasattr(envs.unwrapped, "func_env"):
        unwrapped: Any = envs.unwrapped
        return f"{type(unwrapped.func_env).__name__}, time limit {unwrapped.max_episode_steps}"
    if spec is None:
        return type(parts[0].unwrapped if parts else envs.unwrapped).__name__
    # How many there are, how they are stepped and seen, and the limit, which is named anyway.
    skipped = (
        *("num_envs", "vectorization_mode", "render_mode", "disable_env_checker"),
        "max_episode_steps",
    )
    kwargs = {name: x for name, x in sorted(spec.kwargs.items()) if name not in skipped}
    limit = f", time limit {spec.max_episode_steps}" if spec.max_episode_steps else ""
    return f"{spec.id}{f', {kwargs}' if kwargs else ''}{limit}"


def running_statistics(envs: VectorEnv) -> list[str]:
    """Return the names of wrappers that keep running statistics, which replaying does not restore.

    Example:
        >>> from gymnasium.wrappers.vector import NormalizeReward
        >>> from tfpg.envs import open_vec
        >>> with open_vec("Acrobot-v1", num_envs=2) as envs:
        ...     running_statistics(envs), running_statistics(NormalizeReward(envs))
        ([], ['NormalizeReward'])
    """
    found: list[str] = []
    env: Any = envs
    while env is not None:
        if any(isinstance(x, RunningMeanStd) for x in vars(env).values()):
            found.append(type(env).__name__)
        elsewhere = isinstance(env, AsyncVectorEnv) or (
            isinstance(env, SyncVectorEnv) and type(env) is not SyncVectorEnv
        )
        for name, attribute in _STATISTICS.items() if elsewhere else ():
            if any(env.call("has_wrapper_attr", attribute)):
                found.append(name)
        env = env.envs[0] if type(env) is SyncVectorEnv else getattr(env, "env", None)
    return found


def _small(actions: np.ndarray) -> np.ndarray:
    """Integers in the smallest type that holds them."""
    if actions.dtype.kind not in "iu" or not actions.size:
        return actions
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= actions.min() and actions.max() <= np.iinfo(dtype).max:
            return actions.astype(dtype)
    return actions


def _hash(observation: Any) -> str:
    named = observation if isinstance(observation, dict) else {"": observation}
    digest = hashlib.sha256()
    for x in named.values():
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
