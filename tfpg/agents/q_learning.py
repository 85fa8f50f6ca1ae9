"""The base class of Q-learning from a replay buffer: the target network, and blocks of updates.

An algorithm is a subclass with its `QLearning.losses`. See `tfpg.DQN`, `tfpg.C51`,
`tfpg.QRDQN` and `tfpg.Rainbow`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.off_policy import OffPolicy
from tfpg.agents.optimization import CompiledUpdate
from tfpg.agents.q_network import QNetworkAgent
from tfpg.agents.target_network import TargetNetwork
from tfpg.core.backend import tf
from tfpg.core.options import count, flag, one_of, option, optional, positive_fraction
from tfpg.models.heads import NOISE
from tfpg.models.policy import Policy
from tfpg.ops import numeric as xp
from tfpg.ops.gradients import mean_gradient, sum_of_squares
from tfpg.ops.value_losses import taken
from tfpg.rollouts.replay import Transitions

if TYPE_CHECKING:
    from tfpg.rollouts.collector import Collector

_TAU = 0.01
_LOGS = ("loss", "mean_q", "td_error", "grad_norm")


class QLearning(QNetworkAgent, OffPolicy):
    """A network of action values that is trained on transitions from a replay buffer.

    Environment steps are counted over all environments together. After ``learning_starts`` steps
    of random play, ``updates_per_learn`` updates are made every ``learn_period`` steps, in one
    compiled call. An iteration is ``steps_per_iteration`` steps.
    """

    double: bool = option(
        default=True,
        check=flag,
        help="Double Q-learning: choose the next action with the online network.",
    )
    target_update_period: int | None = option(
        default=None,
        check=optional(count),
        help="Updates between copies of the online network into the target network. None: tau is "
        "used instead.",
    )
    tau: float | None = option(
        default=None,
        check=optional(positive_fraction),
        help="Instead of copying, move the target network this fraction of the way toward the "
        "online network after every update. None: 0.01, unless target_update_period is given.",
    )
    epsilon_per: str = option(
        default="step",
        check=one_of("step", "episode"),
        help="Unit of the epsilon schedule: environment steps or episodes.",
    )
    explore_steps: int = option(
        default=1, check=count, help="Repeat a random action for this many steps."
    )
    jit_compile: bool | str = option(
        default="auto",
        check=one_of(True, False, "auto"),
        help="Compile the updates with XLA. 'auto': on, unless the model has convolutions and runs "
        "on a CPU, where XLA convolutions are slow.",
    )

    may_be_noisy = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.target: TargetNetwork | None = None

    def build(self, policy: Policy) -> None:
        if self.target is None or not self.target.belongs_to(self.trainable.variables):
            self.target = TargetNetwork(policy, self.trainable.variables)
            self.updates = 0
        self._update_block = CompiledUpdate(self._update_all, self.jit_compile, [self.model])

    def begin(self, collector: Collector, policy: Policy) -> None:
        super().begin(collector, policy)
        self.target_network.copy_if_changed()
        if isinstance(self.support, tuple):
            self._warnings.support = self.support

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        logs = super().iterate(collector, policy)
        self.target_network.mark()
        return logs

    @abc.abstractmethod
    def losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        """Return the losses of a batch of transitions: the algorithm.

        Args:
            batch: ``B`` transitions, as tensors.

        Returns:
            ``"loss"``, which is minimized; ``"mean_q"`` and ``"td_error"``, which are logged; and
            ``"errors"``, by whose size transitions are prioritized. Each ``[B]``.
        """

    def next_outputs(self, batch: Transitions) -> tf.Tensor:
        """Return the trained network's outputs ``[B, K]`` for the observations that follow.

        The noise of a noisy network is that for ``batch.observations``.
        """
        inputs = batch.next_observations
        if self.head.model_noise:
            inputs = {**inputs, NOISE: batch.observations[NOISE]}
        return self.outputs(inputs)

    def next_distribution(self, batch: Transitions) -> tf.Tensor:
        """Return the target network's outputs ``[B, N]`` for the best actions that follow.

        With ``double``, they are the best ones according to the network that is trained.
        """
        following = self.target_network.outputs(batch.next_observations)
        chooser = self.next_outputs(batch) if self.double else following
        actions = tf.argmax(self.head.q_values(chooser), axis=-1)
        return taken(self.head.per_action(following), actions)

    def learn_from(
        self, transitions: Transitions, seed: Sequence[int] = (0, 0)
    ) -> tuple[dict[str, float], np.ndarray]:
        """Make an update for every ``batch_size`` transitions, in one compiled call.

        Args:
            transitions: ``M`` transitions, a multiple of ``batch_size``.
            seed: The seed of the noise of a noisy network, two integers.

        Returns:
            The means over the updates of ``loss``, ``mean_q``, ``td_error`` and ``grad_norm``, and
            the errors ``[M]`` that the transitions had when they were learned from.

        Raises:
            FloatingPointError: The loss is not finite, or the gradients of many calls in a row.
                None of the updates was applied.
        """
        encode = self.trained_policy.encode

        def batches(x: np.ndarray | tf.Tensor) -> Any:
            shape = (-1, self.batch_size, *x.shape[1:])
            return tf.reshape(x, shape) if tf.is_tensor(x) else np.reshape(x, shape)

        data = transitions._replace(
            observations=encode(transitions.observations),
            next_observations=encode(transitions.next_observations),
            indices=(),  # type: ignore[arg-type]
        )
        data = tf.nest.map_structure(batches, data)
        before = np.array(self.updates % (self.target_update_period or 1), np.int32)
        logs, _ = self._update_block(data, before, np.array(seed, np.int64))
        errors, finite = logs.pop("errors"), logs.pop("finite")
        if self.trainable.check(finite, logs["loss"]):
            self.updates += len(errors)
        return logs, errors.ravel()

    def explore(self, at_random: bool = False) -> float:
        head = self.head
        steps = self.env_steps if self.epsilon_per == "step" else self.episodes
        head.hold = self.explore_steps
        head.epsilon = 1.0 if at_random else self.epsilon_at(steps)
        return head.epsilon

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "updates": self.updates}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.updates = state["updates"]
        self.target_network.mark()

    def variables(self) -> dict[str, Sequence[Any]]:
        return {**super().variables(), "target network": self.target_network.weights}

    @property
    def target_network(self) -> TargetNetwork:
        """The target network."""
        assert self.target is not None, "prepare was not called"
        return self.target

    def _with_noise(self, batch: Transitions, noise: tf.Tensor) -> Transitions:
        """The batch with noise ``[2, S]``, for the online network and for the target network.

        As in the paper, all transitions have the same: drawing it for each would take several times
        as long as the rest of the update.
        """
        if not self.head.model_noise:
            return batch
        online, target = tf.unstack(tf.repeat(noise[:, None], self.batch_size, axis=1))
        return batch._replace(
            observations={**batch.observations, NOISE: online},
            next_observations={**batch.next_observations, NOISE: target},
        )

    def _update_all(
        self, batches: Transitions, before: tf.Tensor, seed: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], None]:
        """Update once for every batch, and undo all updates if a gradient was not finite.

        Args:
            batches: Transitions, each field ``[updates, batch_size, ...]``.
            before: Updates since the last copy into the target network, scalar.
            seed: The seed of the noise, ``[2]``.

        Returns:
            Means of the logs; ``errors``, ``[updates, batch_size]``; and ``finite``, for each
            variable whether its gradients were finite.
        """
        variables, assigned = self.trainable.variables, self._assigned()
        saved = [tf.identity(v) for v in assigned]
        updates, size = batches.rewards.shape
        period, tau = self.target_update_period, self.tau
        if period is None and tau is None:
            tau = _TAU
        noise = xp.normal(seed, (updates, 2, self.head.model_noise))

        def update(index: Any, sums: Any, errors: Any, finite: Any) -> Any:
            batch = tf.nest.map_structure(lambda x: x[index], batches)
            batch = self._with_noise(batch, noise[index])
            gradients, logs = mean_gradient(self.losses, variables, batch, keep=("errors",))
            errors = errors.write(index, logs.pop("errors"))
            squares = tf.stack([sum_of_squares(g) for g in gradients])
            logs["grad_norm"] = tf.cast(tf.sqrt(tf.reduce_sum(squares)), tf.float32)
            self.trainable.apply(gradients)
            self.target_network.follow(before + index + 1, period or 1, tau)
            sums = {name: x + logs[name] for name, x in sums.items()}
            # The Huber loss has a finite gradient where the loss is infinite.
            finite &= tf.math.is_finite(squares) & tf.math.is_finite(logs["loss"])
            return index + 1, sums, errors, finite

        _, sums, errors, finite = tf.while_loop(
            lambda index, *_: index < updates,
            update,
            (
                tf.constant(0),
                {name: tf.constant(0.0) for name in _LOGS},
                tf.TensorArray(tf.float32, updates, element_shape=[size]),
                tf.fill([len(variables)], True),
            ),
        )
        # Checking before each update would cost a fifth of its time.
        good = tf.reduce_all(finite)
        for variable, old in zip(assigned, saved, strict=True):
            variable.assign(tf.where(good, variable, old))
        means = {name: x / updates for name, x in sums.items()}
        return {**means, "errors": errors.stack(), "finite": finite}, None

    def _assigned(self) -> list[tf.Variable]:
        """All variables that an update assigns."""
        variables = list(self.trainable.variables)
        for optimizer, _ in self.trainable.groups:
            variables += optimizer.variables
        return [v.value for v in variables] + self.target_network.weights
