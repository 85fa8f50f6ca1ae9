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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpg.agents.off_policy import OffPolicy
from tfpg.agents.optimization import Trainable, compiled_for, suits_xla
from tfpg.agents.option_checks import check_jit, check_positive, one_of
from tfpg.agents.q_updates import QUpdates
from tfpg.core.backend import keras
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy
from tfpg.ops.returns import check_fraction
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.evaluation import check_count
from tfpg.rollouts.replay import Transitions
from tfpg.schedules import IN_THE_END, check_schedule, linear

_EPSILON = linear(1.0, 0.05, 10_000)


class DQN(OffPolicy):
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
        capacity: Rows of the replay; see `tfpg.rollouts.replay.ReplayBuffer`.
        batch_size: Transitions of an update.
        learn_period: Environment steps between updates, those in which environments reset
            themselves included.
        updates_per_learn: Updates made then.
        target_update_period: Updates between copies of the network into the target network.
        tau: Moves the target network by this share of the way after every update, in (0, 1], in
            place of copies.
        epsilon: How often any action is played: a number, or a schedule, for example
            ``tfpg.schedules.linear(1.0, 0.05, 10_000)``.
        epsilon_per: What the schedule counts: ``"step"`` of the environments, or ``"episode"``.
        explore_steps: Steps in a row that a random action is repeated.
        learning_starts: Environment steps of random play before the first update.
        loss: ``"huber"`` or ``"mse"``, of the errors.
        reward_clip: Rewards are learned from within plus and minus this. None: as they are. Logs
            and evaluations tell them as they are.
        end_on_life_loss: Learn that a lost life is the end, where the environment's infos tell
            ``"lives"``. The episode goes on.
        frame_stack: How many frames observations stack along their last axis, each of which is
            then stored once. None: what the environments say, as Atari games by id do.
        replay_device: On which device of TensorFlow, ``"GPU:0"`` for example, the replay keeps
            images. None: in the machine's memory. ``"auto"``: a GPU where there is one.
        num_envs: How many environments play side by side.
        steps_per_iteration: Environment steps of an iteration.
        window: Of how many last episodes, at least, ``episode_return`` is the mean.
        max_steps: Where an episode is cut. None: the environment's own limit.
        overlap: Step the environments while the updates run, acting with the network as it was
            before them; for networks that act through NumPy.
        jit_compile: Compile the updates with XLA; Keras's own word. ``"auto"`` does, but for
            convolutions on a CPU, where XLA's are slow.
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
        [128.0, 256.0]
    """

    option_names = (
        *OffPolicy.option_names,
        *("double", "target_update_period", "tau", "epsilon", "epsilon_per", "explore_steps"),
        *("loss", "jit_compile"),
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
        explore_steps: int = 1,
        learning_starts: int = 1000,
        loss: str = "huber",
        reward_clip: float | None = None,
        end_on_life_loss: bool = False,
        frame_stack: int | None = None,
        replay_device: str | None = "auto",
        num_envs: int = 8,
        steps_per_iteration: int = 1024,
        window: int = 20,
        max_steps: int | None = None,
        overlap: bool = False,
        jit_compile: bool | str = "auto",
        acting: str = "auto",
    ):
        super().__init__(
            model,
            gamma=gamma,
            n_step=n_step,
            prioritized=prioritized,
            priority_alpha=priority_alpha,
            priority_beta=priority_beta,
            capacity=capacity,
            batch_size=batch_size,
            learn_period=learn_period,
            updates_per_learn=updates_per_learn,
            learning_starts=learning_starts,
            reward_clip=reward_clip,
            end_on_life_loss=end_on_life_loss,
            frame_stack=frame_stack,
            replay_device=replay_device,
            num_envs=num_envs,
            steps_per_iteration=steps_per_iteration,
            window=window,
            max_steps=max_steps,
            overlap=overlap,
            acting=acting,
        )
        self.double = bool(double)
        self.target_update_period = target_update_period
        self.tau = tau
        self.epsilon: Any = epsilon
        self.epsilon_per = epsilon_per
        self.explore_steps = explore_steps
        self.loss = loss
        self.jit_compile = jit_compile
        self.check_options()
        self._policy_options = {"epsilon": self._epsilon_at(0), "acting": acting}
        self._built_for: Any = None
        self._updates: QUpdates | None = None
        self._head: EpsilonGreedyHead

    def check_options(self) -> None:
        super().check_options()
        for name in ("target_update_period", "explore_steps"):
            setattr(self, name, check_count(name, getattr(self, name)))
        if self.tau is not None:
            self.tau = check_fraction("tau", check_positive("tau", self.tau))
        self.epsilon = check_schedule("epsilon", self.epsilon)
        one_of("epsilon_per", self.epsilon_per, ("step", "episode"))
        one_of("loss", self.loss, ("huber", "mse"))
        check_jit(self.jit_compile)

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Adam, clipped at a norm of 10 as the field does."""
        return keras.optimizers.Adam(1e-3, global_clipnorm=10.0)

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return 0 if self._updates is None else self._updates.count

    def build(self, policy: Policy) -> None:
        """Makes what is trained, and compiles the updates, once for what they depend on."""
        self.check_options()
        jit = self.jit_compile
        options: dict[str, Any] = {
            "double": self.double,
            "loss": self.loss,
            "target_update_period": self.target_update_period,
            "tau": self.tau,
            "jit_compile": suits_xla(self.model) if jit == "auto" else jit,
        }
        key = policy, compiled_for(self.model), options
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
        self._updates = QUpdates(policy, self._trainable, self._updates, **options)
        self._built_for = key

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        assert self._updates is not None
        self._updates.heed()
        return super().collector(envs, seed, iteration)

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        assert self._updates is not None
        logs = super().iterate(collector, policy)
        self._updates.leave()
        return logs

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "updates": self.updates}

    def set_state(self, state: dict[str, Any]) -> None:
        assert self._updates is not None
        super().set_state(state)
        self._updates.count = state["updates"]
        self._updates.leave()

    def variables(self) -> dict[str, Sequence[Any]]:
        assert self._updates is not None
        return {**super().variables(), "target network": self._updates.target}

    def explore(self, at_random: bool = False) -> float:
        """Sets epsilon to what its schedule says now, or to 1, and returns it."""
        count = self.env_steps if self.epsilon_per == "step" else self.episodes
        self._head.hold = self.explore_steps
        self._head.epsilon = 1.0 if at_random else self._epsilon_at(count)
        return self._head.epsilon

    def learn_from(self, transitions: Transitions) -> tuple[dict[str, float], np.ndarray]:
        """Updates in one compiled call: means of ``loss``, ``mean_q``, ``td_error``, ``grad_norm``.

        Args:
            transitions: ``M`` of them, a multiple of ``batch_size``.

        Returns:
            Means over the updates, and the errors ``[M]`` the transitions had when learned from.

        Raises:
            FloatingPointError: A gradient is not finite; none of the updates was applied.
        """
        assert self._updates is not None
        return self._updates(transitions, self.batch_size)

    def head_options(self) -> dict[str, Any]:
        """What a `Policy` of this agent's model has to be told beside its environment."""
        return {"epsilon": self._epsilon_at(IN_THE_END)}

    def _epsilon_at(self, count: float) -> float:
        return min(max(float(self.epsilon(count)), 0.0), 1.0)
