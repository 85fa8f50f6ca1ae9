"""The few words of arithmetic that distributions need, for NumPy arrays and tensors alike.

keras.ops is NumPy's vocabulary over tensors, but costs a hundred times NumPy's time on small
arrays, which acting is made of. Sums and extremes run over the last axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.core.backend import tf

Array = Any

_TINY = float(np.finfo(np.float32).tiny)  # what is smaller, TensorFlow takes for 0


def is_tensor(x: Array) -> bool:
    return not isinstance(x, (np.ndarray, np.generic))


def exp(x: Array) -> Array:
    return tf.exp(x) if is_tensor(x) else np.exp(x)


def log(x: Array) -> Array:
    """Of probabilities: that of 0 is a large negative number, and times 0 it is 0."""
    return tf.math.log(tf.maximum(x, _TINY)) if is_tensor(x) else np.log(np.maximum(x, _TINY))


def where(condition: Array, x: Array, y: Array) -> Array:
    return tf.where(condition, x, y) if is_tensor(x) else np.where(condition, x, y)


def one_hot(index: Array, count: int, like: Array) -> Array:
    if is_tensor(index):
        return tf.one_hot(index, count, dtype=like.dtype)
    return np.eye(count, dtype=like.dtype)[index]


def tanh(x: Array) -> Array:
    return tf.tanh(x) if is_tensor(x) else np.tanh(x)


def softplus(x: Array) -> Array:
    return tf.nn.softplus(x) if is_tensor(x) else np.logaddexp(x, 0)


def sigmoid(x: Array) -> Array:
    return tf.sigmoid(x) if is_tensor(x) else 0.5 * (1 + np.tanh(0.5 * x))


def log_softmax(x: Array) -> Array:
    if is_tensor(x):
        return tf.nn.log_softmax(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sum(x: Array) -> Array:
    return tf.reduce_sum(x, axis=-1) if is_tensor(x) else x.sum(axis=-1)


def argmax(x: Array) -> Array:
    return tf.argmax(x, axis=-1) if is_tensor(x) else x.argmax(axis=-1)


def stack(xs: list) -> Array:
    return tf.stack(xs, axis=-1) if is_tensor(xs[0]) else np.stack(xs, axis=-1)


def clip(x: Array, low: Array, high: Array) -> Array:
    return tf.clip_by_value(x, low, high) if is_tensor(x) else np.clip(x, low, high)


def minimum(x: Array, y: Array) -> Array:
    return tf.minimum(x, y) if is_tensor(x) else np.minimum(x, y)


def like(constant: Any, x: Array) -> Array:
    return tf.cast(constant, x.dtype) if is_tensor(x) else np.asarray(constant, x.dtype)


def as_integer(x: Array) -> Array:
    return tf.cast(x, tf.int64) if is_tensor(x) else x.astype(np.int64)


def signs(actions: Array, like: Array) -> Array:
    if is_tensor(like):
        return 2 * tf.cast(actions, like.dtype) - 1
    return 2 * np.asarray(actions, like.dtype) - 1


def take(table: Array, index: Array) -> Array:
    if is_tensor(table):
        return tf.gather(table, tf.cast(index, tf.int64), axis=-1, batch_dims=table.shape.rank - 1)
    return np.take_along_axis(table, np.asarray(index)[..., None], axis=-1)[..., 0]
