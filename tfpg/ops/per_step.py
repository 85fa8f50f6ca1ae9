r"""Policy gradients taken one step at a time: their sum, and how noisy it is.

A policy gradient is a weighted sum of the gradients ``g_t`` of ``log pi(a_t | s_t)``. With one
gradient tape per step, several such sums can be kept at once, here for every episode and over all
episodes, with three weights: ``A_t``, the advantage; 1; and ``V_t``, the value. Linear combinations
of the three sums give the gradient with or without a z-score and with or without a baseline. The
episodes of a batch are independent samples of the gradient, so the inner products of their sums
show how noisy each of these is.

Gradients are flat vectors ``[P]``.

Source: Williams, 1992, https://doi.org/10.1007/BF00992696; Greensmith, Bartlett and Baxter,
"Variance Reduction Techniques for Gradient Estimates in Reinforcement Learning", 2004.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tfpg.core.backend import tf
from tfpg.ops.gradients import gradient_of

if TYPE_CHECKING:
    from tfpg.ops.gradients import Gradients

    # Maps a batch to a dict of [B] tensors: "log_prob", "rest", and others that are averaged.
    StepTerms: TypeAlias = Callable[[Any], dict[str, tf.Tensor]]


class GradientSums(NamedTuple):
    """Weighted sums of the gradients of many steps, with ``W`` weights for each step."""

    episode: tf.Tensor  #: [W, P]  over the steps of the current episode
    total: tf.Tensor  #: [W, P]  over the steps of finished episodes
    products: tf.Tensor  #: [W, W]  float64, inner products of an episode's sums, over episodes
    rest: tf.Tensor  #: [P]  sum of the gradients that are not weighted
    episodes: tf.Tensor  #: []  float64, finished episodes


class Noise(NamedTuple):
    """The noise of the gradient of a batch of episodes."""

    snr: tf.Tensor  #: []  squared norm of the mean over the squared standard error
    variance: tf.Tensor  #: []  total variance of an episode's contribution


def accumulate(
    step_terms: StepTerms,
    variables: Sequence[Any],
    batch: Any,
    weights: tf.Tensor,
    ends: tf.Tensor,
) -> tuple[GradientSums, dict[str, tf.Tensor]]:
    """Sum the gradients of a batch with one gradient tape per step.

    Args:
        step_terms: Maps a batch to a dict of ``[B]`` tensors: ``log_prob``, whose gradient is
            weighted, ``rest``, whose gradient is not, and others that are averaged.
        variables: Keras variables.
        batch: A (named) tuple of tensors, each ``[B, ...]``, or dicts of them. The steps of an
            episode follow each other.
        weights: ``[B, W]``, the weights of each step's gradient.
        ends: ``[B]`` bool, true at the last step of an episode.

    Returns:
        The sums, and the means over the batch of all entries of the dict.
    """
    count = tf.shape(weights)[0]

    def one_step(index: Any) -> Any:
        step = tf.nest.map_structure(lambda x: x[index : index + 1], batch)
        with tf.GradientTape(persistent=True) as tape:
            terms = {name: tf.reduce_sum(x) for name, x in step_terms(step).items()}
        gradients = (gradient_of(tape, terms[name], variables) for name in ("log_prob", "rest"))
        return *map(flatten, gradients), terms

    def add(index: Any, sums: GradientSums, logs: Any, step: Any) -> Any:
        gradient, rest, terms = step
        episode = sums.episode + weights[index][:, None] * gradient
        sums = sums._replace(episode=episode, rest=sums.rest + rest)
        sums = tf.cond(ends[index], lambda: _finish_episode(sums), lambda: sums)
        return index + 1, sums, tf.nest.map_structure(tf.add, logs, terms)

    rows, size = weights.shape[1], sum(v.shape.num_elements() for v in variables)
    empty = GradientSums(
        episode=tf.zeros([rows, size]),
        total=tf.zeros([rows, size]),
        products=tf.zeros([rows, rows], tf.float64),
        rest=tf.zeros([size]),
        episodes=tf.zeros([], tf.float64),
    )
    first = one_step(0)
    state = add(tf.constant(0), empty, tf.nest.map_structure(tf.zeros_like, first[2]), first)
    _, sums, logs = tf.while_loop(
        lambda index, *_: index < count,
        lambda index, sums, logs: add(index, sums, logs, one_step(index)),
        state,
    )
    return sums, {name: x / tf.cast(count, x.dtype) for name, x in logs.items()}


def noise_of(sums: GradientSums, combination: Any) -> Noise:
    """Return the noise of a linear combination of the sums.

    Args:
        sums: Sums over at least two episodes.
        combination: ``[W]``, its coefficients.
    """
    combination = tf.cast(combination, tf.float64)
    total = tf.linalg.matvec(tf.cast(sums.total, tf.float64), combination, transpose_a=True)
    norm = tf.reduce_sum(total * total)
    second = tf.tensordot(combination, tf.linalg.matvec(sums.products, combination), 1)
    count = sums.episodes
    variance = tf.maximum(second - norm / count, 0.0) / (count - 1.0)
    return Noise(tf.math.divide_no_nan(norm, count * variance), variance)


def flatten(gradients: Gradients) -> tf.Tensor:
    """Join a list of gradients into a vector ``[P]`` float32."""
    return tf.concat([tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients], 0)


def unflatten(vector: tf.Tensor, variables: Sequence[Any]) -> Gradients:
    """Split a vector ``[P]`` into a list of gradients, one for each variable."""
    parts = tf.split(vector, [v.shape.num_elements() for v in variables])
    return [
        tf.cast(tf.reshape(part, v.shape), v.dtype)
        for part, v in zip(parts, variables, strict=True)
    ]


def _finish_episode(sums: GradientSums) -> GradientSums:
    episode = tf.cast(sums.episode, tf.float64)
    return sums._replace(
        episode=tf.zeros_like(sums.episode),
        total=sums.total + sums.episode,
        products=sums.products + tf.matmul(episode, episode, transpose_b=True),
        episodes=sums.episodes + 1,
    )
