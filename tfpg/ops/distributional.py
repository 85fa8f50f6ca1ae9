"""Distributions of returns: their projection onto atoms, and losses, one number per step."""

from __future__ import annotations

from typing import Any

from tfpg.core.backend import tf
from tfpg.ops.value_losses import huber


def project_distribution(values: Any, probabilities: Any, support: Any) -> tf.Tensor:
    """Return a distribution over the atoms of a support that has the same mean. No gradient flows.

    The probability of each value is divided between the two nearest atoms. Values beyond the ends
    of the support count as those ends.

    Args:
        values: ``[B, M]``, the values that the distribution is over, in any order.
        probabilities: ``[B, M]``, their probabilities.
        support: ``[N]``, the atoms, in equal distances, at least two.

    Returns:
        ``[B, N]`` tensor, the probabilities of the atoms.

    Source:
        Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning",
        2017, https://arxiv.org/abs/1707.06887, equation 7.

    Example:
        >>> project_distribution([[0.25, 9.0]], [[0.8, 0.2]], [0.0, 1.0, 2.0]).numpy().round(4)
        array([[0.6, 0.2, 0.2]], dtype=float32)
    """
    support = tf.convert_to_tensor(support, tf.float32)
    values, probabilities = (tf.cast(x, tf.float32) for x in (values, probabilities))
    values = tf.clip_by_value(values, support[0], support[-1])
    distances = tf.abs(values[:, None, :] - support[:, None]) / (support[1] - support[0])
    shares = tf.maximum(1.0 - distances, 0.0)  # [B, N, M]
    return tf.stop_gradient(tf.reduce_sum(shares * probabilities[:, None, :], axis=-1))


def cross_entropy(logits: Any, probabilities: Any) -> tf.Tensor:
    """Return the cross entropy of the softmax of logits with respect to probabilities.

    Args:
        logits: ``[B, N]``, differentiable.
        probabilities: ``[B, N]``, the targets. No gradient flows into them.

    Returns:
        ``[B]`` tensor, in nats.

    Example:
        >>> import numpy as np
        >>> cross_entropy(np.log([[0.5, 0.5]]), [[1.0, 0.0]]).numpy().round(4)
        array([0.6931])
    """
    log_probs = tf.nn.log_softmax(tf.convert_to_tensor(logits))
    targets = tf.stop_gradient(tf.cast(probabilities, log_probs.dtype))
    return -tf.reduce_sum(targets * log_probs, axis=-1)


def quantile_huber_loss(quantiles: Any, targets: Any) -> tf.Tensor:
    """Return the loss whose minimum are the quantiles of the targets' distribution.

    With errors ``u = targets[j] - quantiles[i]`` and ``tau_i = (i + 0.5) / N``, it is

        sum_i mean_j abs(tau_i - (u < 0)) huber(u)

    Args:
        quantiles: ``[B, N]``, differentiable, from the lowest to the highest.
        targets: ``[B, M]``, samples of the distribution. No gradient flows into them.

    Returns:
        ``[B]`` tensor.

    Source:
        Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", 2018,
        https://arxiv.org/abs/1710.10044, equation 10 with kappa = 1.

    Example:
        >>> quantile_huber_loss([[0.0, 1.0]], [[2.0]]).numpy().tolist()  # 0.25 * 1.5 + 0.75 * 0.5
        [0.75]
    """
    quantiles = tf.convert_to_tensor(quantiles)
    targets = tf.stop_gradient(tf.cast(targets, quantiles.dtype))
    count = quantiles.shape[-1]
    levels = (tf.range(count, dtype=quantiles.dtype) + 0.5) / count
    errors = targets[:, None, :] - quantiles[:, :, None]  # [B, N, M]
    weights = tf.abs(levels[:, None] - tf.cast(errors < 0, quantiles.dtype))
    return tf.reduce_sum(tf.reduce_mean(weights * huber(errors), axis=-1), axis=-1)
