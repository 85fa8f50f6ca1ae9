"""Playing episodes in vector environments, and recording them as trajectories."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from tfpg.heads import Head
from tfpg.policy import Decision, Policy
from tfpg.seeding import reset_seed, training_rng
from tfpg.types import Trajectory

# An episode of an environment without a time limit, played without max_steps, is cut here.
NO_LIMIT_STEPS = 10_000

_NOISE_STEPS = 128


class Step(NamedTuple):
    """One step of N environments."""

    observations: np.ndarray  # [N, ...]  what was acted on
    decision: Decision
    rewards: np.ndarray  # [N]
    terminated: np.ndarray  # [N]
    truncated: np.ndarray  # [N]
    running: np.ndarray  # [N]  whose episode was still going on
    following: np.ndarray  # [N, ...]  what the action led to, an episode's last one included


class Noise:
    """Action noise for N episodes, each from its own generator, drawn in blocks of steps.

    Example:
        >>> import numpy as np
        >>> from gymnasium.spaces import Discrete
        >>> from tfpg.heads import BernoulliHead
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
    act: Callable[[np.ndarray, np.ndarray | None], Decision],
    rngs: Sequence[np.random.Generator],
    *,
    columns: int | None = None,
    max_steps: int | None = None,
    head: Head | None = None,
) -> Iterator[Step]:
    """Plays one episode in every environment, from a seeded reset, until all have ended.

    No environment begins a second episode that counts, so short episodes are not favoured.
    All three autoreset modes of Gymnasium are understood.

    Args:
        envs: The vector environment, N environments.
        act: Maps observations ``[N, ...]`` and noise to a `Decision`.
        rngs: N generators, one an episode: the reset's seed, then the action noise.
        columns: How many of the N episodes count, the first ones. None: all.
        max_steps: Where episodes are cut. None: the environment's own limit, or
            `NO_LIMIT_STEPS` with a warning where it has none.
        head: The head to draw noise for; None plays the mode.

    Yields:
        A `Step` for every step of the longest episode.
    """
    # An environment with a limit of its own keeps it, whatever its registration says.
    guarded = not max_steps and time_limit(envs) is None
    limit = max_steps or (NO_LIMIT_STEPS if guarded else sys.maxsize)
    mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    observations = np.array(_reset(envs, [reset_seed(rng) for rng in rngs]))
    noise = (lambda: None) if head is None else Noise(head, rngs)
    running = np.arange(envs.num_envs) < (columns or envs.num_envs)
    for t in range(limit):
        decision = act(observations, noise())
        after, rewards, terminated, truncated, infos = envs.step(decision.env_actions)
        # Environments may reuse their buffers: what was acted on is copied before the next step.
        following = after = np.array(after)
        ended = terminated | truncated
        any_ended = ended.any()
        if any_ended and mode is AutoresetMode.SAME_STEP:
            following = np.array(after)
            for i in np.flatnonzero(ended):
                following[i] = infos["final_obs"][i]
        elif any_ended and mode is AutoresetMode.DISABLED:
            after = np.array(envs.reset(options={"reset_mask": ended})[0])
        if t + 1 == limit:
            if guarded and (running & ~ended).any():
                warnings.warn(
                    f"An episode went on for {limit:,} steps and was cut there: the environment "
                    "has no time limit. Say max_steps to choose where.",
                    stacklevel=2,
                )
            truncated = truncated | ~terminated
        yield Step(observations, decision, rewards, terminated, truncated, running, following)
        if any_ended:
            running = running & ~ended
            if not running.any():
                return
        observations = after


class Collector:
    """Owns the environments and the count of the episodes played in them.

    Args:
        envs: A vector environment.
        seed: Of the run.
        episode: Number of the first episode, to go on with an earlier run.

    Example:
        >>> import keras
        >>> from tfpg.envs import open_vec
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> policy = Policy(model, "CartPole-v1")
        >>> with open_vec("CartPole-v1", num_envs=3) as envs:
        ...     trajectory = Collector(envs, seed=0).collect_episodes(policy, 5, max_steps=7)
        >>> trajectory.observations.shape, trajectory.rewards.shape
        ((8, 5, 4), (7, 5))
    """

    def __init__(self, envs: VectorEnv, seed: int, episode: int = 0):
        self.envs = envs
        self.seed = seed
        self.episode = episode

    def collect_episodes(
        self, policy: Policy, num_episodes: int, max_steps: int | None = None
    ) -> Trajectory:
        """Plays whole episodes: an equal share in each environment, fixed in advance.

        Args:
            policy: Acts, by sampling.
            num_episodes: N of the trajectory.
            max_steps: Where an episode is cut; see `play`.

        Returns:
            A `Trajectory`, a column an episode, padded to the longest.
        """
        rounds = []
        act = policy.actor()
        for first in range(0, num_episodes, self.envs.num_envs):
            columns = min(self.envs.num_envs, num_episodes - first)
            rngs = [
                training_rng(self.seed, self.episode + first + i) for i in range(self.envs.num_envs)
            ]
            steps = play(
                self.envs, act, rngs, columns=columns, max_steps=max_steps, head=policy.head
            )
            rounds.append(_record(steps, columns, policy))
        self.episode += num_episodes
        return rounds[0] if len(rounds) == 1 else _side_by_side(rounds)


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


def _reset(envs: VectorEnv, seeds: list[int]) -> np.ndarray:
    # Gymnasium's NumPy-vectorized environments have one generator for all, and one seed.
    each = isinstance(envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
    seed: Any = seeds if each else seeds[0]
    observations, _ = envs.reset(seed=seed)
    return observations


def _record(steps: Iterator[Step], columns: int, policy: Policy) -> Trajectory:
    rows: list[tuple] = []
    finals: list[tuple[int, np.ndarray, np.ndarray]] = []
    for t, step in enumerate(steps):
        ended = step.running & (step.terminated | step.truncated)
        if ended.any():
            finals.append((t + 1, ended, np.array(step.following)))
        rows.append(
            (
                step.observations,
                step.decision.actions,
                step.decision.outputs,
                np.array(step.rewards),
                np.array(step.terminated),
                np.array(step.truncated),
                step.running,
            )
        )
    observations, actions, outputs, rewards, terminated, truncated, running = (
        np.array(column)[:, :columns] for column in zip(*rows, strict=True)
    )
    if not np.isfinite(rewards[running]).all():
        t, column = np.argwhere(running & ~np.isfinite(rewards))[0]
        raise FloatingPointError(
            f"The reward of environment {column} in step {t} is {rewards[t, column]}. "
            "Nothing was learned from these episodes; mend the environment."
        )
    observations = np.concatenate([observations, observations[-1:]])
    for t, ended, following in finals:
        ended = ended[:columns]
        observations[t, ended] = following[:columns][ended]
    return Trajectory(
        observations=observations,
        actions=actions,
        rewards=np.where(running, rewards, 0.0).astype(np.float64),
        terminated=terminated & running,
        truncated=truncated & running,
        mask=running.astype(np.float64),
        log_probs=policy.log_prob(outputs, actions),
    )


def _side_by_side(rounds: Sequence[Trajectory]) -> Trajectory:
    def pad(x: np.ndarray, steps: int) -> np.ndarray:
        return np.concatenate([x, np.zeros((steps - len(x), *x.shape[1:]), x.dtype)])

    return Trajectory(
        *(
            np.concatenate([pad(x, max(map(len, field))) for x in field], axis=1)
            for field in zip(*rounds, strict=True)
        )
    )
