"""Losses of value functions, one number per step: ``[B]`` in, ``[B]`` out, never reduced."""

from __future__ import annotations

from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import tensorflow as tf  # isort: skip


def value_loss(values: Any, returns: Any) -> tf.Tensor:
    """Squared error of the values. No gradient flows into the returns.

    Args:
        values: ``[B]``, differentiable.
        returns: ``[B]``, what they are to become.

    Returns:
        ``[B]`` tensor.

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, equation 9.1.

    Example:
        >>> value_loss([1.0, 2.0], [3.0, 2.0]).numpy().tolist()
        [4.0, 0.0]
    """
    values = tf.convert_to_tensor(values)
    errors = tf.stop_gradient(tf.cast(returns, values.dtype)) - values
    return errors * errors


def clipped_value_loss(values: Any, returns: Any, old_values: Any, clip: float) -> tf.Tensor:
    """The larger of the squared errors of the values, and of the values kept near the old ones.

    Args:
        values: ``[B]``, differentiable.
        returns: ``[B]``, what they are to become.
        old_values: ``[B]``, from before the update.
        clip: How far a value may move from its old one and still be pulled, above 0.

    Returns:
        ``[B]`` tensor.

    Source:
        The implementation of Schulman et al., 2017, https://arxiv.org/abs/1707.06347; found
        unhelpful by Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990.

    Example:
        >>> clipped_value_loss([1.0, 3.0], [3.0, 3.0], [0.0, 0.0], clip=0.5).numpy().tolist()
        [6.25, 6.25]
    """
    values = tf.convert_to_tensor(values)
    old = tf.stop_gradient(tf.cast(old_values, values.dtype))
    kept = old + tf.clip_by_value(values - old, -clip, clip)
    return tf.maximum(value_loss(values, returns), value_loss(kept, returns))


def huber(errors: Any, delta: float = 1.0) -> tf.Tensor:
    """Huber loss: quadratic for errors within ``delta`` of zero, linear beyond.

    ``0.5 e^2`` where ``|e| <= delta``, else ``delta (|e| - 0.5 delta)``.

    Args:
        errors: ``[B]``, target minus prediction.
        delta: Where the loss becomes linear, above 0.

    Returns:
        ``[B]`` tensor.

    Raises:
        ValueError: ``delta`` is not above 0.

    Source:
        Huber, "Robust Estimation of a Location Parameter", 1964,
        https://doi.org/10.1214/aoms/1177703732.

    Example:
        >>> huber([0.5, -3.0]).numpy().tolist()
        [0.125, 2.5]
    """
    if not delta > 0:
        raise ValueError(f"delta must be above 0, and it is {delta!r}.")
    errors = tf.convert_to_tensor(errors)
    size = tf.abs(errors)
    within = tf.minimum(size, delta)
    return 0.5 * within * within + delta * (size - within)
