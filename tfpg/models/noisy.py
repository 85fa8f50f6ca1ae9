"""Noisy networks: Keras models that explore with noise on their weights.

The noise is that of `GaussianNoise` layers on zeros; see ``noisy`` of `tfpg.networks.mlp`. In
Keras, it is drawn with ``training=True`` and zero otherwise. In tfpg, it is an input, so that NumPy
and TensorFlow act alike, and equal seeds give equal actions.

Source: Fortunato et al., "Noisy Networks for Exploration", 2018, https://arxiv.org/abs/1706.10295.
"""

from __future__ import annotations

from typing import Any

from tfpg.core.backend import keras, tf
from tfpg.models.heads import NOISE
from tfpg.models.inspection import inputs_by_key, noise_layers, policy_output


class NoisyNetwork:
    """A noisy network that takes its noise as an input.

    Args:
        model: A model with `tfpg.models.inspection.noise_layers`.

    Attributes:
        noise: The symbolic tensors of the noise, ``[B, S_i]``.
        size: S, the sum of the S_i.
        names: The names of the model's other inputs.

    Example:
        >>> import numpy as np, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), noisy=True)
        >>> noisy, x = NoisyNetwork(model), np.ones((3, 4), "float32")
        >>> outputs = noisy({noisy.names[0]: x, NOISE: np.zeros((3, noisy.size), "float32")})
        >>> bool(np.allclose(outputs, model(x)))
        True
    """

    def __init__(self, model: keras.Model):
        inputs = inputs_by_key(model)
        if NOISE in inputs:
            raise ValueError(f"{NOISE!r} cannot be an observation key of a noisy network.")
        self.noise = [layer.output for layer in noise_layers(model)]
        self.names = list(inputs)
        self._dtypes = [x.dtype for x in inputs.values()]
        self._sizes = [x.shape[-1] for x in self.noise]
        self.size = sum(self._sizes)
        self._function = keras.Function([*inputs.values(), *self.noise], policy_output(model))

    def __call__(self, inputs: dict[str, Any]) -> tf.Tensor:
        """Return the outputs ``[B, K]`` for the model's inputs by their names, and `NOISE`."""
        noise = tf.split(inputs[NOISE], self._sizes, axis=-1)
        # A model casts its inputs, but a function does not.
        named = zip(self.names, self._dtypes, strict=True)
        return self._function([*(tf.cast(inputs[name], dtype) for name, dtype in named), *noise])
