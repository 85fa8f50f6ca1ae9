"""What a Keras model must be to be a policy, and what to say where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import keras
from tfpg.core.messages import warn
from tfpg.models.graph import all_layers, has_graph, last_activation
from tfpg.models.heads import (
    BernoulliHead,
    EpsilonGreedyHead,
    GaussianHead,
    Head,
    MultiBinaryHead,
    MultiCategoricalHead,
)
from tfpg.models.observations import input_shape


def check_layers(model: keras.Model) -> None:
    """Raises for layers that answer the same observation differently in training.

    Raises:
        ValueError: The model holds dropout or noise layers, trainable batch normalization, or
            activity regularizers.

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
    for layer in all_layers(model):
        if isinstance(layer, random) and getattr(layer, "rate", True):
            reason = "answers the same observation differently in training"
        elif isinstance(layer, layers.BatchNormalization) and layer.trainable:
            reason = "makes every answer depend on the rest of the batch (freeze it instead)"
        elif getattr(layer, "activity_regularizer", None) is not None:
            reason = "has an activity regularizer, whose value depends on the batch"
        else:
            continue
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) {reason}, and what is learned from is "
            "what was played. Take it out of the model."
        )


def warn_of_losses(model: keras.Model) -> None:
    """Warns of a loss that a model was compiled with, and that no agent uses.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam")
        >>> warn_of_losses(model)
    """
    if getattr(model, "loss", None) is not None:
        warn(
            f"The model was compiled with loss={model.loss!r}, which is not used: the loss is the "
            "agent's own. Compile the model with its optimizer alone."
        )


def input_keys(model: keras.Model, space: Any) -> list[str] | None:
    """The keys of a `Dict` observation that the model takes; None where it does not say."""
    if not isinstance(space, spaces.Dict) or not has_graph(model):
        return None
    names = [x.name for x in model.inputs]
    if not set(names) <= set(space):
        raise ValueError(
            f"The model's inputs are called {names}, and the observations {list(space)}: name "
            "each keras.Input like a key of the observations, "
            f"keras.Input(shape, name={next(iter(space))!r})."
        )
    return names


def check_inputs(model: keras.Model, space: Any, keys: list[str] | None) -> None:
    """Raises where the model's inputs have another shape than the observations."""
    shape = getattr(model, "input_shape", None) if model.built else None
    if shape is None:
        return
    if keys:
        for x in model.inputs:
            if not _fits(input_shape(space[x.name]), x.shape[1:]):
                raise ValueError(
                    f"The model's input {x.name!r} has shape {tuple(x.shape)}, and these "
                    f"observations give {input_shape(space[x.name])}: build it with "
                    f"keras.Input({input_shape(space[x.name])}, name={x.name!r})."
                )
    elif isinstance(shape, (list, dict)) or not _fits(input_shape(space), shape[1:]):
        raise ValueError(
            f"The model takes inputs of shape {one_line(shape)}, and the observations, "
            f"{one_line(space)}, give {input_shape(space)}: build it with "
            f"keras.Input({input_shape(space)}), or play what it was trained in."
            f"{_first_weights(model)}"
        )


def check_logits(head: Head, model: keras.Model, outputs: np.ndarray) -> None:
    """Raises where outputs that would be read as logits look like probabilities."""
    if isinstance(head, (GaussianHead, EpsilonGreedyHead)) or not head.from_logits:
        return
    if last_activation(model) == "linear" or not outputs.any():
        return
    bounded = (outputs >= 0).all() and (outputs <= 1).all()
    sums_to = len(head.choices) if isinstance(head, MultiCategoricalHead) else 1
    coins = isinstance(head, (BernoulliHead, MultiBinaryHead))
    if bounded and (coins or np.allclose(outputs.sum(axis=-1), sums_to, atol=1e-3)):
        raise ValueError(
            "The model's outputs look like probabilities, and its last operation does not say: "
            "from_logits=False if they are, from_logits=True if they are logits."
        )


def baked_constants(model: keras.Model) -> list[int]:
    """What a compiled call keeps as it was when traced: the statistics of Normalization layers.

    Two lists differ if such a layer was adapted in between; what was compiled is stale then.
    """
    layers = [model, *all_layers(model)]
    return [id(x.mean) for x in layers if isinstance(x, keras.layers.Normalization)]


def non_finite_weight(model: keras.Model) -> str | None:
    """The path of the first weight that is not finite all over, or None."""
    bad = (w.path for w in model.weights if not np.isfinite(np.asarray(w)).all())
    return next(bad, None)


def non_finite_outputs(model: keras.Model, observations: Any, outputs: np.ndarray) -> str:
    """What to say of outputs ``[N, K]`` that are not all finite: of which observation, and why."""
    row = int(np.argmin(np.isfinite(outputs).all(axis=-1)))
    values = np.array2string(outputs[row], threshold=6, separator=", ")
    what = f"The model's outputs are not finite: {values} for observation {row}"
    weight = non_finite_weight(model)
    if weight is not None:
        return f"{what}. Its weight {weight!r} is not: load an earlier model."
    seen = map_arrays(
        lambda x: np.array2string(np.asarray(x)[row].ravel(), threshold=6, separator=", "),
        observations,
    )
    return f"{what}, which is {seen}."


def _first_weights(model: keras.Model) -> str:
    for layer in all_layers(model):
        if layer.weights and not hasattr(layer, "layers"):
            shape = tuple(layer.weights[0].shape)
            return f" Its layer {layer.name!r} has weights of shape {shape}."
    return ""


def one_line(x: Any) -> str:
    return " ".join(str(x).split())[:300]


def _fits(shape: tuple, expected: tuple) -> bool:
    return len(shape) == len(expected) and all(
        e is None or s == e for s, e in zip(shape, expected, strict=True)
    )
