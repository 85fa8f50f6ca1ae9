"""What an agent trains, and with which optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpg.core.backend import keras, tf
from tfpg.core.messages import warn
from tfpg.models.graph import all_layers
from tfpg.models.policy import Policy
from tfpg.models.requirements import baked_constants
from tfpg.ops.gradients import clip_by_global_norm

# Updates in a row whose gradient is not finite, though the loss is, before it is an error.
MOST_SKIPPED = 10


class Trainable:
    """The trainable weights of a policy, its head and its value model.

    Each model has its own optimizer. The weights of a head (a free log-std) get one like the
    policy's.

    Args:
        policy: Its model is compiled.
        value_model: Compiled too, or None.

    Raises:
        ValueError: There is nothing to train, the models share weights or their optimizer, or
            an optimizer scales its loss.

    Example:
        >>> import keras, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> model.compile(keras.optimizers.SGD(0.1))
        >>> len(Trainable(tfpg.Policy(model, "CartPole-v1")).variables)
        6
    """

    def __init__(self, policy: Policy, value_model: keras.Model | None = None):
        model = policy.model
        if not model.trainable_variables:
            raise ValueError("The model has no trainable weights: there is nothing to train.")
        self._policy_optimizer = model.optimizer
        self.groups = [(model.optimizer, list(model.trainable_variables))]
        self._head_optimizer: Any = None
        if policy.head.variables:
            self._head_optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
            self.groups.append((self._head_optimizer, list(policy.head.variables)))
        if value_model is not None:
            self.groups.append((value_model.optimizer, list(value_model.trainable_variables)))
            shared = {id(v) for v in model.weights} & {id(v) for v in value_model.weights}
            if shared:
                name = next(v.path for v in model.weights if id(v) in shared)
                raise ValueError(
                    f"The model and the value_model share {name!r}, which both would train: make "
                    "one model with two outputs of them."
                )
            if value_model.optimizer is model.optimizer:
                raise ValueError(
                    "The model and the value_model were compiled with the same optimizer object: "
                    "give each one of its own."
                )
        for optimizer, variables in self.groups:
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                raise ValueError(
                    "Loss scaling is for mixed_float16, which tfpg does without: use "
                    "mixed_bfloat16, or compile with auto_scale_loss=False."
                )
            if not optimizer.built:
                optimizer.build(variables)
        self.variables = [v for _, variables in self.groups for v in variables]
        self.skipped = self.skipped_in_a_row = 0  # updates

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(v.shape.num_elements() for v in self.variables)

    def follow_learning_rate(self) -> None:
        """Gives the head's optimizer the rate that a callback gave the policy's."""
        rate = self._policy_optimizer._learning_rate
        if self._head_optimizer is not None and isinstance(rate, keras.Variable):
            self._head_optimizer.learning_rate = float(rate)

    def step(self, gradients: Sequence[tf.Tensor]) -> None:
        """Applies gradients, whatever they are."""
        apply(self.groups, gradients)

    def apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Applies finite gradients; in a graph or eagerly.

        Returns:
            ``[V]``, for every variable whether its gradient is finite. None is applied unless
            all are.
        """
        finite = tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        apply_where(tf.reduce_all(finite), self.groups, gradients)
        return finite

    def finalize(self) -> None:
        """What Keras does when training ends: averaged weights take their places."""
        for optimizer, variables in self.groups:
            optimizer.finalize_variable_values(variables)

    def check(self, finite: np.ndarray, loss: float) -> bool:
        """Whether an update was applied, which it is not if a gradient is not finite.

        Raises:
            FloatingPointError: The loss was not finite either, or so many updates in a row were
                skipped. Nothing was applied.
        """
        if finite.all():
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        culprit = self.variables[int(np.argmin(finite))].path
        what = f"The gradient of {culprit!r} is not finite (loss {loss}), and the update was not "
        if math.isfinite(loss) and self.skipped_in_a_row < MOST_SKIPPED:
            if self.skipped == 1:
                warn(
                    f"{what}applied. The training goes on; this is said once, and "
                    f"{MOST_SKIPPED} in a row stop it."
                )
            return False
        raise FloatingPointError(
            f"{what}applied. Look for non-finite rewards or observations, or use a smaller "
            "learning rate."
        )


def compiled(function: Callable, jit_compile: bool = False, signature: Any = None) -> Callable:
    """A compiled function of an agent, of which there may be many, one after another.

    Args:
        function: Of tensors.
        jit_compile: Whether by XLA.
        signature: The tensors it takes, as `tf.TensorSpec`; None: whichever come.

    Example:
        >>> compiled(lambda x: x + 1)(tf.constant(1)).numpy()
        np.int32(2)
    """
    call = tf.function(
        function, input_signature=signature, jit_compile=jit_compile, autograph=False
    )
    # TensorFlow takes agents that are made in a loop for one that is traced again and again.
    call._omit_frequent_tracing_warning = True
    return call


def suits_xla(model: keras.Model) -> bool:
    """Whether XLA makes a model's updates faster: not its convolutions on a CPU.

    Example:
        >>> suits_xla(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        True
    """
    layers = keras.layers
    convolutions = (
        *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
        *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        *(layers.SeparableConv1D, layers.SeparableConv2D),
    )
    convolves = any(isinstance(layer, convolutions) for layer in all_layers(model))
    return not convolves or bool(tf.config.list_logical_devices("GPU"))


def compiled_for(model: keras.Model | None) -> Any:
    """What a compiled update keeps of a model as it was; where it differs, it is stale."""
    if model is None:
        return None
    trained = [id(v) for v in model.trainable_variables]
    return model.optimizer, trained, baked_constants(model)


def apply_where(
    wanted: tf.Tensor,
    groups: Sequence[tuple[Any, Sequence[Any]]],
    gradients: Sequence[tf.Tensor],
) -> None:
    """Applies gradients of groups of (optimizer, variables) where a scalar says so."""

    def step() -> tf.Tensor:
        apply(groups, gradients)
        return tf.constant(True)

    tf.cond(wanted, step, lambda: tf.constant(False))


def apply(groups: Sequence[tuple[Any, Sequence[Any]]], gradients: Sequence[tf.Tensor]) -> None:
    """Applies gradients of groups of (optimizer, variables), one after another."""
    start = 0
    for optimizer, variables in groups:
        own = gradients[start : start + len(variables)]
        start += len(variables)
        clipnorm = None if optimizer.clipnorm else optimizer.global_clipnorm
        if not clipnorm or optimizer.gradient_accumulation_steps:
            optimizer.apply(own, variables)
            continue
        # Keras's norm takes a sixth of an update's time; see `sum_of_squares`.
        own = clip_by_global_norm(own, clipnorm)
        optimizer.global_clipnorm = None
        try:
            optimizer.apply(own, variables)
        finally:
            optimizer.global_clipnorm = clipnorm
