"""The thread that writes checkpoints: in order, none twice, and nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import tfpg
from tfpg.errors import CheckpointCorruptError, VersionSkewError
from tfpg.resuming import Checkpoints
from tfpg.resuming.checkpoints import check_versions, versions
from tfpg.resuming.store import Store


def within(function, seconds=10.0):
    """What a function returns or raises, which takes no longer."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(function).result(timeout=seconds)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Slow(Store):
    """Writes a checkpoint when it is let, or fails as it is told."""

    def __init__(self, folder, keep=2):
        super().__init__(folder, keep)
        self.gate, self.error, self.begun, self.steps_written = threading.Semaphore(0), None, [], []

    def save(self, step, *args):
        self.begun.append(step)
        assert self.gate.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        super().save(step, *args)
        self.steps_written.append(step)


def slow(folder, keep=9):
    checkpoints = Checkpoints(folder, keep=keep)
    checkpoints._store = Slow(folder, keep)
    return checkpoints


def save(checkpoints, n, **options):
    checkpoints.save(n, {"n": n}, {"iteration": n}, [(n, f"record {n}")], **options)


def begun(checkpoints, *steps):
    """Waits until the thread writes the last of these."""
    deadline = time.monotonic() + 10
    while checkpoints._store.begun != list(steps):
        assert time.monotonic() < deadline, checkpoints._store.begun
        time.sleep(0.001)


def log_of(folder):
    store = Store(folder)
    found = store.load()
    return found.state["n"], list(store.log())


class TestOrder:
    def test_one_after_another(self, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        for n in range(1, 6):
            save(checkpoints, n)
            within(checkpoints.flush)
            assert log_of(tmp_path) == (n, [f"record {i}" for i in range(1, n + 1)])
        within(checkpoints.close)

    def test_what_waits_is_replaced_and_its_records_are_not_lost(self, tmp_path):
        checkpoints = slow(tmp_path)
        save(checkpoints, 1)
        begun(checkpoints, 1)
        assert checkpoints.due(0, last=False)
        for n in (2, 3, 4):
            save(checkpoints, n)
            assert not checkpoints.due(n, last=False)
            assert checkpoints.due(n, last=True)
        checkpoints._store.gate.release(2)
        within(checkpoints.flush)
        assert checkpoints._store.steps_written == [1, 4]
        assert log_of(tmp_path) == (4, [f"record {i}" for i in range(1, 5)])

    def test_it_does_not_wait_for_the_disk(self, tmp_path):
        checkpoints = slow(tmp_path)
        within(lambda: [save(checkpoints, n) for n in range(5)], 1.0)
        checkpoints._store.gate.release(9)
        within(checkpoints.close)
        assert log_of(tmp_path)[0] == 4

    def test_closing_writes_what_waits_and_ends_the_thread(self, tmp_path):
        checkpoints = slow(tmp_path)
        for n in (1, 2):
            save(checkpoints, n)
        thread = checkpoints._thread
        checkpoints._store.gate.release(9)
        within(checkpoints.close)
        assert not thread.is_alive()
        assert log_of(tmp_path)[0] == 2
        within(checkpoints.close)  # again does nothing
        save(checkpoints, 3)  # and so it goes on
        within(checkpoints.flush)
        within(checkpoints.close)
        assert log_of(tmp_path) == (3, [f"record {i}" for i in (1, 2, 3)])

    def test_closing_what_was_never_used(self, tmp_path):
        checkpoints = Checkpoints(tmp_path / "none")
        within(checkpoints.flush)
        within(checkpoints.close)
        assert not (tmp_path / "none").exists()

    def test_records_that_begin_anew(self, tmp_path):
        checkpoints = slow(tmp_path)
        save(checkpoints, 1)
        begun(checkpoints, 1)
        save(checkpoints, 2)
        checkpoints._store.gate.release(9)
        within(lambda: save(checkpoints, 3, anew=True))  # after the one that is being written
        within(checkpoints.flush)
        assert log_of(tmp_path) == (3, ["record 3"])

    def test_the_options(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, every=3)
        assert [checkpoints.due(n, last=False) for n in range(6)] == [0, 0, 1, 0, 0, 1]
        assert checkpoints.due(0, last=True)
        for options in ({"every": 0}, {"keep": 0}):
            with pytest.raises(ValueError, match="every and keep must be at least 1, and they are"):
                Checkpoints(tmp_path, **options)

    def test_who_wants_to_stop_is_asked_and_told_when_it_is_on_disk(self, tmp_path):
        heard = []

        def stop(now):
            heard.append((now, Store(tmp_path).steps()))
            return True

        checkpoints = Checkpoints(tmp_path, every=100, stop=stop)
        assert checkpoints.due(0, last=False)
        save(checkpoints, 1)
        within(checkpoints.stop)
        assert heard == [(False, []), (True, [1])]


class TestFailures:
    def test_is_a_warning_and_its_records_come_with_the_next(self, tmp_path):
        checkpoints = Checkpoints(tmp_path / "run")
        save(checkpoints, 1)
        within(checkpoints.flush)
        (tmp_path / "run").rename(tmp_path / "away")
        (tmp_path / "run").write_text("no folder")
        save(checkpoints, 2)
        why = r"\(Not a directory, .* free\)"
        text = rf"cannot be written into '.*run' {why}. The one before it is as"
        with pytest.raises(OSError, match=text):
            within(checkpoints.flush)
        for n in (3, 4):
            with pytest.warns(UserWarning, match=f"{text} it was. The training goes on, and tries"):
                save(checkpoints, n)
            with pytest.raises(OSError, match="cannot be written"):
                within(checkpoints.flush)
        (tmp_path / "run").unlink()
        (tmp_path / "away").rename(tmp_path / "run")
        with pytest.warns(UserWarning, match="The training goes on"):
            save(checkpoints, 5)
        within(checkpoints.flush)
        assert log_of(tmp_path / "run") == (5, [f"record {i}" for i in range(1, 6)])
        save(checkpoints, 6)  # without a word
        within(checkpoints.close)
        assert log_of(tmp_path / "run") == (6, [f"record {i}" for i in range(1, 7)])

    def test_in_the_middle_with_others_waiting(self, tmp_path):
        checkpoints = slow(tmp_path)
        store = checkpoints._store
        store.error = OSError(28, "No space left on device")
        save(checkpoints, 1)
        begun(checkpoints, 1)
        save(checkpoints, 2)
        store.gate.release()
        begun(checkpoints, 1, 2)
        store.error = None
        store.gate.release()
        within(checkpoints.flush)
        assert log_of(tmp_path) == (2, ["record 1", "record 2"])

    def test_records_that_nobody_needs_any_more_are_not_owed(self, tmp_path):
        checkpoints = slow(tmp_path)
        store = checkpoints._store
        store.gate.release(9)
        store.error = OSError(28, "No space left on device")
        for n in (1, 2, 3):
            checkpoints.save(n, {"n": n}, {}, [(n, f"record {n}")], max(0, n - 1))
            with pytest.raises(OSError, match="No space left on device"):
                within(checkpoints.flush)
            checkpoints._failed = None  # no warning
        store.error = None
        checkpoints.save(4, {"n": 4}, {}, [(4, "record 4")], 3)
        within(checkpoints.flush)
        assert log_of(tmp_path) == (4, ["record 3", "record 4"])

    def test_what_cannot_be_saved_is_said(self, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, {"callbacks": [{"state": {1, 2}}]}, {})
        with pytest.raises(TypeError, match="The state at /callbacks/0/state is a set"):
            within(checkpoints.flush)
        with pytest.raises(TypeError, match="The state at /callbacks/0/state is a set"):
            save(checkpoints, 2)
        within(checkpoints.close)

    @pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, SystemExit, GeneratorExit])
    def test_anything_is_told_to_who_waits(self, tmp_path, error):
        checkpoints = slow(tmp_path)
        checkpoints._store.error = error("unexpected")
        checkpoints._store.gate.release(9)
        save(checkpoints, 1)
        with pytest.raises(error, match="unexpected"):
            within(checkpoints.flush)
        with pytest.raises(error, match="unexpected"):
            save(checkpoints, 2)
        within(checkpoints.close)

    def test_is_forgotten_by_who_loads(self, tmp_path):
        """What could not be written is of a training that is not gone on with."""
        checkpoints = slow(tmp_path)
        checkpoints._store.gate.release(9)
        save(checkpoints, 1)
        within(checkpoints.flush)
        checkpoints._store.error = OSError(28, "No space left on device")
        save(checkpoints, 2)
        within(checkpoints.close)
        checkpoints._store.error = None
        assert checkpoints.load().state == {"n": 1}
        save(checkpoints, 3)  # without a warning
        within(checkpoints.close)
        assert log_of(tmp_path) == (3, ["record 1", "record 3"])


def written_with(folder, **other):
    checkpoints = Checkpoints(folder)
    checkpoints._versions = {**versions(), **other}
    save(checkpoints, 1)
    checkpoints.close()
    return checkpoints


class TestVersions:
    @pytest.mark.parametrize("package", ["tfpg", "keras"])
    def test_newer_ones(self, tmp_path, package):
        written_with(tmp_path, **{package: "99.1.0"})
        here = versions()[package]
        text = f"step-1 was written with {package} 99.1.0, and here is {here}: pip install -U "
        with pytest.raises(VersionSkewError, match=text + f"{package}, or .*allow_version_skew"):
            Checkpoints(tmp_path).load()
        assert Checkpoints(tmp_path, allow_version_skew=True).load().state == {"n": 1}

    @pytest.mark.parametrize(
        "other",
        [
            *({"tfpg": "0.0.1"}, {"keras": "2.9"}, {"numpy": "99.0"}, {"gymnasium": "1.0"}),
            *({"python": "3.1"}, {"tensorflow": "unknown"}, {"keras": "3.15.0"}),
        ],
    )
    def test_older_ones_and_those_that_do_not_matter_so_much(self, tmp_path, other):
        written_with(tmp_path, **other)
        ((package, version),) = other.items()
        text = rf"was written with {package} {version} \(here .*\): it may not go on bit for bit"
        with pytest.warns(UserWarning, match=text):
            Checkpoints(tmp_path).load()

    @pytest.mark.filterwarnings("error")
    def test_the_same(self, tmp_path):
        written_with(tmp_path)
        assert Checkpoints(tmp_path).load().manifest["versions"]["tfpg"] == tfpg.__version__
        check_versions("a checkpoint", {})

    def test_a_broken_one_falls_back_whatever_wrote_it(self, tmp_path):
        written_with(tmp_path, keras="99.1.0")
        (tmp_path / "step-1/state.bin").unlink()
        with pytest.raises(CheckpointCorruptError, match="No such file"):
            Checkpoints(tmp_path).load()
