r"""REINFORCE: policy gradients from batches of whole episodes, with or without a baseline.

The agent plays whole episodes. Every step is weighted by its advantage,

    G_t = r_t + gamma G_{t+1},        A_t = G_t - b_t,

by default divided by a standard deviation over the batch. The loss, averaged over the steps, is

    -A_t log pi(a_t | s_t)  -  entropy_coef H(pi(. | s_t))  +  value_coef (G_t - V(s_t))^2.

The baseline b is zero, the mean of the batch, the mean over its episodes at the same time step, or
a value function V that is trained on the returns. Without a value function, a time limit counts as
the end of an episode: there is nothing to bootstrap from.

Source: Williams, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning", 1992, https://doi.org/10.1007/BF00992696.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.accumulated_gradient import NOISE, accumulated_gradient, step_weights
from tfpg.agents.minibatches import Batch, episode_ends, explained_variance
from tfpg.agents.optimization import CompiledUpdate, apply_where, are_finite, compiled
from tfpg.agents.policy_gradient import PolicyGradient
from tfpg.core.backend import tf
from tfpg.core.options import count, nonnegative, one_of, option, optional
from tfpg.models.policy import Policy
from tfpg.ops.distributions import Distribution
from tfpg.ops.gradients import mean_gradient
from tfpg.ops.policy_losses import policy_gradient_loss
from tfpg.ops.value_losses import value_loss
from tfpg.rollouts.trajectory import Trajectory

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector


class Reinforce(PolicyGradient):
    """REINFORCE: one update per batch of whole episodes.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: An option is out of range, two options cannot be combined, or the model has an
            unsuitable layer.

    Source:
        Williams, 1992, https://doi.org/10.1007/BF00992696.

    Example:
        >>> import tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(20, 10), activation="elu", seed=0)
        >>> agent = Reinforce(model, gamma=0.95)
        >>> history = agent.fit("CartPole-v1", iterations=3, seed=42, verbose=0)
        >>> len(history.history["episode_return"])
        3
    """

    num_envs: int | None = option(  # type: ignore[assignment]
        default=None,
        check=optional(count),
        help="Number of environments to step in parallel. None: as many as episodes_per_update.",
    )
    episodes_per_update: int = option(default=32, check=count, help="Episodes per update.")
    standardize: str | None = option(
        default="batch",
        check=one_of("batch", "episode", None),
        help="Standardize the advantages (z-score), or the returns if baseline is 'step', over the "
        "'batch' or within each 'episode'. None: no standardization.",
    )
    baseline: str | None = option(  # type: ignore[assignment]
        default="step",
        check=one_of(None, "mean", "step", "value"),
        help="Baseline to subtract from the returns: the 'mean' of the batch, the mean over its "
        "episodes at the same time 'step', a learned 'value' function, or None. Passing "
        "value_model in Python implies 'value'.",
    )
    entropy_coef: float = option(
        default=0.03, check=nonnegative, help="Weight of the entropy bonus."
    )
    value_updates: int = option(
        default=1,
        check=count,
        help="Gradient steps on the value model per policy update. Values above 1 require a "
        "value_model.",
    )
    gradient: str = option(
        default="fused",
        check=one_of("fused", "accumulated"),
        help="Compute the gradient with one tape over all steps ('fused') or one tape per step "
        "('accumulated'). Both give the same gradient up to rounding; 'accumulated' is slow, but "
        "logs how noisy the gradient is; functional environments are then not compiled with the "
        "updates.",
    )
    batch_size: int | None = option(
        default=None,
        check=optional(count),
        help="Number of steps that the fused gradient processes at once, to save memory. None: "
        "all.",
    )

    plays_episodes = True
    jit_compile = "auto"  # of compiled iterations in functional environments

    def __post_init__(self) -> None:
        if self.value_model is not None:
            if self.baseline == "mean":
                raise ValueError(
                    'A value_model needs baseline="value", got baseline="mean": leave one out.'
                )
            self.baseline = "value"
        if self.num_envs is None:
            self.num_envs = self.episodes_per_update
        super().__post_init__()

    def check_options(self) -> None:
        super().check_options()
        if self.value_updates > 1 and self.value_model is None:
            raise ValueError(
                "value_updates needs a value_model: a second output is updated with the first."
            )
        if self.baseline != "value" and (self.gae_lambda != 1.0 or self.n_step is not None):
            raise ValueError(
                'gae_lambda and n_step require a value function: use baseline="value".'
            )
        if self.gradient != "fused" and self.batch_size is not None:
            raise ValueError('batch_size needs gradient="fused".')

    @property
    def window(self) -> int:  # type: ignore[override]
        """The number of episodes that ``episode_return`` averages over: those of an iteration."""
        return self.episodes_per_update

    @property
    def learns_value(self) -> bool:  # type: ignore[override]
        return self.baseline == "value"

    def build(self, policy: Policy) -> None:
        if self.learns_value:
            policy.require_value()
        if policy.states:
            self.check_recurrent(policy)
        head = policy.head
        numbers = tf.TensorSpec([None], tf.float32)
        actions = tf.TensorSpec([None, *head.action_shape], tf.as_dtype(head.action_dtype))
        batch = Batch(policy.input_spec, actions, *[numbers] * 4)
        # Without XLA, which would compile it for each number of steps.
        signature = (batch, numbers) if policy.states else (batch,)
        self._fused = CompiledUpdate(self._fused_update, False, self.models, signature)
        weights = [tf.TensorSpec([size, 3], tf.float32) for size in (None, 3)]
        signature = (batch, *weights, tf.TensorSpec([None], tf.bool))
        self._accumulated = CompiledUpdate(self._accumulated_update, False, self.models, signature)
        self._update_value = compiled(self._value_update, signature=[batch])
        self.compiled_iterations = None

    def check_recurrent(self, policy: Policy) -> None:
        super().check_recurrent(policy)
        if self.gradient != "fused" or self.batch_size is not None:
            raise ValueError(
                "The model is recurrent, so the gradient must be computed over whole episodes: "
                'use gradient="fused" without a batch_size.'
            )

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor | None]:
        policy = self.trained_policy
        if not policy.states:
            return super().distribution_and_value(inputs)
        steps = tf.shape(tf.nest.flatten(inputs)[0])[0] // self.episodes_per_update
        distribution, value = policy.distribution_and_value(inputs, steps)
        return distribution, value if self.learns_value else None

    def _sequences(self, data: Trajectory, batch: Batch) -> tuple[Any, ...]:
        """The batch; for a recurrent policy, with episodes of the same length, and weights."""
        if not self.trained_policy.states:
            return (batch,)
        real = data.mask.T.ravel()
        rows = real.cumsum().astype(int) - 1  # padding repeats the last step of its episode
        return tf.nest.map_structure(lambda x: x[rows], batch), real.astype(np.float32)

    def first_numbers(self, iteration: int) -> tuple[int, int]:
        return iteration * self.episodes_per_update, iteration

    @property
    def plays_in_tensors(self) -> bool:  # type: ignore[override]
        """Whether iterations in functional environments can be compiled.

        They cannot with the accumulated gradient or with a ``batch_size``.
        """
        usual = self.gradient == "fused" and self.batch_size is None
        return usual and super().plays_in_tensors

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        distribution, value = self.distribution_and_value(batch.inputs)
        log_prob = distribution.log_prob(batch.actions)
        losses = self.total_loss(
            policy_gradient_loss(log_prob, batch.advantages),
            distribution.entropy(),
            None if value is None else value_loss(value, batch.returns),
        )
        # The accumulated gradient weights the log-probability by more than the advantage.
        return {**losses, "log_prob": log_prob, "rest": losses["loss"] - losses["policy_loss"]}

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Play whole episodes."""
        return collector.collect_episodes(
            policy, self.episodes_per_update, self.max_steps, weights=self._weights
        )

    def update(self, data: Trajectory) -> dict[str, float]:
        """Take one step along the policy gradient of whole episodes.

        Args:
            data: Whole episodes, one in each column.

        Returns:
            ``loss``, ``policy_loss``, ``entropy`` (nats), each a mean over the steps, and
            ``grad_norm``; with a value function, ``value_loss`` and ``explained_variance``; with
            the accumulated gradient of several episodes, ``grad_snr``, ``baseline_saving`` and
            ``zscore_saving``; and with clipped actions, ``clipped_actions``.

        Raises:
            FloatingPointError: The loss is not finite, or the gradients were not finite in many
                updates in a row.
        """
        self.trainable.follow_learning_rate()
        batch = self.to_batch(data)
        if self.gradient == "fused":
            logs, _ = self._fused(*self._sequences(data, batch))
        else:
            weights = step_weights(batch, self.standardize, self.baseline)
            logs, _ = self._accumulated(batch, *weights, episode_ends(data))
        self.keep_weights(logs)
        self.trainable.check(logs.pop("finite"), logs["loss"])
        if self.value_updates > 1:
            self._update_value(batch)
        logs = {name: x for name, x in logs.items() if name not in NOISE or np.isfinite(x)}
        if self.learns_value:
            ones = np.ones_like(batch.returns)
            logs["explained_variance"] = float(
                explained_variance(batch.returns, batch.values, ones)
            )
        clipped = self.trained_policy.head.clipped(batch.actions)
        return logs if clipped is None else {**logs, "clipped_actions": float(clipped.mean())}

    def make_updates(self, data: Trajectory, order: None) -> dict[str, tf.Tensor]:
        """Make the updates of an iteration, in a compiled call.

        Args:
            data: Tensors ``[T, N]``, an episode in each column. The observations are model inputs.
            order: None, because all steps are learned from at once.

        Returns:
            The metrics of `update`, and the flags that `check_results` takes out.
        """
        values = None
        if self.learns_value:
            values = self.trained_policy.rollout_values(data.observations)
        batch, weights = self.to_batch(data, values), tf.reshape(data.mask, [-1])
        flags = self.finite_flags(data, batch)
        logs = self._fused_step(batch, weights, flags["returns_finite"])
        if self.value_updates > 1:
            self._value_update(batch, weights, flags["returns_finite"])
        if self.learns_value:
            logs["explained_variance"] = explained_variance(batch.returns, batch.values, weights)
        return {**logs, **self.clipped_actions(batch, weights), **flags}

    def _fused_step(
        self, batch: Batch, weights: tf.Tensor | None = None, allowed: Any = True
    ) -> dict[str, tf.Tensor]:
        """Make an update where a scalar condition allows it."""
        variables, size = self.trainable.variables, self.batch_size
        gradients, logs = mean_gradient(
            self.losses, variables, batch, weights=weights, batch_size=size
        )
        return self._applied(gradients, logs, allowed)

    def _fused_update(
        self, batch: Batch, weights: tf.Tensor | None = None
    ) -> tuple[dict[str, tf.Tensor], None]:
        return {**self._fused_step(batch, weights), **self.weights_after()}, None

    def _accumulated_update(
        self, batch: Batch, weights: tf.Tensor, combinations: tf.Tensor, ends: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], None]:
        gradients, logs = accumulated_gradient(
            self.losses,
            self.trainable.variables,
            batch,
            weights,
            combinations,
            ends,
            self.standardize,
            self.baseline,
        )
        return {**self._applied(gradients, logs), **self.weights_after()}, None

    def _applied(
        self, gradients: list[tf.Tensor], logs: dict[str, Any], allowed: Any = True
    ) -> dict[str, tf.Tensor]:
        finite = self.trainable.apply_if_finite(gradients, allowed)
        logs = {name: x for name, x in logs.items() if name not in ("log_prob", "rest")}
        norm = tf.linalg.global_norm(gradients)
        return {**logs, "grad_norm": norm, "finite": finite}

    def _value_update(
        self, batch: Batch, weights: tf.Tensor | None = None, allowed: Any = True
    ) -> None:
        """Update the value model alone, ``value_updates - 1`` times."""
        policy = self.trained_policy
        optimizer, variables = self.trainable.groups[-1]

        def losses(batch: Batch) -> dict[str, tf.Tensor]:
            value = policy.value(batch.inputs)
            return {"loss": self.value_coef * value_loss(value, batch.returns)}

        def update(index: tf.Tensor) -> list[tf.Tensor]:
            gradients, _ = mean_gradient(
                losses, variables, batch, weights=weights, batch_size=self.batch_size
            )
            finite = tf.reduce_all(are_finite(gradients))
            apply_where(finite & allowed, [(optimizer, variables)], gradients)
            return [index + 1]

        tf.while_loop(lambda index: index < self.value_updates, update, [tf.constant(1)])
