"""Action distributions, written once for NumPy arrays (acting) and tensors (learning).

Their parameters decide: a distribution of NumPy arrays answers in NumPy, one of tensors in
tensors, by the same formulas. A distribution is immutable. Event dimensions are summed, so
``log_prob``, ``entropy`` and ``kl`` are ``[B]``.

Sampling is a pure function of noise that somebody else drew: ``sample(noise)`` with noise from
``noise(rng, shape)``. Whatever computed the parameters, equal noise gives equal actions.
"""

from __future__ import annotations

from typing import Any, Protocol

from tfpg.ops.distributions.continuous import DiagonalGaussian, SquashedGaussian
from tfpg.ops.distributions.discrete import (
    Bernoulli,
    Categorical,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
)
from tfpg.ops.distributions.numeric import Array

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalGaussian",
    "Distribution",
    "EpsilonGreedy",
    "MultiBinary",
    "MultiCategorical",
    "SquashedGaussian",
]


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
