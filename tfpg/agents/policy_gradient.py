"""The base class of REINFORCE, A2C and PPO: options, advantages, and losses per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfpg.agents.agent import Agent
from tfpg.agents.minibatches import Batch, make_batch
from tfpg.core.backend import keras, tf
from tfpg.core.options import count, flag, fraction, nonnegative, one_of, option, optional
from tfpg.ops.distributions import Distribution
from tfpg.ops.policy_losses import entropy_loss
from tfpg.rollouts.trajectory import Trajectory


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
        default=0.0, check=nonnegative, help="Weight of the entropy bonus."
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
    positive_action: int = option(
        default=1,
        check=one_of(0, 1),
        help="For a model with a single output: the action whose probability it returns.",
    )
    squash: bool = option(
        default=False,
        check=flag,
        help="Squash continuous actions into their bounds with a tanh, instead of clipping.",
    )
    log_std: float | Sequence[float] = option(
        default=0.0,
        help="Initial log standard deviation of continuous actions, which is trained. For models "
        "that output only the means.",
    )

    # Whether advantages are centered by the mean of the batch.
    centered = False
    # Whether a value function is learned.
    learns_value = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_model is not None:
            self.models.append(self._prepared(self.value_model))

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

    def to_batch(self, data: Trajectory) -> Batch:
        """Return the real steps of a trajectory with their advantages and returns."""
        policy = self.trained_policy
        return make_batch(
            data,
            self.gamma,
            values=policy.values(data.observations) if self.learns_value else None,
            gae_lambda=self.gae_lambda,
            n_step=self.n_step,
            per=self.standardize,
            center=self.centered,
            encode=policy.encode,
        )

    def clipped_actions(self, batch: Batch) -> dict[str, float]:
        """Return the share of actions that were clipped, if the policy clips any."""
        fraction = self.trained_policy.head.clipped_fraction(batch.actions)
        return {} if fraction is None else {"clipped_actions": fraction}

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
        defaults = {"from_logits": None, "positive_action": 1, "squash": False}
        options = {name: getattr(self, name) for name in defaults}
        options = {name: x for name, x in options.items() if x != defaults[name]}
        for log_std in self.policy.head.variables if self.policy else ():
            options["log_std"] = log_std.numpy().tolist()
        return options
