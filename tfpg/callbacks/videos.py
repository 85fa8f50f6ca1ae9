"""Callbacks that film a model as it learns, or keep it to be filmed. See `tfpg.callbacks`."""

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
from tfpg.core.messages import warn
from tfpg.envs import EnvLike, render_modes
from tfpg.models.policy import Policy
from tfpg.models.saving import save_model
from tfpg.rollouts.evaluation import check_count
from tfpg.video.drawing import look_of
from tfpg.video.record import Film, record
from tfpg.video.writer import check_suffix


class _AtIterations(keras.callbacks.Callback, abc.ABC):
    """Does something with the model after chosen iterations."""

    def __init__(self, path: str | os.PathLike, at: int | Sequence[int], every: int | None):
        super().__init__()
        at = (at,) if isinstance(at, int) else tuple(at)
        if not at and every is None:
            raise ValueError("Say after which iterations: at=(0, 20, 80), or every=20.")
        self.path = str(path)
        self.at = at
        self.every = None if every is None else check_count("every", every)
        if self.path_of(0) == self.path_of(1) and (len(self.at) > 1 or every is not None):
            raise ValueError(
                f"{self.path!r} names one file for all iterations: put {{iteration}} into it, as "
                "in 'iteration-{iteration}'."
            )

    def path_of(self, iteration: int) -> Path:
        """Of the file that is written after so many iterations."""
        try:
            return Path(self.path.format(iteration=iteration))
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{self.path!r} is no pattern for files: {{iteration}} is all that is put into it."
            ) from error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0:
            self._look(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._look(epoch + 1)

    def _look(self, iteration: int) -> None:
        due = self.every is not None and iteration % self.every == 0
        if due or iteration in self.at:
            self.make(iteration)

    @abc.abstractmethod
    def make(self, iteration: int) -> None:
        """What is done after so many iterations."""


class Snapshots(_AtIterations):
    """Saves the model as it is after chosen iterations, for films of how it learned.

    Args:
        path: Of the files, with ``{iteration}`` in it, ending in ``.keras``. Its folder is made.
        at: After how many iterations; 0 is before the first.
        every: After every so many, beside those.

    Raises:
        ValueError: ``path`` is no pattern, or it is not said when.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = Snapshots(f"{folder}/iteration-{{iteration}}.keras", at=(0, 2))
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 2, callbacks=[keep], verbose=0)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['iteration-0.keras', 'iteration-2.keras']
    """

    def __init__(
        self, path: str | os.PathLike, at: int | Sequence[int] = (), every: int | None = None
    ):
        super().__init__(path, at, every)
        if self.path_of(0).suffix != ".keras":
            raise ValueError(f"A snapshot ends in .keras, and {str(path)!r} does not.")

    def make(self, iteration: int) -> None:
        path = self.path_of(iteration)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(self.model, path)


class RecordVideo(_AtIterations):
    """Films the model after chosen iterations, in environments of its own.

    What is filmed while training is what `tfpg.record` films. A film that fails is a warning, and
    the training goes on, unless the display of a window dies: that ends the process.

    Args:
        path: Of the films, with ``{iteration}`` in it. Its folder is made.
        env: What to play in: an id or a callable making one.
        at: After how many iterations; 0 is before the first.
        every: After every so many, beside those.
        seed: Of the episodes: the same in every film.
        **options: Of `tfpg.record`, such as ``overlay`` or ``max_steps``.

    Attributes:
        films: What `tfpg.record` returned, by the iteration.

    Raises:
        ValueError: ``path`` is no pattern, it is not said when, ``env`` is an environment itself or
            unknown, or an option is.
        TypeError: `tfpg.record` has no such option.

    Example:
        >>> import tempfile, tfpg
        >>> model = tfpg.networks.mlp("CartPole-v1")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film = RecordVideo(f"{folder}/{{iteration}}.gif", "CartPole-v1", at=(0, 2))
        ...     _ = tfpg.Reinforce(model).fit("CartPole-v1", 2, callbacks=[film], verbose=0)
        >>> sorted(film.films)
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
                "RecordVideo plays in environments of its own: give an id, or a callable that "
                "makes one."
            )
        if isinstance(env, str):
            render_modes(env)  # raises where there is none such
        look = {name: options.get(name) for name in ("crop", "action_names")}
        look_of(options.get("overlay"), options.get("scale", 1.0), *look.values())
        inspect.signature(record).bind(None, env, path, **options)
        self.env = env
        self.options = {"seed": seed, **options}
        self.films: dict[int, Film] = {}

    def make(self, iteration: int) -> None:
        path = self.path_of(iteration)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            policy = Policy(self.model, self.env, **(self.params or {}).get("head", {}))
            self.films[iteration] = record(policy, self.env, path, **self.options)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            warn(f"No film of iteration {iteration}, and training goes on: {reason}")
