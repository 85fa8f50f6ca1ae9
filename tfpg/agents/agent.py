"""The shell of every agent: `fit`, `evaluate`, `predict`, `save` and `load`, as in Keras."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.agents.non_finite import attach_data
from tfpg.agents.optimization import Trainable
from tfpg.agents.option_checks import plain
from tfpg.agents.state import assign_variables, check_variables, variables_state
from tfpg.agents.training import fit
from tfpg.callbacks.progress_bar import resolve_verbose
from tfpg.checkpoints.manager import Checkpoints
from tfpg.core.backend import keras
from tfpg.envs import EnvLike, spaces_of
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy
from tfpg.models.requirements import check_layers, warn_of_losses
from tfpg.models.saving import load_model, save_model
from tfpg.ops.returns import check_gamma
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.evaluation import check_count, evaluate
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.trajectory import Trajectory, played_observations


class Agent(abc.ABC):
    """A Keras model and a way to train it.

    An algorithm is a subclass with `build`, `collect` and `update`. ``agent.model`` is the very
    model that was given: plain Keras saves and loads it. It is compiled, and its optimizer is the
    optimizer; a model that is not gets `default_optimizer`.

    Args:
        model: The policy, ``inputs [B, ...] -> [B, K]``; see `tfpg.models.heads` for what K may be
            and `tfpg.models.observations` for the inputs.
        gamma: Discount factor, in [0, 1].
        num_envs: How many environments play side by side, at least 1.
        max_steps: Where an episode is cut. None: the environment's own limit.
        from_logits: See `tfpg.models.heads.head_for`.
        positive_action: See `tfpg.models.heads.head_for`.
        squash: See `tfpg.models.heads.head_for`.
        log_std: See `tfpg.models.heads.head_for`.
        acting: See `tfpg.Policy`.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range, or a layer does not suit (see
            `tfpg.models.requirements.check_layers`).
    """

    # The options that `get_config` tells.
    option_names: tuple[str, ...] = ("gamma", "num_envs", "max_steps")
    # Of how many last episodes at least episode_return is the mean, once a tenth ended.
    window = 100
    # Whether every reset of an environment must be ours to seed.
    seedable = False
    # What an agent that learns from a replay keeps its steps in.
    replay: ReplayBuffer | None = None

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.99,
        num_envs: int = 8,
        max_steps: int | None = None,
        from_logits: bool | None = None,
        positive_action: int = 1,
        squash: bool = False,
        log_std: float | Sequence[float] = 0.0,
        acting: str = "auto",
    ):
        self.model = self.prepared(model)
        self.gamma = check_gamma(gamma)
        self.num_envs = check_count("num_envs", num_envs)
        self.max_steps = None if max_steps is None else check_count("max_steps", max_steps)
        self.env_steps = 0
        self._policy_options: dict[str, Any] = {
            "from_logits": from_logits,
            "positive_action": positive_action,
            "squash": squash,
            "log_std": log_std,
            "acting": acting,
        }
        self.policy: Policy | None = None
        self._policies: list[Policy] = []
        self._verbose = 0
        # Made by `build`.
        self._trainable: Trainable
        self._statistics: list[ObservationStatistics]

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """The optimizer of a model that was not compiled."""
        return keras.optimizers.Adam(0.01)

    def prepared(self, model: keras.Model) -> keras.Model:
        """The model, checked and compiled."""
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a keras.Model, and got {type(model).__name__}.")
        check_layers(model)
        if getattr(model, "optimizer", None) is None:
            model.compile(optimizer=self.default_optimizer())
        warn_of_losses(model)
        return model

    @abc.abstractmethod
    def build(self, policy: Policy) -> None:
        """Makes what is trained, and compiles what `update` needs. Called before `fit` plays."""

    @abc.abstractmethod
    def collect(self, collector: Collector, policy: Policy) -> Any:
        """Plays, and returns what `update` learns from."""

    @abc.abstractmethod
    def update(self, data: Any) -> dict[str, float]:
        """The algorithm: learns from the data once, and returns the logs of the update."""

    def fit(
        self,
        envs: EnvLike,
        iterations: int,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        seed: int | None = None,
        initial_iteration: int = 0,
        verbose: str | int = "auto",
        validation_envs: EnvLike | None = None,
        validation_freq: int = 10,
        validation_episodes: int = 10,
        checkpoints: str | os.PathLike | Checkpoints | None = None,
    ) -> keras.callbacks.History:
        """Trains: plays and updates, ``iterations`` times.

        An iteration is a Keras epoch, so stock Keras callbacks work: monitor
        ``"episode_return"``, or ``"val_episode_return"``, with ``mode="max"``.

        Args:
            envs: An environment id, environment, vector environment or callable making one.
                What is made here is closed here; what was given is left open.
            iterations: Number of the last iteration, counted from 0 like Keras's ``epochs``.
            callbacks: Keras callbacks. They get the Keras model as ``.model``.
            seed: Of everything random in acting. The same seed, model weights and machine give
                the same weights. None: a fresh one.
            initial_iteration: Where to begin, to go on with an earlier fit.
            verbose: 0 silent, 1 a progress bar, 2 a line for every iteration, "auto" 1 in a
                terminal or notebook and 2 elsewhere.
            validation_envs: Where the greedy policy is measured while it trains, apart from the
                environments it trains in. None: nowhere.
            validation_freq: Measure after every so many iterations, and after the last.
            validation_episodes: Episodes of each measurement, others every time.
            checkpoints: A folder, or `tfpg.Checkpoints`, where all that a training needs to
                resume is saved every ten seconds and at the end. If the folder has a checkpoint,
                the training resumes from it, bit for bit. Ctrl-C and SIGTERM then wait for the end
                of the iteration, and save one.

        Returns:
            A Keras `History`: ``history.history["episode_return"]`` and so on, a number for
            every iteration. ``episode_return`` and ``episode_length`` are means over the episodes
            that ended in the iteration, and before it where those are fewer than the agent's
            ``window``; they are left out until a tenth of a window has ended. ``env_steps`` counts
            all environment steps so far.
            ``val_episode_return`` and ``val_episode_length`` have a number for every measurement.

        Keras's `BackupAndRestore` restores ``agent.model`` and the iteration, and nothing else: not
        a value model of its own, log standard deviations beside the model, a replay, or
        ``env_steps``, so that a schedule of epsilon begins anew. ``checkpoints`` restore all.

        Raises:
            ValueError: The model does not fit the environment, or an argument is out of range.
            tfpg.errors.EnvDataError: An environment gave NaN or infinity.
            FloatingPointError: The model's outputs, the loss or a gradient are not finite.
                The update that met them was not applied.
            CheckpointCorruptError: No checkpoint in the folder is whole.
            OSError: The last checkpoint could not be written.
        """
        self._verbose = resolve_verbose(verbose)
        return fit(
            self,
            envs,
            check_count("iterations", iterations),
            callbacks=callbacks,
            seed=seed,
            initial_iteration=initial_iteration,
            verbose=self._verbose,
            validation_envs=validation_envs,
            validation_freq=check_count("validation_freq", validation_freq),
            validation_episodes=check_count("validation_episodes", validation_episodes),
            checkpoints=checkpoints,
        )

    def variables(self) -> dict[str, Sequence[Any]]:
        """Return everything that training assigns, in groups by what it belongs to."""
        groups: dict[str, Sequence[Any]] = {
            "model": list(self.model.variables),  # the seeds of random layers included
            "head": list(self.policy.head.variables) if self.policy else [],
        }
        if getattr(self, "value_model", None) is not None:
            groups["value model"] = list(self.value_model.variables)  # type: ignore[attr-defined]
        for i, (optimizer, _) in enumerate(self._trainable.groups):
            groups[f"optimizer {i}" if i else "optimizer"] = list(optimizer.variables)
        return groups

    def get_state(self) -> dict[str, Any]:
        """Return all that changes in training, as plain values and arrays, except the replay."""
        return {
            "env_steps": self.env_steps,
            "variables": variables_state(self.variables()),
            "statistics": [each.get_state() for each in self._statistics],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error unless a state is one of an agent like this one.

        Raises:
            ValueError: The variables differ.
        """
        check_variables(self.variables(), state["variables"])

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state of an agent like this one, in `fit`.

        Raises:
            ValueError: The variables differ.
        """
        assign_variables(self.variables(), state["variables"])
        for each, saved in zip(self._statistics, state["statistics"], strict=True):
            each.set_state(saved)
        self.env_steps = state["env_steps"]

    def restart_episodes(self, which: np.ndarray) -> None:  # noqa: B027
        """The episodes of environments ``[N]`` bool could not be restored, and start over."""

    def finalize(self) -> None:
        """End a training as Keras does: averaged weights take their places."""
        self._trainable.finalize()

    def warm_up(self, collector: Collector, policy: Policy) -> None:  # noqa: B027
        """What an algorithm does before its first iteration; most do nothing."""

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """An iteration: collects and updates, and returns the logs."""
        before = self.env_steps - collector.steps
        data = self.collect(collector, policy)
        self.env_steps = before + collector.steps
        with attach_data(data):
            logs = {"env_steps": self.env_steps, **self.update(data)}
        if isinstance(data, Trajectory):
            for statistics in self._statistics:
                if statistics.layers:
                    statistics.update(policy.encode(played_observations([data])))
        return logs

    def collector(self, envs: Any, seed: int, iteration: int) -> Collector:
        """The collector of a fit that begins at an iteration."""
        return Collector(envs, seed, window=self.window)

    def evaluate(
        self,
        envs: EnvLike,
        episodes: int = 10,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Return and length of whole episodes; see `tfpg.evaluate`."""
        return evaluate(
            self,
            envs,
            episodes,
            deterministic=deterministic,
            seed=seed,
            max_steps=self.max_steps,
        )

    def predict(self, observations: Any, deterministic: bool = True) -> np.ndarray:
        """Actions ``[N, ...]`` for observations ``[N, ...]``, as the environment wants them.

        Raises:
            RuntimeError: The agent has not met an environment yet, so that it does not know
                what its outputs mean.
        """
        if self.policy is None:
            raise RuntimeError(
                "predict needs to know the environment: call fit or evaluate first, or use "
                'tfpg.Policy(model, "CartPole-v1").act(observations).'
            )
        return self.policy.act(observations, deterministic=deterministic)

    def policy_for(self, env: EnvLike) -> Policy:
        """The agent's model as a `Policy` for this environment."""
        spaces = spaces_of(env)
        for policy in self._policies:
            if (policy.observation_space, policy.action_space) == spaces:
                self.policy = policy
                return policy
        policy = Policy(self.model, env, **self._policy_options)
        if self._policies:  # what the head has learned is the agent's
            policy.share_head_variables(self._policies[0])
        self._policies.append(policy)
        self.policy = policy
        return policy

    def get_config(self) -> dict[str, Any]:
        """The options of the constructor, without its models and its head's, for a config file."""
        options = {name: getattr(self, name) for name in self.option_names}
        return {name: plain(x) for name, x in options.items()}

    def head_options(self) -> dict[str, Any]:
        """What a `Policy` of this agent's model has to be told beside its environment."""
        defaults = {"from_logits": None, "positive_action": 1, "squash": False}
        given = self._policy_options
        options = {name: given[name] for name, x in defaults.items() if given[name] != x}
        for policy in self._policies[:1]:
            for variable in policy.head.variables:
                options["log_std"] = variable.numpy().tolist()
        return options

    def save(self, path: str | os.PathLike) -> Path:
        """Saves the Keras model with its optimizer's state; see `tfpg.save_model`.

        A value model of its own is saved by itself (``value_model.save(path)``), and the log
        standard deviations that a head keeps beside the model are not: only sampling needs them.
        """
        return save_model(self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike, **options: Any) -> Agent:
        """An agent around a saved model; ``options`` are those of the constructor."""
        return cls(load_model(path), **options)

    def episode_logs(self, collector: Collector) -> dict[str, float]:
        if len(collector.episode_returns) < max(1, self.window // 10):
            return {}  # as Keras does with what it does not know
        return {
            "episode_return": float(np.mean(collector.episode_returns)),
            "episode_length": float(np.mean(collector.episode_lengths)),
        }
