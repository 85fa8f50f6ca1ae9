"""What the graph of a Keras model tells: its layers, its last activation, its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfpg.core.backend import keras

_Functional = type(keras.Model(x := keras.Input((1,)), x))


def has_graph(model: keras.Model) -> bool:
    """Whether the model's layers are what it computes: Sequential or functional, and built."""
    functional = type(model).call in (keras.Sequential.call, _Functional.call)
    return functional and bool(getattr(model, "outputs", None))


def all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from all_layers(layer)


def split_outputs(outputs: Any) -> tuple[Any, Any]:
    """What a model returned, or its output's description, as policy outputs and values.

    One output is the policy's. Of two, the first is the policy's and the second the value; in a
    dict the value is the one called ``"value"``.

    Returns:
        The policy's output, and the value or None.

    Raises:
        ValueError: There are more, or a dict of two has no ``"value"``.

    Example:
        >>> split_outputs(["logits", "v"]), split_outputs({"value": "v", "policy": "logits"})
        (('logits', 'v'), ('logits', 'v'))
    """
    if isinstance(outputs, dict):
        rest = [x for name, x in outputs.items() if name != "value"]
        if len(rest) == 1:
            return rest[0], outputs.get("value")
        raise ValueError(
            'A policy model has one output, or one and another called "value", and this one has '
            f"{sorted(outputs)}."
        )
    if not isinstance(outputs, (list, tuple)):
        return outputs, None
    if len(outputs) in (1, 2):
        return outputs[0], outputs[1] if len(outputs) == 2 else None
    raise ValueError(
        "A policy model has one output, or two (the policy's, then the value), and this one has "
        f"{len(outputs)}."
    )


def policy_output(model: keras.Model) -> Any:
    """The symbolic tensor of the policy's output, of a model with a graph."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0]
    return split_outputs(model.output)[0]


def last_activation(model: keras.Model) -> str | None:
    """Name of the activation that made a policy's output, where the model's graph tells it.

    Example:
        >>> import keras
        >>> last_activation(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")]))
        'sigmoid'
    """
    if not has_graph(model):
        return None
    operation = policy_output(model)._keras_history.operation
    while _passes_through(operation):
        operation = operation.input._keras_history.operation
    if isinstance(operation, keras.Model):
        return last_activation(operation)
    kind = type(operation).__name__.lower()
    if kind in ("sigmoid", "softmax"):  # a layer, or a function of keras.ops
        return kind
    return getattr(getattr(operation, "activation", None), "__name__", None)


def hidden_activation(model: keras.Model, outputs: int) -> str | None:
    """An activation that may be the last one of a subclassed model with this many outputs."""
    for layer in () if has_graph(model) else model.layers:
        name = getattr(getattr(layer, "activation", None), "__name__", None)
        if name in ("sigmoid", "softmax") and getattr(layer, "units", None) == outputs:
            return name
    return None


def _passes_through(operation: Any) -> bool:
    kinds = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity)
    linear = getattr(operation, "activation", None) is keras.activations.linear
    return isinstance(operation, kinds) or (
        linear and isinstance(operation, keras.layers.Activation)
    )
