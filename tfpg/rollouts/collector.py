"""Collecting experience as trajectories: whole episodes, or a fixed number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.core.messages import warn
from tfpg.models.policy import Actor, Policy
from tfpg.rollouts.player import Fragment, Player
from tfpg.rollouts.trajectory import Columns, Trajectory, assembled

# Steps without the end of an episode after which there is a warning.
PATIENCE = 10_000

# The attributes that make up a collector's state, apart from its player's.
_STATE = (
    *("episode", "fragment", "steps", "ended", "episode_returns", "episode_lengths"),
    *("_taken", "_warned"),
)


class Collector:
    """Plays in a vector environment, and counts what was played.

    Args:
        envs: A vector environment, N environments.
        seed: The run's seed.
        episode: The number of the first episode, to resume an earlier run.
        fragment: The number of the first fragment of steps, to resume an earlier run.
        window: Number of most recent episodes whose returns and lengths are kept.

    Attributes:
        episode: The number of the next whole episode.
        fragment: Fragments collected so far by `collect_steps`.
        steps: Environment steps so far, over all episodes.
        ended: Episodes that ended so far.
        episode_returns: Returns of the last ``window`` episodes that ended, or of all since
            `take_finished` was called where those are more; oldest first.
        episode_lengths: Lengths of the same episodes, in steps.
        player: Plays in the environments.
        until: The iteration at which the next compiled call must end.

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
        self.window = window
        self.steps = 0
        self.ended = 0
        self.episode_returns: list[float] = []
        self.episode_lengths: list[int] = []
        self.until = 1
        self.player = Player(envs, seed, begun=episode)
        self._taken = 0
        self._warned = False

    def collect_episodes(
        self,
        policy: Policy,
        num_episodes: int,
        max_steps: int | None = None,
        weights: Sequence[np.ndarray] | None = None,
    ) -> Trajectory:
        """Play whole episodes: an equal share in each environment, fixed in advance.

        An episode whose environment failed is discarded, and played again or, with
        ``on_env_error="drop"``, replaced by another one.

        Args:
            policy: The policy that acts, by sampling.
            num_episodes: N of the trajectory.
            max_steps: Length at which an episode is truncated; see
                `tfpg.rollouts.loop.play_episodes`.
            weights: The policy's weights, if they are known; see `tfpg.Policy.actor`.

        Returns:
            A `Trajectory` with an episode in each column, padded to the longest.

        Raises:
            tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
            tfpg.errors.EnvError: An environment failed, and ``on_env_error`` is ``"raise"``.
        """
        actor = self._actor(policy, weights)
        parts = self._play_episodes(actor, self.episode, num_episodes, max_steps)
        data = assembled(parts)
        self.episode += num_episodes
        self.finish(data.rewards.sum(axis=0), data.mask.sum(axis=0).astype(int))
        self.steps += int(data.mask.sum())
        return data

    def collect_steps(
        self,
        policy: Policy,
        num_steps: int,
        max_steps: int | None = None,
        end_on_life_loss: bool = False,
        weights: Sequence[np.ndarray] | None = None,
        log_probs: bool = True,
    ) -> Trajectory:
        """Step each environment ``num_steps`` times, from where the last call stopped.

        Args:
            policy: The policy that acts, by sampling.
            num_steps: Number of steps of each environment.
            max_steps: Length at which an episode is truncated. None: the environment's own limit.
            end_on_life_loss: Mark a step in which a life was lost as terminated, according to
                ``"lives"`` in the environment's infos. The episode continues.
            weights: The policy's weights, if they are known; see `tfpg.Policy.actor`.
            log_probs: Whether log-probabilities are needed. They are 0 otherwise.

        Returns:
            A `Trajectory` with an environment in each column, at least ``num_steps`` long. Between
            two episodes there is a masked row with the observation that the first one ended with,
            and columns are padded to the longest. In environments that reset themselves in a step
            of their own (Gymnasium's NEXT_STEP), those steps are among the ``num_steps``.
            If an environment failed, the steps of its episode are left out; if the episode began in
            an earlier fragment, the first row of the column is masked.

        Raises:
            ValueError: ``max_steps`` is given and the vector environment resets itself, or
                ``end_on_life_loss`` is and the environment does not report lives.
            tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
            tfpg.errors.EnvError: An environment failed, and ``on_env_error`` is ``"raise"``.
        """
        actor = self._actor(policy, weights)
        fragments = self._play_steps(
            actor, self.fragment, num_steps, max_steps, end_on_life_loss, log_probs
        )
        self.fragment += 1
        data = assembled([each.played for each in fragments])
        order, returns, lengths = _in_order(fragments)
        self.finish(returns[order], lengths[order])
        self.steps += int(data.mask.sum())
        self._warn_if_endless(max(each.longest for each in fragments))
        return data

    def _actor(self, policy: Policy, weights: Sequence[np.ndarray] | None) -> Actor:
        return policy.actor(weights)

    def _play_episodes(self, *arguments: Any) -> list[Columns]:
        return self.player.episodes(*arguments)

    def _play_steps(self, *arguments: Any) -> list[Fragment]:
        return [self.player.steps(*arguments)]

    def finish(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Count episodes that ended, by their returns and lengths ``[E]``."""
        self.episode_returns.extend(returns.tolist())
        self.episode_lengths.extend(lengths.tolist())
        self.ended += len(returns)
        keep = max(self.window, self.ended - self._taken)
        del self.episode_returns[:-keep], self.episode_lengths[:-keep]

    def take_finished(self) -> list[float]:
        """Return the returns of the episodes that ended since the last call."""
        new, self._taken = self.ended - self._taken, self.ended
        return self.episode_returns[len(self.episode_returns) - new :]

    def forget(self) -> None:
        """Leave the episodes that ended so far out of the returns and lengths."""
        del self.episode_returns[:], self.episode_lengths[:]
        self._taken = self.ended

    def follow(self) -> None:
        """Keep track of the environments, for `get_state`. Call it before anything is played."""
        self.player.follow()

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`: counts, and the environments' positions if followed."""
        return {**self.counts(), "player": self.player.get_state()}

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Resume from the state of a collector that was followed.

        Returns:
            ``[N]`` bool, the environments that could not be restored; see `Player.set_state`.
        """
        self.restore_counts(state)
        return self.player.set_state(state["player"])

    def counts(self) -> dict[str, Any]:
        """Return all of the state but the positions of the environments."""
        return {name: deepcopy(getattr(self, name)) for name in _STATE}

    def restore_counts(self, state: dict[str, Any]) -> None:
        """Restore all of a state but the positions of the environments."""
        for name in _STATE:
            setattr(self, name, deepcopy(state[name]))

    def _warn_if_endless(self, longest: int) -> None:
        if self._warned or self.episode_returns or longest < PATIENCE:
            return
        self._warned = True
        warn(
            f"No episode has ended in {PATIENCE:,} steps, so there is no episode_return: "
            "set max_steps to cut off episodes."
        )


def _in_order(fragments: Sequence[Fragment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order in which episodes ended in all fragments, and their returns and lengths."""
    times, envs, returns, lengths = (
        np.concatenate([getattr(each, name) for each in fragments])
        for name in ("times", "envs", "returns", "lengths")
    )
    return np.lexsort([envs, times]), returns, lengths
