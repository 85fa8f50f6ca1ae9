r"""SAC: soft actor-critic, which maximizes the return plus the entropy of the policy.

Two Q-networks, the critics, learn from transitions (s, a, r, s') of the replay buffer:

    critic_loss = sum_i (Q_i(s, a) - y)^2
    y = r + gamma (min_i Q_target_i(s', a') - alpha log pi(a' | s'))

The policy follows the gradient of the smaller Q-value with respect to the sampled action (the
reparameterization trick), and alpha moves the entropy toward its target:

    policy_loss = alpha log pi(a | s) - min_i Q_i(s, a)
    alpha_loss = -log alpha (log pi(a | s) + target_entropy)

with a ~ pi(. | s) and a' ~ pi(. | s'). All three gradients are computed before any weight
changes. Actions are scaled to [-1, 1] for the critics and for log pi. With ``n_step``, r is the
discounted sum of n rewards and s' the state after them; the entropy of the steps between does not
count.

Source: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018,
https://arxiv.org/abs/1812.05905.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tfpg.agents.off_policy import OffPolicy
from tfpg.core.backend import keras, scope_of, tf
from tfpg.core.options import count, finite, option, optional, positive_or_auto
from tfpg.envs import EnvLike, Spaces, spaces_of
from tfpg.models.critic import Critic
from tfpg.models.heads import GaussianHead, squash_obstacle
from tfpg.models.policy import Policy
from tfpg.rollouts.replay import Transitions


class SAC(OffPolicy):
    """Soft actor-critic, for environments with bounded `Box` actions.

    Environment steps are counted over all environments together. After ``learning_starts`` steps
    of uniformly random actions, ``updates_per_learn`` updates are made every ``learn_period``
    steps, in one compiled call. An iteration is ``steps_per_iteration`` steps.

    The model outputs a mean and a log standard deviation for each action dimension. Actions are
    squashed into their bounds with a tanh.

    Raises:
        TypeError: ``model`` or ``critic`` is not a Keras model.
        ValueError: An option is out of range.

    Source:
        Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("Pendulum-v1", (32, 32), "relu", log_std=None, seed=0)
        >>> critic = tfpg.networks.twin_critic("Pendulum-v1", (32, 32), seed=0)
        >>> agent = SAC(model, critic=critic, learning_starts=256, steps_per_iteration=256)
        >>> history = agent.fit("Pendulum-v1", iterations=2, seed=42, verbose=0)
        >>> history.history["updates"]
        [256.0, 512.0]
    """

    critic: keras.Model | None = option(
        default=None,
        help="The two Q-networks as one model, [inputs [B, ...], actions [B, D]] -> [B, 2]. The "
        "actions are scaled to [-1, 1]. See `tfpg.networks.twin_critic`.",
        in_config=False,
    )
    alpha: float | str = option(
        default="auto",
        check=positive_or_auto,
        help="The temperature: the weight of the entropy, in units of the rewards. 'auto': it is "
        "learned, starting from 1, so that the entropy becomes target_entropy.",
    )
    target_entropy: float | None = option(
        default=None,
        check=optional(finite),
        help="For alpha='auto': the entropy in nats of actions that are scaled to [-1, 1]. Below "
        "0.69 per action dimension, the entropy of uniform actions. None: minus the dimensions.",
    )
    explore_steps: int = option(
        default=1,
        check=count,
        help="Sample actions with the same noise for this many steps, to explore further.",
    )
    n_step: int = option(default=1, check=count, help="Number of rewards per transition.")
    capacity: int = option(
        default=1_000_000, check=count, help="Capacity of the replay buffer, in steps."
    )
    batch_size: int = option(default=256, check=count, help="Transitions per update.")
    updates_per_learn: int = option(
        default=32, check=count, help="Updates made after every learn_period steps."
    )

    hints = MappingProxyType(
        {**OffPolicy.hints, "ent_coef": "alpha", "entropy_coef": "alpha", "value_model": "critic"}
    )
    second_model = "critic"
    default_tau = 0.005
    logged = ("policy_loss", "mean_q", "td_error", "entropy", "alpha")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic is None:
            raise ValueError("SAC needs a critic: pass critic=tfpg.networks.twin_critic(env).")
        self.models.append(self._prepared(self.critic))
        with scope_of(self.model.variables):
            self.log_alpha = keras.Variable(0.0, dtype="float32", name="log_alpha")

    def __reduce__(self) -> Any:
        return *super().__reduce__(), float(self.log_alpha)

    def __setstate__(self, log_alpha: float) -> None:
        self.log_alpha.assign(log_alpha)

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Return Adam with a learning rate of 3e-4."""
        return keras.optimizers.Adam(3e-4)

    def check_options(self) -> None:
        super().check_options()
        if self.target_entropy is not None and self.alpha != "auto":
            raise ValueError(
                f'target_entropy is for alpha="auto", got alpha={self.alpha}: leave one out.'
            )

    def policy_for(self, env: EnvLike | Spaces) -> Policy:
        if obstacle := squash_obstacle(spaces_of(env)[1]):
            raise ValueError(
                f"SAC needs actions in a bounded Box, but {obstacle}. Use tfpg.PPO instead."
            )
        return super().policy_for(env)

    def prepare(self, policy: Policy) -> None:
        head = policy.head
        assert isinstance(head, GaussianHead)  # policy_for has checked the action space
        if head.variables or policy.has_value:
            raise ValueError(
                f"SAC needs a model with {2 * head.dims} outputs, a mean and a log standard "
                f"deviation for each of {head.dims} action dimensions, and no second output. See "
                "tfpg.networks.mlp, with log_std=None."
            )
        most = head.dims * float(np.log(2))
        if self.target_entropy is not None and self.target_entropy >= most:
            raise ValueError(
                f"target_entropy must be below {most:.4g}, the entropy of uniform actions in "
                f"[-1, 1], got {self.target_entropy}: alpha would rise forever."
            )
        # Before its weights are listed: a subclass of keras.Model makes them when it is called.
        self.q_values = Critic(self.models[1], policy, 2)  # of actions in [-1, 1]
        super().prepare(policy)

    def build(self, policy: Policy) -> None:
        # Scaled to [-1, 1], actions have a density that is larger by this factor.
        self._log_scale = float(np.log((self.head.high - self.head.low) / 2).sum())
        super().build(policy)

    @property
    def head(self) -> GaussianHead:
        """The head of the policy that is trained."""
        head = self.trained_policy.head
        assert isinstance(head, GaussianHead)
        return head

    @property
    def own_variables(self) -> Sequence[Any]:
        return (self.log_alpha,)

    @property
    def value_network(self) -> tuple[Callable, Sequence[Any]]:
        return self.q_values, self.models[1].trainable_variables

    def sample(self, inputs: Any, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return actions ``[B, D]`` in [-1, 1] and their log-probabilities ``[B]``.

        Args:
            inputs: Model inputs ``[B, ...]``.
            noise: ``[B, D]``, standard normal.
        """
        distribution = self.trained_policy.distribution(inputs)
        actions = distribution.sample(noise)
        return tf.tanh(actions), distribution.log_prob(actions) + self._log_scale

    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        noise, next_noise = tf.unstack(batch.noise, axis=1)
        learned = self.alpha == "auto"
        alpha = tf.stop_gradient(tf.exp(self.log_alpha.value)) if learned else self.alpha

        next_actions, next_log_probs = self.sample(batch.next_observations, next_noise)
        following = self.target_network.outputs(batch.next_observations, next_actions)
        soft_values = tf.reduce_min(following, axis=-1) - alpha * next_log_probs
        targets = tf.stop_gradient(batch.rewards + batch.discounts * soft_values)
        q_values = self.q_values(batch.observations, tf.tanh(batch.actions))
        errors = q_values - targets[:, None]
        critic_loss = batch.weights * tf.reduce_sum(errors * errors, axis=-1)

        actions, log_probs = self.sample(batch.observations, noise)
        values = self.target_network.constant_outputs(batch.observations, actions)
        policy_loss = alpha * log_probs - tf.reduce_min(values, axis=-1)
        loss, errors = critic_loss + policy_loss, tf.reduce_mean(tf.abs(errors), axis=-1)
        if learned:
            target = -self.head.dims if self.target_entropy is None else self.target_entropy
            loss -= self.log_alpha * tf.stop_gradient(log_probs + target)
        return {
            "loss": loss,
            "policy_loss": policy_loss,
            "mean_q": tf.reduce_mean(q_values, axis=-1),
            "td_error": errors,
            "entropy": self._log_scale - log_probs,
            "alpha": alpha * tf.ones_like(log_probs),
            "errors": errors,
        }

    @property
    def update_noise(self) -> tuple[int, ...]:
        return self.batch_size, 2, self.head.dims

    def with_noise(self, batch: Transitions, noise: tf.Tensor) -> Transitions:
        return batch._replace(noise=noise)

    def explore(self, at_random: bool = False) -> None:
        self.head.at_random, self.head.hold = at_random, self.explore_steps

    def observed_inputs(self, model: keras.Model) -> Any:
        return self.q_values.observed if model is self.models[1] else None

    def policy_options(self) -> dict[str, Any]:
        return {**super().policy_options(), **self.head_options()}

    def head_options(self) -> dict[str, Any]:
        return {"squash": True}
