"""The one place that reduces losses and the only gradient tapes.

Both estimators return the gradient of the same number, the mean over the batch of the per-step
losses plus the weight penalties of the variables, and agree up to rounding:

- ``fused`` differentiates the mean once, over the whole batch;
- ``accumulated`` opens a tape for every step and adds the gradients up, as the textbooks write
  it, without ever holding more than one step's activations.

Both run eagerly and inside a ``tf.function`` with an open batch dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import tensorflow as tf  # isort: skip

StepLosses = Callable[[Any], dict[str, tf.Tensor]]
Gradients = list[tf.Tensor]
Logs = dict[str, tf.Tensor]


def fused(step_losses: StepLosses, variables: Sequence[Any], batch: Any) -> tuple[Gradients, Logs]:
    """Gradient of the mean loss, from one tape over the flattened batch.

    Args:
        step_losses: Maps a batch to a dict of ``[B]`` tensors; ``"loss"`` is differentiated,
            the others are only averaged.
        variables: Keras variables.
        batch: A (named) tuple of tensors, each ``[B, ...]``.

    Returns:
        Gradients, one per variable (zeros where the loss does not depend on it), and the batch
        means of all entries of the dict.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import keras
        >>> w = keras.Variable([2.0])
        >>> gradients, logs = fused(
        ...     lambda batch: {"loss": batch[0] * w}, [w], (tf.constant([1.0, 3.0]),)
        ... )
        >>> gradients[0].numpy().tolist(), float(logs["loss"])
        ([2.0], 4.0)
    """
    with tf.GradientTape() as tape:
        logs = {name: tf.reduce_mean(x) for name, x in step_losses(batch).items()}
        objective = logs["loss"] + tf.cast(weight_penalty(variables), logs["loss"].dtype)
    return _gradient(tape, objective, variables), logs


def accumulated(
    step_losses: StepLosses, variables: Sequence[Any], batch: Any
) -> tuple[Gradients, Logs]:
    """Gradient of the mean loss, from one tape per step, weighted and added up.

    The arguments and the result are those of `fused`; memory is two copies of the parameters
    and one step's activations, however long the batch.

    Example:
        >>> import keras
        >>> w = keras.Variable([2.0])
        >>> gradients, logs = accumulated(
        ...     lambda batch: {"loss": batch[0] * w}, [w], (tf.constant([1.0, 3.0]),)
        ... )
        >>> gradients[0].numpy().tolist(), float(logs["loss"])
        ([2.0], 4.0)
    """
    count = tf.shape(batch[0])[0]

    def one_step(index):
        step = tf.nest.map_structure(lambda x: x[index : index + 1], batch)
        with tf.GradientTape() as tape:
            logs = {name: tf.reduce_sum(x) for name, x in step_losses(step).items()}
        return _gradient(tape, logs["loss"], variables), logs

    def share(x):
        return x / tf.cast(count, x.dtype)

    def add_step(index, sums):
        return index + 1, tf.nest.map_structure(lambda s, x: s + share(x), sums, one_step(index))

    with tf.GradientTape() as tape:
        penalty = weight_penalty(variables)
    gradients, logs = tf.nest.map_structure(share, one_step(0))
    gradients = [g + p for g, p in zip(gradients, _gradient(tape, penalty, variables), strict=True)]
    _, (gradients, logs) = tf.while_loop(
        lambda index, _: index < count, add_step, (tf.constant(1), (gradients, logs))
    )
    return gradients, logs


def weight_penalty(variables: Sequence[Any]) -> tf.Tensor:
    """Sum of the Keras regularizers of the variables: they do not depend on the batch.

    Example:
        >>> import keras
        >>> w = keras.Variable([2.0, 1.0])
        >>> w.regularizer = keras.regularizers.L2(0.1)
        >>> float(weight_penalty([w]))
        0.5
    """
    penalties = [
        tf.cast(v.regularizer(v), tf.float32)
        for v in variables
        if getattr(v, "regularizer", None) is not None
    ]
    return tf.add_n(penalties) if penalties else tf.constant(0.0)


def _gradient(tape: tf.GradientTape, target: tf.Tensor, variables: Sequence[Any]) -> Gradients:
    values = [v.value for v in variables]
    zero = tf.UnconnectedGradients.ZERO
    # An embedding's gradient comes as slices, whose repeated rows no norm and no Adam adds up.
    return [
        tf.convert_to_tensor(g) for g in tape.gradient(target, values, unconnected_gradients=zero)
    ]
