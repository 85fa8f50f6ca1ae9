"""A NumPy copy of a Keras model's forward pass, for acting.

A compiled TensorFlow call takes a hundred microseconds or more, whatever it computes. A few Dense
layers on a handful of observations take ten in NumPy. Acting needs no gradients, so a model made of
the layers below acts through its copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.backend import keras, read_variable
from tfpg.models.inspection import has_graph, inputs_by_key, policy_output
from tfpg.ops.numeric import sigmoid, softplus

Forward = Callable[[Any], np.ndarray]
Read = Callable[[Any], np.ndarray]
ArrayFunction = Callable[..., np.ndarray]


_ZERO = np.zeros((), np.float32)  # NumPy takes half as long with it as with a Python number


def _elu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.expm1(np.minimum(x, _ZERO)))  # expm1(x) >= x, with equality at 0


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@functools.cache
def _activations() -> dict[Any, ArrayFunction | None]:
    known = keras.activations
    return {
        known.linear: None,
        known.relu: lambda x: np.maximum(x, _ZERO),
        known.elu: _elu,
        known.tanh: np.tanh,
        known.sigmoid: sigmoid,
        known.softmax: _softmax,
        known.softplus: softplus,
        known.silu: lambda x: x * sigmoid(x),
    }


class Mirror(NamedTuple):
    """A model's forward pass in NumPy.

    Attributes:
        snapshot: Takes a function that reads a variable, by default `read_variable`. Returns
            ``forward(inputs [N, ...]) -> outputs [N, K]`` with these weights. The inputs of a model
            with several are a dict.
        gives_logits: Whether the outputs leave out the sigmoid or softmax that the model ends in.
        variables: The variables that a snapshot reads.
    """

    snapshot: Callable[..., Forward]
    gives_logits: bool
    variables: list[Any]


def mirror(model: keras.Model, *, logits: bool = False) -> Mirror | None:
    """Return the forward pass of a Keras model in NumPy, or None if it has other layers than these.

    Supports Sequential and functional models of `Dense`, `Activation`, `Flatten`, `Rescaling`,
    `Concatenate`, and frozen `BatchNormalization` layers with the usual activations, and of the
    `keras.ops` for clipping, sums, differences, and means over the last axis, all in float32. In a
    model with a value output, only what the policy's output needs is computed.

    Args:
        model: A built Keras model.
        logits: Leave out a sigmoid or softmax that the model ends in.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "tanh")])
        >>> forward = mirror(model).snapshot()
        >>> x = np.ones((3, 4), "float32")
        >>> bool(np.allclose(forward(x), model(x), atol=1e-6))
        True
    """
    if not has_graph(model):
        return None
    sources = {key: id(x) for key, x in inputs_by_key(model).items()}
    target = id(policy_output(model))
    steps = _steps(model, list(sources.values()), target)
    if not steps or not _is_complete(steps, set(sources.values())):
        return None
    last = steps[-1].layer
    ends_in = last.activation if type(last) in _with_activation() else None
    gives_logits = logits and ends_in in (keras.activations.sigmoid, keras.activations.softmax)

    def functions(read: Read) -> list[Any]:
        return [
            _numpy_function(step.layer, gives_logits and step is steps[-1], read) for step in steps
        ]

    variables: list[Any] = []

    def note(variable: Any) -> np.ndarray:
        variables.append(variable)
        return read_variable(variable)

    if None in functions(note):
        return None
    name = next(iter(sources))
    previous = [sources[name], *(step.output for step in steps)]
    is_chain = len(sources) == 1 and all(
        step.inputs == [before] for step, before in zip(steps, previous, strict=False)
    )

    def snapshot(read: Read = read_variable) -> Forward:
        layers = functions(read)

        def forward_through_chain(x: Any) -> np.ndarray:
            x = np.asarray(x[name] if isinstance(x, dict) else x, np.float32)
            for layer in layers:
                x = layer(x)
            return x

        def forward_through_graph(x: Any) -> np.ndarray:
            values = {
                key: np.asarray(x[name] if isinstance(x, dict) else x, np.float32)
                for name, key in sources.items()
            }
            for layer, step in zip(layers, steps, strict=True):
                values[step.output] = layer(*(values[key] for key in step.inputs))
            return values[target]

        return forward_through_chain if is_chain else forward_through_graph

    return Mirror(snapshot, gives_logits, variables)


class _Step(NamedTuple):
    """A layer or operation, and its tensors by their ids."""

    layer: Any
    inputs: list[int]
    output: int


def _steps(model: keras.Model, sources: list[int], target: int) -> list[_Step]:
    """The steps that lead to the target, in order."""
    if isinstance(model, keras.Sequential):
        # The layers of a loaded Sequential model may still refer to tensors of an earlier build.
        layers = list(_flat_layers(model))
        tensors = [*sources, *range(1, len(layers)), target]
        return [_Step(x, [tensors[i]], tensors[i + 1]) for i, x in enumerate(layers)]
    wanted, steps = {target}, []
    for layer in reversed(model.operations):
        if isinstance(layer, keras.layers.InputLayer) or len(_as_list(layer.output)) != 1:
            continue
        step = _Step(layer, [id(x) for x in _as_list(layer.input)], id(layer.output))
        if step.output in wanted:
            steps.append(step)
            wanted.update(step.inputs)
    return steps[::-1]


def _flat_layers(model: keras.Sequential) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from _flat_layers(layer)
        else:
            yield layer


def _is_complete(steps: list[_Step], known: set[int]) -> bool:
    """Whether each step's inputs are known. Layers used more than once show only one use."""
    for step in steps:
        if not known.issuperset(step.inputs):
            return False
        known.add(step.output)
    return True


def _as_list(x: Any) -> list:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _with_activation() -> tuple[type, type]:
    return keras.layers.Dense, keras.layers.Activation


def _numpy_function(layer: Any, linear: bool, read: Read) -> ArrayFunction | None:
    """A layer in NumPy with its current weights; None if it is not supported."""
    kind, layers = type(layer), keras.layers
    if not isinstance(layer, layers.Layer):
        return _numpy_operation(layer)
    if layer.compute_dtype != "float32":
        return None
    if kind in _with_activation():
        if layer.activation not in _activations():
            return None
        activation = None if linear else _activations()[layer.activation]
        if kind is layers.Dense:
            return _numpy_dense(layer, activation, read)
        return activation or _identity
    if kind is layers.Rescaling and np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        scale, offset = np.float32(layer.scale), np.float32(layer.offset)
        return lambda x: x * scale + offset
    if kind is layers.Concatenate and layer.axis == -1:
        return lambda *xs: np.concatenate(xs, axis=-1)
    if kind is layers.BatchNormalization:
        return _numpy_batch_normalization(layer, read)
    if kind is layers.Flatten and layer.data_format == "channels_last":
        return lambda x: x.reshape(len(x), -1)
    return None


def _numpy_dense(layer: Any, activation: ArrayFunction | None, read: Read) -> ArrayFunction | None:
    if layer.lora_enabled or layer.quantization_mode is not None:
        return None
    kernel = read(layer.kernel)
    bias = read(layer.bias) if layer.use_bias else np.zeros(layer.units, np.float32)

    def dense(x: np.ndarray) -> np.ndarray:
        x = x.dot(kernel)  # half the overhead of @ on small arrays
        x += bias
        return x if activation is None else activation(x)

    return dense


def _numpy_batch_normalization(layer: Any, read: Read) -> ArrayFunction | None:
    if layer.trainable or layer.axis not in (-1, len(layer.output.shape) - 1):
        return None
    scale = 1 / np.sqrt(read(layer.moving_variance) + np.float32(layer.epsilon))
    if layer.scale:
        scale = scale * read(layer.gamma)
    mean = read(layer.moving_mean)
    offset = read(layer.beta) if layer.center else np.float32(0)
    return lambda x: (x - mean) * scale + offset


def _numpy_operation(operation: Any) -> ArrayFunction | None:
    """An operation of `keras.ops`; their classes are not public, so they are known by name."""
    name = type(operation).__name__
    tensors = len(_as_list(operation.input))  # constants are not among them
    if operation.output.dtype != "float32":
        return None
    if name in ("Add", "Subtract") and tensors == 2:
        return np.add if name == "Add" else np.subtract
    if name == "Clip" and tensors == 1:
        return lambda x: np.clip(x, np.float32(operation.x_min), np.float32(operation.x_max))
    if name == "Mean" and operation.axis == [-1]:
        return lambda x: x.mean(axis=-1, keepdims=operation.keepdims)
    return None


def _identity(x: np.ndarray) -> np.ndarray:
    return x
