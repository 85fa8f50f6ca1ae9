"""A NumPy forward pass mirrored from a Keras model, for acting.

A compiled TensorFlow call costs a hundred microseconds or more, whatever it computes; a small
stack of Dense layers on a handful of observations is ten in NumPy. Acting needs no gradients,
so a model that is made of the layers below acts through its mirror.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfpg.core.backend import keras, tf
from tfpg.models.graph import has_graph, policy_output

Forward = Callable[[Any], np.ndarray]


def _elu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.expm1(np.minimum(x, 0)))  # expm1(x) >= x, with equality at 0


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


_ACTIVATIONS: dict[Any, Callable[[np.ndarray], np.ndarray] | None] = {
    keras.activations.linear: None,
    keras.activations.relu: lambda x: np.maximum(x, 0),
    keras.activations.elu: _elu,
    keras.activations.tanh: np.tanh,
    keras.activations.sigmoid: _sigmoid,
    keras.activations.softmax: _softmax,
    keras.activations.softplus: lambda x: np.logaddexp(x, np.float32(0)),
    keras.activations.silu: lambda x: x * _sigmoid(x),
}


def mirror(model: keras.Model, *, logits: bool = False) -> Callable[[], Forward] | None:
    """A function that takes a snapshot of the weights and returns a NumPy forward pass.

    Mirrors Sequential and functional models of `Dense`, `Activation`, `Flatten`, `Rescaling`,
    `Concatenate` and frozen `BatchNormalization` layers and of `keras.ops` clip, sums, differences
    and means over the last axis, in float32, with the usual activations.
    Of a model with a value output only what leads to the policy's output is computed.

    Args:
        model: A built Keras model.
        logits: Leave out a sigmoid or softmax of the last layer; ``gives_logits`` of what is
            returned says whether there was one.

    Returns:
        A function; each call of it reads the weights once and returns
        ``forward(observations [N, ...]) -> outputs [N, K]`` with those weights; a model with
        several inputs takes a dict by their names. None if the model holds anything else.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "tanh")])
        >>> forward = mirror(model)()
        >>> x = np.ones((3, 4), "float32")
        >>> bool(np.allclose(forward(x), model(x), atol=1e-6))
        True
    """
    if not has_graph(model):
        return None
    sources = {x.name: id(x) for x in model.inputs}
    target = id(policy_output(model))
    steps: list[tuple[Any, list[int], int]]
    if isinstance(model, keras.Sequential):
        # A loaded Sequential model's layers show the tensors of how it was put together.
        layers = list(_stack(model))
        names = [*sources.values(), *range(1, len(layers)), target]
        steps = [(layer, [names[i]], names[i + 1]) for i, layer in enumerate(layers)]
    else:
        steps = [
            (layer, [id(x) for x in _as_list(layer.input)], id(layer.output))
            for layer in model.operations
            if not isinstance(layer, keras.layers.InputLayer) and len(_as_list(layer.output)) == 1
        ]
    steps = _leading_to(target, steps)
    if any(not _is_mirrored(layer) for layer, _, _ in steps):
        return None
    # A layer used twice, or shared with another model, does not show every use of itself.
    known = set(sources.values())
    for _, needs, makes in steps:
        if not known.issuperset(needs):
            return None
        known.add(makes)
    if target not in known or target in sources.values():
        return None

    last = next(layer for layer, _, makes in steps if makes == target)
    has_probabilities = type(last) in (
        keras.layers.Dense,
        keras.layers.Activation,
    ) and last.activation in (keras.activations.sigmoid, keras.activations.softmax)
    strips = logits and has_probabilities

    name = next(iter(sources))
    ways = [[sources[name]], *([makes] for _, _, makes in steps)]
    chain = len(sources) == 1 and [needs for _, needs, _ in steps] == ways[:-1]

    def snapshot() -> Forward:
        functions = [
            (_numpy_layer(layer, linear=strips and makes == target), needs, makes)
            for layer, needs, makes in steps
        ]

        if chain:

            def forward(x: Any) -> np.ndarray:
                x = np.asarray(x[name] if isinstance(x, dict) else x, np.float32)
                for function, _, _ in functions:
                    x = function(x)
                return x

            return forward

        def forward_through_the_graph(x: Any) -> np.ndarray:
            values = {
                key: np.asarray(x[name] if isinstance(x, dict) else x, np.float32)
                for name, key in sources.items()
            }
            for function, needs, makes in functions:
                values[makes] = function(*(values[key] for key in needs))
            return values[target]

        return forward_through_the_graph

    snapshot.gives_logits = strips  # type: ignore[attr-defined]
    return snapshot


def _stack(model: keras.Sequential) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from _stack(layer)
        else:
            yield layer


def _leading_to(target: int, steps: list) -> list:
    wanted, chosen = {target}, []
    for step in reversed(steps):
        if step[2] in wanted:
            chosen.append(step)
            wanted.update(step[1])
    return chosen[::-1]


def _as_list(x: Any) -> list:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _is_mirrored(layer: keras.layers.Layer) -> bool:
    operation = _operation(layer)
    if operation:
        tensors = 2 if operation in ("Add", "Subtract") else 1  # the others are constants
        last = getattr(layer, "axis", [-1]) == [-1]
        return layer.output.dtype == "float32" and len(_as_list(layer.input)) == tensors and last
    if getattr(layer, "compute_dtype", None) != "float32":
        return False
    kind = type(layer)
    if kind is keras.layers.Dense:
        plain = not layer.lora_enabled and layer.quantization_mode is None
        return plain and layer.activation in _ACTIVATIONS
    if kind is keras.layers.Activation:
        return layer.activation in _ACTIVATIONS
    if kind is keras.layers.Rescaling:
        return np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    if kind is keras.layers.Concatenate:
        return layer.axis == -1
    if kind is keras.layers.BatchNormalization:
        return not layer.trainable and layer.axis in (-1, len(layer.output.shape) - 1)
    return kind is keras.layers.Flatten and layer.data_format == "channels_last"


def _operation(operation: Any) -> str | None:
    """The name of an operation of `keras.ops` that is mirrored; their classes are not public."""
    name = type(operation).__name__
    is_layer = isinstance(operation, keras.layers.Layer)
    return name if not is_layer and name in ("Add", "Clip", "Mean", "Subtract") else None


def _numpy_layer(layer: keras.layers.Layer, linear: bool) -> Callable[..., np.ndarray]:
    kind = type(layer)
    has_activation = kind in (keras.layers.Dense, keras.layers.Activation) and not linear
    activation = _ACTIVATIONS[layer.activation] if has_activation else None
    if kind is keras.layers.Dense:
        kernel = _array(layer.kernel)
        bias = _array(layer.bias) if layer.use_bias else np.zeros(layer.units, np.float32)

        def dense(x: np.ndarray) -> np.ndarray:
            x = x.dot(kernel)  # half the overhead of @ on small arrays
            x += bias
            return x if activation is None else activation(x)

        return dense
    if kind is keras.layers.Activation:
        return activation or (lambda x: x)
    if kind is keras.layers.Rescaling:
        scale, offset = np.float32(layer.scale), np.float32(layer.offset)
        return lambda x: x * scale + offset
    if kind is keras.layers.Concatenate:
        return lambda *xs: np.concatenate(xs, axis=-1)
    operation = _operation(layer)
    if operation == "Clip":
        return lambda x: np.clip(x, np.float32(layer.x_min), np.float32(layer.x_max))
    if operation == "Mean":
        return lambda x: x.mean(axis=-1, keepdims=layer.keepdims)
    if operation:
        return np.add if operation == "Add" else np.subtract
    if kind is keras.layers.BatchNormalization:
        return _numpy_batch_normalization(layer)
    return lambda x: x.reshape(len(x), -1)


def _numpy_batch_normalization(layer: keras.layers.Layer) -> Callable[..., np.ndarray]:
    scale = 1 / np.sqrt(_array(layer.moving_variance) + np.float32(layer.epsilon))
    if layer.scale:
        scale = scale * _array(layer.gamma)
    mean = _array(layer.moving_mean)
    offset = _array(layer.beta) if layer.center else np.float32(0)
    return lambda x: (x - mean) * scale + offset


def _array(variable: keras.Variable) -> np.ndarray:
    # A variable's own .numpy() takes four times as long, which acting feels.
    value = variable.value
    return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype).numpy()
