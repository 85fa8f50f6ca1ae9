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

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.backend import keras
from tfpg.envs.contracts import OBSERVATION
from tfpg.models.inspection import all_layers, has_graph, inputs_by_key, takes_array
from tfpg.ops import numeric as xp

_SUFFIX = "_statistics"
_MEMORY = 100  # batches
_TINY = 1e-30


class Moments(NamedTuple):
    """The running mean and variance of batches, as arrays or tensors.

    Example:
        >>> moments = Moments.initial()
        >>> moments = moments.updated(np.array([1.0, 3.0])).updated(np.array([5.0, 7.0]))
        >>> float(moments.mean), float(moments.variance)
        (4.0, 5.0)
    """

    mean: Any  # [*shape]
    variance: Any  # [*shape]
    batches: Any  # how many so far

    @classmethod
    def initial(cls, shape: tuple[int, ...] = ()) -> Moments:
        """Return the moments before the first batch."""
        return cls(np.zeros(shape), np.ones(shape), np.zeros(()))

    def updated(self, batch: Any, counts: Any = None) -> Moments:
        """Return the moments with another batch.

        Args:
            batch: ``[B, *shape]``.
            counts: ``[B]``, 1 for what counts and 0 for what does not. None: everything counts.
        """
        axes = (0,) * (len(batch.shape) - 1)
        counts = xp.ones_like(batch[(slice(None), *axes)]) if counts is None else counts
        total = xp.total(counts)[0]
        counts = counts[(slice(None), *[None] * len(axes))]
        mean = xp.total(counts * batch, 0)[0] / (total + _TINY)
        deviations = batch - mean
        variance = xp.total(counts * deviations * deviations, 0)[0] / (total + _TINY)
        some = xp.minimum(total, 1.0)
        weight = some / xp.minimum(self.batches + 1.0, float(_MEMORY))
        shift = mean - self.mean
        within = (1 - weight) * self.variance + weight * variance
        return Moments(
            self.mean + weight * shift,
            within + weight * (1 - weight) * shift * shift,
            self.batches + some,
        )


class ObservationStatistics:
    """Updates the statistics layers of a model.

    Args:
        model: A Keras model with any number of layers made by `statistics_layer`.
        inputs: The part of ``model.input`` that holds observations. None: all of it.

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

    def __init__(self, model: keras.Model, inputs: Any = None):
        layers = model.layers if has_graph(model) else []
        self.layers = [layer for layer in layers if _is_statistics(layer)]
        nested = [x.name for x in all_layers(model) if _is_statistics(x) and x not in self.layers]
        if nested:
            raise ValueError(
                f"The layer {nested[0]!r} is inside a nested model, where its statistics cannot be "
                "updated. Build one model instead, or train the nested model on its own."
            )
        self.batches: list[Any] = []
        self._marked: list[np.ndarray] | None = None
        self.recount()
        if self.layers:
            inputs = model.input if inputs is None else inputs
            self._layer_inputs = keras.Model(inputs, [layer.input for layer in self.layers])
            self._names = list(inputs_by_key(self._layer_inputs))
            self._takes_array = takes_array(self._layer_inputs)

    def update(self, inputs: Any) -> None:
        """Include a batch of model inputs ``[B, ...]``, and assign the layers' weights."""
        self.recount()
        self.batches = self.updated(self.batches, inputs, lambda x: np.asarray(x, np.float64))
        self.mark()

    def mark(self) -> None:
        """Remember the layers' weights, to see whether other code assigns them."""
        self._marked = self._weights()

    def recount(self) -> None:
        """If other code has assigned the layers' weights, continue from those as from many."""
        weights = self._weights()
        if self._marked is None or not all(map(np.array_equal, weights, self._marked)):
            pairs = zip(weights[::2], weights[1::2], strict=True)
            initial = (not mean.any() and (variance == 1).all() for mean, variance in pairs)
            self.batches = [np.asarray(0.0 if each else _MEMORY, np.float32) for each in initial]

    def _weights(self) -> list[np.ndarray]:
        return [
            weight.value.numpy()
            for layer in self.layers
            for weight in (layer.moving_mean, layer.moving_variance)
        ]

    def updated(
        self,
        batches: Sequence[Any],
        inputs: Any,
        convert: Callable[[Any], Any],
        counts: Any = None,
    ) -> list[Any]:
        """Include a batch of model inputs ``[B, ...]``, also in a compiled function.

        Args:
            batches: How many batches each layer has seen.
            inputs: Model inputs.
            convert: Makes arrays or tensors of the layers' weights and inputs.
            counts: ``[B]``, 1 for inputs that count and 0 for others. None: all count.

        Returns:
            How many batches each layer has seen now.
        """
        after: list[Any] = []
        if isinstance(inputs, dict) and self.layers:  # there may be more in it
            if self._takes_array:
                inputs = inputs[self._names[0] if self._names[0] in inputs else OBSERVATION]
            else:
                inputs = {name: inputs[name] for name in self._names}
        found = keras.tree.flatten(self._layer_inputs(inputs)) if self.layers else []
        for layer, batch, seen in zip(self.layers, found, batches, strict=True):
            mean, variance = layer.moving_mean, layer.moving_variance
            before = Moments(convert(mean.value), convert(variance.value), convert(seen))
            rows = xp.cast(convert(batch), before.mean.dtype)  # a compiled call may have integers
            rows = xp.reshape(rows, (-1, batch.shape[-1]))
            repeated = None
            if counts is not None:
                repeated = xp.repeat(counts, math.prod(batch.shape[1:-1]))  # for each pixel
            moments = before.updated(rows, repeated)
            mean.assign(moments.mean)
            variance.assign(moments.variance)
            after.append(moments.batches)
        return after


def statistics_layer(name: str) -> keras.layers.Layer:
    """Return a layer that standardizes with running statistics. Agents find it by its name.

    Example:
        >>> statistics_layer("speed").name
        'speed_statistics'
    """
    return keras.layers.BatchNormalization(
        center=False, scale=False, trainable=False, epsilon=1e-8, name=name + _SUFFIX
    )


def _is_statistics(layer: keras.layers.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and layer.name.endswith(_SUFFIX)
        and not (layer.trainable or layer.center or layer.scale)
    )
