r"""REINFORCE: the episode-batched policy gradient, with or without a baseline.

A batch of whole episodes is played. Every step is weighted with its advantage,

    G_t = r_t + gamma G_{t+1},        A_t = G_t - b(s_t),

standardized over all real steps of the batch, and one step is taken along the mean over the real
steps of

    A_t grad log pi(a_t | s_t)  +  entropy_coef grad H(pi(. | s_t)).

The baseline b is nothing, the mean of the batch, or a value network that learns the returns.
Without a value network a time limit counts as an end: there is nothing to bootstrap from.

Source: Williams, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning", 1992, https://doi.org/10.1007/BF00992696.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfpg.agents.agent import Agent
from tfpg.agents.estimators import Estimator, Streamed
from tfpg.agents.minibatches import STANDARDIZE, Batch, episode_ends, explained_variance, make_batch
from tfpg.agents.optimization import Trainable, compiled_for
from tfpg.agents.option_checks import check_coef, one_of
from tfpg.core.backend import keras
from tfpg.models.critic import Critic
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy
from tfpg.ops.returns import check_fraction
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.evaluation import check_count
from tfpg.rollouts.trajectory import Trajectory

ESTIMATORS = ("fused", "accumulated", "streaming")
BASELINES = (None, "mean", "value")


class Reinforce(Agent):
    """REINFORCE with advantages standardized over the batch.

    Args:
        model: The policy; see `tfpg.models.heads` for what its outputs may be. With a second output
            it gives the value for ``baseline="value"``.
        gamma: Discount factor, in [0, 1].
        episodes_per_update: Episodes played before every update.
        max_steps: Where an episode is cut. None: the environment's own limit.
        standardize: Z-score the advantages over the ``"batch"``, over each ``"episode"``, or not
            (None).
        baseline: None, the ``"mean"`` of the batch, or a learned ``"value"``.
        value_model: The value network, ``inputs -> [B, 1]``, where it is not the model's second
            output; it implies ``baseline="value"``.
        gae_lambda: With a value: 1 for returns to go, less for more bootstrapping.
        n_step: With a value: bootstrap after so many rewards, in place of ``gae_lambda``.
        value_coef: Weight of the squared error of the value, at least 0.
        value_updates: Gradient steps of a value model for each of the policy's.
        entropy_coef: Weight of the entropy bonus, at least 0.
        gradient: ``"fused"`` (one tape over the flattened batch), ``"accumulated"`` (a tape for
            every step, weighted and added up) or ``"streaming"`` (a tape at every step while
            acting, with eligibility traces: no step is kept). All estimate the same number and
            agree up to rounding; the last two are slow, constant in memory, and tell how noisy
            the gradient is.
        batch_size: With ``"fused"``: steps in a slice, so that a large batch fits into memory.
        num_envs: How many environments play side by side. None: ``episodes_per_update``, or 1
            when streaming.
        from_logits: See `tfpg.models.heads.head_for`.
        positive_action: See `tfpg.models.heads.head_for`.
        squash: See `tfpg.models.heads.head_for`.
        log_std: See `tfpg.models.heads.head_for`.
        acting: See `tfpg.Policy`.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range, or a layer does not suit.

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

    option_names = (
        *Agent.option_names,
        *("episodes_per_update", "standardize", "baseline", "gae_lambda", "n_step", "value_coef"),
        *("value_updates", "entropy_coef", "gradient", "batch_size"),
    )

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.99,
        episodes_per_update: int = 32,
        max_steps: int | None = None,
        standardize: str | None = "batch",
        baseline: str | None = None,
        value_model: keras.Model | None = None,
        gae_lambda: float = 1.0,
        n_step: int | None = None,
        value_coef: float = 0.5,
        value_updates: int = 1,
        entropy_coef: float = 0.0,
        gradient: str = "fused",
        batch_size: int | None = None,
        num_envs: int | None = None,
        from_logits: bool | None = None,
        positive_action: int = 1,
        squash: bool = False,
        log_std: float | Sequence[float] = 0.0,
        acting: str = "auto",
    ):
        self.episodes_per_update = check_count("episodes_per_update", episodes_per_update)
        one_of("standardize", standardize, STANDARDIZE)
        one_of("gradient", gradient, ESTIMATORS)
        one_of("baseline", baseline, BASELINES)
        if num_envs is None:
            num_envs = 1 if gradient == "streaming" else self.episodes_per_update
        super().__init__(
            model,
            gamma=gamma,
            max_steps=max_steps,
            num_envs=num_envs,
            from_logits=from_logits,
            positive_action=positive_action,
            squash=squash,
            log_std=log_std,
            acting=acting,
        )
        if value_model is not None:
            if baseline == "mean":
                raise ValueError('A value_model is for baseline="value", and it is "mean".')
            baseline = "value"
            value_model = self.prepared(value_model)
        self.standardize = standardize
        self.baseline = baseline
        self.value_model = value_model
        self.gae_lambda = check_fraction("gae_lambda", gae_lambda)
        self.n_step = None if n_step is None else check_count("n_step", n_step)
        self.value_coef = check_coef("value_coef", value_coef)
        self.value_updates = check_count("value_updates", value_updates)
        self.entropy_coef = check_coef("entropy_coef", entropy_coef)
        self.gradient = gradient
        self.batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        self._check_combinations()
        self._built_for: tuple | None = None

    @property
    def window(self) -> int:  # type: ignore[override]
        """The episodes of an iteration are what its ``episode_return`` is the mean of."""
        return self.episodes_per_update

    def build(self, policy: Policy) -> None:
        """Compiles the update, once for what it depends on."""
        key = (
            policy,
            compiled_for(self.model),
            compiled_for(self.value_model),
            (self.gradient, self.baseline, self.standardize, self.batch_size),
            (self.gamma, self.gae_lambda, self.entropy_coef),
            (self.value_coef, self.value_updates),
        )
        if self._built_for == key:
            return
        self._critic = Critic(policy, self.value_model) if self.baseline == "value" else None
        self._trainable = Trainable(policy, self.value_model)
        models = [self.model] if self.value_model is None else [self.model, self.value_model]
        self._statistics = [ObservationStatistics(model) for model in models]
        layers = [layer.name for statistics in self._statistics for layer in statistics.layers]
        if self.gradient == "streaming" and layers:
            raise ValueError(
                f'gradient="streaming" keeps no observations, and the layer {layers[0]!r} needs '
                "their statistics: use another gradient."
            )
        self._estimator = Estimator(
            policy,
            self._critic,
            self._trainable,
            standardize=self.standardize,
            baseline=self.baseline,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            value_coef=self.value_coef,
            value_updates=self.value_updates,
            entropy_coef=self.entropy_coef,
            batch_size=self.batch_size,
        )
        self._built_for = key

    def collect(self, collector: Collector, policy: Policy) -> Trajectory | Streamed:
        """Plays whole episodes; when streaming, gradients are taken on the way."""
        if self.gradient == "streaming":
            if collector.envs.num_envs != 1:
                raise ValueError(
                    'gradient="streaming" plays one episode at a time, and the vector environment '
                    f"has {collector.envs.num_envs} environments: give one of them."
                )
            return self._estimator.stream(collector, self.episodes_per_update, self.max_steps)
        return collector.collect_episodes(policy, self.episodes_per_update, self.max_steps)

    def update(self, data: Trajectory | Streamed) -> dict[str, float]:
        """One step along the policy gradient of whole episodes.

        Args:
            data: What `collect` returned.

        Returns:
            ``loss``, ``policy_loss``, ``entropy`` (nats, mean over the real steps) and
            ``grad_norm``; with a value ``value_loss`` and ``explained_variance``; with a tape for
            every step and two episodes at least ``grad_snr``, ``baseline_saving`` and
            ``zscore_saving``; with a clipped head ``clipped_actions``. Streaming, which keeps no
            values and no actions, knows neither ``explained_variance`` nor ``clipped_actions``.

        Raises:
            FloatingPointError: The loss or a gradient is not finite; nothing was applied.
        """
        if self._built_for is None:
            raise RuntimeError("update needs a compiled policy: call fit, or build first.")
        self._trainable.follow_learning_rate()
        if isinstance(data, Streamed):
            logs = self._estimator.apply_streamed(data)
        else:
            batch = self.to_batch(data)
            if self.gradient == "accumulated":
                logs = self._estimator.apply_accumulated(batch, episode_ends(data))
            else:
                logs = self._estimator.apply_fused(batch)
            if self._critic is not None:
                logs["explained_variance"] = explained_variance(batch)
            head = self._estimator.policy.head
            if head.clips:
                logs["clipped_actions"] = float(head.out_of_bounds(batch.actions).mean())
        return logs

    def to_batch(self, data: Trajectory) -> Batch:
        """The real steps of whole episodes with their advantages."""
        return make_batch(
            data,
            self.gamma,
            values=None if self._critic is None else self._critic.values(data.observations),
            gae_lambda=self.gae_lambda,
            n_step=self.n_step,
            per=self.standardize,
            center=self.baseline == "mean",
            encode=self._estimator.policy.encode,
        )

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        """A collector that goes on at the first episode of an iteration."""
        first = iteration * self.episodes_per_update
        return Collector(envs, seed, episode=first, window=self.window)

    def _check_combinations(self) -> None:
        if self.value_updates > 1 and self.value_model is None:
            raise ValueError(
                "value_updates is for a value_model: a second output is updated with the first."
            )
        if self.baseline != "value" and (self.gae_lambda != 1.0 or self.n_step is not None):
            raise ValueError('gae_lambda and n_step need values: baseline="value".')
        if self.n_step is not None and self.gae_lambda != 1.0:
            raise ValueError("n_step takes the place of gae_lambda: leave one of them out.")
        if self.gradient != "fused" and self.batch_size is not None:
            raise ValueError('batch_size is for gradient="fused": the others go step by step.')
        if self.gradient == "streaming" and self.n_step is not None:
            raise ValueError('n_step is not for gradient="streaming": use gae_lambda.')
        if self.gradient == "streaming" and self.value_updates > 1:
            raise ValueError(
                'value_updates need the steps again, and gradient="streaming" keeps none: leave it '
                "out, or use another gradient."
            )
        if self.gradient == "streaming" and self.num_envs != 1:
            raise ValueError('gradient="streaming" plays one episode at a time: num_envs=1.')
