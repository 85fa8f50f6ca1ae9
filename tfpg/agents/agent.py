"""The base class of all agents: `fit`, `evaluate`, `predict`, `save` and `load`, as in Keras."""

from __future__ import annotations

import abc
import inspect
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.agents.optimization import Trainable, compiled_in
from tfpg.core.backend import keras, scope_of
from tfpg.core.options import (
    WithOptions,
    as_json,
    check_names,
    checked,
    count,
    fraction,
    one_of,
    option,
    optional,
    options_of,
)
from tfpg.envs import EnvLike, Spaces, spaces_of
from tfpg.models.heads import QUANTILES
from tfpg.models.inspection import check_layers, noise_layers, state_shapes, warn_about_unused_loss
from tfpg.models.normalization import ObservationStatistics
from tfpg.models.policy import Policy, head_options_of, set_head_options
from tfpg.rollouts.trajectory import Trajectory, played_observations

if TYPE_CHECKING:
    from tfpg.checkpoints.manager import Checkpoints
    from tfpg.rollouts.collector import Collector
    from tfpg.rollouts.ray_workers import RayWorkers


_COMPILE = "The model has the optimizer: model.compile(optimizer=keras.optimizers.Adam(3e-4))."
_FIT_HINTS = {
    "epochs": "iterations",
    **dict.fromkeys(("steps", "total_timesteps", "timesteps"), "env_steps"),
    **dict.fromkeys(("callback", "cbs"), "callbacks"),
    "validation_data": "validation_envs",
}


class Agent(WithOptions, abc.ABC):
    """A Keras model and a way to train it.

    An algorithm is a subclass with options, `build`, `collect` and `update`. ``agent.model`` is
    the model that was passed in: plain Keras saves and loads it. If it is compiled, its optimizer
    is used; if not, it is compiled with `default_optimizer`.

    A pickle or a copy has the options and what was trained: the models with their optimizers, a
    free log standard deviation and the temperature of a `tfpg.SAC`. Its counters, such as
    ``env_steps``, start from 0, the scale of rewards is measured again, and a replay buffer is
    empty.

    Attributes:
        policy: The model as a `tfpg.Policy` for the last environment used, or None.
        env_steps: Environment steps that the agent has been trained for.
    """

    model: keras.Model = option(
        help="The policy, inputs [B, ...] -> outputs [B, K]. See `tfpg.models.observations` for "
        "the inputs and `tfpg.models.heads` for the outputs.",
        in_config=False,
        kw_only=False,
    )
    gamma: float = option(default=0.99, check=fraction, help="Discount factor, in [0, 1].")
    num_envs: int = option(
        default=8, check=count, help="Number of environments to step in parallel."
    )
    max_steps: int | None = option(
        default=None,
        check=optional(count),
        help="Cut off episodes after this many steps. None: only the environment's own limit "
        "applies.",
    )
    acting: str = option(
        default="auto",
        check=one_of("auto", "numpy", "tensorflow"),
        help="How actions are computed: 'numpy', 'tensorflow' or 'auto'. See `tfpg.Policy`.",
    )

    hints = MappingProxyType(
        {
            **dict.fromkeys(("learning_rate", "lr", "optimizer", "max_grad_norm"), _COMPILE),
            **dict.fromkeys(("seed", "verbose", "callbacks", "env_steps"), "Pass it to fit(...)."),
            "n_steps": "num_steps",
            "n_envs": "num_envs",
            "n_epochs": "epochs",
            "batch_size": "minibatches",
            "discount": "gamma",
            "ent_coef": "entropy_coef",
            "vf_coef": "value_coef",
            "clip_range": "clip_ratio",
            "clip_range_vf": "value_clip",
            "buffer_size": "capacity",
            "train_freq": "learn_period",
            "gradient_steps": "updates_per_learn",
            "target_update_interval": "target_update_period",
            "exploration_fraction": "epsilon",
        }
    )

    # Whether the algorithm needs a value function: a second output of the model, or a value_model.
    needs_value = False
    # The option that holds the second model, if there is one.
    second_model = "value_model"
    # Whether it trains noisy networks; see `tfpg.networks.mlp`.
    may_be_noisy = False
    # Whether it trains recurrent policies; see `tfpg.models.recurrent`.
    may_be_recurrent = False
    # Whether tfpg must do the resets: no environment may reset itself.
    manual_resets = False
    # The replay buffer of an agent that learns from one.
    replay = None
    # episode_return is the mean over at least this many of the last episodes. It is not logged
    # until a tenth of them has ended.
    window = 100

    # Whether rollouts in functional environments are compiled together with the updates.
    plays_in_tensors = False
    # The iterations that were compiled for a functional environment.
    compiled_iterations = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.models = [self._prepared(self.model)]
        known = self.known_support()
        same = self.support is not None and (known == QUANTILES) == (self.support == QUANTILES)
        if known is not None and not same:
            right = "tfpg.QRDQN" if known == QUANTILES else "tfpg.C51 or tfpg.Rainbow"
            raise ValueError(f"The model outputs distributions of returns: use {right}.")
        self.env_steps = 0
        self.policy: Policy | None = None
        self._trainable: Trainable | None = None
        self._statistics: list[ObservationStatistics]
        self._policies: list[tuple[Policy, dict[str, Any]]] = []  # with their options
        self._trained_policy: Policy | None = None
        self._compiled_for: Any = None
        self._built_for: Any = None
        self._verbose = 0

    def __reduce__(self) -> Any:
        """Support pickling and copying: keep only the options and what was trained."""
        options = {name: getattr(self, name) for name in options_of(type(self))}
        acts = self.head_options()  # a free log_std was trained
        options |= {x: acts[x] for x in acts if x in options and x != "epsilon"}
        models = {
            name: _model_bytes(value)
            for name, value in options.items()
            if isinstance(value, keras.Model)
        }
        return _rebuild, (type(self), {**options, **models}, list(models), acts)

    @staticmethod
    def default_optimizer() -> keras.optimizers.Optimizer:
        """Return the optimizer of a model that was not compiled."""
        return keras.optimizers.Adam(0.01)

    @abc.abstractmethod
    def build(self, policy: Policy) -> None:
        """Compile the update. `fit` calls this when the model or an option has changed."""

    @abc.abstractmethod
    def collect(self, collector: Collector, policy: Policy) -> Any:
        """Play, and return the data that `update` learns from."""

    @abc.abstractmethod
    def update(self, data: Any) -> dict[str, float]:
        """Learn from the data of an iteration, and return the metrics to log."""

    def fit(
        self,
        envs: EnvLike,
        iterations: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        seed: int | None = None,
        initial_iteration: int = 0,
        verbose: str | int = "auto",
        validation_envs: EnvLike | None = None,
        validation_freq: int = 10,
        validation_episodes: int = 10,
        checkpoints: str | os.PathLike | Checkpoints | None = None,
        *,
        env_steps: int | None = None,
        validation_env_steps: int | None = None,
        workers: int | RayWorkers | None = None,
        **unknown: Any,
    ) -> keras.callbacks.History:
        """Train: collect and update, until ``iterations`` or ``env_steps`` are reached.

        An iteration is a Keras epoch, so stock Keras callbacks work: monitor
        ``"episode_return"`` or ``"val_episode_return"`` with ``mode="max"``.

        Args:
            envs: An environment id, an environment, a vector environment, or a callable that
                makes an environment. Environments made here are closed here.
            iterations: Iterations in total, like Keras's ``epochs``. With ``initial_iteration`` or
                a checkpoint, those already made count. None: as many as ``env_steps`` allows.
            callbacks: Keras callbacks. Their ``model`` is the Keras model.
            seed: The random seed of the run. The same seed, initial weights and machine give the
                same trained weights. None: a random one.
            initial_iteration: The first iteration, to continue an earlier run.
            verbose: 0 for silence, 2 for a line per iteration, 1 or ``"auto"`` for a progress bar
                in a terminal or notebook and a line every two seconds elsewhere. See
                `tfpg.callbacks.ProgressBar`.
            validation_envs: Environments in which the greedy policy is evaluated during training.
                None: no validation.
            validation_freq: Number of iterations between validations. There is one after the last
                iteration, too.
            validation_episodes: Number of episodes in each validation. They differ between
                validations.
            checkpoints: A folder or `tfpg.Checkpoints`. Everything is saved there every ten
                seconds and at the end. If the folder already has a checkpoint, the run resumes
                from it, bit for bit. With checkpoints, Ctrl-C and SIGTERM wait until the iteration
                has ended and a checkpoint is saved.
            env_steps: Environment steps in total, earlier calls of `fit` included. Training stops
                when another iteration would exceed them, but makes at least one, after the random
                play of a `tfpg.DQN` or `tfpg.SAC`. None: no limit.
            validation_env_steps: Number of environment steps between validations, instead of
                ``validation_freq``.
            workers: Number of processes that step the environments, or `tfpg.RayWorkers`, which
                play on this machine or in a cluster. For an id or a callable whose environments are
                slow; the result does not depend on the number. None: only this process.
            **unknown: Anything else raises an error.

        Returns:
            A Keras `History` with a number for every iteration in
            ``history.history["episode_return"]`` and so on. ``episode_return`` and
            ``episode_length`` are means over the episodes that ended in the iteration, plus
            earlier ones if fewer than the agent's ``window`` ended. They are missing until a
            tenth of the window is filled. ``env_steps`` counts the environment steps so far.
            ``val_episode_return`` and ``val_episode_length`` have one number per validation, and
            ``val_env_steps`` the environment steps before it.

        Raises:
            TypeError: An argument is unknown, or both ``iterations`` and ``env_steps`` are missing.
            ValueError: The model does not fit the environment, an argument is out of range, or the
                checkpoint belongs to a different run.
            tfpg.errors.EnvDataError: An environment returned NaN or infinity.
            FloatingPointError: The model's outputs or the loss are not finite, or the gradients
                of many updates in a row. The update was not applied. A single gradient that is
                not finite is skipped with a warning, with the rest of the iteration's updates.
            CheckpointCorruptError: No checkpoint in the folder is intact.
            OSError: The last checkpoint could not be written.

        Note:
            Keras's `BackupAndRestore` restores only ``agent.model`` and the iteration: no value
            model, no replay buffer, no ``env_steps``. ``checkpoints`` restores everything.
        """
        from tfpg.agents.training import fit
        from tfpg.callbacks.progress_bar import resolve_verbose

        names = inspect.signature(self.fit).parameters
        check_names(unknown, names, "argument of fit", _FIT_HINTS, TypeError)
        if iterations is None and env_steps is None:
            raise TypeError(
                "fit needs iterations=... or env_steps=..., the length of the training."
            )
        self.check_options()
        self._verbose = resolve_verbose(verbose)
        return fit(
            self,
            envs,
            checked("iterations", iterations, optional(count)),
            env_steps=checked("env_steps", env_steps, optional(count)),
            callbacks=callbacks,
            seed=seed,
            initial_iteration=initial_iteration,
            verbose=self._verbose,
            validation_envs=validation_envs,
            validation_freq=checked("validation_freq", validation_freq, count),
            validation_env_steps=checked(
                "validation_env_steps", validation_env_steps, optional(count)
            ),
            validation_episodes=checked("validation_episodes", validation_episodes, count),
            checkpoints=checkpoints,
            workers=workers,
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("learn", "train"):
            raise AttributeError(f"To train a {type(self).__name__}, call fit(env, env_steps=...).")
        return self.__getattribute__(name)  # raises the original error, also that of a property

    def evaluate(
        self,
        envs: EnvLike,
        episodes: int = 10,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Return the returns and lengths of whole episodes. See `tfpg.evaluate`."""
        from tfpg.rollouts.evaluation import evaluate

        return evaluate(
            self, envs, episodes, deterministic=deterministic, seed=seed, max_steps=self.max_steps
        )

    def predict(self, observations: Any, deterministic: bool = True) -> np.ndarray:
        """Return the actions ``[N, ...]`` for observations ``[N, ...]``.

        Args:
            observations: A batch of observations as the environment returns them.
            deterministic: Whether to take the most probable action instead of a sample.

        Raises:
            RuntimeError: The agent has not seen an environment yet.
        """
        if self.policy is None:
            raise RuntimeError(
                "The agent has not seen an environment yet: call fit or evaluate first, or use "
                'tfpg.Policy(model, "CartPole-v1").act(observations).'
            )
        return self.policy.act(observations, deterministic=deterministic)

    def policy_for(self, env: EnvLike | Spaces) -> Policy:
        """Return the agent's model as a `tfpg.Policy` for an environment."""
        spaces, options = spaces_of(env), self.policy_options()
        lasting = {name: x for name, x in options.items() if name != "epsilon"}
        for policy, theirs in self._policies:
            if policy.env_spaces == spaces and theirs == lasting:
                break
        else:
            self.check_options()
            policy = Policy(self.model, spaces, **options)
            if self._policies:  # a free log standard deviation belongs to the agent
                policy.share_head_variables(self._policies[0][0])
            self._policies.append((policy, lasting))
        self.policy = policy
        set_head_options(self.model, self.head_options())
        return policy

    def save(self, path: str | os.PathLike) -> Path:
        """Save the Keras model and its optimizer's state to a ``.keras`` file.

        The file also holds how the agent acts with the model's outputs, for `tfpg.load_model`.
        A critic or value model is saved separately: ``tfpg.save_model(agent.critic, path)``.
        """
        from tfpg.models.saving import save_model

        set_head_options(self.model, self.head_options())
        return save_model(self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike, **options: Any) -> Agent:
        """Return an agent with the given options and the model from a ``.keras`` file."""
        from tfpg.models.saving import load_model

        return cls(load_model(path), **options)

    def get_config(self) -> dict[str, Any]:
        """Return the agent's options without its models, in a form that JSON can hold."""
        return {
            name: as_json(getattr(self, name))
            for name, each in options_of(type(self)).items()
            if each.in_config
        }

    def prepare(self, policy: Policy) -> None:
        """Get ready to train a policy: check the options, and compile what has changed."""
        self.check_options()
        self._trained_policy = policy
        models = (policy, *map(compiled_in, self.models))
        if self._compiled_for != models:
            second = next(iter(self.models[1:]), None)
            self._trainable = Trainable(policy, second, self.own_variables, self.second_model)
            self._statistics = [
                ObservationStatistics(model, self.observed_inputs(model)) for model in self.models
            ]
            self._compiled_for, self._built_for = models, None
        for each in self._statistics:
            each.recount()
        options = self.get_config()
        if self._built_for != options:
            self.build(policy)
            self._built_for = options

    def finish(self) -> None:
        """End a training: leave the model as it is to be used."""
        self.trainable.finalize()
        for each in self._statistics:
            each.mark()
        set_head_options(self.model, self.head_options())

    @property
    def own_variables(self) -> Sequence[Any]:
        """Trained variables that belong neither to a model nor to the head."""
        return ()

    @property
    def trainable(self) -> Trainable:
        """The variables and optimizers of an update.

        Raises:
            RuntimeError: `prepare` has not been called yet.
        """
        if self._trainable is None:
            raise RuntimeError("The agent is not ready to learn: call fit, or prepare first.")
        return self._trainable

    @property
    def trained_policy(self) -> Policy:
        """The policy that `prepare` was called with.

        Raises:
            RuntimeError: It has not been called yet.
        """
        if self._trained_policy is None:
            raise RuntimeError("The agent is not ready to learn: call fit, or prepare first.")
        return self._trained_policy

    def first_numbers(self, iteration: int) -> tuple[int, int]:
        """Return the numbers of the first episode and the first fragment of an iteration.

        Random numbers are derived from them, and must not repeat those of earlier iterations.
        """
        return 0, 0

    def most_env_steps(self, iterations: int, num_envs: int) -> int | None:
        """Return how many environment steps iterations take at most. None: it is not known."""
        return None

    def begin(self, collector: Collector, policy: Policy) -> None:
        """Get ready for the episodes of a collector, before anything is played or restored."""

    def warm_up(self, collector: Collector, policy: Policy) -> None:
        """Play before the first iteration, unless the run resumes."""

    def iterate(self, collector: Collector, policy: Policy) -> dict[str, float]:
        """Collect and update once, and return the metrics to log.

        `tfpg.agents.off_policy.OffPolicy` overrides this. `fit` adds the metrics of all algorithms.
        """
        before = self.env_steps - collector.steps
        data = self.collect(collector, policy)
        self.env_steps = before + collector.steps
        try:
            logs = {"env_steps": self.env_steps, **self.update(data)}
        except FloatingPointError as error:
            error.data = data  # type: ignore[attr-defined]
            raise
        if isinstance(data, Trajectory):
            self.update_statistics([data], policy)
        return logs

    def forget_weights(self) -> None:
        """Read the model's weights again before acting: other code may have changed them."""

    @property
    def has_statistics(self) -> bool:
        """Whether a model has running statistics of observations."""
        return any(each.layers for each in self._statistics)

    def observed_inputs(self, model: keras.Model) -> Any:
        """Return the part of ``model.input`` that holds observations. None: all of it."""
        return None

    def update_statistics(self, fragments: Sequence[Trajectory], policy: Policy) -> None:
        """Update the running statistics of observations in the models."""
        if fragments and self.has_statistics:
            inputs = policy.encode(played_observations(fragments))
            for each in self._statistics:
                each.update(inputs)
            self.forget_weights()

    @property
    def has_own_loop(self) -> bool:
        """Whether a subclass outside tfpg overrides how the agent plays or learns."""
        methods = (getattr(type(self), name) for name in ("collect", "update", "iterate"))
        return not all(method.__module__.startswith("tfpg.") for method in methods)

    def get_state(self) -> dict[str, Any]:
        """Return all state of the training, except the replay buffer, as values and arrays."""
        from tfpg.agents.resume import variables_state

        return {
            "env_steps": self.env_steps,
            "variables": variables_state(self.variables()),
            "statistics": [[np.asarray(x) for x in each.batches] for each in self._statistics],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise an error unless the state comes from an agent like this one.

        Raises:
            ValueError: The variables differ.
        """
        from tfpg.agents.resume import check_variables

        check_variables(self.variables(), state["variables"])

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of an agent like this one.

        Raises:
            ValueError: The variables differ.
        """
        from tfpg.agents.resume import assign_variables

        assign_variables(self.variables(), state["variables"])
        for each, saved in zip(self._statistics, state["statistics"], strict=True):
            each.batches = [np.asarray(x) for x in saved]
            each.mark()
        self.env_steps = state["env_steps"]

    def variables(self) -> dict[str, Sequence[Any]]:
        """Return all variables that training assigns, grouped by their owners."""
        groups: dict[str, Sequence[Any]] = {
            "model": list(self.model.variables),  # the seeds of random layers included
            "head": list(self.trained_policy.head.variables),
        }
        for model in self.models[1:]:
            groups[self.second_model.replace("_", " ")] = list(model.variables)
        if self.own_variables:
            groups["agent"] = list(self.own_variables)
        for i, (optimizer, _) in enumerate(self.trainable.groups):
            groups[f"optimizer {i}" if i else "optimizer"] = list(optimizer.variables)
        return groups

    def restart_episodes(self, which: np.ndarray) -> None:
        """Forget the episodes of environments ``[N]`` bool, which could not be restored."""

    @property
    def support(self) -> str | tuple[float, float] | None:
        """What the outputs of a Q-network are: the ``support`` of `tfpg.Policy`. None: values."""
        return None

    def known_support(self) -> Any:
        """Return `support` as the model was trained before, or None."""
        is_model = isinstance(self.model, keras.Model)
        return head_options_of(self.model).get("support") if is_model else None

    def policy_options(self) -> dict[str, Any]:
        """Return the arguments of the agent's `tfpg.Policy`."""
        return {"acting": self.acting}

    def head_options(self) -> dict[str, Any]:
        """Return the arguments of a `tfpg.Policy` that plays as the trained agent does."""
        return {}

    def episode_logs(self, collector: Collector) -> dict[str, float]:
        """Return the mean return and length of the last episodes, if enough have ended."""
        count = len(collector.episode_returns)
        if count < max(1, self.window // 10):
            return {}
        return {
            "episode_return": sum(collector.episode_returns) / count,
            "episode_length": sum(collector.episode_lengths) / count,
        }

    def _prepared(self, model: keras.Model) -> keras.Model:
        """Check a model, and compile it if necessary."""
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"{type(self).__name__} needs a Keras model, such as one of tfpg.networks, but got "
                f"{model!r:.80}."
            )
        check_layers(model, noise_layers(model) if self.may_be_noisy else ())
        if (states := state_shapes(model)) and not self.may_be_recurrent:
            raise ValueError(
                f"{type(self).__name__} cannot train recurrent policies, but the model has the "
                f"state {next(iter(states))!r}. Use tfpg.PPO, tfpg.A2C or "
                "tfpg.Reinforce."
            )
        if getattr(model, "optimizer", None) is None:
            with scope_of(model.variables):
                model.compile(optimizer=self.default_optimizer())
        warn_about_unused_loss(model)
        return model


def _model_bytes(model: keras.Model) -> bytes:
    from tfpg.models.saving import save_model

    with tempfile.TemporaryDirectory() as folder:
        return save_model(model, Path(folder) / "model.keras").read_bytes()


def _rebuild(
    agent: type[Agent], options: dict[str, Any], models: Sequence[str], acts: dict[str, Any]
) -> Agent:
    from tfpg.models.saving import quiet_about_new_optimizers

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        for name in models:
            path.write_bytes(options[name])
            with quiet_about_new_optimizers():
                options[name] = keras.saving.load_model(path)
    set_head_options(options["model"], acts)
    return agent(**options)
