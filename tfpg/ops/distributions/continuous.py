"""Distributions over real actions."""

from __future__ import annotations

import math

import numpy as np

from tfpg.ops.distributions import numeric as xp
from tfpg.ops.distributions.numeric import Array

_LOG_2_PI = math.log(2.0 * math.pi)


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
        return self.mean + xp.exp(self.log_std) * noise

    def mode(self) -> Array:
        return self.mean

    def log_prob(self, actions: Array) -> Array:
        z = (actions - self.mean) * xp.exp(-self.log_std)
        return -0.5 * xp.sum(z * z + 2.0 * self.log_std + _LOG_2_PI)

    def entropy(self) -> Array:
        return xp.sum(self.log_std + 0.5 * (1.0 + _LOG_2_PI))

    def kl(self, other: DiagonalGaussian) -> Array:
        ratio = xp.exp(2.0 * (self.log_std - other.log_std))
        z = (self.mean - other.mean) * xp.exp(-other.log_std)
        return xp.sum(other.log_std - self.log_std + 0.5 * (ratio + z * z - 1.0))


class SquashedGaussian:
    """Bounded actions of D dimensions: independent normals through a tanh, stretched to the bounds.

    The action is ``a = low + (high - low) (tanh(u) + 1) / 2`` with ``u`` normal, and its density

        log p(a) = log N(u) - sum(log((high - low) / 2) + log(1 - tanh(u)^2)).

    Actions are held as ``u``, before the tanh, so that nothing is lost however close they come to
    a bound: `sample` and `mode` return it, `log_prob` takes it, and `squash` makes ``a`` of it.

    The entropy has no closed form; it is integrated over 97 points, to 1e-9 nats for standard
    deviations (of u) up to 2.5 and to 1e-5 up to 5. ``mode`` is the median of the actions: their
    density may have its peaks at the bounds.

    Args:
        mean: ``[B, D]``, of u.
        log_std: ``[B, D]``, of u.
        low: ``[D]``, finite.
        high: ``[D]``, finite, above ``low``.

    Source:
        Haarnoja et al., "Soft Actor-Critic", 2018, https://arxiv.org/abs/1801.01290, appendix C.

    Example:
        >>> import numpy as np
        >>> low, high = np.array([0.0]), np.array([10.0])
        >>> policy = SquashedGaussian(np.array([[0.0]]), np.array([[0.0]]), low, high)
        >>> policy.squash(policy.mode()), policy.log_prob(policy.mode()).round(4)
        (array([[5.]]), array([-2.5284]))
        >>> policy.sample(SquashedGaussian.noise(np.random.default_rng(0), (1, 1))).shape
        (1, 1)
    """

    def __init__(self, mean: Array, log_std: Array, low: np.ndarray, high: np.ndarray):
        self.mean = mean
        self.log_std = log_std
        self.low = low
        self.high = high
        self._base = DiagonalGaussian(mean, log_std)

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal noise of this shape: D numbers per step."""
        return rng.standard_normal(size=shape)

    def sample(self, noise: Array) -> Array:
        return self._base.sample(noise)

    def mode(self) -> Array:
        return self._base.mode()

    def squash(self, actions: Array) -> Array:
        """The actions ``[B, D]`` within the bounds."""
        tanh = xp.tanh(actions)
        half = xp.like((self.high - self.low) / 2, actions)
        # Rounding may step over a bound that the environment checks.
        bounded = xp.like(self.low, actions) + half * (tanh + 1)
        return xp.clip(bounded, xp.like(self.low, actions), xp.like(self.high, actions))

    def log_prob(self, actions: Array) -> Array:
        return self._base.log_prob(actions) - xp.sum(self._log_slope(actions))

    def entropy(self) -> Array:
        # The trapezoidal rule converges exponentially on what is analytic and falls off.
        z = np.linspace(-8.0, 8.0, 97)
        weights = np.exp(-0.5 * z * z)
        weights = xp.like(weights / weights.sum(), self.mean)
        spread = xp.exp(self.log_std)[..., None] * xp.like(z, self.mean)
        slopes = _log_tanh_slope(self.mean[..., None] + spread)
        half = xp.like(np.log((self.high - self.low) / 2), self.mean)
        return self._base.entropy() + xp.sum(half + xp.sum(weights * slopes))

    def kl(self, other: SquashedGaussian) -> Array:
        return self._base.kl(other._base)

    def _log_slope(self, actions: Array) -> Array:
        half = xp.like(np.log((self.high - self.low) / 2), actions)
        return half + _log_tanh_slope(actions)


def _log_tanh_slope(u: Array) -> Array:
    # log(1 - tanh(u)^2), which rounds to log 0 beyond |u| = 9 in float32 when written so.
    return 2.0 * (math.log(2.0) - u - xp.softplus(-2.0 * u))
