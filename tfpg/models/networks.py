"""Functions that build a `keras.Model`. They are optional: tfpg works with any Keras model.

They use only built-in Keras layers and operations, so plain Keras loads the models without tfpg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.backend import keras
from tfpg.envs import EnvLike, spaces_of
from tfpg.models.heads import heads_of
from tfpg.models.normalization import statistics_layer
from tfpg.models.observations import check_space, input_dtype, input_shape

Spaces = tuple[gymnasium.Space, gymnasium.Space]

_CLIP = 10.0  # standard deviations at which normalized observations are clipped
_SMALLEST_IMAGE = 36  # nature_cnn's convolutions reduce anything smaller to nothing


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
    """Return a policy: a stack of Dense layers from the observations of ``env`` to its actions.

    The outputs are those of `tfpg.models.heads`. A `Box` of D dimensions gets 2D outputs, D means
    and D log standard deviations. The log standard deviations are weights that do not depend on the
    observation.

    Args:
        env: An environment id, environment, vector environment, or callable that makes one; or its
            ``(observation_space, action_space)``.
        hidden: Units of each hidden layer.
        activation: Keras name of the activation of the hidden layers.
        normalize: Standardize real-valued observations with running statistics in the first layer.
            Agents update them during training; see `tfpg.models.normalization`.
        log_std: Initial log standard deviation of `Box` actions.
        seed: Seed of the initial weights. None: Keras's global seed
            (`keras.utils.set_random_seed`).
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, K]``. The inputs are those of
        `tfpg.models.observations`. A `Dict` observation gets one input for each key, named after
        the key. Images are scaled to [0, 1].

    Raises:
        ValueError: A space is not supported, or ``hidden`` are not positive integers.

    Source:
        Small initial weights in a policy's last layer: Andrychowicz et al., "What Matters In
        On-Policy Reinforcement Learning?", 2021, https://arxiv.org/abs/2006.05990.

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
    """Return a value network: like `mlp`, with a single output, the value of the observation.

    Args:
        env: See `mlp`.
        hidden: Units of each hidden layer.
        activation: Keras name of the activation of the hidden layers.
        normalize: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, 1]``.

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
    """Return a policy and the value of its observations as one model with two outputs.

    Args:
        env: See `mlp`.
        hidden: Units of each hidden layer.
        activation: Keras name of the activation of the hidden layers.
        shared: Use the same hidden layers for both outputs. Otherwise each has its own.
        normalize: See `mlp`.
        log_std: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [[B, K], [B, 1]]``.

    Source:
        Separate hidden layers: Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990.

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
    """Return a Q-network with two streams: the value of the observation, and action advantages.

    ``Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)``. The streams share all hidden layers but the last.

    Args:
        env: See `mlp`. Its actions must be `Discrete`.
        hidden: Units of each hidden layer, at least one.
        activation: Keras name of the activation of the hidden layers.
        normalize: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, A]``.

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
        raise ValueError("hidden must have at least one layer for the streams, but it is empty.")
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
    """Return the convolutional network of the DQN paper, from frames to one output per action.

    Args:
        env: See `mlp`. Its observations must be stacked frames, its actions `Discrete`.
        hidden: Units of the last hidden layer.
        dueling: Use two last hidden layers, one for the value and one for the advantages; see
            `tfpg.networks.dueling`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, height, width, frames] uint8 -> [B, A]``, which
        scales the frames to [0, 1]. The outputs are linear: Q-values or logits.

    Raises:
        ValueError: The observations are not images of at least 36x36, or the actions are not
            `Discrete`.

    Source:
        Mnih et al., "Human-level control through deep reinforcement learning", 2015,
        https://www.nature.com/articles/nature14236; initial weights of He et al., 2015,
        https://arxiv.org/abs/1502.01852.

    Example:
        >>> model = nature_cnn("ALE/Breakout-v5")
        >>> model.input_shape, model.output_shape, model.count_params()
        ((None, 84, 84, 4), (None, 4), 1686180)
    """
    space, actions = _spaces(env)
    shape = space.shape or ()
    is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3
    if not is_image or min(shape[:2]) < _SMALLEST_IMAGE:
        raise ValueError(
            f"nature_cnn needs uint8 images [height, width, frames] of at least {_SMALLEST_IMAGE}x"
            f"{_SMALLEST_IMAGE}, but the observation space is {space}. Try networks.mlp."
        )
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(f"nature_cnn needs Discrete actions, but the action space is {actions}.")
    seeds = np.random.default_rng(seed)

    def he() -> keras.initializers.Initializer:
        return keras.initializers.HeUniform(None if seed is None else int(seeds.integers(2**31)))

    inputs = _input(space, "observations")
    x = keras.layers.Rescaling(1.0 / 255.0)(inputs)
    for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        convolution = keras.layers.Conv2D(
            filters, size, stride, activation="relu", kernel_initializer=he()
        )
        x = convolution(x)
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
    # Keras casts real numbers to its own precision. Integers, above all images, stay small.
    return keras.Input(input_shape(space), name=name, dtype=None if dtype.kind == "f" else dtype)


def _vector(x: Any, space: Any, normalize: bool, name: str) -> Any:
    is_box = isinstance(space, spaces.Box)
    largest = int(np.max(space.high, initial=1)) if is_box and space.dtype == np.uint8 else 0
    is_image = largest == 255 and len(space.shape or ()) > 1
    if largest and (is_image or not normalize):
        x = keras.layers.Rescaling(1.0 / largest)(x)
    if len(input_shape(space)) != 1:
        x = keras.layers.Flatten()(x)
    if normalize and is_box and not is_image:
        x = keras.ops.clip(statistics_layer(name)(x), -_CLIP, _CLIP)
    return x


def _stack(x: Any, hidden: Sequence[int], activation: str, dense: Callable) -> Any:
    if any(not isinstance(units, (int, np.integer)) or units < 1 for units in hidden):
        raise ValueError(f"hidden must be positive integers, but it is {tuple(hidden)!r}.")
    for units in hidden:
        x = dense(units, np.sqrt(2.0), activation)(x)
    return x


def _dueling(stream: Callable[[int], Any], space: gymnasium.Space) -> Any:
    """The Q-values of two streams, each made from its number of outputs."""
    (actions,) = heads_of(space, q_values=True)
    value, advantages = stream(1), stream(actions)
    return value + advantages - keras.ops.mean(advantages, axis=-1, keepdims=True)


def _policy_output(x: Any, space: gymnasium.Space, log_std: float, dense: Callable) -> Any:
    outputs = max(heads_of(space))
    if not isinstance(space, spaces.Box):
        return dense(outputs, 0.01)(x)
    dims = outputs // 2
    # Plain Keras has no layer with just weights, so this is the bias of a Dense layer of zeros.
    zeros = keras.layers.Rescaling(0.0)(x)
    log_stds = keras.layers.Dense(
        dims,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(log_std),
        name="log_std",
    )(zeros)
    return keras.layers.Concatenate()([dense(dims, 0.01)(x), log_stds])
