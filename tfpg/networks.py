"""Functions that return a `keras.Model`. Nothing in tfpg requires them: any Keras model will do.

They use Keras's built-in layers only, so what they make is loaded by plain Keras, without tfpg.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.envs import EnvLike, spaces_of


def mlp(
    env: EnvLike | tuple[gymnasium.Space, gymnasium.Space],
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    log_std: float = 0.0,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """A stack of Dense layers from the observations of ``env`` to a head for its actions.

    ``Discrete(A)`` gets A logits. ``Box(D)`` gets 2D outputs, D means and D log standard
    deviations; the latter are free weights that do not depend on the observation.

    Args:
        env: An environment id, environment, vector environment or callable making one; or its
            ``(observation_space, action_space)``. Observations must be a `Box`.
        hidden: Units of the hidden layers.
        activation: Activation of the hidden layers, by Keras's name.
        log_std: Where the log standard deviation of a `Box` action begins.
        seed: Seed of the initial weights. None: Keras's own (`keras.utils.set_random_seed`).
        name: Name of the model.

    Returns:
        A Keras model, not compiled: ``[B, *observation] -> [B, A]`` or ``[B, 2D]``.

    Raises:
        ValueError: The spaces are of another kind, or ``hidden`` is not positive integers.

    Source:
        Small last layers for policies: Andrychowicz et al., "What Matters In On-Policy
        Reinforcement Learning?", 2021, https://arxiv.org/abs/2006.05990.

    Example:
        >>> model = mlp("CartPole-v1", hidden=(20, 10), activation="elu")
        >>> model.input_shape, model.output_shape
        ((None, 4), (None, 2))
    """
    observation_space, action_space = env if isinstance(env, tuple) else spaces_of(env)
    if not isinstance(observation_space, spaces.Box):
        raise ValueError(f"mlp takes Box observations, and these are {observation_space}.")
    if any(not isinstance(units, (int, np.integer)) or units < 1 for units in hidden):
        raise ValueError(f"hidden must hold positive integers, and it is {tuple(hidden)!r}.")
    layer_seeds = np.random.default_rng(seed)

    def dense(units: int, gain: float, activation: str | None = None) -> keras.layers.Layer:
        layer_seed = None if seed is None else int(layer_seeds.integers(2**31))
        initializer = keras.initializers.Orthogonal(gain, seed=layer_seed)
        return keras.layers.Dense(units, activation=activation, kernel_initializer=initializer)

    inputs = x = keras.Input(observation_space.shape, name="observations")
    if len(observation_space.shape) != 1:
        x = keras.layers.Flatten()(x)
    for units in hidden:
        x = dense(units, np.sqrt(2.0), activation)(x)
    if isinstance(action_space, spaces.Discrete):
        outputs = dense(int(action_space.n), 0.01)(x)
    elif isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        dims = action_space.shape[0]
        # Plain Keras has no free-weight layer; the bias of a Dense behind zeros is one.
        free = keras.layers.Dense(
            dims,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(log_std),
            name="log_std",
        )
        zeros = keras.layers.Rescaling(0.0)(x)
        outputs = keras.layers.Concatenate()([dense(dims, 0.01)(x), free(zeros)])
    else:
        raise ValueError(
            f"mlp makes heads for Discrete(n) and one-dimensional Box actions, and these are "
            f"{action_space}."
        )
    return keras.Model(inputs, outputs, name=name)
