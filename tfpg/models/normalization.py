"""Running statistics: of observations, inside a Keras model, and of returns.

An observation normalizer is a frozen `BatchNormalization` layer without center and scale. Agents
assign its moving mean and variance after each iteration (DQN also after its random steps). These
are the model's own weights: saved with it, loaded by plain Keras, and constant while it acts.
(Keras's `Normalization` keeps its statistics as constants, so a compiled function would continue
to use old ones.)

All batches have the same weight, but never less than a hundredth: the statistics are an average
over all batches at first, and over about the last hundred later.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.core.backend import keras
from tfpg.models.inspection import all_layers, has_graph

_SUFFIX = "_statistics"
_MEMORY = 100  # batches


class RunningMoments:
    """Running mean and variance of batches.

    Args:
        shape: The shape of one element.

    Example:
        >>> import numpy as np
        >>> moments = RunningMoments(())
        >>> moments.update(np.array([1.0, 3.0]))
        >>> moments.update(np.array([5.0, 7.0]))
        >>> float(moments.mean), float(moments.variance)
        (4.0, 5.0)
    """

    def __init__(self, shape: tuple[int, ...] = ()):
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.batches = 0

    def update(self, batch: np.ndarray) -> None:
        """Include a batch ``[B, *shape]`` of at least one element."""
        batch = np.asarray(batch, np.float64)
        weight = max(1 / (self.batches + 1), 1 / _MEMORY)
        shift = batch.mean(axis=0) - self.mean
        within = (1 - weight) * self.variance + weight * batch.var(axis=0)
        self.mean = self.mean + weight * shift
        self.variance = within + weight * (1 - weight) * shift * shift
        self.batches += 1

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        return {"mean": self.mean, "variance": self.variance, "batches": self.batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.mean = np.asarray(state["mean"], np.float64)
        self.variance = np.asarray(state["variance"], np.float64)
        self.batches = int(state["batches"])


class ObservationStatistics:
    """Updates the statistics layers of a model.

    Args:
        model: A Keras model with any number of layers made by `statistics_layer`.

    Raises:
        ValueError: Such a layer is inside a nested model.

    Example:
        >>> import numpy as np, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", normalize=True)
        >>> statistics = ObservationStatistics(model)
        >>> statistics.update(np.full((3, 4), 2.0, "float32"))
        >>> model.get_layer("observation_statistics").moving_mean.numpy().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, model: keras.Model):
        layers = model.layers if has_graph(model) else []
        self.layers = [layer for layer in layers if _is_statistics(layer)]
        nested = [x.name for x in all_layers(model) if _is_statistics(x) and x not in self.layers]
        if nested:
            raise ValueError(
                f"The layer {nested[0]!r} is inside a nested model, where its statistics cannot be "
                "updated. Build one model instead, or train the nested model on its own."
            )
        self._moments = [_moments_of(layer) for layer in self.layers]
        if self.layers:
            self._layer_inputs = keras.Model(model.input, [layer.input for layer in self.layers])

    def update(self, inputs: Any) -> None:
        """Include a batch of model inputs ``[B, ...]``, and assign the layers' weights."""
        if not self.layers:
            return
        batches = keras.tree.flatten(self._layer_inputs(inputs))
        for i, (layer, batch) in enumerate(zip(self.layers, batches, strict=True)):
            # If other code has assigned the layer's weights, continue from those.
            if not _match(self._moments[i], layer):
                self._moments[i] = _moments_of(layer)
            moments = self._moments[i]
            moments.update(np.reshape(batch, (-1, batch.shape[-1])))
            layer.moving_mean.assign(moments.mean)
            layer.moving_variance.assign(moments.variance)

    def get_state(self) -> list[Any]:
        """Return the state for `set_state`."""
        return [moments.get_state() for moments in self._moments]

    def set_state(self, state: list[Any]) -> None:
        """Continue from a state. The model's weights are restored elsewhere."""
        for moments, each in zip(self._moments, state, strict=True):
            moments.set_state(each)


def statistics_layer(name: str) -> keras.layers.Layer:
    """Return a layer that standardizes with running statistics. Agents find it by its name.

    Example:
        >>> statistics_layer("speed").name
        'speed_statistics'
    """
    return keras.layers.BatchNormalization(
        center=False, scale=False, trainable=False, epsilon=1e-8, name=name + _SUFFIX
    )


def _moments_of(layer: keras.layers.Layer) -> RunningMoments:
    moments = RunningMoments()
    moments.mean = layer.moving_mean.value.numpy().astype(np.float64)
    moments.variance = layer.moving_variance.value.numpy().astype(np.float64)
    fresh = not moments.mean.any() and (moments.variance == 1).all()
    moments.batches = 0 if fresh else _MEMORY
    return moments


def _match(moments: RunningMoments, layer: keras.layers.Layer) -> bool:
    mean, variance = layer.moving_mean.value.numpy(), layer.moving_variance.value.numpy()
    return np.array_equal(mean, moments.mean.astype(mean.dtype)) and np.array_equal(
        variance, moments.variance.astype(variance.dtype)
    )


def _is_statistics(layer: keras.layers.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and layer.name.endswith(_SUFFIX)
        and not (layer.trainable or layer.center or layer.scale)
    )
