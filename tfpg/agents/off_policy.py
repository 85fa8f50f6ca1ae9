"""Learning from a replay buffer: environment steps and blocks of updates.

Environment steps are counted over all environments together. After ``learning_starts`` steps of
random play, ``updates_per_learn`` updates are made every ``learn_period`` steps in one compiled
call, each from ``batch_size`` transitions of the replay buffer.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfpg.agents.agent import Agent
from tfpg.agents.optimization import CompiledUpdate
from tfpg.agents.target_network import TargetNetwork
from tfpg.agents.warnings import ReplayWarnings
from tfpg.core.backend import tf
from tfpg.core.memory import available_memory, readable_bytes
from tfpg.core.messages import show, warn
from tfpg.core.options import (
    count,
    flag,
    fraction,
    one_of,
    option,
    optional,
    positive,
    positive_fraction,
)
from tfpg.core.seeding import shuffle_rng
from tfpg.envs.contracts import usable_space
from tfpg.models.policy import Policy
from tfpg.ops.gradients import mean_gradient, sum_of_squares
from tfpg.rollouts.replay import ReplayBuffer, Transitions
from tfpg.rollouts.replay_storage import INDEX, bytes_needed, check_stacked, replay_device
from tfpg.rollouts.trajectory import Trajectory
from tfpg.schedules import probability_schedule

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector

# Steps of each environment that are played at a time before the first update.
_WARM_UP_STEPS = 128
# A replay buffer this large and a warm-up this long are announced.
_LARGE_REPLAY, _LONG_WARM_UP = 100_000_000, 10_000  # bytes, steps
_COUNTERS = ("updates", "episodes", "_episodes_before", "_stored_steps", "_stack_checked")


class OffPolicy(Agent):
    """An agent that learns from a replay buffer.

    Subclasses define `losses`, `value_network` and `explore`.
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
        default=1024,
        check=count,
        help="Environment steps per iteration, rounded to a multiple of learn_period.",
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

    target_update_period: int | None = option(
        default=None,
        check=optional(count),
        help="Updates between copies of the online network into the target network. None: tau is "
        "used instead.",
    )
    tau: float | None = option(
        default=None,
        check=optional(positive_fraction),
        help="Instead of copying, move the target network this fraction of the way toward the "
        "online network after every update. None: 0.01 (SAC: 0.005), unless target_update_period "
        "is given.",
    )
    jit_compile: bool | str = option(
        default="auto",
        check=one_of(True, False, "auto"),
        help="Compile the updates with XLA. 'auto': on, unless the model has convolutions and runs "
        "on a CPU, where XLA convolutions are slow.",
    )

    # Tau, if neither tau nor target_update_period is given.
    default_tau: ClassVar[float] = 0.01
    # What to warn about.
    advice: ClassVar[type[ReplayWarnings]] = ReplayWarnings
    # The entries of `losses` that are logged, in addition to the loss.
    logged: ClassVar[tuple[str, ...]] = ("mean_q", "td_error")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.target: TargetNetwork | None = None
        self.replay: ReplayBuffer | None = None  # type: ignore[assignment]
        self.updates = 0
        self.episodes = 0
        self._episodes_before = 0
        self._stored_steps = 0
        self._stack_checked = False
        self._stored_by: tuple = ()
        self._warnings: ReplayWarnings

    def check_options(self) -> None:
        super().check_options()
        if self.capacity < self.batch_size:
            raise ValueError(
                f"capacity must be at least batch_size ({self.batch_size}), got {self.capacity}."
            )
        if self.tau is not None and self.target_update_period is not None:
            raise ValueError(
                f"The target network either moves by tau ({self.tau:g}) or is copied every "
                f"target_update_period ({self.target_update_period}) updates: leave one out."
            )

    @abc.abstractmethod
    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        """Return the losses of a batch of transitions: the algorithm.

        Args:
            batch: ``B`` transitions, as tensors.

        Returns:
            ``"loss"``, which is minimized; ``"mean_q"``, ``"td_error"`` and others to log; and
            ``"errors"``, by whose size transitions are prioritized. Each ``[B]``.
        """

    @property
    @abc.abstractmethod
    def value_network(self) -> tuple[Callable, Sequence[Any]]:
        """The function that the target network copies, and its trainable variables."""

    @abc.abstractmethod
    def explore(self, at_random: bool = False) -> Any:
        """Set the amount of exploration for the next steps.

        Args:
            at_random: Whether all actions are random.
        """

    @property
    def update_noise(self) -> tuple[int, ...]:
        """The shape of the normally distributed noise that the losses of a batch take."""
        return (0,)

    def with_noise(self, batch: Transitions, noise: tf.Tensor) -> Transitions:
        """Return the batch with noise of the shape `update_noise`, for `losses`."""
        return batch

    def build(self, policy: Policy) -> None:
        network, variables = self.value_network
        if self.target is None or not self.target.belongs_to(variables):
            self.target = TargetNetwork(network, variables)
            self.updates = 0
        self._update_block = CompiledUpdate(self._update_all, self.jit_compile, self.models)

    @property
    def target_network(self) -> TargetNetwork:
        """The target network."""
        assert self.target is not None, "prepare was not called"
        return self.target

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
        self.target_network.copy_if_changed()

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
        try:
            while self._stored_steps < self.learning_starts or not replay.ready:
                missing = -(-(self.learning_starts - self._stored_steps) // collector.envs.num_envs)
                data = self._play(collector, policy, min(max(missing, 1), most))
                if self.has_statistics:
                    fragments.append(data)
                self._store(data)
                self.env_steps = before + collector.steps
        finally:
            self.explore()
        self.update_statistics(fragments, policy)

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """Step and update in turn or at the same time, and return the means of the logs."""
        before = self.env_steps - collector.steps
        logs, fragments, acting = [], [], policy
        overlap = self.overlap and policy.acting == "numpy"
        with ThreadPoolExecutor(1) as other_thread:
            learning: Future | None = None
            for _ in range(self._blocks):
                self.explore()
                data = self.collect(collector, acting)
                self.env_steps = before + collector.steps
                if self.has_statistics:
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
        self.target_network.mark()
        means = {name: float(np.mean([each[name] for each in logs])) for name in logs[0]}
        self._warnings.look(means | self.episode_logs(collector))
        counts = {"env_steps": self.env_steps, "episodes": self.episodes, "updates": self.updates}
        return {**means, **counts}

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

    def learn_from(
        self, transitions: Transitions, seed: int | Sequence[int] | None = None
    ) -> tuple[dict[str, float], np.ndarray]:
        """Make an update for every ``batch_size`` transitions, in one compiled call.

        Args:
            transitions: ``M`` transitions, a multiple of ``batch_size``.
            seed: The seed of random numbers in the updates. None: a random one.

        Returns:
            The means over the updates of the metrics to log, and the errors ``[M]`` that the
            transitions had when they were learned from.

        Raises:
            FloatingPointError: The loss is not finite, or the gradients of many calls in a row.
                None of the updates was applied.
        """
        self.trainable.follow_learning_rate()
        encode = self.trained_policy.encode

        def batches(x: np.ndarray | tf.Tensor) -> Any:
            shape = (-1, self.batch_size, *x.shape[1:])
            return tf.reshape(x, shape) if tf.is_tensor(x) else np.reshape(x, shape)

        data = transitions._replace(
            observations=encode(transitions.observations),
            next_observations=encode(transitions.next_observations),
            indices=(),  # type: ignore[arg-type]
        )
        data = tf.nest.map_structure(batches, data)
        before = np.array(self.updates % (self.target_update_period or 1), np.int32)
        # XLA would draw other numbers than TensorFlow does without it.
        shape = len(transitions.rewards) // self.batch_size, *self.update_noise
        noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        logs, _ = self._update_block(data, before, noise)
        errors, finite = logs.pop("errors"), logs.pop("finite")
        if self.trainable.check(finite, logs["loss"]):
            self.updates += len(errors)
        return logs, errors.ravel()

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {name: getattr(self, name) for name in _COUNTERS}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.target_network.mark()

    def variables(self) -> dict[str, Sequence[Any]]:
        return {**super().variables(), "target network": self.target_network.weights}

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
        kinds = [type(env.unwrapped) for env in getattr(envs, "envs", ())]
        played = kinds, repr(getattr(envs, "spec", None))
        what = space, played, self.reward_clip, self.end_on_life_loss
        head = self.trained_policy.head
        is_index = np.issubdtype(head.action_dtype, np.integer) and not head.action_shape
        action = INDEX if is_index else np.dtype((head.action_dtype, head.action_shape))
        kind = action, self.n_step, self.prioritized, self.priority_alpha, self.replay_device
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
            action=action,
        )
        rows = self.capacity // envs.num_envs
        needed, images = bytes_needed(space, rows * envs.num_envs, stack, self.prioritized, action)
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
        self._stack_checked = (self.frame_stack or 1) == 1
        self._warnings = self.advice(self.gamma, self.capacity, self.learning_starts)
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

    def _update_all(
        self, batches: Transitions, before: tf.Tensor, noise: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], None]:
        """Update once for every batch, and undo all updates if a gradient was not finite.

        Args:
            batches: Transitions, each field ``[updates, batch_size, ...]``.
            before: Updates since the last copy into the target network, scalar.
            noise: ``[updates, *update_noise]``.

        Returns:
            Means of the logs; ``errors``, ``[updates, batch_size]``; and ``finite``, for each
            variable whether its gradients were finite.
        """
        variables, assigned = self.trainable.variables, self._assigned()
        saved = [tf.identity(v) for v in assigned]
        updates, size = batches.rewards.shape
        period, tau = self.target_update_period, self.tau
        if period is None and tau is None:
            tau = self.default_tau

        def update(index: Any, sums: Any, errors: Any, finite: Any) -> Any:
            batch = tf.nest.map_structure(lambda x: x[index], batches)
            batch = self.with_noise(batch, noise[index])
            gradients, logs = mean_gradient(self.losses, variables, batch, keep=("errors",))
            errors = errors.write(index, logs.pop("errors"))
            squares = tf.stack([sum_of_squares(g) for g in gradients])
            logs["grad_norm"] = tf.cast(tf.sqrt(tf.reduce_sum(squares)), tf.float32)
            self.trainable.apply(gradients)
            self.target_network.follow(before + index + 1, period or 1, tau)
            sums = {name: x + logs[name] for name, x in sums.items()}
            # The Huber loss has a finite gradient where the loss is infinite.
            finite &= tf.math.is_finite(squares) & tf.math.is_finite(logs["loss"])
            return index + 1, sums, errors, finite

        _, sums, errors, finite = tf.while_loop(
            lambda index, *_: index < updates,
            update,
            (
                tf.constant(0),
                {name: tf.constant(0.0) for name in ("loss", *self.logged, "grad_norm")},
                tf.TensorArray(tf.float32, updates, element_shape=[size]),
                tf.fill([len(variables)], True),
            ),
        )
        # Checking before each update would cost a fifth of its time.
        good = tf.reduce_all(finite)
        for variable, old in zip(assigned, saved, strict=True):
            variable.assign(tf.where(good, variable, old))
        means = {name: x / updates for name, x in sums.items()}
        return {**means, "errors": errors.stack(), "finite": finite}, None

    def _assigned(self) -> list[tf.Variable]:
        """All variables that an update assigns."""
        variables = list(self.trainable.variables)
        for optimizer, _ in self.trainable.groups:
            variables += optimizer.variables
        return [v.value for v in variables] + self.target_network.weights
