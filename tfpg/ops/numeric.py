"""Operations that work on NumPy arrays and on tensors.

`keras.ops` has them for tensors, but takes a hundred times as long as NumPy on the small arrays
that acting deals with. Reductions run over the last axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.core.backend import tf

Array = Any

LOWEST = -3e38  # fits into float32
_TINY = float(np.finfo(np.float32).tiny)  # TensorFlow flushes smaller numbers to zero


def is_array(x: Array) -> bool:
    return isinstance(x, (np.ndarray, np.generic))


def exp(x: Array) -> Array:
    return np.exp(x) if is_array(x) else tf.exp(x)


def log(x: Array) -> Array:
    """The logarithm of probabilities; finite for 0, so that ``0 * log(0)`` is 0."""
    return np.log(np.maximum(x, _TINY)) if is_array(x) else tf.math.log(tf.maximum(x, _TINY))


def tanh(x: Array) -> Array:
    return np.tanh(x) if is_array(x) else tf.tanh(x)


def sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x)) if is_array(x) else tf.sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0) if is_array(x) else tf.nn.softplus(x)


def log_softmax(x: Array) -> Array:
    if not is_array(x):
        return tf.nn.log_softmax(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sum(x: Array) -> Array:
    return x.sum(axis=-1) if is_array(x) else tf.reduce_sum(x, axis=-1)


def cumsum(x: Array) -> Array:
    return x.cumsum(axis=-1) if is_array(x) else tf.cumsum(x, axis=-1)


def total(x: Array, axis: int | None = None) -> Array:
    """The sum over one axis, or all, which are kept with a size of 1."""
    if is_array(x):
        return x.sum(axis=axis, keepdims=True)
    return tf.reduce_sum(x, axis=axis, keepdims=True)


def largest(x: Array, axis: int | None = None) -> Array:
    """The maximum over one axis, or all, which are kept with a size of 1."""
    if is_array(x):
        return x.max(axis=axis, keepdims=True, initial=LOWEST)
    return tf.reduce_max(x, axis=axis, keepdims=True)


def zeros_like(x: Array) -> Array:
    return np.zeros_like(x) if is_array(x) else tf.zeros_like(x)


def ones_like(x: Array) -> Array:
    return np.ones_like(x) if is_array(x) else tf.ones_like(x)


def sqrt(x: Array) -> Array:
    return np.sqrt(x) if is_array(x) else tf.sqrt(x)


def shifted(x: Array, steps: int) -> Array:
    """Row ``t`` holds row ``t + steps`` of ``x``, or zeros where there is none."""
    return concatenate([x[steps:], zeros_like(x[:steps])], axis=0)


def repeat(x: Array, times: int) -> Array:
    return np.repeat(x, times) if is_array(x) else tf.repeat(x, times)


def any(x: Array) -> Array:
    return x.any(axis=-1) if is_array(x) else tf.reduce_any(x, axis=-1)


def argmax(x: Array) -> Array:
    return x.argmax(axis=-1) if is_array(x) else tf.argmax(x, axis=-1)


def stack(xs: list) -> Array:
    return np.stack(xs, axis=-1) if is_array(xs[0]) else tf.stack(xs, axis=-1)


def concatenate(xs: list, axis: int = -1) -> Array:
    return np.concatenate(xs, axis) if is_array(xs[0]) else tf.concat(xs, axis)


def where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y) if is_array(x) else tf.where(condition, x, y)


def clip(x: Array, low: Array, high: Array) -> Array:
    return np.clip(x, low, high) if is_array(x) else tf.clip_by_value(x, low, high)


def minimum(x: Array, high: Any) -> Array:
    return np.minimum(x, high) if is_array(x) else tf.minimum(x, high)


def rint(x: Array) -> Array:
    return np.rint(x) if is_array(x) else tf.round(x)


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape) if is_array(x) else tf.reshape(x, shape)


def cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype, copy=False) if is_array(x) else tf.cast(x, dtype)


def like(x: Array, example: Array) -> Array:
    """``x`` as an array or tensor of the example's type and dtype."""
    return np.asarray(x, example.dtype) if is_array(example) else tf.cast(x, example.dtype)


def as_integer(x: Array) -> Array:
    return x.astype(np.int64) if is_array(x) else tf.cast(x, tf.int64)


def one_hot(index: Array, count: int) -> Array:
    """``[..., count]`` float32."""
    if not is_array(index):
        return tf.one_hot(index, count)
    return (index[..., None] == np.arange(count)).astype(np.float32)


def take(table: Array, index: Array) -> Array:
    """The entry ``[...]`` of each row of ``table [..., A]`` at ``index [...]``."""
    if is_array(table):
        return np.take_along_axis(table, np.asarray(index)[..., None], axis=-1)[..., 0]
    return tf.gather(table, tf.cast(index, tf.int64), axis=-1, batch_dims=table.shape.rank - 1)


# Random numbers, from a NumPy generator or from a seed, a tensor [2] int64.


def uniform(rng: Any, shape: Any) -> Array:
    """Uniform numbers in [0, 1)."""
    if isinstance(rng, np.random.Generator):
        return rng.random(shape)
    return tf.random.stateless_uniform(shape, rng, alg="philox")


def normal(rng: Any, shape: Any) -> Array:
    """Standard normal numbers."""
    if isinstance(rng, np.random.Generator):
        return rng.standard_normal(size=shape)
    return tf.random.stateless_normal(shape, rng, alg="philox")


def gumbel(rng: Any, shape: Any) -> Array:
    """Standard Gumbel numbers."""
    if isinstance(rng, np.random.Generator):
        return rng.gumbel(size=shape)
    return -tf.math.log(-tf.math.log(_within(uniform(rng, shape))))


def logistic(rng: Any, shape: Any) -> Array:
    """Standard logistic numbers."""
    if isinstance(rng, np.random.Generator):
        return rng.logistic(size=shape)
    drawn = _within(uniform(rng, shape))
    return tf.math.log(drawn) - tf.math.log1p(-drawn)


def _within(drawn: Any) -> Any:
    return tf.clip_by_value(drawn, 1e-7, 1 - 1e-7)  # whose logarithms are finite
