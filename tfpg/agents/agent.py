"""The shell of every agent: `fit`, `evaluate`, `predict`, `save` and `load`, as in Keras."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.callbacks import ProgressBar, resolve_verbose
from tfpg.checkpoint import load_model, save_model
from tfpg.collector import Collector
from tfpg.envs import EnvLike, open_vec, spaces_of
from tfpg.evaluation import check_count, evaluate
from tfpg.ops.returns import check_gamma
from tfpg.policy import Policy
from tfpg.requirements import check_layers
from tfpg.seeding import check_seed
from tfpg.types import Trajectory


class Agent(abc.ABC):
    """A Keras model and a way to train it. An algorithm is a subclass with `build` and `update`.

    ``agent.model`` is the very model that was given: plain Keras saves and loads it. It is
    compiled, and its optimizer is the optimizer; a model that is not gets ``Adam(0.01)``.

    Args:
        model: The policy, ``observations [B, ...] -> [B, K]``; see `tfpg.heads` for what K
            may be.
        gamma: Discount factor, in [0, 1].
        episodes_per_update: Episodes played before every update, at least 1.
        max_steps: Where an episode is cut. None: the environment's own limit.
        num_envs: How many environments play side by side. None: ``episodes_per_update``.
        from_logits: See `tfpg.heads.head_for`.
        positive_action: See `tfpg.heads.head_for`.
        acting: See `tfpg.Policy`.

    Raises:
        TypeError: ``model`` is not a Keras model.
        ValueError: A number is out of its range, or a layer does not suit (see
            `tfpg.policy.check_layers`).
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.99,
        episodes_per_update: int = 32,
        max_steps: int | None = None,
        num_envs: int | None = None,
        from_logits: bool | None = None,
        positive_action: int = 1,
        acting: str = "auto",
    ):
        if not isinstance(model, keras.Model):
            raise TypeError(f"Expected a keras.Model, and got {type(model).__name__}.")
        check_layers(model)
        self.model = model
        self.gamma = check_gamma(gamma)
        self.episodes_per_update = check_count("episodes_per_update", episodes_per_update)
        self.max_steps = None if max_steps is None else check_count("max_steps", max_steps)
        self.num_envs = (
            self.episodes_per_update if num_envs is None else check_count("num_envs", num_envs)
        )
        self.env_steps = 0
        self._policy_options: dict[str, Any] = {
            "from_logits": from_logits,
            "positive_action": positive_action,
            "acting": acting,
        }
        self.policy: Policy | None = None
        if getattr(model, "optimizer", None) is None:
            model.compile(optimizer=keras.optimizers.Adam(0.01))

    @abc.abstractmethod
    def update(self, data: Trajectory) -> dict[str, float]:
        """The algorithm: learns from the data once, and returns the logs of the update."""

    def fit(
        self,
        envs: EnvLike,
        iterations: int,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        seed: int | None = None,
        initial_iteration: int = 0,
        verbose: str | int = "auto",
    ) -> keras.callbacks.History:
        """Trains: plays a batch of episodes and updates, ``iterations`` times.

        An iteration is a Keras epoch, so stock Keras callbacks work: monitor
        ``"episode_return"`` with ``mode="max"``.

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

        Returns:
            A Keras `History`: ``history.history["episode_return"]`` and so on, a number for
            every iteration. ``episode_return`` and ``episode_length`` are means over the
            episodes, ``env_steps`` counts all environment steps so far.

        Raises:
            ValueError: The model does not fit the environment, or an argument is out of range.
            FloatingPointError: The model's outputs, the loss or a gradient are not finite.
                The update that met them was not applied.
        """
        iterations = check_count("iterations", iterations)
        seed = check_seed(seed)
        verbose = resolve_verbose(verbose)
        with open_vec(envs, self.num_envs) as vector_envs:
            policy = self.policy_for(vector_envs)
            self.build(policy)
            callback_list = keras.callbacks.CallbackList(
                [*_as_list(callbacks), *_progress_bar(callbacks)],
                add_history=True,
                model=self.model,
                epochs=iterations,
                steps=1,
                verbose=verbose,
            )
            self.model.stop_training = False
            self.model._initial_epoch = None
            logs: dict[str, float] = {}
            callback_list.on_train_begin()
            # Where Keras's BackupAndRestore says to go on.
            first = getattr(self.model, "_initial_epoch", None) or initial_iteration
            collector = Collector(vector_envs, seed, episode=first * self.episodes_per_update)
            for iteration in range(first, iterations):
                callback_list.on_epoch_begin(iteration)
                callback_list.on_train_batch_begin(0)
                trajectory = collector.collect_episodes(
                    policy, self.episodes_per_update, self.max_steps
                )
                self.env_steps += int(trajectory.mask.sum())
                logs = {
                    "episode_return": float(trajectory.rewards.sum(axis=0).mean()),
                    "episode_length": float(trajectory.mask.sum(axis=0).mean()),
                    "env_steps": self.env_steps,
                    **self.update(trajectory),
                }
                callback_list.on_train_batch_end(0, logs)
                callback_list.on_epoch_end(iteration, logs)
                if self.model.stop_training:
                    break
            self.model.optimizer.finalize_variable_values(self.model.trainable_weights)
            callback_list.on_train_end(logs)
        return self.model.history

    @abc.abstractmethod
    def build(self, policy: Policy) -> None:
        """Compiles what `update` needs for this policy. Called by `fit` before it plays."""

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

    def predict(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
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
        policy = self.policy
        if policy is None or (policy.observation_space, policy.action_space) != spaces:
            policy = self.policy = Policy(self.model, env, **self._policy_options)
        return policy

    def save(self, path: str | os.PathLike) -> Path:
        """Saves the Keras model with its optimizer's state; see `tfpg.checkpoint.save_model`."""
        return save_model(self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike, **options: Any) -> Agent:
        """An agent around a saved model; ``options`` are those of the constructor."""
        return cls(load_model(path), **options)


def _as_list(callbacks: Any) -> list:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _progress_bar(callbacks: Any) -> list[ProgressBar]:
    given = any(isinstance(c, keras.callbacks.ProgbarLogger) for c in _as_list(callbacks))
    return [] if given else [ProgressBar()]
