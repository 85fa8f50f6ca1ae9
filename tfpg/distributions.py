"""Action distributions, written once for NumPy arrays (acting) and tensors (learning).

Their parameters decide: a distribution of NumPy arrays answers in NumPy, one of tensors in
tensors, by the same formulas. A distribution is immutable. Event dimensions are summed, so
``log_prob``, ``entropy`` and ``kl`` are ``[B]``.

Sampling is a pure function of noise that somebody else drew: ``sample(noise)`` with noise from
``noise(rng, shape)``. Whatever computed the parameters, equal noise gives equal actions.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import tensorflow as tf  # isort: skip

Array = Any

_LOG_2_PI = math.log(2.0 * math.pi)


class Distribution(Protocol):
    """What every action distribution does.

    ``sample(noise)`` and ``mode()`` return actions ``[B, ...]``; ``log_prob(actions)``,
    ``entropy()`` and ``kl(other)`` return ``[B]``, in nats.
    """

    def sample(self, noise: Array) -> Array: ...

    def mode(self) -> Array: ...

    def log_prob(self, actions: Array) -> Array: ...

    def entropy(self) -> Array: ...

    def kl(self, other: Any) -> Array: ...


class Bernoulli:
    """Two actions, 0 and 1; one logit per step, ``P(action 1) = sigmoid(logit)``.

    Args:
        logits: ``[B]``.

    Source:
        Logistic noise against a logit is the inverse-CDF draw; see Maddison, Mnih and Teh,
        "The Concrete Distribution", 2017, https://arxiv.org/abs/1611.00712, appendix B.

    Example:
        >>> import numpy as np
        >>> coin = Bernoulli(np.array([0.0, 2.0]))
        >>> coin.mode(), coin.log_prob(np.array([1, 1])).round(4)
        (array([0, 1]), array([-0.6931, -0.1269]))
        >>> coin.sample(Bernoulli.noise(np.random.default_rng(0), (2,)))
        array([0, 1])
    """

    def __init__(self, logits: Array):
        self.logits = logits

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard logistic noise of this shape: one number per step."""
        return rng.logistic(size=shape)

    def sample(self, noise: Array) -> Array:
        return _as_integer(noise < self.logits)

    def mode(self) -> Array:
        return _as_integer(self.logits > 0)

    def log_prob(self, actions: Array) -> Array:
        # log sigmoid(x) = -softplus(-x), and P(0) = sigmoid(-x).
        return -_softplus(-_signs(actions, self.logits) * self.logits)

    def entropy(self) -> Array:
        return _softplus(self.logits) - self.logits * _sigmoid(self.logits)

    def kl(self, other: Bernoulli) -> Array:
        difference = self.logits - other.logits
        return _softplus(other.logits) - _softplus(self.logits) + _sigmoid(self.logits) * difference


class Categorical:
    """One of A actions, by a softmax over A logits.

    Args:
        logits: ``[B, A]``, not necessarily normalized.

    Source:
        Sampling by the largest of logit plus Gumbel noise: Maddison, Tarlow and Minka,
        "A* Sampling", 2014, https://arxiv.org/abs/1411.0030.

    Example:
        >>> import numpy as np
        >>> die = Categorical(np.log([[0.5, 0.25, 0.25]]))
        >>> die.mode(), np.exp(die.log_prob(np.array([2])))
        (array([0]), array([0.25]))
        >>> die.sample(Categorical.noise(np.random.default_rng(0), (1, 3))).shape
        (1,)
    """

    def __init__(self, logits: Array):
        self.logits = logits

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard Gumbel noise of this shape: A numbers per step."""
        return rng.gumbel(size=shape)

    def sample(self, noise: Array) -> Array:
        return _argmax(self.logits + noise)

    def mode(self) -> Array:
        return _argmax(self.logits)

    def log_prob(self, actions: Array) -> Array:
        return _take(_log_softmax(self.logits), actions)

    def entropy(self) -> Array:
        log_probs = _log_softmax(self.logits)
        return -_sum(_exp(log_probs) * log_probs)

    def kl(self, other: Categorical) -> Array:
        log_probs = _log_softmax(self.logits)
        return _sum(_exp(log_probs) * (log_probs - _log_softmax(other.logits)))


class DiagonalGaussian:
    """Real actions of D dimensions, independent normals.

    ``log p(x) = -0.5 * sum(((x - mean) / std)^2 + 2 log std + log 2 pi)``.

    Args:
        mean: ``[B, D]``.
        log_std: ``[B, D]``, the logarithm of the standard deviation (not of the variance).

    Source:
        Williams, 1992, section 6, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import numpy as np
        >>> bell = DiagonalGaussian(np.array([[0.0, 1.0]]), np.zeros((1, 2)))
        >>> bell.mode(), bell.log_prob(np.array([[0.0, 1.0]])).round(4)
        (array([[0., 1.]]), array([-1.8379]))
        >>> bell.sample(DiagonalGaussian.noise(np.random.default_rng(0), (1, 2))).shape
        (1, 2)
    """

    def __init__(self, mean: Array, log_std: Array):
        self.mean = mean
        self.log_std = log_std

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal noise of this shape: D numbers per step."""
        return rng.standard_normal(size=shape)

    def sample(self, noise: Array) -> Array:
        return self.mean + _exp(self.log_std) * noise

    def mode(self) -> Array:
        return self.mean

    def log_prob(self, actions: Array) -> Array:
        z = (actions - self.mean) * _exp(-self.log_std)
        return -0.5 * _sum(z * z + 2.0 * self.log_std + _LOG_2_PI)

    def entropy(self) -> Array:
        return _sum(self.log_std + 0.5 * (1.0 + _LOG_2_PI))

    def kl(self, other: DiagonalGaussian) -> Array:
        ratio = _exp(2.0 * (self.log_std - other.log_std))
        z = (self.mean - other.mean) * _exp(-other.log_std)
        return _sum(other.log_std - self.log_std + 0.5 * (ratio + z * z - 1.0))


# keras.ops is NumPy's vocabulary over tensors, but costs a hundred times NumPy's time on small
# arrays; these few words are all the formulas above need of either.


def _is_tensor(x: Array) -> bool:
    return not isinstance(x, (np.ndarray, np.generic))


def _exp(x: Array) -> Array:
    return tf.exp(x) if _is_tensor(x) else np.exp(x)


def _softplus(x: Array) -> Array:
    return tf.nn.softplus(x) if _is_tensor(x) else np.logaddexp(x, 0)


def _sigmoid(x: Array) -> Array:
    return tf.sigmoid(x) if _is_tensor(x) else 0.5 * (1 + np.tanh(0.5 * x))


def _log_softmax(x: Array) -> Array:
    if _is_tensor(x):
        return tf.nn.log_softmax(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _sum(x: Array) -> Array:
    return tf.reduce_sum(x, axis=-1) if _is_tensor(x) else x.sum(axis=-1)


def _argmax(x: Array) -> Array:
    return tf.argmax(x, axis=-1) if _is_tensor(x) else x.argmax(axis=-1)


def _as_integer(x: Array) -> Array:
    return tf.cast(x, tf.int64) if _is_tensor(x) else x.astype(np.int64)


def _signs(actions: Array, like: Array) -> Array:
    if _is_tensor(like):
        return 2 * tf.cast(actions, like.dtype) - 1
    return 2 * np.asarray(actions, like.dtype) - 1


def _take(table: Array, index: Array) -> Array:
    if _is_tensor(table):
        return tf.gather(table, tf.cast(index, tf.int64), axis=-1, batch_dims=table.shape.rank - 1)
    return np.take_along_axis(table, np.asarray(index)[..., None], axis=-1)[..., 0]
