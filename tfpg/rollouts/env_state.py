"""Where environments are in their episodes, and how others like them are brought there.

An environment is where its episode's seed and its actions have led, so these are what is kept; what
it observes then says whether it is the same place. Gymnasium's own vectorized CartPole, which
resets itself from one generator, is what a few arrays say. Others that reset themselves cannot be
brought back.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers.utils import RunningMeanStd

from tfpg.core.arrays import map_arrays

_CARTPOLE = ("state", "steps", "prev_done")

# Of Gymnasium's wrappers, in another process.
_STATISTICS = {"NormalizeObservation": "obs_rms", "NormalizeReward": "return_rms"}
_STATE = (*("episode", "fragment", "steps", "ended", "_taken", "_held_for", "_warned", "_seeds"),)
_STATE_LISTS = ("episode_returns", "episode_lengths")
_STATE_ARRAYS = ("returns", "lengths", "resetting", "lives", "held")


class Position:
    """Follows N environments: the seeds they were reset with, and the actions since.

    Args:
        envs: That are followed.

    Attributes:
        known: Whether they can be brought back at all.

    Example:
        >>> from tfpg.envs import open_vec
        >>> with open_vec("Acrobot-v1", num_envs=2) as envs:
        ...     position = Position(envs)
        ...     _ = envs.reset(seed=[7, 8])
        ...     position.reset([0, 1], [7, 8])
        ...     for _ in range(5):
        ...         actions = np.array([0, 2])
        ...         position.step(actions)
        ...         observations = envs.step(actions)[0]
        ...     state = position.get_state(observations)
        >>> with open_vec("Acrobot-v1", num_envs=2) as others:
        ...     again, same = Position(others).set_state(state)
        >>> bool((again == observations).all()), same.tolist()
        (True, [True, True])
    """

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        count = envs.num_envs
        self._cartpole = isinstance(envs.unwrapped, CartPoleVectorEnv)
        mode = envs.metadata.get("autoreset_mode")
        self.known = self._cartpole or mode is AutoresetMode.DISABLED
        self._seeds = [0] * count
        self._resets = [0] * count  # since that seed
        self._began = [0] * count  # which of the actions was an episode's first
        self._actions: list[np.ndarray] = []  # [N, ...] each

    def reset(self, which: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Environments were reset, with a seed or going on with their generators."""
        for n, seed in zip(which, seeds, strict=True):
            self._resets[n] = self._resets[n] + 1 if seed is None else 0
            self._seeds[n] = self._seeds[n] if seed is None else seed
            self._began[n] = len(self._actions)

    def step(self, actions: np.ndarray) -> None:
        """All environments are stepped."""
        if not self._cartpole:
            self._actions.append(np.array(actions))

    def get_state(self, observations: Any) -> dict[str, Any]:
        """What `set_state` takes.

        Args:
            observations: ``[N, ...]``, the last that were seen, or a dict of such arrays.
        """
        if self._cartpole:
            envs: Any = self.envs.unwrapped
            state = {name: np.array(getattr(envs, name)) for name in _CARTPOLE}
            state["rng"] = envs.np_random.bit_generator.state
            return {**state, "observations": np.array(observations)}
        oldest = min(self._began)
        del self._actions[:oldest]
        self._began = [first - oldest for first in self._began]
        return {
            "seeds": list(self._seeds),
            "resets": list(self._resets),
            "began": list(self._began),
            "actions": _small(np.array(self._actions)) if self._actions else None,
            "seen": [_hash(map_arrays(lambda x, n=n: x[n], observations)) for n in self._all()],
        }

    def set_state(
        self, state: dict[str, Any], returns: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray]:
        """Brings fresh environments where those of the state were.

        Args:
            returns: ``[N]``, what the episodes had given; NaN where that is not known.

        Returns:
            Their observations ``[N, ...]``, and ``[N]`` bool, who observes what those did and gave
            as much. Who did not is somewhere else: its steps are not the same every time.

        Raises:
            ValueError: They are not vectorized as those of the state.
        """
        if ("rng" in state) != self._cartpole:
            raise ValueError(
                "The checkpoint is of environments that were vectorized otherwise: give the same "
                "num_envs, workers and on_env_error."
            )
        if self._cartpole:
            envs: Any = self.envs
            envs.reset(seed=0)
            for name in _CARTPOLE:
                setattr(envs.unwrapped, name, np.array(state[name]))
            envs.unwrapped.np_random.bit_generator.state = state["rng"]
            return np.array(state["observations"]), np.ones(self.envs.num_envs, bool)
        self._seeds, self._resets = list(state["seeds"]), list(state["resets"])
        self._began = list(state["began"])
        actions = [] if state["actions"] is None else state["actions"]
        space = self.envs.single_action_space
        self._actions = [np.asarray(row, space.dtype) for row in actions]
        steps = len(self._actions)
        observations = self._again(self._all())
        given = np.zeros(self.envs.num_envs)
        if type(self.envs) is SyncVectorEnv:  # not a `WorkerPool`
            observations = self._one_by_one(observations, given)
            steps = 0
        # Whose episode began later is reset once more when its time has come: a vector environment
        # steps all.
        for t, row in enumerate(self._actions[:steps]):
            late = [n for n in self._all() if t and self._began[n] == t]
            observations = self._put(observations, late)
            given[late] = 0.0
            after, rewards, terminated, truncated, _ = self.envs.step(row)
            observations = map_arrays(np.array, after)
            given += rewards
            # Until its time has come, one is given the actions of episodes that are not played.
            early = np.array(self._began) > t + 1
            ended = np.flatnonzero((terminated | truncated) & early).tolist()
            observations = self._put(observations, ended)
        late = [n for n in self._all() if steps and self._began[n] == steps]
        observations = self._put(observations, late)
        given[late] = 0.0
        seen = [_hash(map_arrays(lambda x, n=n: x[n], observations)) for n in self._all()]
        same = np.array([a == b for a, b in zip(seen, state["seen"], strict=True)])
        if returns is not None:
            same &= np.isnan(returns) | (given == returns)
        return observations, same

    def _one_by_one(self, observations: Any, given: np.ndarray) -> Any:
        """Steps environments that were just reset, each by itself and not one step too many."""
        envs: Any = self.envs.unwrapped
        rows = [list(iterate(envs.action_space, row)) for row in self._actions]
        for n in self._all():
            for row in rows[self._began[n] :]:
                seen, reward, *_ = envs.envs[n].step(row[n])
                given[n] += reward
                if isinstance(seen, dict):
                    for key, x in seen.items():
                        observations[key][n] = x
                else:
                    observations[n] = seen
        return observations

    def _all(self) -> range:
        return range(self.envs.num_envs)

    def _put(self, observations: Any, which: list[int]) -> Any:
        return self._again(which) if which else observations

    def _again(self, which: Sequence[int]) -> Any:
        """Resets as they were reset, and returns the observations of all."""
        count = self.envs.num_envs
        mask = np.isin(np.arange(count), which)
        seeds: Any = [seed if m else None for seed, m in zip(self._seeds, mask, strict=True)]
        observations, _ = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        for times in range(max(self._resets[n] for n in which)):
            more = mask & (np.array(self._resets) > times)
            observations, _ = self.envs.reset(options={"reset_mask": more})
        return map_arrays(np.array, observations)


def running_statistics(envs: VectorEnv) -> list[str]:
    """Wrappers that carry running statistics, which no seed and no actions bring back.

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
    """Integers in as few bytes as hold them."""
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


class Resumable(abc.ABC):
    """What a `Collector` counts and where it is, to be told and gone on from.

    Args:
        num_envs: N.
        window: Of how many last episodes the returns and lengths are kept at least.
    """

    envs: VectorEnv
    episode: int
    fragment: int

    def __init__(self, num_envs: int, window: int):
        self.window = window
        self.episode_returns: list[float] = []
        self.episode_lengths: list[int] = []
        self.steps = 0
        self.ended = 0
        self.position: Position | None = None
        self._taken = 0
        self._observations: Any = None
        self._resetting = np.zeros(num_envs, bool)
        self._seeds: list[int] = []
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._warned = False
        self._lives = np.full(num_envs, np.nan)
        self._held, self._held_for = np.zeros(0), 0

    @abc.abstractmethod
    def _begin(self) -> None:
        """Resets all environments."""

    @abc.abstractmethod
    def _reset_those(self, ended: np.ndarray) -> Any:
        """Resets some environments, and returns the observations of all."""

    def finish(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Counts episodes that ended."""
        self.episode_returns.extend(returns.tolist())
        self.episode_lengths.extend(lengths.tolist())
        self.ended += len(returns)
        keep = max(self.window, self.ended - self._taken)
        del self.episode_returns[:-keep], self.episode_lengths[:-keep]

    def take_finished(self) -> list[float]:
        """Returns of the episodes that ended since this was last called."""
        new, self._taken = self.ended - self._taken, self.ended
        return self.episode_returns[len(self.episode_returns) - new :]

    def forget(self) -> None:
        """Leaves the episodes that ended so far out of the returns and lengths."""
        del self.episode_returns[:], self.episode_lengths[:]
        self._taken = self.ended

    def follow(self) -> None:
        """Keeps what `get_state` needs to tell of the environments. Before anything is played."""
        self.position = Position(self.envs)

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes: counts, and where the environments are if they are followed."""
        state: dict[str, Any] = {name: copy(getattr(self, name)) for name in _STATE}
        state |= {name: np.array(getattr(self, name)) for name in _STATE_LISTS}
        state |= {name: np.array(getattr(self, f"_{name}")) for name in _STATE_ARRAYS}
        begun, position = self._observations is not None, self.position
        if begun and position is not None and position.known:
            state["position"] = position.get_state(self._observations)
        return {**state, "begun": begun}

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Goes on from a state of a collector that was followed.

        Returns:
            ``[N]`` bool, the environments whose episodes could not be gone on with, and begin
            anew: they do not take the same steps every time, or reset themselves.
        """
        for name in _STATE:
            setattr(self, name, copy(state[name]))
        for name in _STATE_LISTS:
            setattr(self, name, np.asarray(state[name]).tolist())
        for name in _STATE_ARRAYS:
            setattr(self, f"_{name}", np.array(state[name]))
        anew = np.zeros(self.envs.num_envs, bool)
        if not state["begun"]:
            return anew
        self.follow()
        if "position" not in state:
            anew[:] = True
            self._begin()
        else:
            assert self.position is not None
            running = (self._lengths > 0) & ~self._resetting
            returns = np.where(running, self._returns, np.nan)
            self._observations, same = self.position.set_state(state["position"], returns)
            anew = ~same
            if anew.any():
                kept = self._observations
                # A vector environment may tell the others what they observed when they were reset.
                self._observations = map_arrays(
                    lambda new, old: np.where(anew.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                    self._reset_those(anew),
                    kept,
                )
        self._returns[anew], self._lengths[anew], self._lives[anew] = 0.0, 0, np.nan
        self._resetting &= ~anew
        return anew
