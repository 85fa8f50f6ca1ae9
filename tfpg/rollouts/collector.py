"""Collecting experience as trajectories: whole episodes, or a fixed number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tfpg.core.arrays import any_of, assign, map_arrays
from tfpg.core.messages import warn
from tfpg.core.seeding import fragment_rng, reset_seed, training_rng
from tfpg.models.actor import Decision
from tfpg.models.heads import Head
from tfpg.models.policy import Policy
from tfpg.rollouts.env_state import EnvTracker
from tfpg.rollouts.finite import check_observations, check_rewards, is_finite
from tfpg.rollouts.loop import (
    Progress,
    Step,
    autoreset_mode,
    play,
    play_episodes,
    reset_some,
    seeded_reset,
    takes_seeds,
)
from tfpg.rollouts.trajectory import Trajectory, concatenate

# Steps without the end of an episode after which there is a warning.
PATIENCE = 10_000

# The attributes that make up a collector's state, apart from its progress.
_STATE = (
    *("episode", "fragment", "steps", "ended", "episode_returns", "episode_lengths"),
    *("_seeds", "_returns", "_lives", "_held", "_held_for", "_taken", "_warned"),
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
        episode: Episodes begun so far.
        fragment: Fragments collected so far by `collect_steps`.
        steps: Environment steps so far, over all episodes.
        ended: Episodes that ended so far.
        episode_returns: Returns of the last ``window`` episodes that ended, or of all since
            `take_finished` was called where those are more; oldest first.
        episode_lengths: Lengths of the same episodes, in steps.
        progress: The environments' positions between two calls of `collect_steps`; None before.
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
        self.progress: Progress | None = None
        self.until = 1
        self._tracker: EnvTracker | None = None
        self._last: Any = None  # observations at the end of the last whole episodes
        self._seeds: list[int] = []  # of the current episodes
        self._returns = np.zeros(envs.num_envs)
        self._lives = np.full(envs.num_envs, np.nan)
        self._held, self._held_for = np.zeros(0), 0  # noise that is used for several steps
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
        act, count = policy.actor(weights), self.envs.num_envs
        # Only environments that idle after their episode take the same steps again.
        tracker = self._tracker if hasattr(self.envs.unwrapped, "on_env_error") else None
        if tracker is not None:
            act = tracker.recorded(act)
        rounds = []
        for first in range(0, num_episodes, count):
            numbers = [self.episode + n for n in range(count)]
            wanted = min(count, num_episodes - first)
            self.episode += wanted
            if tracker is not None:
                seeds = [reset_seed(training_rng(self.seed, number)) for number in numbers]
                tracker.reset(range(count), seeds)
            steps = play_episodes(
                self.envs,
                act,
                [training_rng(self.seed, number) for number in numbers],
                head=policy.head,
                num_episodes=wanted,
                max_steps=max_steps,
                replacement=partial(self._replacement, numbers),
            )
            played = list(steps)
            rounds.append(record(played, policy, num_episodes=wanted))
        if tracker is not None:
            self._last = played[-1].following
            self._returns = np.zeros(count)
            for step in played:  # one after another, as they are added when they are repeated
                self._returns += step.rewards
                self._returns[step.failed] = 0.0
            self._returns[wanted:] = np.nan  # rewards of episodes that do not count are 0
        data = rounds[0] if len(rounds) == 1 else concatenate(rounds)
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
        if max_steps and autoreset_mode(self.envs) is not AutoresetMode.DISABLED:
            raise ValueError(
                "max_steps cannot cut off the episodes of a vector environment that resets itself: "
                "make it with autoreset_mode=DISABLED, or wrap its environments in TimeLimit."
            )
        if self.progress is None:
            self.progress = self._begin()
        act, noise = policy.actor(weights), self._noise(policy.head, num_steps)
        if self._tracker is not None:
            act = self._tracker.recorded(act)
        steps = []
        for step in play(
            self.envs,
            act,
            noise,
            self.progress,
            single_episode=False,
            next_seeds=self._next_seeds,
            max_steps=max_steps,
        ):
            if end_on_life_loss:
                lost = self._life_lost(self.progress.infos, step.real & ~step.ended)
                step = step._replace(terminated=step.terminated | lost)
            steps.append(step)
            self._returns += step.rewards
            if any_of(step.ended | step.failed):
                self.finish(self._returns[step.ended], step.lengths[step.ended])
                self._returns[step.ended | step.failed] = 0.0
        data = record(steps, policy, num_steps=num_steps, log_probs=log_probs)
        self.steps += int(data.mask.sum())
        self._warn_if_endless()
        return data

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
        self._tracker = EnvTracker(self.envs)

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`: counts, and the environments' positions if followed."""
        state: dict[str, Any] = {name: deepcopy(getattr(self, name)) for name in _STATE}
        if self.progress is not None:
            state["playing"] = self.progress.playing.copy()
            state["lengths"] = self.progress.lengths.copy()
            if self._tracker is not None and self._tracker.restorable:
                state["position"] = self._tracker.get_state(self.progress.observations)
        elif self._tracker is not None and self._last is not None:
            state["position"] = self._tracker.get_state(self._last)
        return state

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Resume from the state of a collector that was followed.

        Returns:
            ``[N]`` bool, the environments that could not be restored: they reset themselves, or do
            not take the same steps every time. Their episodes begin from a reset.
        """
        self.restore_counts(state)
        lost = np.zeros(self.envs.num_envs, bool)
        self.follow()
        assert self._tracker is not None
        if "playing" not in state:
            if "position" in state:
                self._last, same = self._tracker.set_state(state["position"], self._returns)
                lost = ~same
            return lost
        if "position" not in state:
            lost[:] = True
            self.progress = self._begin()
        else:
            playing, lengths = np.array(state["playing"]), np.array(state["lengths"])
            known = np.where((lengths > 0) & playing, self._returns, np.nan)
            observations, same = self._tracker.set_state(state["position"], known)
            lost = ~same
            if lost.any():
                # A vector environment may return other observations of those it did not reset.
                begun = reset_some(self.envs, lost, self._next_seeds(lost, np.zeros_like(lost)))
                assign(observations, lost, map_arrays(lambda x: x[lost], begun))
            self.progress = Progress(observations, playing | lost, np.where(lost, 0, lengths))
        self._returns[lost], self._lives[lost] = 0.0, np.nan
        return lost

    def restore_counts(self, state: dict[str, Any]) -> None:
        """Restore all of a state but the positions of the environments."""
        for name in _STATE:
            setattr(self, name, deepcopy(state[name]))

    def _begin(self) -> Progress:
        count = self.envs.num_envs
        self._seeds = [self._next_seed() for _ in range(count)]
        observations = seeded_reset(self.envs, self._seeds)
        if self._tracker is not None:
            self._tracker.reset(range(count), self._seeds)
        return Progress(observations, np.ones(count, bool), np.zeros(count, int))

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

    @property
    def _restarts(self) -> bool:
        """Whether an episode whose environment failed is played again, from the same seed."""
        return getattr(self.envs.unwrapped, "on_env_error", "raise") == "restart"

    def _replacement(self, numbers: list[int], n: int) -> np.random.Generator:
        """The generator of the episode that environment ``n`` plays after a failure."""
        if not self._restarts:
            numbers[n] = self.episode
            self.episode += 1
        if self._tracker is not None:
            self._tracker.reset([n], [reset_seed(training_rng(self.seed, numbers[n]))])
        return training_rng(self.seed, numbers[n])

    def _next_seeds(self, waiting: np.ndarray, failed: np.ndarray) -> list[int | None] | None:
        """The seeds of environments that are about to be reset, ``[N]`` bool."""
        again = failed & self._restarts
        which = np.flatnonzero(waiting).tolist()
        for n in which:
            if not again[n]:
                self._seeds[n] = self._next_seed()
        slow = getattr(self.envs.unwrapped, "slow_seeds", False)
        seeded = takes_seeds(self.envs) and not slow
        if self._tracker is not None:
            self._tracker.reset(which, [self._seeds[n] if seeded else None for n in which])
        if not seeded:
            return None
        return [seed if waiting[n] else None for n, seed in enumerate(self._seeds)]

    def _life_lost(self, infos: dict, real: np.ndarray) -> np.ndarray:
        if "lives" not in infos and real.any():  # a reset may not report them
            raise ValueError(
                "end_on_life_loss needs an environment that reports lives in infos['lives'], as "
                f"Atari games do, but these infos hold {sorted(infos) or 'nothing'}: leave it out."
            )
        reported = infos.get("_lives", "lives" in infos)
        before, self._lives = self._lives, np.where(reported, infos.get("lives", 0), np.nan)
        return self._lives < before  # nothing is less than NaN

    def _warn_if_endless(self) -> None:
        assert self.progress is not None
        if self._warned or self.episode_returns or self.progress.lengths.max() < PATIENCE:
            return
        self._warned = True
        warn(
            f"No episode has ended in {PATIENCE:,} steps, so there is no episode_return: "
            "set max_steps to cut off episodes."
        )


def record(
    steps: Sequence[Step],
    policy: Policy,
    *,
    num_episodes: int | None = None,
    num_steps: int = 0,
    log_probs: bool = True,
) -> Trajectory:
    """Return successive steps as a trajectory.

    Args:
        steps: The steps, at least one. Those of an episode whose environment failed are left out;
            if it began before the first of them, the first row of its column is masked.
        policy: The policy that acted.
        num_episodes: How many columns to return, the first ones. None: all.
        num_steps: The least T; the trajectory is padded up to it.
        log_probs: Whether log-probabilities are needed. They are 0 otherwise.

    Raises:
        tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
    """
    fields: Any = Step._make(zip(*steps, strict=True))
    decisions: Any = Decision._make(zip(*fields.decision, strict=True))

    def stacked(*xs: np.ndarray) -> np.ndarray:
        array = np.array(xs)
        return array if num_episodes is None else array[:, :num_episodes]

    actions, rewards = stacked(*decisions.actions), stacked(*fields.rewards)
    if log_probs:
        taken = policy.distribution_of(stacked(*decisions.outputs)).log_prob(actions)
    else:
        taken = np.zeros(rewards.shape, np.float32)
    observations = map_arrays(stacked, *fields.observations, fields.following[-1])
    real, ended, failed = (stacked(*x) for x in (fields.real, fields.ended, fields.failed))
    terminated, truncated = stacked(*fields.terminated), stacked(*fields.truncated)
    arrays = [actions, rewards, terminated, truncated, real.astype(np.float64), taken]
    data = Trajectory(observations, *arrays)
    # Environments that use a separate step to reset already have the required gaps.
    complete = np.array_equal(real[1:], ~ended[:-1]) and not any_of(failed)
    if num_episodes is not None:  # the others reset nothing, or at once
        complete = complete and not any_of(ended[:-1])
    if len(steps) < num_steps or not complete:
        lengths = stacked(*fields.lengths)
        data = _arranged(data, fields.following, ended, failed, lengths, num_steps)
    if not (is_finite(data.rewards) and is_finite(data.observations)):
        _check_finite(steps)
    return data


def _arranged(
    data: Trajectory,
    following: Sequence[Any],
    ended: np.ndarray,
    failed: np.ndarray,
    lengths: np.ndarray,
    num_steps: int,
) -> Trajectory:
    """Put rows between episodes, leave out the steps of those that failed, and pad."""
    real, broken = _kept(data.mask > 0, failed, lengths)
    observations = data.observations
    kept = real.astype(np.float64)
    arrays = [
        *(data.actions, np.where(real, data.rewards, 0.0)),
        *(data.terminated & real, data.truncated & real, kept, data.log_probs),
    ]
    rows = arrange(real, ended, broken)
    times, columns = np.nonzero(real)
    places = rows[times, columns]
    steps = len(real)
    length = max(places.max(initial=-1) + 1, num_steps)
    if length != steps or (places != times).any():

        def moved(x: np.ndarray, length: int = length, fill: Any = 0) -> np.ndarray:
            out = np.empty((length, *x.shape[1:]), x.dtype)
            out[:] = fill
            out[places, columns] = x[times, columns]
            return out

        arrays = [moved(x) for x in arrays]
        # Zeros may be outside the observation space.
        observations = map_arrays(lambda x: moved(x, length + 1, x[0]), observations)
        # Nothing is below the last step of a column yet.
        n = np.flatnonzero(real.any(axis=0))
        ended[steps - 1 - real[::-1, n].argmax(axis=0), n] = True
    for t in np.flatnonzero(ended.any(axis=1)).tolist():
        n = np.flatnonzero(ended[t])
        last = map_arrays(lambda x, n=n: x[n], following[t])
        assign(observations, (rows[t, n] + 1, n), last)
    return Trajectory(observations, *arrays)


def arrange(real: np.ndarray, ended: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Return the row of a trajectory that each real step goes to.

    Real steps go below each other, with a row between the end of an episode and the next step.

    Args:
        real: ``[T, N]`` bool, the steps to keep.
        ended: ``[T, N]`` bool, the steps that ended an episode.
        broken: ``[N]`` bool, the columns that begin with a masked row.

    Returns:
        ``[T, N]`` int, which counts only where a step is real.

    Example:
        >>> real, ended = np.array([[1, 1, 0, 1]]).T > 0, np.array([[0, 1, 0, 0]]).T > 0
        >>> arrange(real, ended, np.array([False])).ravel().tolist()
        [0, 1, 2, 3]
    """
    rows = real.cumsum(axis=0) - 1 + broken
    rows[1:] += ended[:-1].cumsum(axis=0)
    return rows


def _kept(
    real: np.ndarray, failed: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The real steps ``[T, N]`` of episodes that did not fail, and which columns begin broken."""
    real, broken = real.copy(), np.zeros(real.shape[1], bool)
    for t, n in zip(*np.nonzero(failed), strict=True):
        first = t - lengths[t, n]
        broken[n] |= first < 0
        real[max(first, 0) : t, n] = False
    return real, broken


def _check_finite(steps: Sequence[Step]) -> None:
    for step in steps:
        check_observations(step.observations, step.real, step.lengths - 1)
        check_rewards(step.rewards, step.real, step.lengths - 1)
        check_observations(step.following, step.real, step.lengths)
