"""EnvPool's MuJoCo environments, which threads step in C++, as ids ``envpool/ID``.

They behave like Gymnasium's, but draw different initial states, and an episode that terminates in
the last step of its time limit counts as truncated. Single environments, for videos, are
Gymnasium's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfpg.core.messages import MUJOCO_DEPRECATIONS, hidden_messages

_OF_POOLS = ("num_threads", "thread_affinity_offset")


class PooledEnvs(VectorEnv):
    """N environments of EnvPool. After an episode ends, the next step resets its environment.

    Args:
        env_id: The id without ``envpool/``.
        num_envs: N.
        render_mode: Ignored: only single environments are rendered.
        **kwargs: Options of `envpool.make`: those of Gymnasium's environment, and ``num_threads``.

    Example:
        >>> envs = PooledEnvs("HalfCheetah-v5", num_envs=3)  # doctest: +SKIP
        >>> envs.reset(seed=0)[0].shape  # doctest: +SKIP
        (3, 17)
    """

    takes_seeds = True
    _pool: Any = None

    def __init__(
        self, env_id: str, num_envs: int = 1, render_mode: str | None = None, **kwargs: Any
    ):
        import envpool

        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        options = {"env_type": "gymnasium", "num_envs": num_envs, **kwargs}
        self._make = partial(envpool.make, env_id, **options)
        self._start(np.random.default_rng().integers(2**31, size=num_envs).tolist())
        actions = self._pool.action_space
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = spaces.Box(  # float32, as Gymnasium's
            actions.low.astype(np.float32), actions.high.astype(np.float32)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + n for n in range(self.num_envs)]
        if seed is not None:
            self._start(seed)
        return self._pool.reset(options=options)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        return self._pool.step(np.asarray(actions, np.float64))

    def close_extras(self, **kwargs: Any) -> None:
        self._pool = None  # which ends its threads

    def _start(self, seeds: Sequence[int]) -> None:
        """Make the pool, which gets its seeds then."""
        self._pool = None
        with hidden_messages(MUJOCO_DEPRECATIONS):
            self._pool = self._make(env_seed=[int(seed) % 2**31 for seed in seeds])


def single(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """Make Gymnasium's environment, without the options that only EnvPool has."""
    kwargs = {name: x for name, x in kwargs.items() if name not in _OF_POOLS}
    return gymnasium.make(env_id, **kwargs).unwrapped


def register(namespace: str) -> None:
    """Register an id for each of Gymnasium's MuJoCo environments in EnvPool, from version 5 on.

    Args:
        namespace: What the ids begin with.

    Raises:
        ModuleNotFoundError: EnvPool is not installed.
    """
    import envpool

    known = set(envpool.list_all_envs())
    for spec in list(gymnasium.registry.values()):
        is_mujoco = str(spec.entry_point).startswith("gymnasium.envs.mujoco")
        is_current = (spec.version or 0) >= 5  # older ones need an older MuJoCo
        if (
            is_mujoco
            and is_current
            and spec.id in known
            and namespace + spec.id not in gymnasium.registry
        ):
            gymnasium.register(
                namespace + spec.id,
                entry_point="tfpg.envs.pooled:single",
                vector_entry_point="tfpg.envs.pooled:PooledEnvs",
                max_episode_steps=spec.max_episode_steps,
                reward_threshold=spec.reward_threshold,
                kwargs={"env_id": spec.id},
            )
