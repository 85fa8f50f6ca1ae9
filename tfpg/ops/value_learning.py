"""Losses of value functions, one number per step: ``[B]`` in, ``[B]`` out, never reduced."""

from __future__ import annotations

from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import tensorflow as tf  # isort: skip


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
