"""The loop that steps vector environments. Training and evaluation both go through it.

`play` acts, steps and yields one `Step` after another, without end. There are two ways to stop it:

- whole episodes: `play_episodes` stops when each environment has finished one episode;
- fragments: `tfpg.rollouts.collector.Collector.collect_steps` stops after a number of steps, and
  the next call resumes from the same `Progress`.

Guarantees for each `Step`, in all three of Gymnasium's autoreset modes:

- ``following`` is the observation that the action led to. Where an episode ended, it is the last
  observation of that episode, not the first one of the next.
- Where ``real`` is false, nothing happened that counts: the episode of the environment is over, the
  environment spent the step on a reset (NEXT_STEP), or it failed. Rewards and flags are 0 there.
- No array is written to after it has been yielded.
- When a step is yielded, `Progress` already holds what is needed to take the next one.

| mode      | the environment that ended an episode                                           |
|-----------|---------------------------------------------------------------------------------|
| NEXT_STEP | ignores the next action and resets itself; that step is not ``real``            |
| SAME_STEP | has already reset itself; the last observation is in ``infos["final_obs"]``     |
| DISABLED  | waits; the loop resets it, with the seed that ``next_seeds`` returns            |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from tfpg.core.arrays import any_of, map_arrays
from tfpg.core.messages import warn
from tfpg.core.seeding import reset_seed
from tfpg.envs.contracts import VectorForm
from tfpg.models.heads import Head
from tfpg.models.policy import Decision
from tfpg.rollouts.finite import check_observations

# Episodes are cut off here if neither the environment nor max_steps sets a limit.
NO_LIMIT_STEPS = 10_000

_NOISE_STEPS = 128


class Step(NamedTuple):
    """One step of N environments."""

    observations: Any  # [N, ...]  what the policy acted on
    decision: Decision
    rewards: np.ndarray  # [N]  0 where not real
    terminated: np.ndarray  # [N]  bool, the episode's Markov decision process ended
    truncated: np.ndarray  # [N]  bool, the episode was cut off
    real: np.ndarray  # [N]  bool, a step of an episode that counts
    following: Any  # [N, ...]  what the action led to
    ended: np.ndarray  # [N]  bool, the episode is over
    lengths: np.ndarray  # [N]  steps of the episode so far, this one included
    failed: np.ndarray  # [N]  bool, the environment failed, and its episode does not count


@dataclass
class Progress:
    """The positions of N environments in their episodes.

    Attributes:
        observations: ``[N, ...]``, what the policy acts on next.
        playing: ``[N]`` bool, whether the next step is one of an episode that counts.
        lengths: ``[N]`` int, steps of the current episodes so far.
        infos: The infos of the last step. Those of earlier steps, which may hold anything, are
            not kept.
    """

    observations: Any
    playing: np.ndarray
    lengths: np.ndarray
    infos: dict[str, Any] = field(default_factory=dict)


def play(
    envs: VectorEnv,
    act: Callable[[Any, Any], Decision],
    noise: Iterable[Any],
    progress: Progress,
    *,
    single_episode: bool,
    next_seeds: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    max_steps: int | None = None,
) -> Iterator[Step]:
    """Step the environments for as long as there is noise.

    Args:
        envs: The vector environment, N environments.
        act: Maps observations ``[N, ...]`` and noise to a `Decision`.
        noise: The action noise ``[N, ...]`` of each step, or None for the most probable actions.
        progress: The positions of the environments. It is updated at each step.
        single_episode: Whether only the current episode of each environment counts, or also those
            that follow. An environment that failed always begins another one.
        next_seeds: Called with two ``[N]`` bool arrays, the environments that are about to be
            reset and those among them that failed. Returns a seed or None for each environment,
            or None to reset all without a seed. If this is not given, environments are reset
            without seeds, and failures are raised.
        max_steps: Length at which an episode is truncated. None: never.

    Yields:
        A `Step`.

    Raises:
        tfpg.errors.EnvDataError: The model's outputs are NaN or infinite, because an observation
            is. Rewards are for the caller to check, who can do so once for many steps.
        tfpg.errors.EnvError: An environment failed.
        FloatingPointError: The model's outputs are NaN or infinite.
    """
    mode, form = autoreset_mode(envs), VectorForm(envs)
    nobody, everybody = np.zeros(envs.num_envs, bool), np.ones(envs.num_envs, bool)
    supervised = hasattr(envs.unwrapped, "on_env_error")
    steps_left = 0  # until max_steps may cut an episode; not known yet
    for drawn in noise:
        observations, real, failed = progress.observations, progress.playing, nobody
        lengths = progress.lengths
        try:
            decision = act(observations, drawn)
        except FloatingPointError:  # an environment that is not playing may observe anything
            check_observations(observations, real, lengths)
            decision = act(map_arrays(_finite_part, observations), drawn)
        # An environment may change its actions, and write to what it returned.
        result = envs.step(decision.env_actions.copy())
        following, rewards, over, cut, infos = form.step(result, lengths)
        after = following
        if supervised and "env_failed" in infos:
            failed = infos["env_failed"] & real
            real = real & ~failed
            if next_seeds is None and any_of(failed):
                raise infos["env_error"][failed][0]
        if real is not everybody:
            rewards[~real] = 0.0
        lengths = progress.lengths = lengths + real
        terminated = truncated = ended = nobody
        steps_left -= 1
        # In most steps nothing ends. They are kept short, because small environments are fast.
        if any_of(over | cut) or steps_left <= 0 or failed is not nobody:
            terminated, truncated, over = over & real, cut & real, over | cut
            if mode is None and any_of(over):
                mode = _mode_seen(infos)
            if max_steps:
                truncated |= real & (lengths >= max_steps)
            ended = terminated | truncated
            progress.lengths = lengths * ~(ended | failed)
            # An environment whose only episode was cut by max_steps needs no reset.
            waiting = over | failed
            if single_episode:
                progress.playing = progress.playing & ~ended
            else:
                waiting = waiting | ended
            if mode is AutoresetMode.SAME_STEP and any_of(over):
                following = form.with_final(after, over, infos, lengths - real)
            elif mode is AutoresetMode.DISABLED and any_of(waiting):
                seeds = None if next_seeds is None else next_seeds(waiting, failed)
                after = reset_some(envs, waiting, seeds)
            steps_left = max_steps - int(progress.lengths.max()) if max_steps else sys.maxsize
        if mode is AutoresetMode.NEXT_STEP and not single_episode:
            progress.playing = everybody if ended is nobody else ~ended
        progress.observations, progress.infos = after, infos
        flags = terminated, truncated, real
        yield Step(observations, decision, rewards, *flags, following, ended, lengths, failed)


def only_step(envs: VectorEnv, actions: np.ndarray, steps: int) -> None:
    """Step environments that have been reset, to measure their speed.

    Args:
        envs: The vector environment, N environments.
        actions: ``[K, N, ...]``, the actions of K steps, which are repeated.
        steps: Steps of each environment.
    """
    manual = autoreset_mode(envs) is AutoresetMode.DISABLED
    seeded = takes_seeds(envs) and not getattr(envs.unwrapped, "slow_seeds", False)
    for t in range(steps):
        _, _, terminated, truncated, _ = envs.step(actions[t % len(actions)].copy())
        if manual and any_of(terminated | truncated):
            # Without a seed, a `SupervisedEnv` would idle.
            seeds = [t] * envs.num_envs if seeded else None
            reset_some(envs, terminated | truncated, seeds)


def play_episodes(
    envs: VectorEnv,
    act: Callable[[Any, Any], Decision],
    rngs: Sequence[np.random.Generator],
    *,
    head: Head | None = None,
    num_episodes: int | None = None,
    max_steps: int | None = None,
    replacement: Callable[[int], np.random.Generator] | None = None,
    reset: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Step]:
    """Play one episode in each environment, from a seeded reset until all have ended.

    No environment begins a second episode that counts, so short episodes are not favored.

    Args:
        envs: The vector environment, N environments.
        act: Maps observations ``[N, ...]`` and noise to a `Decision`.
        rngs: N generators, one for each episode. Each gives the seed of the reset, then the
            action noise.
        head: The head to draw noise for. None: play the most probable actions.
        num_episodes: How many of the N episodes count, the first ones. None: all.
        max_steps: Length at which an episode is truncated. None: the environment's own limit, or
            `NO_LIMIT_STEPS` with a warning where it has none.
        replacement: Called with the index of an environment that failed; returns the generator of
            the episode to play there instead. None: failures are raised.
        reset: Called after each step with the environments ``[N]`` bool whose next observation, if
            it counts, begins an episode; see `tfpg.models.recurrent`.

    Yields:
        A `Step` for each step of the longest episode.

    Raises:
        tfpg.errors.EnvDataError: The model's outputs are NaN or infinite, because an observation
            is. Rewards are for the caller to check, who can do so once for many steps.
        tfpg.errors.EnvError: An environment failed.
        FloatingPointError: The model's outputs are NaN or infinite.
    """
    # An environment's own limit may be longer than its registration says.
    guarded = not max_steps and time_limit(envs) is None
    limit = NO_LIMIT_STEPS if guarded else max_steps
    count = envs.num_envs
    observations = seeded_reset(envs, [reset_seed(rng) for rng in rngs])
    playing = np.arange(count) < (num_episodes or count)
    progress = Progress(observations, playing, np.zeros(count, int))
    noise = None if head is None else ActionNoise(head, rngs)

    def next_seeds(_: np.ndarray, failed: np.ndarray) -> Any:
        seeds: list[int | None] = [None] * count
        for n in np.flatnonzero(failed).tolist():
            assert replacement is not None
            rng = replacement(n)
            seeds[n] = reset_seed(rng)
            if noise is not None:
                noise.restart(n, rng)
        return seeds if failed.any() else None

    for step in play(
        envs,
        act,
        noise or repeat(None),
        progress,
        single_episode=True,
        next_seeds=None if replacement is None else next_seeds,
        max_steps=limit,
    ):
        if reset is not None:
            reset((step.ended | step.failed | ~step.real) & progress.playing)
        if guarded and any_of(step.truncated) and (step.lengths >= limit).any():
            warn_of_the_cut(NO_LIMIT_STEPS)
        yield step
        if not any_of(progress.playing):
            return


class ActionNoise:
    """Action noise for N episodes, each from its own generator, drawn in blocks of steps.

    Args:
        head: The head to draw noise for.
        rngs: N generators.

    Example:
        >>> import numpy as np
        >>> from gymnasium.spaces import Discrete
        >>> from tfpg.models.heads import BernoulliHead
        >>> head = BernoulliHead(Discrete(2), from_logits=True, positive_action=1)
        >>> noise = ActionNoise(head, [np.random.default_rng(e) for e in range(3)])
        >>> next(noise).shape
        (3,)
    """

    def __init__(self, head: Head, rngs: Sequence[np.random.Generator]):
        self._head = head
        self._rngs = list(rngs)
        self._drawn = [head.noise(rng, 0) for rng in rngs]  # [steps, ...] each
        self._block: Iterator[np.ndarray] = iter(())

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """Return the next step's noise, ``[N, *noise_shape]``."""
        for row in self._block:
            return row
        for n, rng in enumerate(self._rngs):
            if not len(self._drawn[n]):
                self._drawn[n] = self._head.noise(rng, _NOISE_STEPS)
        steps = min(map(len, self._drawn))
        self._block = iter(np.stack([x[:steps] for x in self._drawn], axis=1))
        self._drawn = [x[steps:] for x in self._drawn]
        return next(self._block)

    def restart(self, n: int, rng: np.random.Generator) -> None:
        """Draw the noise of environment ``n`` from another generator from now on."""
        rest = list(self._block)
        if rest:
            unused = np.stack(rest, axis=1)
            self._drawn = [np.concatenate(x) for x in zip(unused, self._drawn, strict=True)]
        self._rngs[n], self._drawn[n] = rng, self._drawn[n][:0]


def autoreset_mode(envs: VectorEnv) -> AutoresetMode | None:
    """Return how the vector environment begins its next episodes. None: it does not say."""
    mode = (envs.metadata or {}).get("autoreset_mode")
    try:
        return None if mode is None else AutoresetMode(mode)
    except ValueError:
        raise ValueError(
            "The vector environment's metadata['autoreset_mode'] must be an AutoresetMode of "
            f"gymnasium.vector, but it is {mode!r}."
        ) from None


def _mode_seen(infos: dict[str, Any]) -> AutoresetMode:
    """How a vector environment whose metadata does not say it has ended its first episode."""
    if "final_obs" in infos or "final_observation" in infos:
        return AutoresetMode.SAME_STEP
    raise ValueError(
        "The vector environment does not say how it begins new episodes: set its "
        "metadata['autoreset_mode'] to AutoresetMode.NEXT_STEP, SAME_STEP or DISABLED "
        "(gymnasium.vector.AutoresetMode)."
    )


def seeded_reset(envs: VectorEnv, seeds: list[int]) -> Any:
    """Reset all environments and return their observations ``[N, ...]``.

    Each gets its own seed if the vector environment takes them, else the first seed is for all.
    """
    seed: Any = seeds if takes_seeds(envs) else seeds[0]
    return VectorForm(envs).reset(envs.reset(seed=seed))


def reset_some(envs: VectorEnv, which: np.ndarray, seeds: Any = None) -> Any:
    """Reset the environments ``which`` ``[N]`` and return the observations of all ``[N, ...]``."""
    options = {"reset_mask": which.copy()}
    return VectorForm(envs).reset(envs.reset(seed=seeds, options=options))


def takes_seeds(envs: VectorEnv) -> bool:
    """Return whether each environment has its own generator, and so takes its own seed."""
    envs = envs.unwrapped
    return getattr(envs, "takes_seeds", isinstance(envs, (SyncVectorEnv, AsyncVectorEnv)))


def time_limit(envs: VectorEnv) -> int | None:
    """Return the environment's own limit on the steps of an episode, or None.

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
    """Warn that an episode without a limit was cut off."""
    warn(
        f"An episode was cut off after {limit:,} steps, because the environment has no time limit. "
        "Set max_steps to choose the limit."
    )


def _finite_part(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0)
