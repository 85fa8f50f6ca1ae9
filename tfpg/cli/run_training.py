"""Training in a run folder, as ``tfpg train`` and ``tfpg resume`` do it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tfpg
from tfpg.agents import presets
from tfpg.checkpoints.store import Store
from tfpg.cli.reporting import message
from tfpg.cli.values import dashed
from tfpg.core import signals
from tfpg.core.backend import keras, start_tensorflow
from tfpg.core.messages import number, show, warn
from tfpg.core.seeding import check_seed
from tfpg.envs import Spaces, open_vec, spaces_of
from tfpg.models.saving import critic_path, load_model, save_model
from tfpg.results.run_config import RunConfig, update_config
from tfpg.sharing import runs

VALIDATIONS = 20  # during the training


class Training:
    """Training in a run folder.

    Args:
        command: A `tfpg.cli.train_command.Train`.
        folder: The run folder.
        resuming: Whether it already holds this training run.
    """

    def __init__(self, command: Any, folder: Path, resuming: bool):
        self.command, self.folder, self.resuming = command, folder, resuming
        head: dict[str, Any] = {}
        self.source = None
        self.given: tuple[Path | None, ...] = (None, None)  # the files of a model and its critic
        if command.model is not None:
            copy = folder / runs.START
            given = copy if resuming and copy.exists() else command.model
            self.source = runs.find_model(given, command.env)
            self.given = self.source.model, self.source.critic_for(command.algorithm)
            head = presets.continued_head(self.source.head, command.algorithm)
        start_tensorflow()
        skew = command.allow_version_skew
        model, critic = (path and load_model(path, allow_version_skew=skew) for path in self.given)
        command.seed = check_seed(command.seed)
        self.preset = preset_of(command)
        self.iterations = command.iterations or presets.iterations_of(self.preset)
        self.spaces = _spaces(command)
        self.agent = presets.make(
            command.algorithm,
            self.spaces,
            command.seed,
            preset=self.preset,
            iterations=self.iterations,
            model=model,
            critic=critic,
            learning_rate=command.learning_rate,
            **{**head, **command.agent_options},
        )
        self.agent.policy_for(self.spaces)

    def run(self) -> None:
        """Train, and save the run."""
        command, folder = self.command, self.folder
        with runs.resumed_run(folder) if self.resuming else runs.new_run(folder):
            if not self.resuming:
                copies = folder / runs.START, critic_path(folder / runs.START)
                for path, copy in zip(self.given, copies, strict=True):
                    if path is not None:
                        shutil.copyfile(path, copy)
                self.warn_about_new_critic()
                self.config().write(folder)
            else:
                runs.unfinished_command(folder)  # another process may have finished it
            if self.resuming and not self.has_checkpoint():
                warn(
                    f"There is no checkpoint in {str(folder / runs.CHECKPOINTS)!r}: training "
                    "starts from scratch."
                )
                shutil.rmtree(folder / runs.TENSORBOARD, ignore_errors=True)
            history = self.fit()
            self.save(folder / runs.LAST)
            if not (folder / runs.MODEL).exists():  # no mean return was known
                self.save(folder / runs.MODEL)
            # A free log standard deviation was trained.
            update_config(folder, head=self.agent.head_options())
            self.report(history.history)
            if command.video:
                self.record()
            update_config(folder, finished=True)

    def save(self, path: Path) -> None:
        """Save the model, and the critic or value model next to it."""
        self.agent.save(path)
        for critic in self.agent.models[1:2]:
            save_model(critic, critic_path(path))

    def warn_about_new_critic(self) -> None:
        """Warn if a trained policy has no trained critic."""
        model, critic = self.given
        if model is not None and critic is None and self.agent.models[1:]:
            name = self.agent.second_model.replace("_", " ")
            warn(
                f"{str(self.command.model)!r} has no {name} for {self.command.algorithm}: it is a "
                "new one, and the policy may get worse before it improves."
            )

    def config(self) -> RunConfig:
        """Return the entries of ``config.json`` about the training run."""
        command, preset, agent = self.command, self.preset, self.agent
        kind = {"architecture": preset.architecture} if preset.architecture else {}
        network = {**kind, **preset.network}
        measured = (command.algorithm, command.env) in presets.PRESETS
        return RunConfig(
            command=command.text,
            algorithm=command.algorithm,
            env=command.env,
            seed=command.seed,
            preset=f"{command.algorithm}/{command.env}" if measured else None,
            iterations=self.iterations,
            env_steps=None if command.iterations else preset.env_steps,
            network={"model": str(command.model)} if self.source else network,
            critic=preset.critic if len(agent.models) > 1 else None,
            optimizer=keras.optimizers.serialize(agent.model.optimizer),
            options=agent.get_config(),
            head=agent.head_options(),
            validation_episodes=command.validation_episodes,
        )

    def fit(self) -> Any:
        """Train, and return the history. Write the best model even if the training stops."""
        from tfpg.callbacks.best import KeepBest
        from tfpg.checkpoints.manager import Checkpoints

        command = self.command
        best = KeepBest(self.folder / runs.MODEL, *self.agent.models[1:2])
        every = command.validation_env_steps
        if every is None:
            every = max(self.preset.env_steps // VALIDATIONS, 1)
        try:
            with self.environments() as envs:
                return self.agent.fit(
                    envs,
                    iterations=self.iterations,
                    seed=command.seed,
                    verbose=command.verbose,
                    callbacks=self.callbacks(best),
                    env_steps=None if command.iterations else self.preset.env_steps,
                    validation_envs=command.env if every else None,
                    validation_env_steps=every or None,
                    validation_episodes=command.validation_episodes,
                    checkpoints=Checkpoints(
                        self.folder / runs.CHECKPOINTS,
                        command.checkpoint_every,
                        allow_version_skew=command.allow_version_skew,
                    ),
                    workers=self.ray_workers(),
                )
        except BaseException as error:
            self.report_stop(error)
            raise
        finally:
            best.write()

    @contextmanager
    def environments(self) -> Iterator[Any]:
        """Yield the environment id, or environments in workers or that survive errors."""
        command = self.command
        in_process = command.workers is None and command.on_env_error == "raise"
        if in_process or command.ray_workers is not None:
            yield command.env
            return
        with open_vec(
            command.env,
            self.agent.num_envs,
            manual_resets=True,
            workers=command.workers,
            timeout=command.worker_timeout,
            on_env_error=command.on_env_error,
        ) as envs:
            yield envs

    def ray_workers(self) -> Any:
        """Return the Ray workers, or None."""
        command = self.command
        if command.ray_workers is None:
            return None
        return tfpg.RayWorkers(
            command.ray_workers,
            command.ray_address,
            timeout=command.worker_timeout,
            on_env_error=command.on_env_error,
        )

    def callbacks(self, best: Any) -> list[Any]:
        """Return the callbacks, ``best`` among them."""
        from tfpg.callbacks.metrics import MetricsLogger
        from tfpg.callbacks.stopping import StopAtReturn
        from tfpg.callbacks.tensorboard import TensorBoard
        from tfpg.callbacks.videos import RecordVideo, Snapshots

        command, folder = self.command, self.folder

        def update_command(logs: Any = None) -> None:
            # Not before it is known that the run can be resumed.
            update_config(folder, command=command.text)

        found = [
            keras.callbacks.LambdaCallback(on_train_begin=update_command),
            MetricsLogger(folder / runs.METRICS),
            best,
        ]
        if command.snapshots:
            found.append(Snapshots(folder / runs.SNAPSHOTS, command.snapshots))
        video = None
        if command.video_at:
            options = {"seed": command.seed, "max_steps": self.agent.max_steps}
            video = RecordVideo(folder / runs.VIDEOS, command.env, command.video_at, **options)
            found.append(video)
        if command.tensorboard:
            found.append(TensorBoard(folder / runs.TENSORBOARD, video))
        if command.stop_at is not None:
            found.append(StopAtReturn(command.stop_at))
        return found

    def has_checkpoint(self) -> bool:
        return bool(Store(self.folder / runs.CHECKPOINTS).steps())

    def report_stop(self, error: BaseException) -> None:
        """Print how to resume a run that was stopped by a signal or an error."""
        history = getattr(self.agent.model, "history", None)
        done = len(history.epoch) if history is not None else 0
        if not self.has_checkpoint():
            return
        if isinstance(error, (KeyboardInterrupt, signals.Terminated)):
            text = f"Stopped after iteration {done}. To resume:"
        elif done and isinstance(error, Exception):
            text = "The last checkpoint is saved. To resume from it:"
        else:
            return
        show(f"\n{text} tfpg resume {self.folder}", sys.stderr)

    def report(self, history: Mapping[str, list[float]]) -> None:
        """Draw the learning curve, and print the result and where the files are."""
        folder = self.folder
        returns, steps = history.get("episode_return", []), f"{self.agent.env_steps:,}"
        if returns or "val_episode_return" in history:
            tfpg.plot(folder, folder / runs.CURVE)
        if returns:
            best = max(range(len(returns)), key=lambda i: (returns[i], i))
            iteration = best + 1 + len(history["env_steps"]) - len(returns)
            show(
                f"Best mean return {number(returns[best])}, in iteration {iteration}; last "
                f"{number(returns[-1])}; {steps} environment steps."
            )
        else:
            show(f"No mean return: too few episodes ended in {steps} environment steps.")
        for name, file in (
            ("best model", runs.MODEL),
            ("last model", runs.LAST),
            ("metrics", runs.METRICS),
            ("learning curve", runs.CURVE),
            ("config", runs.CONFIG),
        ):
            if (folder / file).exists():
                show(f"  {name:15}{folder / file}")

    def record(self) -> None:
        """Record a video of the best model."""
        env, out = self.command.env, self.folder / runs.VIDEO
        model = load_model(self.folder / runs.MODEL)
        policy = tfpg.Policy(model, self.spaces)
        seed, max_steps = self.command.seed, self.agent.max_steps
        video = tfpg.record(policy, env, out, seed=seed, max_steps=max_steps)
        show(f"  {'video':15}{out}  ({video.frames} frames)")


def preset_of(command: Any) -> presets.Preset:
    """Return the preset of an algorithm and an environment, changed by the options given."""
    preset = presets.find(command.algorithm, command.env)
    options = {**preset.options, **command.agent_options}
    given = command.network()
    network = {**preset.network, **given}
    architecture = preset.architecture
    if command.dueling is not None and architecture in (None, "mlp", "dueling"):
        architecture = "dueling" if command.dueling else None
        network = {**presets.LIKE_DUELING, **network}
    elif command.dueling is not None:
        network["dueling"] = command.dueling
    if architecture == "nature_cnn":
        network = nature_cnn_network(network)
    critic = preset.critic
    if command.recurrent is not None:
        architecture, network["units"] = "recurrent", command.recurrent
        critic = None  # the value is an output of the policy
        network.pop("shared", None)  # as it always is after the cell
    if command.model:
        options = {**presets.continued(options), **command.agent_options}
    if critic is not None:
        names = ("hidden", "activation", "normalize", "layer_norm")
        critic = {**critic, **{x: given[x] for x in names if x in given}}
    preset = preset._replace(
        options=options, network=network, architecture=architecture, critic=critic
    )
    if command.env_steps:
        preset = presets.with_budget(preset, command.env_steps)
    if command.learning_rate:
        preset = preset._replace(learning_rate=command.learning_rate)
    return preset


def nature_cnn_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `tfpg.networks.nature_cnn` for the given network options.

    Raises:
        ValueError: An option is for dense networks only.

    Example:
        >>> nature_cnn_network({"hidden": (256,)})
        {'hidden': 256}
    """
    for name in ("activation", "normalize", "layer_norm"):
        if name in network:
            raise ValueError(
                f"{dashed(name)} is for dense networks, and Atari games use nature_cnn: leave it "
                "out."
            )
    hidden = network.get("hidden")
    if hidden is None:
        return dict(network)
    if len(hidden) != 1:
        raise ValueError(
            "--hidden takes one number for nature_cnn, the units of its dense layer, got "
            f"{len(hidden)}."
        )
    return {**network, "hidden": hidden[0]}


def _spaces(command: Any) -> Spaces:
    """The spaces of the environment, from one that can render if there are going to be videos."""
    env_id = command.env
    if not (command.video or command.video_at):
        return spaces_of(env_id)
    from tfpg.video.render_env import open_render_env

    try:
        with open_render_env(env_id) as env:
            return spaces_of(env)
    except Exception as error:
        spaces_of(env_id)  # raises an error if it is not about rendering
        raise RuntimeError(
            f"No video of {env_id} can be recorded: {message(error)} (--no-video trains without "
            "one)"
        ) from error
