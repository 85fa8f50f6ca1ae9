"""Distributions over finitely many actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfpg.ops.distributions import numeric as xp
from tfpg.ops.distributions.numeric import Array


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
        return xp.as_integer(noise < self.logits)

    def mode(self) -> Array:
        return xp.as_integer(self.logits > 0)

    def log_prob(self, actions: Array) -> Array:
        # log sigmoid(x) = -softplus(-x), and P(0) = sigmoid(-x).
        return -xp.softplus(-xp.signs(actions, self.logits) * self.logits)

    def entropy(self) -> Array:
        return xp.softplus(self.logits) - self.logits * xp.sigmoid(self.logits)

    def kl(self, other: Bernoulli) -> Array:
        difference = self.logits - other.logits
        return (
            xp.softplus(other.logits)
            - xp.softplus(self.logits)
            + xp.sigmoid(self.logits) * difference
        )


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
        return xp.argmax(self.logits + noise)

    def mode(self) -> Array:
        return xp.argmax(self.logits)

    def log_prob(self, actions: Array) -> Array:
        return xp.take(xp.log_softmax(self.logits), actions)

    def entropy(self) -> Array:
        log_probs = xp.log_softmax(self.logits)
        return -xp.sum(xp.exp(log_probs) * log_probs)

    def kl(self, other: Categorical) -> Array:
        log_probs = xp.log_softmax(self.logits)
        return xp.sum(xp.exp(log_probs) * (log_probs - xp.log_softmax(other.logits)))


class MultiCategorical:
    """D independent choices, the d-th one of ``choices[d]``; a softmax over each group of logits.

    Args:
        logits: ``[B, sum(choices)]``, group after group.
        choices: How many logits belong to each choice.

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

    def __init__(self, logits: Array, choices: Sequence[int]):
        self.logits = logits
        self.choices = tuple(choices)

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard Gumbel noise of this shape: ``sum(choices)`` numbers per step."""
        return rng.gumbel(size=shape)

    def sample(self, noise: Array) -> Array:
        return MultiCategorical(self.logits + noise, self.choices).mode()

    def mode(self) -> Array:
        return xp.stack([xp.argmax(group.logits) for group in self.groups()])

    def log_prob(self, actions: Array) -> Array:
        return sum(group.log_prob(actions[..., d]) for d, group in enumerate(self.groups()))

    def entropy(self) -> Array:
        return sum(group.entropy() for group in self.groups())

    def kl(self, other: MultiCategorical) -> Array:
        pairs = zip(self.groups(), other.groups(), strict=True)
        return sum(p.kl(q) for p, q in pairs)

    def groups(self) -> list[Categorical]:
        """The distribution of each choice."""
        ends = np.cumsum(self.choices)
        return [
            Categorical(self.logits[..., end - n : end])
            for end, n in zip(ends, self.choices, strict=True)
        ]


class MultiBinary:
    """D independent coins, one logit each, ``P(bit d is 1) = sigmoid(logit d)``.

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

    def __init__(self, logits: Array):
        self.logits = logits
        self._coins = Bernoulli(logits)

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard logistic noise of this shape: D numbers per step."""
        return rng.logistic(size=shape)

    def sample(self, noise: Array) -> Array:
        return self._coins.sample(noise)

    def mode(self) -> Array:
        return self._coins.mode()

    def log_prob(self, actions: Array) -> Array:
        return xp.sum(self._coins.log_prob(actions))

    def entropy(self) -> Array:
        return xp.sum(self._coins.entropy())

    def kl(self, other: MultiBinary) -> Array:
        return xp.sum(self._coins.kl(other._coins))


class EpsilonGreedy:
    """The action of the largest value, and with probability epsilon any action, all alike.

    Args:
        q_values: ``[B, A]``.
        epsilon: In [0, 1].

    Source:
        Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, section 2.2.

    Example:
        >>> import numpy as np
        >>> greedy = EpsilonGreedy(np.array([[1.0, 3.0]]), epsilon=0.1)
        >>> greedy.mode(), np.exp(greedy.log_prob(np.array([0])))
        (array([1]), array([0.05]))
        >>> greedy.sample(np.array([[0.05, 0.2]]))  # explores, and draws the first of two
        array([0])
    """

    def __init__(self, q_values: Array, epsilon: float):
        self.q_values = q_values
        self.epsilon = epsilon

    @staticmethod
    def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform noise in [0, 1) of this shape: two numbers per step."""
        return rng.random(shape)

    def sample(self, noise: Array) -> Array:
        count = self.q_values.shape[-1]
        # Noise in float32 may be rounded up to 1.
        drawn = xp.minimum(xp.as_integer(noise[..., 1] * count), count - 1)
        return xp.where(noise[..., 0] < self.epsilon, drawn, self.mode())

    def mode(self) -> Array:
        return xp.argmax(self.q_values)

    def log_prob(self, actions: Array) -> Array:
        return xp.take(xp.log(self._probabilities()), actions)

    def entropy(self) -> Array:
        probabilities = self._probabilities()
        return -xp.sum(probabilities * xp.log(probabilities))

    def kl(self, other: EpsilonGreedy) -> Array:
        probabilities = self._probabilities()
        return xp.sum(probabilities * (xp.log(probabilities) - xp.log(other._probabilities())))

    def _probabilities(self) -> Array:
        count = self.q_values.shape[-1]
        greedy = xp.one_hot(self.mode(), count, self.q_values)
        return greedy * (1 - self.epsilon) + self.epsilon / count
