"""Critics: Keras models of the values of actions."""

from __future__ import annotations

from typing import Any

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import keras, tf
from tfpg.core.messages import one_line
from tfpg.models.inspection import has_graph
from tfpg.models.policy import Policy


class Critic:
    """The values of actions, by a Keras model.

    Args:
        model: A Keras model, ``[inputs [B, ...], actions [B, D]] -> [B, K]``. It is built here if
            needed. Its inputs are the policy's, or a dict with any keys of a `Dict` observation.
        policy: The policy whose actions they are. The observations that it encodes get the keys
            that the model takes.
        outputs: K.

    Attributes:
        observed: The part of ``model.input`` that holds observations, or None if it is not known.

    Raises:
        ValueError: The model cannot be called like this, or returns something else.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.twin_critic("Pendulum-v1")
        >>> policy = Policy(tfpg.networks.mlp("Pendulum-v1"), "Pendulum-v1")
        >>> q_values = Critic(model, policy, 2)
        >>> q_values(tf.zeros((5, 3)), tf.zeros((5, 1))).shape
        TensorShape([5, 2])
    """

    def __init__(self, model: keras.Model, policy: Policy, outputs: int):
        def zeros(spec: tf.TensorSpec) -> tf.Tensor:
            return tf.zeros([1, *spec.shape[1:]], spec.dtype)

        self._model = model
        try:
            self.observed = model.input[0] if has_graph(model) else None
            policy.include(self.observed if isinstance(self.observed, dict) else ())
            actions = tf.zeros([1, *policy.head.action_shape])
            shape = tuple(self(map_arrays(zeros, policy.input_spec), actions).shape)
        except Exception as error:
            raise ValueError(
                f"The critic cannot be called on [inputs, actions]: {one_line(error)}. See "
                "tfpg.networks.twin_critic."
            ) from error
        if shape != (1, outputs):
            raise ValueError(
                f"The critic's output must have shape (batch, {outputs}), but it has "
                f"{(None, *shape[1:])}. Concatenate the values of its Q-networks."
            )

    def __call__(self, inputs: Any, actions: tf.Tensor) -> tf.Tensor:
        """Return the values ``[B, K]`` of actions ``[B, D]`` for encoded observations."""
        if isinstance(self.observed, dict):
            inputs = {key: inputs[key] for key in self.observed}
        return tf.cast(self._model([inputs, actions], training=False), tf.float32)
