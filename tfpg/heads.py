"""Heads: what the outputs of a Keras model mean as actions.

The head follows from the action space and the number of outputs:

================  ==========  =====================================================
action space      outputs     head
================  ==========  =====================================================
``Discrete(2)``   1           Bernoulli: the probability, or logit, of action 1
``Discrete(A)``   A           Categorical: A logits, or probabilities
``Box(D)``        2D          DiagonalGaussian: D means, then D log standard deviations
================  ==========  =====================================================

A model that ends in a sigmoid or softmax gives probabilities, any other gives logits;
``from_logits`` says otherwise where that is needed, in Keras's own word.
"""

from __future__ import annotations

import abc
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip
import tensorflow as tf  # isort: skip

from tfpg.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution

# Keras's losses clip probabilities by the same amount.
_EPSILON = 1e-7

_Functional = type(keras.Model(x := keras.Input((1,)), x))


class Head(abc.ABC):
    """What a model's outputs mean for one action space. Made by `head_for`.

    Attributes:
        outputs: K, the number of model outputs it reads.
        from_logits: False where the outputs are probabilities.
        action_shape: Shape of one action, as learned.
        action_dtype: NumPy dtype of the actions, as learned.
        noise_shape: Shape of the noise that one sample takes.
    """

    outputs: int
    from_logits: bool = True
    action_shape: tuple[int, ...] = ()
    action_dtype: type = np.int64
    noise_shape: tuple[int, ...] = ()

    @abc.abstractmethod
    def distribution(self, outputs: Any) -> Distribution:
        """The action distribution for model outputs ``[B, K]``, arrays or tensors."""

    @abc.abstractmethod
    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """Noise for ``steps`` samples of one environment, ``[steps, *noise_shape]`` float32."""

    @abc.abstractmethod
    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment wants them: in its bounds and its dtype."""


class BernoulliHead(Head):
    """``Discrete(2)`` from one output."""

    outputs = 1

    def __init__(self, space: spaces.Discrete, from_logits: bool, positive_action: int):
        self.space = space
        self.from_logits = from_logits
        self.positive_action = positive_action

    def distribution(self, outputs: Any) -> Bernoulli:
        logits = outputs[..., 0]
        if not self.from_logits:
            logits = _log(logits) - _log(1.0 - logits)
        return Bernoulli(logits if self.positive_action == 1 else -logits)

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return Bernoulli.noise(rng, (steps,)).astype(np.float32)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return _discrete(actions, self.space)


class CategoricalHead(Head):
    """``Discrete(A)`` from A outputs."""

    def __init__(self, space: spaces.Discrete, from_logits: bool):
        self.outputs = int(space.n)
        self.noise_shape = (self.outputs,)
        self.space = space
        self.from_logits = from_logits

    def distribution(self, outputs: Any) -> Categorical:
        return Categorical(outputs if self.from_logits else _log(outputs))

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return Categorical.noise(rng, (steps, self.outputs)).astype(np.float32)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return _discrete(actions, self.space)


class GaussianHead(Head):
    """``Box(D)`` from 2D outputs. The sample is what is learned; clipped, it is what is played."""

    action_dtype = np.float32

    def __init__(self, space: spaces.Box):
        self.space = space
        self.dims = space.shape[0]
        self.outputs = 2 * self.dims
        self.action_shape = self.noise_shape = (self.dims,)

    def distribution(self, outputs: Any) -> DiagonalGaussian:
        return DiagonalGaussian(outputs[..., : self.dims], outputs[..., self.dims :])

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        return DiagonalGaussian.noise(rng, (steps, self.dims)).astype(np.float32)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        played = np.clip(actions, self.space.low, self.space.high)
        if np.issubdtype(self.space.dtype, np.integer):
            played = np.rint(played)
        return played.astype(self.space.dtype)


def head_for(
    action_space: gymnasium.Space,
    model: keras.Model,
    *,
    from_logits: bool | None = None,
    positive_action: int = 1,
    outputs: int | None = None,
) -> Head:
    """The head that reads ``model``'s outputs as actions of ``action_space``.

    Args:
        action_space: Of one environment.
        model: A built Keras model with one output, ``[B, K]``.
        from_logits: Whether a discrete head's outputs are logits. None: False if the model ends
            in a sigmoid or softmax activation, else True.
        positive_action: The action whose probability a single output is: 1, or 0 for models
            trained the other way round.
        outputs: K, where the model does not say it. None: read from ``model.output_shape``.

    Returns:
        A `Head`.

    Raises:
        ValueError: No head reads this number of outputs for this action space.

    Example:
        >>> import keras
        >>> from gymnasium.spaces import Discrete
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        >>> head = head_for(Discrete(2), model)
        >>> type(head).__name__, head.from_logits
        ('BernoulliHead', False)
    """
    outputs = _count_outputs(model) if outputs is None else outputs
    last = last_activation(model)
    if from_logits is None:
        hidden = _hidden_activation(model, outputs)
        if hidden and isinstance(action_space, spaces.Discrete):
            raise ValueError(
                f"A subclassed model does not show whether its {hidden} comes last: say "
                "from_logits=False if its outputs are probabilities, else from_logits=True."
            )
        from_logits = last not in ("sigmoid", "softmax")
    if positive_action not in (0, 1):
        raise ValueError(f"positive_action must be 0 or 1, and it is {positive_action!r}.")
    head: Head | None = None
    if isinstance(action_space, spaces.Discrete):
        expected = f"{int(action_space.n)} outputs"
        if action_space.n == 2:
            expected = "1 or 2 outputs"
            if outputs == 1 and last == "softmax":
                raise ValueError(
                    "The model ends in a softmax of one output, which is always 1: end it in a "
                    "sigmoid, or give it 2 outputs."
                )
            if outputs == 1:
                head = BernoulliHead(action_space, from_logits, positive_action)
        if outputs == action_space.n:
            if last == "sigmoid" and not from_logits:
                raise ValueError(
                    f"The model ends in a sigmoid of {outputs} outputs, and {action_space} needs "
                    "probabilities that sum to 1: end it in a softmax, or in no activation."
                )
            head = CategoricalHead(action_space, from_logits)
    elif isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        expected = (
            f"{2 * action_space.shape[0]} outputs (a mean and a log standard deviation for each "
            "dimension)"
        )
        if outputs == 2 * action_space.shape[0]:
            head = GaussianHead(action_space)
    else:
        raise ValueError(
            f"No head for the action space {action_space}: Discrete(n) and one-dimensional Box "
            "have one."
        )
    if head is None:
        raise ValueError(
            f"The model has {outputs} output{'s' * (outputs != 1)}, and no head fits them to "
            f"{action_space}: it takes {expected}. Change the model's last layer."
        )
    if positive_action == 0 and not isinstance(head, BernoulliHead):
        raise ValueError(
            f"positive_action is for a single output, and the model has {outputs}. Leave it out."
        )
    return head


def _discrete(actions: np.ndarray, space: spaces.Discrete) -> np.ndarray:
    if space.start:
        actions = actions + space.start
    return actions.astype(space.dtype, copy=False)


def _count_outputs(model: keras.Model) -> int:
    shape = getattr(model, "output_shape", None)
    if shape is None:
        raise ValueError("A subclassed model does not say its output shape: give outputs.")
    return check_output_shape(shape)


def check_output_shape(shape: Any) -> int:
    """Returns K of an output shape ``(batch, K)``.

    Raises:
        ValueError: The shape is another, or there are several outputs.
    """
    if isinstance(shape, (list, dict)) or len(shape) != 2 or not isinstance(shape[-1], int):
        raise ValueError(
            f"A policy model has one output of shape (batch, K), and this one has {shape}."
        )
    return int(shape[-1])


def last_activation(model: keras.Model) -> str | None:
    """Name of the activation that made a model's output, where the model's graph tells it.

    Example:
        >>> import keras
        >>> last_activation(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")]))
        'sigmoid'
    """
    if not has_graph(model):
        return None
    operation = model.outputs[0]._keras_history.operation
    while _passes_through(operation):
        operation = operation.input._keras_history.operation
    if isinstance(operation, keras.Model):
        return last_activation(operation)
    kind = type(operation).__name__.lower()
    if kind in ("sigmoid", "softmax"):  # a layer, or a function of keras.ops
        return kind
    return getattr(getattr(operation, "activation", None), "__name__", None)


def _passes_through(operation: Any) -> bool:
    kinds = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity)
    linear = getattr(operation, "activation", None) is keras.activations.linear
    return isinstance(operation, kinds) or (
        linear and isinstance(operation, keras.layers.Activation)
    )


def has_graph(model: keras.Model) -> bool:
    """Whether the model's layers are what it computes: Sequential or functional, and built."""
    functional = type(model).call in (keras.Sequential.call, _Functional.call)
    return functional and bool(getattr(model, "outputs", None))


def _hidden_activation(model: keras.Model, outputs: int) -> str | None:
    """An activation that may be the last one of a subclassed model with this many outputs."""
    for layer in () if has_graph(model) else model.layers:
        name = getattr(getattr(layer, "activation", None), "__name__", None)
        if name in ("sigmoid", "softmax") and getattr(layer, "units", None) == outputs:
            return name
    return None


def _log(probabilities: Any) -> Any:
    if isinstance(probabilities, np.ndarray):
        return np.log(np.minimum(np.maximum(probabilities, _EPSILON), 1 - _EPSILON))
    return tf.math.log(tf.clip_by_value(probabilities, _EPSILON, 1 - _EPSILON))
