"""Which head reads a model's outputs as actions of a space, and what to say when none does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
from gymnasium import spaces

from tfpg.core.backend import keras
from tfpg.models.action_spaces import check_q_actions, heads_of
from tfpg.models.graph import has_graph, hidden_activation, last_activation, policy_output
from tfpg.models.heads import kinds
from tfpg.models.heads.kinds import (
    BernoulliHead,
    CategoricalHead,
    EpsilonGreedyHead,
    GaussianHead,
    Head,
    MultiBinaryHead,
    MultiCategoricalHead,
    SquashedGaussianHead,
)
from tfpg.ops.returns import check_fraction


def head_for(
    action_space: gymnasium.Space,
    model: keras.Model,
    *,
    from_logits: bool | None = None,
    positive_action: int = 1,
    squash: bool = False,
    log_std: float | Sequence[float] = 0.0,
    epsilon: float | None = None,
    outputs: int | None = None,
) -> Head:
    """The head that reads ``model``'s outputs as actions of ``action_space``.

    Args:
        action_space: Of one environment.
        model: A built Keras model; its (first) output is ``[B, K]``.
        from_logits: Whether a discrete head's outputs are logits. None: False if the model ends
            in a sigmoid or softmax activation, else True.
        positive_action: The action whose probability a single output is: 1, or 0 for models
            trained the other way round.
        squash: Keep the actions of a bounded `Box` within it by a tanh, not by clipping.
        log_std: Where the log standard deviations of a `Box` action begin that the head keeps
            itself, because the model has one output for each dimension: a number, or one for each.
        epsilon: The outputs are the values of a `Discrete` space's actions, and a sample is any
            action this often. None: they are not.
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
    if epsilon is not None:
        return _q_head(action_space, model, epsilon, outputs)
    fitting, expected = heads_of(action_space)
    if outputs not in fitting:
        raise ValueError(
            f"The model has {outputs} output{'s' * (outputs != 1)}, and no head fits them to "
            f"{action_space}: it takes {expected}. Change the model's last layer{_last(model)}."
        )
    kind, space = getattr(kinds, fitting[outputs]), cast(Any, action_space)
    if positive_action not in (0, 1):
        raise ValueError(f"positive_action must be 0 or 1, and it is {positive_action!r}.")
    if positive_action == 0 and kind is not BernoulliHead:
        raise ValueError(
            f"positive_action is for a single output, and the model has {outputs}. Leave it out."
        )
    if squash and not (
        isinstance(action_space, spaces.Box) and action_space.is_bounded(manner="both")
    ):
        raise ValueError(f"squash=True is for a bounded Box, and the actions are {action_space}.")
    if kind is GaussianHead:
        kind = SquashedGaussianHead if squash else GaussianHead
        return kind(space, outputs, log_std)
    from_logits = _reads_logits(model, kind, outputs, from_logits, action_space)
    if kind is BernoulliHead:
        return BernoulliHead(space, from_logits, positive_action)
    return kind(space, from_logits)


def _q_head(
    space: gymnasium.Space, model: keras.Model, epsilon: float, outputs: int
) -> EpsilonGreedyHead:
    space = check_q_actions(space)
    if outputs != space.n:
        raise ValueError(
            f"The model has {outputs} output{'s' * (outputs != 1)}, and {space} takes {space.n}, "
            f"the value of each action. Change the model's last layer{_last(model)}."
        )
    last = last_activation(model)
    if last not in (None, "linear"):
        raise ValueError(
            f"The model ends in a {last}, and Q-values are numbers of any size: end it in no "
            "activation."
        )
    return EpsilonGreedyHead(space, check_fraction("epsilon", epsilon))


def _reads_logits(
    model: keras.Model,
    kind: type[Head],
    outputs: int,
    from_logits: bool | None,
    space: gymnasium.Space,
) -> bool:
    last = last_activation(model)
    if from_logits is None:
        hidden = hidden_activation(model, outputs)
        if hidden:
            raise ValueError(
                f"A subclassed model does not show whether its {hidden} comes last: say "
                "from_logits=False if its outputs are probabilities, else from_logits=True."
            )
        from_logits = last not in ("sigmoid", "softmax")
    if from_logits:
        return True
    if kind is BernoulliHead and last == "softmax":
        raise ValueError(
            "The model ends in a softmax of one output, which is always 1: end it in a "
            "sigmoid, or give it 2 outputs."
        )
    if kind is CategoricalHead and last == "sigmoid":
        raise ValueError(
            f"The model ends in a sigmoid of {outputs} outputs, and {space} needs "
            "probabilities that sum to 1: end it in a softmax, or in no activation."
        )
    if kind is MultiCategoricalHead and last is not None:
        raise ValueError(
            f"The model ends in a {last} over all {outputs} outputs, and each choice of {space} "
            "needs probabilities of its own: end it in no activation."
        )
    if kind is MultiBinaryHead and last == "softmax":
        raise ValueError(
            f"The model ends in a softmax, and the bits of {space} are independent: end it in a "
            "sigmoid, or in no activation."
        )
    return False


def _last(model: keras.Model) -> str:
    name = policy_output(model)._keras_history.operation.name if has_graph(model) else ""
    return f", {name!r}" if name else ""


def _count_outputs(model: keras.Model) -> int:
    if not has_graph(model):
        raise ValueError("A subclassed model does not say its output shape: give outputs.")
    return check_output_shape(policy_output(model).shape)


def check_output_shape(shape: Any) -> int:
    """Returns K of an output shape ``(batch, K)``.

    Raises:
        ValueError: The shape is another.
    """
    if isinstance(shape, (list, dict)) or len(shape) != 2 or not isinstance(shape[-1], int):
        raise ValueError(
            f"A policy model's output has shape (batch, K), and this one's has {shape}."
        )
    return int(shape[-1])
