r"""Gradients of the policy taken step by step: what they add up to, and how noisy that is.

A policy gradient is a weighted sum of the gradients ``g_t`` of ``log pi(a_t | s_t)``. Whoever
takes them one at a time may keep several such sums at once, here with the weights

    A_t, the advantage,     1,     V_t, the baseline,

for every episode and over all of them. Their combinations give the gradient with a z-score or
without, and the products of the episodes' sums how much of its variance each step of the way
saved; the episodes of a batch are independent samples of it.

`accumulated` reads the weights from a batch. `Traces` finds them while acting: with

    delta_k = r_k + gamma V(s_{k+1}) - V(s_k),     e_k = gamma lambda e_{k-1} + g_k,

the sum over t of ``A_t g_t`` is the sum over k of ``delta_k e_k``, so no step has to be kept, and
the first two moments of ``A_t`` follow the same way. Memory is a few copies of the parameters
however long an episode is.

Gradients are flat vectors ``[P]`` here, with the log-probability itself as one more entry, so
that the loss comes out of the same sums.

Source: Sutton and Barto, "Reinforcement Learning", 2nd edition, 2018, sections 12.7 and 13.5;
for the vanilla policy gradient by eligibility traces, Williams, 1992,
https://doi.org/10.1007/BF00992696.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfpg.core.backend import tf
from tfpg.ops.gradients import Gradients, gradient_of

# log_prob, rest and value of one step, each [1], and what else is to be averaged.
StepTerms = Callable[[Any], dict[str, tf.Tensor]]

ROWS = 3  # A, 1, V


class Sums(NamedTuple):
    """Weighted sums of the steps' gradients."""

    episode: tf.Tensor  # [3, P+1]  of the present episode
    total: tf.Tensor  # [3, P+1]  of the episodes that ended
    products: tf.Tensor  # [3, 3]  float64, scalar products of an episode's sums, over episodes
    rest: tf.Tensor  # [P]  what is not weighted with an advantage
    episodes: tf.Tensor  # []  float64


class Noise(NamedTuple):
    """How noisy a batch's gradient is, from its episodes."""

    snr: tf.Tensor  # []  squared norm of the mean over the squared standard error
    variance: tf.Tensor  # []  total variance of an episode's contribution


def empty(size: int) -> Sums:
    """No steps yet, for gradients of ``size`` numbers."""
    zeros = tf.zeros([ROWS, size + 1])
    return Sums(
        zeros, zeros, tf.zeros([ROWS, ROWS], tf.float64), tf.zeros([size]), tf.zeros([], tf.float64)
    )


def add_step(sums: Sums, weights: tf.Tensor, gradient: tf.Tensor, rest: tf.Tensor) -> Sums:
    """With one more step: its weights ``[3]``, its gradient ``[P+1]`` and the rest's ``[P]``."""
    episode = sums.episode + tf.cast(weights, gradient.dtype)[:, None] * gradient
    return sums._replace(episode=episode, rest=sums.rest + rest)


def end_episode(sums: Sums) -> Sums:
    """With the present episode among those that ended."""
    flat = tf.cast(sums.episode[:, :-1], tf.float64)
    return sums._replace(
        episode=tf.zeros_like(sums.episode),
        total=sums.total + sums.episode,
        products=sums.products + tf.matmul(flat, flat, transpose_b=True),
        episodes=sums.episodes + 1,
    )


def noise_of(sums: Sums, weights: Any) -> Noise:
    """How noisy a combination of the sums is; needs two episodes.

    Args:
        sums: Over at least two episodes.
        weights: ``[3]``, of the rows A, 1 and V.
    """
    weights = tf.cast(weights, tf.float64)
    total = tf.linalg.matvec(tf.cast(sums.total[:, :-1], tf.float64), weights, transpose_a=True)
    norm = tf.reduce_sum(total * total)
    second = tf.tensordot(weights, tf.linalg.matvec(sums.products, weights), 1)
    count = sums.episodes
    variance = tf.maximum(second - norm / count, 0.0) / (count - 1.0)
    return Noise(tf.math.divide_no_nan(norm, count * variance), variance)


def accumulated(
    step_terms: StepTerms,
    variables: Sequence[Any],
    batch: Any,
    weights: tf.Tensor,
    ends: tf.Tensor,
) -> tuple[Sums, dict[str, tf.Tensor]]:
    """The sums over a batch, from a tape for every step.

    Args:
        step_terms: Maps a batch to a dict of ``[B]`` tensors: ``log_prob``, whose gradient is
            weighted, ``rest``, whose gradient is not, and others, only averaged.
        variables: Keras variables.
        batch: A (named) tuple of tensors, each ``[B, ...]``, or dicts of them; steps of an
            episode one after another.
        weights: ``[B, 3]``, A, 1 and V in the unit of A.
        ends: ``[B]``, true at the last step of an episode.

    Returns:
        `Sums`, and the batch means of all entries of the dict.
    """
    count = tf.shape(weights)[0]

    def one_step(index: Any) -> Any:
        step = tf.nest.map_structure(lambda x: x[index : index + 1], batch)
        with tf.GradientTape(persistent=True) as tape:
            terms = {name: tf.reduce_sum(x) for name, x in step_terms(step).items()}
        log_prob = flat(gradient_of(tape, terms["log_prob"], variables))
        rest = flat(gradient_of(tape, terms["rest"], variables))
        return tf.concat([log_prob, [terms["log_prob"]]], 0), rest, terms

    def add(index: Any, sums: Sums, logs: Any, step: Any) -> Any:
        gradient, rest, terms = step
        sums = add_step(sums, weights[index], gradient, rest)
        sums = tf.cond(ends[index], lambda: end_episode(sums), lambda: sums)
        return index + 1, sums, tf.nest.map_structure(tf.add, logs, terms)

    first = one_step(0)
    state = add(
        tf.constant(0),
        empty(sum(v.shape.num_elements() for v in variables)),
        tf.nest.map_structure(tf.zeros_like, first[2]),
        first,
    )
    _, sums, logs = tf.while_loop(
        lambda index, *_: index < count,
        lambda index, sums, logs: add(index, sums, logs, one_step(index)),
        state,
    )
    size = tf.cast(count, tf.float32)
    return sums, {name: x / tf.cast(size, x.dtype) for name, x in logs.items()}


class Moments(NamedTuple):
    """First two moments of the advantages, as they become known; all float64 scalars."""

    steps: tf.Tensor
    total: tf.Tensor  # sum of A_t
    squares: tf.Tensor  # sum of A_t^2
    ones: tf.Tensor  # decayed sum of 1
    advantages: tf.Tensor  # decayed sum of A_t as known so far
    doubly: tf.Tensor  # twice decayed sum of 1


class Traces(NamedTuple):
    """What acting with a tape at every step carries along."""

    sums: Sums
    policy: tf.Tensor  # [P+1]  decayed sum of the gradients of log pi
    value: tf.Tensor  # [P]  decayed sum of the gradients of V
    moments: Moments  # of the present episode
    ended: Moments  # of the episodes that ended
    value_sum: tf.Tensor  # [P]  sum of A_t times the gradient of V


def begin(size: int) -> Traces:
    """Nothing played yet, for gradients of ``size`` numbers."""
    moments = Moments(*[tf.zeros([], tf.float64)] * len(Moments._fields))
    zeros = tf.zeros([size])
    return Traces(empty(size), tf.zeros([size + 1]), zeros, moments, moments, zeros)


def act_step(
    traces: Traces,
    decay: Any,
    gradient: tf.Tensor,
    rest: tf.Tensor,
    value_gradient: tf.Tensor,
    value: Any,
) -> Traces:
    """After a decision: decays the traces and takes the step's gradients in.

    Args:
        traces: Before it.
        decay: gamma times lambda.
        gradient: ``[P+1]``, of log pi, and log pi itself.
        rest: ``[P]``, of what is not weighted with an advantage.
        value_gradient: ``[P]``, of V.
        value: V of the observation, 0 without a critic.
    """
    weights = tf.stack([0.0, 1.0, tf.cast(value, tf.float32)])
    m, beta = traces.moments, tf.cast(decay, tf.float64)
    moments = m._replace(
        steps=m.steps + 1,
        ones=beta * m.ones + 1,
        advantages=beta * m.advantages,
        doubly=beta * beta * m.doubly + 1,
    )
    beta = tf.cast(decay, tf.float32)
    return traces._replace(
        sums=add_step(traces.sums, weights, gradient, rest),
        policy=beta * traces.policy + gradient,
        value=beta * traces.value + value_gradient,
        moments=moments,
    )


def credit(traces: Traces, delta: Any) -> Traces:
    """After a reward: credits its temporal-difference error to all steps before it."""
    delta = tf.cast(delta, tf.float64)
    m, small = traces.moments, tf.cast(delta, tf.float32)
    moments = m._replace(
        total=m.total + delta * m.ones,
        squares=m.squares + delta * (2 * m.advantages + delta * m.doubly),
        advantages=m.advantages + delta * m.doubly,
    )
    row = tf.one_hot(0, ROWS)[:, None] * (small * traces.policy)
    sums = traces.sums._replace(episode=traces.sums.episode + row)
    value_sum = traces.value_sum + small * traces.value
    return traces._replace(sums=sums, value_sum=value_sum, moments=moments)


def close_episode(traces: Traces, per_episode: bool = False) -> Traces:
    """After an episode: its sums go to the others, and the next begins with empty traces.

    Args:
        traces: Whose last reward was credited.
        per_episode: Standardize the episode's advantages by themselves.
    """
    sums, m = traces.sums, traces.moments
    if per_episode:
        scale, shift = z_score(m)
        a, one, v = tf.unstack(tf.cast(sums.episode, tf.float64))
        rows = [scale * a + shift * one, one, scale * v]
        sums = sums._replace(episode=tf.cast(tf.stack(rows), sums.episode.dtype))
    ended = Moments(*(a + b for a, b in zip(traces.ended, m, strict=True)))
    nothing = Moments(*(tf.zeros_like(x) for x in m))
    return Traces(
        end_episode(sums),
        tf.zeros_like(traces.policy),
        tf.zeros_like(traces.value),
        nothing,
        ended,
        traces.value_sum,
    )


def z_score(moments: Moments) -> tuple[tf.Tensor, tf.Tensor]:
    """``scale`` and ``shift`` with which ``scale A_t + shift`` is standardized, float64.

    Both are 0 where all advantages are the same, as far as sums of squares can tell.
    """
    mean = moments.total / moments.steps
    square = moments.squares / moments.steps
    variance = square - mean * mean
    scale = tf.where(variance > 1e-12 * square, tf.math.rsqrt(tf.maximum(variance, 1e-300)), 0.0)
    return scale, -scale * mean


def flat(gradients: Gradients) -> tf.Tensor:
    """``[P]`` float32 of a list of gradients."""
    return tf.concat([tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients], 0)


def unflat(vector: tf.Tensor, variables: Sequence[Any]) -> Gradients:
    """The list of gradients that a flat vector holds."""
    sizes = [v.shape.num_elements() for v in variables]
    parts = tf.split(vector, sizes)
    return [
        tf.cast(tf.reshape(part, v.shape), v.dtype)
        for part, v in zip(parts, variables, strict=True)
    ]
