"""Callbacks that record or save the model at chosen iterations. See `tfpg.callbacks`."""

from __future__ import annotations

import abc
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from tfpg.core.backend import keras
from tfpg.core.messages import one_line, warn
from tfpg.core.options import checked, count
from tfpg.envs import EnvLike, render_modes
from tfpg.models.policy import Policy
from tfpg.models.saving import save_model
from tfpg.video.drawing import DrawingOptions
from tfpg.video.record import Recording, record
from tfpg.video.writer import check_suffix


class _AtIterations(keras.callbacks.Callback, abc.ABC):
    """Writes a file after chosen iterations."""

    def __init__(self, path: str | os.PathLike, at: int | Sequence[int], every: int | None):
        super().__init__()
        self.path = str(path)
        self.at = (at,) if isinstance(at, int) else tuple(at)
        self.every = None if every is None else checked("every", every, count)
        if not self.at and every is None:
            raise ValueError("Choose iterations: at=(0, 20, 80), or every=20.")
        if self.path_of(0) == self.path_of(1) and (len(self.at) > 1 or every is not None):
            raise ValueError(
                f"{self.path!r} is the same file for all iterations: put {{iteration}} into it, as "
                "in 'iteration-{iteration}'."
            )

    def path_of(self, iteration: int) -> Path:
        """Return the path of the file written after an iteration."""
        try:
            return Path(self.path.format(iteration=iteration))
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{self.path!r} is not a valid pattern: {{iteration}} is its only placeholder."
            ) from error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            self._write_if_chosen(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write_if_chosen(epoch + 1)

    def _write_if_chosen(self, iteration: int) -> None:
        is_due = self.every is not None and iteration % self.every == 0
        if is_due or iteration in self.at:
            self.write(iteration)

    @abc.abstractmethod
    def write(self, iteration: int) -> None:
        """Write the file of an iteration."""


class Snapshots(_AtIterations):
    """Saves the model after chosen iterations, for videos of how it learned.

    Args:
        path: Path of the files, with ``{iteration}`` in it, ending in ``.keras``. Missing folders
            are created.
        at: Numbers of iterations after which to save; 0 is before the first.
        every: Also save whenever this many iterations have passed.

    Raises:
        ValueError: ``path`` is not a valid pattern, or neither ``at`` nor ``every`` is given.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     snapshots = Snapshots(f"{folder}/iteration-{{iteration}}.keras", at=(0, 2))
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 2, callbacks=[snapshots], verbose=0)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['iteration-0.keras', 'iteration-2.keras']
    """

    def __init__(
        self, path: str | os.PathLike, at: int | Sequence[int] = (), every: int | None = None
    ):
        super().__init__(path, at, every)
        if self.path_of(0).suffix != ".keras":
            raise ValueError(f"Expected a path ending in .keras, but got {str(path)!r}.")

    def write(self, iteration: int) -> None:
        path = self.path_of(iteration)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(self.model, path)


class RecordVideo(_AtIterations):
    """Records the model after chosen iterations, in separate environments.

    The videos are those of `tfpg.record`. They do not affect training. If a recording fails,
    tfpg warns and training continues. Only a display that dies while a window is recorded ends
    the process.

    Args:
        path: Path of the videos, with ``{iteration}`` in it. Missing folders are created.
        env: The environment to play in: an id, or a callable that makes one.
        at: Numbers of iterations after which to record; 0 is before the first.
        every: Also record whenever this many iterations have passed.
        seed: Seed of the episodes, which are the same in every video.
        **options: Options of `tfpg.record`, such as ``overlay`` or ``max_steps``.

    Attributes:
        recordings: The `Recording` of each iteration, as returned by `tfpg.record`.

    Raises:
        ValueError: ``path`` is not a valid pattern, neither ``at`` nor ``every`` is given, ``env``
            is an environment itself or an unknown id, or an option is invalid.
        TypeError: `tfpg.record` has no such option.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video = RecordVideo(f"{folder}/{{iteration}}.gif", "CartPole-v1", at=(0, 2))
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 2, callbacks=[video], verbose=0)
        >>> sorted(video.recordings)
        [0, 2]
    """

    def __init__(
        self,
        path: str | os.PathLike,
        env: EnvLike,
        at: int | Sequence[int] = (),
        every: int | None = None,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(path, at, every)
        check_suffix(self.path_of(0))
        if isinstance(env, (gymnasium.Env, VectorEnv)):
            raise ValueError(
                "RecordVideo plays in separate environments: pass an id, or a callable that "
                "makes an environment."
            )
        if isinstance(env, str):
            render_modes(env)  # raises if the id is unknown
        inspect.signature(record).bind(None, env, path, **options)
        names = ("overlay", "scale", "crop", "action_names")
        DrawingOptions(**{name: options[name] for name in names if name in options})
        self.env = env
        self.options = {"seed": seed, **options}
        self.recordings: dict[int, Recording] = {}

    def write(self, iteration: int) -> None:
        path = self.path_of(iteration)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            policy = Policy(self.model, self.env)
            self.recordings[iteration] = record(policy, self.env, path, **self.options)
        except Exception as error:
            reason = one_line(error, 500)
            warn(f"Iteration {iteration} was not recorded, and training continues: {reason}.")
