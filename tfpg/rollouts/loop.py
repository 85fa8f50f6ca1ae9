"""Playing whole episodes in vector environments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from tfpg.core.arrays import map_arrays
from tfpg.core.messages import warn
from tfpg.core.seeding import reset_seed
from tfpg.models.heads import Head
from tfpg.models.policy import Decision
from tfpg.rollouts.finite import check_observations

# An episode of an environment without a time limit, played without max_steps, is cut here.
NO_LIMIT_STEPS = 10_000

_NOISE_STEPS = 128


class Step(NamedTuple):
    """One step of N environments."""

    observations: Any  # [N, ...]  what was acted on
    decision: Decision
    rewards: np.ndarray  # [N]
    terminated: np.ndarray  # [N]
    truncated: np.ndarray  # [N]
    running: np.ndarray  # [N]  whose episode was still going on
    following: Any  # [N, ...]  what the action led to, an episode's last one included


class Noise:
    """Action noise for N episodes, each from its own generator, drawn in blocks of steps.

    Example:
        >>> import numpy as np
        >>> from gymnasium.spaces import Discrete
        >>> from tfpg.models.heads import BernoulliHead
        >>> head = BernoulliHead(Discrete(2), from_logits=True, positive_action=1)
        >>> noise = Noise(head, [np.random.default_rng(e) for e in range(3)])
        >>> noise().shape
        (3,)
    """

    def __init__(self, head: Head, rngs: Sequence[np.random.Generator]):
        self._head = head
        self._rngs = rngs
        self._block: Iterator[np.ndarray] = iter(())

    def __call__(self) -> np.ndarray:
        """The next step's noise, ``[N, *noise_shape]``."""
        for row in self._block:
            return row
        columns = [self._head.noise(rng, _NOISE_STEPS) for rng in self._rngs]
        self._block = iter(np.ascontiguousarray(np.stack(columns, axis=1)))
        return next(self._block)


def play(
    envs: VectorEnv,
    act: Callable[[Any, np.ndarray | None], Decision],
    rngs: Sequence[np.random.Generator],
    *,
    columns: int | np.ndarray | None = None,
    max_steps: int | None = None,
    head: Head | None = None,
    failed: np.ndarray | None = None,
) -> Iterator[Step]:
    """Plays one episode in every environment, from a seeded reset, until all have ended.

    No environment begins a second episode that counts, so short episodes are not favoured.
    All three autoreset modes of Gymnasium are understood.

    Args:
        envs: The vector environment, N environments.
        act: Maps observations ``[N, ...]`` and noise to a `Decision`.
        rngs: N generators, one an episode: the reset's seed, then the action noise.
        columns: How many of the N episodes count, the first ones; or ``[N]`` bool. None: all.
        max_steps: Where episodes are cut. None: the environment's own limit, or
            `NO_LIMIT_STEPS` with a warning where it has none.
        head: The head to draw noise for; None plays the mode.
        failed: ``[N]`` bool, becomes true where an episode that counts broke off because its
            environment failed: what was played of it is void. None: that is raised.

    Yields:
        A `Step` for every step of the longest episode.

    Raises:
        tfpg.errors.EnvDataError: The model's outputs are not finite, for an observation that is
            not. Rewards are for the caller to look at, who may do so once for many.
        tfpg.errors.EnvError: An environment failed.
    """
    # An environment with a limit of its own keeps it, whatever its registration says.
    guarded = not max_steps and time_limit(envs) is None
    limit = max_steps or (NO_LIMIT_STEPS if guarded else sys.maxsize)
    mode = autoreset_mode(envs)
    observations = map_arrays(np.array, seeded_reset(envs, [reset_seed(rng) for rng in rngs]))
    noise = (lambda: None) if head is None else Noise(head, rngs)
    running = columns
    if not isinstance(running, np.ndarray):
        running = np.arange(envs.num_envs) < (columns or envs.num_envs)
    for t in range(limit):
        drawn = noise()
        try:
            decision = act(observations, drawn)
        except FloatingPointError:
            check_observations(observations, running, t)
            if running.all():
                raise
            # Where an episode is over, nothing that is seen counts.
            decision = act(map_arrays(_zeros_where(~running), observations), drawn)
        after, rewards, terminated, truncated, infos = envs.step(decision.env_actions)
        if "env_failed" in infos:
            broken = infos["env_failed"] & running
            if failed is None and broken.any():
                raise infos["env_error"][broken][0]
            running = running & ~broken
            if failed is not None:
                failed |= broken
        # Environments may reuse their buffers: what was acted on is copied before the next step.
        following = after = map_arrays(np.array, after)
        ended = terminated | truncated
        any_ended = ended.any()
        if any_ended and mode is AutoresetMode.SAME_STEP:
            following = with_final(following, ended, infos)
        elif any_ended and mode is AutoresetMode.DISABLED:
            after = map_arrays(np.array, envs.reset(options={"reset_mask": ended})[0])
        if t + 1 == limit:
            if guarded and (running & ~ended).any():
                warn_of_the_cut(limit)
            truncated = truncated | ~terminated
        yield Step(observations, decision, rewards, terminated, truncated, running, following)
        if any_ended or "env_failed" in infos:
            running = running & ~ended
            if not running.any():
                return
        observations = after


def _zeros_where(over: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def zeros(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[over] = 0
        return x

    return zeros


def autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    """How the vector environment begins its next episodes; Gymnasium's default if it is silent."""
    return AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def seeded_reset(envs: VectorEnv, seeds: list[int]) -> Any:
    """First observations ``[N, ...]``, from a seed for each environment where it can take one."""
    seed: Any = seeds if takes_seeds(envs) else seeds[0]
    observations, _ = envs.reset(seed=seed)
    return observations


def takes_seeds(envs: VectorEnv) -> bool:
    """Whether each environment has a generator of its own; else there is one, and one seed."""
    envs = envs.unwrapped
    return getattr(envs, "takes_seeds", isinstance(envs, (SyncVectorEnv, AsyncVectorEnv)))


def with_final(following: Any, ended: np.ndarray, infos: dict) -> Any:
    """Observations ``[N, ...]`` with the last ones of the episodes that ended in their places."""
    following = map_arrays(np.array, following)
    for n in np.flatnonzero(ended):
        final = infos["final_obs"][n]
        if isinstance(following, dict):
            for key, x in following.items():
                x[n] = final[key]
        else:
            following[n] = final
    return following


def time_limit(envs: VectorEnv) -> int | None:
    """The environment's own limit of steps an episode, or None.

    Example:
        >>> from tfpg.envs import open_vec
        >>> with open_vec("CartPole-v1") as envs:
        ...     time_limit(envs)
        500
    """
    spec, single = envs.spec, getattr(envs.unwrapped, "envs", None)
    if spec is None and single:
        spec = single[0].spec
    return None if spec is None else spec.max_episode_steps


def warn_of_the_cut(limit: int) -> None:
    """Says that an episode without a limit was cut."""
    warn(
        f"An episode went on for {limit:,} steps and was cut there: the environment has no time "
        "limit. Say max_steps to choose where."
    )
