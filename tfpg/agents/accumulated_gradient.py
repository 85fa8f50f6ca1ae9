"""REINFORCE's gradient from one tape per step, and how noisy it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.minibatches import Batch
from tfpg.core.backend import tf
from tfpg.ops import per_step
from tfpg.ops.gradients import gradient_of, weight_penalty

if TYPE_CHECKING:
    from tfpg.ops.gradients import Gradients

# Undefined for a single episode.
NOISE = ("grad_snr", "baseline_saving", "zscore_saving")


def step_weights(
    batch: Batch, standardize: str | None, baseline: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights ``[B, 3]`` of each step's gradient, and the coefficients to combine them.

    The weights are the advantage A, 1 and the value V. The rows of the combinations ``[3, 3]``
    give three gradients: as applied, without the shift of the z-score, and without the shift
    and the baseline. All are in the unit of the applied advantages.

    Args:
        batch: Arrays.
        standardize: See `tfpg.Reinforce`.
        baseline: See `tfpg.Reinforce`.

    Example:
        >>> zeros, x = np.zeros(2), np.array([1.0, 3.0])
        >>> weights, combinations = step_weights(
        ...     Batch(zeros, zeros, x, x, zeros, zeros), None, None
        ... )
        >>> weights.tolist(), combinations[0].tolist()
        ([[1.0, 1.0, 0.0], [3.0, 1.0, 0.0]], [1.0, 0.0, 0.0])
    """
    raw = (batch.returns - batch.values).astype(np.float64)
    z_scored = standardize == "batch"
    spread = (batch.returns if baseline == "step" else raw).std()
    scale = 1.0 / spread if z_scored and batch.advantages.any() else 1.0
    weights = [batch.advantages, np.ones_like(raw), scale * batch.values]
    shift = scale * raw.mean() if z_scored and not _subtracts_means(baseline) else 0.0
    combinations = [[1.0, 0.0, 0.0], [1.0, shift, 0.0], [1.0, shift, 1.0]]
    return np.stack(weights, axis=1).astype(np.float32), np.array(combinations, np.float32)


def accumulated_gradient(
    losses: per_step.StepTerms,
    variables: Sequence[Any],
    batch: Batch,
    weights: tf.Tensor,
    combinations: tf.Tensor,
    ends: tf.Tensor,
    standardize: str | None,
    baseline: str | None,
) -> tuple[Gradients, dict[str, tf.Tensor]]:
    """Return the mean gradient of a batch, and the means of its losses with the noise.

    Args:
        losses: See `tfpg.ops.per_step.accumulate`.
        variables: Keras variables.
        batch: Tensors.
        weights: See `step_weights`.
        combinations: See `step_weights`.
        ends: ``[B]`` bool, true at the last step of an episode.
        standardize: See `tfpg.Reinforce`.
        baseline: See `tfpg.Reinforce`.

    Returns:
        A gradient for each variable, and scalars: the means of the losses, and those of `NOISE`
        that apply.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696; for the noise, `tfpg.ops.per_step`.
    """
    sums, logs = per_step.accumulate(losses, variables, batch, weights, ends)
    steps = tf.cast(tf.shape(weights)[0], tf.float32)
    gradients = per_step.unflatten((sums.rest - sums.total[0]) / steps, variables)
    with tf.GradientTape() as tape:
        penalty = weight_penalty(variables)
    penalties = gradient_of(tape, penalty, variables)
    gradients = [g + tf.cast(p, g.dtype) for g, p in zip(gradients, penalties, strict=True)]
    applied, unshifted, raw = (per_step.noise_of(sums, c) for c in tf.unstack(combinations))
    logs["grad_snr"] = applied.snr
    if standardize == "batch" and not _subtracts_means(baseline):
        logs["zscore_saving"] = 1.0 - applied.variance / unshifted.variance
    if standardize != "episode" and baseline is not None:
        logs["baseline_saving"] = 1.0 - unshifted.variance / raw.variance
    return gradients, logs


def _subtracts_means(baseline: str | None) -> bool:
    """Whether the baseline has subtracted the mean that the z-score would subtract."""
    return baseline in ("mean", "step")
