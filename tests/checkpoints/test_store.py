"""Checkpoint files: whole or not there, whatever is killed, full, cut short or changed."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

from tfpg.checkpoints.store import Store, read_file
from tfpg.errors import CheckpointCorruptError, VersionSkewError

ROOT = Path(__file__).parents[2]


def state_of(n):
    return {"weights": np.arange(100.0) + n, "n": n}


def entry_of(n):
    return {"rows": np.full(40, n, np.int64)}


def save(store, n, needed_from=0):
    """Save the n-th checkpoint, of step 10 n, with a log entry at position n."""
    header = {"iteration": n}
    store.save(10 * n, state_of(n), header, entry_of(n), position=n, needed_from=needed_from)


def saved(folder, last=3, **options):
    store = Store(folder, **options)
    for n in range(1, last + 1):
        save(store, n)
    return store


def loaded(folder, first=1):
    """Load a folder's newest checkpoint, check all of it, and return its number and the store."""
    store = Store(folder)
    found = store.load()
    n = found.state["n"]
    np.testing.assert_array_equal(found.state["weights"], state_of(n)["weights"])
    assert (found.path.name, found.header["iteration"]) == (f"step-{10 * n}.ckpt", n)
    entries = [entry["rows"].tolist() for entry in store.log()]
    assert entries == [[i] * 40 for i in range(first, n + 1)]
    assert not list(Path(folder).rglob("*.tmp-*"))
    return n, store


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*"))


def log_numbers(folder):
    return sorted(int(path.stem) for path in (Path(folder) / "log").iterdir())


class TestSaving:
    def test_an_empty_or_missing_folder_has_no_checkpoint(self, tmp_path):
        for folder in (tmp_path, tmp_path / "nowhere"):
            assert Store(folder).load() is None
            assert Store(folder).steps() == []

    def test_a_saved_checkpoint_is_loaded(self, tmp_path):
        saved(tmp_path / "a" / "b")
        assert loaded(tmp_path / "a" / "b")[0] == 3

    def test_the_newest_checkpoint_is_the_one_with_the_largest_number(self, tmp_path):
        store = Store(tmp_path)
        for step in (9, 10, 100):
            store.save(step, {"at": step}, {})
        assert Store(tmp_path).load().state == {"at": 100}
        assert store.steps() == [10, 100]

    @pytest.mark.parametrize("keep", [1, 2, 3])
    def test_the_newest_checkpoints_are_kept(self, tmp_path, keep):
        saved(tmp_path, 5, keep=keep)
        assert Store(tmp_path).steps() == [10 * n for n in range(6 - keep, 6)]

    def test_log_files_never_change(self, tmp_path):
        store = Store(tmp_path)
        contents = {}
        for n in range(1, 5):
            save(store, n)
            now = {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()}
            assert len(now) == n
            assert now.items() >= contents.items()
            contents = now

    def test_without_entries_there_is_no_log(self, tmp_path):
        store = Store(tmp_path)
        store.save(1, {}, {})
        assert [path.name for path in tmp_path.iterdir()] == ["step-1.ckpt"]
        store = Store(tmp_path)
        store.load()
        assert list(store.log()) == []

    def test_a_checkpoint_without_a_new_entry_keeps_the_log(self, tmp_path):
        store = saved(tmp_path, 1)
        store.save(20, {"n": 2}, {})
        other = Store(tmp_path)
        assert other.load().state == {"n": 2}
        assert [entry["rows"][0] for entry in other.log()] == [1]

    def test_log_files_that_no_checkpoint_needs_are_removed(self, tmp_path):
        store = Store(tmp_path)
        for n in range(1, 8):
            save(store, n, needed_from=n - 1)
        # The last checkpoint needs 6 and 7, the one before it 5 and 6.
        assert log_numbers(tmp_path) == [4, 5, 6]
        assert loaded(tmp_path, first=6)[0] == 7
        (tmp_path / "step-70.ckpt").unlink()
        assert loaded(tmp_path, first=5)[0] == 6

    def test_another_process_continues_the_log(self, tmp_path):
        for n in range(1, 8, 2):
            store = Store(tmp_path)
            store.load()
            for i in range(n, n + 2):
                save(store, i, needed_from=i - 2)
        assert loaded(tmp_path, first=6)[0] == 8
        assert log_numbers(tmp_path) == [4, 5, 6, 7]

    def test_a_folder_that_was_emptied_in_the_meantime(self, tmp_path):
        store = saved(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        assert store.load() is None
        save(store, 1)
        assert loaded(tmp_path / "run")[0] == 1

    def test_a_state_that_cannot_be_saved_changes_nothing(self, tmp_path):
        store = saved(tmp_path)
        before = names(tmp_path)
        for state, entry in (({"bad": {1}}, entry_of(4)), ({}, {"bad": {1}})):
            with pytest.raises(TypeError, match="The state at /bad is a set"):
                store.save(40, state, {}, entry, position=4)
            assert names(tmp_path) == before
        save(store, 4)
        assert loaded(tmp_path)[0] == 4

    def test_the_header_is_a_readable_first_line(self, tmp_path):
        saved(tmp_path)
        header = json.loads((tmp_path / "step-30.ckpt").read_bytes().splitlines()[0])
        assert (header["format"], header["step"], header["iteration"]) == (4, 30, 3)
        assert len(header["sha256"]) == 64


def cut(path):
    os.truncate(path, path.stat().st_size - 3)


def emptied(path):
    os.truncate(path, 0)


def longer(path):
    with path.open("ab") as file:
        file.write(b"\n\n")


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def flipped(path, place=-100, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


SIZE, HASH = r"expected [\d,]+ bytes .*found [\d,]+", "expected sha256 .*found [0-9a-f]{64}"
FAULTS = [
    (cut, SIZE),
    (emptied, "does not begin with the header"),
    (longer, SIZE),
    (flipped, HASH),
    (Path.unlink, "cannot be read: No such file"),
    (dangling, "cannot be read: No such file"),
    (fifo, "is not a regular file"),
    (folder, "is not a regular file"),
]


class TestFallingBack:
    @pytest.mark.parametrize(
        ("name", "fault", "message"),
        [
            *(("log/000002.log", *each) for each in FAULTS),
            *(("step-30.ckpt", *each) for each in FAULTS if each[0] is not Path.unlink),
        ],
    )
    def test_a_broken_checkpoint_falls_back_to_the_one_before(self, tmp_path, name, fault, message):
        saved(tmp_path)
        path = tmp_path / name
        fault(path)
        with pytest.warns(UserWarning, match=f"'{path}' .*{message}.* Resuming from '.*step-20"):
            n, store = loaded(tmp_path)
        assert n == 2
        if path.is_dir():
            path.rmdir()
        for n in (3, 4):  # the same number again, and the next
            save(store, n)
            assert loaded(tmp_path)[0] == n
        assert store.steps() == [30, 40]

    def test_a_log_file_that_all_checkpoints_need(self, tmp_path):
        saved(tmp_path)
        flipped(tmp_path / "log/000000.log")
        with pytest.raises(CheckpointCorruptError, match=f"{HASH}.* None of the 2 checkpoints is"):
            Store(tmp_path).load()

    def test_a_whole_log_file_of_another_run_is_rejected(self, tmp_path):
        saved(tmp_path / "a")
        saved(tmp_path / "b", 2)
        store = Store(tmp_path / "b")
        store.load()
        store.save(30, state_of(3), {"iteration": 3}, entry_of(7), position=3)
        os.replace(tmp_path / "b/log/000002.log", tmp_path / "a/log/000002.log")
        with pytest.warns(UserWarning, match=HASH):
            assert loaded(tmp_path / "a")[0] == 2

    def test_all_checkpoints_are_broken(self, tmp_path):
        saved(tmp_path)
        flipped(tmp_path / "step-20.ckpt")
        cut(tmp_path / "step-30.ckpt")
        with pytest.raises(
            CheckpointCorruptError, match=f"step-30.*{SIZE}.* None of the 2 .* Start again"
        ):
            Store(tmp_path).load()
        assert Store(tmp_path).steps() == [20, 30]

    def test_any_changed_byte_is_noticed(self, tmp_path):
        saved(tmp_path)
        path = tmp_path / "step-30.ckpt"
        data = path.read_bytes()
        for place in range(0, len(data), 5):
            flipped(path, place, bit=place % 8)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = Store(tmp_path).load()
            if found.state["n"] == 3:  # a space between two entries of the header
                assert chr(data[place]).isspace()
            else:
                assert (found.state["n"], len(caught)) == (2, 1)
            path.write_bytes(data)

    @pytest.mark.parametrize(
        "text", ["", "null", "7", "[]", "{}", '{"sha256": 1, "bytes": 2}', "[" * 10**5]
    )
    def test_a_header_that_is_something_else(self, tmp_path, text):
        saved(tmp_path)
        (tmp_path / "step-30.ckpt").write_text(f"{text}\n")
        with pytest.warns(UserWarning, match="does not begin with the header of a checkpoint"):
            assert loaded(tmp_path)[0] == 2

    def test_a_disk_that_cannot_be_read(self):
        """Where nothing is mapped, this file gives an input/output error."""
        with pytest.raises(CheckpointCorruptError, match="cannot be read: Input/output error"):
            read_file(Path("/proc/self/mem"))

    def test_checkpoints_of_an_older_tfpg_are_refused(self, tmp_path):
        (tmp_path / "step-10").mkdir()
        (tmp_path / "step-10/manifest.json").write_text("{}")
        with pytest.raises(VersionSkewError, match="resume with the version that wrote them"):
            Store(tmp_path).load()

    def test_checkpoints_of_another_format_are_refused(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr("tfpg.checkpoints.store.FORMAT", 5)
            saved(tmp_path)
        with pytest.raises(VersionSkewError, match="has format 5, but this tfpg reads 4"):
            Store(tmp_path).load()


def run(script, *args):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# In copies of a folder, one after another, a process kills itself before the k-th thing that it
# does to the disk, until it comes to its end.
KILLS = """
import os, pathlib, shutil, signal, sys
from tfpg.checkpoints.store import Store
from test_store import save

base, n = pathlib.Path(sys.argv[1]), int(sys.argv[2])
left = 0

def count(function):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted

def child(folder, k):
    global left
    store = Store(folder)
    store.load()
    left = k
    for name in ("mkdir", "fsync", "rename", "replace", "unlink", "open", "chmod", "close"):
        setattr(os, name, count(getattr(os, name)))
    save(store, n, needed_from=n - 1)
    os._exit(0)

k, status = 0, None
while status != 0:
    k += 1
    folder = base.parent / f"{k:03d}"
    shutil.copytree(base, folder)
    pid = os.fork()
    if not pid:
        child(folder, k)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
print(k - 1)
"""


@pytest.mark.parametrize("broken", [False, True])
def test_a_process_killed_at_any_point_leaves_a_whole_checkpoint(tmp_path, broken):
    """It is the last or the new one, and the run continues from it."""
    base, last = tmp_path / "base", 3
    store = Store(base)
    for n in range(1, 4):
        save(store, n, needed_from=n - 1)
    if broken:
        flipped(base / "step-30.ckpt")
        last = 2
    points = int(run(KILLS, base, last + 1))
    assert points >= 15
    found = set()
    for k in range(1, points + 1):
        folder = tmp_path / f"{k:03d}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if broken else "error")
            store = Store(folder)
            left = store.load().state["n"]
        found.add(left)
        for n in range(left + 1, last + 3):
            save(store, n, needed_from=n - 1)
        assert loaded(folder, first=last + 1)[0] == last + 2
        assert store.steps() == [10 * (last + 1), 10 * (last + 2)]
    assert found == {last, last + 1}


FULL = """
import resource, sys
import numpy as np
from test_store import loaded, names, entry_of, save, saved, state_of

folder, what = sys.argv[1:]
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
store = saved(folder)
before = names(folder)
large = {"large": np.arange(30_000.0)}
for _ in range(3):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    state, entry = (large, entry_of(4)) if what == "state" else (state_of(4), large)
    try:
        store.save(40, state, {}, entry, position=4)
    except OSError as error:
        print(error.strerror)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == before, names(folder)
    assert loaded(folder)[0] == 3
for n in (4, 5):
    save(store, n)
    assert loaded(folder)[0] == n
"""


@pytest.mark.parametrize("what", ["state", "log"])
def test_a_full_disk_changes_nothing_and_the_next_checkpoint_succeeds(tmp_path, what):
    assert run(FULL, tmp_path, what) == "File too large\n" * 3
