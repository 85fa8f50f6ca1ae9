"""Functions that return a `keras.Model`. Nothing in tfpg requires them: any Keras model will do.

They use Keras's built-in layers and operations only, so what they make is loaded by plain Keras,
without tfpg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.backend import keras
from tfpg.envs import EnvLike, spaces_of
from tfpg.models.normalization import statistics_layer
from tfpg.models.observations import check_space, input_dtype, input_shape

Spaces = tuple[gymnasium.Space, gymnasium.Space]

# Normalized observations further from their mean than this many standard deviations are clipped.
_CLIP = 10.0
# nature_cnn's convolutions leave nothing of a smaller one.
_SMALLEST_IMAGE = 36


def mlp(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    normalize: bool = False,
    log_std: float = 0.0,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """A policy: a stack of Dense layers from the observations of ``env`` to its actions.

    The outputs are those of `tfpg.models.heads`; a `Box` of D numbers gets 2D, D means and D log
    standard deviations. The latter are free weights that do not depend on the observation.

    Args:
        env: An environment id, environment, vector environment or callable making one; or its
            ``(observation_space, action_space)``.
        hidden: Units of the hidden layers.
        activation: Activation of the hidden layers, by Keras's name.
        normalize: Begin with a layer that standardizes real-valued observations by running
            statistics, which agents update while they train; see `tfpg.models.normalization`.
        log_std: Where the log standard deviation of a `Box` action begins.
        seed: Seed of the initial weights. None: Keras's own (`keras.utils.set_random_seed`).
        name: Name of the model.

    Returns:
        A Keras model, not compiled, ``inputs [B, ...] -> [B, K]``. `tfpg.models.observations` says
        what the inputs are: a `Dict` observation gets a named input for each key, of which images
        are scaled to [0, 1].

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
    observation_space, action_space = _spaces(env)
    dense = _dense_maker(seed)
    inputs, x = _features(observation_space, normalize)
    x = _stack(x, hidden, activation, dense)
    return keras.Model(inputs, _policy_output(x, action_space, log_std, dense), name=name)


def critic(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    normalize: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """A value network: like `mlp`, with one output, the value of the observation.

    Returns:
        A Keras model, not compiled, ``inputs [B, ...] -> [B, 1]``.

    Example:
        >>> critic("CartPole-v1").output_shape
        (None, 1)
    """
    dense = _dense_maker(seed)
    inputs, x = _features(_spaces(env)[0], normalize)
    return keras.Model(inputs, dense(1, 1.0)(_stack(x, hidden, activation, dense)), name=name)


def actor_critic(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    shared: bool = False,
    normalize: bool = False,
    log_std: float = 0.0,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """A policy and the value of its observations in one model of two outputs.

    Args:
        env: See `mlp`.
        hidden: Units of the hidden layers, of each of the two stacks.
        activation: Activation of the hidden layers, by Keras's name.
        shared: One stack of hidden layers for both outputs, not a stack each.
        normalize: See `mlp`.
        log_std: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        A Keras model, not compiled, ``inputs [B, ...] -> [[B, K], [B, 1]]``.

    Source:
        Stacks of their own: Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990.

    Example:
        >>> actor_critic("CartPole-v1").output_shape
        [(None, 2), (None, 1)]
    """
    observation_space, action_space = _spaces(env)
    dense = _dense_maker(seed)
    inputs, features = _features(observation_space, normalize)
    x = v = _stack(features, hidden, activation, dense)
    if not shared:
        v = _stack(features, hidden, activation, dense)
    outputs = [_policy_output(x, action_space, log_std, dense), dense(1, 1.0)(v)]
    return keras.Model(inputs, outputs, name=name)


def dueling(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    *,
    normalize: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """A Q-network of two streams, the value of the observation and the actions' advantages.

    ``Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)``. The streams share all hidden layers but the last.

    Args:
        env: See `mlp`; its actions are `Discrete`.
        hidden: Units of the hidden layers, at least one.
        activation: Activation of the hidden layers, by Keras's name.
        normalize: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        A Keras model, not compiled, ``inputs [B, ...] -> [B, A]``.

    Raises:
        ValueError: The actions are not `Discrete`, or ``hidden`` is empty.

    Source:
        Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", 2016,
        https://arxiv.org/abs/1511.06581.

    Example:
        >>> dueling("CartPole-v1", hidden=(32,)).output_shape
        (None, 2)
    """
    observation_space, action_space = _spaces(env)
    if not hidden:
        raise ValueError("hidden must hold a layer or more for the streams, and it is empty.")
    dense = _dense_maker(seed)
    inputs, x = _features(observation_space, normalize)
    x = _stack(x, hidden[:-1], activation, dense)

    def stream(units: int) -> Any:
        return dense(units, 1.0)(_stack(x, hidden[-1:], activation, dense))

    return keras.Model(inputs, _dueling(stream, action_space), name=name)


def nature_cnn(
    env: EnvLike | Spaces,
    hidden: int = 512,
    *,
    dueling: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """The convolutional network of the DQN paper: from frames to a number for each action.

    Args:
        env: See `mlp`; its observations are stacked frames, its actions `Discrete`.
        hidden: Units of the layer before the last.
        dueling: Two of that layer, in streams for the value and the advantages; see `dueling`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        A Keras model, not compiled, ``inputs [B, height, width, frames] uint8 -> [B, K]``, which
        scales the frames to [0, 1]. The K outputs are linear: action values, or logits.

    Raises:
        ValueError: Observations are no images of at least 36x36, or actions not `Discrete`.

    Source:
        Mnih et al., "Human-level control through deep reinforcement learning", 2015,
        https://www.nature.com/articles/nature14236; weights by He et al., 2015,
        https://arxiv.org/abs/1502.01852.

    Example:
        >>> model = nature_cnn("ALE/Breakout-v5")
        >>> model.input_shape, model.output_shape, model.count_params()
        ((None, 84, 84, 4), (None, 4), 1686180)
    """
    space, actions = _spaces(env)
    shape = space.shape or ()
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3
    if not image or min(shape[:2]) < _SMALLEST_IMAGE:
        raise ValueError(
            f"nature_cnn is for images, uint8 [height, width, frames] of at least "
            f"{_SMALLEST_IMAGE}x{_SMALLEST_IMAGE}, and these observations are {space}: "
            "networks.mlp is for others."
        )
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(f"nature_cnn is for Discrete actions, and these are {actions}.")
    seeds = np.random.default_rng(seed)

    def he() -> keras.initializers.Initializer:
        return keras.initializers.HeUniform(None if seed is None else int(seeds.integers(2**31)))

    inputs = _input(space, "observations")
    x = keras.layers.Rescaling(1.0 / 255.0)(inputs)
    for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = keras.layers.Conv2D(filters, size, stride, activation="relu", kernel_initializer=he())(
            x
        )
    x = keras.layers.Flatten()(x)

    def stream(units: int) -> Any:
        y = keras.layers.Dense(hidden, activation="relu", kernel_initializer=he())(x)
        return keras.layers.Dense(units, kernel_initializer=he())(y)

    outputs = _dueling(stream, actions) if dueling else stream(int(actions.n))
    return keras.Model(inputs, outputs, name=name)


def _spaces(env: EnvLike | Spaces) -> Spaces:
    observation_space, action_space = env if isinstance(env, tuple) else spaces_of(env)
    check_space(observation_space)
    return observation_space, action_space


def _dense_maker(seed: int | None) -> Callable[..., keras.layers.Layer]:
    layer_seeds = np.random.default_rng(seed)

    def dense(units: int, gain: float, activation: str | None = None) -> keras.layers.Layer:
        layer_seed = None if seed is None else int(layer_seeds.integers(2**31))
        initializer = keras.initializers.Orthogonal(gain, seed=layer_seed)
        return keras.layers.Dense(units, activation=activation, kernel_initializer=initializer)

    return dense


def _features(space: gymnasium.Space, normalize: bool) -> tuple[Any, Any]:
    """The model's inputs, and all of them as one vector."""
    if isinstance(space, spaces.Dict):
        inputs = {key: _input(part, key) for key, part in space.items()}
        vectors = [_vector(inputs[key], part, normalize, key) for key, part in space.items()]
        return inputs, vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors)
    x = _input(space, "observations")
    return x, _vector(x, space, normalize, "observation")


def _input(space: gymnasium.Space, name: str) -> Any:
    dtype = input_dtype(space)
    # Keras casts real numbers to its own precision; integers, images above all, stay small.
    return keras.Input(input_shape(space), name=name, dtype=None if dtype.kind == "f" else dtype)


def _vector(x: Any, space: gymnasium.Space, normalize: bool, name: str) -> Any:
    if space.dtype == np.uint8 and isinstance(space, spaces.Box):
        x = keras.layers.Rescaling(1.0 / 255.0)(x)
    if len(input_shape(space)) != 1:
        x = keras.layers.Flatten()(x)
    if normalize and isinstance(space, spaces.Box) and space.dtype != np.uint8:
        x = keras.ops.clip(statistics_layer(name)(x), -_CLIP, _CLIP)
    return x


def _stack(x: Any, hidden: Sequence[int], activation: str, dense: Callable) -> Any:
    if any(not isinstance(units, (int, np.integer)) or units < 1 for units in hidden):
        raise ValueError(f"hidden must hold positive integers, and it is {tuple(hidden)!r}.")
    for units in hidden:
        x = dense(units, np.sqrt(2.0), activation)(x)
    return x


def _dueling(stream: Callable[[int], Any], space: gymnasium.Space) -> Any:
    """The Q-values of two streams, each made by its number of outputs."""
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"Q-values are of Discrete actions, and these are {space}: tfpg.Reinforce, tfpg.A2C "
            "and tfpg.PPO learn them, with networks.mlp."
        )
    value, advantages = stream(1), stream(int(space.n))
    return value + advantages - keras.ops.mean(advantages, axis=-1, keepdims=True)


def _policy_output(x: Any, space: gymnasium.Space, log_std: float, dense: Callable) -> Any:
    if isinstance(space, spaces.Discrete):
        return dense(int(space.n), 0.01)(x)
    if isinstance(space, spaces.MultiDiscrete):
        return dense(int(space.nvec.sum()), 0.01)(x)
    if isinstance(space, spaces.MultiBinary):
        return dense(int(np.prod(space.shape)), 0.01)(x)
    if not isinstance(space, spaces.Box):
        raise ValueError(
            "Policies are for Discrete, MultiDiscrete, MultiBinary and Box actions, and these are "
            f"{space}."
        )
    dims = int(np.prod(space.shape))
    # Plain Keras has no free-weight layer; the bias of a Dense behind zeros is one.
    free = keras.layers.Dense(
        dims,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(log_std),
        name="log_std",
    )
    zeros = keras.layers.Rescaling(0.0)(x)
    return keras.layers.Concatenate()([dense(dims, 0.01)(x), free(zeros)])
