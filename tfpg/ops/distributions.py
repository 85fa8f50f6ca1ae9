"""Action distributions, written once for NumPy arrays (acting) and tensors (learning).

A distribution with NumPy parameters returns arrays, and one with tensors returns tensors, by the
same formulas. Event dimensions are summed, so ``log_prob`` and ``entropy`` have shape ``[B]``.

A logit or Q-value of minus infinity belongs to an invalid action, whose probability is 0, also in
random exploration.

Samples are a function of noise that the caller draws: ``sample(noise)``, with noise from
``noise(rng, shape)``, where ``rng`` is a NumPy generator, or a seed ``[2]`` int64 for a tensor.
Equal noise gives equal actions, however the parameters were computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tfpg.ops import numeric as xp
from tfpg.ops.numeric import Array

_LOG_2_PI = math.log(2.0 * math.pi)
_INVALID = -math.inf


class Distribution(Protocol):
    """The methods of every action distribution.

    ``sample(noise)`` and ``mode()`` return actions ``[B, ...]``. ``log_prob(actions)`` and
    ``entropy()`` return ``[B]``, in nats.
    """

    def sample(self, noise: Array) -> Array: ...

    def mode(self) -> Array: ...

    def log_prob(self, actions: Array) -> Array: ...

    def entropy(self) -> Array: ...


class Bernoulli:
    """Two actions, 0 and 1, with ``P(action 1) = sigmoid(logit)``.

    Args:
        logits: ``[B]``.

    Source:
        Comparing a logit with logistic noise draws by the inverse CDF; see Maddison, Mnih and Teh,
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
    def noise(rng: Any, shape: tuple[int, ...]) -> Array:
        """Return standard logistic noise, one number per action."""
        return xp.logistic(rng, shape)

    def sample(self, noise: Array) -> Array:
        return xp.as_integer(noise < self.logits)

    def mode(self) -> Array:
        return xp.as_integer(self.logits > 0)

    def log_prob(self, actions: Array) -> Array:
        # log sigmoid(x) = -softplus(-x), and P(0) = sigmoid(-x).
        signs = 2 * xp.like(actions, self.logits) - 1
        return -xp.softplus(-signs * self.logits)

    def entropy(self) -> Array:
        return xp.softplus(self.logits) - self.logits * xp.sigmoid(self.logits)


class MultiBinary:
    """D independent bits, with ``P(bit d is 1) = sigmoid(logits[d])``.

    Args:
        logits: ``[B, D]``.

    Source:
        The product of independent `Bernoulli` distributions.

    Example:
        >>> import numpy as np
        >>> bits = MultiBinary(np.array([[0.0, 2.0, -2.0]]))
        >>> bits.mode(), bits.log_prob(np.array([[1, 1, 0]])).round(4)
        (array([[0, 1, 0]]), array([-0.947]))
        >>> bits.sample(MultiBinary.noise(np.random.default_rng(0), (1, 3)))
        array([[0, 1, 1]])
    """

    noise = staticmethod(Bernoulli.noise)

    def __init__(self, logits: Array):
        self.logits = logits
        self._bits = Bernoulli(logits)

    def sample(self, noise: Array) -> Array:
        return self._bits.sample(noise)

    def mode(self) -> Array:
        return self._bits.mode()

    def log_prob(self, actions: Array) -> Array:
        return xp.sum(self._bits.log_prob(actions))

    def entropy(self) -> Array:
        return xp.sum(self._bits.entropy())


class Categorical:
    """One of A actions, with probabilities ``softmax(logits)``.

    Args:
        logits: ``[B, A]``. They need not be normalized. Those of invalid actions are ``-inf``.

    Source:
        The largest sum of a logit and Gumbel noise is a sample: Maddison, Tarlow and Minka,
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
    def noise(rng: Any, shape: tuple[int, ...]) -> Array:
        """Return standard Gumbel noise, A numbers per action."""
        return xp.gumbel(rng, shape)

    def sample(self, noise: Array) -> Array:
        return xp.argmax(self.logits + noise)

    def mode(self) -> Array:
        return xp.argmax(self.logits)

    def log_prob(self, actions: Array) -> Array:
        return xp.take(xp.log_softmax(self.logits), actions)

    def entropy(self) -> Array:
        log_probs = xp.log_softmax(self.logits)
        # 0 log 0 is 0, and its gradient must not be NaN.
        finite = xp.where(log_probs > _INVALID, log_probs, xp.zeros_like(log_probs))
        return -xp.sum(xp.exp(log_probs) * finite)


class MultiCategorical:
    """D independent choices, each with a softmax over its own group of logits.

    Args:
        logits: ``[B, sum(choices)]``, one group after another.
        choices: The number of options, and so of logits, of each choice.

    Source:
        The product of independent `Categorical` distributions.

    Example:
        >>> import numpy as np
        >>> pair = MultiCategorical(np.log([[0.5, 0.25, 0.25, 0.1, 0.9]]), (3, 2))
        >>> pair.mode(), np.exp(pair.log_prob(np.array([[0, 1]])))
        (array([[0, 1]]), array([0.45]))
        >>> pair.sample(MultiCategorical.noise(np.random.default_rng(0), (1, 5))).shape
        (1, 2)
    """

    noise = staticmethod(Categorical.noise)

    def __init__(self, logits: Array, choices: Sequence[int]):
        self.logits = logits
        self.choices = tuple(choices)

    def groups(self) -> list[Categorical]:
        """Return the distribution of each choice."""
        ends = np.cumsum(self.choices)
        return [
            Categorical(self.logits[..., end - n : end])
            for end, n in zip(ends, self.choices, strict=True)
        ]

    def sample(self, noise: Array) -> Array:
        return MultiCategorical(self.logits + noise, self.choices).mode()

    def mode(self) -> Array:
        return xp.stack([group.mode() for group in self.groups()])

    def log_prob(self, actions: Array) -> Array:
        return sum(group.log_prob(actions[..., d]) for d, group in enumerate(self.groups()))

    def entropy(self) -> Array:
        return sum(group.entropy() for group in self.groups())


class EpsilonGreedy:
    """The action with the largest value, or, with probability epsilon, a uniformly random one.

    Args:
        q_values: ``[B, A]``.
        epsilon: In [0, 1].
        masked: Whether Q-values may be minus infinity, for invalid actions.

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, section 2.2.

    Example:
        >>> import numpy as np
        >>> greedy = EpsilonGreedy(np.array([[1.0, 3.0]]), epsilon=0.1)
        >>> greedy.mode(), np.exp(greedy.log_prob(np.array([0]))).round(4)
        (array([1]), array([0.05]))
        >>> greedy.sample(np.array([[0.05, 0.2]]))  # explores, and draws the first action
        array([0])
    """

    def __init__(self, q_values: Array, epsilon: float, masked: bool = False):
        self.q_values = q_values
        self.epsilon = epsilon
        self.masked = masked

    @staticmethod
    def noise(rng: Any, shape: tuple[int, ...]) -> Array:
        """Return uniform noise in [0, 1), two numbers per action."""
        return xp.uniform(rng, shape)

    def sample(self, noise: Array) -> Array:
        explores, position = noise[..., 0] < self.epsilon, noise[..., 1]
        count: Any = self.q_values.shape[-1]
        if self.masked:
            valid = xp.cumsum(xp.as_integer(self.q_values > _INVALID))
            count = valid[..., -1]
            position = position * xp.like(count, noise)
        else:
            position = position * count
        # Casting the noise to float32 can round it up to 1.
        drawn = xp.minimum(xp.as_integer(position), count - 1)
        if self.masked:  # the action after so many valid ones
            drawn = xp.sum(xp.as_integer(valid <= drawn[..., None]))
        return xp.where(explores, drawn, self.mode())

    def mode(self) -> Array:
        return xp.argmax(self.q_values)

    def log_prob(self, actions: Array) -> Array:
        return xp.take(xp.log(self._probabilities()), actions)

    def entropy(self) -> Array:
        probabilities = self._probabilities()
        return -xp.sum(probabilities * xp.log(probabilities))

    def _probabilities(self) -> Array:
        count = self.q_values.shape[-1]
        greedy = xp.like(xp.one_hot(self.mode(), count), self.q_values)
        explored: Any = 1 / count
        if self.masked:
            valid = xp.like(self.q_values > _INVALID, self.q_values)
            explored = valid / xp.sum(valid)[..., None]
        return greedy * (1 - self.epsilon) + self.epsilon * explored


class DiagonalGaussian:
    """Real actions of D dimensions, each from an independent normal distribution.

    ``log p(x) = -0.5 * sum(((x - mean) / std)^2 + 2 log std + log 2 pi)``.

    Args:
        mean: ``[B, D]``.
        log_std: ``[B, D]``, the logarithm of the standard deviation, not of the variance.

    Source:
        Williams, 1992, section 6, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import numpy as np
        >>> normal = DiagonalGaussian(np.array([[0.0, 1.0]]), np.zeros((1, 2)))
        >>> normal.mode(), normal.log_prob(np.array([[0.0, 1.0]])).round(4)
        (array([[0., 1.]]), array([-1.8379]))
        >>> normal.sample(DiagonalGaussian.noise(np.random.default_rng(0), (1, 2))).shape
        (1, 2)
    """

    def __init__(self, mean: Array, log_std: Array):
        self.mean = mean
        self.log_std = log_std

    @staticmethod
    def noise(rng: Any, shape: tuple[int, ...]) -> Array:
        """Return standard normal noise, D numbers per action."""
        return xp.normal(rng, shape)

    def sample(self, noise: Array) -> Array:
        return self.mean + xp.exp(self.log_std) * noise

    def mode(self) -> Array:
        return self.mean

    def log_prob(self, actions: Array) -> Array:
        z = (actions - self.mean) * xp.exp(-self.log_std)
        return -0.5 * xp.sum(z * z + 2.0 * self.log_std + _LOG_2_PI)

    def entropy(self) -> Array:
        return xp.sum(self.log_std + 0.5 * (1.0 + _LOG_2_PI))


class SquashedGaussian(DiagonalGaussian):
    """Bounded actions of D dimensions: normals through a tanh, scaled to the bounds.

    The action is ``a = low + (high - low) (tanh(u) + 1) / 2`` with ``u`` normal. Its density is::

        log p(a) = log N(u) - sum(log((high - low) / 2) + log(1 - tanh(u)^2)).

    Actions are represented by ``u``, the value before the tanh, so that no precision is lost near
    the bounds: `sample` and `mode` return ``u``, `log_prob` takes it, and `squash` turns it into
    ``a``.

    The entropy has no closed form. It is integrated numerically over 97 points, with an error of
    1e-9 nats for standard deviations of u up to 2.5, and 1e-5 up to 5. ``mode`` is the median of
    the actions, because the density may peak at the bounds.

    Args:
        mean: ``[B, D]``, of u.
        log_std: ``[B, D]``, of u.
        low: ``[D]``, finite.
        high: ``[D]``, finite and above ``low``.

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
        super().__init__(mean, log_std)
        self.low = low
        self.high = high

    def squash(self, actions: Array) -> Array:
        """Return the actions ``[B, D]`` within the bounds."""
        low, high = xp.like(self.low, actions), xp.like(self.high, actions)
        half = xp.like((self.high - self.low) / 2, actions)
        # Rounding can overstep a bound, and environments check their bounds.
        return xp.clip(low + half * (xp.tanh(actions) + 1), low, high)

    def log_prob(self, actions: Array) -> Array:
        return super().log_prob(actions) - xp.sum(self._log_half() + _log_tanh_slope(actions))

    def entropy(self) -> Array:
        # The trapezoidal rule converges exponentially for smooth functions that vanish at the ends.
        z = np.linspace(-8.0, 8.0, 97)
        weights = np.exp(-0.5 * z * z)
        weights = xp.like(weights / weights.sum(), self.mean)
        u = self.mean[..., None] + xp.exp(self.log_std)[..., None] * xp.like(z, self.mean)
        slope = xp.sum(weights * _log_tanh_slope(u))
        return super().entropy() + xp.sum(self._log_half() + slope)

    def _log_half(self) -> Array:
        return xp.like(np.log((self.high - self.low) / 2), self.mean)


def with_one_valid(mask: Array, choices: Sequence[int]) -> Array:
    """Return which options are valid: those of a mask, or all of a choice where it has none.

    Observations after the end of an episode may have none, and nothing depends on them. But a
    softmax over nothing would be NaN.

    Args:
        mask: ``[..., sum(choices)]``, 0 or False for an option that is not valid.
        choices: The number of options of each choice.

    Returns:
        ``[..., sum(choices)]`` bool.

    Example:
        >>> import numpy as np
        >>> with_one_valid(np.array([[0, 1, 0, 0]]), (2, 2)).tolist()
        [[False, True, True, True]]
    """
    valid, parts = xp.cast(mask, np.float32) > 0, []  # LiteRT cannot compare bytes
    for end, n in zip(np.cumsum(choices), choices, strict=True):
        part = valid[..., end - n : end]
        parts.append(part | ~xp.any(part)[..., None])
    return parts[0] if len(parts) == 1 else xp.concatenate(parts)


def _log_tanh_slope(u: Array) -> Array:
    # log(1 - tanh(u)^2). Written like that, it would be log 0 in float32 beyond |u| = 9.
    return 2.0 * (math.log(2.0) - u - xp.softplus(-2.0 * u))
