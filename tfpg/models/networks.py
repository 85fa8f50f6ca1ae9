"""Functions that build a `keras.Model`. They are optional: tfpg works with any Keras model.

They use only built-in Keras layers and operations, so plain Keras loads the models without tfpg.

All functions except `mlp` apply convolutions to images. An image is a `Box` with bounds of at most
65,535 and three axes (channels first or last), four axes (a stack of frames), or two axes (integers
only). Images are divided by their largest possible value. Except in `nature_cnn`, images of at
least 144x144 pixels are downsampled. Images smaller than 36x36 pixels are often grids of codes.
They get smaller convolutions, and ``normalize`` standardizes each of their channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.backend import check_not_forked, keras
from tfpg.envs import EnvLike, Spaces, spaces_of
from tfpg.envs.contracts import OBSERVATION, mask_choices
from tfpg.models.heads import heads_of
from tfpg.models.normalization import statistics_layer
from tfpg.models.observations import (
    Codes,
    check_space,
    input_dtype,
    input_shape,
    map_space,
    without_mask,
)

# What Keras, with a number at the end, and the functions below name layers and operations.
_KERAS_NAMES = (
    *("dense", "conv2d", "flatten", "permute", "reshape", "rescaling", "concatenate", "clip"),
    *("embedding", "add", "subtract", "mean", "functional", "average_pooling2d"),
    *("activation", "gaussian_noise", "zeros_like", "absolute", "sqrt", "sign", "multiply"),
    *("gru_cell", "lstm_cell"),
    *("layer_normalization", "log_std", "scaled_actions"),
)

_SIGMA = 0.5  # sigma_0 of noisy networks: with p inputs, the noise starts at sigma_0 / sqrt(p)
_CLIP = 10.0  # standard deviations at which normalized observations are clipped
_SMALLEST_PICTURE = 36  # the DQN paper's convolutions reduce anything smaller to nothing
_LARGEST_ONE_HOT, _EMBEDDING = 1000, 64
_LARGE_PICTURE = 72  # pictures of several times as many pixels a side are shrunk first
# Filters, size and stride.
_PICTURE_CONVOLUTIONS = (32, 8, 4), (64, 4, 2), (64, 3, 1)
_GRID_CONVOLUTIONS = (32, 3, 1), (64, 3, 2), (64, 3, 2)
_IMAGE_FEATURES = 256
_SMALLEST_IMAGE, _SMALLEST_GRID = 3, 5  # sides of images of three and two axes
_LARGEST_PIXEL = 65_535  # larger bounds are those of a dtype, not of pixels


def mlp(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    normalize: bool = False,
    layer_norm: bool = False,
    log_std: float | None = 0.0,
    atoms: int | None = None,
    noisy: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return a policy: a stack of Dense layers from the observations of ``env`` to its actions.

    The outputs are those of `tfpg.models.heads`. A `Box` of D dimensions gets 2D outputs, D means
    and D log standard deviations. By default, the log standard deviations are weights that do not
    depend on the observation.

    Args:
        env: An environment id, environment, vector environment, or callable that makes one; or its
            ``(observation_space, action_space)``.
        hidden: Units of each hidden layer.
        activation: Keras name of the activation of the hidden layers.
        normalize: Standardize real-valued observations with running statistics in the first layer.
            Agents update them during training; see `tfpg.models.normalization`.
        layer_norm: Add layer normalization between each hidden layer and its activation. Without
            it, `tfpg.PQN` may diverge.
        log_std: Initial log standard deviation of `Box` actions. None: it depends on the
            observation, and is about 0 at first.
        atoms: Outputs for each action, for a distribution of its return (see `tfpg.C51` and
            `tfpg.QRDQN`). None: a single output.
        noisy: Add trainable noise to the weights of the Dense layers, so that a Q-network explores
            without epsilon. In plain Keras, noise is drawn only with ``training=True``.
        seed: Seed of the initial weights. None: Keras's global seed
            (`keras.utils.set_random_seed`).
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, K]``. The inputs are those of
        `tfpg.models.observations`; for a `Dict`, a dict with the same
        keys. Images are flattened, and scaled to [0, 1]; `cnn` suits them better.

    Raises:
        ValueError: A space is not supported, or ``hidden`` are not positive integers.

    Source:
        Small initial weights in a policy's last layer: Andrychowicz et al., "What Matters In
        On-Policy Reinforcement Learning?", 2021, https://arxiv.org/abs/2006.05990; noisy layers:
        Fortunato et al., "Noisy Networks for Exploration", 2018, https://arxiv.org/abs/1706.10295.

    Example:
        >>> model = mlp("CartPole-v1", hidden=(20, 10), activation="elu")
        >>> model.input_shape, model.output_shape
        ((None, 4), (None, 2))
    """
    features = partial(_features, convolve=False)
    layer = _layer_maker(seed, noisy, layer_norm)
    head = log_std, atoms
    return _policy(_spaces(env), features, hidden, activation, normalize, head, layer, name)


def cnn(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    *,
    normalize: bool = False,
    layer_norm: bool = False,
    log_std: float | None = 0.0,
    atoms: int | None = None,
    noisy: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return a policy for images: three convolutions and a Dense layer each, then Dense layers.

    Other observations are concatenated after the convolutions. `actor_critic`, `critic` and
    `dueling` process images in the same way.

    Args:
        env: See `mlp`.
        hidden: Units of each hidden layer after the convolutions.
        activation: Keras name of the activation of these layers.
        normalize: See `mlp`. Images are standardized only if a side has fewer than 36 pixels.
        layer_norm: See `mlp`. The channels of convolutions are normalized, too.
        log_std: See `mlp`.
        atoms: See `mlp`.
        noisy: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, K]``.

    Raises:
        ValueError: No observation is an image.

    Source:
        The convolutions of large images: Mnih et al., "Human-level control through deep
        reinforcement learning", 2015, https://www.nature.com/articles/nature14236.

    Example:
        >>> camera = spaces.Box(0, 255, (96, 96, 3), np.uint8)
        >>> cnn((camera, spaces.Box(-1, 1, (2,)))).output_shape
        (None, 4)
    """
    both = _spaces(env)
    if not has_images(both[0]):
        raise ValueError(
            f"cnn needs images, but the observation space is {both[0]}. Use networks.mlp."
        )
    layer = _layer_maker(seed, noisy, layer_norm)
    head = log_std, atoms
    return _policy(both, _features, hidden, activation, normalize, head, layer, name)


def has_images(space: gymnasium.Space) -> bool:
    """Return whether observations are images, or a `Dict` with at least one.

    Example:
        >>> (
        ...     has_images(spaces.Box(0, 255, (64, 64, 3), np.uint8)),
        ...     has_images(spaces.Box(0, 1, (3,))),
        ... )
        (True, False)
    """
    parts = space.values() if isinstance(space, spaces.Dict) else [space]
    return any(_image_axes(part) is not None for part in parts)


def critic(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    normalize: bool = False,
    layer_norm: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return a value network: like `mlp`, with a single output, the value of the observation.

    Args:
        env: See `mlp`.
        hidden: Units of each hidden layer.
        activation: Keras name of the activation of the hidden layers.
        normalize: See `mlp`.
        layer_norm: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, 1]``.

    Example:
        >>> critic("CartPole-v1").output_shape
        (None, 1)
    """
    layer = _layer_maker(seed, layer_norm=layer_norm)
    inputs, x = _features(_spaces(env)[0], normalize, layer)
    return keras.Model(inputs, layer(1, 1.0)(_stack(x, hidden, activation, layer)), name=name)


def twin_critic(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (256, 256),
    activation: str = "relu",
    *,
    normalize: bool = False,
    layer_norm: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return two Q-networks for `Box` actions as one model.

    Args:
        env: See `mlp`. Its actions must be a `Box`.
        hidden: Units of each hidden layer of both networks.
        activation: Keras name of the activation of the hidden layers.
        normalize: See `mlp`. Actions are not standardized.
        layer_norm: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``[inputs [B, ...], actions [B, D]] -> [B, 2]``. The actions are
        scaled to [-1, 1]. Both networks share the convolutions of images, but no other weights.

    Raises:
        ValueError: The actions are not a `Box`.

    Source:
        Two networks: Fujimoto, van Hoof and Meger, "Addressing Function Approximation Error in
        Actor-Critic Methods", 2018, https://arxiv.org/abs/1802.09477.

    Example:
        >>> twin_critic("Pendulum-v1").output_shape
        (None, 2)
    """
    observation_space, action_space = _spaces(env)
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"twin_critic, for tfpg.SAC, needs a Box of actions, but the action space is "
            f"{action_space}. Use tfpg.PPO instead."
        )
    layer = _layer_maker(seed, layer_norm=layer_norm)
    actions = keras.Input((math.prod(action_space.shape),), name="scaled_actions")
    inputs, features = _features(observation_space, normalize, layer)

    def q_value() -> Any:
        x = keras.layers.Concatenate()([features, actions])
        return layer(1, 1.0)(_stack(x, hidden, activation, layer))

    q_values = keras.layers.Concatenate()([q_value(), q_value()])
    return keras.Model([inputs, actions], q_values, name=name)


def actor_critic(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    shared: bool = False,
    normalize: bool = True,
    layer_norm: bool = False,
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
        layer_norm: See `mlp`.
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
    layer = _layer_maker(seed, layer_norm=layer_norm)
    inputs, features = _features(observation_space, normalize, layer)
    x = v = _stack(features, hidden, activation, layer)
    if not shared:
        v = _stack(features, hidden, activation, layer)
    outputs = [_policy_output(x, action_space, layer, log_std), layer(1, 1.0)(v)]
    return keras.Model(inputs, outputs, name=name)


def recurrent(
    env: EnvLike | Spaces,
    units: int = 64,
    hidden: Sequence[int] = (64,),
    activation: str = "tanh",
    *,
    cell: str = "gru",
    normalize: bool = True,
    layer_norm: bool = False,
    log_std: float | None = 0.0,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return a policy with memory, and the value, as one model that computes a single step.

    The state of a GRU or LSTM cell is an input and an output: zero at the start of an episode, and
    afterwards what the model returned in the previous step. See `tfpg.models.recurrent`.

    Args:
        env: See `mlp`.
        units: Size of the state.
        hidden: Units of each hidden layer before the cell.
        activation: Keras name of the activation of the hidden layers.
        cell: ``"gru"`` or ``"lstm"``.
        normalize: See `mlp`.
        layer_norm: See `mlp`. The cell is not normalized.
        log_std: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model. Its inputs are a dict of ``"observation"``, or the keys of a
        `Dict`, and ``"state"`` (LSTM: ``"state"`` and ``"carry"``), each ``[B, units]``; if a key
        has this name, ``"memory_state"``. Its outputs are a dict of ``"policy"``, ``"value"`` and
        the same states.

    Raises:
        ValueError: There is no such cell.

    Source:
        Cho et al., 2014, https://arxiv.org/abs/1406.1078; Hochreiter and Schmidhuber, 1997,
        https://doi.org/10.1162/neco.1997.9.8.1735.

    Example:
        >>> model = recurrent("CartPole-v1", units=32)
        >>> {name: x.shape for name, x in model.output.items()}
        {'policy': (None, 2), 'value': (None, 1), 'state': (None, 32)}
    """
    if cell not in ("gru", "lstm"):
        raise ValueError(f'cell must be "gru" or "lstm", but it is {cell!r}.')
    observation_space, action_space = _spaces(env)
    layer = _layer_maker(seed, layer_norm=layer_norm)
    if not isinstance(observation_space, spaces.Dict):
        observation_space = spaces.Dict({OBSERVATION: observation_space})
    inputs, x = _features(observation_space, normalize, layer)
    x = _stack(x, hidden, activation, layer)
    names = ["state"] if cell == "gru" else ["state", "carry"]
    if set(names) & set(observation_space):
        names = [f"memory_{each}" for each in names]
    states = {each: keras.Input((units,), name=each) for each in names}
    kinds = {"gru": keras.layers.GRUCell, "lstm": keras.layers.LSTMCell}
    seeds = [None, None] if seed is None else [seed, seed + 1]
    memory = kinds[cell](
        units,
        kernel_initializer=keras.initializers.GlorotUniform(seeds[0]),
        recurrent_initializer=keras.initializers.Orthogonal(seed=seeds[1]),
        seed=seed,
    )
    x, following = memory(x, list(states.values()))
    outputs = {
        "policy": _policy_output(x, action_space, layer, log_std),
        "value": layer(1, 1.0)(x),
        **dict(zip(names, following, strict=True)),
    }
    return keras.Model({**inputs, **states}, outputs, name=name)


def dueling(
    env: EnvLike | Spaces,
    hidden: Sequence[int] = (128, 128),
    activation: str = "relu",
    *,
    normalize: bool = False,
    layer_norm: bool = False,
    atoms: int | None = None,
    noisy: bool = False,
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
        layer_norm: See `mlp`.
        atoms: See `mlp`.
        noisy: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``inputs [B, ...] -> [B, A]``, or ``[B, A * atoms]``.

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
    layer = _layer_maker(seed, noisy, layer_norm)
    inputs, x = _features(observation_space, normalize, layer)
    x = _stack(x, hidden[:-1], activation, layer)

    def stream(units: int) -> Any:
        return layer(units, 1.0)(_stack(x, hidden[-1:], activation, layer))

    return keras.Model(inputs, _dueling(stream, action_space, atoms), name=name)


def nature_cnn(
    env: EnvLike | Spaces,
    hidden: int = 512,
    *,
    dueling: bool = False,
    atoms: int | None = None,
    noisy: bool = False,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Return the convolutional network of the DQN paper, from images to one output per action.

    Args:
        env: See `mlp`. Observations must be images, and actions `Discrete`. For other actions, use
            `cnn`. For a policy and a value function, use `actor_critic`.
        hidden: Units of the last hidden layer.
        dueling: Use two last hidden layers, one for the value and one for the advantages; see
            `tfpg.networks.dueling`.
        atoms: See `mlp`.
        noisy: See `mlp`.
        seed: See `mlp`.
        name: Name of the model.

    Returns:
        An uncompiled Keras model, ``images [B, ...] -> [B, A]``, or ``[B, A * atoms]``. It scales
        the images to [0, 1]. The outputs are linear: Q-values or logits.

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
    if _image_axes(space) is None or not _is_picture(space):
        raise ValueError(
            f"nature_cnn needs images of at least {_SMALLEST_PICTURE}x{_SMALLEST_PICTURE}, but the "
            f"observation space is {space}. Try networks.cnn or networks.mlp."
        )
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(
            f"nature_cnn needs Discrete actions, but the action space is {actions}. Use "
            "networks.cnn, or networks.actor_critic for an agent with a value."
        )
    seeds = np.random.default_rng(seed)

    def next_seed() -> int | None:
        return None if seed is None else int(seeds.integers(2**31))

    inputs = _input(space, "observations")
    x = _scaled(_channels_last(inputs, space), space)
    for filters, size, stride in _PICTURE_CONVOLUTIONS:
        convolution = keras.layers.Conv2D(
            filters,
            size,
            stride,
            activation="relu",
            kernel_initializer=keras.initializers.HeUniform(next_seed()),
        )
        x = convolution(x)
    x = keras.layers.Flatten()(x)

    def dense(units: int, activation: str | None = None) -> Callable:
        layer_seed = next_seed()
        he = keras.initializers.HeUniform(layer_seed)
        layer = keras.layers.Dense(units, activation, kernel_initializer=he)
        return partial(_noisy_dense, layer, layer_seed) if noisy else layer

    def stream(units: int) -> Any:
        y = dense(hidden, "relu")(x)
        return dense(units)(y)

    outputs = int(actions.n) * _outputs_per_action(atoms)
    q_values = _dueling(stream, actions, atoms) if dueling else stream(outputs)
    return keras.Model(inputs, q_values, name=name)


def _spaces(env: EnvLike | Spaces) -> Spaces:
    observation_space, action_space = spaces_of(env)
    mask_choices(observation_space, action_space)  # raises if a mask does not fit
    observation_space = without_mask(observation_space)
    check_space(observation_space)
    return observation_space, action_space


def _policy(
    both: Spaces,
    features: Callable[..., tuple[Any, Any]],
    hidden: Sequence[int],
    activation: str,
    normalize: bool,
    head: tuple[float | None, int | None],
    layer: Callable,
    name: str | None,
) -> keras.Model:
    inputs, x = features(both[0], normalize, layer)
    x = _stack(x, hidden, activation, layer)
    return keras.Model(inputs, _policy_output(x, both[1], layer, *head), name=name)


def _outputs_per_action(atoms: int | None) -> int:
    if atoms is None:
        return 1
    if not isinstance(atoms, (int, np.integer)) or atoms < 1:
        raise ValueError(f"atoms must be a positive integer, but it is {atoms!r}.")
    return int(atoms)


def _layer_maker(
    seed: int | None, noisy: bool = False, layer_norm: bool = False
) -> Callable[..., Callable]:
    check_not_forked()
    layer_seeds = np.random.default_rng(seed)

    def make(
        units: int, gain: float, activation: str | None = None, *window: Any, codes: int = 0
    ) -> Any:
        layer_seed = None if seed is None else int(layer_seeds.integers(2**31))
        if codes:
            normal = keras.initializers.RandomNormal(stddev=gain, seed=layer_seed)
            return keras.layers.Embedding(codes, units, embeddings_initializer=normal)
        normalized = layer_norm and activation is not None
        options = {
            "activation": None if normalized else activation,
            "kernel_initializer": keras.initializers.Orthogonal(gain, seed=layer_seed),
        }
        linear = keras.layers.Conv2D if window else keras.layers.Dense
        new = linear(int(units), *window, **options)
        if noisy and not window:
            new = partial(_noisy_dense, new, layer_seed)
        return partial(_normalized, new, activation) if normalized else new

    return make


def _normalized(layer: Callable, activation: str | None, x: Any) -> Any:
    return keras.layers.Activation(activation)(keras.layers.LayerNormalization()(layer(x)))


def _noisy_dense(dense: keras.layers.Dense, seed: int | None, x: Any) -> Any:
    """A Dense layer with factorized Gaussian noise on its weights, drawn in training only.

    ``(W + S * e_in e_out^T)^T x + b + s * e_out = dense(x) + e_out * sigma(e_in * x)``
    """
    activation, dense.activation = dense.activation, keras.activations.linear
    start = keras.initializers.Constant(_SIGMA / np.sqrt(x.shape[-1]))
    y = dense(x)
    sigma = keras.layers.Dense(dense.units, kernel_initializer=start, bias_initializer=start)
    seeds = (None, None) if seed is None else (seed, seed + 1)
    y = y + _noise(y, seeds[0]) * sigma(_noise(x, seeds[1]) * x)
    return y if activation is keras.activations.linear else keras.layers.Activation(activation)(y)


def _noise(x: Any, seed: int | None) -> Any:
    """``sign(e) sqrt(|e|)`` of standard normal noise e of the shape of ``x``."""
    e = keras.layers.GaussianNoise(1.0, seed=seed)(keras.ops.zeros_like(x))
    return keras.ops.sign(e) * keras.ops.sqrt(keras.ops.absolute(e))


def _features(
    space: gymnasium.Space, normalize: bool, layer: Callable, convolve: bool = True
) -> tuple[Any, Any]:
    """The model's inputs, and all of them as one vector."""

    def vector(x: Any, part: gymnasium.Space, name: str) -> Any:
        if convolve and _image_axes(part) is not None:
            return _convolved(x, part, normalize, name, layer)
        if isinstance(part, Codes):
            count = int(part.high[0]) + 1
            return keras.layers.Flatten()(layer(_EMBEDDING, 1.0, codes=count)(x))
        return _vector(x, part, normalize, name)

    space = map_space(_as_codes, space)
    if isinstance(space, dict):
        names = dict(zip(space, _layer_names(space), strict=True))
        inputs = {key: _input(part, names[key]) for key, part in space.items()}
        vectors = [vector(inputs[key], part, names[key]) for key, part in space.items()]
        return inputs, vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors)
    x = _input(space, "observations")
    return x, vector(x, space, "observation")


def _as_codes(space: gymnasium.Space) -> gymnasium.Space:
    """Large one-hots would take most of the memory, so an embedding takes their place."""
    is_large = isinstance(space, spaces.Discrete) and space.n > _LARGEST_ONE_HOT
    return Codes(space) if is_large else space  # type: ignore[arg-type]


def _layer_names(keys: Iterable[str]) -> list[str]:
    """The keys; in place of those that Keras does not allow or uses itself, similar names."""
    names: list[str] = []
    for key in keys:
        name = re.sub(r"[^\w.-]", "_", key, flags=re.ASCII).lstrip("_.-")
        is_taken = re.sub(r"_\d+$", "", name) in _KERAS_NAMES or name in names
        names.append(
            f"{name or 'observation'}_input_{len(names)}" if is_taken or not name else name
        )
    return names


def _input(space: gymnasium.Space, name: str) -> Any:
    dtype = input_dtype(space)
    # Keras casts real numbers to its own precision. Integers, above all images, stay small.
    return keras.Input(input_shape(space), name=name, dtype=None if dtype.kind == "f" else dtype)


def _image_axes(space: gymnasium.Space) -> tuple[int, ...] | None:
    """The axes of an image, height and width first; None if it is something else."""
    shape = space.shape or ()
    if not isinstance(space, spaces.Box) or _largest(space) > _LARGEST_PIXEL:
        return None
    if len(shape) == 2:
        is_grid = np.dtype(space.dtype).kind in "iu" and min(shape) >= _SMALLEST_GRID
        return (0, 1) if is_grid else None
    if len(shape) not in (3, 4):
        return None
    height = len(shape) - 3
    if shape[height] < min(shape[height + 1 :]):  # the channels come first
        height += 1
    if min(shape[height : height + 2]) < _SMALLEST_IMAGE:
        return None
    rest = [axis for axis in range(len(shape)) if axis not in (height, height + 1)]
    return height, height + 1, *rest


def _is_picture(space: Any) -> bool:
    height, width, *_ = _image_axes(space) or (0, 0)
    return min(space.shape[height], space.shape[width]) >= _SMALLEST_PICTURE


def _channels_last(x: Any, space: Any) -> Any:
    axes = _image_axes(space)
    assert axes is not None
    if list(axes) != sorted(axes):
        x = keras.layers.Permute([axis + 1 for axis in axes])(x)
    if len(axes) != 3:
        x = keras.layers.Reshape((*x.shape[1:3], math.prod(x.shape[3:])))(x)
    return x


def _scaled(x: Any, space: Any) -> Any:
    """Divide by the largest value, unless that is at most 1."""
    return keras.layers.Rescaling(1.0 / max(_largest(space), 1.0))(x)


def _largest(space: spaces.Box) -> float:
    """The largest absolute value, possibly infinite, in float64, where integers do not overflow."""
    return max(float(np.abs(x.astype(np.float64)).max(initial=0)) for x in (space.low, space.high))


def _convolved(x: Any, space: Any, normalize: bool, name: str, layer: Callable) -> Any:
    x, is_picture = _channels_last(x, space), _is_picture(space)
    x = _standardized(x, name) if normalize and not is_picture else _scaled(x, space)
    if (factor := min(x.shape[1:3]) // _LARGE_PICTURE) > 1:
        x = keras.layers.AveragePooling2D(factor)(x)
    convolutions = _PICTURE_CONVOLUTIONS if is_picture else _GRID_CONVOLUTIONS
    padding = "valid" if is_picture else "same"
    for filters, size, stride in convolutions:
        x = layer(filters, np.sqrt(2.0), "relu", size, stride, padding)(x)
    return layer(_IMAGE_FEATURES, np.sqrt(2.0), "relu")(keras.layers.Flatten()(x))


def _vector(x: Any, space: Any, normalize: bool, name: str) -> Any:
    is_box = isinstance(space, spaces.Box)
    largest = int(np.max(space.high, initial=1)) if is_box and space.dtype == np.uint8 else 0
    is_image = largest == 255 and len(space.shape or ()) > 1
    if largest and (is_image or not normalize):
        x = keras.layers.Rescaling(1.0 / largest)(x)
    if len(input_shape(space)) != 1:
        x = keras.layers.Flatten()(x)
    if normalize and is_box and not is_image:
        x = _standardized(x, name)
    return x


def _standardized(x: Any, name: str) -> Any:
    return keras.ops.clip(statistics_layer(name)(x), -_CLIP, _CLIP)


def _stack(x: Any, hidden: Sequence[int], activation: str, layer: Callable) -> Any:
    if any(not isinstance(units, (int, np.integer)) or units < 1 for units in hidden):
        raise ValueError(f"hidden must be positive integers, but it is {tuple(hidden)!r}.")
    for units in hidden:
        x = layer(units, np.sqrt(2.0), activation)(x)
    return x


def _dueling(stream: Callable[[int], Any], space: gymnasium.Space, atoms: int | None) -> Any:
    """The Q-values, or distributions, of two streams, each made from its number of outputs."""
    (actions,) = heads_of(space, q_values=True)
    count = _outputs_per_action(atoms)
    value, advantages = stream(count), stream(actions * count)
    if atoms is None:
        return value + advantages - keras.ops.mean(advantages, axis=-1, keepdims=True)
    value = keras.layers.Reshape((1, count))(value)
    advantages = keras.layers.Reshape((actions, count))(advantages)
    mean = keras.ops.mean(advantages, axis=-2, keepdims=True)
    return keras.layers.Flatten()(value + advantages - mean)


def _policy_output(
    x: Any, space: gymnasium.Space, layer: Callable, log_std: float | None, atoms: int | None = None
) -> Any:
    outputs = max(heads_of(space))
    if atoms is not None:
        return layer(max(heads_of(space, q_values=True)) * _outputs_per_action(atoms), 0.01)(x)
    if not isinstance(space, spaces.Box) or log_std is None:
        return layer(outputs, 0.01)(x)
    dims = outputs // 2
    # Plain Keras has no layer with just weights, so this is the bias of a Dense layer of zeros.
    zeros = keras.layers.Rescaling(0.0)(x)
    log_stds = keras.layers.Dense(
        dims,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(log_std),
        name="log_std",
    )(zeros)
    return keras.layers.Concatenate()([layer(dims, 0.01)(x), log_stds])
