"""Gradients of losses. This is the only place where losses are reduced to their mean.

`mean_gradient` differentiates the weighted mean of the losses of a batch, plus the regularization
of the weights. It can go through the batch in slices, so that only the activations of a slice have
to fit into memory. With slices of one step it is the textbook's gradient tape per step;
`tfpg.ops.per_step` also measures the noise of the gradient.

All functions run eagerly and inside a ``tf.function`` with an open batch dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tfpg.core.backend import first_copy, strategy_of, tf

if TYPE_CHECKING:
    Gradients: TypeAlias = list[tf.Tensor]
    Logs: TypeAlias = dict[str, tf.Tensor]
    StepLosses: TypeAlias = Callable[[Any], Logs]


def mean_gradient(
    step_losses: StepLosses,
    variables: Sequence[Any],
    batch: Any,
    *,
    weights: tf.Tensor | None = None,
    batch_size: int | None = None,
    keep: Sequence[str] = (),
) -> tuple[Gradients, Logs]:
    """Return the gradient of the weighted mean loss of a batch, and of the weight penalties.

    Args:
        step_losses: Maps a batch to a dict of ``[B]`` tensors. ``"loss"`` is differentiated, the
            others are averaged.
        variables: Keras variables.
        batch: A (named) tuple of tensors, each ``[B, ...]``, or dicts of them.
        weights: ``[B]``, at least 0. If all are 0, so are the means. None: equal weights.
        batch_size: Steps in a slice. None: the whole batch at once.
        keep: Entries of the dict to return without averaging, ``[B]``. Not with slices.

    Returns:
        The gradients, one for each variable (zeros if the loss does not depend on it), and the
        weighted means of all entries of the dict.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import keras
        >>> w = keras.Variable([2.0])
        >>> for batch_size in (None, 1):
        ...     gradients, logs = mean_gradient(
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
    shares = tf.math.divide_no_nan(weights, tf.reduce_sum(weights))

    def weighted_sums(batch: Any, shares: tf.Tensor) -> tuple[Gradients, Logs]:
        return _weighted_sums(step_losses, variables, batch, shares, batch_size, keep)

    strategy = strategy_of(variables)
    if strategy is None:
        gradients, logs = weighted_sums(batch, shares)
        extra = _penalty_gradients(variables)
    else:
        gradients, logs = _on_devices(strategy, weighted_sums, batch, shares, keep)
        copies = strategy.run(lambda: _penalty_gradients(variables))
        extra = [first_copy(copy, strategy) for copy in copies]
    return [g + tf.cast(p, g.dtype) for g, p in zip(gradients, extra, strict=True)], logs


def _penalty_gradients(variables: Sequence[Any]) -> Gradients:
    with tf.GradientTape() as tape:
        penalty = weight_penalty(variables)
    return gradient_of(tape, penalty, variables)


def _weighted_sums(
    step_losses: StepLosses,
    variables: Sequence[Any],
    batch: Any,
    shares: tf.Tensor,
    batch_size: int | None,
    keep: Sequence[str],
) -> tuple[Gradients, Logs]:
    """The gradient of the weighted sum of the losses, and the weighted sums of all entries."""
    count = tf.shape(shares)[0]

    def slice_of(start: Any, size: Any) -> tuple[Gradients, Logs]:
        part = tf.nest.map_structure(lambda x: x[start : start + size], batch)
        share = shares[start : start + size]
        with tf.GradientTape() as tape:
            losses = step_losses(part).items()
            logs = {
                # Steps that do not count may be impossible, and then their losses are infinite.
                name: x
                if name in keep
                else tf.reduce_sum(tf.math.multiply_no_nan(x, tf.cast(share, x.dtype)))
                for name, x in losses
            }
        return gradient_of(tape, logs["loss"], variables), logs

    if batch_size is None:
        return slice_of(0, count)

    def add_slice(start: Any, sums: Any) -> Any:
        sums = tf.nest.map_structure(tf.add, sums, slice_of(start, batch_size))
        return start + batch_size, sums

    _, sums = tf.while_loop(
        lambda start, _: start < count,
        add_slice,
        (tf.constant(batch_size), slice_of(0, batch_size)),
    )
    return sums


def _on_devices(
    strategy: tf.distribute.Strategy,
    weighted_sums: Callable[[Any, tf.Tensor], tuple[Gradients, Logs]],
    batch: Any,
    shares: tf.Tensor,
    keep: Sequence[str],
) -> tuple[Gradients, Logs]:
    """The same sums, from a part of the batch on each device: each n-th step of n devices."""
    devices, count = strategy.num_replicas_in_sync, tf.shape(shares)[0]

    def on_device(batch: Any, shares: tf.Tensor) -> Any:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group
        part, share = tf.nest.map_structure(lambda x: x[first::devices], (batch, shares))
        gradients, logs = weighted_sums(part, share)
        kept = {name: logs.pop(name) for name in keep}
        return context.all_reduce(tf.distribute.ReduceOp.SUM, (gradients, logs)), kept

    sums, kept = strategy.run(on_device, args=(batch, shares))
    gradients, logs = tf.nest.map_structure(lambda x: first_copy(x, strategy), sums)
    steps = [tf.range(first, count, devices) for first in range(devices)]
    for name, x in kept.items():
        logs[name] = tf.dynamic_stitch(steps, strategy.experimental_local_results(x))
    return gradients, logs


def weight_penalty(variables: Sequence[Any]) -> tf.Tensor:
    """Return the sum of the Keras regularizers of variables. It does not depend on the batch.

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
    """Return the sum of the squares of all elements, a scalar.

    Example:
        >>> float(sum_of_squares([[3.0, 0.0], [0.0, 4.0]]))
        25.0
    """
    squares = tf.square(x)
    if squares.shape.rank > 1:
        # On a CPU XLA sums rows in parallel but a whole array one element at a time, and it merges
        # two successive sums into one. The maximum changes no square, but keeps the sums apart,
        # which saves a sixth of an update's time.
        squares = tf.maximum(tf.reduce_sum(squares, axis=0), 0.0)
    return tf.reduce_sum(squares)


def clip_by_global_norm(gradients: Sequence[tf.Tensor], clipnorm: float) -> Gradients:
    """Scale gradients so that their common norm is at most ``clipnorm``.

    If the norm is not finite, all gradients become NaN.

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
    """Return the dense gradients of a scalar, zeros if it does not depend on a variable."""
    values = [v.value for v in variables]
    zero = tf.UnconnectedGradients.ZERO
    # The gradient of an embedding is sparse, and its repeated rows would not be added up.
    return [
        tf.convert_to_tensor(g) for g in tape.gradient(target, values, unconnected_gradients=zero)
    ]
