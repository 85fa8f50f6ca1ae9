"""Target networks: a model with older weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpg.core.backend import keras, read_variable, tf


class TargetNetwork:
    """A second set of weights for a model.

    The model is called with them, so that any Keras model has a target network, even one that
    cannot be cloned. At first they are the model's weights.

    Args:
        network: A function that calls the model.
        variables: The trainable variables of the model.

    Attributes:
        weights: The target network's weights, one for each variable.

    Example:
        >>> import numpy as np, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", seed=0)
        >>> target = TargetNetwork(model, model.trainable_variables)
        >>> inputs = np.zeros((1, 4), "float32")
        >>> bool(np.array_equal(target.outputs(inputs), model(inputs)))
        True
    """

    def __init__(self, network: Callable[..., Any], variables: Sequence[Any]):
        self._network = network
        self._variables = list(variables)
        self.weights = [tf.Variable(read_variable(v)) for v in variables]
        self.mark()

    def belongs_to(self, variables: Sequence[Any]) -> bool:
        """Whether these are the variables whose older weights this network holds."""
        return [id(v) for v in self._variables] == [id(v) for v in variables]

    def outputs(self, *inputs: Any) -> tf.Tensor:
        """Return the target network's outputs ``[B, K]``."""
        return self._call_with(self.weights, inputs)

    def constant_outputs(self, *inputs: Any) -> tf.Tensor:
        """Return the outputs with the model's own weights, as constants: without their gradient."""
        return self._call_with([tf.stop_gradient(v.value) for v in self._variables], inputs)

    def follow(self, updates: tf.Tensor, period: int, tau: float | None) -> None:
        """Move the target network after an update. Called in compiled code.

        Args:
            updates: The number of updates made so far, scalar.
            period: Number of updates between copies of the weights, if ``tau`` is None.
            tau: Move by this share of the difference after every update.
        """
        pairs = list(zip(self.weights, self._variables, strict=True))
        if tau is not None:
            for weight, variable in pairs:
                weight.assign_add(tau * (variable.value - weight))
            return

        def copy() -> tf.Tensor:
            for weight, variable in pairs:
                weight.assign(variable.value)
            return tf.constant(True)

        tf.cond(tf.equal(updates % period, 0), copy, lambda: tf.constant(False))

    def mark(self) -> None:
        """Remember the network's weights, for `copy_if_changed`."""
        self._checksum = self._checksum_now()

    def copy_if_changed(self) -> None:
        """Copy the network's weights if something other than training changed them since `mark`.

        This happens when a callback restores weights: the target would belong to another network.
        """
        if self._checksum_now() != self._checksum:
            for weight, variable in zip(self.weights, self._variables, strict=True):
                weight.assign(variable.value)
            self.mark()

    def _call_with(self, weights: Sequence[Any], inputs: Sequence[Any]) -> tf.Tensor:
        values = map(tf.convert_to_tensor, weights)
        with keras.StatelessScope(list(zip(self._variables, values, strict=True))):
            return self._network(*inputs)

    def _checksum_now(self) -> int:
        checksum = 0
        for variable in self._variables:
            checksum = zlib.crc32(np.ascontiguousarray(read_variable(variable)).tobytes(), checksum)
        return checksum
