"""Losses of the policy, one number per step: ``[B]`` in, ``[B]`` out, never reduced."""

from __future__ import annotations

from typing import Any

from tfpg.core.backend import tf


def policy_gradient_loss(log_probs: Any, advantages: Any) -> tf.Tensor:
    """Return ``-A_t log pi(a_t | s_t)``, whose gradient is the REINFORCE estimator.

    No gradient flows into the advantages.

    Args:
        log_probs: ``[B]``, log-probabilities of the actions taken, differentiable.
        advantages: ``[B]``, the weights of the steps.

    Returns:
        ``[B]`` tensor.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> policy_gradient_loss([-0.5, -2.0], [1.0, -3.0]).numpy().tolist()
        [0.5, -6.0]
    """
    log_probs = tf.convert_to_tensor(log_probs)
    advantages = tf.stop_gradient(tf.cast(advantages, log_probs.dtype))
    return -advantages * log_probs


def clipped_surrogate_loss(
    log_probs: Any, old_log_probs: Any, advantages: Any, clip_ratio: float
) -> tf.Tensor:
    """Return PPO's loss, ``-min(ratio A, clip(ratio, 1 - clip_ratio, 1 + clip_ratio) A)``.

    ``ratio = pi / pi_old`` compares the probabilities of the action taken.

    Args:
        log_probs: ``[B]``, log-probabilities of the actions taken, differentiable.
        old_log_probs: ``[B]``, log-probabilities under the policy that acted.
        advantages: ``[B]``, the weights of the steps.
        clip_ratio: How far the ratio may move away from 1 before it is clipped, above 0.

    Returns:
        ``[B]`` tensor.

    Source:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
        https://arxiv.org/abs/1707.06347, equation 7.

    Example:
        >>> import numpy as np
        >>> clipped_surrogate_loss(np.log([2.0, 0.5]), [0.0, 0.0], [1.0, 1.0], 0.2).numpy().round(2)
        array([-1.2, -0.5])
    """
    log_probs = tf.convert_to_tensor(log_probs)
    old = tf.stop_gradient(tf.cast(old_log_probs, log_probs.dtype))
    advantages = tf.stop_gradient(tf.cast(advantages, log_probs.dtype))
    ratio = tf.exp(log_probs - old)
    clipped = tf.clip_by_value(ratio, 1 - clip_ratio, 1 + clip_ratio)
    return -tf.minimum(ratio * advantages, clipped * advantages)


def entropy_loss(entropies: Any) -> tf.Tensor:
    """Return minus the entropies. Added to a loss, they keep a policy from becoming certain.

    Args:
        entropies: ``[B]``, in nats, differentiable.

    Returns:
        ``[B]`` tensor.

    Source:
        Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016,
        https://arxiv.org/abs/1602.01783.

    Example:
        >>> entropy_loss([0.5, 0.25]).numpy().tolist()
        [-0.5, -0.25]
    """
    return -tf.convert_to_tensor(entropies)
