"""Reading the structure of Keras models, and checking that they can be policies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, cast

import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import keras
from tfpg.core.messages import one_line, warn
from tfpg.envs.contracts import BEGIN, OBSERVATION
from tfpg.models.observations import Codes, input_shape, map_space, without_mask


def has_graph(model: keras.Model) -> bool:
    """Whether a model is built and Sequential or functional, so that its layers are known."""
    overridden = not type(model).call.__module__.startswith("keras.")
    return not overridden and bool(getattr(model, "outputs", None))


def all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    """The layers of a model, including those of nested models."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from all_layers(layer)


def state_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the states of a recurrent policy: of outputs that are also inputs.

    They are recognized by their names in a dict of outputs, other than ``"policy"`` and
    ``"value"``; see `tfpg.models.recurrent`.

    Raises:
        ValueError: A state has another shape as an output than as an input.

    Example:
        >>> import tfpg
        >>> state_shapes(tfpg.networks.recurrent("CartPole-v1", units=32))
        {'state': (32,)}
    """
    outputs = None
    if has_graph(model) and not isinstance(model, keras.Sequential):
        outputs = model.output
    if not isinstance(outputs, dict):
        return {}
    inputs = inputs_by_key(model)
    names = set(inputs) - {"policy", "value"}
    states = {name: x for name, x in outputs.items() if name in names}
    for name, x in states.items():
        if x.shape != inputs[name].shape or None in x.shape[1:]:
            raise ValueError(
                f"The state {name!r} has the shape {tuple(inputs[name].shape)} as an input and "
                f"{tuple(x.shape)} as an output: they must be equal, and known but for the batch."
            )
    return {name: tuple(x.shape[1:]) for name, x in states.items()}


def split_outputs(outputs: Any, states: Collection[str] = ()) -> tuple[Any, Any]:
    """Split the outputs of a model into the policy's and the value.

    A single output is the policy's. Of two, the first is the policy's and the second is the value.
    In a dict, the value is called ``"value"``.

    Args:
        outputs: The outputs.
        states: Names of outputs in a dict that are neither.

    Returns:
        The policy's output, and the value or None.

    Raises:
        ValueError: There are more outputs, or the dict has no ``"value"``.

    Example:
        >>> split_outputs(["logits", "v"]), split_outputs({"value": "v", "policy": "logits"})
        (('logits', 'v'), ('logits', 'v'))
    """
    if isinstance(outputs, dict):
        others = [x for name, x in outputs.items() if name not in ("value", *states)]
        if len(others) == 1:
            return others[0], outputs.get("value")
    elif not isinstance(outputs, (list, tuple)):
        return outputs, None
    elif len(outputs) in (1, 2):
        return outputs[0], outputs[1] if len(outputs) == 2 else None
    names = f" ({', '.join(sorted(outputs))})" if isinstance(outputs, dict) else ""
    raise ValueError(
        "A policy model has one output, or two: the policy's and then the value (in a dict, "
        f'"value"). This one has {len(outputs)}{names}. Each state of a recurrent model is an '
        "output with the name of its input, as in tfpg.networks.recurrent."
    )


def policy_output(model: keras.Model) -> Any:
    """The symbolic tensor of the policy's output, for a model with a graph."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0]
    return split_outputs(model.output, state_shapes(model))[0]


def last_activation(model: keras.Model) -> str | None:
    """The name of the activation that makes the policy's output, if it is known.

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
    if kind in ("sigmoid", "softmax"):  # a layer or a function of keras.ops
        return kind
    return getattr(getattr(operation, "activation", None), "__name__", None)


def inputs_by_key(model: keras.Model) -> dict[str, Any]:
    """The symbolic inputs of a model with a graph: by the keys of its dict, or by their names."""
    inputs = None if isinstance(model, keras.Sequential) else model.input
    return dict(inputs) if isinstance(inputs, dict) else {x.name: x for x in model.inputs}


def takes_no_dict(model: keras.Model, space: Any) -> bool:
    """Whether a model takes the only observation in a `Dict` with an action mask as an array."""
    has_one = isinstance(space, spaces.Dict) and not isinstance(without_mask(space), spaces.Dict)
    return has_one and takes_array(model)


def takes_array(model: keras.Model) -> bool:
    """Whether a model has one input that is not in a dict, as far as that is known."""
    if not has_graph(model) or isinstance(model, keras.Sequential):
        return True
    return len(model.inputs) == 1 and not isinstance(model.input, dict)


def input_space(model: keras.Model, space: Any) -> Any:
    """The observation space, with `Codes` in place of the parts that a model takes as integers."""
    if takes_no_dict(model, space):
        return spaces.Dict({**space, OBSERVATION: input_space(model, space[OBSERVATION])})
    if not has_graph(model):
        return space

    def coded(part: Any, x: Any) -> Any:
        if isinstance(part, (spaces.Discrete, spaces.MultiDiscrete)) and "int" in x.dtype:
            codes = Codes(part)
            if _fits(tuple(x.shape[1:]), codes.shape) and codes.shape != input_shape(part):
                return codes
        return part

    if isinstance(space, spaces.Dict):
        inputs = inputs_by_key(model)
        parts = {k: coded(part, inputs[k]) if k in inputs else part for k, part in space.items()}
        return spaces.Dict(parts)
    return coded(space, model.inputs[0]) if len(model.inputs) == 1 else space


def input_keys(model: keras.Model, space: Any) -> str | list[str] | None:
    """Check the inputs of a model, and return the keys of a `Dict` observation that it takes.

    Returns:
        The keys, or the key of an observation that it takes without a dict. None: all, or the
        observation is not a `Dict`.

    Raises:
        ValueError: An input has another name or shape than the observations.
    """
    if takes_no_dict(model, space):
        input_keys(model, space[OBSERVATION])
        return OBSERVATION
    keys = None
    if isinstance(space, spaces.Dict) and not has_graph(model):
        known = without_mask(space)
        return None if known is space else list(cast(spaces.Dict, known))
    if isinstance(space, spaces.Dict):
        keys = list(inputs_by_key(model))
        if not set(keys) <= set(space):
            given = [key for key in space if key != BEGIN]
            missing = next((key for key in given if key not in keys), given[0])
            raise ValueError(
                f"The model's inputs are named {keys}, but the observation keys are {given}. "
                f"Name each input after its key, for example keras.Input(shape, name={missing!r}), "
                "or build the model from a dict of inputs: keras.Model({key: input}, outputs)."
            )
    shape = getattr(model, "input_shape", None) if model.built else None
    if shape is None:
        return keys
    wanted = map_space(input_shape, space, keys)
    if keys:
        for key, x in inputs_by_key(model).items():
            if not _fits(wanted[key], tuple(x.shape)[1:]):
                raise ValueError(_wrong_input(key, tuple(x.shape), space[key], wanted[key]))
    elif isinstance(shape, (list, dict)):
        raise ValueError(
            f"The model has {len(shape)} inputs, but observations are arrays of shape {wanted}. If "
            "it is recurrent, use dicts of inputs and outputs, and give each state the same name "
            "in both, as tfpg.networks.recurrent does."
        )
    elif not _fits(wanted, shape[1:]):
        raise ValueError(
            f"The model takes inputs of shape {one_line(shape)}, but the observations, "
            f"{one_line(space)}, have shape {wanted}. Build it with keras.Input of that shape, or "
            f"use the environment it was trained in.{_first_weights(model)}"
        )
    return keys


def _wrong_input(key: str, shape: tuple, space: Any, wanted: tuple) -> str:
    advice = f"use keras.Input({wanted}, name={key!r})"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        advice += f', or keras.Input({Codes(space).shape}, dtype="int32", name={key!r}) for the '
        advice += "number instead of a one-hot vector"
    return (
        f"The model's input {key!r} has shape {shape}, but these observations, {one_line(space)}, "
        f"have shape {wanted}: {advice}."
    )


def _first_weights(model: keras.Model) -> str:
    for layer in all_layers(model):
        if layer.weights and not hasattr(layer, "layers"):
            shape = tuple(layer.weights[0].shape)
            return f" Its first layer, {layer.name!r}, has weights of shape {shape}."
    return ""


def noise_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers that draw the noise of a noisy network; see `tfpg.models.noisy`.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), noisy=True)
        >>> [layer.output.shape[-1] for layer in noise_layers(model)]
        [4, 8, 8, 2]
    """
    if not has_graph(model) or isinstance(model, keras.Sequential):
        return []
    return [layer for layer in model.layers if _is_noise_on_zeros(layer)]


def _is_noise_on_zeros(layer: keras.layers.Layer) -> bool:
    """Whether a layer is called once, on zeros, and gives standard normal noise ``[B, S]``."""
    if not isinstance(layer, keras.layers.GaussianNoise) or layer.stddev != 1:
        return False
    if len(layer._inbound_nodes) != 1 or len(layer.output.shape) != 2:
        return False
    history = getattr(layer.input, "_keras_history", None)
    return history is not None and type(history.operation).__name__ == "ZerosLike"


def check_layers(model: keras.Model, allowed: Collection[keras.layers.Layer] = ()) -> None:
    """Raise if a layer responds to the same observation differently in training.

    Args:
        model: The model.
        allowed: Layers that may be random.

    Raises:
        ValueError: The model has dropout or noise layers, trainable batch normalization, stateful
            layers, or activity regularizers.

    Example:
        >>> import keras
        >>> check_layers(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    """
    layers = keras.layers
    random = (
        *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D),
        *(layers.SpatialDropout3D, layers.AlphaDropout, layers.GaussianDropout),
        layers.GaussianNoise,
    )
    noise = noise_layers(model)
    for layer in all_layers(model):
        if layer in allowed:
            continue
        if layer in noise:
            raise ValueError(
                f"Layer {layer.name!r} (GaussianNoise) makes this a noisy network, for DQN, "
                "C51, QRDQN and Rainbow only. To play it, use epsilon=0.0 in tfpg.Policy."
            )
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"Layer {layer.name!r} ({type(layer).__name__}) is stateful, so it would not "
                "forget an episode at its end. Make its state an input and an output of the model, "
                "as tfpg.networks.recurrent does."
            )
        if isinstance(layer, random) and getattr(layer, "rate", True):
            reason = "is random in training"
        elif isinstance(layer, layers.BatchNormalization) and layer.trainable:
            reason = "depends on the rest of the batch in training, unless it is frozen"
        elif getattr(layer, "activity_regularizer", None) is not None:
            reason = "has an activity regularizer, which depends on the batch"
        else:
            continue
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) {reason}, but a policy must be trained "
            "as it acted. Remove it from the model."
        )


def check_calls(
    model: keras.Model, inputs: Any, noise: Collection[keras.layers.Layer] = ()
) -> None:
    """Raise if a model adds losses, or responds differently in training.

    Outputs are not compared if the model is random outside training as well.

    Args:
        model: A model that was called on such inputs before.
        inputs: A batch of inputs.
        noise: Layers whose noise does not count.

    Raises:
        ValueError: It calls ``add_loss``; or with ``training=True``, its outputs differ, or weights
            change that are not trained. They are restored.
    """
    if len(model.losses) > sum(bool(v.regularizer) for v in model.trainable_weights):
        raise ValueError(
            "The model calls add_loss, and agents minimize only their own losses and the penalties "
            "of weight regularizers. Remove the call, or use a kernel_regularizer."
        )
    before = [(v, v.numpy()) for v in model.non_trainable_variables]

    def call(training: bool) -> tuple[list[np.ndarray], list[str]]:
        outputs = [np.asarray(x) for x in keras.tree.flatten(model(inputs, training=training))]
        changed = [v.path for v, value in before if not np.array_equal(v.numpy(), value)]
        for v, value in before:
            v.assign(value)
        return outputs, changed

    deviations = [layer.stddev for layer in noise]
    for layer in noise:
        layer.stddev = 0.0
    try:
        acting, changed_acting = call(training=False)
        training, changed_training = call(training=True)
        again, _ = call(training=False)
    finally:
        for layer, deviation in zip(noise, deviations, strict=True):
            layer.stddev = deviation
    changed = [path for path in changed_training if path not in changed_acting]
    same = _close(acting, training) or not _close(acting, again)
    if changed or not same:
        what = f"changes {changed[0]!r}" if same else "returns different outputs"
        raise ValueError(
            f"With training=True the model {what}, for example by dropout, noise or batch "
            "statistics in a layer, but a policy must be trained as it acted. Remove such layers."
        )


def _close(outputs: list[np.ndarray], others: list[np.ndarray]) -> bool:
    pairs = zip(outputs, others, strict=True)
    return all(np.allclose(a, b, 1e-4, 1e-5, equal_nan=True) for a, b in pairs)


def warn_about_unused_loss(model: keras.Model) -> None:
    """Warn if a model was compiled with a loss, which no agent uses.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam")
        >>> warn_about_unused_loss(model)
    """
    if getattr(model, "loss", None) is not None:
        warn(
            f"The model was compiled with loss={model.loss!r}, which is not used: agents have "
            "their own losses. Compile the model with just an optimizer."
        )


def traced_constants(model: keras.Model) -> list[int]:
    """The identities of what a compiled call treats as constant: adapted Normalization layers.

    If the list changes, one of the layers was adapted again and the compiled call is stale.
    """
    layers = [model, *all_layers(model)]
    return [id(x.mean) for x in layers if isinstance(x, keras.layers.Normalization)]


def non_finite_weight(model: keras.Model) -> str | None:
    """The path of the first weight with NaN or infinity, or None."""
    bad = (w.path for w in model.weights if not np.isfinite(np.asarray(w)).all())
    return next(bad, None)


def explain_non_finite(model: keras.Model | None, observations: Any, outputs: np.ndarray) -> str:
    """An error message for outputs ``[N, K]`` with NaN or infinity: where, and why."""
    row = int(np.argmin(np.isfinite(outputs).all(axis=-1)))

    def text(x: Any) -> str:
        return np.array2string(np.asarray(x)[row].ravel(), threshold=6, separator=", ")

    problem = f"The model's outputs are not finite: {text(outputs)} for observation {row}"
    weight = None if model is None else non_finite_weight(model)
    if weight is not None:
        return f"{problem}. Its weight {weight!r} is not finite: load an earlier model."
    return f"{problem}, which is {map_arrays(text, observations)}."


def _passes_through(operation: Any) -> bool:
    kinds = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity)
    linear = getattr(operation, "activation", None) is keras.activations.linear
    return isinstance(operation, kinds) or (
        linear and isinstance(operation, keras.layers.Activation)
    )


def _fits(shape: tuple, expected: tuple) -> bool:
    return len(shape) == len(expected) and all(
        e is None or s == e for s, e in zip(shape, expected, strict=True)
    )
