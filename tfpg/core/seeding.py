"""Random generators derived from a run's seed and a counter, so that no state is carried along.

Each episode of a run has its own generator. A whole episode depends on the seed, its number and the
weights, but not on the number of environments that play in parallel. The first integer below 2**31
that the generator draws is the seed of the environment's reset; the action noise follows.

Where fragments of steps are played, the generator of an episode depends on the environment and how
many episodes it has begun, and the noise comes from a generator for each fragment and block of
environments. So it does not matter which environments a process plays in.

Environments that Gymnasium vectorizes itself (``CartPole-v1``) have one generator for all their
resets. For them, the episodes of a seed depend on the number of environments.
"""

from __future__ import annotations

import numpy as np


def check_seed(seed: int | None) -> int:
    """Return the seed, or a new one for None.

    Raises:
        ValueError: It is not an integer of at least 0.

    Example:
        >>> check_seed(42)
        42
    """
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, but it is {seed!r}.")
    return int(seed)


def training_rng(seed: int, episode: int, variant: int = 0) -> np.random.Generator:
    """Return the generator of a training episode.

    Args:
        seed: The run's seed.
        episode: The number of the episode. In fragments, each environment counts its own.
        variant: In fragments, the index of the environment. Otherwise, how many times
            the episode was replaced after a failure.

    Example:
        >>> int(training_rng(1, 0).integers(2**31)) == int(training_rng(1, 0).integers(2**31))
        True
    """
    return np.random.default_rng([seed, episode, 0, variant])


def evaluation_rng(seed: int, episode: int) -> np.random.Generator:
    """Return the generator of an episode of an evaluation or a video.

    Example:
        >>> training_rng(1, 0).random() == evaluation_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, episode, 1])


def fragment_rng(seed: int, fragment: int, block: int = 0) -> np.random.Generator:
    """Return the generator of the action noise of a fragment, for a block of environments.

    Example:
        >>> fragment_rng(1, 0).random() == training_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, fragment, 2, block])


def shuffle_rng(seed: int, fragment: int) -> np.random.Generator:
    """Return the generator of the order or the samples in which a fragment is learned from.

    Example:
        >>> shuffle_rng(1, 0).random() == fragment_rng(1, 0).random()
        False
    """
    return np.random.default_rng([seed, fragment, 3])


def reset_seed(rng: np.random.Generator) -> int:
    """Draw the seed of an environment's reset, the first number of an episode's generator."""
    return int(rng.integers(2**31))
