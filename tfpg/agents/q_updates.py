"""Many updates of a Q-network in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import tensorflow as tf  # isort: skip

from tfpg.agents.trainable import Trainable, apply_where
from tfpg.observations import select
from tfpg.ops.gradients import fused
from tfpg.ops.value_learning import (
    double_q_learning_targets,
    huber,
    q_learning_targets,
    td_errors,
)
from tfpg.policy import Policy
from tfpg.replay import Transitions
from tfpg.types import map_arrays


class QUpdates:
    """Updates a policy's Q-network, and the target network beside it.

    The target network is a list of weights for the same model. What is compiled depends on the
    shape of the transitions and not on how many updates were made before.

    Args:
        policy: Its outputs are Q-values.
        trainable: What is trained.
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
        self._call = tf.function(self._update_all, jit_compile=jit_compile, autograph=False)

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
            FloatingPointError: A gradient is not finite; that update and those after it were not
                applied.
        """
        encode = self.policy.encode

        def batches(x: np.ndarray) -> np.ndarray:
            return np.reshape(x, (-1, batch_size, *x.shape[1:]))

        data = transitions._replace(
            observations=encode(transitions.observations),
            next_observations=encode(transitions.next_observations),
        )
        data = Transitions(*(map_arrays(batches, x) for x in data))
        before = tf.constant(self.count % self.target_update_period)
        sums, errors, made, finite = self._call(data, before)
        logs = {name: float(x) / int(made) for name, x in sums.items()}
        self.trainable.check(finite.numpy(), logs["loss"])
        self.count += int(made)
        return logs, errors.numpy().ravel()

    def q_values(self, inputs: Any) -> tf.Tensor:
        """Q-values ``[B, A]`` of the network that is trained, for encoded observations."""
        inputs = select(inputs, self.policy.model_keys)
        return tf.cast(self.policy.model(inputs, training=False), tf.float32)

    def target_q_values(self, inputs: Any) -> tf.Tensor:
        """Q-values ``[B, A]`` of the target network, for encoded observations."""
        model = self.policy.model
        others = [v.value for v in model.non_trainable_variables]
        target = [tf.convert_to_tensor(v) for v in self.target]
        inputs = select(inputs, self.policy.model_keys)
        outputs, _ = model.stateless_call(target, others, inputs, training=False)
        return tf.cast(outputs, tf.float32)

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
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        variables = self.trainable.variables
        updates, size = batches.rewards.shape

        def update(index: Any, _: Any, sums: Any, errors: Any, __: Any) -> Any:
            batch = tf.nest.map_structure(lambda x: x[index], batches)
            grads, logs = fused(self.step_losses, variables, batch, keep=("errors",))
            errors = errors.write(index, logs.pop("errors"))
            logs["grad_norm"] = tf.linalg.global_norm(grads)
            finite = tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
            going = tf.reduce_all(finite)
            apply_where(going, self.trainable.groups, grads)
            self._follow(going, before + index + 1)
            sums = {name: x + logs[name] for name, x in sums.items()}
            return index + 1, going, sums, errors, finite

        names = ("loss", "mean_q", "td_error", "grad_norm")
        made, _, sums, errors, finite = tf.while_loop(
            lambda index, going, *_: going & (index < updates),
            update,
            (
                tf.constant(0),
                tf.constant(True),
                {name: tf.constant(0.0) for name in names},
                tf.TensorArray(tf.float32, updates, element_shape=[size]),
                tf.fill([len(variables)], True),
            ),
        )
        return sums, errors.stack(), made, finite

    def _follow(self, wanted: tf.Tensor, count: tf.Tensor) -> None:
        """Moves the target network after an update."""
        online = self.trainable.variables
        if self.tau is not None:
            share = tf.where(wanted, self.tau, 0.0)
            for old, new in zip(self.target, online, strict=True):
                old.assign_add(share * (new.value - old))
            return

        def copy() -> tf.Tensor:
            for old, new in zip(self.target, online, strict=True):
                old.assign(new.value)
            return tf.constant(True)

        due = tf.equal(count % self.target_update_period, 0)
        tf.cond(wanted & due, copy, lambda: tf.constant(False))
