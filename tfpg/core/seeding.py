"""Randomness derived from a run's seed and a counter, never carried along.

Episode ``e`` of a run has a generator of its own, so what happens in it depends on the seed,
on ``e`` and on the weights, and not on how many environments play side by side. Its first
integer below 2**31 seeds the environment's reset; the action noise follows.

Environments that Gymnasium vectorizes itself (``CartPole-v1``) have one generator for all their
resets: there the number of environments is part of what a seed means.
"""

from __future__ import annotations

import numpy as np


def check_seed(seed: int | None) -> int:
    """Returns the seed, or a fresh one for None.

    Raises:
        ValueError: It is not an integer of at least 0.

    Example:
        >>> check_seed(42)
        42
    """
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, and it is {seed!r}.")
    return int(seed)


def training_rng(seed: int, episode: int) -> np.random.Generator:
    """The generator of one training episode.

    Example:
        >>> int(training_rng(1, 0).integers(2**31)) == int(training_rng(1, 0).integers(2**31))
        True
    """
    return np.random.default_rng([seed, episode])


def evaluation_rng(seed: int, episode: int) -> np.random.Generator:
    """The generator of one episode of an evaluation or a film: other numbers than in training.

    Example:
        >>> training_rng(1, 0).random() == evaluation_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, episode, 1])


def fragment_rng(seed: int, fragment: int) -> np.random.Generator:
    """The generator of the action noise of one fragment of steps, for all its environments.

    Example:
        >>> fragment_rng(1, 0).random() == training_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, fragment, 2])


def shuffle_rng(seed: int, fragment: int) -> np.random.Generator:
    """The generator of the order in which a fragment's steps are learned from.

    Example:
        >>> shuffle_rng(1, 0).random() == fragment_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, fragment, 3])


def reset_seed(rng: np.random.Generator) -> int:
    """The seed of an environment's reset: the first number drawn from an episode's generator."""
    return int(rng.integers(2**31))
