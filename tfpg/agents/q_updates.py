"""Many updates of a Q-network in one compiled call."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from tfpg.agents.optimization import Trainable, compiled
from tfpg.core.backend import keras, tf
from tfpg.models.observations import select
from tfpg.models.policy import Policy
from tfpg.ops.gradients import fused, sum_of_squares
from tfpg.ops.value_losses import double_q_learning_targets, huber, q_learning_targets, td_errors
from tfpg.rollouts.replay import Transitions

LOGS = ("loss", "mean_q", "td_error", "grad_norm")


class QUpdates:
    """Updates a policy's Q-network, and the target network beside it.

    The target network is a list of weights for the same model. What is compiled depends on the
    shape of the transitions and not on how many updates were made before.

    Args:
        policy: Its outputs are Q-values.
        trainable: What is trained.
        before: Updates to go on from, of the same variables. None: the target network is the
            network as it is.
        double: Whether the online network chooses the next action.
        loss: ``"huber"`` or ``"mse"``.
        target_update_period: Updates between copies into the target network.
        tau: Share of the way it goes after every update, in place of copies, or None.
        jit_compile: Compile with XLA.

    Attributes:
        target: The target network's weights.
        count: Updates made.
    """

    def __init__(
        self,
        policy: Policy,
        trainable: Trainable,
        before: QUpdates | None = None,
        *,
        double: bool,
        loss: str,
        target_update_period: int,
        tau: float | None,
        jit_compile: bool,
    ):
        self.policy = policy
        self.trainable = trainable
        self.double = double
        self.loss = loss
        self.target_update_period = target_update_period
        self.tau = tau
        self.count = 0
        self.target = [tf.Variable(v.value) for v in trainable.variables]
        self._left = self._checksum()
        if before is not None:
            pairs = zip(before.trainable.variables, trainable.variables, strict=False)
            if len(before.target) == len(self.target) and all(a is b for a, b in pairs):
                self.count, self.target, self._left = before.count, before.target, before._left
        self._call = compiled(self._update_all, jit_compile)

    def __call__(
        self, transitions: Transitions, batch_size: int
    ) -> tuple[dict[str, float], np.ndarray]:
        """An update for every ``batch_size`` transitions, one after another.

        Args:
            transitions: ``M`` of them, a multiple of ``batch_size``, sampled.
            batch_size: Transitions of an update.

        Returns:
            Means of the logs over the updates, and the errors ``[M]`` that the transitions had
            when they were learned from.

        Raises:
            FloatingPointError: A gradient is not finite; none of the updates was applied.
        """
        encode = self.policy.encode

        def batches(x: np.ndarray | tf.Tensor) -> tf.Tensor:
            shape = (-1, batch_size, *x.shape[1:])
            return tf.reshape(x, shape) if tf.is_tensor(x) else tf.constant(np.reshape(x, shape))

        data = transitions._replace(
            observations=encode(transitions.observations),
            next_observations=encode(transitions.next_observations),
            indices=(),  # type: ignore[arg-type]
        )
        data = tf.nest.map_structure(batches, data)
        before = tf.constant(self.count % self.target_update_period)
        sums, errors, finite = self._call(data, before)
        updates = len(transitions.rewards) // batch_size
        logs = dict(zip(LOGS, (sums.numpy() / updates).tolist(), strict=True))
        if self.trainable.check(finite.numpy(), logs["loss"]):
            self.count += updates
        return logs, errors.numpy().ravel()

    def leave(self) -> None:
        """Remembers the network as it is, for `heed`."""
        self._left = self._checksum()

    def heed(self) -> None:
        """Copies the network into the target where something else has changed it since `leave`.

        A callback that restores weights, for example: the target's would be another network's.
        """
        if self._checksum() != self._left:
            for old, new in zip(self.target, self.trainable.variables, strict=True):
                old.assign(new.value)
            self.leave()

    def _checksum(self) -> int:
        checksum = 0
        for variable in self.trainable.variables:
            checksum = zlib.crc32(np.ascontiguousarray(variable.value).tobytes(), checksum)
        return checksum

    def q_values(self, inputs: Any) -> tf.Tensor:
        """Q-values ``[B, A]`` of the network that is trained, for encoded observations."""
        inputs = select(inputs, self.policy.model_keys)
        return tf.cast(self.policy.model(inputs, training=False), tf.float32)

    def target_q_values(self, inputs: Any) -> tf.Tensor:
        """Q-values ``[B, A]`` of the target network, for encoded observations."""
        target = [tf.convert_to_tensor(v) for v in self.target]
        with keras.StatelessScope(list(zip(self.trainable.variables, target, strict=True))):
            return self.q_values(inputs)

    def step_losses(self, batch: Transitions) -> dict[str, tf.Tensor]:
        """The loss of every transition, ``[B]``, and what else to log."""
        next_q_values = self.target_q_values(batch.next_observations)
        if self.double:
            next_q_online = self.q_values(batch.next_observations)
            targets = double_q_learning_targets(
                batch.rewards, batch.discounts, next_q_values, next_q_online
            )
        else:
            targets = q_learning_targets(batch.rewards, batch.discounts, next_q_values)
        q_values = self.q_values(batch.observations)
        errors = td_errors(q_values, batch.actions, targets)
        losses = huber(errors) if self.loss == "huber" else errors * errors
        return {
            "loss": batch.weights * losses,
            "mean_q": tf.reduce_max(q_values, axis=-1),
            "td_error": tf.abs(errors),
            "errors": errors,
        }

    def _update_all(
        self, batches: Transitions, before: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        variables, changed = self.trainable.variables, self._changed()
        saved = [tf.identity(v) for v in changed]
        updates, size = batches.rewards.shape

        def update(index: Any, sums: Any, errors: Any, finite: Any) -> Any:
            batch = tf.nest.map_structure(lambda x: x[index], batches)
            grads, logs = fused(self.step_losses, variables, batch, keep=("errors",))
            errors = errors.write(index, logs.pop("errors"))
            squares = tf.stack([sum_of_squares(g) for g in grads])
            logs["grad_norm"] = tf.cast(tf.sqrt(tf.reduce_sum(squares)), tf.float32)
            self.trainable.step(grads)
            self._follow(before + index + 1)
            sums = {name: x + logs[name] for name, x in sums.items()}
            # Of an infinite loss huber's gradient is finite.
            finite &= tf.math.is_finite(squares) & tf.math.is_finite(logs["loss"])
            return index + 1, sums, errors, finite

        _, sums, errors, finite = tf.while_loop(
            lambda index, *_: index < updates,
            update,
            (
                tf.constant(0),
                {name: tf.constant(0.0) for name in LOGS},
                tf.TensorArray(tf.float32, updates, element_shape=[size]),
                tf.fill([len(variables)], True),
            ),
        )
        # Looking before each update would cost a fifth of it.
        good = tf.reduce_all(finite)
        for variable, old in zip(changed, saved, strict=True):
            variable.assign(tf.where(good, variable, old))
        return tf.stack([sums[name] for name in LOGS]), errors.stack(), finite

    def _changed(self) -> list[tf.Variable]:
        """Everything that an update changes."""
        variables = list(self.trainable.variables)
        for optimizer, _ in self.trainable.groups:
            variables += optimizer.variables
        return [v.value for v in variables] + self.target

    def _follow(self, count: tf.Tensor) -> None:
        """Moves the target network after an update."""
        due = tf.equal(count % self.target_update_period, 0)
        share = self.tau
        for old, new in zip(self.target, self.trainable.variables, strict=True):
            if share is None:
                old.assign(tf.where(due, new.value, old))
            else:
                old.assign_add(share * (new.value - old))
