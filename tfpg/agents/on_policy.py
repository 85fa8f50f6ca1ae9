"""The base classes of agents that learn from what they have just played, in one compiled call.

A `RolloutAgent` steps every environment ``num_steps`` times per iteration, and makes minibatch
updates. All updates in an iteration run in a single compiled call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from tfpg.agents.agent import Agent
from tfpg.agents.minibatches import (
    NOT_FINITE,
    Batch,
    explained_variance,
    minibatch_order,
    sequence_order,
    steps_of,
    without_gaps,
)
from tfpg.agents.optimization import CompiledUpdate, apply_where
from tfpg.core.arrays import map_arrays
from tfpg.core.backend import tf
from tfpg.core.options import count, one_of, option, optional, positive_or_auto
from tfpg.core.seeding import shuffle_rng
from tfpg.models.normalization import Moments
from tfpg.models.policy import Policy
from tfpg.ops import numeric as xp
from tfpg.ops.gradients import mean_gradient, sum_of_squares
from tfpg.ops.returns import running_returns
from tfpg.rollouts.trajectory import Trajectory

JIT_HELP = (
    "Compile the updates with XLA. 'auto': on, unless the model has convolutions and runs on a "
    "CPU, where XLA convolutions are slow."
)


class OnPolicy(Agent):
    """An agent that learns from what it has just played, in a compiled call.

    See `tfpg.agents.policy_gradient.PolicyGradient` and `RolloutAgent`.
    """

    steps_per_execution: int | None = option(
        default=None,
        check=optional(count),
        help="Maximum iterations per compiled call in functional environments. Callbacks run once "
        "per iteration, after the call. None: one if there are callbacks, otherwise as many as fit "
        "in about 16,000 environment steps.",
    )

    # Whether an iteration plays whole episodes, one in each environment, instead of steps.
    plays_episodes = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights: list[np.ndarray] | None = None  # with which the policy acts, if known
        self.return_scale: Any = ()  # a `ReturnScale`, if one is used

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
        policy = self.trained_policy
        return isinstance(policy.observation_space, spaces.Box) and not policy.states

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
            order: The steps of each update; see `RolloutAgent.make_updates`.
            batches: See `batches_seen`.

        Returns:
            The metrics to log, and the new ``batches``.
        """
        logs = self.make_updates(data, order)
        rows = steps_of(data, map_arrays(lambda x: x[:-1], data.observations))
        # Nothing counts if nothing was learned.
        counts = tf.reshape(tf.where(logs["returns_finite"], data.mask, 0.0), [-1])
        found = zip(self._statistics, batches, strict=True)
        return logs, [
            each.updated(seen, rows, tf.convert_to_tensor, counts) for each, seen in found
        ]

    def exploration(self, iterations: int, steps: int) -> np.ndarray | None:
        """Return epsilon in each of the next iterations, ``[iterations]`` float32.

        None, unless the agent is a `tfpg.agents.q_network.QNetworkAgent`.

        Args:
            iterations: Number of iterations.
            steps: Environment steps in each of them, over all environments.
        """
        return None

    def count_steps(self, steps: int) -> dict[str, float]:
        """Count the environment steps of an iteration, and return what else to log about it."""
        return {}

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

    def to_batch(self, data: Trajectory, values: tf.Tensor) -> Batch:
        """Return the steps of a trajectory with the targets that are learned from.

        Args:
            data: Tensors ``[T, N]``, whose observations are model inputs.
            values: ``[T+1, N]``, the values of the observations.
        """
        raise NotImplementedError


class RolloutAgent(OnPolicy):
    """An agent that steps its environments ``num_steps`` times, and learns in minibatches."""

    section = "Rollout options"

    num_steps: int = option(
        default=16, check=count, help="Steps of each environment per iteration."
    )
    epochs: int = option(default=1, check=count, help="Passes over the steps of an iteration.")
    minibatches: int = option(
        default=1, check=count, help="Minibatches per pass, with one update each."
    )
    reward_scale: float | str = option(
        default="auto",
        check=positive_or_auto,
        help="Factor that scales the rewards for learning. 'auto': 1 divided by the running "
        "standard deviation of the discounted return. Logs show the original rewards.",
    )
    jit_compile: bool | str = option(
        default="auto", check=one_of(True, False, "auto"), help=JIT_HELP
    )

    # Whether the losses need the log-probabilities under the policy that acted.
    needs_log_probs = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scaled_for: Any = None
        self._shuffle = 0, 0

    @property
    def steps_together(self) -> int:
        """How many consecutive steps of an environment stay together in minibatches."""
        return 1

    @property
    def kl_limit(self) -> float:
        """The mean ``approx_kl`` in nats above which the updates of an iteration end."""
        return np.inf

    def build(self, policy: Policy) -> None:
        self._learn = CompiledUpdate(self._learn_from, self.jit_compile, self.models)
        self.compiled_iterations = None

    @property
    def manual_resets(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None  # which only tfpg can enforce

    def first_numbers(self, iteration: int) -> tuple[int, int]:
        return iteration * self.num_envs * self.num_steps, iteration

    def most_env_steps(self, iterations: int, num_envs: int) -> int | None:
        return iterations * num_envs * self.num_steps

    def begin(self, collector: Collector, policy: Policy) -> None:
        super().begin(collector, policy)
        num_envs, length = collector.envs.num_envs, self.steps_together
        parts = num_envs * self.num_steps // length
        if self.minibatches > parts:
            sequences = "steps" if length == 1 else f"sequences of {length} steps"
            raise ValueError(
                f"An iteration has {parts} {sequences} (num_envs {num_envs} x num_steps "
                f"{self.num_steps}), which is too few for {self.minibatches} minibatches: use "
                "fewer minibatches, or a larger num_steps."
            )
        if self._scaled_for != (self.reward_scale, self.gamma):
            self._scaled_for, self.return_scale = (self.reward_scale, self.gamma), ()
        if self.reward_scale == "auto":
            new = ReturnScale.initial(collector.envs.num_envs)
            if self.return_scale and np.isfinite(self.return_scale.moments.variance):
                new = new._replace(moments=self.return_scale.moments)
            self.return_scale = new

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Step every environment ``num_steps`` times."""
        self._shuffle = collector.seed, collector.fragment
        while True:
            data = collector.collect_steps(
                policy,
                self.num_steps,
                self.max_steps,
                weights=self._weights,
                log_probs=self.needs_log_probs,
            )
            if data.mask.any():  # not only the resets of environments that reset themselves
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
        scale = tf.nest.map_structure(lambda x: np.asarray(x, np.float64), self.return_scale)
        data, self.return_scale = self.scaled(data, scale)
        if not np.isfinite(data.rewards).all():
            raise FloatingPointError(NOT_FINITE.format("rewards"))
        policy = self.trained_policy
        data = without_gaps(data, self.num_steps, self.gamma, policy.values)
        order, passes = None, (self.epochs, self.minibatches)
        if policy.states:
            rng = shuffle_rng(*self._shuffle)
            order = sequence_order(data.mask.shape, self.steps_together, *passes, rng)
        elif self.minibatches > 1:
            real, rng = np.flatnonzero(data.mask), shuffle_rng(*self._shuffle)
            order = minibatch_order(real, data.mask.size, *passes, rng)
        numbers = np.stack(data[2:], dtype=np.float32, casting="unsafe")
        inputs = policy.encode(data.observations)
        seen = self.batches_seen()
        logs, seen_now = self._learn(inputs, data.actions, numbers, order, seen)
        self.set_batches_seen(seen_now or seen)
        self.keep_weights(logs)
        self.check_results(logs)
        return logs | self.count_steps(self.num_steps * data.mask.shape[1])

    def scaled(self, data: Trajectory, scale: Any) -> tuple[Trajectory, Any]:
        """Return a rollout with its rewards multiplied by ``reward_scale``, and the new scale.

        Args:
            data: A rollout, as arrays or tensors.
            scale: The running `ReturnScale`, or an empty tuple.
        """
        if self.reward_scale == "auto":
            scale = scale or ReturnScale.initial(data.mask.shape[1])
            scale, rewards = scale.scaled(data, self.gamma)
            return data._replace(rewards=rewards), scale
        if self.reward_scale != 1.0:
            return data._replace(rewards=data.rewards * float(self.reward_scale)), scale
        return data, scale

    def head_options(self) -> dict[str, Any]:
        options = super().head_options()
        if self.return_scale:
            options["value_scale"] = float(self.return_scale.divisor)
        elif self.reward_scale != "auto":
            options["value_scale"] = 1.0 / float(self.reward_scale)
        return options

    def get_state(self) -> dict[str, Any]:
        flat = [np.asarray(x) for x in tf.nest.flatten(self.return_scale)]
        return {**super().get_state(), "return_scale": flat}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        flat = [np.asarray(x) for x in state["return_scale"]]
        self.return_scale = tf.nest.pack_sequence_as(self.return_scale, flat)

    def update_statistics(self, fragments: Sequence[Trajectory], policy: Policy) -> None:
        """`update` has included them."""

    def restart_episodes(self, which: np.ndarray) -> None:
        if self.return_scale:
            returns = np.where(which, 0.0, self.return_scale.returns)
            self.return_scale = self.return_scale._replace(returns=returns)

    def _learn_from(
        self,
        inputs: Any,
        actions: tf.Tensor,
        numbers: tf.Tensor,
        order: tf.Tensor | None,
        batches: Any,
    ) -> tuple[dict[str, tf.Tensor], Any]:
        """`learn_in_graph` from the other fields of a `Trajectory` in one tensor ``[5, T, N]``."""
        data = Trajectory(inputs, actions, *tf.unstack(numbers))
        logs, batches = self.learn_in_graph(data, order, batches)
        return {**logs, **self.weights_after()}, batches

    def make_updates(self, data: Trajectory, order: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Make all updates of an iteration, until a gradient or the KL is out of bounds.

        Args:
            data: Tensors ``[T, N]``. The observations are model inputs.
            order: ``[updates, size]`` int32, the steps of each update, -1 where there is none.
                None: ``epochs`` updates, each with all steps.

        Returns:
            The metrics to log; ``finite``, whether the last gradient of each variable was finite;
            ``rewards_finite`` and ``returns_finite``, whether all rewards and returns were.
        """
        policy = self.trained_policy
        batch = self.to_batch(data, policy.rollout_values(data.observations))
        weights = tf.reshape(data.mask, [-1])
        first = tf.nest.map_structure(lambda x: x[: self.steps_together], batch)
        sums = {name: tf.constant(0.0) for name in (*self.losses(first), "grad_norm")}
        variables = self.trainable.variables

        returns_finite = tf.reduce_all(tf.math.is_finite(batch.returns))

        def update(index: Any, _: Any, sums: Any, counted: Any, __: Any) -> Any:
            part, counts = batch, weights
            if order is not None:
                chosen = tf.maximum(order[index], 0)
                part = tf.nest.map_structure(lambda x: tf.gather(x, chosen), batch)
                counts = tf.where(order[index] >= 0, tf.gather(weights, chosen), 0.0)
            gradients, logs = mean_gradient(self.losses, variables, part, weights=counts)
            squares = tf.stack([tf.cast(sum_of_squares(g), tf.float32) for g in gradients])
            logs["grad_norm"] = tf.sqrt(tf.reduce_sum(squares))
            finite = tf.math.is_finite(squares)
            proceed = tf.reduce_all(finite) & returns_finite
            if "approx_kl" in logs:
                proceed &= logs["approx_kl"] <= self.kl_limit
            some = tf.reduce_sum(counts) > 0  # not only steps that were spent on resets
            apply_where(proceed & some, self.trainable.groups, gradients)
            sums = {name: x + logs[name] for name, x in sums.items()}
            counted += tf.cast(tf.stack([some, proceed & some]), tf.int32)
            return index + 1, proceed, sums, counted, finite

        state = (
            tf.constant(0),
            returns_finite,
            sums,
            tf.constant([0, 0]),
            tf.fill([len(variables)], True),
        )
        updates = self.epochs if order is None else order.shape[0]
        if updates == 1:
            _, _, sums, counted, finite = update(*state)
        else:
            _, _, sums, counted, finite = tf.while_loop(
                lambda index, proceed, *_: proceed & (index < updates), update, state
            )
        made, applied = tf.unstack(counted)
        made = tf.cast(tf.maximum(made, 1), tf.float32)
        logs = {name: x / made for name, x in sums.items()}
        logs["explained_variance"] = explained_variance(batch.returns, batch.values, weights)
        if self.kl_limit < np.inf:
            logs["updates_applied"] = applied
        logs |= self.clipped_actions(batch, weights)
        return {**logs, "finite": finite, **self.finite_flags(data, batch)}


class ReturnScale(NamedTuple):
    """The running standard deviation of the discounted return, by which rewards are divided.

    Returns are summed forward from the start of each episode; see
    `tfpg.ops.returns.running_returns`.

    Source:
        Engstrom et al., "Implementation Matters in Deep Policy Gradients", 2020,
        https://arxiv.org/abs/2005.12729, appendix A.2.

    Example:
        >>> float(ReturnScale.initial(8).moments.batches)
        0.0
    """

    moments: Moments  # of the returns
    returns: Any  # [N]  of the current episodes so far

    @classmethod
    def initial(cls, num_envs: int) -> ReturnScale:
        """Return the scale before the first step."""
        return cls(Moments.initial(), np.zeros(num_envs))

    @property
    def divisor(self) -> Any:
        """What rewards are divided by. Returns that are all the same have no scale."""
        std = xp.sqrt(self.moments.variance)
        return xp.where(std > 1e-6 * abs(self.moments.mean), std, xp.ones_like(std))

    def scaled(self, data: Trajectory, gamma: float) -> tuple[ReturnScale, Any]:
        """Return the scale with a rollout, arrays or tensors, and its scaled rewards ``[T, N]``."""
        ended = data.terminated | data.truncated
        sums, after = running_returns(
            data.rewards, gamma, self.returns, ended=ended, mask=data.mask
        )
        moments = self.moments.updated(*(xp.reshape(x, (-1,)) for x in (sums, data.mask)))
        scale = ReturnScale(moments, after)
        return scale, data.rewards / scale.divisor


if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector
