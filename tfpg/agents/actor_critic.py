"""What A2C and PPO share: fragments of steps, generalized advantages, minibatch updates.

An iteration steps every environment ``num_steps`` times with the present policy, values what was
observed, and makes advantages of it,

    A_t = sum_k (gamma lambda)^k delta_{t+k},    delta_t = r_t + gamma V(s_{t+1}) - V(s_t),

where a termination stops the bootstrap and a time limit only the sum. ``A_t + V(s_t)`` is what
the value learns. All updates of an iteration are one compiled call.

An algorithm is a subclass with `step_losses`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpg.agents.agent import Agent
from tfpg.agents.minibatches import Batch, explained_variance, make_batch, minibatch_order, padded
from tfpg.agents.optimization import Trainable, apply_where, compiled, compiled_for, suits_xla
from tfpg.agents.option_checks import check_coef, check_jit, check_positive, one_of
from tfpg.agents.reward_scale import ReturnScale
from tfpg.core.backend import keras, tf
from tfpg.core.seeding import shuffle_rng
from tfpg.models.critic import Critic
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy
from tfpg.ops.gradients import fused
from tfpg.ops.policy_losses import entropy_loss
from tfpg.ops.returns import check_fraction
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.evaluation import check_count
from tfpg.rollouts.trajectory import Trajectory


class ActorCritic(Agent):
    """A policy and a value trained on fragments of steps. See `tfpg.A2C` and `tfpg.PPO`.

    Args:
        model: The policy; see `tfpg.models.heads`. With a second output it gives the value too.
        value_model: The value network, ``inputs -> [B, 1]``, where it is not the second output.
        gamma: Discount factor, in [0, 1].
        gae_lambda: Of the advantages, in [0, 1]: 1 for all rewards of a fragment, 0 for one.
        n_step: Bootstrap after so many rewards, in place of ``gae_lambda``.
        num_envs: How many environments play side by side.
        num_steps: Steps of each in an iteration.
        epochs: Passes over the steps of an iteration.
        minibatches: Parts a pass is made of, each an update.
        standardize: Z-score the advantages over the ``"batch"``, or not (None).
        entropy_coef: Weight of the entropy bonus, at least 0.
        value_coef: Weight of the value loss, at least 0.
        reward_scale: Factor on the rewards that are learned from, or ``"auto"``: one over the
            running standard deviation of the discounted return. Logs tell rewards as they are.
        max_steps: Where an episode is cut. None: the environment's own limit.
        jit_compile: Compile the updates with XLA; Keras's own word. ``"auto"`` does, but for
            convolutions on a CPU, where XLA's are slow.
        from_logits: See `tfpg.models.heads.head_for`.
        positive_action: See `tfpg.models.heads.head_for`.
        squash: See `tfpg.models.heads.head_for`.
        log_std: See `tfpg.models.heads.head_for`.
        acting: See `tfpg.Policy`.
    """

    option_names = (
        *Agent.option_names,
        *("gae_lambda", "n_step", "num_steps", "epochs", "minibatches", "standardize"),
        *("entropy_coef", "value_coef", "reward_scale", "jit_compile"),
    )

    def __init__(
        self,
        model: keras.Model,
        *,
        value_model: keras.Model | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        n_step: int | None = None,
        num_envs: int = 8,
        num_steps: int = 16,
        epochs: int = 1,
        minibatches: int = 1,
        standardize: str | None = None,
        entropy_coef: float = 0.0,
        value_coef: float = 0.5,
        reward_scale: float | str = 1.0,
        max_steps: int | None = None,
        jit_compile: bool | str = "auto",
        from_logits: bool | None = None,
        positive_action: int = 1,
        squash: bool = False,
        log_std: float | Sequence[float] = 0.0,
        acting: str = "auto",
    ):
        super().__init__(
            model,
            gamma=gamma,
            num_envs=num_envs,
            max_steps=max_steps,
            from_logits=from_logits,
            positive_action=positive_action,
            squash=squash,
            log_std=log_std,
            acting=acting,
        )
        one_of("standardize", standardize, ("batch", None))
        if n_step is not None and gae_lambda != 1.0:
            raise ValueError("n_step takes the place of gae_lambda: leave one of them out.")
        self.value_model = None if value_model is None else self.prepared(value_model)
        self.gae_lambda = check_fraction("gae_lambda", gae_lambda)
        self.n_step = None if n_step is None else check_count("n_step", n_step)
        self.num_steps = check_count("num_steps", num_steps)
        self.epochs = check_count("epochs", epochs)
        self.minibatches = check_count("minibatches", minibatches)
        if self.minibatches > self.num_envs * self.num_steps:
            raise ValueError(
                f"{self.num_envs} environments give {self.num_envs * self.num_steps} steps an "
                f"iteration, too few for {self.minibatches} minibatches."
            )
        self.standardize = standardize
        self.entropy_coef = check_coef("entropy_coef", entropy_coef)
        self.value_coef = check_coef("value_coef", value_coef)
        self.reward_scale = reward_scale
        self.jit_compile = check_jit(jit_compile)
        self._scale: ReturnScale | None = None
        self._prepare_scale()
        self._shuffle = np.random.default_rng(0)
        self._built_for: tuple | None = None

    # Whether to stop the updates of an iteration; A2C has one.
    target_kl: float | None = None

    @abc.abstractmethod
    def step_losses(self, batch: Batch) -> dict[str, tf.Tensor]:
        """The algorithm: ``"loss"`` and what else to log, each ``[B]``, as tensors.

        Traced without AutoGraph: branches and loops on tensors are `tf.where`, `tf.cond` and
        `tf.while_loop`.
        """

    def total_loss(self, policy_loss: Any, value_loss: Any, entropy: Any) -> dict[str, tf.Tensor]:
        """The weighted sum as ``"loss"``, and its parts; all ``[B]``."""
        return {
            "loss": policy_loss
            + self.value_coef * value_loss
            + self.entropy_coef * entropy_loss(entropy),
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
        }

    @property
    def seedable(self) -> bool:  # type: ignore[override]
        return self.max_steps is not None

    def build(self, policy: Policy) -> None:
        """Makes what is trained, and compiles the updates, once for what they depend on."""
        key = (
            policy,
            compiled_for(self.model),
            compiled_for(self.value_model),
            self._options(),
        )
        if self._built_for == key:
            return
        self._critic = Critic(policy, self.value_model)
        self._trainable = Trainable(policy, self.value_model)
        models = [self.model] if self.value_model is None else [self.model, self.value_model]
        self._statistics = [ObservationStatistics(model) for model in models]
        jit = self.jit_compile
        jit = all(map(suits_xla, models)) if jit == "auto" else jit
        self._updates = compiled(self._update_all, bool(jit))
        self._built_for = key

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        """A collector whose episodes and noise are those of no earlier iteration."""
        self._prepare_scale()
        first = iteration * self.num_envs * self.num_steps
        return Collector(envs, seed, episode=first, fragment=iteration, window=self.window)

    def get_state(self) -> dict[str, Any]:
        scale = None if self._scale is None else self._scale.get_state()
        return {**super().get_state(), "scale": scale}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if self._scale is not None:
            self._scale.set_state(state["scale"])

    def restart_episodes(self, which: np.ndarray) -> None:
        if self._scale is not None:
            self._scale.forget(which)

    def collect(self, collector: Collector, policy: Policy) -> Trajectory:
        """Steps every environment ``num_steps`` times."""
        self._shuffle = shuffle_rng(collector.seed, collector.fragment)
        data = collector.collect_steps(policy, self.num_steps, self.max_steps)
        while not data.mask.any():  # environments that reset themselves did nothing else
            data = collector.collect_steps(policy, self.num_steps, self.max_steps)
        return data

    def update(self, data: Trajectory) -> dict[str, float]:
        """All updates of an iteration, in one call.

        Args:
            data: Fragments of steps.

        Returns:
            Means over the updates of what `step_losses` gives and of ``grad_norm``, and
            ``explained_variance``; with a clipped head ``clipped_actions``.

        Raises:
            FloatingPointError: The loss or a gradient is not finite; that update and those
                after it were not applied.
        """
        if self._built_for is None:
            raise RuntimeError("update needs a compiled policy: call fit, or build first.")
        self._trainable.follow_learning_rate()
        batch = self.to_batch(data)
        # The shape that the updates are compiled for: all steps, and more where somebody has more.
        real = len(batch.advantages)
        capacity = max(data.rewards.shape[1] * self.num_steps, real)
        order, valid = minibatch_order(real, capacity, self.epochs, self.minibatches, self._shuffle)
        limit = np.inf if self.target_kl is None else 1.5 * self.target_kl
        given = padded(batch, capacity), order, valid, tf.constant(limit, tf.float32)
        sums, done, finite = self._updates(*given)
        logs = {name: float(x) for name, x in sums.items()}
        self._trainable.check(finite.numpy(), logs["loss"])
        count, applied = done.numpy()
        logs = {name: x / count for name, x in logs.items()}
        logs["explained_variance"] = explained_variance(batch)
        if self.target_kl is not None:
            logs["updates_applied"] = int(applied)
        head = self._critic.policy.head
        if head.clips:
            logs["clipped_actions"] = float(head.out_of_bounds(batch.actions).mean())
        return logs

    def to_batch(self, data: Trajectory) -> Batch:
        """The real steps with their advantages and the returns their values are to become."""
        if self._scale is not None:
            data = data._replace(rewards=self._scale(data))
        elif self.reward_scale != 1.0:
            data = data._replace(rewards=data.rewards * float(self.reward_scale))
        return make_batch(
            data,
            self.gamma,
            values=self._critic.values(data.observations),
            gae_lambda=self.gae_lambda,
            n_step=self.n_step,
            per=self.standardize,
            encode=self._critic.policy.encode,
        )

    def _prepare_scale(self) -> None:
        """Heeds what ``reward_scale`` and ``gamma`` are now; episodes begin anew."""
        if self.reward_scale != "auto":
            check_positive("reward_scale", self.reward_scale, ', or "auto"')
            self._scale = None
        elif self._scale is None or self._scale.gamma != self.gamma:
            self._scale = ReturnScale(self.gamma)
        else:
            self._scale.begin()

    def _options(self) -> tuple:
        """What is compiled in."""
        return self.entropy_coef, self.value_coef, self.jit_compile

    def _update_all(
        self, batch: Batch, order: tf.Tensor, valid: tf.Tensor, kl_limit: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        variables = self._trainable.variables

        def losses_of(index: Any) -> Any:
            part = tf.nest.map_structure(lambda x: tf.gather(x, order[index]), batch)
            return fused(self.step_losses, variables, part, weights=valid[index])

        def update(index: Any, _: Any, sums: Any, done: Any, __: Any) -> Any:
            grads, logs = losses_of(index)
            logs["grad_norm"] = tf.cast(tf.linalg.global_norm(grads), tf.float32)
            finite = tf.stack([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
            near = logs.get("approx_kl", tf.constant(0.0)) <= kl_limit
            going = tf.reduce_all(finite) & near
            apply_where(going, self._trainable.groups, grads)
            sums = {name: x + logs[name] for name, x in sums.items()}
            counts = tf.stack([1, tf.cast(going, tf.int32)])
            return index + 1, going, sums, done + counts, finite

        names = list(tf.nest.flatten(self._names(batch, order, valid)))
        sums = {name: tf.constant(0.0) for name in names}
        _, _, sums, done, finite = tf.while_loop(
            lambda index, going, *_: going & (index < tf.shape(order)[0]),
            update,
            (
                tf.constant(0),
                tf.constant(True),
                sums,
                tf.constant([0, 0]),
                tf.fill([len(variables)], True),
            ),
        )
        return sums, done, finite

    def _names(self, batch: Batch, order: tf.Tensor, valid: tf.Tensor) -> list[str]:
        part = tf.nest.map_structure(lambda x: x[:1], batch)
        return [*self.step_losses(part), "grad_norm"]
