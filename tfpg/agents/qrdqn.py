r"""QR-DQN: Q-learning with quantiles of the return of each action.

    loss = sum_i mean_j abs(tau_i - (u < 0)) huber(u),    u = r + gamma z'_j - z_i(s, a)

where ``z'`` are the target network's quantiles for the next action, and ``tau_i = (i + 0.5) / N``.

Source: Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", 2018,
https://arxiv.org/abs/1710.10044.
"""

from __future__ import annotations

from tfpg.agents.q_learning import QLearning
from tfpg.core.backend import tf
from tfpg.models.heads import QUANTILES
from tfpg.ops.distributional import quantile_huber_loss
from tfpg.ops.value_losses import taken
from tfpg.rollouts.replay import Transitions


class QRDQN(QLearning):
    """Deep Q-learning with quantile regression, for environments with `Discrete` actions.

    The model has N outputs for each action: quantiles of its return, all equally probable. Unlike
    `tfpg.C51`, it needs no bounds on the return.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range.

    Source:
        Dabney et al., 2018, https://arxiv.org/abs/1710.10044.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", activation="relu", atoms=11, seed=0)
        >>> agent = QRDQN(model, learning_starts=200, steps_per_iteration=256)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["updates"]
        [128.0, 256.0]
    """

    support = QUANTILES

    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        following = self.next_distribution(batch)
        targets = batch.rewards[:, None] + batch.discounts[:, None] * following
        outputs = self.outputs(batch.observations)
        quantiles = taken(self.head.per_action(outputs), batch.actions)
        errors = tf.reduce_mean(targets, -1) - tf.reduce_mean(quantiles, -1)
        return {
            "loss": batch.weights * quantile_huber_loss(quantiles, targets),
            "mean_q": tf.reduce_max(self.head.q_values(outputs), axis=-1),
            "td_error": tf.abs(errors),
            "errors": errors,
        }
