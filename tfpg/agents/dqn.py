r"""DQN: Q-learning with a network, from a replay of what was experienced.

    loss = huber(r + gamma max_a Q_target(s', a) - Q(s, a))

averaged over transitions (s, a, r, s') sampled from the replay. A termination stops the bootstrap,
a time limit does not. With ``double`` the online network chooses the action whose value the target
network gives; with ``n_step`` r is the discounted sum of n rewards and s' what they led to; with
``prioritized`` transitions are sampled by their errors and weighted back. Dueling is a network,
`tfpg.networks.dueling`.

Source: Mnih et al., "Human-level control through deep reinforcement learning", 2015,
https://doi.org/10.1038/nature14236; Double: van Hasselt et al., 2016,
https://arxiv.org/abs/1509.06461; prioritized: Schaul et al., 2016,
https://arxiv.org/abs/1511.05952; all of them: Hessel et al., 2018,
https://arxiv.org/abs/1710.02298.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.agents.agent import Agent
from tfpg.agents.checks import check_positive, one_of
from tfpg.agents.q_updates import QUpdates
from tfpg.agents.trainable import Trainable, compiled_for
from tfpg.collector import Collector
from tfpg.evaluation import check_count
from tfpg.heads import EpsilonGreedyHead
from tfpg.ops.returns import check_fraction
from tfpg.policy import Policy
from tfpg.replay import ReplayBuffer
from tfpg.schedules import check_schedule, linear
from tfpg.seeding import shuffle_rng
from tfpg.statistics import ObservationStatistics
from tfpg.types import Trajectory

_EPSILON = linear(1.0, 0.05, 10_000)


class DQN(Agent):
    """Deep Q-learning, for environments with `Discrete` actions.

    Environment steps are counted over all environments together. Every ``learn_period`` of them
    ``updates_per_learn`` updates are made, in one compiled call; an iteration is
    ``steps_per_iteration`` of them, after ``learning_starts`` steps of random play.

    Args:
        model: The Q-network, ``inputs [B, ...] -> [B, A]``, the value of each action.
        gamma: Discount factor, in [0, 1].
        double: Choose the next action by the online network, value it by the target network.
        n_step: Rewards of a transition.
        prioritized: Sample transitions by their errors.
        priority_alpha: How much errors count, from 0 (not at all) to 1.
        priority_beta: How far weights make up for that, from 0 to 1: a number, or a schedule of
            environment steps.
        capacity: Rows of the replay; see `tfpg.replay.ReplayBuffer`.
        batch_size: Transitions of an update.
        learn_period: Environment steps between updates.
        updates_per_learn: Updates made then.
        target_update_period: Updates between copies of the network into the target network.
        tau: Moves the target network by this share of the way after every update, in (0, 1], in
            place of copies.
        epsilon: How often any action is played: a number, or a schedule, for example
            ``tfpg.schedules.linear(1.0, 0.05, 10_000)``.
        epsilon_per: What the schedule counts: ``"step"`` of the environments, or ``"episode"``.
        learning_starts: Environment steps of random play before the first update.
        loss: ``"huber"`` or ``"mse"``, of the errors.
        reward_clip: Rewards are learned from within plus and minus this. None: as they are. Logs
            and evaluations tell them as they are.
        num_envs: How many environments play side by side.
        steps_per_iteration: Environment steps of an iteration.
        max_steps: Where an episode is cut. None: the environment's own limit.
        overlap: Step the environments while the updates run, acting with the network as it was
            before them; for networks that act through NumPy.
        jit_compile: Compile the updates with XLA; Keras's own word.
        acting: See `tfpg.Policy`.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range.

    Source:
        Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu", seed=0)
        >>> agent = DQN(model, learning_starts=200, steps_per_iteration=256)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["updates"]
        [128, 256]
    """

    option_names = (
        *Agent.option_names,
        *("double", "n_step", "prioritized", "priority_alpha", "capacity", "batch_size"),
        *("learn_period", "updates_per_learn", "target_update_period", "tau"),
        *("epsilon_per", "learning_starts", "loss", "reward_clip", "steps_per_iteration"),
        *("overlap", "jit_compile"),
    )

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.99,
        double: bool = True,
        n_step: int = 1,
        prioritized: bool = False,
        priority_alpha: float = 0.6,
        priority_beta: float | Callable[[float], float] = 0.4,
        capacity: int = 100_000,
        batch_size: int = 64,
        learn_period: int = 64,
        updates_per_learn: int = 32,
        target_update_period: int = 128,
        tau: float | None = None,
        epsilon: float | Callable[[float], float] = _EPSILON,
        epsilon_per: str = "step",
        learning_starts: int = 1000,
        loss: str = "huber",
        reward_clip: float | None = None,
        num_envs: int = 8,
        steps_per_iteration: int = 1024,
        max_steps: int | None = None,
        overlap: bool = False,
        jit_compile: bool = True,
        acting: str = "auto",
    ):
        super().__init__(model, gamma=gamma, num_envs=num_envs, max_steps=max_steps, acting=acting)
        one_of("loss", loss, ("huber", "mse"))
        one_of("epsilon_per", epsilon_per, ("step", "episode"))
        self.double = bool(double)
        self.n_step = check_count("n_step", n_step)
        self.prioritized = bool(prioritized)
        self.priority_alpha = check_fraction("priority_alpha", priority_alpha)
        self.priority_beta = check_schedule("priority_beta", priority_beta)
        self.batch_size = check_count("batch_size", batch_size)
        self.capacity = check_count("capacity", capacity)
        if self.capacity < self.batch_size:
            raise ValueError(
                f"A capacity of {capacity} is below the batch_size of {batch_size}: a replay holds "
                "many batches."
            )
        self.learn_period = check_count("learn_period", learn_period)
        self.updates_per_learn = check_count("updates_per_learn", updates_per_learn)
        self.target_update_period = check_count("target_update_period", target_update_period)
        self.tau = None if tau is None else check_fraction("tau", tau)
        self.epsilon = check_schedule("epsilon", epsilon)
        self.epsilon_per = epsilon_per
        self.learning_starts = check_count("learning_starts", learning_starts)
        self.loss = loss
        self.reward_clip = reward_clip
        if reward_clip is not None:
            check_positive("reward_clip", reward_clip)
        self.steps_per_iteration = check_count("steps_per_iteration", steps_per_iteration)
        self.overlap = bool(overlap)
        self.jit_compile = jit_compile
        self._policy_options = {"epsilon": float(self.epsilon(0)), "acting": acting}
        self.replay: ReplayBuffer | None = None
        self.episodes = 0
        self._episodes_before = 0
        self._met = 0  # steps that the replay was given
        self._built_for: Any = None
        self._updates: QUpdates | None = None
        self._head: EpsilonGreedyHead

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Adam, clipped at a norm of 10 as the field does."""
        return keras.optimizers.Adam(1e-3, global_clipnorm=10.0)

    @property
    def window(self) -> int:
        """Of how many last episodes ``episode_return`` is the mean; it needs a tenth of them."""
        return 20

    @property
    def _seedable(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None

    def build(self, policy: Policy) -> None:
        """Makes what is trained, and compiles the updates, once for what they depend on."""
        key = policy, compiled_for(self.model), self._options()
        if self._built_for == key:
            return
        if policy.has_value:
            raise ValueError(
                "The model has a second output, and a Q-network has one: the value of each action."
            )
        assert isinstance(policy.head, EpsilonGreedyHead)
        self._head = policy.head
        self._trainable = Trainable(policy)
        self._statistics = [ObservationStatistics(self.model)]
        self._updates = QUpdates(
            policy,
            self._trainable,
            double=self.double,
            loss=self.loss,
            target_update_period=self.target_update_period,
            tau=self.tau,
            jit_compile=self.jit_compile,
        )
        self._built_for = key

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        """A collector whose episodes and noise are those of no earlier iteration."""
        if self.learn_period % envs.num_envs:
            raise ValueError(
                f"learn_period counts the steps of all {envs.num_envs} environments, and is "
                f"{self.learn_period}: make it a multiple of them."
            )
        self._prepare_replay(envs)
        self._episodes_before = self.episodes
        first = iteration * self.steps_per_iteration
        return Collector(envs, seed, episode=first, fragment=first, window=self.window)

    def warm_up(self, collector: Collector, policy: Policy) -> None:
        """Plays at random until the replay has met ``learning_starts`` steps."""
        assert self.replay is not None
        before, self._head.epsilon = self.env_steps, 1.0
        while self._met < self.learning_starts:
            missing = -(-(self.learning_starts - self._met) // collector.envs.num_envs)
            chunk = max(1, self.replay.rows // 4)
            self._add(collector.collect_steps(policy, min(missing, chunk), self.max_steps))
            self.env_steps = before + collector.steps

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """Steps and updates in turn, or at the same time, and returns the means of the logs."""
        before = self.env_steps - collector.steps
        logs, fragments, acting = [], [], policy
        overlap = self.overlap and policy.acting == "numpy"
        with ThreadPoolExecutor(1) as beside:
            learning: Future | None = None
            for _ in range(max(1, round(self.steps_per_iteration / self.learn_period))):
                data = self.collect(collector, acting)
                self.env_steps = before + collector.steps
                fragments.append(data)
                if learning is not None:
                    logs.append(learning.result())
                self._add(data)
                rng = shuffle_rng(collector.seed, collector.fragment)
                if overlap and self.updates:  # the first update compiles, in its own thread
                    acting = policy.frozen()
                    learning = beside.submit(self._learn, rng)
                else:
                    logs.append(self._learn(rng))
            if learning is not None:
                logs.append(learning.result())
        for statistics in self._statistics:
            for data in fragments if statistics.layers else ():
                statistics.update_from(data, policy.encode)
        means = {name: float(np.mean([each[name] for each in logs])) for name in logs[0]}
        return {
            **means,
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "updates": self.updates,
            "epsilon": self._head.epsilon,
        }

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Steps all environments ``learn_period`` times together."""
        self._head.epsilon = self._epsilon_now()
        steps = self.learn_period // collector.envs.num_envs
        data = collector.collect_steps(policy, steps, self.max_steps)
        self.episodes = self._episodes_before + collector.ended
        return data

    def update(self, data: Trajectory, seed: int | None = None) -> dict[str, float]:
        """Stores the steps and makes ``updates_per_learn`` updates, in one call.

        Args:
            data: Fragments of steps.
            seed: Of what is sampled. None: a fresh one.

        Returns:
            Means over the updates of ``loss``, ``mean_q``, ``td_error`` and ``grad_norm``.

        Raises:
            FloatingPointError: A gradient is not finite; none of the updates was applied.
        """
        if self._updates is None or self.replay is None:
            raise RuntimeError("update needs a compiled policy and a replay: call fit.")
        self._add(data)
        return self._learn(np.random.default_rng(seed))

    def _learn(self, rng: np.random.Generator) -> dict[str, float]:
        assert self._updates is not None
        assert self.replay is not None
        beta = float(self.priority_beta(self.env_steps))
        count = self.updates_per_learn * self.batch_size
        transitions = self.replay.sample(rng, count, self.batch_size, beta)
        logs, errors = self._updates(transitions, self.batch_size)
        if self.prioritized:
            self.replay.update_priorities(transitions.indices, errors)
        return logs

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return 0 if self._updates is None else self._updates.count

    def _options(self) -> tuple:
        """What is compiled in."""
        return self.double, self.loss, self.target_update_period, self.tau, self.jit_compile

    def _epsilon_now(self) -> float:
        count = self.env_steps if self.epsilon_per == "step" else self.episodes
        return min(max(float(self.epsilon(count)), 0.0), 1.0)

    def _prepare_replay(self, envs: Any) -> None:
        if self.replay is not None and self.replay.num_envs == envs.num_envs:
            self.replay.cut()
            return
        self._met = 0
        self.replay = ReplayBuffer(
            envs.single_observation_space,
            self.capacity,
            envs.num_envs,
            n_step=self.n_step,
            gamma=self.gamma,
            frame_stack=getattr(envs, "frame_stack", None),
            prioritized=self.prioritized,
            alpha=self.priority_alpha,
        )

    def _add(self, data: Trajectory) -> None:
        assert self.replay is not None
        self._met += int(data.mask.sum())
        if self.reward_clip is not None:
            clipped = np.clip(data.rewards, -self.reward_clip, self.reward_clip)
            data = data._replace(rewards=clipped)
        self.replay.add(data)
