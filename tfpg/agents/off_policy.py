"""Learning from a replay: steps and updates in turn, or at the same time.

Environment steps are counted over all environments together. Every ``learn_period`` of them, once
``learning_starts`` were played at random, ``updates_per_learn`` updates are made in one compiled
call, each from ``batch_size`` transitions of the replay.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from tfpg.agents.agent import Agent
from tfpg.agents.non_finite import attach_data
from tfpg.agents.option_checks import check_positive
from tfpg.agents.q_warnings import QAdvice
from tfpg.core.backend import keras
from tfpg.core.memory import available_memory, readable_bytes
from tfpg.core.messages import warn
from tfpg.core.seeding import shuffle_rng
from tfpg.models.policy import Policy
from tfpg.ops.returns import check_fraction, check_gamma
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.evaluation import check_count
from tfpg.rollouts.replay import ReplayBuffer, Transitions
from tfpg.rollouts.replay_device import replay_device
from tfpg.rollouts.replay_storage import bytes_needed, check_stacked
from tfpg.rollouts.trajectory import Trajectory, played_observations
from tfpg.schedules import check_schedule

# Steps of each environment that are played at a time before the first update.
_CHUNK = 128
_WORTH_SAYING = 100_000_000  # bytes
_LONG = 10_000  # steps
_COUNTS = ("episodes", "_episodes_before", "_met", "_stack_seen")


class OffPolicy(Agent):
    """What an agent with a replay is, beside its updates. See `tfpg.DQN` for the arguments.

    A subclass has `build`, `explore` and `learn_from`.
    """

    option_names = (
        *Agent.option_names,
        *("n_step", "prioritized", "priority_alpha", "priority_beta", "capacity", "batch_size"),
        *("learn_period", "updates_per_learn", "learning_starts", "reward_clip"),
        *("end_on_life_loss", "frame_stack", "replay_device"),
        *("steps_per_iteration", "window", "overlap"),
    )

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float,
        n_step: int,
        prioritized: bool,
        priority_alpha: float,
        priority_beta: float | Callable[[float], float],
        capacity: int,
        batch_size: int,
        learn_period: int,
        updates_per_learn: int,
        learning_starts: int,
        reward_clip: float | None,
        end_on_life_loss: bool,
        frame_stack: int | None,
        replay_device: str | None,
        num_envs: int,
        steps_per_iteration: int,
        window: int,
        max_steps: int | None,
        overlap: bool,
        acting: str,
    ):
        super().__init__(model, gamma=gamma, num_envs=num_envs, max_steps=max_steps, acting=acting)
        self.n_step = n_step
        self.prioritized = bool(prioritized)
        self.priority_alpha = priority_alpha
        self.priority_beta: Any = priority_beta
        self.batch_size = batch_size
        self.capacity = capacity
        self.learn_period = learn_period
        self.updates_per_learn = updates_per_learn
        self.learning_starts = learning_starts
        self.reward_clip = reward_clip
        self.end_on_life_loss = bool(end_on_life_loss)
        self.frame_stack = frame_stack
        self.replay_device = replay_device
        self.steps_per_iteration = steps_per_iteration
        self.window = window
        self.overlap = bool(overlap)
        self.episodes = 0
        self._episodes_before = 0
        self._met = 0  # steps that the replay was given
        self._stored_by: tuple = ()
        self._stack_seen = False
        self._advice: QAdvice

    def check_options(self) -> None:
        """Checks what the options are now: at first, and when a fit begins.

        Raises:
            ValueError: One is out of its range.
        """
        for name in (
            *("n_step", "batch_size", "capacity", "learn_period", "updates_per_learn"),
            *("learning_starts", "steps_per_iteration", "window"),
        ):
            setattr(self, name, check_count(name, getattr(self, name)))
        self.gamma = check_gamma(self.gamma)
        self.priority_alpha = check_fraction("priority_alpha", self.priority_alpha)
        self.priority_beta = check_schedule("priority_beta", self.priority_beta)
        if self.capacity < self.batch_size:
            raise ValueError(
                f"A capacity of {self.capacity} is below the batch_size of {self.batch_size}: a "
                "replay holds many batches."
            )
        if self.reward_clip is not None:
            self.reward_clip = check_positive("reward_clip", self.reward_clip)
        if self.frame_stack is not None:
            self.frame_stack = check_count("frame_stack", self.frame_stack)

    @property
    def seedable(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None

    @property
    @abc.abstractmethod
    def updates(self) -> int:
        """Updates made so far."""

    @abc.abstractmethod
    def explore(self, at_random: bool = False) -> float:
        """Before steps are played: sets how much is explored, or all, and tells it."""

    @abc.abstractmethod
    def learn_from(self, transitions: Transitions) -> tuple[dict[str, float], np.ndarray]:
        """An update for every ``batch_size`` transitions: logs, and the transitions' errors."""

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        """A collector whose episodes and noise are those of no earlier iteration."""
        if self.learn_period % envs.num_envs:
            raise ValueError(
                f"learn_period counts the steps of all {envs.num_envs} environments, and is "
                f"{self.learn_period}: make it a multiple of them, or say num_envs."
            )
        replay = self._replay_for(envs)
        replay.gamma = self.gamma
        replay.cut()
        self._advice.cut()
        self._episodes_before = self.episodes
        first = iteration * self.steps_per_iteration
        return Collector(envs, seed, episode=first, fragment=first, window=self.window)

    def _replay_for(self, envs: Any) -> ReplayBuffer:
        """The replay so far, or a new one where steps would be stored otherwise."""
        space = envs.single_observation_space
        stack = self.frame_stack or getattr(envs, "frame_stack", None)
        what = space, repr(getattr(envs, "spec", None)), self.reward_clip, self.end_on_life_loss
        kind = self.n_step, self.prioritized, self.priority_alpha, self.replay_device
        stored_by = what, stack, envs.num_envs, self.capacity, kind
        if self.replay is not None and self._stored_by == stored_by:
            return self.replay
        self.replay = None  # before another takes as much
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
        if self._verbose and needed >= _WORTH_SAYING:
            free = f"memory, of which {readable_bytes(available_memory())} are free"
            where = f"memory, {readable_bytes(images)} of them on {device}" if device else free
            print(
                f"The replay of {self.capacity:,} rows takes up to {readable_bytes(needed)} of "
                f"{where}."
            )
        try:
            self.replay = make(device=device)
        except MemoryError as error:
            if device is None or self.replay_device != "auto":
                raise
            warn(f"{error} Its images are kept in the machine's memory.")
            self.replay = make()
        self._met, self._stored_by, self._stack_seen = 0, stored_by, self.frame_stack is None
        self._advice = QAdvice(self.gamma, self.capacity, self.learning_starts)
        return self.replay

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {name: getattr(self, name) for name in _COUNTS}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for name in _COUNTS:
            setattr(self, name, state[name])

    def restart_episodes(self, which: np.ndarray) -> None:
        assert self.replay is not None
        self.replay.cut(which)

    def warm_up(self, collector: Collector, policy: Policy) -> None:
        """Plays at random until the replay has met ``learning_starts`` steps."""
        assert self.replay is not None
        if self.overlap and policy.acting != "numpy":
            warn(
                "overlap=True does nothing here: it is for models that act through NumPy, and this "
                "one's layers do so through TensorFlow."
            )
        missing = self.learning_starts - self._met
        if self._verbose and missing >= _LONG:
            print(f"Playing {missing:,} steps at random before the first update.", flush=True)
        before = self.env_steps
        chunk = max(1, min(_CHUNK, self.replay.rows // 4))
        self.explore(at_random=True)
        fragments = []
        while self._met < self.learning_starts or not self.replay.ready:
            missing = -(-(self.learning_starts - self._met) // collector.envs.num_envs)
            data = self._play(collector, policy, min(max(missing, 1), chunk))
            if self._statistics[0].layers:
                fragments.append(data)
            self._add(data)
            self.env_steps = before + collector.steps
        if fragments:
            self._statistics[0].update(policy.encode(played_observations(fragments)))

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """Steps and updates in turn, or at the same time, and returns the means of the logs."""
        before = self.env_steps - collector.steps
        logs, fragments, acting, epsilon = [], [], policy, 0.0
        overlap = self.overlap and policy.acting == "numpy"
        with ThreadPoolExecutor(1) as beside:
            learning: Future | None = None
            for _ in range(max(1, round(self.steps_per_iteration / self.learn_period))):
                epsilon = self.explore()
                data = self.collect(collector, acting)
                self.env_steps = before + collector.steps
                if self._statistics[0].layers:
                    fragments.append(data)
                if learning is not None:
                    logs.append(learning.result())
                self._add(data)
                rng = shuffle_rng(collector.seed, collector.fragment)
                beta = self._beta()
                if overlap and self.updates:  # the first update compiles, in its own thread
                    acting = policy.frozen()
                    learning = beside.submit(self._learn, rng, beta)
                else:
                    logs.append(self._learn(rng, beta))
            if learning is not None:
                logs.append(learning.result())
        if fragments:
            self._statistics[0].update(policy.encode(played_observations(fragments)))
        means = {name: float(np.mean([each[name] for each in logs])) for name in logs[0]}
        self._advice.look(means | self.episode_logs(collector))
        counts = {"env_steps": self.env_steps, "episodes": self.episodes, "updates": self.updates}
        return {**means, **counts, "epsilon": epsilon}

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Steps all environments ``learn_period`` times together."""
        return self._play(collector, policy, self.learn_period // collector.envs.num_envs)

    def update(self, data: Trajectory, seed: int | None = None) -> dict[str, float]:
        """Stores the steps and makes ``updates_per_learn`` updates, in one call.

        Args:
            data: Fragments of steps.
            seed: Of what is sampled. None: a fresh one.

        Returns:
            Means over the updates.

        Raises:
            FloatingPointError: A gradient is not finite; none of the updates was applied.
        """
        if self.replay is None:
            raise RuntimeError("update needs a compiled policy and a replay: call fit.")
        self._add(data)
        return self._learn(np.random.default_rng(seed), self._beta())

    def _beta(self) -> float:
        return min(max(float(self.priority_beta(self.env_steps)), 0.0), 1.0)

    def _play(self, collector: Collector, policy: Policy, steps: int) -> Trajectory:
        data = collector.collect_steps(policy, steps, self.max_steps, self.end_on_life_loss)
        self.episodes = self._episodes_before + collector.ended
        return data

    def _add(self, data: Trajectory) -> None:
        assert self.replay is not None
        if not self._stack_seen and data.mask.any():
            check_stacked(data.observations, data.mask > 0)
            self._stack_seen = True
        self._met += int(data.mask.sum())
        if self.reward_clip is not None:
            clipped = np.clip(data.rewards, -self.reward_clip, self.reward_clip)
            data = data._replace(rewards=clipped)
        self._advice.meet(data)
        self.replay.add(data)

    def _learn(self, rng: np.random.Generator, beta: float) -> dict[str, float]:
        assert self.replay is not None
        count = self.updates_per_learn * self.batch_size
        transitions = self.replay.sample(rng, count, self.batch_size, beta)
        with attach_data(transitions):
            logs, errors = self.learn_from(transitions)
        if self.prioritized:
            known = np.isfinite(errors)
            self.replay.update_priorities(transitions.indices[known], errors[known])
        return logs
