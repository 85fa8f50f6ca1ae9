"""Learning from a replay buffer: environment steps and updates, in turn or at the same time.

Environment steps are counted over all environments together. After ``learning_starts`` steps of
random play, ``updates_per_learn`` updates are made every ``learn_period`` steps in one compiled
call, each from ``batch_size`` transitions of the replay buffer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.agent import Agent
from tfpg.agents.warnings import QLearningWarnings
from tfpg.core.memory import available_memory, readable_bytes
from tfpg.core.messages import show, warn
from tfpg.core.options import count, flag, fraction, option, optional, positive
from tfpg.core.seeding import shuffle_rng
from tfpg.envs.contracts import usable_space
from tfpg.models.policy import Policy
from tfpg.rollouts.replay import ReplayBuffer, Transitions
from tfpg.rollouts.replay_storage import bytes_needed, check_stacked, replay_device
from tfpg.rollouts.trajectory import Trajectory
from tfpg.schedules import probability_schedule

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector

# Steps of each environment that are played at a time before the first update.
_WARM_UP_STEPS = 128
# A replay buffer this large and a warm-up this long are announced.
_LARGE_REPLAY, _LONG_WARM_UP = 100_000_000, 10_000  # bytes, steps
_COUNTERS = ("episodes", "_episodes_before", "_stored_steps", "_stack_checked")


class OffPolicy(Agent):
    """An agent that learns from a replay buffer.

    Subclasses define `build`, `explore` and `learn_from`.
    """

    n_step: int = option(default=3, check=count, help="Number of rewards per transition.")
    prioritized: bool = option(
        default=False,
        check=flag,
        help="Sample transitions in proportion to their errors instead of uniformly.",
    )
    priority_alpha: float = option(
        default=0.6,
        check=fraction,
        help="Exponent of the errors in prioritized sampling, from 0 (uniform) to 1.",
    )
    priority_beta: float | Callable[[float], float] = option(
        default=0.4,
        check=probability_schedule,
        help="Exponent of the importance weights that correct for prioritized sampling, from 0 (no "
        "correction) to 1: a number or a schedule of environment steps.",
    )
    capacity: int = option(
        default=100_000, check=count, help="Capacity of the replay buffer, in steps."
    )
    batch_size: int = option(default=128, check=count, help="Transitions per update.")
    learn_period: int = option(
        default=32,
        check=count,
        help="Environment steps between blocks of updates, over all environments: a multiple of "
        "num_envs. Reset-only steps count, too.",
    )
    updates_per_learn: int = option(
        default=16, check=count, help="Updates made after every learn_period steps."
    )
    learning_starts: int = option(
        default=1000, check=count, help="Environment steps of random play before the first update."
    )
    reward_clip: float | None = option(
        default=None,
        check=optional(positive),
        help="Clip rewards to plus or minus this value for learning. None: no clipping. Logs and "
        "evaluations show the original rewards.",
    )
    end_on_life_loss: bool = option(
        default=False,
        check=flag,
        help="For learning, treat the loss of a life as the end of the episode, although the "
        "episode continues. The environment's infos must have 'lives'.",
    )
    frame_stack: int | None = option(
        default=None,
        check=optional(count),
        help="Number of frames stacked along the last axis of an observation; the buffer then "
        "stores each frame once. None: the number that the environment reports, if any (Atari "
        "games created from an id report it).",
    )
    replay_device: str | None = option(
        default="auto",
        help="TensorFlow device that stores the images of the replay buffer, such as 'GPU:0'. "
        "None: main memory. 'auto': a GPU if there is one.",
    )
    steps_per_iteration: int = option(
        default=1024, check=count, help="Environment steps per iteration."
    )
    window: int = option(  # type: ignore[assignment]
        default=20,
        check=count,
        help="Average episode_return over at least this many recent episodes.",
    )
    overlap: bool = option(
        default=False,
        check=flag,
        help="Step the environments while the updates run, acting with the weights from before "
        "those updates. Only for models that act in NumPy.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replay: ReplayBuffer | None = None  # type: ignore[assignment]
        self.updates = 0
        self.episodes = 0
        self._episodes_before = 0
        self._stored_steps = 0
        self._stack_checked = False
        self._stored_by: tuple = ()
        self._warnings: QLearningWarnings

    def check_options(self) -> None:
        super().check_options()
        if self.capacity < self.batch_size:
            raise ValueError(
                f"capacity must be at least batch_size ({self.batch_size}), got {self.capacity}."
            )

    @abc.abstractmethod
    def explore(self, at_random: bool = False) -> float:
        """Set the amount of exploration for the next steps, and return it.

        Args:
            at_random: Whether all actions are random.
        """

    @abc.abstractmethod
    def learn_from(
        self, transitions: Transitions, seed: Sequence[int] = (0, 0)
    ) -> tuple[dict[str, float], np.ndarray]:
        """Make an update for every ``batch_size`` transitions.

        Args:
            transitions: ``M`` transitions, a multiple of ``batch_size``.
            seed: The seed of random numbers in the updates, two integers.

        Returns:
            The metrics to log, and the transitions' errors.
        """

    @property
    def manual_resets(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None  # which only tfpg can enforce

    def first_numbers(self, iteration: int) -> tuple[int, int]:
        return iteration * self.steps_per_iteration, iteration * self.steps_per_iteration

    def most_env_steps(self, iterations: int, num_envs: int) -> int | None:
        return iterations * self._blocks * self.learn_period

    def begin(self, collector: Collector, policy: Policy) -> None:
        envs = collector.envs
        if self.learn_period % envs.num_envs:
            raise ValueError(
                f"learn_period counts the steps of all {envs.num_envs} environments and must be a "
                f"multiple of {envs.num_envs}, got {self.learn_period}: change learn_period "
                "or num_envs."
            )
        replay = self._replay_for(envs)
        replay.gamma = self._warnings.gamma = self.gamma
        replay.cut()
        self._warnings.cut()
        self._episodes_before = self.episodes

    def warm_up(self, collector: Collector, policy: Policy) -> None:
        """Play at random until ``learning_starts`` steps are stored."""
        replay = self._replay
        if self.overlap and policy.acting != "numpy":
            warn(
                "overlap=True has no effect: it needs a model that acts in NumPy, but this one "
                "acts in TensorFlow."
            )
        missing = self.learning_starts - self._stored_steps
        if self._verbose and missing >= _LONG_WARM_UP:
            show(f"Playing {missing:,} steps at random before the first update.")
        before = self.env_steps
        most = max(1, min(_WARM_UP_STEPS, replay.rows // 4))
        self.explore(at_random=True)
        fragments = []
        while self._stored_steps < self.learning_starts or not replay.ready:
            missing = -(-(self.learning_starts - self._stored_steps) // collector.envs.num_envs)
            data = self._play(collector, policy, min(max(missing, 1), most))
            if self._statistics[0].layers:
                fragments.append(data)
            self._store(data)
            self.env_steps = before + collector.steps
        self.update_statistics(fragments, policy)

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """Step and update in turn or at the same time, and return the means of the logs."""
        before = self.env_steps - collector.steps
        logs, fragments, acting, epsilon = [], [], policy, 0.0
        overlap = self.overlap and policy.acting == "numpy"
        with ThreadPoolExecutor(1) as other_thread:
            learning: Future | None = None
            for _ in range(self._blocks):
                epsilon = self.explore()
                data = self.collect(collector, acting)
                self.env_steps = before + collector.steps
                if self._statistics[0].layers:
                    fragments.append(data)
                if learning is not None:
                    logs.append(learning.result())
                self._store(data)
                rng = shuffle_rng(collector.seed, collector.fragment)
                beta = self._beta()
                if overlap and self.updates:  # the first update compiles, in this thread
                    acting = policy.frozen()
                    learning = other_thread.submit(self._learn, rng, beta)
                else:
                    logs.append(self._learn(rng, beta))
            if learning is not None:
                logs.append(learning.result())
        self.update_statistics(fragments, policy)
        means = {name: float(np.mean([each[name] for each in logs])) for name in logs[0]}
        self._warnings.look(means | self.episode_logs(collector))
        counts = {"env_steps": self.env_steps, "episodes": self.episodes, "updates": self.updates}
        return {**means, **counts, "epsilon": epsilon}

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Step all environments, ``learn_period`` steps together."""
        return self._play(collector, policy, self.learn_period // collector.envs.num_envs)

    def update(self, data: Trajectory, seed: int | None = None) -> dict[str, float]:
        """Store steps and make ``updates_per_learn`` updates, in one call.

        Args:
            data: Steps of all environments.
            seed: The seed of sampling. None: a random one.

        Returns:
            Means over the updates.

        Raises:
            RuntimeError: There is no replay buffer yet.
            FloatingPointError: The loss is not finite, or the gradients of many calls in a row.
                None of the updates was applied.
        """
        self._store(data)
        return self._learn(np.random.default_rng(seed), self._beta())

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {name: getattr(self, name) for name in _COUNTERS}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def restart_episodes(self, which: np.ndarray) -> None:
        self._replay.cut(which)

    @property
    def _blocks(self) -> int:
        """How many times an iteration steps ``learn_period`` times and learns."""
        return max(1, round(self.steps_per_iteration / self.learn_period))

    @property
    def _replay(self) -> ReplayBuffer:
        if self.replay is None:
            raise RuntimeError("The agent has no replay buffer yet: call fit first.")
        return self.replay

    def _replay_for(self, envs: Any) -> ReplayBuffer:
        """The replay buffer so far, or a new one if steps would be stored differently."""
        space = usable_space(envs.single_observation_space)
        stack = self.frame_stack or getattr(envs, "frame_stack", None)
        what = space, repr(getattr(envs, "spec", None)), self.reward_clip, self.end_on_life_loss
        kind = self.n_step, self.prioritized, self.priority_alpha, self.replay_device
        stored_by = what, stack, envs.num_envs, self.capacity, kind
        if self.replay is not None and self._stored_by == stored_by:
            return self.replay
        self.replay = None  # free its memory before another takes as much
        device = replay_device(self.replay_device, space)
        make = partial(
            ReplayBuffer,
            space,
            self.capacity,
            envs.num_envs,
            n_step=self.n_step,
            gamma=self.gamma,
            frame_stack=stack,
            prioritized=self.prioritized,
            alpha=self.priority_alpha,
        )
        rows = self.capacity // envs.num_envs
        needed, images = bytes_needed(space, rows * envs.num_envs, stack, self.prioritized)
        if self._verbose and needed >= _LARGE_REPLAY:
            free = f"memory ({readable_bytes(available_memory())} free)"
            where = f"memory, {readable_bytes(images)} of it on {device}" if device else free
            show(
                f"The replay buffer for {self.capacity:,} steps takes up to "
                f"{readable_bytes(needed)} of {where}."
            )
        try:
            self.replay = make(device=device)
        except MemoryError as error:
            if device is None or self.replay_device != "auto":
                raise
            warn(f"{error} Its images are stored in main memory instead.")
            self.replay = make()
        self._stored_steps, self._stored_by = 0, stored_by
        self._stack_checked = self.frame_stack is None
        self._warnings = QLearningWarnings(self.gamma, self.capacity, self.learning_starts)
        return self.replay

    def _beta(self) -> float:
        assert callable(self.priority_beta)  # since the options were checked
        return min(max(float(self.priority_beta(self.env_steps)), 0.0), 1.0)

    def _play(self, collector: Collector, policy: Policy, steps: int) -> Trajectory:
        data = collector.collect_steps(
            policy, steps, self.max_steps, self.end_on_life_loss, log_probs=False
        )
        self.episodes = self._episodes_before + collector.ended
        return data

    def _store(self, data: Trajectory) -> None:
        replay = self._replay
        if not self._stack_checked and data.mask.any():
            check_stacked(data.observations, data.mask > 0)
            self._stack_checked = True
        self._stored_steps += int(data.mask.sum())
        if self.reward_clip is not None:
            clipped = np.clip(data.rewards, -self.reward_clip, self.reward_clip)
            data = data._replace(rewards=clipped)
        self._warnings.meet(data)
        replay.add(data)

    def _learn(self, rng: np.random.Generator, beta: float) -> dict[str, float]:
        size = self.updates_per_learn * self.batch_size
        transitions = self._replay.sample(rng, size, self.batch_size, beta)
        try:
            logs, errors = self.learn_from(transitions, rng.integers(2**31, size=2).tolist())
        except FloatingPointError as error:
            error.data = transitions  # type: ignore[attr-defined]
            raise
        if self.prioritized:
            known = np.isfinite(errors)
            self._replay.update_priorities(transitions.indices[known], errors[known])
        return logs
