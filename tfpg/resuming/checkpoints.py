"""Keeping a training in a folder while it goes on, so that it can be killed at any time."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.errors import VersionSkewError, warn
from tfpg.resuming.disk import room_needed
from tfpg.resuming.store import Checkpoint, Store

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGES = ("tfpg", "tensorflow", "keras", "gymnasium", "numpy")
# Of these a newer one may have written what an older one reads otherwise.
_STRICT = ("tfpg", "keras")


class _Job(NamedTuple):
    step: int
    state: dict[str, Any]
    told: dict[str, Any]
    added: list[tuple[int, Any]]
    needed_from: int


class Checkpoints:
    """Where `fit` keeps what it needs to go on bit for bit, and how often.

    A checkpoint is written by a thread of its own while the next iterations are played, none while
    another waits. The last iteration has one in any case, and that after which it is to stop.

    Args:
        folder: Of the run's checkpoints; made with the first.
        every: Iterations between checkpoints; the last has one whatever this is.
        keep: How many of the newest stay.
        share: Of the time in which one may be being written: a checkpoint is left out where that
            would be more, as it would with iterations of a few milliseconds. None: none is.
        allow_version_skew: Go on from what other versions wrote, where it may not be bit for bit.
        stop: Asked after every iteration, whether to stop. It is then called again, when the
            iteration's checkpoint is on disk, and may raise.

    Raises:
        ValueError: ``every`` or ``keep`` is below 1.

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
        every: int = 1,
        keep: int = 2,
        *,
        share: float | None = 0.05,
        allow_version_skew: bool = False,
        stop: Callable[[bool], bool] | None = None,
    ):
        if every < 1 or keep < 1:
            raise ValueError(f"every and keep must be at least 1, and they are {every} and {keep}.")
        self.folder = Path(folder)
        self.every = every
        self.share = share
        self.allow_version_skew = allow_version_skew
        self._not_before = 0.0
        self._claim: int | None = None
        self._stop = stop
        self._versions = versions()
        self._store = Store(folder, keep)
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._busy = self._closing = False
        self._failed: BaseException | None = None
        self._owed: list[tuple[int, Any]] = []  # records that could not be written
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        """Makes the folder this training's alone, until `close`.

        Raises:
            BlockingIOError: Another training writes into it.
            OSError: It cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None or self._claim is not None:
            return
        claim = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise BlockingIOError(
                f"Another training is writing into {str(self.folder)!r}: wait for its end, or stop "
                "it."
            ) from None
        except OSError:  # a file system without locks
            os.close(claim)
            return
        self._claim = claim

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        Raises:
            CheckpointCorruptError: There are some, and none is whole.
            VersionSkewError: It was written by newer versions.
        """
        self._failed, self._owed = None, []  # of what is not gone on with
        found = self._store.load()
        if found is not None and not self.allow_version_skew:
            check_versions(str(found.path), found.manifest.get("versions", {}))
        return found

    def log(self) -> Iterator[Any]:
        """The records that belong to what was loaded."""
        return self._store.log()

    def due(self, iteration: int, last: bool) -> bool:
        """Whether the end of an iteration, counted from 0, is kept."""
        if last or self.stopping():
            return True
        early = self._waiting is not None or time.monotonic() < self._not_before
        return (iteration + 1) % self.every == 0 and not early

    def stopping(self) -> bool:
        """Whether somebody wants the training to stop."""
        return self._stop is not None and self._stop(False)

    def stop(self) -> None:
        """Waits until everything is on disk, and says so to whom wants the training to stop."""
        self.flush()
        if self._stop is not None:
            self._stop(True)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        told: dict[str, Any],
        added: Sequence[tuple[int, Any]] = (),
        needed_from: int = 0,
        anew: bool = False,
    ) -> None:
        """Gives a checkpoint to the thread that writes; see `Store.save`.

        What could not be written before is a warning now, and the training goes on.

        Args:
            anew: The records begin anew: those before are of something else.
        """
        self._warn_of_failure()
        told = {**told, "versions": self._versions}
        job = _Job(step, state, told, list(added), needed_from)
        with self._changed:
            if anew:
                while self._busy:
                    self._changed.wait()
                self._waiting, self._owed = None, []
                self._store.forget_log()
            if self._waiting is not None:
                job = job._replace(added=self._waiting.added + job.added)
            self._waiting = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until everything is on disk.

        Raises:
            OSError: The last checkpoint could not be written.
            TypeError: It holds what cannot be saved.
        """
        with self._changed:
            while self._waiting is not None or self._busy:
                self._changed.wait()
            failed = self._failed
        if isinstance(failed, OSError):
            raise OSError(self._sentence(failed)) from failed
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Writes what waits, ends the thread, and lets others have the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._closing = False
        if self._claim is not None:
            with suppress(OSError):
                self.folder.rmdir()  # where nothing was written
            os.close(self._claim)
            self._claim = None

    def _write(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None:
                    if self._closing:
                        return
                    self._changed.wait()
                job, self._waiting, self._busy = self._waiting, None, True
            failed: BaseException | None = None
            added = job.added
            begun = time.monotonic()
            try:
                added = [each for each in self._owed if each[0] >= job.needed_from] + added
                self._store.save(*job._replace(added=added))
            except BaseException as error:  # or whoever waits would wait for ever
                failed = error
            with self._changed:
                self._owed = added if failed else []
                self._failed, self._busy = failed, False
                if self.share is not None:
                    end = time.monotonic()
                    self._not_before = end + (end - begun) / self.share
                self._changed.notify_all()

    def _warn_of_failure(self) -> None:
        with self._changed:
            failed = self._failed
        if isinstance(failed, OSError):
            warn(f"{self._sentence(failed)} The training goes on, and tries again.")
        elif failed is not None:
            raise failed

    def _sentence(self, error: OSError) -> str:
        return (
            f"A checkpoint cannot be written into {str(self.folder)!r} "
            f"({room_needed(error, self.folder)}). The one before it is as it was."
        )


def versions() -> dict[str, str]:
    """The versions of what computes a training."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def check_versions(what: str, written: dict[str, str]) -> None:
    """Raises where newer versions wrote a file, and warns where others did.

    Raises:
        VersionSkewError: A newer tfpg or Keras wrote it.

    Example:
        >>> check_versions("a checkpoint", {"keras": "99.1.0"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tfpg.errors.VersionSkewError: a checkpoint was written with keras 99.1.0, and here is ...
    """
    here = versions()
    for name in _STRICT:
        if _numbers(written.get(name, "0")) > _numbers(here[name]):
            raise VersionSkewError(
                f"{what} was written with {name} {written[name]}, and here is {here[name]}: "
                f"pip install -U {name}, or try it with allow_version_skew=True "
                "(--allow-version-skew)."
            )
    other = [
        f"{n} {written[n]} (here {here[n]})" for n in here if written.get(n, here[n]) != here[n]
    ]
    if other:
        warn(f"{what} was written with {', '.join(other)}: it may not go on bit for bit.")


def _numbers(text: str) -> tuple[int, ...]:
    """The first numbers of a version, by which versions are newer.

    Example:
        >>> _numbers("3.15.1rc0")
        (3, 15)
    """
    parts = text.split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
