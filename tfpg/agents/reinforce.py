r"""REINFORCE: the episode-batched policy gradient.

A batch of whole episodes is played. Every step is weighted with the discounted return that
followed it, standardized over all real steps of the batch,

    G_t = r_t + gamma G_{t+1},        A_t = (G_t - mean) / std,

and one step is taken along the mean over the real steps of

    A_t grad log pi(a_t | s_t)  +  entropy_coef grad H(pi(. | s_t)).

A time limit counts as an end: without a critic there is nothing to bootstrap from.

Source: Williams, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning", 1992, https://doi.org/10.1007/BF00992696.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip
import tensorflow as tf  # isort: skip

from tfpg.agents.agent import Agent
from tfpg.ops import gradients
from tfpg.ops.policy_gradients import entropy_loss, policy_gradient_loss
from tfpg.ops.returns import discounted_returns, standardize
from tfpg.policy import Policy
from tfpg.requirements import baked_constants
from tfpg.types import Batch, Trajectory

ESTIMATORS = {"fused": gradients.fused, "accumulated": gradients.accumulated}


class Reinforce(Agent):
    """REINFORCE with returns standardized over the batch.

    Args:
        model: The policy; see `tfpg.heads` for what its outputs may be.
        gamma: Discount factor, in [0, 1].
        episodes_per_update: Episodes played before every update.
        max_steps: Where an episode is cut. None: the environment's own limit.
        entropy_coef: Weight of the entropy bonus, at least 0.
        gradient: ``"fused"`` (one tape over the flattened batch) or ``"accumulated"`` (a tape
            for every step, weighted and added up: slow, and constant in memory). Both estimate
            the same number and agree up to rounding.
        num_envs: How many environments play side by side. None: ``episodes_per_update``.
        from_logits: See `tfpg.heads.head_for`.
        positive_action: See `tfpg.heads.head_for`.
        acting: See `tfpg.Policy`.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range, or a layer does not suit.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(20, 10), activation="elu", seed=0)
        >>> agent = Reinforce(model, gamma=0.95)
        >>> history = agent.fit("CartPole-v1", iterations=3, seed=42, verbose=0)
        >>> len(history.history["episode_return"])
        3
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.99,
        episodes_per_update: int = 32,
        max_steps: int | None = None,
        entropy_coef: float = 0.0,
        gradient: str = "fused",
        num_envs: int | None = None,
        from_logits: bool | None = None,
        positive_action: int = 1,
        acting: str = "auto",
    ):
        super().__init__(
            model,
            gamma=gamma,
            episodes_per_update=episodes_per_update,
            max_steps=max_steps,
            num_envs=num_envs,
            from_logits=from_logits,
            positive_action=positive_action,
            acting=acting,
        )
        if not 0.0 <= entropy_coef < np.inf:
            raise ValueError(f"entropy_coef must be at least 0, and it is {entropy_coef!r}.")
        if gradient not in ESTIMATORS:
            raise ValueError(f"gradient must be one of {list(ESTIMATORS)}, and it is {gradient!r}.")
        self.entropy_coef = float(entropy_coef)
        self.gradient = gradient
        self._built_for: tuple | None = None

    def build(self, policy: Policy) -> None:
        """Compiles the update, once for what it depends on."""
        key = (
            policy,
            self.model.optimizer,
            self.gradient,
            self.entropy_coef,
            [id(v) for v in self.model.trainable_variables],
            baked_constants(self.model),
        )
        if self._built_for != key:
            self._apply = compile_update(policy, self.gradient, self.entropy_coef)
            self._built_for = key

    def update(self, data: Trajectory) -> dict[str, float]:
        """One step along the standardized policy gradient of a trajectory.

        Args:
            data: Whole episodes.

        Returns:
            ``loss``, ``entropy`` (nats, mean over the real steps) and ``grad_norm``.

        Raises:
            FloatingPointError: The loss or a gradient is not finite; nothing was applied.
        """
        if self._built_for is None:
            raise RuntimeError("update needs a compiled policy: call fit, or build first.")
        batch = to_batch(data, self.gamma)
        logs, finite = self._apply(batch)
        finite = finite.numpy()
        if not finite.all():
            culprit = [v.path for v in self.model.trainable_variables][int(np.argmin(finite))]
            raise FloatingPointError(
                f"The gradient of {culprit!r} is not finite (loss {float(logs['loss'])}), and the "
                "update was not applied. Look for non-finite rewards or observations, or use a "
                "smaller learning rate."
            )
        return {name: float(x) for name, x in logs.items()}


def to_batch(data: Trajectory, gamma: float) -> Batch:
    """The real steps of a trajectory, each weighted with its standardized return to go.

    Example:
        >>> import numpy as np
        >>> data = Trajectory(
        ...     observations=np.zeros((4, 2, 1)),
        ...     actions=np.zeros((3, 2), int),
        ...     rewards=np.array([[10.0, 10.0], [0.0, 20.0], [-50.0, 0.0]]),
        ...     terminated=np.array([[0, 0], [0, 1], [1, 0]]),
        ...     truncated=np.zeros((3, 2)),
        ...     mask=np.array([[1, 1], [1, 1], [1, 0]]),
        ...     log_probs=np.zeros((3, 2)),
        ... )
        >>> to_batch(data, gamma=0.8).advantages.round(4)
        array([-0.2844,  1.2667, -0.866 ,  1.0728, -1.1891], dtype=float32)
    """
    returns = discounted_returns(
        data.rewards,
        gamma,
        terminated=data.terminated,
        truncated=data.truncated,
        mask=data.mask,
    )
    real = data.mask > 0
    advantages = standardize(returns, data.mask)[real].astype(np.float32)
    return Batch(data.observations[:-1][real], data.actions[real], advantages)


def compile_update(
    policy: Policy, gradient: str, entropy_coef: float
) -> Callable[[Batch], tuple[dict[str, tf.Tensor], tf.Tensor]]:
    """The update as one TensorFlow call with an open batch dimension, traced once.

    Returns:
        ``update(batch) -> logs, finite``: ``finite`` says for every trainable variable whether
        its gradient is. The optimizer is applied only where all are.
    """
    model, head = policy.model, policy.head
    optimizer, variables = model.optimizer, model.trainable_variables
    if not variables:
        raise ValueError("The model has no trainable weights: there is nothing to train.")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Loss scaling is for mixed_float16, which policy gradients do without: use "
            "mixed_bfloat16, or compile with auto_scale_loss=False."
        )
    if not optimizer.built:
        optimizer.build(variables)
    estimate = ESTIMATORS[gradient]

    def step_losses(batch: Batch) -> dict[str, tf.Tensor]:
        distribution = policy.distribution(batch.observations)
        log_probs, entropy = distribution.log_prob(batch.actions), distribution.entropy()
        loss = policy_gradient_loss(log_probs, batch.advantages)
        return {"loss": loss + entropy_coef * entropy_loss(entropy), "entropy": entropy}

    signature = Batch(
        policy.input_spec,
        tf.TensorSpec([None, *head.action_shape], tf.as_dtype(head.action_dtype)),
        tf.TensorSpec([None], tf.float32),
    )

    @tf.function(input_signature=[signature])
    def update(batch):
        grads, logs = estimate(step_losses, variables, batch)
        finite = tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
        if tf.reduce_all(finite):
            optimizer.apply(grads, variables)
        return {**logs, "grad_norm": tf.linalg.global_norm(grads)}, finite

    return update
