r"""PPO: proximal policy optimization, several epochs of minibatches over every fragment.

    loss = -min(r_t A_t, clip(r_t, 1 - clip_ratio, 1 + clip_ratio) A_t)
           + value_coef (R_t - V(s_t))^2 - entropy_coef H(pi(. | s_t)),

where ``r_t = pi(a_t | s_t) / pi_old(a_t | s_t)`` compares with the policy that acted, and the
advantages ``A_t`` are standardized over the batch.

Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpg.agents.actor_critic import ActorCritic
from tfpg.agents.minibatches import Batch
from tfpg.core.backend import keras, tf
from tfpg.ops.policy_losses import clipped_surrogate_loss
from tfpg.ops.value_losses import clipped_value_loss, value_loss


class PPO(ActorCritic):
    """Proximal policy optimization with a clipped ratio.

    Args:
        model: See `ActorCritic`, like all that is not named here.
        gae_lambda: Of the advantages, in [0, 1]. None: 0.95, unless there is an ``n_step``.
        clip_ratio: How far the probability ratio is rewarded to leave 1, above 0.
        value_clip: Keep values so near to their old ones, above 0; None: do not.
        target_kl: End the updates of an iteration when the policy has moved further than one and
            a half times this from the one that acted, in nats; None: never.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range, or a layer does not suit.

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

    option_names = (*ActorCritic.option_names, "clip_ratio", "value_clip", "target_kl")

    def __init__(
        self,
        model: keras.Model,
        *,
        value_model: keras.Model | None = None,
        gamma: float = 0.99,
        gae_lambda: float | None = None,
        n_step: int | None = None,
        num_envs: int = 8,
        num_steps: int = 128,
        epochs: int = 4,
        minibatches: int = 4,
        clip_ratio: float = 0.2,
        value_clip: float | None = None,
        target_kl: float | None = None,
        standardize: str | None = "batch",
        entropy_coef: float = 0.0,
        value_coef: float = 0.5,
        reward_scale: float | str = 1.0,
        max_steps: int | None = None,
        jit_compile: bool | str = "auto",
        from_logits: bool | None = None,
        positive_action: int = 1,
        squash: bool = False,
        log_std: float | Sequence[float] = 0.0,
        acting: str = "auto",
    ):
        if gae_lambda is None:
            gae_lambda = 0.95 if n_step is None else 1.0
        super().__init__(
            model,
            value_model=value_model,
            gamma=gamma,
            gae_lambda=gae_lambda,
            n_step=n_step,
            num_envs=num_envs,
            num_steps=num_steps,
            epochs=epochs,
            minibatches=minibatches,
            standardize=standardize,
            entropy_coef=entropy_coef,
            value_coef=value_coef,
            reward_scale=reward_scale,
            max_steps=max_steps,
            jit_compile=jit_compile,
            from_logits=from_logits,
            positive_action=positive_action,
            squash=squash,
            log_std=log_std,
            acting=acting,
        )
        for name, value in (
            ("clip_ratio", clip_ratio),
            ("value_clip", value_clip),
            ("target_kl", target_kl),
        ):
            if value is not None and not 0.0 < value < np.inf:
                raise ValueError(f"{name} must be above 0, and it is {value!r}.")
        self.clip_ratio = float(clip_ratio)
        self.value_clip = value_clip
        self.target_kl = target_kl

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Adam with the gradient clipped at a norm of a half, as the field does."""
        return keras.optimizers.Adam(3e-4, epsilon=1e-5, global_clipnorm=0.5)

    def step_losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The loss of every step, ``[B]``, and its parts."""
        distribution, value = self._critic.distribution_and_value(batch.inputs)
        entropy, log_probs = distribution.entropy(), distribution.log_prob(batch.actions)
        policy_loss = clipped_surrogate_loss(
            log_probs, batch.log_probs, batch.advantages, self.clip_ratio
        )
        squared = (
            value_loss(value, batch.returns)
            if self.value_clip is None
            else clipped_value_loss(value, batch.returns, batch.values, self.value_clip)
        )
        log_ratio = log_probs - batch.log_probs
        ratio = tf.exp(log_ratio)
        return {
            **self.total_loss(policy_loss, squared, entropy),
            # Unbiased, never below 0, and of little variance: Schulman, "Approximating KL
            # Divergence", 2020, http://joschu.net/blog/kl-approx.html.
            "approx_kl": ratio - 1.0 - log_ratio,
            "clip_fraction": tf.cast(tf.abs(ratio - 1.0) > self.clip_ratio, tf.float32),
        }

    def _options(self) -> tuple:
        return (*super()._options(), self.clip_ratio, self.value_clip)
