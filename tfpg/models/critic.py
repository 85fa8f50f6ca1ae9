"""A critic: the values of observations, from a policy's second output or a model of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfpg.core.arrays import map_arrays
from tfpg.core.backend import keras, tf
from tfpg.models.observations import select
from tfpg.models.policy import Policy
from tfpg.models.requirements import input_keys
from tfpg.ops.distributions import Distribution

# Observations that are valued in one call: images by the thousand fill the memory.
_AT_ONCE = 4096


class Critic:
    """Values of what a policy observes.

    Args:
        policy: Of the model that acts.
        value_model: A Keras model ``inputs [B, ...] -> [B, 1]``. None: the policy's model has a
            second output.

    Raises:
        ValueError: There is no value, two of them, or one of another shape.

    Example:
        >>> import numpy as np, tfpg
        >>> policy = Policy(tfpg.networks.actor_critic("CartPole-v1"), "CartPole-v1")
        >>> Critic(policy).values(np.zeros((5, 3, 4), "float32")).shape
        (5, 3)
    """

    def __init__(self, policy: Policy, value_model: keras.Model | None = None):
        if value_model is None and not policy.has_value:
            raise ValueError(
                "The model gives no value: it needs a second output of shape (batch, 1), as "
                "tfpg.networks.actor_critic makes, or value_model=tfpg.networks.critic(env)."
            )
        if value_model is not None and policy.has_value:
            raise ValueError(
                "The model has a value output, and there is a value_model too: leave one out."
            )
        self.policy = policy
        self.value_model = value_model
        self._keys: list[str] | None = None
        if value_model is not None:
            self._keys = input_keys(value_model, policy.observation_space)
            policy.also_encode(self._keys or [])
            shape = policy.called_by(value_model).shape
            if len(shape) != 2 or shape[1] != 1:
                raise ValueError(
                    f"A value_model's output has shape (batch, 1), and this one's has "
                    f"{(None, *shape[1:])}."
                )

        @tf.function(input_signature=[policy.input_spec], autograph=False)
        def call(inputs):
            return self.distribution_and_value(inputs)[1]

        self._call = call

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor]:
        """The action distribution and the value ``[B]`` for encoded observations."""
        distribution, value = self.policy.distribution_and_value(inputs)
        if self.value_model is not None:
            value = self.own_value(inputs)
        return distribution, value

    def own_value(self, inputs: Any) -> tf.Tensor:
        """The value model's values ``[B]``."""
        assert self.value_model is not None
        outputs = self.value_model(select(inputs, self._keys), training=False)
        return tf.cast(outputs, tf.float32)[:, 0]

    def values(self, observations: Any) -> np.ndarray:
        """Values ``[...]`` of observations ``[..., *shape]`` as environments give them."""
        inputs = self.policy.encode(observations)
        spec = self.policy.input_spec
        first = next(iter(inputs)) if isinstance(inputs, dict) else None
        array, one = (inputs, spec) if first is None else (inputs[first], spec[first])
        batch = np.asarray(array).shape[: np.ndim(array) - (len(one.shape) - 1)]

        def rows(x: Any, s: tf.TensorSpec) -> np.ndarray:
            return np.asarray(x, s.dtype.as_numpy_dtype).reshape(-1, *s.shape[1:])

        flat = map_arrays(rows, inputs, spec)
        count = int(np.prod(batch))
        parts = [
            self._call(map_arrays(lambda x, i=i: x[i : i + _AT_ONCE], flat)).numpy()
            for i in range(0, count, _AT_ONCE)
        ]
        return np.concatenate(parts).reshape(batch) if parts else np.zeros(batch, np.float32)
