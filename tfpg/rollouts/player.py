"""Playing in some of a run's environments, in any process and without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tfpg.core.arrays import BLOCK, any_of, assign, map_arrays
from tfpg.core.seeding import fragment_rng, reset_seed, training_rng
from tfpg.models.heads import Head
from tfpg.models.policy import Actor
from tfpg.rollouts.env_state import EnvTracker
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
from tfpg.rollouts.recording import record
from tfpg.rollouts.trajectory import Columns


class Fragment(NamedTuple):
    """The steps that a player played, and the episodes that ended in them."""

    played: Columns
    times: np.ndarray  # [E]  the step in which each episode ended
    envs: np.ndarray  # [E]  its environment
    returns: np.ndarray  # [E]
    lengths: np.ndarray  # [E]
    longest: int  # length of the longest episode that has not ended


class Player:
    """Plays in all of a run's N environments, or in those of one process.

    An environment's episodes depend on the run's seed, the environment's index among the N, and the
    weights, but not on the player's other environments.

    Args:
        envs: A vector environment, n environments.
        seed: The run's seed.
        first: The index of its first environment among the N.
        total: The number of environments in the run, N. None: n.
        begun: The number of the first episode of each environment, to resume an earlier run.

    Attributes:
        progress: The environments' positions between two calls of `steps`; None before.

    Example:
        >>> import keras, tfpg
        >>> from tfpg.envs import open_vec
        >>> model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        >>> actor = tfpg.Policy(model, "Acrobot-v1").actor()
        >>> def play(num_envs, first):
        ...     with open_vec("Acrobot-v1", num_envs) as envs:
        ...         player = Player(envs, seed=0, first=first, total=5)
        ...         return player.steps(actor, fragment=0, num_steps=9).played.data.rewards
        >>> bool((play(5, first=0)[:, 2:] == play(3, first=2)).all())
        True
    """

    def __init__(
        self,
        envs: VectorEnv,
        seed: int,
        first: int = 0,
        total: int | None = None,
        begun: int = 0,
    ):
        count = envs.num_envs
        self.envs, self.seed = envs, seed
        self.progress: Progress | None = None
        self._indices = np.arange(first, first + count)
        self._total = total or count
        self._tracker: EnvTracker | None = None
        self._last: Any = None  # observations at the end of the last whole episodes
        self._begun = np.full(count, begun)  # episodes, in fragments
        self._seeds = [0] * count  # of the current episodes
        self._returns = np.zeros(count)
        self._lives = np.full(count, np.nan)
        self._held: np.ndarray | None = None  # noise that is used for several steps
        self._held_for = 0
        self._memory: dict[str, np.ndarray] | None = None  # of a recurrent policy

    def episodes(
        self, actor: Actor, episode: int, num_episodes: int, max_steps: int | None = None
    ) -> list[Columns]:
        """Play this player's share of whole episodes.

        Args:
            actor: Samples actions for all N environments.
            episode: The number of the first episode of all.
            num_episodes: Number of episodes over all N environments, which play them in rounds of
                N.
            max_steps: See `tfpg.rollouts.loop.play_episodes`.

        Returns:
            The episodes of each round. Columns are numbered from the first episode.

        Raises:
            tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
            tfpg.errors.EnvError: An environment failed, and ``on_env_error`` is ``"raise"``.
        """
        count, head = self.envs.num_envs, actor.head
        # Only environments that idle after their episode can be replayed exactly.
        tracker = self._tracker if hasattr(self.envs.unwrapped, "on_env_error") else None
        act = self._of_part(actor)
        rounds = []
        for start in range(0, num_episodes, self._total):
            columns = start + self._indices
            wanted = int((columns < num_episodes).sum())
            if not wanted:
                continue
            numbers = (episode + columns).tolist()
            rngs = [training_rng(self.seed, number) for number in numbers]
            if tracker is not None:
                seeds = [reset_seed(training_rng(self.seed, number)) for number in numbers]
                tracker.reset(range(count), seeds)
            acting = act.for_envs(count)
            steps = play_episodes(
                self.envs,
                acting if tracker is None else tracker.recorded(acting),
                rngs,
                head=head,
                num_episodes=wanted,
                max_steps=max_steps,
                replacement=partial(self._replacement, numbers, [0] * count),
                reset=getattr(acting, "reset", None),
            )
            played = list(steps)
            rounds.append(Columns(columns[:wanted], record(played, actor, num_episodes=wanted)))
        if tracker is not None and rounds:
            self._last = played[-1].following
            self._returns = np.zeros(count)
            for step in played:  # step by step, to round exactly as a replay does
                self._returns += step.rewards
                self._returns[step.failed] = 0.0
            self._returns[wanted:] = np.nan  # rewards of episodes that do not count are 0
        return rounds

    def steps(
        self,
        actor: Actor,
        fragment: int,
        num_steps: int,
        max_steps: int | None = None,
        end_on_life_loss: bool = False,
        log_probs: bool = True,
    ) -> Fragment:
        """Step each environment ``num_steps`` times, from where the last call stopped.

        Args:
            actor: Samples actions for all N environments.
            fragment: The number of the call.
            num_steps: Number of steps of each environment.
            max_steps: Length at which an episode is truncated. None: the environment's own limit.
            end_on_life_loss: Mark a step in which a life was lost as terminated.
            log_probs: Whether log-probabilities are needed. They are 0 otherwise.

        Raises:
            ValueError: ``max_steps`` is given but the vector environment resets itself, or
                ``end_on_life_loss`` is given but the environment does not report lives.
            tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
            tfpg.errors.EnvError: An environment failed, and ``on_env_error`` is ``"raise"``.
        """
        if max_steps and autoreset_mode(self.envs) is not AutoresetMode.DISABLED:
            raise ValueError(
                "max_steps cannot truncate the episodes of a vector environment that resets "
                "itself: make it with autoreset_mode=DISABLED, or wrap its environments in "
                "TimeLimit."
            )
        if self.progress is None:
            self.progress = self._begin()
        act: Any = self._of_part(actor)
        memory: Any = None
        if getattr(actor, "states", None):
            memory = act = act.for_envs(self.envs.num_envs)
            memory.memory = self._memory or memory.memory
        if self._tracker is not None:
            act = self._tracker.recorded(act)
        steps: list[Step] = []
        ended: list[tuple[np.ndarray, ...]] = []
        for step in play(
            self.envs,
            act,
            self._noise(actor.head, fragment, num_steps),
            self.progress,
            single_episode=False,
            next_seeds=self._next_seeds,
            max_steps=max_steps,
        ):
            if memory is not None:
                over = step.ended | step.failed | ~step.real
                memory.reset(over & self.progress.playing)
            if end_on_life_loss:
                lost = self._life_lost(self.progress.infos, step.real & ~step.ended)
                step = step._replace(terminated=step.terminated | lost)
            self._returns += step.rewards
            if any_of(step.ended | step.failed):
                n = np.flatnonzero(step.ended)
                times = np.full(len(n), len(steps))
                ended.append((times, self._indices[n], self._returns[n], step.lengths[n]))
                self._returns[step.ended | step.failed] = 0.0
            steps.append(step)
        if memory is not None:
            self._memory = memory.memory
        data = record(steps, actor, num_steps=num_steps, log_probs=log_probs)
        nothing = np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0, int)
        times, envs, returns, lengths = map(np.concatenate, zip(nothing, *ended, strict=True))
        longest = int(self.progress.lengths.max())
        played = Columns(self._indices, data)
        return Fragment(played, times, envs, returns, lengths, longest)

    def follow(self) -> None:
        """Track the environments' positions for `get_state`. Call this before playing."""
        self._tracker = EnvTracker(self.envs)

    def get_state(self, new: bool = False) -> dict[str, Any]:
        """Return the state for `set_state`, with the environments' positions if they are followed.

        Lists and arrays have one entry per environment.

        Args:
            new: Return only the actions since the last call; see `EnvTracker.get_state`.
        """
        state: dict[str, Any] = {
            "begun": self._begun.copy(),
            "seeds": list(self._seeds),
            "returns": self._returns.copy(),
            "lives": self._lives.copy(),
            "held": None if self._held is None else self._held.copy(),
            "held_for": self._held_for,
            "memory": None if self._memory is None else dict(self._memory),
        }
        tracker, seen = self._tracker, self._last
        if self.progress is not None:
            seen = self.progress.observations
            state["playing"] = self.progress.playing.copy()
            state["lengths"] = self.progress.lengths.copy()
        if tracker is not None and seen is not None and tracker.restorable:
            state["position"] = tracker.get_state(seen, new)
        return state

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Resume from the state of a player that was followed.

        Returns:
            ``[n]`` bool, the environments that could not be restored, because they reset themselves
            or are not deterministic. They start new episodes.
        """
        self._begun, self._seeds = np.array(state["begun"]), list(state["seeds"])
        self._returns, self._lives = np.array(state["returns"]), np.array(state["lives"])
        self._held, self._held_for = state["held"], state["held_for"]
        self._memory = state["memory"]
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
                # A vector environment may return different observations for environments it did not
                # reset.
                begun = reset_some(self.envs, lost, self._next_seeds(lost, np.zeros_like(lost)))
                assign(observations, lost, map_arrays(lambda x: x[lost], begun))
            self.progress = Progress(observations, playing | lost, np.where(lost, 0, lengths))
        self._returns[lost], self._lives[lost] = 0.0, np.nan
        if self._memory is not None and lost.any():
            from tfpg.models.recurrent import forgotten

            self._memory = forgotten(self._memory, lost)
        return lost

    def _of_part(self, actor: Actor) -> Actor:
        if len(self._indices) == self._total:
            return actor
        return actor.of_part(int(self._indices[0]), self._total)

    def _begin(self) -> Progress:
        count = self.envs.num_envs
        self._seeds = [self._next_seed(n) for n in range(count)]
        observations = seeded_reset(self.envs, self._seeds)
        if self._tracker is not None:
            self._tracker.reset(range(count), self._seeds)
        return Progress(observations, np.ones(count, bool), np.zeros(count, int))

    def _noise(self, head: Head, fragment: int, num_steps: int) -> np.ndarray:
        """The noise of a fragment, ``[num_steps, n, *noise_shape]``."""
        first, last = self._indices[[0, -1]].tolist()
        blocks = []
        for block in range(first // BLOCK, last // BLOCK + 1):
            rng, count = fragment_rng(self.seed, fragment, block), self._total - block * BLOCK
            count = min(count, BLOCK)
            shape = num_steps, count, *head.noise_shape
            blocks.append(head.noise(rng, num_steps * count).reshape(shape))
        noise = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        noise = noise[:, first % BLOCK :][:, : self.envs.num_envs]
        if head.hold > 1:
            for t in range(num_steps):
                if self._held is None or self._held_for % head.hold == 0:
                    self._held = noise[t].copy()
                noise[t] = self._held
                self._held_for += 1
        return noise

    def _next_seed(self, n: int) -> int:
        rng = training_rng(self.seed, int(self._begun[n]), int(self._indices[n]))
        self._begun[n] += 1
        return reset_seed(rng)

    @property
    def _restarts(self) -> bool:
        """Whether an episode whose environment failed is played again, from the same seed."""
        return getattr(self.envs.unwrapped, "on_env_error", "raise") == "restart"

    def _replacement(
        self, numbers: Sequence[int], attempts: list[int], n: int
    ) -> np.random.Generator:
        """The generator of the episode that environment ``n`` plays after a failure."""
        if not self._restarts:
            attempts[n] += 1
        if self._tracker is not None:
            seed = reset_seed(training_rng(self.seed, numbers[n], attempts[n]))
            self._tracker.reset([n], [seed])
        return training_rng(self.seed, numbers[n], attempts[n])

    def _next_seeds(self, waiting: np.ndarray, failed: np.ndarray) -> list[int | None] | None:
        """The seeds of environments that are about to be reset, ``[n]`` bool."""
        again = failed & self._restarts
        which = np.flatnonzero(waiting).tolist()
        for n in which:
            if not again[n]:
                self._seeds[n] = self._next_seed(n)
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
