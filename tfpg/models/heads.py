"""Heads: they interpret the outputs of a Keras model as actions.

The head follows from the action space and the number of outputs:

=======================  ========  ============================================================
action space             outputs   distribution
=======================  ========  ============================================================
``Discrete(2)``          1         Bernoulli: the logit, or probability, of action 1
``Discrete(A)``          A         Categorical: the logits, or probabilities, of the actions
``MultiDiscrete(n)``     sum(n)    MultiCategorical: the logits of one choice after another
``MultiBinary(D)``       D         MultiBinary: the logit, or probability, of each bit
``Box``, D dimensions    2D        DiagonalGaussian: D means, then D log standard deviations
``Box``, D dimensions    D         DiagonalGaussian: D means. The log standard deviations are
                                   trainable weights that the head keeps next to the model.
``Discrete(A)``, with    A         EpsilonGreedy: the Q-values of the actions
``epsilon=``              A * N     ... or with ``support=``, the distributions of the returns
=======================  ========  ============================================================

Where observations have an ``"action_mask"``, the outputs of invalid actions are set to ``-inf``.
That needs `Discrete` or `MultiDiscrete` actions, and an output for each option.

``squash=True`` turns the DiagonalGaussian of a bounded ``Box`` into a SquashedGaussian. Actions of
several dimensions are flattened, row by row. A model that ends in a sigmoid or softmax outputs
probabilities and any other outputs logits; ``from_logits`` overrides this, as in Keras's losses.

To support another kind of action space, write a `Head` and add it to `HEADS`.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import batch_size
from tfpg.core.backend import keras, read_variable
from tfpg.core.messages import alternatives
from tfpg.core.options import checked, fraction
from tfpg.models.inspection import last_activation
from tfpg.ops import numeric as xp
from tfpg.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    EpsilonGreedy,
    MultiBinary,
    MultiCategorical,
    SquashedGaussian,
    with_one_valid,
)

QUANTILES = "quantiles"
NOISE = "/noise"  # key of the noise among the inputs of a noisy network
_EPSILON = 1e-7  # Keras's losses clip probabilities by the same amount
# Of a squashed Gaussian. With larger ones, most actions are at the bounds; with smaller ones,
# an action hardly differs from the mean in float32.
_LOG_STD_LIMITS = -10.0, 2.0


class Head(abc.ABC):
    """Interprets a model's outputs as actions of one space. `head_for` picks the right one.

    Attributes:
        space: The action space.
        outputs: K, the number of model outputs it reads.
        from_logits: False if the outputs are probabilities.
        action_shape: The shape of one action, in the form used for training.
        action_dtype: The NumPy dtype of actions, in the form used for training.
        noise_shape: The shape of the noise that one sample takes.
        variables: Trainable weights that belong to the head rather than to the model.
        low_entropy: Entropy in nats below which a policy hardly explores.
        at_random: Whether samples do not depend on the outputs.
        hold: How many steps in a row use the same noise while steps are collected.
        model_noise: How many noise values a noisy network takes as input; otherwise 0.
        masks: Whether outputs may be minus infinity, for invalid actions.
    """

    space_type: ClassVar[type[gymnasium.Space]]
    distribution_type: ClassVar[Any]

    space: Any
    outputs: int
    from_logits: bool = True
    action_shape: tuple[int, ...] = ()
    action_dtype: type = np.int64
    noise_shape: tuple[int, ...] = ()
    variables: tuple[keras.Variable, ...] = ()
    low_entropy: float
    at_random: bool = False
    hold: int = 1
    model_noise: int = 0
    masks: bool = False

    @staticmethod
    @abc.abstractmethod
    def sizes(space: Any) -> dict[int, str]:
        """Return the numbers of outputs that fit a space, each with a description of them."""

    @abc.abstractmethod
    def distribution(self, outputs: Any) -> Distribution:
        """Return the action distribution for outputs ``[B, K]``, arrays or tensors."""

    @abc.abstractmethod
    def env_actions(self, actions: Any) -> Any:
        """Return actions as the environment expects them: in its bounds, shape and dtype.

        Args:
            actions: Array or tensor ``[B, ...]``.
        """

    def clipped(self, actions: Any) -> Any:
        """Return 1 for actions ``[B, ...]`` that get clipped, 0 for others; None if none ever are.

        Args:
            actions: Float array or tensor.
        """
        return None

    def with_noise(self, inputs: Any, noise: Any) -> Any:
        """Add the model's own noise to encoded observations.

        Args:
            inputs: ``[B, ...]``, or a dict of such arrays or tensors.
            noise: ``[B, *noise_shape]``, or None for no noise.
        """
        return inputs

    def noise(self, rng: Any, *shape: int) -> Any:
        """Return noise for samples of a shape, ``[*shape, *noise_shape]`` float32.

        Args:
            rng: A NumPy generator, or a seed ``[2]`` int64 for a tensor.
            shape: Integers, for example the number of steps.
        """
        noise = self.distribution_type.noise(rng, (*shape, *self.noise_shape))
        return xp.cast(noise, np.float32)

    def snapshot(self, read: Callable[[Any], np.ndarray] = read_variable) -> Head:
        """Return a copy with the current values of the variables, for acting in NumPy.

        Args:
            read: Returns the value of a variable.
        """
        head = copy.copy(self)
        head.variables = tuple(read(variable) for variable in self.variables)
        return head


class DiscreteHead(Head):
    """A head for actions that are integers.

    Attributes:
        choices: The number of options of each component of an action.
        activation: The last activation with which a model's outputs are probabilities.
    """

    choices: tuple[int, ...]
    activation: ClassVar[str | None] = None

    def __init__(self, space: Any, from_logits: bool = True):
        self.space = space
        self.from_logits = from_logits
        self.outputs = max(self.sizes(space))
        start = np.asarray(getattr(space, "start", 0), np.int64)
        self._start = start if start.any() else None

    @property
    def low_entropy(self) -> float:  # type: ignore[override]
        """A hundredth of the largest entropy."""
        return 0.01 * float(np.log(self.choices).sum())

    def env_actions(self, actions: Any) -> Any:
        if self.space.shape:
            actions = xp.reshape(actions, (-1, *self.space.shape))
        if self._start is not None:
            actions = actions + self._start
        return xp.cast(actions, self.space.dtype)

    def masked(self, outputs: Any, mask: Any) -> Any:
        """Return outputs ``[..., K]`` with minus infinity where a mask ``[..., A]`` is 0.

        Where nothing is valid, as in observations after the end of an episode, nothing is masked.
        """
        return xp.where(with_one_valid(mask, self.choices), outputs, -np.inf)

    def look_like_probabilities(self, outputs: np.ndarray) -> bool:
        """Whether outputs ``[B, K]`` are all in [0, 1] and sum to 1 where probabilities do."""
        if not outputs.any() or (outputs < 0).any() or (outputs > 1).any():
            return False
        total = len(self.choices)
        return self.activation == "sigmoid" or np.allclose(outputs.sum(-1), total, atol=1e-3)


class BernoulliHead(DiscreteHead):
    """``Discrete(2)`` from one output, the logit or probability of ``positive_action``."""

    space_type = spaces.Discrete
    distribution_type = Bernoulli
    activation = "sigmoid"
    choices = (2,)

    def __init__(self, space: spaces.Discrete, from_logits: bool = True, positive_action: int = 1):
        super().__init__(space, from_logits)
        self.positive_action = positive_action

    @staticmethod
    def sizes(space: spaces.Discrete) -> dict[int, str]:
        return {1: "the logit of action 1"} if space.n == 2 else {}

    def distribution(self, outputs: Any) -> Bernoulli:
        logits = _logits(outputs[..., 0], self.from_logits)
        return Bernoulli(logits if self.positive_action == 1 else -logits)


class CategoricalHead(DiscreteHead):
    """``Discrete(A)`` from A outputs."""

    space_type = spaces.Discrete
    distribution_type = Categorical
    activation = "softmax"

    def __init__(self, space: spaces.Discrete, from_logits: bool = True):
        super().__init__(space, from_logits)
        self.choices = self.noise_shape = (self.outputs,)

    @staticmethod
    def sizes(space: spaces.Discrete) -> dict[int, str]:
        return {int(space.n): "one for each action"}

    def distribution(self, outputs: Any) -> Categorical:
        return Categorical(outputs if self.from_logits else _log(outputs, self.masks))


class MultiCategoricalHead(DiscreteHead):
    """``MultiDiscrete(n)`` from sum(n) outputs."""

    space_type = spaces.MultiDiscrete
    distribution_type = MultiCategorical

    def __init__(self, space: spaces.MultiDiscrete, from_logits: bool = True):
        super().__init__(space, from_logits)
        self.choices = tuple(int(n) for n in space.nvec.ravel())
        self.action_shape = (len(self.choices),)
        self.noise_shape = (self.outputs,)

    @staticmethod
    def sizes(space: spaces.MultiDiscrete) -> dict[int, str]:
        return {int(space.nvec.sum()): "one for each option of each choice"}

    def distribution(self, outputs: Any) -> MultiCategorical:
        logits = outputs if self.from_logits else _log(outputs, self.masks)
        return MultiCategorical(logits, self.choices)


class MultiBinaryHead(DiscreteHead):
    """``MultiBinary(D)`` from D outputs."""

    space_type = spaces.MultiBinary
    distribution_type = MultiBinary
    activation = "sigmoid"

    def __init__(self, space: spaces.MultiBinary, from_logits: bool = True):
        super().__init__(space, from_logits)
        self.choices = (2,) * self.outputs
        self.action_shape = self.noise_shape = (self.outputs,)

    @staticmethod
    def sizes(space: spaces.MultiBinary) -> dict[int, str]:
        return {int(np.prod(space.shape)): "one for each bit"}

    def distribution(self, outputs: Any) -> MultiBinary:
        return MultiBinary(_logits(outputs, self.from_logits))


class EpsilonGreedyHead(DiscreteHead):
    """``Discrete(A)`` from the Q-values of its A actions. Samples explore, the mode is greedy.

    Or from distributions of the returns: N outputs for each action, grouped by action.

    Args:
        space: The action space.
        epsilon: The probability that a sample is a uniformly random action.
        outputs: The number of outputs, A or A * N.
        support: None: the outputs are Q-values. ``"quantiles"``: they are quantiles of equal
            probability, and the Q-value is their mean. ``(low, high)``: they are the logits of N
            returns at equal distances from ``low`` to ``high``.
        model_noise: S, the number of standard normal values that a noisy network takes as its input
            `NOISE`.
    """

    space_type = spaces.Discrete
    distribution_type = EpsilonGreedy
    low_entropy = -np.inf  # epsilon decides how much it explores

    def __init__(
        self,
        space: spaces.Discrete,
        epsilon: float = 0.0,
        outputs: int | None = None,
        support: str | Sequence[float] | None = None,
        model_noise: int = 0,
    ):
        super().__init__(space)
        self.epsilon = epsilon
        self.model_noise = model_noise
        self.noise_shape = (2 + model_noise,)
        self.choices = (int(space.n),)
        self.outputs = outputs or self.outputs
        self.support = support
        self._shape = (int(space.n), self.outputs // int(space.n))
        #: the returns whose probabilities the outputs are, ``[N]`` float32, or None
        self.atoms: np.ndarray | None = None
        if support is not None and not isinstance(support, str):
            low, high = support
            self.atoms = np.linspace(low, high, self._shape[1], dtype=np.float32)

    @staticmethod
    def sizes(space: spaces.Discrete) -> dict[int, str]:
        return {int(space.n): "the value of each action"}

    @property
    def at_random(self) -> bool:  # type: ignore[override]
        return self.epsilon >= 1

    def with_noise(self, inputs: Any, noise: Any) -> Any:
        if not self.model_noise:
            return inputs
        if noise is None:
            noise = np.zeros((batch_size(inputs), *self.noise_shape), np.float32)
        return {**inputs, NOISE: noise[..., 2:]}

    def noise(self, rng: Any, *shape: int) -> Any:
        if not self.model_noise:
            return super().noise(rng, *shape)
        both = xp.uniform(rng, (*shape, 2)), xp.normal(rng, (*shape, self.model_noise))
        return xp.cast(xp.concatenate(list(both)), np.float32)

    def per_action(self, outputs: Any) -> Any:
        """Return outputs ``[..., A * N]`` as ``[..., A, N]``."""
        return xp.reshape(outputs, (*_known(outputs.shape[:-1]), *self._shape))

    def q_values(self, outputs: Any) -> Any:
        """Return the Q-values ``[..., A]`` for outputs ``[..., K]``."""
        if self.support is None:
            return outputs
        outputs = self.per_action(outputs)
        if self.atoms is None:
            return xp.sum(outputs) / self._shape[1]
        if not self.masks:
            return xp.sum(xp.exp(xp.log_softmax(outputs)) * self.atoms)
        valid = outputs[..., :1] > -np.inf
        logits = xp.where(valid, outputs, xp.zeros_like(outputs))  # a softmax of -inf would be NaN
        returns = xp.sum(xp.exp(xp.log_softmax(logits)) * self.atoms)
        return xp.where(valid[..., 0], returns, -np.inf)

    def masked(self, outputs: Any, mask: Any) -> Any:
        valid = with_one_valid(mask, self.choices)[..., None]
        masked = xp.where(valid, self.per_action(outputs), -np.inf)
        return xp.reshape(masked, (*_known(outputs.shape[:-1]), self.outputs))

    def distribution(self, outputs: Any) -> EpsilonGreedy:
        return EpsilonGreedy(self.q_values(outputs), self.epsilon, self.masks)


class GaussianHead(Head):
    """``Box`` from 2D outputs, or D.

    Training uses the sampled actions; they are clipped only for the environment. With ``squash``,
    training uses the actions before the tanh, which brings them into the bounds, and the log
    standard deviations that a model outputs are clipped to [-10, 2].

    With ``at_random``, samples of a squashed Gaussian are uniform within the bounds.
    """

    space_type = spaces.Box
    distribution_type = DiagonalGaussian
    action_dtype = np.float32

    def __init__(
        self,
        space: spaces.Box,
        outputs: int,
        log_std: float | Sequence[float] = 0.0,
        squash: bool = False,
    ):
        self.space = space
        self.outputs = outputs
        self.squash = squash
        self.dims = int(np.prod(space.shape))
        self.action_shape = self.noise_shape = (self.dims,)
        integers = np.issubdtype(space.dtype, np.integer)  # whose difference may overflow
        dtype = np.float64 if integers else space.dtype
        self.low, self.high = (x.astype(dtype).ravel() for x in (space.low, space.high))
        self._inside = _rounded_inward(self.low, self.high)
        if outputs == self.dims:
            start = np.broadcast_to(np.asarray(log_std, np.float32), (self.dims,))
            self.variables = (keras.Variable(start.copy(), name="log_std"),)

    @staticmethod
    def sizes(space: spaces.Box) -> dict[int, str]:
        dims = int(np.prod(space.shape))
        both = "a mean and a log standard deviation for each dimension"
        return {2 * dims: both, dims: "a mean for each dimension"}

    @property
    def low_entropy(self) -> float:  # type: ignore[override]
        """The entropy of uniform actions over a thousandth of the bounds, or of a unit interval."""
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        span = np.subtract(self.high, self.low, where=bounded, out=np.ones(self.dims))
        return float(np.sum(np.log(1e-3 * np.maximum(span, 1e-30))))

    def distribution(self, outputs: Any) -> Distribution:
        if self.variables:
            mean, log_std = outputs, self.variables[0] + 0.0 * outputs
        else:
            mean, log_std = outputs[..., : self.dims], outputs[..., self.dims :]
            log_std = xp.clip(log_std, *_LOG_STD_LIMITS) if self.squash else log_std
        if self.squash:
            return SquashedGaussian(mean, log_std, self.low, self.high)
        return DiagonalGaussian(mean, log_std)

    def noise(self, rng: Any, *shape: int) -> Any:
        if self.at_random:  # outputs are 0, and the tanh of half a logistic number is uniform
            return xp.cast(0.5 * xp.logistic(rng, (*shape, self.dims)), np.float32)
        return super().noise(rng, *shape)

    def env_actions(self, actions: Any) -> Any:
        if self.squash:
            actions = SquashedGaussian(actions, actions, self.low, self.high).squash(actions)
        actions = xp.clip(actions, *self._inside)
        if np.issubdtype(self.space.dtype, np.integer):
            actions = xp.rint(actions)
        return xp.cast(xp.reshape(actions, (-1, *self.space.shape)), self.space.dtype)

    def clipped(self, actions: Any) -> Any:
        if self.squash or not (np.isfinite(self.low).any() or np.isfinite(self.high).any()):
            return None
        return xp.like(xp.any((actions < self.low) | (actions > self.high)), actions)


# The heads of policies. The EpsilonGreedyHead is that of Q-networks.
HEADS: tuple[type[Head], ...] = (
    BernoulliHead,
    CategoricalHead,
    MultiCategoricalHead,
    MultiBinaryHead,
    GaussianHead,
)


def heads_of(space: gymnasium.Space, *, q_values: bool = False) -> dict[int, type[Head]]:
    """Return the heads for an action space, by the number of outputs they read.

    Args:
        space: The action space.
        q_values: Whether the outputs are the Q-values of actions rather than a policy.

    Raises:
        ValueError: There is no head for this space.

    Example:
        >>> {outputs: head.__name__ for outputs, head in heads_of(spaces.Discrete(2)).items()}
        {1: 'BernoulliHead', 2: 'CategoricalHead'}
    """
    heads = (EpsilonGreedyHead,) if q_values else HEADS
    fitting = [head for head in heads if isinstance(space, head.space_type)]
    if fitting:
        return {size: head for head in fitting for size in head.sizes(space)}
    if q_values:
        raise ValueError(
            f"Q-values need Discrete actions, but the action space is {space}. Use tfpg.Reinforce, "
            "tfpg.A2C or tfpg.PPO instead, or tfpg.SAC for a bounded Box."
        )
    known = sorted({head.space_type.__name__ for head in HEADS})
    raise ValueError(
        f"Unsupported action space {space}: expected {alternatives(known)}. Wrap the environment "
        "in gymnasium.wrappers.TransformAction, which turns actions of one space into another's."
    )


def supports(space: gymnasium.Space, *, q_values: bool = False, squash: bool = False) -> bool:
    """Whether a policy, or a Q-network or a squashed policy, can act in an action space.

    Example:
        >>> supports(spaces.Box(-1, 1, (2,))), supports(spaces.Box(-1, 1, (2,)), q_values=True)
        (True, False)
    """
    if squash:
        return squash_obstacle(space) is None
    heads = (EpsilonGreedyHead,) if q_values else HEADS
    return any(isinstance(space, head.space_type) for head in heads)


def squash_obstacle(space: gymnasium.Space) -> str | None:
    """Return why actions cannot be squashed into a space, or None if they can.

    Example:
        >>> squash_obstacle(spaces.Box(np.float32([0, 3]), np.float32([1, 3])))
        'both bounds of dimension 1 are 3'
    """
    if not isinstance(space, spaces.Box) or not space.is_bounded("both"):
        return f"the action space is {space}"
    bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
    for i, (low, high) in enumerate(bounds):
        if low == high:
            return f"both bounds of dimension {i} are {low:g}"
        if high - low > float(np.finfo(np.float32).max):
            return f"the bounds of dimension {i}, {low:g} and {high:g}, are too far apart"
    return None


def head_for(
    action_space: gymnasium.Space,
    model: keras.Model,
    outputs: np.ndarray,
    *,
    from_logits: bool | None = None,
    positive_action: int = 1,
    squash: bool = False,
    log_std: float | Sequence[float] = 0.0,
    epsilon: float | None = None,
    support: str | Sequence[float] | None = None,
    model_noise: int = 0,
) -> Head:
    """Return the head that reads a model's outputs as actions.

    Args:
        action_space: The action space of one environment.
        model: A built Keras model.
        outputs: Outputs ``[B, K]`` of the model for any observations.
        from_logits: Whether the outputs for discrete actions are logits. None: False if the model
            ends in a sigmoid or softmax activation, True otherwise.
        positive_action: The action whose probability a single output is: 1, or 0 for models that
            were trained the other way around.
        squash: Keep the actions of a bounded `Box` in its bounds with a tanh, not by clipping.
        log_std: Initial log standard deviation of `Box` actions, a number or one per dimension,
            for a model with one output per dimension. (With two, the model outputs it.)
        epsilon: The outputs are Q-values of `Discrete` actions, and samples explore with this
            probability. None: the outputs are a policy.
        support: The outputs are distributions of returns; see `EpsilonGreedyHead`.
        model_noise: See `EpsilonGreedyHead`.

    Returns:
        The `Head`.

    Raises:
        ValueError: No head reads this number of outputs for this action space, an option does not
            apply, or the model's last activation contradicts the head.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        >>> head = head_for(spaces.Discrete(2), model, model(np.zeros((3, 4))).numpy())
        >>> type(head).__name__, head.from_logits
        ('BernoulliHead', False)
    """
    count = outputs.shape[-1]
    fitting = heads_of(action_space, q_values=epsilon is not None)
    if support is not None:
        if epsilon is None:
            raise ValueError("support is for Q-networks: pass epsilon, too, such as epsilon=0.0.")
        return _distributional_head(action_space, model, count, epsilon, support, model_noise)
    if count not in fitting:
        raise ValueError(_wrong_count(action_space, count, fitting))
    kind, space = fitting[count], cast(Any, action_space)
    if positive_action not in (0, 1):
        raise ValueError(f"positive_action must be 0 or 1, but it is {positive_action!r}.")
    if positive_action == 0 and kind is not BernoulliHead:
        raise ValueError(
            f"positive_action=0 is for models with a single output, but this one has {count}."
        )
    if squash and (obstacle := squash_obstacle(space)):
        raise ValueError(f"squash=True needs a bounded Box, but {obstacle}.")
    if kind is GaussianHead:
        return GaussianHead(space, count, log_std, squash)
    if epsilon is not None:
        _check_unbounded(model)
        epsilon = checked("epsilon", epsilon, fraction)
        return EpsilonGreedyHead(space, epsilon, model_noise=model_noise)
    head = cast(type[DiscreteHead], kind)(space)
    head.from_logits = _outputs_logits(model, head, outputs, from_logits)
    if isinstance(head, BernoulliHead):
        head.positive_action = positive_action
    return head


_WRONG_SUPPORT = 'support must be "quantiles", or the lowest and the highest return, got {!r}.'


def _distributional_head(
    space: Any,
    model: keras.Model,
    count: int,
    epsilon: float,
    support: str | Sequence[float],
    model_noise: int,
) -> Head:
    actions = int(space.n)
    if count % actions or count < 2 * actions:
        raise ValueError(
            f"The model has {count} outputs, but a distribution of the return of each of {actions} "
            f"actions needs a multiple of {actions}, at least {2 * actions}. Change the last layer "
            "of the model, or use tfpg.networks with atoms=51."
        )
    _check_unbounded(model)
    epsilon = checked("epsilon", epsilon, fraction)
    if not isinstance(support, str):
        support = _bounds(support, count // actions)
    elif support != QUANTILES:
        raise ValueError(_WRONG_SUPPORT.format(support))
    return EpsilonGreedyHead(space, epsilon, count, support, model_noise)


def _bounds(support: Any, count: int) -> tuple[float, float]:
    try:
        low, high = map(float, support)
    except (TypeError, ValueError):
        raise ValueError(_WRONG_SUPPORT.format(support)) from None
    with np.errstate(over="ignore", invalid="ignore"):
        distances = np.diff(np.linspace(low, high, count, dtype=np.float32))
    if not (np.isfinite(distances).all() and (distances > 0).all()):
        raise ValueError(
            f"Returns must be from a number to a larger one, in {count} steps that float32 can "
            f"tell apart, got {low:g} and {high:g}."
        )
    return low, high


def _wrong_count(space: gymnasium.Space, count: int, fitting: dict[int, type[Head]]) -> str:
    expected = " or ".join(
        f"{size} ({head.sizes(space)[size]})" for size, head in sorted(fitting.items())
    )
    hint = ""
    if isinstance(space, spaces.Discrete) and count > space.n and count % space.n == 0:
        hint = (
            " If they are distributions of returns, use tfpg.C51 or tfpg.QRDQN, or epsilon=0.0 and "
            "support= in tfpg.Policy."
        )
    return (
        f"The model has {count} output{'s' * (count != 1)}, but {space} needs {expected}. Change "
        f"the last layer of the model.{hint}"
    )


def _check_unbounded(model: keras.Model) -> None:
    last = last_activation(model)
    if last not in (None, "linear"):
        raise ValueError(
            f"The model ends in a {last} activation, but Q-values can be any number. Remove the "
            "activation of the last layer."
        )


def _outputs_logits(
    model: keras.Model, head: DiscreteHead, outputs: np.ndarray, from_logits: bool | None
) -> bool:
    """Whether a model outputs logits; raise if that is unclear or cannot be."""
    last = last_activation(model)
    if from_logits is None:
        from_logits = last not in ("sigmoid", "softmax")
        if from_logits and last != "linear" and head.look_like_probabilities(outputs):
            raise ValueError(
                "The model's outputs look like probabilities, but its last layer does not say so. "
                "Pass from_logits=False if they are probabilities, or from_logits=True if they are "
                "logits."
            )
    if not from_logits and last in ("sigmoid", "softmax") and last != head.activation:
        instead = f"a {head.activation} or " if head.activation else ""
        raise ValueError(
            f"A {last} over {head.outputs} output{'s' * (head.outputs != 1)} does not give "
            f"probabilities of {head.space} actions. End the model in {instead}no activation."
        )
    return from_logits


def _rounded_inward(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds in float32, which actions do not overstep when they get another dtype."""
    with np.errstate(over="ignore"):
        lowest, highest = low.astype(np.float32), high.astype(np.float32)
    infinity = np.float32(np.inf)
    return (
        np.where(lowest < low, np.nextafter(lowest, infinity), lowest),
        np.where(highest > high, np.nextafter(highest, -infinity), highest),
    )


def _known(shape: Sequence[int | None]) -> list[int]:
    return [-1 if n is None else n for n in shape]


def _logits(outputs: Any, from_logits: bool) -> Any:
    return outputs if from_logits else _log(outputs) - _log(1.0 - outputs)


def _log(probabilities: Any, masked: bool = False) -> Any:
    if not masked:
        return xp.log(xp.clip(probabilities, _EPSILON, 1 - _EPSILON))
    # All valid actions may be less probable than that. Invalid ones stay invalid.
    return xp.where(probabilities > -np.inf, xp.log(probabilities), -np.inf)
