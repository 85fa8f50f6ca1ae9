r"""A2C: advantage actor-critic, one update per rollout.

    loss = -A_t log pi(a_t | s_t) + value_coef (R_t - V(s_t))^2 - entropy_coef H(pi(. | s_t))

with the advantages ``A_t`` and returns ``R_t = A_t + V(s_t)`` of `tfpg.ActorCritic`,
averaged over the steps of all environments.

Source: Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016,
https://arxiv.org/abs/1602.01783; its synchronous form.
"""

from __future__ import annotations

from tfpg.agents.minibatches import Batch
from tfpg.agents.policy_gradient import ActorCritic
from tfpg.core.backend import keras, tf
from tfpg.core.options import one_of, option
from tfpg.ops.policy_losses import policy_gradient_loss
from tfpg.ops.value_losses import value_loss


class A2C(ActorCritic):
    """Advantage actor-critic (A2C).

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range, or the model has an unsuitable layer.

    Source:
        Mnih et al., 2016, https://arxiv.org/abs/1602.01783.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
        >>> agent = A2C(model, num_envs=4)
        >>> history = agent.fit("CartPole-v1", iterations=3, seed=42, verbose=0)
        >>> history.history["env_steps"][-1] <= 3 * 4 * 16
        True
    """

    standardize: str | None = option(
        default=None,
        check=one_of("batch", None),
        help="Standardize the advantages (z-score) over the 'batch'. None: no standardization."
        " With few steps in an iteration, it would amplify noise once the policy is good.",
    )

    needs_log_probs = False

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Return Adam with gradients clipped at a norm of 0.5."""
        return keras.optimizers.Adam(1e-3, epsilon=1e-5, global_clipnorm=0.5)

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        distribution, value = self.distribution_and_value(batch.inputs)
        return self.total_loss(
            policy_gradient_loss(distribution.log_prob(batch.actions), batch.advantages),
            distribution.entropy(),
            value_loss(value, batch.returns),
        )
