"""The base class of REINFORCE, A2C and PPO: options, advantages, and losses per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from tfpg.agents.agent import Agent
from tfpg.agents.minibatches import NOT_FINITE, Batch, make_batch
from tfpg.core.arrays import map_arrays
from tfpg.core.backend import keras, tf
from tfpg.core.options import as_json, count, flag, fraction, nonnegative, one_of, option, optional
from tfpg.models.policy import NO_VALUE, Policy, head_options_of, set_head_options
from tfpg.ops.distributions import Distribution
from tfpg.ops.policy_losses import entropy_loss
from tfpg.rollouts.trajectory import Trajectory

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector


class PolicyGradient(Agent):
    """A policy that is trained along the gradient of its log-probabilities.

    See `tfpg.Reinforce`, `tfpg.A2C` and `tfpg.PPO`.
    """

    value_model: keras.Model | None = option(
        default=None,
        help="The value network, inputs [B, ...] -> [B, 1], unless the value is the model's second "
        "output.",
        in_config=False,
    )
    gae_lambda: float = option(
        default=1.0,
        check=fraction,
        help="Lambda of generalized advantage estimation, in [0, 1]: 1 uses all the rewards that "
        "follow; 0 uses one reward and the next value estimate. Requires a value function.",
    )
    n_step: int | None = option(
        default=None,
        check=optional(count),
        help="Bootstrap after this many rewards, instead of using gae_lambda.",
    )
    standardize: str | None = option(
        default="batch",
        check=one_of("batch", None),
        help="Standardize the advantages (z-score) over the 'batch'. None: no standardization. The "
        "value function's targets are never standardized.",
    )
    entropy_coef: float = option(
        default=0.01, check=nonnegative, help="Weight of the entropy bonus."
    )
    value_coef: float = option(
        default=0.5, check=nonnegative, help="Weight of the value function's squared error."
    )
    from_logits: bool | None = option(
        default=None,
        check=optional(flag),
        help="Whether the model's outputs are logits. By default, logits are assumed unless the "
        "model ends in a sigmoid or softmax.",
    )
    positive_action: int | None = option(
        default=None,
        check=optional(one_of(0, 1)),
        help="For a model with a single output: the action whose probability it returns. None: as "
        "the model was trained before, or 1.",
    )
    squash: bool | None = option(
        default=None,
        check=optional(flag),
        help="Squash continuous actions into their bounds with a tanh, instead of clipping. None: "
        "as the model was trained before, or False.",
    )
    log_std: float | Sequence[float] | None = option(
        default=None,
        help="Initial log standard deviation of continuous actions, which is trained. For models "
        "that output only the means. None: that of earlier training, or 0.",
    )
    steps_per_execution: int | None = option(
        default=None,
        check=optional(count),
        help="Maximum iterations per compiled call in functional environments. Callbacks run once "
        "per iteration, after the call. None: one if there are callbacks, otherwise as many as fit "
        "in about 16,000 environment steps.",
    )

    # What the returns are compared with, if not with a value function.
    baseline = None
    # Whether a value function is learned.
    learns_value = True
    # Whether an iteration plays whole episodes, one in each environment, instead of steps.
    plays_episodes = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights: list[np.ndarray] | None = None  # with which the policy acts, if known
        self.return_scale: Any = ()  # a `ReturnScale`, if one is used
        if self.value_model is not None:
            self.models.append(self._prepared(self.value_model))
        elif self.needs_value or self.baseline == "value":
            outputs = getattr(self.model, "outputs", None)  # None if it is not built yet
            if outputs is not None and len(outputs) == 1:
                raise ValueError(NO_VALUE)
        set_head_options(self.model, self.head_options())

    def begin(self, collector: Collector, policy: Policy) -> None:
        self.forget_weights()

    def forget_weights(self) -> None:
        self._weights = None

    def weights_after(self) -> dict[str, tf.Tensor]:
        """Return the weights with which the policy acts, in a compiled update."""
        variables = self.trained_policy.acting_variables
        return {f"weights {i}": variable.value for i, variable in enumerate(variables)}

    def keep_weights(self, results: dict[str, Any]) -> None:
        """Take these weights out of the results of an update, to act with them."""
        count = len(self.trained_policy.acting_variables)
        weights = [results.pop(f"weights {i}") for i in range(count)]
        # A subclass may change the model's weights after the update.
        self._weights = None if self.has_own_loop else weights

    @property
    def plays_in_tensors(self) -> bool:  # type: ignore[override]
        """Whether iterations in functional environments can be compiled."""
        return isinstance(self.trained_policy.observation_space, spaces.Box)

    def batches_seen(self) -> list[list[tf.Tensor]]:
        """Return how many batches each layer with running statistics has seen, as tensors."""
        return [[tf.cast(x, tf.float32) for x in each.batches] for each in self._statistics]

    def set_batches_seen(self, batches: Sequence[Sequence[tf.Tensor]]) -> None:
        """Set what `learn_in_graph` has returned."""
        for statistics, each in zip(self._statistics, batches, strict=True):
            statistics.batches = list(each)

    def learn_in_graph(
        self, data: Trajectory, order: tf.Tensor | None, batches: list[list[tf.Tensor]]
    ) -> tuple[dict[str, tf.Tensor], list[list[tf.Tensor]]]:
        """Make all updates of an iteration, then update the running statistics, as tensors.

        Args:
            data: A rollout.
            order: The steps of each update; see `ActorCritic.make_updates`.
            batches: See `batches_seen`.

        Returns:
            The metrics to log, and the new ``batches``.
        """
        logs = self.make_updates(data, order)
        rows = map_arrays(lambda x: tf.reshape(x[:-1], [-1, *x.shape[2:]]), data.observations)
        # Nothing counts if nothing was learned.
        counts = tf.reshape(tf.where(logs["returns_finite"], data.mask, 0.0), [-1])
        found = zip(self._statistics, batches, strict=True)
        return logs, [
            each.updated(seen, rows, tf.convert_to_tensor, counts) for each, seen in found
        ]

    def make_updates(self, data: Trajectory, order: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Make all updates of an iteration, as tensors, and return the metrics to log."""
        raise NotImplementedError

    def scaled(self, data: Trajectory, scale: Any) -> tuple[Trajectory, Any]:
        """Return a rollout with scaled rewards, and the running scale of the returns."""
        return data, scale

    def finite_flags(self, data: Trajectory, batch: Batch) -> dict[str, tf.Tensor]:
        """Return whether all rewards and returns are finite, as tensors for `check_results`."""
        return {
            "rewards_finite": tf.reduce_all(tf.math.is_finite(data.rewards)),
            "returns_finite": tf.reduce_all(tf.math.is_finite(batch.returns)),
        }

    def check_results(self, logs: dict[str, Any]) -> None:
        """Take the flags out of the results of `make_updates`, and raise if one is false.

        Raises:
            FloatingPointError: See `update`.
        """
        finite = logs.pop("finite")
        rewards_finite, returns_finite = logs.pop("rewards_finite"), logs.pop("returns_finite")
        if not returns_finite:
            raise FloatingPointError(NOT_FINITE.format("values" if rewards_finite else "rewards"))
        self.trainable.check(finite, logs["loss"])

    def clipped_actions(self, batch: Batch, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the share of the actions that are clipped, to log; nothing if none ever are.

        Args:
            batch: ``B`` steps, as tensors.
            weights: ``[B]``, 0 for steps that do not count.
        """
        clipped = self.trained_policy.head.clipped(batch.actions)
        if clipped is None:
            return {}
        real = tf.maximum(tf.reduce_sum(weights), 1.0)
        return {"clipped_actions": tf.reduce_sum(weights * clipped) / real}

    def losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Return the losses of a batch of steps: the algorithm.

        Traced without AutoGraph: branches and loops on tensors are `tf.where`, `tf.cond` and
        `tf.while_loop`.

        Args:
            batch: ``B`` steps, as tensors.

        Returns:
            ``"loss"``, which is minimized, and other values to log, each ``[B]``.
        """
        raise NotImplementedError

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor | None]:
        """Return the action distribution and the value ``[B]``, or None, of encoded inputs."""
        if not self.learns_value:
            return self.trained_policy.distribution(inputs), None
        return self.trained_policy.distribution_and_value(inputs)

    def total_loss(self, policy_loss: Any, entropy: Any, value_loss: Any) -> dict[str, tf.Tensor]:
        """Return the weighted sum of the losses as ``"loss"``, and its parts, each ``[B]``.

        ``policy_loss + value_coef * value_loss - entropy_coef * entropy``
        """
        parts = {"policy_loss": policy_loss, "entropy": entropy}
        loss = policy_loss
        if value_loss is not None:
            loss += self.value_coef * value_loss
            parts["value_loss"] = value_loss
        return {"loss": loss + self.entropy_coef * entropy_loss(entropy), **parts}

    def to_batch(self, data: Trajectory, values: tf.Tensor | None = None) -> Batch:
        """Return the steps of a trajectory with their advantages and returns.

        Args:
            data: Arrays ``[T, N]``, or tensors whose observations are model inputs.
            values: ``[T+1, N]``, the values of the observations, if ``data`` holds tensors.
        """
        policy, encode = self.trained_policy, lambda inputs: inputs
        if isinstance(data.mask, np.ndarray):
            encode = policy.encode
            values = policy.values(data.observations) if self.learns_value else None
        return make_batch(
            data,
            self.gamma,
            values=values,
            gae_lambda=self.gae_lambda,
            n_step=self.n_step,
            per=self.standardize,
            baseline=self.baseline,
            encode=encode,
        )

    def policy_options(self) -> dict[str, Any]:
        return {
            **super().policy_options(),
            "from_logits": self.from_logits,
            "positive_action": self.positive_action,
            "squash": self.squash,
            "log_std": self.log_std,
            "value_model": self.value_model,
        }

    def head_options(self) -> dict[str, Any]:
        options = head_options_of(self.model)
        for name in ("epsilon", "support"):  # it was a Q-network
            options.pop(name, None)
        given = {x: getattr(self, x) for x in ("from_logits", "positive_action", "squash")}
        options |= {name: value for name, value in given.items() if value is not None}
        if self.log_std is not None:
            options["log_std"] = as_json(self.log_std)
        for log_std in self.policy.head.variables if self.policy else ():
            options["log_std"] = log_std.numpy().tolist()
        return options
