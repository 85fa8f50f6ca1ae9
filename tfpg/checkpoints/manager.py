"""Keeping a training in a folder while it goes on, so that it can be killed at any time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfpg.checkpoints.disk import room_needed
from tfpg.checkpoints.later import Later
from tfpg.checkpoints.serialization import pack
from tfpg.checkpoints.store import Checkpoint, Segment, Store
from tfpg.checkpoints.versions import check_versions, versions
from tfpg.checkpoints.writing import Job, Writer
from tfpg.core.messages import warn

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Seconds that a training's last checkpoint may take after it was killed.
_LINGERS = 3.0
# Seconds that a checkpoint may wait for a moment at which giving it away costs nothing.
_SOON = 0.1
# Seconds that giving one away is waited for at the end.
_PATIENCE = 3.0


class Checkpoints:
    """Where `fit` keeps what it needs to go on bit for bit, and how often.

    A checkpoint is written by a process of its own while the next iterations are played. Giving it
    to that process takes about a millisecond with a small network; where an iteration plays for
    less than a tenth of a second, half of that is beside the next update. None is begun while
    another waits to be written. The last iteration has one in any case, and that after which it is
    to stop.

    Args:
        folder: Of the run's checkpoints; made with the first.
        every: Iterations between checkpoints; the last has one whatever this is.
        keep: How many of the newest stay.
        share: Of the training's time that checkpoints may take at most: where it would be more, as
            with iterations of a few milliseconds, some are left out. None: none is for that.
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
        self._begun = time.monotonic()
        self._due: float | None = None  # since when a checkpoint is being made
        self._spent = self._took = 0.0  # seconds: all checkpoints, and the last one
        self._later = Later()
        self._passed = -math.inf  # when an iteration last came to its end
        self._soon = False  # an update that others can work beside begins
        self._given_up = False
        self.allow_version_skew = allow_version_skew
        self._stop = stop
        self._versions = versions()
        self._keep = keep
        self._path = Path(os.path.abspath(folder))  # wherever this process goes
        self._store = Store(self._path, keep)
        self._claim: int | None = None
        self._writer: Writer | None = None
        self._log: list[Segment] = []  # its files, as the newest that is known to be whole has them
        self._sent = False  # a checkpoint of which nothing is known yet
        self._owed: list[tuple[int, Any]] = []  # records that are not known to be on disk
        self._failed: OSError | None = None  # of the last one
        self._untold: OSError | None = None

    def claim(self) -> None:
        """Makes the folder this training's alone, until `close`.

        Raises:
            BlockingIOError: Another training writes into it.
            OSError: It cannot be made.
        """
        self._begun, self._spent, self._took = time.monotonic(), 0.0, 0.0
        self._due, self._passed, self._soon, self._given_up = None, -math.inf, False, False
        while self._claim is None:
            self._path.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return
            handle = os.open(self._path, os.O_RDONLY)
            try:
                # Not one of those that a process is given as its own input and outputs.
                claim = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)
            finally:
                os.close(handle)
            try:
                self._lock(claim)
                # Whoever had it may have taken the folder away at last.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(claim), os.stat(self._path)):
                        self._claim = claim
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                return
            finally:
                if self._claim is None:
                    os.close(claim)

    def _lock(self, claim: int) -> None:
        until = time.monotonic() + _LINGERS
        while True:
            try:
                return fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BlockingIOError(
                        f"Another training is writing into {str(self.folder)!r}: wait for its end, "
                        "or stop it."
                    ) from None
                time.sleep(0.02)

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        Raises:
            CheckpointCorruptError: There are some, and none is whole.
            VersionSkewError: It was written by newer versions.
        """
        self._later.wait()
        self._end()
        self._failed, self._untold, self._owed = None, None, []  # of what is not gone on with
        found = self._store.load()
        if found is not None and not self.allow_version_skew:
            check_versions(str(found.path), found.manifest.get("versions", {}))
        self._log = [] if found is None else self._store.segments
        return found

    def prepare(self) -> None:
        """Starts the process that writes, which takes a moment, before it is needed."""
        with suppress(OSError):  # which the first checkpoint tells
            self._start()

    def log(self) -> Iterator[Any]:
        """The records that belong to what was loaded."""
        return self._store.log()

    def due(self, iteration: int, last: bool) -> bool:
        """Whether the end of an iteration, counted from 0, is kept."""
        self._due = self._passed = time.monotonic()
        if last or self.stopping():
            return True
        if not self._later.ended:
            self._later.now()  # there may be no update that it waits for
            return False
        self._later.wait()  # for what it may raise
        # What is given beside the next update waits there for what is being written.
        if (iteration + 1) % self.every or not (self._settled(wait=False) or self._soon):
            return False
        spent, passed = self._spent + self._took, self._due - self._begun
        return self.share is None or spent <= self.share * passed

    def computing(self) -> None:
        """A long call of TensorFlow begins, beside which a checkpoint can be given away."""
        self._later.now()
        # The next one is as near as this one was.
        self._soon = time.monotonic() - self._passed < _SOON

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
        """Gives a checkpoint to the process that writes, see `Store.save`, when it has time.

        What could not be written before is a warning now, and the training goes on.

        Args:
            anew: The records begin anew: those before are of something else.

        Raises:
            TypeError: It holds what cannot be saved. Of one that waits for the next update, it is
                raised by what comes after that.
        """
        begun = time.monotonic() if self._due is None else self._due
        records = [(position, pack(record)) for position, record in added]
        later = self._soon and not records and not self._owed and not anew
        packed = [] if later else pack(state)
        if later:
            self._later.wait()
        else:
            self._settled()
        if self._untold is not None:
            warn(f"{self._sentence(self._untold)} The training goes on, and tries again.")
            self._untold = None
        if anew:
            self._log, self._owed = [], []
        self._owed = [each for each in self._owed if each[0] >= needed_from] + records
        told = {**told, "versions": self._versions}
        job = Job(step, packed, told, self._owed, needed_from, anew)
        if later:
            self._later.give(lambda: self._give(job, state))
        else:
            self._send(job)
        self._soon = False
        self._took, self._due = time.monotonic() - begun, None
        self._spent += self._took

    def _give(self, job: Job, state: dict[str, Any]) -> None:
        self._answered()
        if self._given_up:
            return
        begun = time.monotonic()
        self._send(job._replace(state=pack(state)))
        took = time.monotonic() - begun
        self._took, self._spent = self._took + took, self._spent + took

    def _send(self, job: Job) -> None:
        try:
            self._start().send(job)
            self._sent = True
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        """Waits until everything is on disk.

        Raises:
            OSError: The last checkpoint could not be written.
        """
        self._settled()
        if self._failed is not None:
            raise OSError(self._sentence(self._failed)) from self._failed
        if self._untold is not None:
            warn(f"{self._sentence(self._untold)} That after it is written.")
            self._untold = None

    def close(self) -> None:
        """Lets what was given be written, ends the process, and lets others have the folder."""
        try:
            # What it raises, `flush` has told, or something else is raised already.
            with suppress(Exception):
                if not self._later.wait(_PATIENCE):
                    self._stop_writing()
                    self._later.wait(_PATIENCE)
        finally:
            try:
                self._given_up = not self._later.ended
                if self._given_up:  # interrupted, or there is no end of it
                    self._stop_writing()
                    self._writer, self._sent = None, False
                self._later.close()
                self._end()
            finally:
                if self._claim is not None:
                    with suppress(OSError):
                        self._path.rmdir()  # where nothing was written
                    os.close(self._claim)
                    self._claim = None

    def _stop_writing(self) -> None:
        writer = self._writer
        if writer is not None:
            writer.stop()

    def _settled(self, wait: bool = True) -> bool:
        """Whether it is known what became of what was given, for which it may wait."""
        self._later.wait()
        return self._answered(wait)

    def _answered(self, wait: bool = True) -> bool:
        if self._sent:
            assert self._writer is not None
            try:
                log = self._writer.answer(wait)
            except OSError as error:
                self._fail(error)
            else:
                if log is not None:
                    self._log, self._sent, self._owed, self._failed = log, False, [], None
        return not self._sent

    def _start(self) -> Writer:
        if self._writer is not None and self._writer.ended:  # somebody has killed it
            self._end()
        if self._writer is None:
            self._writer = Writer(self._path, self._keep, self._log, self._claim)
        return self._writer

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._answered()
            self._writer = None

    def _fail(self, error: OSError) -> None:
        self._sent, self._failed, self._untold = False, error, error

    def _sentence(self, error: OSError) -> str:
        return (
            f"A checkpoint cannot be written into {str(self.folder)!r} "
            f"({room_needed(error, self.folder)}). The one before it is as it was."
        )
