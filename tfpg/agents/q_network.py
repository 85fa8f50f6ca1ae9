"""The base class of agents whose model is a Q-network: exploration, and how it acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfpg.agents.agent import Agent
from tfpg.core.backend import keras, tf
from tfpg.core.messages import warn
from tfpg.core.options import option
from tfpg.errors import TrainingWarning
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import Policy
from tfpg.schedules import IN_THE_END, linear, probability_schedule

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector


class QNetworkAgent(Agent):
    """An agent whose model outputs the values of actions, and that explores at random.

    See `tfpg.agents.q_learning.QLearning` and `tfpg.PQN`.
    """

    section = "Exploration options"

    epsilon: float | Callable[[float], float] = option(
        default=linear(1.0, 0.05, 20_000),
        check=probability_schedule,
        help="Probability of a random action: a number or a schedule (see `tfpg.schedules`).",
    )

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Return Adam with gradients clipped at a norm of 10."""
        return keras.optimizers.Adam(5e-4, global_clipnorm=10.0)

    def prepare(self, policy: Policy) -> None:
        if policy.has_value:
            raise ValueError(
                "The model has a second output, but a Q-network has only one: the value of each "
                "action."
            )
        super().prepare(policy)

    def begin(self, collector: Collector, policy: Policy) -> None:
        super().begin(collector, policy)
        epsilons = self.epsilon_at(0), self.epsilon_at(IN_THE_END)
        if not self.head.model_noise and max(epsilons) == 0:
            noisy = ", and the model is not noisy. Use noisy=True in the network, or "
            warn(
                f"Nothing explores: epsilon is 0{noisy if self.may_be_noisy else '. Use '}a "
                "schedule for epsilon.",
                TrainingWarning,
            )

    @property
    def head(self) -> EpsilonGreedyHead:
        """The head of the policy that is trained."""
        head = self.trained_policy.head
        assert isinstance(head, EpsilonGreedyHead)
        return head

    def outputs(self, inputs: Any) -> tf.Tensor:
        """Return the outputs ``[B, K]`` of the online network."""
        return self.trained_policy.outputs(inputs)

    def epsilon_at(self, count: float) -> float:
        """Return the probability of a random action after a number of steps."""
        assert callable(self.epsilon)  # since the options were checked
        return min(max(float(self.epsilon(count)), 0.0), 1.0)

    def head_options(self) -> dict[str, Any]:
        return {**super().head_options(), **self._head}

    def policy_options(self) -> dict[str, Any]:
        return {**super().policy_options(), **self._head}

    @property
    def _head(self) -> dict[str, Any]:
        support = {} if self.support is None else {"support": self.support}
        return {"epsilon": self.epsilon_at(IN_THE_END), **support}
