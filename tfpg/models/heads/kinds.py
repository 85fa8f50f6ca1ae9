"""The heads themselves, one for each kind of action space and output."""

from __future__ import annotations

import abc
import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from tfpg.core.backend import keras, tf
from tfpg.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
    SquashedGaussian,
)

# Keras's losses clip probabilities by the same amount.
_EPSILON = 1e-7


class Head(abc.ABC):
    """What a model's outputs mean for one action space. Made by `head_for`.

    Attributes:
        outputs: K, the number of model outputs it reads.
        from_logits: False where the outputs are probabilities.
        action_shape: Shape of one action, as learned.
        action_dtype: NumPy dtype of the actions, as learned.
        noise_shape: Shape of the noise that one sample takes.
        variables: Trainable weights that are the head's own.
        clips: Whether actions may be clipped before they are played.
        at_random: Whether samples do not depend on the outputs.
        hold: Steps in a row that the noise of a sample is used for, where steps are collected.
    """

    outputs: int
    kind: Any
    from_logits: bool = True
    action_shape: tuple[int, ...] = ()
    action_dtype: type = np.int64
    noise_shape: tuple[int, ...] = ()
    variables: tuple[keras.Variable, ...] = ()
    clips: bool = False
    at_random: bool = False
    hold: int = 1

    @abc.abstractmethod
    def distribution(self, outputs: Any) -> Distribution:
        """The action distribution for model outputs ``[B, K]``, arrays or tensors."""

    @abc.abstractmethod
    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment wants them: in its bounds, its shape and its dtype."""

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """Noise for ``steps`` samples of one environment, ``[steps, *noise_shape]`` float32."""
        return self.kind.noise(rng, (steps, *self.noise_shape)).astype(np.float32)

    def out_of_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Whether each action ``[..., *action_shape]`` is clipped to be played, ``[...]``."""
        return np.zeros(actions.shape[: actions.ndim - len(self.action_shape)], bool)

    def share_variables(self, other: Head) -> None:
        """Uses the variables of another head of the same kind."""
        self.variables = other.variables

    def snapshot(self) -> Head:
        """This head with its variables as they are now, for acting in NumPy."""
        return self


class BernoulliHead(Head):
    """``Discrete(2)`` from one output."""

    outputs = 1
    kind = Bernoulli

    def __init__(self, space: spaces.Discrete, from_logits: bool, positive_action: int):
        self.space, self.start = space, _start(space)
        self.from_logits = from_logits
        self.positive_action = positive_action

    def distribution(self, outputs: Any) -> Bernoulli:
        logits = _logits(outputs[..., 0], self.from_logits)
        return Bernoulli(logits if self.positive_action == 1 else -logits)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return _started(actions, self.start, self.space.dtype)


class CategoricalHead(Head):
    """``Discrete(A)`` from A outputs."""

    kind = Categorical

    def __init__(self, space: spaces.Discrete, from_logits: bool):
        self.outputs = int(space.n)
        self.noise_shape = (self.outputs,)
        self.space, self.start = space, _start(space)
        self.from_logits = from_logits

    def distribution(self, outputs: Any) -> Categorical:
        return Categorical(outputs if self.from_logits else _log(outputs))

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return _started(actions, self.start, self.space.dtype)


class EpsilonGreedyHead(Head):
    """``Discrete(A)`` from the values of its A actions. A sample explores, the mode is greedy.

    Attributes:
        epsilon: How often a sample is any action. Setting it sets that of all copies.
    """

    kind = EpsilonGreedy
    noise_shape = (2,)

    def __init__(self, space: spaces.Discrete, epsilon: float = 0.0):
        self.outputs = int(space.n)
        self.space, self.start = space, _start(space)
        self._shared = [epsilon]

    @property
    def at_random(self) -> bool:  # type: ignore[override]
        return self._shared[0] >= 1

    @property
    def epsilon(self) -> float:
        return self._shared[0]

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        self._shared[0] = value

    def distribution(self, outputs: Any) -> EpsilonGreedy:
        return EpsilonGreedy(outputs, self.epsilon)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return _started(actions, self.start, self.space.dtype)


class MultiCategoricalHead(Head):
    """``MultiDiscrete(n)`` from sum(n) outputs."""

    kind = MultiCategorical

    def __init__(self, space: spaces.MultiDiscrete, from_logits: bool):
        self.choices = tuple(int(n) for n in space.nvec.ravel())
        self.outputs = sum(self.choices)
        self.noise_shape = (self.outputs,)
        self.action_shape = (len(self.choices),)
        self.space, self.start = space, _start(space)
        self.from_logits = from_logits

    def distribution(self, outputs: Any) -> MultiCategorical:
        return MultiCategorical(outputs if self.from_logits else _log(outputs), self.choices)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = actions.reshape(len(actions), *self.space.shape)
        return _started(actions, self.start, self.space.dtype)


class MultiBinaryHead(Head):
    """``MultiBinary(D)`` from D outputs."""

    kind = MultiBinary

    def __init__(self, space: spaces.MultiBinary, from_logits: bool):
        self.outputs = int(np.prod(space.shape))
        self.noise_shape = self.action_shape = (self.outputs,)
        self.space = space
        self.from_logits = from_logits

    def distribution(self, outputs: Any) -> MultiBinary:
        return MultiBinary(_logits(outputs, self.from_logits))

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return actions.reshape(len(actions), *self.space.shape).astype(self.space.dtype)


class GaussianHead(Head):
    """``Box`` from 2D outputs, or D. The sample is what is learned; clipped, what is played."""

    kind: Any = DiagonalGaussian
    action_dtype = np.float32

    def __init__(self, space: spaces.Box, outputs: int, log_std: Any = 0.0):
        self.space = space
        self.dims = int(np.prod(space.shape))
        self.outputs = outputs
        self.action_shape = self.noise_shape = (self.dims,)
        self.low, self.high = space.low.ravel(), space.high.ravel()
        self.clips = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        self.log_std: Any = None
        if outputs == self.dims:
            start = np.broadcast_to(np.asarray(log_std, np.float32), (self.dims,))
            self.log_std = keras.Variable(start.copy(), name="log_std")
            self.variables = (self.log_std,)

    def distribution(self, outputs: Any) -> Distribution:
        return DiagonalGaussian(*self._parameters(outputs))

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return self._fitted(np.clip(actions, self.low, self.high))

    def out_of_bounds(self, actions: np.ndarray) -> np.ndarray:
        outside = (actions < self.low) | (actions > self.high)
        return np.any(outside, axis=-1)

    def share_variables(self, other: Head) -> None:
        self.variables = other.variables
        self.log_std = other.variables[0] if other.variables else None

    def snapshot(self) -> Head:
        if self.log_std is None:
            return self
        frozen = copy.copy(self)
        frozen.log_std = self.log_std.value.numpy()
        return frozen

    def _parameters(self, outputs: Any) -> tuple[Any, Any]:
        if self.log_std is None:
            return outputs[..., : self.dims], outputs[..., self.dims :]
        return outputs, self.log_std + 0.0 * outputs

    def _fitted(self, actions: np.ndarray) -> np.ndarray:
        if np.issubdtype(self.space.dtype, np.integer):
            actions = np.rint(actions)
        # Rounding to another precision may step over a bound.
        actions = actions.astype(self.space.dtype).reshape(len(actions), *self.space.shape)
        return np.clip(actions, self.space.low, self.space.high)


class SquashedGaussianHead(GaussianHead):
    """A bounded ``Box`` from 2D outputs, or D, through a tanh. Actions are held before it."""

    kind = SquashedGaussian

    def __init__(self, space: spaces.Box, outputs: int, log_std: Any = 0.0):
        super().__init__(space, outputs, log_std)
        self.clips = False

    def distribution(self, outputs: Any) -> SquashedGaussian:
        return SquashedGaussian(*self._parameters(outputs), self.low, self.high)

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        return self._fitted(SquashedGaussian(actions, actions, self.low, self.high).squash(actions))

    def out_of_bounds(self, actions: np.ndarray) -> np.ndarray:
        return np.zeros(actions.shape[:-1], bool)


def _start(space: Any) -> Any:
    """The number of the first action, None where it is 0."""
    return space.start if np.any(space.start) else None


def _started(actions: np.ndarray, start: Any, dtype: Any) -> np.ndarray:
    if start is not None:
        actions = actions + start
    return actions.astype(dtype, copy=False)


def _logits(outputs: Any, from_logits: bool) -> Any:
    return outputs if from_logits else _log(outputs) - _log(1.0 - outputs)


def _log(probabilities: Any) -> Any:
    if isinstance(probabilities, np.ndarray):
        return np.log(np.minimum(np.maximum(probabilities, _EPSILON), 1 - _EPSILON))
    return tf.math.log(tf.clip_by_value(probabilities, _EPSILON, 1 - _EPSILON))
