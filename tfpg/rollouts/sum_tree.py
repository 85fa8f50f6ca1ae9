"""A binary tree of sums, to draw from many weights and to change some of them."""

from __future__ import annotations

from typing import Any

import numpy as np


class SumTree:
    """Weights whose sums over halves, quarters and so on are kept, many at a time.

    Drawing and setting M of them takes a number of NumPy calls that grows with the logarithm of
    the capacity. Every sum is computed anew from its two halves, so rounding does not pile up.

    Args:
        capacity: How many weights.

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
        """Memory of a tree."""
        return 2 * 8 * _leaves(capacity)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """The weights at ``indices [M]``."""
        return self._sums[self._leaves + indices]

    def set(self, indices: np.ndarray, weights: Any) -> None:
        """Sets the weights at ``indices [M]``, at least 0; of equal indices the last counts."""
        nodes = self._leaves + indices
        self._sums[nodes] = weights
        while len(nodes) and nodes[0] > 1:
            nodes = nodes >> 1
            if len(nodes) > 64:
                nodes = np.unique(nodes)
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, sums: np.ndarray) -> np.ndarray:
        """Where the running sum of the weights first exceeds each of ``sums [M]``.

        An index is found with a probability in proportion to its weight when the sums are uniform
        in ``[0, total)``; one whose weight is 0 is never found.
        """
        nodes = np.ones(len(sums), np.int64)
        left_over = np.array(sums, np.float64)
        while nodes[0] < self._leaves:
            nodes = 2 * nodes
            left = self._sums[nodes]
            # Rounding may leave more over than there is: never go where there is nothing.
            right = (left_over >= left) & (self._sums[nodes + 1] > 0)
            left_over -= np.where(right, left, 0.0)
            nodes += right
        return nodes - self._leaves


def _leaves(capacity: int) -> int:
    return 1 << max(capacity - 1, 1).bit_length()
