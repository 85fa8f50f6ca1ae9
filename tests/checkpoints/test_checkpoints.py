"""A training's checkpoints: in order, none twice, and what fails comes with the next."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tfpg
from tfpg.checkpoints import check_versions, versions
from tfpg.checkpoints import manager as checkpoints
from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Store
from tfpg.errors import CheckpointCorruptError, VersionSkewError

ROOT = Path(__file__).parents[2]


def within(function, seconds=10.0):
    """What a function returns or raises, which takes no longer."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(function).result(timeout=seconds)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def kept(tmp_path):
    """Checkpoints of a folder, whose process writes."""
    found = Checkpoints(tmp_path / "run", keep=9, share=None)
    save(found, 1)
    within(found.flush)
    yield found
    within(found.close)


def save(kept, n, **options):
    kept.save(n, {"n": n}, {"iteration": n}, [(n, f"record {n}")], **options)


def process_of(kept):
    return kept._writer._process.pid


@contextmanager
def stopped(kept):
    """The process that writes takes its time."""
    os.kill(process_of(kept), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_of(kept), signal.SIGCONT)


def log_of(folder):
    store = Store(folder)
    found = store.load()
    return found.state["n"], list(store.log())


def records(first, last):
    return [f"record {n}" for n in range(first, last + 1)]


class TestOrder:
    def test_one_after_another(self, tmp_path):
        kept = Checkpoints(tmp_path)
        for n in range(1, 6):
            save(kept, n)
            within(kept.flush)
            assert log_of(tmp_path) == (n, records(1, n))
        within(kept.close)

    def test_none_is_due_while_one_is_written(self, kept):
        assert kept.due(0, last=False)
        with stopped(kept):
            within(lambda: save(kept, 2), 1.0)  # without waiting for the disk
            assert not kept.due(1, last=False)
            assert kept.due(1, last=True)
        within(kept.flush)
        assert kept.due(2, last=False)

    def test_one_that_cannot_wait_waits_for_the_one_before(self, kept):
        with stopped(kept):
            save(kept, 2)
            last = threading.Thread(target=save, args=(kept, 3))
            last.start()
            last.join(0.3)
            assert last.is_alive()
        last.join(10)
        within(kept.flush)
        assert log_of(kept.folder) == (3, records(1, 3))
        assert Store(kept.folder).steps() == [1, 2, 3]

    def test_closing_writes_what_was_given_and_ends_the_process(self, kept):
        process = kept._writer._process
        save(kept, 2)
        within(kept.close)
        assert process.returncode == 0
        assert log_of(kept.folder) == (2, records(1, 2))
        within(kept.close)  # again does nothing
        save(kept, 3)  # and so it goes on
        within(kept.flush)
        assert log_of(kept.folder) == (3, records(1, 3))

    def test_closing_what_was_never_used(self, tmp_path):
        kept = Checkpoints(tmp_path / "none")
        within(kept.flush)
        within(kept.close)
        assert not (tmp_path / "none").exists()

    def test_records_that_begin_anew(self, kept):
        save(kept, 2)
        within(lambda: save(kept, 3, anew=True))
        within(kept.flush)
        assert log_of(kept.folder) == (3, ["record 3"])

    def test_records_that_begin_anew_after_a_failure(self, kept):
        for n, anew in ((2, False), (3, True)):
            kept.prepare()
            os.kill(process_of(kept), signal.SIGSTOP)
            save(kept, n, anew=anew)
            kept._writer._process.kill()
            with pytest.raises(OSError, match="exit code -9"):
                within(kept.flush)
            kept._untold = None  # no warning
        save(kept, 4)
        save(kept, 5)
        within(kept.flush)
        assert log_of(kept.folder) == (5, records(3, 5))

    def test_many_records(self, kept):
        kept.save(2, {}, {}, [(n, n) for n in range(3000)])
        within(kept.flush)
        assert list(Store(kept.folder).log()) == []
        store = Store(kept.folder)
        store.load()
        assert list(store.log()) == ["record 1", *range(3000)]

    def test_the_options(self, tmp_path):
        kept = Checkpoints(tmp_path, every=3)
        assert [kept.due(n, last=False) for n in range(6)] == [0, 0, 1, 0, 0, 1]
        assert kept.due(0, last=True)
        for options in ({"every": 0}, {"keep": 0}):
            with pytest.raises(ValueError, match="every and keep must be at least 1, and they are"):
                Checkpoints(tmp_path, **options)

    def test_they_take_no_larger_share_of_the_time(self, tmp_path):
        """Those that cannot be paid from what the training has taken are left out."""
        kept = Checkpoints(tmp_path, share=0.25)
        kept.claim()
        since = time.monotonic()
        spent = made = 0
        for n in range(200):
            time.sleep(0.002)
            if kept.due(n, last=False):
                begun = time.monotonic()
                kept.save(n, {"x": np.zeros(100_000)}, {})
                spent += time.monotonic() - begun
                made += 1
        assert 2 < made < 190
        assert spent < 0.3 * (time.monotonic() - since)
        assert kept.due(200, last=True)
        within(kept.close)

    def test_the_shares_of_the_time(self, tmp_path, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
        kept = Checkpoints(tmp_path, share=0.25)

        def turn(seconds, takes=2.0):
            """Plays for so many seconds; whether a checkpoint was due then, which takes a while."""
            now[0] += seconds
            due = kept.due(0, last=False)
            if due:
                now[0] += takes
                kept.save(int(now[0]), {}, {})
                within(kept.flush)
            return due

        kept.claim()
        # With the next, which is taken to be as long as the last, 4 are spent of 15 and of 16.
        assert [turn(10), turn(3), turn(1), turn(1)] == [True, False, True, False]
        # 6 of 24, 8 of 27 and of 47, and 6.2 of 47.1.
        assert [turn(5), turn(1), turn(20, takes=0.1), turn(0)] == [True, False, True, True]
        within(kept.close)
        kept.claim()
        assert turn(0.5)  # another training, and nothing known of it
        assert not turn(0.5)
        within(kept.close)

    def test_who_wants_to_stop_is_asked_and_told_when_it_is_on_disk(self, tmp_path):
        heard = []

        def stop(now):
            heard.append((now, Store(tmp_path).steps()))
            return True

        kept = Checkpoints(tmp_path, every=100, stop=stop)
        assert kept.due(0, last=False)
        save(kept, 1)
        within(kept.stop)
        assert heard == [(False, []), (True, [1])]
        within(kept.close)

    def test_more_than_a_pipe_holds(self, kept):
        rng = np.random.default_rng(0)
        state = {name: rng.normal(size=n) for name, n in (("a", 300_000), ("b", 7), ("c", 150_000))}
        added = [
            (n, {"rows": rng.integers(256, size=1_500_000 + n, dtype=np.uint8)}) for n in (2, 3)
        ]
        kept.save(2, state, {"iteration": 2}, added)
        within(kept.flush)
        store = Store(kept.folder)
        found = store.load().state
        for name, x in state.items():
            np.testing.assert_array_equal(found[name], x)
        first, *rest = store.log()
        assert first == "record 1"
        for (_, given), read in zip(added, rest, strict=True):
            np.testing.assert_array_equal(read["rows"], given["rows"])

    def test_what_is_given_may_change_afterwards(self, kept):
        """It is on its way, whatever the next iteration does to it."""
        state = {"n": np.zeros(200_000)}
        kept.save(2, state, {})
        state["n"][:] = 1
        within(kept.flush)
        assert Store(kept.folder).load().state["n"].max() == 0


def hurry(kept):
    """A short iteration: the last one has just ended, and an update begins."""
    kept._passed = time.monotonic()
    kept.computing()
    time.sleep(0.02)


def give(kept, n):
    """A checkpoint without records, which can wait for the next update."""
    kept.save(n, {"n": n}, {"iteration": n})


def steps_within(kept, steps, seconds=10.0):
    """Whether these checkpoints are on disk, in time."""
    until = time.monotonic() + seconds
    while Store(kept.folder).steps() != steps and time.monotonic() < until:
        time.sleep(0.01)
    return Store(kept.folder).steps() == steps


class TestBesideUpdates:
    """Where iterations are short, a checkpoint is given away while the next update computes."""

    def test_it_waits_for_the_next_update(self, kept):
        hurry(kept)
        give(kept, 2)
        assert not steps_within(kept, [1, 2], 0.3)
        kept.computing()
        assert steps_within(kept, [1, 2])

    def test_it_does_not_where_the_next_update_may_be_far(self, kept):
        kept.computing()  # the first iteration
        give(kept, 2)
        assert steps_within(kept, [1, 2])
        kept.due(2, last=False)
        time.sleep(0.15)  # is played
        for _ in range(2):  # updates follow each other
            kept.computing()
        give(kept, 3)
        assert steps_within(kept, [1, 2, 3])
        hurry(kept)
        give(kept, 4)
        kept.flush()
        give(kept, 5)  # an iteration without an update
        assert steps_within(kept, [1, 2, 3, 4, 5])

    def test_an_iteration_without_an_update_does_not_keep_it(self, kept):
        hurry(kept)
        give(kept, 2)
        assert not kept.due(2, last=False)
        assert steps_within(kept, [1, 2])
        assert kept.due(3, last=False)

    def test_records_do_not_wait(self, kept):
        hurry(kept)
        save(kept, 2)
        assert steps_within(kept, [1, 2])
        assert log_of(kept.folder) == (2, records(1, 2))

    @pytest.mark.parametrize("end", ["flush", "stop", "close"])
    def test_it_is_on_disk_in_the_end(self, kept, end):
        hurry(kept)
        give(kept, 2)
        within(getattr(kept, end))
        assert Store(kept.folder).steps() == [1, 2]
        assert log_of(kept.folder) == (2, records(1, 1))

    def test_a_slow_disk_is_not_waited_for(self, kept):
        with stopped(kept):
            for n in (2, 3):  # one that is being written, and one that waits for it
                hurry(kept)
                assert kept.due(n, last=False)
                within(lambda n=n: give(kept, n), 1.0)
            hurry(kept)
            time.sleep(0.1)
            assert not within(lambda: kept.due(4, last=False), 1.0)
        hurry(kept)
        assert steps_within(kept, [1, 2, 3])
        within(kept.flush)

    def test_many(self, kept):
        for n in range(2, 60):
            hurry(kept)
            while not kept.due(n, last=False):
                time.sleep(0.001)
            give(kept, n)
        within(kept.flush)
        assert Store(kept.folder).steps() == list(range(51, 60))
        assert log_of(kept.folder)[0] == 59

    def test_what_cannot_be_saved_is_said_after_the_update(self, kept):
        hurry(kept)
        kept.save(2, {"callbacks": {1, 2}}, {})
        kept.computing()
        with pytest.raises(TypeError, match="The state at /callbacks is a set"):
            within(kept.flush)
        hurry(kept)
        give(kept, 3)
        within(kept.flush)
        assert log_of(kept.folder)[0] == 3

    def test_what_cannot_be_saved_is_said_however_seldom_one_is_due(self, tmp_path):
        kept = Checkpoints(tmp_path, every=1000)
        hurry(kept)
        kept.save(2, {"callbacks": {1, 2}}, {})
        hurry(kept)
        with pytest.raises(TypeError, match="is a set"):
            kept.due(3, last=False)
        within(kept.close)

    @pytest.mark.parametrize("error", [TypeError, MemoryError])
    def test_what_cannot_be_saved_does_not_hide_why_a_training_ends(self, kept, error, monkeypatch):
        def fail(state):
            raise error("no")

        hurry(kept)
        monkeypatch.setattr(checkpoints, "pack", fail)
        kept.save(2, {}, {})
        within(kept.close)
        assert log_of(kept.folder)[0] == 1
        assert kept._writer is None

    @pytest.mark.parametrize("stops", [True, False])
    def test_interrupted_at_its_end_it_leaves_nothing(self, kept, stops, monkeypatch):
        """Also where not even SIGKILL ends the process at once, as one that waits for a disk."""
        monkeypatch.setattr(checkpoints, "_LINGERS", 0.1)
        within(kept.close)
        before = threading.active_count()
        kept.claim()
        save(kept, 2)
        kept.flush()
        process = kept._writer._process
        process.send_signal(signal.SIGSTOP)
        if not stops:
            monkeypatch.setattr(process, "kill", lambda: None)
        hurry(kept)
        kept.save(3, {"n": np.zeros(10**6)}, {})
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            kept.close()
        monkeypatch.undo()
        process.kill()
        until = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() <= before
        kept.claim()
        assert kept.load().state == {"n": 2}
        within(kept.close)

    def test_the_end_does_not_wait_for_ever(self, kept, monkeypatch):
        monkeypatch.setattr(checkpoints, "_PATIENCE", 0.3)
        process = kept._writer._process
        process.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patched:
            patched.setattr(process, "kill", lambda: None)
            hurry(kept)
            kept.save(2, {"n": np.zeros(10**6)}, {})
            within(kept.close, 5)
        process.kill()
        assert ends(process.pid)

    def test_a_failure_is_a_warning_with_the_next_and_an_error_at_the_end(self, kept, tmp_path):
        kept.folder.rename(tmp_path / "away")
        kept.folder.write_text("no folder")
        hurry(kept)
        give(kept, 2)
        hurry(kept)
        give(kept, 3)  # nothing is known yet of the one before
        hurry(kept)
        while not kept.due(4, last=False):
            time.sleep(0.001)
        with pytest.warns(UserWarning, match="Not a directory.* The training goes on, and tries"):
            give(kept, 4)
        with pytest.raises(OSError, match="Not a directory"):
            within(kept.flush)
        kept.folder.unlink()
        (tmp_path / "away").rename(kept.folder)
        hurry(kept)
        with pytest.warns(UserWarning, match="The training goes on"):
            give(kept, 5)
        hurry(kept)
        give(kept, 6)
        within(kept.flush)
        assert log_of(kept.folder) == (6, records(1, 1))

    @pytest.mark.parametrize("last", [True, False])
    def test_a_failure_that_the_next_makes_good_is_told_all_the_same(self, kept, last):
        with stopped(kept):
            hurry(kept)
            give(kept, 2)
            kept.computing()
            while not kept._later.ended:
                time.sleep(0.001)
            hurry(kept)
            give(kept, 3)
            kept._writer._process.kill()
        hurry(kept)
        if not last:
            with pytest.warns(UserWarning, match="exit code -9.* The training goes on"):
                give(kept, 4)
            within(kept.flush)
            assert log_of(kept.folder) == (4, records(1, 1))
        else:
            with pytest.warns(UserWarning, match="exit code -9.* That after it is written"):
                kept.flush()
            assert log_of(kept.folder) == (3, records(1, 1))

    def test_an_interrupted_training_waits_for_no_process_that_does_not_read(
        self, kept, monkeypatch
    ):
        monkeypatch.setattr(checkpoints, "_PATIENCE", 0.3)
        process = kept._writer._process
        process.send_signal(signal.SIGSTOP)
        hurry(kept)
        kept.save(2, {"n": np.zeros(10**6)}, {})
        kept.computing()
        within(kept.close)
        assert process.returncode == -signal.SIGKILL
        kept.load()
        assert kept.load().state == {"n": 1}

    def test_a_folder_that_is_gone_on_with_meanwhile(self, kept):
        hurry(kept)
        give(kept, 2)
        assert kept.load().state == {"n": 2}


class TestFailures:
    def test_is_a_warning_and_its_records_come_with_the_next(self, kept, tmp_path):
        kept.folder.rename(tmp_path / "away")
        kept.folder.write_text("no folder")
        save(kept, 2)
        why = r"\(Not a directory, .* free\)"
        text = rf"cannot be written into '.*run' {why}. The one before it is as"
        with pytest.raises(OSError, match=text):
            within(kept.flush)
        for n in (3, 4):
            with pytest.warns(UserWarning, match=f"{text} it was. The training goes on, and tries"):
                save(kept, n)
            with pytest.raises(OSError, match="cannot be written"):
                within(kept.flush)
        kept.folder.unlink()
        (tmp_path / "away").rename(kept.folder)
        with pytest.warns(UserWarning, match="The training goes on"):
            save(kept, 5)
        within(kept.flush)
        assert log_of(kept.folder) == (5, records(1, 5))
        save(kept, 6)  # without a word
        within(kept.flush)
        assert log_of(kept.folder) == (6, records(1, 6))

    @pytest.mark.parametrize("large", ["state", "record"])
    def test_a_full_disk_in_the_middle(self, kept, large):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(process_of(kept), resource.RLIMIT_FSIZE, (100_000, hard))
        numbers = np.arange(500_000.0)
        state = {"n": 2, "large": numbers if large == "state" else 0}
        added = [(2, "record 2"), (3, numbers if large == "record" else "record 3")]
        kept.save(2, state, {}, added)
        with pytest.raises(OSError, match="File too large"):
            within(kept.flush)
        assert log_of(kept.folder) == (1, records(1, 1))
        resource.prlimit(process_of(kept), resource.RLIMIT_FSIZE, (hard, hard))
        with pytest.warns(UserWarning, match="File too large"):
            kept.save(4, {"n": 4}, {}, [(4, "record 4")])
        within(kept.flush)
        n, found = log_of(kept.folder)
        assert (n, len(found), found[:2], found[3]) == (4, 4, records(1, 2), "record 4")
        np.testing.assert_array_equal(found[2], added[1][1])

    def test_a_process_that_is_killed_is_followed_by_another(self, kept):
        os.kill(process_of(kept), signal.SIGSTOP)
        save(kept, 2)
        kept._writer._process.kill()
        text = r"\(the process that writes them has ended with exit code -9, .* free\)"
        with pytest.raises(OSError, match=text):
            within(kept.flush)
        assert log_of(kept.folder) == (1, records(1, 1))
        with pytest.warns(UserWarning, match=f"{text}.* The training goes on, and tries again"):
            save(kept, 3)
        within(kept.flush)
        assert log_of(kept.folder) == (3, records(1, 3))

    @pytest.mark.filterwarnings("error")
    def test_without_a_word_where_nothing_was_lost(self, kept):
        kept._writer._process.kill()
        os.waitid(os.P_PID, process_of(kept), os.WEXITED | os.WNOWAIT)
        for n in (2, 3):
            save(kept, n)
            within(kept.flush)
            assert log_of(kept.folder) == (n, records(1, n))

    @pytest.mark.parametrize("keep", [1, 9])
    def test_one_that_was_killed_when_all_was_written(self, tmp_path, keep):
        """Nobody knows that it was, and its records are told again."""
        kept = Checkpoints(tmp_path, keep=keep)
        save(kept, 1)
        within(kept.flush)
        save(kept, 2)
        until = time.monotonic() + 10
        while Store(tmp_path).steps() != [1, 2][-keep:] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        os.read(kept._writer._from, 100)  # the answer is lost
        kept._writer._process.kill()
        with pytest.warns(UserWarning, match="exit code -9"):
            save(kept, 3)
        within(kept.close)
        assert log_of(tmp_path) == (3, records(1, 3))
        if keep > 1:
            (tmp_path / "step-3/state.bin").unlink()
            with pytest.warns(UserWarning, match="Going on from"):
                assert log_of(tmp_path) == (2, records(1, 2))

    def test_records_that_nobody_needs_any_more_are_not_owed(self, kept, tmp_path):
        kept.folder.rename(tmp_path / "away")
        kept.folder.write_text("no folder")
        for n in (2, 3):
            kept.save(n, {"n": n}, {}, [(n, f"record {n}")])
            with pytest.raises(OSError, match="Not a directory"):
                within(kept.flush)
            kept._untold = None  # no warning
        kept.folder.unlink()
        (tmp_path / "away").rename(kept.folder)
        kept.save(4, {"n": 4}, {}, [(4, "record 4")], 3)
        within(kept.flush)
        assert log_of(kept.folder) == (4, ["record 1", "record 3", "record 4"])

    def test_what_cannot_be_saved_is_said(self, kept):
        for bad in ({"callbacks": [{"state": {1, 2}}]}, {"callbacks": [{"state": b"bytes"}]}):
            with pytest.raises(TypeError, match="The state at /callbacks/0/state is a "):
                kept.save(2, bad, {})
        with pytest.raises(TypeError, match="The state at / is a set"):
            kept.save(2, {}, {}, [(2, {1})])
        save(kept, 2)
        within(kept.flush)
        assert log_of(kept.folder) == (2, records(1, 2))

    def test_is_forgotten_by_who_loads(self, kept):
        """What could not be written is of a training that is not gone on with."""
        os.kill(process_of(kept), signal.SIGSTOP)
        save(kept, 2)
        kept._writer._process.kill()
        within(kept.close)
        assert kept.load().state == {"n": 1}
        save(kept, 3)  # without a warning
        within(kept.flush)
        assert log_of(kept.folder) == (3, ["record 1", "record 3"])


class TestClaims:
    def test_is_one_trainings_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoints, "_LINGERS", 0.1)
        kept, other = Checkpoints(tmp_path), Checkpoints(tmp_path)
        kept.claim()
        save(kept, 1)
        handles = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with pytest.raises(BlockingIOError, match="Another training is writing into"):
                other.claim()
        assert len(os.listdir("/proc/self/fd")) == handles
        kept.close()
        other.claim()
        other.close()
        assert len(os.listdir("/proc/self/fd")) <= handles - 2

    def test_a_folder_that_was_taken_away_meanwhile(self, tmp_path):
        """Who waits for it claims the one that is there then."""
        first, second, third = (Checkpoints(tmp_path / "run") for _ in range(3))
        first.claim()
        waiting = threading.Thread(target=second.claim)
        waiting.start()
        time.sleep(0.2)
        first.close()  # with nothing written in it
        waiting.join(10)
        with pytest.raises(BlockingIOError):
            within(third.claim)
        assert second.folder.is_dir()
        second.close()
        assert not second.folder.exists()

    def test_without_standard_input(self, tmp_path):
        """The process that writes keeps the folder, whatever numbers files have."""
        text = """
            import os, signal, sys, time
            os.close(0)
            from test_checkpoints import Checkpoints, process_of, save
            kept = Checkpoints(sys.argv[1])
            kept.claim()
            save(kept, 1)
            kept.flush()
            os.kill(process_of(kept), signal.SIGSTOP)
            print(process_of(kept), flush=True)
            time.sleep(30)
        """
        training = script(text, tmp_path)
        writing = int(training.stdout.readline())
        training.kill()
        training.wait()
        threading.Timer(0.5, os.kill, (writing, signal.SIGCONT)).start()
        began = time.monotonic()
        kept = Checkpoints(tmp_path)
        kept.claim()
        assert time.monotonic() - began > 0.3
        kept.close()


class TestSurroundings:
    """Whatever the process is that trains, the one that writes can be started."""

    def test_a_process_that_was_forked_meanwhile(self, kept):
        pid = os.fork()
        if not pid:
            time.sleep(30)
            os._exit(0)
        try:
            save(kept, 2)
            began = time.monotonic()
            within(kept.close)
            assert time.monotonic() - began < 2
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert log_of(kept.folder) == (2, records(1, 2))

    def test_what_has_the_names_of_pythons_modules(self, tmp_path, monkeypatch):
        for name in ("struct", "hashlib", "select", "numpy"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
        (tmp_path / "sitecustomize.py").write_text("print('hello')")
        monkeypatch.setattr(sys, "path", ["", str(tmp_path), Path("a"), *sys.path])
        monkeypatch.chdir(tmp_path)
        kept = Checkpoints("run")
        save(kept, 1)
        within(kept.close)
        assert log_of(tmp_path / "run") == (1, records(1, 1))
        (tmp_path / "struct.py").unlink()
        (tmp_path / "hashlib.py").unlink()
        (tmp_path / "select.py").unlink()
        (tmp_path / "numpy.py").unlink()
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        save(kept, 2)
        within(kept.close)
        assert log_of(tmp_path / "run") == (2, records(1, 2))

    def test_another_folder_to_be_in(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        kept = Checkpoints("run")
        save(kept, 1)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        save(kept, 2)
        within(kept.flush)
        kept._writer._process.kill()
        os.waitid(os.P_PID, process_of(kept), os.WEXITED | os.WNOWAIT)
        save(kept, 3)
        within(kept.close)
        assert log_of(tmp_path / "run") == (3, records(1, 3))
        assert os.listdir(tmp_path / "elsewhere") == []

    def test_many_open_files(self, kept):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
        within(kept.close)
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        try:
            save(kept, 2)
            assert kept._writer._from > 1024
            within(kept.close)
        finally:
            for each in files:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert log_of(kept.folder) == (2, records(1, 2))

    def test_no_python(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
        kept = Checkpoints(tmp_path)
        kept.prepare()  # says nothing
        handles = len(os.listdir("/proc/self/fd"))
        save(kept, 1)
        with pytest.raises(OSError, match="No such file or directory"):
            within(kept.flush)
        within(kept.close)
        assert len(os.listdir("/proc/self/fd")) == handles


def script(text, *args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )


KILLED = """
    import os, signal, subprocess, sys, time
    import numpy as np
    from test_checkpoints import Checkpoints, process_of, save

    folder, how = sys.argv[1:]
    kept = Checkpoints(folder, keep=9)
    kept.claim()
    save(kept, 1)
    kept.flush()
    if how == "forked":
        if os.fork() == 0:
            time.sleep(30)  # and holds the pipe open
            os._exit(0)
    else:
        os.kill(process_of(kept), signal.SIGSTOP)
    print(process_of(kept), flush=True)
    if how == "in part":
        kept.save(2, {"n": np.zeros(10**7)}, {}, [(2, "record 2")])
    save(kept, 2)
    time.sleep(30)
"""


def killed(folder, how):
    """A training that is killed, and the process that wrote for it."""
    training = script(KILLED, folder, how)
    writing = int(training.stdout.readline())
    time.sleep(0.3)
    training.kill()
    training.wait()
    return writing


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid, seconds=10):
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_alive(pid)


class TestWhoIsKilled:
    def test_what_was_given_whole_is_written_and_waited_for(self, tmp_path):
        writing = killed(tmp_path, "whole")
        assert is_alive(writing)
        threading.Timer(0.5, os.kill, (writing, signal.SIGCONT)).start()
        kept = Checkpoints(tmp_path)
        began = time.monotonic()
        kept.claim()
        assert time.monotonic() - began > 0.3
        assert not is_alive(writing)
        assert kept.load().state == {"n": 2}
        assert list(kept.log()) == records(1, 2)
        kept.close()

    def test_not_for_ever(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoints, "_LINGERS", 0.3)
        writing = killed(tmp_path, "whole")
        with pytest.raises(BlockingIOError, match="Another training is writing into"):
            Checkpoints(tmp_path).claim()
        os.kill(writing, signal.SIGKILL)
        kept = Checkpoints(tmp_path)
        kept.claim()
        kept.close()

    def test_what_was_given_in_part_is_not(self, tmp_path):
        writing = killed(tmp_path, "in part")
        os.kill(writing, signal.SIGCONT)
        assert ends(writing)
        assert log_of(tmp_path) == (1, records(1, 1))
        assert not list(tmp_path.glob(".tmp-*"))

    def test_whoever_else_holds_the_pipe_open(self, tmp_path):
        writing = killed(tmp_path, "forked")
        assert ends(writing)
        assert log_of(tmp_path) == (2, records(1, 2))

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
    def test_signals_are_for_the_training_to_answer(self, tmp_path, name):
        """As a terminal or a service manager sends them to all processes of a group."""
        kept = Checkpoints(tmp_path)
        save(kept, 1)  # the process has hardly begun
        os.kill(process_of(kept), getattr(signal, name))
        within(kept.flush)
        os.kill(process_of(kept), getattr(signal, name))
        save(kept, 2)
        within(kept.flush)
        assert log_of(tmp_path) == (2, records(1, 2))
        within(kept.close)

    def test_the_mask_of_signals_is_as_it_was(self, kept):
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}

    def test_an_interruption_in_the_middle_of_giving(self, kept):
        process = kept._writer._process
        process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Timer(1.0, process.send_signal, (signal.SIGCONT,)).start()
        with pytest.raises(KeyboardInterrupt):
            kept.save(2, {"n": np.zeros(10**7)}, {}, [(2, "record 2")])
        assert process.returncode == -signal.SIGKILL
        assert log_of(kept.folder) == (1, records(1, 1))
        save(kept, 3)
        within(kept.flush)
        assert log_of(kept.folder) == (3, records(1, 3))


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
