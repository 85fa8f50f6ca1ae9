r"""PPO: proximal policy optimization, several epochs of minibatches over every rollout.

    loss = -min(ratio_t A_t, clip(ratio_t, 1 - clip_ratio, 1 + clip_ratio) A_t)
           + value_coef (R_t - V(s_t))^2 - entropy_coef H(pi(. | s_t)),

where ``ratio_t = pi(a_t | s_t) / pi_old(a_t | s_t)`` compares the policy with the one that
collected the rollout. The advantages ``A_t`` and returns ``R_t`` are those of
`tfpg.ActorCritic`, except that the advantages are standardized over the rollout, after the returns
are computed.

Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import numpy as np

from tfpg.agents.minibatches import Batch
from tfpg.agents.policy_gradient import ActorCritic
from tfpg.core.backend import keras, tf
from tfpg.core.options import count, option, optional, positive
from tfpg.ops.policy_losses import clipped_surrogate_loss
from tfpg.ops.value_losses import clipped_value_loss, value_loss


class PPO(ActorCritic):
    """Proximal policy optimization with a clipped probability ratio.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range, or the model has an unsuitable layer.

    Source:
        Schulman et al., 2017, https://arxiv.org/abs/1707.06347.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
        >>> agent = PPO(model, num_envs=4, num_steps=32)
        >>> history = agent.fit("CartPole-v1", iterations=2, seed=42, verbose=0)
        >>> sorted(history.history)[:4]
        ['approx_kl', 'clip_fraction', 'entropy', 'env_steps']
    """

    num_steps: int = option(
        default=128, check=count, help="Steps of each environment per iteration."
    )
    epochs: int = option(default=10, check=count, help="Passes over the steps of an iteration.")
    minibatches: int = option(
        default=8, check=count, help="Minibatches per pass, with one update each."
    )
    clip_ratio: float = option(
        default=0.2,
        check=positive,
        help="Clip the probability ratio at this distance from 1.",
    )
    value_clip: float | None = option(
        default=None,
        check=optional(positive),
        help="In the value loss, clip each value to within this distance of its old value. None: "
        "no clipping.",
    )
    target_kl: float | None = option(
        default=None,
        check=optional(positive),
        help="End the updates of an iteration when the KL divergence from the policy that "
        "collected the data exceeds 1.5 times this value, in nats. None: never.",
    )

    @property
    def kl_limit(self) -> float:
        return np.inf if self.target_kl is None else 1.5 * self.target_kl

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Return Adam with gradients clipped at a norm of 0.5."""
        return keras.optimizers.Adam(1e-3, epsilon=1e-5, global_clipnorm=0.5)

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        distribution, value = self.distribution_and_value(batch.inputs)
        log_probs = distribution.log_prob(batch.actions)
        if self.value_clip is None:
            squared_error = value_loss(value, batch.returns)
        else:
            squared_error = clipped_value_loss(value, batch.returns, batch.values, self.value_clip)
        losses = self.total_loss(
            clipped_surrogate_loss(log_probs, batch.log_probs, batch.advantages, self.clip_ratio),
            distribution.entropy(),
            squared_error,
        )
        log_ratio = log_probs - batch.log_probs
        ratio = tf.exp(log_ratio)
        return {
            **losses,
            # Unbiased, at least 0, and of low variance: Schulman, "Approximating KL Divergence",
            # 2020, http://joschu.net/blog/kl-approx.html.
            "approx_kl": ratio - 1.0 - log_ratio,
            "clip_fraction": tf.cast(tf.abs(ratio - 1.0) > self.clip_ratio, tf.float32),
        }
