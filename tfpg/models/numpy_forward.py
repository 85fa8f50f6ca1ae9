"""A NumPy copy of a Keras model's forward pass, for acting.

A compiled TensorFlow call takes a hundred microseconds or more, whatever it computes. A few Dense
layers on a handful of observations take ten in NumPy. Acting needs no gradients, so a model made of
the layers below acts through its copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.arrays import BLOCK
from tfpg.core.backend import keras, read_variable
from tfpg.models.heads import NOISE
from tfpg.models.inspection import has_graph, inputs_by_key, policy_output, state_shapes
from tfpg.ops.numeric import sigmoid, softplus

Forward = Callable[[Any], np.ndarray]
Read = Callable[[Any], np.ndarray]
ArrayFunction = Callable[..., np.ndarray]

# By the names of Keras's classes, which are not public, and their numbers of tensors.
_OPERATIONS: dict[tuple[str, int], ArrayFunction] = {
    ("Add", 2): np.add,
    ("Subtract", 2): np.subtract,
    ("Multiply", 2): np.multiply,
    ("Absolute", 1): np.abs,
    ("Sign", 1): np.sign,
    ("Sqrt", 1): np.sqrt,
}
_ZERO = np.zeros((), np.float32)  # NumPy takes half as long with it as with a Python number


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, _ZERO)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.expm1(np.minimum(x, _ZERO)))  # expm1(x) >= x, with equality at 0


def _silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@functools.cache
def _activations() -> dict[Any, ArrayFunction | None]:
    known = keras.activations
    return {
        known.linear: None,
        known.relu: _relu,
        known.elu: _elu,
        known.tanh: np.tanh,
        known.sigmoid: sigmoid,
        known.softmax: _softmax,
        known.softplus: softplus,
        known.silu: _silu,
    }


class Mirror(NamedTuple):
    """A model's forward pass in NumPy.

    Attributes:
        gives_logits: Whether the outputs leave out the sigmoid or softmax that the model ends in.
        variables: The variables that a snapshot reads.
        steps: The layers, in order.
        sources: The ids of the model's inputs, by their names.
        targets: The ids of the policy's output and of the states.
    """

    gives_logits: bool
    variables: list[Any]
    steps: list[_Step]
    sources: dict[str, int]
    targets: list[int]

    def snapshot(self, read: Read = read_variable) -> NumpyForward:
        """Return the forward pass with the current weights.

        Args:
            read: Returns the value of a variable.
        """
        weights = [read(v) for v in self.variables]
        return NumpyForward(self.steps, self.sources, self.targets, weights)


class NumpyForward:
    """A forward pass with fixed weights. It can be pickled, and does not need TensorFlow.

    More than `BLOCK` rows are processed in blocks of `BLOCK`, and the last block is padded with
    zeros. The last bit of a matrix product can depend on the number of rows. With blocks, it does
    not depend on how many environments act together, in this process or another.

    Args:
        steps: The layers, in order.
        sources: The ids of the inputs, by their names.
        targets: The ids of the outputs, which become columns, one after another.
        weights: The arrays that the layers refer to.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "tanh")])
        >>> forward, x = mirror(model).snapshot(), np.random.default_rng(0).normal(size=(20, 4))
        >>> bool((forward(x)[8:16] == forward(x[8:16])).all())
        True
    """

    def __init__(
        self,
        steps: list[_Step],
        sources: dict[str, int],
        targets: list[int],
        weights: list[np.ndarray],
    ):
        self._arguments = steps, sources, targets, weights
        self._layers = [step.make(*(weights[i] for i in step.weights)) for step in steps]
        before = [next(iter(sources.values())), *(step.outputs[0] for step in steps)]
        self._is_chain = len(sources) == len(targets) == 1 and all(
            step.inputs == [tensor] for step, tensor in zip(steps, before, strict=False)
        )

    def __reduce__(self) -> Any:
        return NumpyForward, self._arguments

    def __call__(self, x: Any) -> np.ndarray:
        """Return the outputs ``[N, K]`` for inputs ``[N, ...]``, or a dict of inputs."""
        steps, sources, targets, _ = self._arguments
        inputs = [x[name] for name in sources] if isinstance(x, dict) else [x]
        inputs = [np.asarray(each, np.float32) for each in inputs]
        count = len(inputs[0])
        if count > BLOCK:
            inputs = [_in_blocks(each) for each in inputs]
        if self._is_chain:
            (output,) = inputs
            for layer in self._layers:
                output = layer(output)
        else:
            values = dict(zip(sources.values(), inputs, strict=True))
            for layer, step in zip(self._layers, steps, strict=True):
                result = layer(*(values[key] for key in step.inputs))
                if len(step.outputs) == 1:
                    values[step.outputs[0]] = result
                else:
                    values.update(zip(step.outputs, result, strict=True))
            output = values[targets[0]]
            if len(targets) > 1:
                columns = [values[key].reshape(*output.shape[:-1], -1) for key in targets]
                output = np.concatenate(columns, axis=-1)
        return output.reshape(-1, output.shape[-1])[:count] if count > BLOCK else output


def _in_blocks(x: np.ndarray) -> np.ndarray:
    """``[N, ...]`` as ``[N / BLOCK, BLOCK, ...]``."""
    missing = -len(x) % BLOCK
    if missing:
        x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    return x.reshape(-1, BLOCK, *x.shape[1:])


def mirror(model: keras.Model, *, logits: bool = False, noise: Sequence[Any] = ()) -> Mirror | None:
    """Return the forward pass of a Keras model in NumPy, or None if it has other layers than these.

    Supports Sequential and functional models of `Dense`, `Activation`, `Flatten`, `Reshape`,
    `Rescaling`, `Concatenate`, `LayerNormalization` over the last axis, frozen
    `BatchNormalization`, `GRUCell` and `LSTMCell` layers with the usual activations, and of the
    `keras.ops` for clipping, sums, differences, products, means, signs and roots, all in float32.
    In a model with a value output, only what the policy's output needs is computed, and the states
    of a recurrent one.

    Args:
        model: A built Keras model.
        logits: Leave out a sigmoid or softmax that the model ends in.
        noise: The tensors ``[B, S_i]`` that are parts of one more input, `NOISE`; see
            `tfpg.models.noisy`.

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
    states = [id(model.output[name]) for name in state_shapes(model)]
    targets = [id(policy_output(model)), *states]
    steps, ends = [], np.cumsum([x.shape[-1] for x in noise]).tolist()
    if noise:
        sources[NOISE] = id(noise)
    for x, first, end in zip(noise, [0, *ends], ends, strict=False):
        steps.append(_Step(_made(partial(_part, first, end)), [], [id(noise)], [id(x)]))
    known = {*sources.values(), *map(id, noise)}
    found = _layers_to(model, list(sources.values()), targets, known)
    if not found or not _is_complete(found, known) or not known.issuperset(targets):
        return None
    last = next((each.layer for each in found if targets[0] in each.outputs), None)
    ends_in = getattr(last, "activation", None) if type(last) in _with_activation() else None
    only_output = targets[0] not in {*targets[1:], *(x for each in found for x in each.inputs)}
    probabilities = keras.activations.sigmoid, keras.activations.softmax
    gives_logits = logits and only_output and ends_in in probabilities
    variables: list[Any] = []
    for each in found:
        numpy = _numpy_layer(each.layer, gives_logits and each.layer is last)
        if numpy is None:
            return None
        make, used = numpy
        places = list(range(len(variables), len(variables) + len(used)))
        steps.append(_Step(make, places, each.inputs, each.outputs))
        variables.extend(used)
    return Mirror(gives_logits, variables, steps, sources, targets)


class _Step(NamedTuple):
    """A layer or operation in NumPy, and its tensors by their ids."""

    make: Callable[..., ArrayFunction]  # from the weights
    weights: list[int]
    inputs: list[int]
    outputs: list[int]


class _Layer(NamedTuple):
    """A layer or operation of Keras, and its tensors by their ids."""

    layer: Any
    inputs: list[int]
    outputs: list[int]


def _layers_to(
    model: keras.Model, sources: list[int], targets: list[int], known: set[int]
) -> list[_Layer]:
    """The layers that lead from known tensors to the targets, in order."""
    if isinstance(model, keras.Sequential):
        # The layers of a loaded Sequential model may still refer to tensors of an earlier build.
        layers = list(_flat_layers(model))
        tensors = [*sources, *range(1, len(layers)), *targets]
        return [_Layer(x, [tensors[i]], [tensors[i + 1]]) for i, x in enumerate(layers)]
    wanted, found = set(targets), []
    for layer in reversed(model.operations):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        each = _Layer(layer, _ids(layer.input), _ids(layer.output))
        if not (wanted - known).isdisjoint(each.outputs):
            found.append(each)
            wanted.update(each.inputs)
    return found[::-1]


def _flat_layers(model: keras.Sequential) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            yield from _flat_layers(layer)
        else:
            yield layer


def _is_complete(found: list[_Layer], known: set[int]) -> bool:
    """Whether each layer's inputs are known. Layers used more than once show only one use."""
    for each in found:
        if not known.issuperset(each.inputs):
            return False
        known.update(each.outputs)
    return True


def _ids(tensors: Any) -> list[int]:
    return [id(x) for x in keras.tree.flatten(tensors)]


def _with_activation() -> tuple[type, type]:
    return keras.layers.Dense, keras.layers.Activation


_NumpyLayer = tuple[Callable[..., ArrayFunction], list[Any]]


def _numpy_layer(layer: Any, linear: bool) -> _NumpyLayer | None:
    """How to make a layer in NumPy, and the variables to make it from; None if not supported."""
    kind, layers = type(layer), keras.layers
    if not isinstance(layer, layers.Layer):
        function = _numpy_operation(layer)
        return None if function is None else (_made(function), [])
    if layer.compute_dtype != "float32":
        return None
    if kind in _with_activation():
        if layer.activation not in _activations():
            return None
        activation = None if linear else _activations()[layer.activation]
        if kind is not layers.Dense:
            return _made(activation or _identity), []
        if layer.lora_enabled or layer.quantization_mode is not None:
            return None
        variables = [layer.kernel, layer.bias] if layer.use_bias else [layer.kernel]
        return partial(_dense, activation), variables
    if kind is layers.Rescaling and np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        constants = np.float32(layer.scale), np.float32(layer.offset)
        return _made(partial(_rescaled, *constants)), []
    if kind is layers.Concatenate and layer.axis == -1:
        return _made(_concatenated), []
    if kind in (layers.GRUCell, layers.LSTMCell):
        return _numpy_cell(layer)
    if kind is layers.BatchNormalization:
        return _numpy_batch_normalization(layer)
    if kind is layers.LayerNormalization:
        return _numpy_layer_normalization(layer)
    if kind is layers.Reshape:
        return _made(partial(_reshaped, len(layer.input.shape) - 1, layer.output.shape[1:])), []
    if kind is layers.Flatten and layer.data_format == "channels_last":
        return _made(partial(_flattened, len(layer.input.shape) - 1)), []
    return None


def _made(function: ArrayFunction) -> Callable[..., ArrayFunction]:
    """How to make a layer without weights."""
    return partial(_identity, function)


def _dense(
    activation: ArrayFunction | None, kernel: np.ndarray, bias: np.ndarray | None = None
) -> ArrayFunction:
    def dense(x: np.ndarray) -> np.ndarray:
        x = _product(x, kernel)
        if bias is not None:
            x += bias
        return x if activation is None else activation(x)

    return dense


def _product(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # `dot` has half the overhead on small arrays, but a different result for blocks.
    return x.dot(kernel) if x.ndim == 2 else np.matmul(x, kernel)


def _numpy_cell(layer: Any) -> _NumpyLayer | None:
    known = _activations()
    activation, gate = known.get(layer.activation), known.get(layer.recurrent_activation)
    if activation is None or gate is None or not layer.use_bias:
        return None
    if layer.dropout or layer.recurrent_dropout:
        return None
    variables = [layer.kernel, layer.recurrent_kernel, layer.bias]
    if type(layer) is keras.layers.LSTMCell:
        return partial(_lstm, activation, gate), variables
    # The other kind of GRU is that of the first paper.
    return (partial(_gru, activation, gate), variables) if layer.reset_after else None


def _gru(
    activation: ArrayFunction,
    gate: ArrayFunction,
    kernel: np.ndarray,
    recurrent: np.ndarray,
    biases: np.ndarray,
) -> Callable[..., Any]:
    both = 2 * len(recurrent)  # gates

    def step(x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = _product(x, kernel) + biases[0]
        h = _product(state, recurrent) + biases[1]
        update, reset = np.split(gate(x[..., :both] + h[..., :both]), 2, axis=-1)
        candidate = activation(x[..., both:] + reset * h[..., both:])
        state = candidate + update * (state - candidate)
        return state, state

    return step


def _lstm(
    activation: ArrayFunction,
    gate: ArrayFunction,
    kernel: np.ndarray,
    recurrent: np.ndarray,
    bias: np.ndarray,
) -> Callable[..., Any]:
    def step(x: np.ndarray, state: np.ndarray, carry: np.ndarray) -> tuple[np.ndarray, ...]:
        z = _product(x, kernel) + _product(state, recurrent) + bias
        enter, forget, content, leave = np.split(z, 4, axis=-1)
        carry = gate(forget) * carry + gate(enter) * activation(content)
        state = gate(leave) * activation(carry)
        return state, state, carry

    return step


def _numpy_batch_normalization(layer: Any) -> _NumpyLayer | None:
    if layer.trainable or layer.axis not in (-1, len(layer.output.shape) - 1):
        return None
    named = {"variance": layer.moving_variance, "mean": layer.moving_mean}
    if layer.scale:
        named["gamma"] = layer.gamma
    if layer.center:
        named["beta"] = layer.beta
    make = partial(_batch_normalization, np.float32(layer.epsilon), tuple(named))
    return make, list(named.values())


def _batch_normalization(
    epsilon: np.float32, names: tuple[str, ...], *weights: np.ndarray
) -> ArrayFunction:
    given = dict(zip(names, weights, strict=True))
    scale = 1 / np.sqrt(given["variance"] + epsilon) * given.get("gamma", np.float32(1))
    mean, offset = given["mean"], given.get("beta", np.float32(0))
    return lambda x: (x - mean) * scale + offset


def _numpy_layer_normalization(layer: Any) -> _NumpyLayer | None:
    over_last = layer.axis in ([-1], [len(layer.output.shape) - 1])
    if not (over_last and layer.scale and layer.center):
        return None
    size = np.float32(layer.output.shape[-1])
    make = partial(_layer_normalization, np.float32(layer.epsilon), size)
    return make, [layer.gamma, layer.beta]


def _layer_normalization(
    epsilon: np.float32, size: np.float32, gamma: np.ndarray, beta: np.ndarray
) -> ArrayFunction:
    def normalize(x: np.ndarray) -> np.ndarray:
        x = x - np.add.reduce(x, axis=-1, keepdims=True) / size
        variance = np.add.reduce(x * x, axis=-1, keepdims=True) / size
        return x / np.sqrt(variance + epsilon) * gamma + beta

    return normalize


def _numpy_operation(operation: Any) -> ArrayFunction | None:
    """An operation of `keras.ops`."""
    name = type(operation).__name__
    tensors = len(keras.tree.flatten(operation.input))  # constants are not among them
    if operation.output.dtype != "float32":
        return None
    if (name, tensors) in _OPERATIONS:
        return _OPERATIONS[name, tensors]
    if name == "Clip" and tensors == 1:
        return partial(_clipped, np.float32(operation.x_min), np.float32(operation.x_max))
    if name == "Mean" and operation.axis in ([-1], [-2]):
        return partial(_mean, operation.axis[0], operation.keepdims)
    return None


def _identity(x: Any) -> Any:
    return x


def _part(first: int, end: int, x: np.ndarray) -> np.ndarray:
    return x[..., first:end]


def _rescaled(scale: np.float32, offset: np.float32, x: np.ndarray) -> np.ndarray:
    return x * scale + offset


def _clipped(low: np.float32, high: np.float32, x: np.ndarray) -> np.ndarray:
    return np.clip(x, low, high)


def _mean(axis: int, keepdims: bool, x: np.ndarray) -> np.ndarray:
    return x.mean(axis=axis, keepdims=keepdims)


def _concatenated(*xs: np.ndarray) -> np.ndarray:
    return np.concatenate(xs, axis=-1)


def _reshaped(rank: int, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[: x.ndim - rank], *shape)


def _flattened(rank: int, x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[: x.ndim - rank], -1)
