"""The times of checkpoints, and the handling of a full disk."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tfpg.checkpoints.store import Checkpoint, Store
from tfpg.core.files import describe_write_error, locked_folder
from tfpg.core.messages import warn
from tfpg.errors import VersionSkewError

_PACKAGES = ("tfpg", "tensorflow", "keras", "gymnasium", "numpy")
# A newer version of one of these may write what an older one reads differently.
_STRICT = ("tfpg", "keras")


class Checkpoints:
    """Where and how often `fit` saves everything that it needs to resume bit for bit.

    `fit` writes a checkpoint at the end of an iteration when one is due, after the last iteration,
    and before it stops for a signal. A run that was killed resumes from its newest intact
    checkpoint, and has the same result as an uninterrupted one.

    Args:
        folder: Folder of the run's checkpoints. It is created if necessary.
        every_seconds: Seconds from one checkpoint to the next. 0 writes one after each iteration.
        every_iterations: Iterations from one checkpoint to the next, instead of seconds.
        keep: Number of newest checkpoints to keep.
        allow_version_skew: Resume from a checkpoint that a newer tfpg or Keras wrote. This may
            fail, or may not resume bit for bit.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import tempfile, tfpg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for iterations in (2, 5):
        ...         agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1", seed=0))
        ...         options = {"seed": 1, "verbose": 0, "checkpoints": folder}
        ...         history = agent.fit("CartPole-v1", iterations, **options)
        >>> history.epoch, agent.env_steps == history.history["env_steps"][-1]
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every_seconds: float = 10.0,
        every_iterations: int | None = None,
        keep: int = 2,
        *,
        allow_version_skew: bool = False,
    ):
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0, but it is {every_seconds}.")
        for name, value in (("every_iterations", every_iterations), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but it is {value}.")
        self.folder = Path(folder)
        self.every_seconds = every_seconds
        self.every_iterations = every_iterations
        self.allow_version_skew = allow_version_skew
        self._store = Store(self.folder.absolute(), keep)  # the process may change its directory
        self._saved_at = 0.0
        self._failed = False

    def __enter__(self) -> Checkpoints:
        """Lock the folder for this process until the end of the block.

        Raises:
            BlockingIOError: Another run writes to the folder.
            OSError: The folder cannot be made.
        """
        self._stack = ExitStack()
        self._stack.enter_context(locked_folder(self._store.folder))
        self._saved_at, self._failed = time.monotonic(), False
        return self

    def __exit__(self, *_: Any) -> None:
        """Unlock the folder, and remove it if it is empty."""
        with self._stack, suppress(OSError):
            self._store.folder.rmdir()

    def load(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None if there are none.

        Raises:
            CheckpointCorruptError: There are checkpoints, but none is intact.
            VersionSkewError: A newer tfpg or Keras wrote it.
        """
        found = self._store.load()
        if found is not None and not self.allow_version_skew:
            check_versions(str(found.path), found.header.get("versions", {}))
        return found

    def log(self) -> Iterator[dict[str, Any]]:
        """Yield the log entries of the checkpoint that was saved or loaded last, in order."""
        return self._store.log()

    def due(self, iteration: int) -> bool:
        """Return whether to save a checkpoint after an iteration, counted from 0."""
        if self.every_iterations is not None:
            return (iteration + 1) % self.every_iterations == 0
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(
        self,
        step: int,
        state: dict[str, Any],
        header: dict[str, Any],
        *,
        last: bool = False,
        **log: Any,
    ) -> bool:
        """Write a checkpoint, and return whether it is on disk.

        A failure only warns, once until a checkpoint succeeds: the checkpoints on disk stay, and
        the next one is tried when it is due.

        Args:
            step: See `Store.save`.
            state: See `Store.save`.
            header: See `Store.save`.
            last: Whether no other checkpoint follows, so that a failure is an error.
            log: The arguments of `Store.save` about its log.

        Raises:
            OSError: The last checkpoint could not be written.
            TypeError: The state holds something that cannot be saved.
        """
        try:
            self._store.save(step, state, {**header, "versions": versions()}, **log)
        except OSError as error:
            text = (
                f"A checkpoint cannot be written to {str(self.folder)!r} "
                f"({describe_write_error(error, self.folder)}). The previous one is unchanged."
            )
            if last:
                raise OSError(text) from error
            if not self._failed:
                warn(f"{text} Training continues, and tries again.")
            self._failed = True
            return False
        finally:
            self._saved_at = time.monotonic()
        self._failed = False
        return True


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def check_versions(what: str, written: dict[str, str]) -> None:
    """Raise an error if a newer tfpg or Keras wrote a file, and warn about other differences.

    Args:
        what: Name of the file, which begins the message.
        written: Versions that wrote it, by package.

    Raises:
        VersionSkewError: A newer tfpg or Keras wrote it.

    Example:
        >>> check_versions("a checkpoint", {"keras": "99.1.0"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tfpg.errors.VersionSkewError: a checkpoint was written with keras 99.1.0, but ... installed.
        Run pip install -U keras, or try it anyway with allow_version_skew=True ...
    """
    here = versions()
    for name in _STRICT:
        if _numbers(written.get(name, "0")) > _numbers(here[name]):
            raise VersionSkewError(
                f"{what} was written with {name} {written[name]}, but {here[name]} is installed.\n"
                f"Run pip install -U {name}, or try it anyway with allow_version_skew=True "
                "(--allow-version-skew)."
            )
    others = [
        f"{name} {written[name]} (here {here[name]})"
        for name in here
        if written.get(name, here[name]) != here[name]
    ]
    if others:
        warn(f"{what} was written with {', '.join(others)}: it may not resume bit for bit.")


def _numbers(text: str) -> tuple[int, ...]:
    """Return the major and minor number of a version.

    Example:
        >>> _numbers("3.15.1rc0")
        (3, 15)
    """
    parts = text.split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
