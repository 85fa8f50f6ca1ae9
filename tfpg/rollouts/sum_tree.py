"""A binary tree of sums, to sample in proportion to many weights and to change some of them."""

from __future__ import annotations

from typing import Any

import numpy as np


class SumTree:
    """Weights, and their sums over halves, quarters and so on.

    Sampling or setting many weights at once takes a number of NumPy calls that grows with the
    logarithm of the capacity. Each sum is computed from its two halves again, so rounding errors
    do not accumulate.

    Args:
        capacity: Number of weights.

    Source:
        Schaul et al., "Prioritized Experience Replay", 2016, https://arxiv.org/abs/1511.05952,
        appendix B.2.1.

    Example:
        >>> tree = SumTree(5)
        >>> tree.set(np.array([1, 4]), np.array([3.0, 1.0]))
        >>> tree.total, tree.find(np.array([0.0, 2.9, 3.0, 3.9])).tolist()
        (4.0, [1, 1, 4, 4])
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._leaves = _leaves(capacity)
        self._sums = np.zeros(2 * self._leaves)

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """Return the memory of a tree."""
        return 2 * 8 * _leaves(capacity)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """Return the weights at ``indices [B]``."""
        return self._sums[self._leaves + indices]

    def set(self, indices: np.ndarray, weights: Any) -> None:
        """Set the weights at ``indices [B]``, at least 0. Of equal indices the last one counts."""
        nodes = self._leaves + indices
        self._sums[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            if len(nodes) > 64:
                nodes = np.unique(nodes)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, sums: np.ndarray) -> np.ndarray:
        """Return the first index whose cumulative weight exceeds each of ``sums [B]``.

        With sums uniform in ``[0, total)``, the probability of an index is in proportion to its
        weight. An index of weight 0 is never found.
        """
        nodes = np.ones(len(sums), np.int64)
        left_over = np.array(sums, np.float64)
        while nodes[0] < self._leaves:
            nodes = 2 * nodes
            left = self._sums[nodes]
            # After rounding more may be left over than there is: never go where there is nothing.
            right = (left_over >= left) & (self._sums[nodes + 1] > 0)
            left_over -= np.where(right, left, 0.0)
            nodes += right
        return nodes - self._leaves


def _leaves(capacity: int) -> int:
    return 1 << max(capacity - 1, 1).bit_length()
