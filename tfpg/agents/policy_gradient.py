"""The base classes of REINFORCE, A2C and PPO: options, advantages, and losses per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.agents.minibatches import Batch, make_batch
from tfpg.agents.on_policy import OnPolicy, RolloutAgent
from tfpg.core.backend import keras, strategy_of, tf
from tfpg.core.options import as_json, count, flag, fraction, nonnegative, one_of, option, optional
from tfpg.models.policy import NO_VALUE, Policy, head_options_of, set_head_options
from tfpg.ops.distributions import Distribution
from tfpg.ops.policy_losses import entropy_loss
from tfpg.rollouts.trajectory import Trajectory


class PolicyGradient(OnPolicy):
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
    # What the returns are compared with, if not with a value function.
    baseline = None
    # Whether a value function is learned.
    learns_value = True
    may_be_recurrent = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_model is not None:
            self.models.append(self._prepared(self.value_model))
        elif self.needs_value or self.baseline == "value":
            outputs = getattr(self.model, "outputs", None)  # None if it is not built yet
            if outputs is not None and len(outputs) == 1:
                raise ValueError(NO_VALUE)
        set_head_options(self.model, self.head_options())

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor | None]:
        """Return the action distribution and the value ``[B]``, or None, of encoded inputs."""
        if not self.learns_value:
            return self.trained_policy.distribution(inputs), None
        return self.trained_policy.distribution_and_value(inputs)

    def check_recurrent(self, policy: Policy) -> None:
        """Raise an error if a recurrent policy cannot be trained with these options."""
        if strategy_of(policy.model.trainable_variables) is not None:
            raise ValueError("Recurrent policies cannot be trained on several devices.")

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
            "log_std": as_json(self.log_std),
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


class ActorCritic(RolloutAgent, PolicyGradient):
    """A policy and a value function that are trained on rollouts. See `tfpg.A2C` and `tfpg.PPO`.

    The advantages are

        A_t = sum_k (gamma lambda)^k delta_{t+k},    delta_t = r_t + gamma V(s_{t+1}) - V(s_t),

    where a termination stops the bootstrap, and a time limit stops only the sum. The targets of the
    value function are ``A_t + V(s_t)``.
    """

    gae_lambda: float = option(
        default=0.95,
        check=fraction,
        help="Lambda of generalized advantage estimation, in [0, 1]: 1 uses all the rewards that "
        "follow; 0 uses one reward and the next value estimate.",
    )
    sequence_length: int = option(
        default=16,
        check=count,
        help="For recurrent policies: number of consecutive steps through which gradients flow, at "
        "most num_steps, which must be a multiple of it.",
    )
    needs_value = True

    def build(self, policy: Policy) -> None:
        policy.require_value()
        if policy.states:
            self.check_recurrent(policy)
        super().build(policy)

    def check_recurrent(self, policy: Policy) -> None:
        super().check_recurrent(policy)
        length = self._length
        if self.num_steps % length:
            raise ValueError(
                f"The model is recurrent, so num_steps ({self.num_steps}) must be a multiple of "
                f"sequence_length ({length})."
            )

    @property
    def _length(self) -> int:
        """The number of steps of a sequence."""
        return min(self.sequence_length, self.num_steps)

    @property
    def steps_together(self) -> int:
        return self._length if self.trained_policy.states else 1

    def distribution_and_value(self, inputs: Any) -> tuple[Distribution, tf.Tensor | None]:
        policy = self.trained_policy
        return policy.distribution_and_value(inputs, self._length if policy.states else None)
