"""Recording experience as trajectories: whole episodes, or a number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tfpg.core.arrays import map_arrays
from tfpg.core.messages import warn
from tfpg.core.seeding import fragment_rng, reset_seed, training_rng
from tfpg.models.heads import Head
from tfpg.models.policy import Policy
from tfpg.rollouts.env_state import Resumable
from tfpg.rollouts.finite import check_observations, check_rewards
from tfpg.rollouts.loop import autoreset_mode, play, seeded_reset, takes_seeds, with_final
from tfpg.rollouts.recorder import fragment, record, side_by_side, some_of
from tfpg.rollouts.trajectory import Trajectory

# After so many steps without the end of an episode a word is due.
_PATIENCE = 10_000


class Collector(Resumable):
    """Owns the environments and the count of what was played in them.

    Args:
        envs: A vector environment, N environments.
        seed: Of the run.
        episode: Number of the first episode, to go on with an earlier run.
        fragment: Number of the first fragment of steps, likewise.
        window: Of how many last episodes the returns and lengths are kept at least.

    Attributes:
        episode: Episodes begun by `collect_episodes` or `collect_steps` so far.
        episode_returns: Of the last ``window`` episodes that ended, or of all since
            `take_finished` where those are more; oldest first.
        episode_lengths: Their steps.
        fragment: Fragments collected by `collect_steps` so far.
        steps: Environment steps so far, all episodes.
        ended: Episodes that ended so far.
        position: Follows the environments where somebody will ask for `get_state`, else None.

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

    def __init__(
        self, envs: VectorEnv, seed: int, episode: int = 0, fragment: int = 0, window: int = 100
    ):
        self.envs = envs
        self.seed = seed
        self.episode = episode
        self.fragment = fragment
        super().__init__(envs.num_envs, window)

    def collect_episodes(
        self, policy: Policy, num_episodes: int, max_steps: int | None = None
    ) -> Trajectory:
        """Plays whole episodes: an equal share in each environment, fixed in advance.

        Args:
            policy: Acts, by sampling.
            num_episodes: N of the trajectory.
            max_steps: Where an episode is cut; see `tfpg.rollouts.loop.play`.

        Returns:
            A `Trajectory`, a column an episode, padded to the longest.

        Raises:
            tfpg.errors.EnvDataError: A reward or an observation is not finite.
            tfpg.errors.EnvError: An environment failed, and this is to be raised.

        An episode whose environment failed is played again, or with ``on_env_error="drop"`` another
        one in its place; what was played of it is in no trajectory.
        """
        act = policy.actor()
        rounds = [
            self._round(policy, act, columns, rngs, max_steps)
            for columns, rngs in self.rounds(num_episodes)
        ]
        data = rounds[0] if len(rounds) == 1 else side_by_side(rounds)
        self.finish(data.rewards.sum(axis=0), data.mask.sum(axis=0).astype(int))
        self.steps += int(data.mask.sum())
        return data

    def _round(
        self, policy: Policy, act: Any, columns: int, rngs: list, max_steps: int | None
    ) -> Trajectory:
        """An episode in each of the first environments, until each has one that did not fail."""
        wanted = np.arange(self.envs.num_envs) < columns
        episodes = self.episode + np.arange(self.envs.num_envs)
        parts: list[Trajectory] = []
        places = np.zeros(0, int)
        while True:
            failed = np.zeros_like(wanted)
            steps = play(
                self.envs,
                act,
                rngs,
                columns=wanted,
                max_steps=max_steps,
                head=policy.head,
                failed=failed,
            )
            data = record(steps, columns, policy)
            if not failed.any() and not parts:
                return data
            done = np.flatnonzero(wanted & ~failed)
            parts.append(some_of(data, done))
            places = np.concatenate([places, done])
            if not failed.any():
                return some_of(side_by_side(parts), np.argsort(places))
            if not self._again:
                # The next episodes, beside those that the round counts in the end.
                episodes[failed] = self.episode + columns + np.arange(failed.sum())
                self.episode += int(failed.sum())
            wanted, rngs = failed, [training_rng(self.seed, int(e)) for e in episodes]

    @property
    def _again(self) -> bool:
        """Whether the episode of an environment that failed is begun again with its seed."""
        return getattr(self.envs.unwrapped, "on_env_error", "raise") == "restart"

    def rounds(self, num_episodes: int) -> Iterator[tuple[int, list[np.random.Generator]]]:
        """The rounds in which so many episodes are played, and counts the episodes.

        Yields:
            How many columns count, and a generator for each environment's episode.
        """
        for first in range(0, num_episodes, self.envs.num_envs):
            columns = min(self.envs.num_envs, num_episodes - first)
            rngs = [training_rng(self.seed, self.episode + i) for i in range(self.envs.num_envs)]
            yield columns, rngs
            self.episode += columns

    def collect_steps(
        self,
        policy: Policy,
        num_steps: int,
        max_steps: int | None = None,
        end_on_life_loss: bool = False,
    ) -> Trajectory:
        """Steps every environment ``num_steps`` times, going on where the last call stopped.

        Args:
            policy: Acts, by sampling.
            num_steps: Steps of every environment.
            max_steps: Where an episode is cut. None: the environment's own limit.
            end_on_life_loss: Call a step terminated in which a life was lost, by ``"lives"`` in
                the environment's infos. The episode goes on.

        Returns:
            A `Trajectory`, a column an environment. Episodes follow each other in it, with a
            row between them that is masked and holds the observation an episode ended with;
            columns are padded to the longest. With environments that reset themselves in a step
            of their own (Gymnasium's NEXT_STEP), those steps are among the ``num_steps``.
            Where an environment failed, the steps of its episode in this fragment are masked; if
            the episode began in an earlier one, the column's first row is.

        Raises:
            ValueError: ``max_steps`` is given and the vector environment resets by itself, or
                the environment does not tell its lives.
            tfpg.errors.EnvDataError: A reward or an observation is not finite.
            tfpg.errors.EnvError: An environment failed, and this is to be raised.
        """
        mode = autoreset_mode(self.envs)
        if max_steps and mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "max_steps cannot cut the episodes of a vector environment that resets by itself: "
                "make it with autoreset_mode=DISABLED, or wrap its environments in TimeLimit."
            )
        if self._observations is None:
            self._begin()
        act, head = policy.actor(), policy.head
        noise = self._noise(head, num_steps)
        rows: list[tuple] = []
        finals: list[tuple[int, np.ndarray, Any]] = []
        begun = self._lengths.copy()
        for t in range(num_steps):
            real = ~self._resetting
            try:
                decision = act(self._observations, noise[t])
            except FloatingPointError:
                check_observations(self._observations, real, self._lengths)
                if rows:  # or what an episode ended with, before its environment resets itself
                    fragment(rows, finals, self._observations, policy, begun)
                raise
            if self.position is not None:
                self.position.step(decision.env_actions)
            after, rewards, terminated, truncated, infos = self.envs.step(decision.env_actions)
            failed = infos.get("env_failed")
            if failed is not None:
                real = real & ~failed
                self._void(rows, failed)
            if not math.isfinite(rewards.sum()):
                check_rewards(rewards, real, self._lengths)
            self._returns += np.where(real, rewards, 0.0)
            self._lengths += real
            self.steps += int(real.sum())
            if max_steps:
                truncated = truncated | (self._lengths >= max_steps)
            ended = (terminated | truncated) & real
            if end_on_life_loss:
                terminated = terminated | self._life_lost(infos, real & ~ended)
            rows.append(
                (
                    self._observations,
                    decision.actions,
                    decision.outputs,
                    np.array(rewards),
                    terminated & real,
                    truncated & real,
                    real,
                )
            )
            self._observations = map_arrays(np.array, after)
            over = ended if failed is None else ended | failed
            if over.any():
                if mode is AutoresetMode.SAME_STEP:
                    finals.append((t, ended, with_final(self._observations, ended, infos)))
                elif mode is AutoresetMode.DISABLED:
                    finals.append((t, ended, self._observations))
                    self._observations = self._reset_those(over, failed)
                self._count(ended)
            self._resetting = ended & (mode is AutoresetMode.NEXT_STEP)
        self._warn_if_endless()
        return fragment(rows, finals, self._observations, policy, begun)

    def _begin(self) -> None:
        seeds = self._seeds = [self._next_seed() for _ in range(self.envs.num_envs)]
        self._observations = map_arrays(np.array, seeded_reset(self.envs, seeds))
        if self.position is not None:
            self.position.reset(range(self.envs.num_envs), seeds)

    def _noise(self, head: Head, num_steps: int) -> np.ndarray:
        """The noise of the next fragment, ``[num_steps, N, *noise_shape]``."""
        rng, count = fragment_rng(self.seed, self.fragment), self.envs.num_envs
        noise = head.noise(rng, num_steps * count).reshape(num_steps, count, *head.noise_shape)
        self.fragment += 1
        if head.hold > 1:
            for t in range(num_steps):
                if self._held_for % head.hold == 0:
                    self._held = noise[t].copy()
                noise[t] = self._held
                self._held_for += 1
        return noise

    def _next_seed(self) -> int:
        seed = reset_seed(training_rng(self.seed, self.episode))
        self.episode += 1
        return seed

    def _void(self, rows: list[tuple], failed: np.ndarray) -> None:
        """Masks the steps of episodes that broke off, and counts them no more."""
        for n in np.flatnonzero(failed):
            void = rows[max(0, len(rows) - self._lengths[n]) :]
            for *_, terminated, truncated, real in void:
                terminated[n] = truncated[n] = real[n] = False
            self.steps -= len(void)
        self._returns[failed] = 0.0
        self._lengths[failed] = 0
        self._lives[failed] = np.nan

    def _reset_those(self, ended: np.ndarray, failed: np.ndarray | None = None) -> Any:
        if failed is None or not self._again:
            failed = np.zeros_like(ended)
        seeds: Any = [
            (self._seeds[n] if failed[n] else self._next_seed()) if e else None
            for n, e in enumerate(ended)
        ]
        self._seeds = [
            old if new is None else new for old, new in zip(self._seeds, seeds, strict=True)
        ]
        slow = getattr(self.envs.unwrapped, "slow_seeds", False)
        seed = seeds if takes_seeds(self.envs) and not slow else None
        observations, _ = self.envs.reset(seed=seed, options={"reset_mask": ended.copy()})
        if self.position is not None:
            which = np.flatnonzero(ended).tolist()
            self.position.reset(which, [seeds[n] if seed else None for n in which])
        return map_arrays(np.array, observations)

    def _life_lost(self, infos: dict, real: np.ndarray) -> np.ndarray:
        if "lives" not in infos and real.any():  # a reset may not tell them
            raise ValueError(
                "end_on_life_loss is for environments that tell their lives, in infos['lives'], as "
                "Atari's do, and this one's infos hold "
                f"{sorted(infos) or 'nothing'}: leave it out."
            )
        told = infos.get("_lives", "lives" in infos)
        before, self._lives = self._lives, np.where(told, infos.get("lives", 0), np.nan)
        return self._lives < before  # of NaN nothing is less

    def _count(self, ended: np.ndarray) -> None:
        self.finish(self._returns[ended], self._lengths[ended])
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    def _warn_if_endless(self) -> None:
        if self._warned or self.episode_returns or self._lengths.max() < _PATIENCE:
            return
        self._warned = True
        warn(
            f"No episode has ended in {_PATIENCE:,} steps, so there is no episode_return: "
            "max_steps cuts episodes."
        )
