"""The base class of Q-learning from a replay buffer: targets of Q-values, and exploration.

An algorithm is a subclass with its `QLearning.losses`. See `tfpg.DQN`, `tfpg.C51`, `tfpg.QRDQN`
and `tfpg.Rainbow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfpg.agents.off_policy import OffPolicy
from tfpg.agents.q_network import QNetworkAgent
from tfpg.agents.warnings import QLearningWarnings
from tfpg.core.backend import tf
from tfpg.core.options import count, flag, one_of, option
from tfpg.models.heads import NOISE
from tfpg.ops.value_losses import taken
from tfpg.rollouts.replay import Transitions

if TYPE_CHECKING:
    from tfpg.models.policy import Policy
    from tfpg.rollouts.collector import Collector


class QLearning(QNetworkAgent, OffPolicy):
    """A network of action values that is trained on transitions from a replay buffer.

    Environment steps are counted over all environments together. After ``learning_starts`` steps
    of random play, ``updates_per_learn`` updates are made every ``learn_period`` steps, in one
    compiled call. An iteration is ``steps_per_iteration`` steps.
    """

    double: bool = option(
        default=True,
        check=flag,
        help="Double Q-learning: choose the next action with the online network.",
    )
    epsilon_per: str = option(
        default="step",
        check=one_of("step", "episode"),
        help="Unit of the epsilon schedule: environment steps or episodes.",
    )
    explore_steps: int = option(
        default=1,
        check=count,
        help="Repeat a random action, or keep the noise of a noisy network, for this many steps.",
    )
    advice = QLearningWarnings
    may_be_noisy = True

    @property
    def value_network(self) -> tuple[Callable, Sequence[Any]]:
        return self.outputs, self.trainable.variables

    def begin(self, collector: Collector, policy: Policy) -> None:
        super().begin(collector, policy)
        if isinstance(self.support, tuple):
            assert isinstance(self._warnings, QLearningWarnings)
            self._warnings.support = self.support

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        return {**super().iterate(collector, policy), "epsilon": self.head.epsilon}

    def next_outputs(self, batch: Transitions) -> tf.Tensor:
        """Return the trained network's outputs ``[B, K]`` for the next observations.

        A noisy network has the same noise as for ``batch.observations``.
        """
        inputs = batch.next_observations
        if self.head.model_noise:
            inputs = {**inputs, NOISE: batch.observations[NOISE]}
        return self.outputs(inputs)

    def next_distribution(self, batch: Transitions) -> tf.Tensor:
        """Return the target network's outputs ``[B, N]`` for the best actions that follow.

        With ``double``, they are the best ones according to the online network.
        """
        following = self.target_network.outputs(batch.next_observations)
        chooser = self.next_outputs(batch) if self.double else following
        actions = tf.argmax(self.head.q_values(chooser), axis=-1)
        return taken(self.head.per_action(following), actions)

    def explore(self, at_random: bool = False) -> float:
        head = self.head
        steps = self.env_steps if self.epsilon_per == "step" else self.episodes
        head.hold = self.explore_steps
        head.epsilon = 1.0 if at_random else self.epsilon_at(steps)
        return head.epsilon

    @property
    def update_noise(self) -> tuple[int, ...]:
        return 2, self.head.model_noise

    def with_noise(self, batch: Transitions, noise: tf.Tensor) -> Transitions:
        """Return the batch with noise for a noisy online network and for its target network.

        As in the paper, all transitions share it: drawing noise for each one would take several
        times as long as the rest of the update.
        """
        if not self.head.model_noise:
            return batch
        online, target = tf.unstack(tf.repeat(noise[:, None], self.batch_size, axis=1))
        return batch._replace(
            observations={**batch.observations, NOISE: online},
            next_observations={**batch.next_observations, NOISE: target},
        )
