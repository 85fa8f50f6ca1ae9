"""The three ways REINFORCE takes its gradient: fused, accumulated, streaming."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfpg.agents.minibatches import Batch
from tfpg.agents.optimization import Trainable, apply_where, compiled
from tfpg.core.arrays import map_arrays
from tfpg.core.backend import tf
from tfpg.models.critic import Critic
from tfpg.models.policy import Decision, Policy
from tfpg.ops import per_step
from tfpg.ops.gradients import fused, gradient_of, weight_penalty
from tfpg.ops.policy_losses import entropy_loss, policy_gradient_loss
from tfpg.ops.value_losses import value_loss
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.finite import check_observations, check_rewards
from tfpg.rollouts.loop import Step, play_episodes

_PER_STEP = ("log_prob", "rest")
_NOISE = ("grad_snr", "baseline_saving", "zscore_saving")


class Streamed(NamedTuple):
    """What is left of episodes whose gradients were taken while they were played."""

    traces: per_step.Traces
    entropy: tf.Tensor  # []  sum over the steps
    steps: int


class Estimator:
    """Compiled updates of REINFORCE, with open batch dimensions, each traced once.

    Args:
        policy: What acts and learns.
        critic: Gives the values, or None.
        trainable: What is trained.
        standardize: See `tfpg.Reinforce`, like all that follow.
        baseline: None, ``"mean"`` or ``"value"``.
        gamma: Discount factor.
        gae_lambda: Of the lambda-returns.
        value_coef: Weight of the value loss.
        value_updates: Gradient steps of a value model.
        entropy_coef: Weight of the entropy bonus.
        batch_size: Steps in a slice, or None.
    """

    def __init__(
        self,
        policy: Policy,
        critic: Critic | None,
        trainable: Trainable,
        *,
        standardize: str | None,
        baseline: str | None,
        gamma: float,
        gae_lambda: float,
        value_coef: float,
        value_updates: int,
        entropy_coef: float,
        batch_size: int | None,
    ):
        self.policy = policy
        self._critic = critic
        self._trainable = trainable
        self._per = standardize
        self._center = baseline == "mean"
        self._gamma = gamma
        self._decay = gamma * gae_lambda
        self._value_coef = value_coef
        self._value_updates = value_updates
        self._entropy_coef = entropy_coef
        self._batch_size = batch_size
        head = policy.head
        numbers = tf.TensorSpec([None], tf.float32)
        actions = tf.TensorSpec([None, *head.action_shape], tf.as_dtype(head.action_dtype))
        batch = Batch(policy.input_spec, actions, *[numbers] * 4)
        rows = tf.TensorSpec([None, per_step.ROWS], tf.float32)
        ends = tf.TensorSpec([None], tf.bool)

        self._fused = compiled(self._fused_update, signature=[batch])
        self._accumulated = compiled(
            self._accumulated_update, signature=[batch, rows, ends, numbers]
        )
        self._more_value = compiled(self._value_update, signature=[batch])
        self._act = compiled(self._act_and_trace)
        self._end = compiled(self._end_episode)
        self._streamed = compiled(self._streamed_update)

    def apply_fused(self, batch: Batch) -> dict[str, float]:
        """One step along the gradient of the batch's mean loss."""
        logs = self._checked(*self._fused(batch))
        return self._with_more_value_updates(batch, logs)

    def apply_accumulated(self, batch: Batch, ends: np.ndarray) -> dict[str, float]:
        """The same step, from a tape for every step, and how noisy the gradient was."""
        raw = (batch.returns - batch.values).astype(np.float64)
        mean = raw.mean()
        if self._center:
            raw = raw - mean
        scale = 1.0
        if self._per == "batch" and batch.advantages.any():
            scale = 1.0 / raw.std()
        weights = np.stack(
            [batch.advantages, np.ones_like(raw), scale * batch.values], axis=1
        ).astype(np.float32)
        # In the unit of the applied advantages, what they are without the z-score's shift, and
        # without the baseline as well.
        shift = scale * raw.mean() if self._per == "batch" else 0.0
        baseline = [1.0, scale * mean, 0.0] if self._center else [1.0, shift, 1.0]
        combinations = np.array([[1.0, 0.0, 0.0], [1.0, shift, 0.0], baseline], np.float32)
        logs = self._checked(*self._accumulated(batch, weights, ends, combinations.ravel()))
        return self._with_more_value_updates(batch, logs)

    def stream(self, collector: Collector, episodes: int, max_steps: int | None) -> Streamed:
        """Plays whole episodes one after another, with a tape at every step."""
        data = Streamed(per_step.begin(self._trainable.size), tf.constant(0.0), 0)
        for _, rngs in collector.rounds(episodes):
            actor = _TracingActor(self, data)
            total = 0.0
            steps = play_episodes(
                collector.envs, actor, rngs, max_steps=max_steps, head=self.policy.head
            )
            for step in steps:
                check_rewards(step.rewards, step.real, actor.steps - 1)
                actor.reward = float(step.rewards[0])
                total += actor.reward
                last = step
            check_observations(last.following, last.real, actor.steps)
            data = actor.finish(last)
            collector.finish(np.array([total]), np.array([actor.steps]))
            collector.steps += actor.steps
        return data

    def apply_streamed(self, data: Streamed) -> dict[str, float]:
        """One step along the gradient that the traces carried."""
        return self._checked(*self._streamed(data.traces, data.entropy))

    def _terms(self, batch: Batch) -> dict[str, tf.Tensor]:
        distribution, value = self._distribution_and_value(batch.inputs)
        entropy, log_prob = distribution.entropy(), distribution.log_prob(batch.actions)
        policy_loss = policy_gradient_loss(log_prob, batch.advantages)
        rest = self._entropy_coef * entropy_loss(entropy)
        terms = {"policy_loss": policy_loss, "entropy": entropy, "log_prob": log_prob}
        if value is not None:
            terms["value_loss"] = value_loss(value, batch.returns)
            rest += self._value_coef * terms["value_loss"]
        return {**terms, "rest": rest, "loss": policy_loss + rest}

    def _distribution_and_value(self, inputs: Any) -> tuple[Any, Any]:
        if self._critic is None:
            return self.policy.distribution(inputs), None
        return self._critic.distribution_and_value(inputs)

    def _fused_update(self, batch: Batch) -> tuple[Any, tf.Tensor]:
        grads, logs = fused(
            self._terms, self._trainable.variables, batch, batch_size=self._batch_size
        )
        return self._applied(grads, {k: v for k, v in logs.items() if k not in _PER_STEP})

    def _accumulated_update(
        self, batch: Batch, weights: tf.Tensor, ends: tf.Tensor, combinations: tf.Tensor
    ) -> tuple[Any, tf.Tensor]:
        variables = self._trainable.variables
        sums, logs = per_step.accumulated(self._terms, variables, batch, weights, ends)
        count = tf.cast(tf.shape(weights)[0], tf.float32)
        grads = per_step.unflat((sums.rest - sums.total[0, :-1]) / count, variables)
        logs = {k: v for k, v in logs.items() if k not in _PER_STEP}
        noise = self._noise(sums, tf.unstack(tf.reshape(combinations, [3, 3])))
        return self._applied(self._with_penalty(grads), {**logs, **noise})

    def _streamed_update(
        self, traces: per_step.Traces, entropy: tf.Tensor
    ) -> tuple[Any, tf.Tensor]:
        sums, moments = traces.sums, traces.ended
        one, zero = tf.ones([], tf.float64), tf.zeros([], tf.float64)
        scale, shift = one, zero
        if self._per == "batch":
            scale, shift = per_step.z_score(moments)
        elif self._center and self._per is None:
            shift = -moments.total / moments.steps
        applied = tf.stack([scale, shift, zero])
        plain = tf.stack([one, -moments.total / moments.steps * float(self._center), zero])
        raw = tf.stack([one, zero, zero if self._center else one])
        total = tf.linalg.matvec(tf.cast(sums.total, tf.float64), applied, transpose_a=True)
        count = tf.cast(moments.steps, tf.float32)
        policy = tf.cast(total, tf.float32)
        # The squared error of a value has the gradient -2 A grad V.
        rest = sums.rest - 2.0 * self._value_coef * traces.value_sum
        grads = per_step.unflat((rest - policy[:-1]) / count, self._trainable.variables)
        logs = {"policy_loss": -policy[-1] / count, "entropy": entropy / count}
        loss = logs["policy_loss"] - self._entropy_coef * logs["entropy"]
        if self._critic is not None:
            logs["value_loss"] = tf.cast(moments.squares / moments.steps, tf.float32)
            loss += self._value_coef * logs["value_loss"]
        noise = self._noise(sums, [applied, plain, raw])
        return self._applied(self._with_penalty(grads), {"loss": loss, **logs, **noise})

    def _noise(self, sums: per_step.Sums, combinations: list) -> dict[str, tf.Tensor]:
        """Signal to noise of the gradient, and what share of its variance was saved."""
        applied, plain, raw = (per_step.noise_of(sums, c) for c in combinations)
        logs = {"grad_snr": applied.snr}
        if self._per == "episode":
            return logs
        unit = tf.cast(combinations[1][0] / combinations[0][0], tf.float64)
        if self._per == "batch":
            scaled = applied.variance * unit * unit
            logs["zscore_saving"] = 1.0 - tf.math.divide_no_nan(scaled, plain.variance)
        if self._center or self._critic is not None:
            logs["baseline_saving"] = 1.0 - tf.math.divide_no_nan(plain.variance, raw.variance)
        return logs

    def _with_penalty(self, grads: list) -> list:
        variables = self._trainable.variables
        with tf.GradientTape() as tape:
            penalty = weight_penalty(variables)
        extra = gradient_of(tape, penalty, variables)
        return [g + tf.cast(p, g.dtype) for g, p in zip(grads, extra, strict=True)]

    def _applied(self, grads: list, logs: dict[str, Any]) -> tuple[Any, tf.Tensor]:
        finite = self._trainable.apply(grads)
        return {**logs, "grad_norm": tf.linalg.global_norm(grads)}, finite

    def _checked(self, logs: Any, finite: tf.Tensor) -> dict[str, float]:
        numbers = {name: float(x) for name, x in logs.items()}
        self._trainable.check(finite.numpy(), numbers["loss"])
        # One episode says nothing of how noisy it is; any other NaN is for callbacks to see.
        return {name: x for name, x in numbers.items() if name not in _NOISE or np.isfinite(x)}

    def _with_more_value_updates(self, batch: Batch, logs: dict[str, float]) -> dict[str, float]:
        if self._value_updates > 1:
            self._more_value(batch)
        return logs

    def _value_update(self, batch: Batch) -> None:
        critic = self._critic
        assert critic is not None
        optimizer, variables = self._trainable.groups[-1]

        def losses(batch: Batch) -> dict[str, tf.Tensor]:
            value = critic.own_value(batch.inputs)
            return {"loss": self._value_coef * value_loss(value, batch.returns)}

        def update(index: tf.Tensor) -> list[tf.Tensor]:
            grads, _ = fused(losses, variables, batch, batch_size=self._batch_size)
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
            apply_where(finite, [(optimizer, variables)], grads)
            return [index + 1]

        tf.while_loop(lambda index: index < self._value_updates, update, [tf.constant(1)])

    def _act_and_trace(
        self,
        traces: per_step.Traces,
        inputs: Any,
        noise: tf.Tensor,
        reward: tf.Tensor,
        value_before: tf.Tensor,
        credited: tf.Tensor,
    ) -> tuple[Any, ...]:
        variables = self._trainable.variables
        with tf.GradientTape(persistent=True) as tape:
            distribution, value = self._distribution_and_value(inputs)
            actions = tf.nest.map_structure(tf.stop_gradient, distribution.sample(noise))
            log_prob = tf.reduce_sum(distribution.log_prob(actions))
            entropy = tf.reduce_sum(distribution.entropy())
            rest = -self._entropy_coef * entropy
            value = tf.constant(0.0) if value is None else tf.reduce_sum(value)
        delta = reward + self._gamma * value - value_before
        traces = tf.cond(credited, lambda: per_step.credit(traces, delta), lambda: traces)
        gradient = tf.concat([per_step.flat(gradient_of(tape, log_prob, variables)), [log_prob]], 0)
        value_gradient = rest_gradient = tf.zeros_like(traces.value)
        if self._entropy_coef:
            rest_gradient = per_step.flat(gradient_of(tape, rest, variables))
        if self._critic is not None:
            value_gradient = per_step.flat(gradient_of(tape, value, variables))
        traces = per_step.act_step(
            traces, self._decay, gradient, rest_gradient, value_gradient, value
        )
        return traces, actions, log_prob, entropy, value

    def _end_episode(
        self,
        traces: per_step.Traces,
        inputs: Any,
        reward: tf.Tensor,
        value_before: tf.Tensor,
        terminated: tf.Tensor,
    ) -> per_step.Traces:
        value = tf.constant(0.0)
        if self._critic is not None:
            value = tf.reduce_sum(self._distribution_and_value(inputs)[1])
        bootstrap = tf.where(terminated, 0.0, self._gamma * value)
        traces = per_step.credit(traces, reward + bootstrap - value_before)
        return per_step.close_episode(traces, per_episode=self._per == "episode")


class _TracingActor:
    """Acts one step at a time, and takes the gradients while it does."""

    def __init__(self, estimator: Estimator, data: Streamed):
        self._estimator = estimator
        self._head = estimator.policy.head
        self._data = data
        self._value = tf.constant(0.0)
        self._entropy = data.entropy
        self._traces = data.traces
        self.reward = 0.0
        self.steps = 0

    def __call__(self, observations: Any, noise: np.ndarray | None) -> Decision:
        self._traces, actions, log_prob, entropy, self._value = self._estimator._act(
            self._traces,
            self._inputs(observations),
            tf.constant(noise),
            tf.constant(self.reward, tf.float32),
            self._value,
            tf.constant(self.steps > 0),
        )
        if not np.isfinite(log_prob):
            raise FloatingPointError(
                f"The log-probability of an action is {float(log_prob)}: look for observations "
                "or weights that are not finite."
            )
        self._entropy += entropy
        self.steps += 1
        actions = actions.numpy()
        return Decision(actions, self._head.env_actions(actions), actions)

    def finish(self, last: Step) -> Streamed:
        """The traces after the episode's last step."""
        traces = self._estimator._end(
            self._traces,
            self._inputs(last.following),
            tf.constant(self.reward, tf.float32),
            self._value,
            tf.constant(bool(last.terminated[0])),
        )
        return Streamed(traces, self._entropy, self._data.steps + self.steps)

    def _inputs(self, observations: Any) -> Any:
        policy = self._estimator.policy
        inputs = policy.encode(observations)
        return map_arrays(lambda x, spec: tf.constant(x, spec.dtype), inputs, policy.input_spec)
