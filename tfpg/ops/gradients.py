"""The place that reduces losses: the gradient of their mean over a batch, at once or in slices.

`fused` differentiates the weighted mean of the per-step losses plus the weight penalties of the
variables. In slices it adds up what each gives, so that the activations of one slice are all
that has to fit into memory; with slices of one step it is the textbooks' tape for every step.
What only a tape for every step can tell is in `tfpg.ops.per_step`.

Runs eagerly and inside a ``tf.function`` with an open batch dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfpg.core.backend import tf

StepLosses = Callable[[Any], dict[str, tf.Tensor]]
Gradients = list[tf.Tensor]
Logs = dict[str, tf.Tensor]


def fused(
    step_losses: StepLosses,
    variables: Sequence[Any],
    batch: Any,
    *,
    weights: tf.Tensor | None = None,
    batch_size: int | None = None,
    keep: Sequence[str] = (),
) -> tuple[Gradients, Logs]:
    """Gradient of the weighted mean loss over a batch, and of the weight penalties.

    Args:
        step_losses: Maps a batch to a dict of ``[B]`` tensors; ``"loss"`` is differentiated,
            the others are only averaged.
        variables: Keras variables.
        batch: A (named) tuple of tensors, each ``[B, ...]``, or dicts of them.
        weights: ``[B]``, at least 0, not all 0. None: all the same.
        batch_size: Steps in a slice. None: the whole batch at once.
        keep: Entries of the dict to return as they are, ``[B]``; not with slices.

    Returns:
        Gradients, one per variable (zeros where the loss does not depend on it), and the
        weighted batch means of all other entries of the dict.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import keras
        >>> w = keras.Variable([2.0])
        >>> for batch_size in (None, 1):
        ...     gradients, logs = fused(
        ...         lambda batch: {"loss": batch[0] * w},
        ...         [w],
        ...         (tf.constant([1.0, 3.0]),),
        ...         batch_size=batch_size,
        ...     )
        ...     gradients[0].numpy().tolist(), float(logs["loss"])
        ([2.0], 4.0)
        ([2.0], 4.0)
    """
    count = tf.shape(tf.nest.flatten(batch)[0])[0]
    if weights is None:
        weights = tf.fill([count], 1.0)
    shares = weights / tf.reduce_sum(weights)

    def slice_of(start: Any, size: Any) -> tuple[Gradients, Logs]:
        part = tf.nest.map_structure(lambda x: x[start : start + size], batch)
        share = shares[start : start + size]
        with tf.GradientTape() as tape:
            losses = step_losses(part).items()
            logs = {
                name: x if name in keep else tf.reduce_sum(tf.cast(share, x.dtype) * x)
                for name, x in losses
            }
        return gradient_of(tape, logs["loss"], variables), logs

    with tf.GradientTape() as tape:
        penalty = weight_penalty(variables)
    if batch_size is None:
        sums = slice_of(0, count)
    else:

        def add_slice(start: Any, sums: Any) -> Any:
            sums = tf.nest.map_structure(tf.add, sums, slice_of(start, batch_size))
            return start + batch_size, sums

        _, sums = tf.while_loop(
            lambda start, _: start < count,
            add_slice,
            (tf.constant(batch_size), slice_of(0, batch_size)),
        )
    gradients, logs = sums
    extra = gradient_of(tape, penalty, variables)
    return [g + tf.cast(p, g.dtype) for g, p in zip(gradients, extra, strict=True)], logs


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


def sum_of_squares(x: Any) -> tf.Tensor:
    """Sum of the squares of all numbers, a scalar.

    Example:
        >>> float(sum_of_squares([[3.0, 0.0], [0.0, 4.0]]))
        25.0
    """
    squares = tf.square(x)
    if squares.shape.rank > 1:
        # A CPU adds whole rows at a time, but all numbers one by one, and XLA makes two sums in a
        # row one of all numbers. Of squares the maximum changes nothing but that: a sixth of the
        # time of an update.
        squares = tf.maximum(tf.reduce_sum(squares, axis=0), 0.0)
    return tf.reduce_sum(squares)


def clip_by_global_norm(gradients: Sequence[tf.Tensor], clipnorm: float) -> Gradients:
    """Scales all gradients alike so that their norm is at most ``clipnorm``.

    Of a norm that is not finite all become NaN.

    Source:
        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
        2013, https://arxiv.org/abs/1211.5063.

    Example:
        >>> clip_by_global_norm([tf.constant([3.0]), tf.constant([[4.0]])], 1.0)[1].numpy().item()
        0.800000011920929
    """
    squares = [tf.cast(sum_of_squares(g), tf.float32) for g in gradients]
    norm = tf.sqrt(tf.add_n(squares))
    scale = tf.where(tf.math.is_finite(norm), tf.minimum(clipnorm / norm, 1.0), float("nan"))
    return [g * tf.cast(scale, g.dtype) for g in gradients]


def gradient_of(tape: tf.GradientTape, target: tf.Tensor, variables: Sequence[Any]) -> Gradients:
    """Dense gradients of a scalar, zeros where it does not depend on a variable."""
    values = [v.value for v in variables]
    zero = tf.UnconnectedGradients.ZERO
    # An embedding's gradient comes as slices, whose repeated rows no norm and no Adam adds up.
    return [
        tf.convert_to_tensor(g) for g in tape.gradient(target, values, unconnected_gradients=zero)
    ]
