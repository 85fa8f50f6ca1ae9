"""The base class of A2C and PPO: rollouts of a fixed number of steps, and minibatch updates.

An iteration steps every environment ``num_steps`` times. The advantages are

    A_t = sum_k (gamma lambda)^k delta_{t+k},    delta_t = r_t + gamma V(s_{t+1}) - V(s_t),

where a termination stops the bootstrap, and a time limit stops only the sum. The targets of the
value function are ``A_t + V(s_t)``. All updates in an iteration run in a single compiled call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.minibatches import Batch, explained_variance, minibatch_order, padded
from tfpg.agents.optimization import apply_where, are_finite, compiled_update
from tfpg.agents.policy_gradient import PolicyGradient
from tfpg.core.backend import tf
from tfpg.core.options import count, one_of, option, positive
from tfpg.core.seeding import shuffle_rng
from tfpg.models.normalization import RunningMoments
from tfpg.models.policy import Policy
from tfpg.ops.gradients import mean_gradient
from tfpg.rollouts.trajectory import Trajectory

JIT_HELP = (
    "Compile the updates with XLA. 'auto': on, unless the model has convolutions and runs on a "
    "CPU, where XLA convolutions are slow."
)


def positive_or_auto(value: Any) -> float | str:
    """A number above 0, or ``"auto"``.

    Example:
        >>> positive_or_auto("auto"), positive_or_auto(1)
        ('auto', 1.0)
    """
    if isinstance(value, str) and value == "auto":
        return value
    try:
        return positive(value)
    except ValueError as error:
        raise ValueError(f"{error} or 'auto'") from None


class ActorCritic(PolicyGradient):
    """A policy and a value function that are trained on rollouts. See `tfpg.A2C` and `tfpg.PPO`."""

    num_steps: int = option(
        default=16, check=count, help="Steps of each environment per iteration."
    )
    epochs: int = option(default=1, check=count, help="Passes over the steps of an iteration.")
    minibatches: int = option(
        default=1, check=count, help="Minibatches per pass, with one update each."
    )
    standardize: str | None = option(
        default=None,
        check=one_of("batch", None),
        help="Standardize the advantages (z-score) over the 'batch'. None: no standardization. The "
        "value function's targets are never standardized.",
    )
    reward_scale: float | str = option(
        default=1.0,
        check=positive_or_auto,
        help="Factor that scales the rewards for learning. 'auto': 1 divided by the running "
        "standard deviation of the discounted return. Logs show the original rewards.",
    )
    jit_compile: bool | str = option(
        default="auto", check=one_of(True, False, "auto"), help=JIT_HELP
    )

    needs_value = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scale: ReturnScale | None = None
        self._shuffle = np.random.default_rng(0)

    def check_options(self) -> None:
        super().check_options()
        steps = self.num_envs * self.num_steps
        if self.minibatches > steps:
            raise ValueError(
                f"An iteration has {steps} steps ({self.num_envs} environments x {self.num_steps} "
                f"steps), which is too few for {self.minibatches} minibatches."
            )

    @property
    def kl_limit(self) -> float:
        """The mean ``approx_kl`` in nats above which the updates of an iteration end."""
        return np.inf

    def build(self, policy: Policy) -> None:
        policy.require_value()
        self._updates = compiled_update(self._update_all, self.jit_compile, self.models)

    @property
    def manual_resets(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None  # which only tfpg can enforce

    def first_numbers(self, iteration: int) -> tuple[int, int]:
        return iteration * self.num_envs * self.num_steps, iteration

    def begin(self, collector: Collector, policy: Policy) -> None:

        if self.reward_scale != "auto":
            self._scale = None
        elif self._scale is None or self._scale.gamma != self.gamma:
            self._scale = ReturnScale(self.gamma)
        else:
            self._scale.start_episodes()

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Step every environment ``num_steps`` times."""
        self._shuffle = shuffle_rng(collector.seed, collector.fragment)
        data = collector.collect_steps(policy, self.num_steps, self.max_steps)
        while not data.mask.any():  # nothing but the resets of environments that reset themselves
            data = collector.collect_steps(policy, self.num_steps, self.max_steps)
        return data

    def update(self, data: Trajectory) -> dict[str, float]:
        """Make all updates of an iteration, in one call.

        Args:
            data: A rollout.

        Returns:
            Means over the updates of the entries of `losses` and of ``grad_norm``;
            ``explained_variance``; and with clipped actions, ``clipped_actions``.

        Raises:
            FloatingPointError: The loss is not finite, or the gradients of many iterations in a
                row. Neither that update nor those after it were applied.
        """
        self.trainable.follow_learning_rate()
        batch = self.to_batch(data)
        # Resets that take a step leave fewer steps. The shape is fixed, so that the updates are
        # compiled once.
        num_real = len(batch.advantages)
        capacity = max(data.rewards.shape[1] * self.num_steps, num_real)
        order, valid = minibatch_order(
            num_real, capacity, self.epochs, self.minibatches, self._shuffle
        )
        kl_limit = tf.constant(self.kl_limit, tf.float32)
        arguments = padded(batch, capacity), order, valid, kl_limit
        sums, counts, finite = self._updates(*arguments)
        updates, applied = counts.numpy()
        logs = {name: float(x) / updates for name, x in sums.items()}
        self.trainable.check(finite.numpy(), logs["loss"])
        logs["explained_variance"] = explained_variance(batch)
        if self.kl_limit < np.inf:
            logs["updates_applied"] = int(applied)
        return logs | self.clipped_actions(batch)

    def to_batch(self, data: Trajectory) -> Batch:
        """Return the real steps of a rollout, their rewards multiplied by ``reward_scale``."""
        if self._scale is not None:
            data = data._replace(rewards=self._scale(data))
        elif self.reward_scale != 1.0:
            data = data._replace(rewards=data.rewards * float(self.reward_scale))
        return super().to_batch(data)

    def get_state(self) -> dict[str, Any]:
        scale = None if self._scale is None else self._scale.get_state()
        return {**super().get_state(), "scale": scale}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if self._scale is not None:
            self._scale.set_state(state["scale"])

    def restart_episodes(self, which: np.ndarray) -> None:
        if self._scale is not None:
            self._scale.start_episodes(which)

    def _update_all(
        self, batch: Batch, order: tf.Tensor, valid: tf.Tensor, kl_limit: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Update once for every row of ``order``, until a gradient or the KL is out of bounds.

        Args:
            batch: All steps of the iteration.
            order: ``[updates, size]`` int32, the steps of each update.
            valid: ``[updates, size]``, 1 where a step counts, 0 where it is padding.
            kl_limit: Scalar.

        Returns:
            Sums of the logs; the number of updates made and applied; and for each variable
            whether the last gradient was finite.
        """
        variables = self.trainable.variables

        def update_once(index: Any, _: Any, sums: Any, counts: Any, __: Any) -> Any:
            part = tf.nest.map_structure(lambda x: tf.gather(x, order[index]), batch)
            gradients, logs = mean_gradient(self.losses, variables, part, weights=valid[index])
            logs["grad_norm"] = tf.cast(tf.linalg.global_norm(gradients), tf.float32)
            finite = are_finite(gradients)
            near = logs.get("approx_kl", tf.constant(0.0)) <= kl_limit
            proceed = tf.reduce_all(finite) & near
            apply_where(proceed, self.trainable.groups, gradients)
            sums = {name: x + logs[name] for name, x in sums.items()}
            counts += tf.stack([1, tf.cast(proceed, tf.int32)])
            return index + 1, proceed, sums, counts, finite

        first = tf.nest.map_structure(lambda x: x[:1], batch)
        names = [*self.losses(first), "grad_norm"]
        _, _, sums, counts, finite = tf.while_loop(
            lambda index, proceed, *_: proceed & (index < tf.shape(order)[0]),
            update_once,
            (
                tf.constant(0),
                tf.constant(True),
                {name: tf.constant(0.0) for name in names},
                tf.constant([0, 0]),
                tf.fill([len(variables)], True),
            ),
        )
        return sums, counts, finite


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return.

    The return is summed forward from the start of each episode, ``R_t = gamma R_{t-1} + r_t``,
    across rollouts.

    Args:
        gamma: Discount factor.

    Source:
        Engstrom et al., "Implementation Matters in Deep Policy Gradients", 2020,
        https://arxiv.org/abs/2005.12729, appendix A.2.

    Example:
        >>> ReturnScale(0.99).moments.batches
        0
    """

    def __init__(self, gamma: float):
        self.gamma = gamma
        self.moments = RunningMoments()
        self._carried: np.ndarray | None = None  # [N]  returns of the current episodes so far

    def __call__(self, data: Trajectory) -> np.ndarray:
        """Return the scaled rewards ``[T, N]`` of a rollout, after taking it into account."""
        real, ended = data.mask > 0, data.terminated | data.truncated
        if self._carried is None or len(self._carried) != real.shape[1]:
            self._carried = np.zeros(real.shape[1])
        returns = np.zeros(real.shape)
        for t in range(len(real)):
            summed = self.gamma * self._carried + data.rewards[t]
            self._carried = np.where(real[t], summed, self._carried)
            returns[t] = self._carried
            self._carried = np.where(ended[t], 0.0, self._carried)
        self.moments.update(returns[real])
        std = float(np.sqrt(self.moments.variance))
        # Returns that are all the same have no scale.
        return data.rewards / std if std > 1e-6 * abs(self.moments.mean) else data.rewards

    def start_episodes(self, which: np.ndarray | None = None) -> None:
        """Forget the current episodes of environments ``[N]`` bool, or of all."""
        if which is None or self._carried is None:
            self._carried = None
        else:
            self._carried = np.where(which, 0.0, self._carried)

    def get_state(self) -> dict[str, Any]:
        """Return the state for `set_state`."""
        return {"moments": self.moments.get_state(), "carried": self._carried}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.moments.set_state(state["moments"])
        self._carried = None if state["carried"] is None else np.array(state["carried"])


if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector
