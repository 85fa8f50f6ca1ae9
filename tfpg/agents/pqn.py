r"""PQN: Q-learning from parallel rollouts, without a replay buffer or a target network.

    loss = (R_t - Q(s_t, a_t))^2
    R_t = r_t + gamma ((1 - lambda) max_a Q(s_{t+1}, a) + lambda R_{t+1})

averaged over the steps of all environments. The returns ``R_t`` are computed once per rollout, with
the network that played it. A termination stops the bootstrap; a time limit stops only the sum.
Layer normalization in the network takes the place of the target network.

Source: Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024,
https://arxiv.org/abs/2407.04811.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.minibatches import Batch, make_batch
from tfpg.agents.on_policy import RolloutAgent
from tfpg.agents.q_network import QNetworkAgent
from tfpg.core.backend import tf
from tfpg.core.options import count, fraction, option, positive_or_auto
from tfpg.models.policy import Policy
from tfpg.ops.value_losses import td_errors
from tfpg.rollouts.trajectory import Trajectory

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector


class PQN(QNetworkAgent, RolloutAgent):
    """Parallelized Q-network: Q(lambda) without replay, for environments with `Discrete` actions.

    The schedule of ``epsilon`` counts the steps of all environments, including those that
    environments spend on resets.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range, or the model has an unsuitable layer.

    Source:
        Gallici et al., 2024, https://arxiv.org/abs/2407.04811.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu", layer_norm=True, seed=0)
        >>> agent = PQN(model, num_envs=4)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> sorted(history.history)[:3]
        ['env_steps', 'epsilon', 'explained_variance']
    """

    q_lambda: float = option(
        default=0.95,
        check=fraction,
        help="Lambda of the returns, in [0, 1]: 1 uses all remaining rewards of the rollout; 0 "
        "uses one reward and the next Q-values.",
    )
    num_steps: int = option(
        default=32, check=count, help="Steps of each environment per iteration."
    )
    epochs: int = option(default=2, check=count, help="Passes over the steps of an iteration.")
    minibatches: int = option(
        default=8, check=count, help="Minibatches per pass, with one update each."
    )
    reward_scale: float | str = option(
        default=1.0,
        check=positive_or_auto,
        help="Factor that scales the rewards for learning. 'auto': 1 divided by the running "
        "standard deviation of the discounted return. Logs show the original rewards.",
    )

    needs_log_probs = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps_explored = 0  # of all environments, for the schedule of epsilon

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        self.head.epsilon = self.epsilon_at(self.steps_explored)
        return super().collect(collector, policy)

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        q_values = self.outputs(batch.inputs)
        errors = td_errors(q_values, batch.actions, batch.returns)
        return {
            "loss": errors * errors,
            "mean_q": tf.reduce_max(q_values, axis=-1),
            "td_error": tf.abs(errors),
        }

    def to_batch(self, data: Trajectory, values: tf.Tensor) -> Batch:
        return make_batch(data, self.gamma, values=values, gae_lambda=self.q_lambda, per=None)

    def exploration(self, iterations: int, steps: int) -> np.ndarray:
        counts = self.steps_explored + steps * np.arange(iterations)
        return np.array([self.epsilon_at(n) for n in counts.tolist()], np.float32)

    def count_steps(self, steps: int) -> dict[str, float]:
        self.head.epsilon = self.epsilon_at(self.steps_explored)
        self.steps_explored += steps
        return {"epsilon": self.head.epsilon}

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "steps_explored": self.steps_explored}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.steps_explored = state["steps_explored"]
