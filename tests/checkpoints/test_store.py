"""Checkpoints on disk: whole or not there, whatever is killed, full, cut short or changed."""

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

import tfpg.checkpoints.store
from tfpg.checkpoints.disk import own_hash, read_manifest
from tfpg.checkpoints.serialization import pack
from tfpg.checkpoints.store import Store
from tfpg.errors import CheckpointCorruptError, VersionSkewError

ROOT = Path(__file__).parents[2]
RECORD = 384  # bytes, of those in the log


def state_of(n):
    return {"weights": np.arange(100.0) + n, "n": n}


def record_of(n):
    return {"rows": np.full(40, n, np.int64)}


def put(store, step, state, told=None, added=(), needed_from=0):
    added = [(position, pack(record)) for position, record in added]
    return store.save(step, pack(state), told, added, needed_from)


def save(store, n, needed_from=0):
    """The n-th checkpoint, of step 10 n, with a record at position n."""
    return put(store, 10 * n, state_of(n), {"iteration": n}, [(n, record_of(n))], needed_from)


def saved(folder, last=3, **options):
    store = Store(folder, **options)
    for n in range(1, last + 1):
        save(store, n)
    return store


def loaded(folder, first=1):
    """Which checkpoint is gone on with, after a look at all of it; and the store."""
    store = Store(folder)
    found = store.load()
    n = found.state["n"]
    np.testing.assert_array_equal(found.state["weights"], state_of(n)["weights"])
    assert (found.path.name, found.manifest["iteration"]) == (f"step-{10 * n}", n)
    records = list(store.log())
    assert [r["rows"].tolist() for r in records] == [[i] * 40 for i in range(first, n + 1)]
    assert not list(Path(folder).glob(".tmp-*"))
    return n, store


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def segments(folder):
    return {path.name: path.stat().st_size for path in sorted((Path(folder) / "log").iterdir())}


class TestSaving:
    def test_there_is_none_at_first(self, tmp_path):
        assert Store(tmp_path / "nowhere").load() is None
        assert Store(tmp_path).load() is None
        assert Store(tmp_path / "nowhere").steps() == []

    def test_what_was_saved_is_loaded(self, tmp_path):
        saved(tmp_path / "a" / "b")
        assert loaded(tmp_path / "a" / "b")[0] == 3

    def test_the_newest_by_number_and_not_by_name(self, tmp_path):
        store = Store(tmp_path)
        for step in (9, 10, 100):
            put(store, step, {"at": step})
        assert Store(tmp_path).load().state == {"at": 100}
        assert store.steps() == [10, 100]

    @pytest.mark.parametrize("keep", [1, 2, 3])
    def test_so_many_are_kept(self, tmp_path, keep):
        saved(tmp_path, 5, keep=keep)
        kept = [f"step-{10 * n}" for n in range(6 - keep, 6)]
        assert names(tmp_path) == ["latest", "log", *kept]
        assert (tmp_path / "latest").read_text() == "step-50\n"

    def test_the_log_grows_at_its_end_and_nothing_else_is_written_to_it(self, tmp_path):
        store = Store(tmp_path, keep=9)
        contents = []
        for n in range(1, 4):
            save(store, n)
            contents.append((tmp_path / "log/000000.bin").read_bytes())
        assert contents[1].startswith(contents[0])
        assert contents[2].startswith(contents[1])
        for n, data in enumerate(contents, start=1):
            (told,) = read_manifest(tmp_path / f"step-{10 * n}/manifest.json")["log"]
            assert (told["bytes"], told["last"]) == (len(data), n)
        assert [len(data) for data in contents] == [RECORD, 2 * RECORD, 3 * RECORD]

    def test_no_record_no_log(self, tmp_path):
        store = Store(tmp_path)
        put(store, 1, {})
        assert names(tmp_path) == ["latest", "step-1"]
        store = Store(tmp_path)
        store.load()
        assert list(store.log()) == []

    def test_several_records_and_none_between(self, tmp_path):
        store = Store(tmp_path)
        put(store, 10, state_of(1), {"iteration": 1}, [(1, record_of(1))])
        put(store, 20, state_of(2), {"iteration": 2}, [(2, record_of(2)), (3, record_of(3))])
        put(store, 30, state_of(3), {"iteration": 3})
        assert loaded(tmp_path)[0] == 3

    @pytest.mark.parametrize("where", ["first record", "second record", "state"])
    @pytest.mark.parametrize("fresh", [False, True])
    def test_an_end_in_the_middle_leaves_everything_as_it_was(self, tmp_path, where, fresh):
        store = saved(tmp_path)
        if fresh:
            _, store = loaded(tmp_path)
        before = names(tmp_path), segments(tmp_path)

        def ending(buffers, ends):
            yield from buffers[:-1]
            if ends:
                raise EOFError
            yield buffers[-1]

        def parts():
            added = [
                (4, ending(pack(record_of(4)), where == "first record")),
                (5, ending(pack(record_of(5)), where == "second record")),
            ]
            return ending(pack(state_of(4)), where == "state"), {}, added

        for _ in range(2):
            with pytest.raises(EOFError):
                store.save(40, *parts())
            assert (names(tmp_path), segments(tmp_path)) == before
        save(store, 4)
        assert loaded(tmp_path)[0] == 4

    def test_a_pointer_that_cannot_be_written_is_no_matter(self, tmp_path):
        (tmp_path / "latest" / "something").mkdir(parents=True)
        store = saved(tmp_path)
        assert store.steps() == [20, 30]
        assert loaded(tmp_path)[0] == 3

    def test_what_is_in_the_place_of_a_checkpoint_is_replaced(self, tmp_path):
        store = saved(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "step-40").symlink_to(tmp_path / "elsewhere")
        save(store, 4)
        (tmp_path / "step-50").write_text("a file")
        save(store, 5)
        assert loaded(tmp_path)[0] == 5
        assert (tmp_path / "elsewhere").is_dir()

    def test_a_log_that_was_cut_under_a_training_is_told(self, tmp_path):
        store = saved(tmp_path)
        os.truncate(tmp_path / "log/000000.bin", 500)
        with pytest.raises(OSError, match="was cut or removed"):
            save(store, 4)
        assert store.steps() == [20, 30]


TWO_BY_TWO = {"000000.bin": 2 * RECORD, "000001.bin": 2 * RECORD, "000002.bin": RECORD}


class TestSegments:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(tfpg.checkpoints.store, "_SEGMENT_BYTES", 2 * RECORD)  # two records

    def test_a_full_one_is_followed_by_another(self, tmp_path):
        saved(tmp_path, 5)
        assert segments(tmp_path) == TWO_BY_TWO
        assert loaded(tmp_path)[0] == 5

    @pytest.mark.parametrize("how", ["load", "go_on_with"])
    def test_another_process_begins_its_own(self, tmp_path, how):
        known = []
        for n in range(1, 8, 2):
            store = Store(tmp_path)
            if how == "load" or n == 1:
                store.load()
            else:
                store.go_on_with(known)
            for i in range(n, n + 1 + (n < 7)):
                save(store, i)
            known = store.segments
        sizes = [2 * RECORD, 2 * RECORD, 2 * RECORD, RECORD]
        assert list(segments(tmp_path).values()) == sizes
        assert loaded(tmp_path)[0] == 7

    def test_one_that_is_not_full_stays_as_another_process_left_it(self, tmp_path):
        saved(tmp_path, 1)
        _, store = loaded(tmp_path)
        save(store, 2)
        save(store, 3)
        assert list(segments(tmp_path).values()) == [RECORD, 2 * RECORD]
        assert loaded(tmp_path)[0] == 3

    def test_those_that_no_checkpoint_needs_are_removed(self, tmp_path):
        store = Store(tmp_path)
        for n in range(1, 8):
            save(store, n, needed_from=n - 1)
        # Of the last: 6 and 7. The one before it needs 5, in the same segment as 6.
        assert list(segments(tmp_path)) == ["000002.bin", "000003.bin"]
        assert loaded(tmp_path, first=5)[0] == 7
        shutil.rmtree(tmp_path / "step-70")
        assert loaded(tmp_path, first=5)[0] == 6

    def test_the_last_one_stays_however_old_it_is(self, tmp_path):
        store = saved(tmp_path, 3)
        put(store, 40, state_of(4), {"iteration": 4}, needed_from=100)
        put(store, 50, state_of(5), {"iteration": 5}, needed_from=100)
        assert list(segments(tmp_path)) == ["000001.bin"]
        put(store, 60, state_of(6), {"iteration": 6}, [(101, record_of(1))], needed_from=100)
        assert [r["rows"][0] for r in store.log()] == [3, 1]

    def test_a_log_that_begins_anew_leaves_those_before_whole(self, tmp_path):
        store = saved(tmp_path, 3)
        store.go_on_with([])
        put(store, 40, {"n": 4}, added=[(1, "anew")])
        assert list(store.log()) == ["anew"]
        os.remove(tmp_path / "step-40/state.bin")
        with pytest.warns(UserWarning, match="Going on from .*step-30"):
            assert loaded(tmp_path)[0] == 3

    def test_and_removes_them_when_nobody_needs_them(self, tmp_path):
        store = saved(tmp_path, 3)
        store.go_on_with([])
        for n in (4, 5):
            put(store, 10 * n, {"n": n}, added=[(n, "anew")])
        assert list(segments(tmp_path)) == ["000002.bin"]


def cut(path):
    os.truncate(path, path.stat().st_size - 3)


def emptied(path):
    os.truncate(path, 0)


def longer(path):
    with path.open("ab") as file:
        file.write(b"\n\n")


def symlink(path):
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def flipped(path, place=None, bit=0):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1 << bit
    path.write_bytes(data)


SIZE, HASH = r"expected [\d,]+ bytes, found [\d,]+", "expected sha256 .*found [0-9a-f]{64}"
STATE_FAULTS = [
    (cut, SIZE),
    (emptied, SIZE),
    (longer, SIZE),
    (flipped, HASH),
    (Path.unlink, "cannot be read: No such file"),
    (symlink, "cannot be read: Too many levels"),
    (dangling, "cannot be read: Too many levels"),
    (fifo, "is no regular file"),
    (folder, "is no regular file"),
]
MANIFEST_FAULTS = [
    (fault, "is not the manifest" if fault in (cut, emptied) else message)
    for fault, message in STATE_FAULTS
    if fault not in (longer, flipped)
]


class TestFallingBack:
    @pytest.mark.parametrize(
        ("file", "fault", "message"),
        [
            *(("state.bin", *each) for each in STATE_FAULTS),
            *(("manifest.json", *each) for each in MANIFEST_FAULTS),
        ],
    )
    def test_to_the_one_before_and_on_from_there(self, tmp_path, file, fault, message):
        saved(tmp_path)
        path = tmp_path / "step-30" / file
        fault(path)
        text = f"'{path}' .*{message}.* Going on from '.*step-20'"
        with pytest.warns(UserWarning, match=text):
            n, store = loaded(tmp_path)
        assert n == 2
        for n in (3, 4):  # the same number again, and on
            save(store, n)
            assert loaded(tmp_path)[0] == n
        assert store.steps() == [30, 40]

    @pytest.mark.parametrize(
        ("fault", "message"), [(cut, SIZE), (lambda path: flipped(path, 2 * RECORD + 100), HASH)]
    )
    def test_where_only_the_end_of_the_log_is_broken(self, tmp_path, fault, message):
        saved(tmp_path)
        path = tmp_path / "log/000000.bin"
        fault(path)
        with pytest.warns(UserWarning, match=f"'{path}' .*{message}.* Going on"):
            n, store = loaded(tmp_path)
        assert n == 2
        save(store, 3)
        assert segments(tmp_path)["000001.bin"] == RECORD
        assert loaded(tmp_path)[0] == 3

    @pytest.mark.parametrize(
        ("fault", "message"),
        [each for each in STATE_FAULTS if each[0] not in (cut, longer, flipped)]
        + [(lambda path: flipped(path, 100), HASH)],
    )
    def test_a_log_that_both_need(self, tmp_path, fault, message):
        saved(tmp_path)
        path = tmp_path / "log/000000.bin"
        fault(path)
        with pytest.raises(
            CheckpointCorruptError, match=f"'{path}' .*{message}.* Nor is any other of the 2: begin"
        ):
            Store(tmp_path).load()

    def test_what_lies_behind_the_end_of_the_log_is_nobodys(self, tmp_path):
        saved(tmp_path)
        longer(tmp_path / "log/000000.bin")
        n, store = loaded(tmp_path)
        save(store, n + 1)
        assert loaded(tmp_path)[0] == 4

    def test_when_the_folder_is_something_else(self, tmp_path):
        saved(tmp_path)
        shutil.rmtree(tmp_path / "step-30")
        (tmp_path / "step-30").write_text("no folder")
        with pytest.warns(UserWarning, match="step-30/manifest.json' cannot be read: Not a dir"):
            assert loaded(tmp_path)[0] == 2

    def test_all_are_broken(self, tmp_path):
        saved(tmp_path)
        flipped(tmp_path / "step-20/state.bin")
        cut(tmp_path / "step-30/state.bin")
        with pytest.raises(
            CheckpointCorruptError, match=f"step-30.*{SIZE}.* Nor is any other of the 2: begin"
        ):
            Store(tmp_path).load()
        assert Store(tmp_path).steps() == [20, 30]  # for whoever wants to look

    @pytest.mark.parametrize("file", ["state.bin", "manifest.json"])
    def test_any_bit(self, tmp_path, file):
        saved(tmp_path)
        path = tmp_path / "step-30" / file
        data = path.read_bytes()
        for place in range(0, len(data), 3 if file == "manifest.json" else 7):
            flipped(path, place, bit=place % 8)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = Store(tmp_path).load()
            if found.state["n"] == 3:  # spaces between what is said in the manifest
                assert file == "manifest.json"
                assert chr(data[place]).isspace()
            else:
                assert (found.state["n"], len(said)) == (2, 1)
            path.write_bytes(data)

    def test_any_byte_of_the_log(self, tmp_path):
        saved(tmp_path)
        path = tmp_path / "log/000000.bin"
        data = path.read_bytes()
        for place in range(0, len(data), 9):
            flipped(path, place, bit=place % 8)
            if place < 2 * RECORD:
                with pytest.raises(CheckpointCorruptError, match=HASH):
                    Store(tmp_path).load()
            else:
                with pytest.warns(UserWarning, match=HASH):
                    assert Store(tmp_path).load().state["n"] == 2
            path.write_bytes(data)

    @pytest.mark.parametrize(
        "text", ["", "null", "7", "[]", "{}", '{"sha256": 1, "files": [], "log": 3}', "[" * 10**5]
    )
    def test_manifests_of_nothing(self, tmp_path, text):
        saved(tmp_path)
        (tmp_path / "step-30/manifest.json").write_text(text)
        with pytest.warns(UserWarning, match="is not the manifest of a checkpoint"):
            assert loaded(tmp_path)[0] == 2

    def test_a_disk_that_cannot_read(self):
        """Where nothing is mapped, this file gives an input/output error."""
        with pytest.raises(CheckpointCorruptError, match="cannot be read: Input/output error"):
            read_manifest(Path("/proc/self/mem"))

    def rewritten(self, folder, **entries):
        path = folder / "manifest.json"
        manifest = {**json.loads(path.read_text()), **entries}
        del manifest["sha256"]
        path.write_text(json.dumps({**manifest, "sha256": own_hash(manifest)}))

    def test_no_file_outside_the_folder_is_named(self, tmp_path):
        saved(tmp_path / "run")
        shutil.copy(tmp_path / "run/log/000000.bin", tmp_path / "000000.bin")
        log = read_manifest(tmp_path / "run/step-30/manifest.json")["log"]
        self.rewritten(tmp_path / "run/step-30", log=[{**log[0], "file": "../../000000.bin"}])
        with pytest.warns(UserWarning, match="names '../../000000.bin'"):
            assert loaded(tmp_path / "run")[0] == 2

    @pytest.mark.parametrize(
        ("schema", "what"),
        [
            (3, "pip install -U tfpg"),
            ("x", "pip install"),
            (1, "go on with the tfpg that wrote it"),
        ],
    )
    def test_another_form_is_no_corruption(self, tmp_path, schema, what):
        saved(tmp_path)
        self.rewritten(tmp_path / "step-30", schema=schema)
        text = f"has the form {schema}, and this tfpg reads 2: {what}"
        with pytest.raises(VersionSkewError, match=text):
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
# does to the disk, or in the middle of it where that is a write, until it comes to its end.
KILLS = """
import os, pathlib, shutil, signal, sys
import tfpg.checkpoints.store
from tfpg.checkpoints.store import Store
from test_store import save

tfpg.checkpoints.store._SEGMENT_BYTES = int(sys.argv[2])
base, first, n = pathlib.Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Killed:
    left = None

    def __call__(self, name, function, *args, **kwargs):
        self.left -= 1
        if not self.left:
            os.write(2, name.encode() + b" ")
            if name == "write":
                function(args[0][: len(args[0]) // 2])
                function.__self__.flush()
            die()
        return function(*args, **kwargs)

killed = Killed()

class File:
    def __init__(self, file):
        self.file = file

    def write(self, data):
        return killed("write", self.file.write, data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

def child(folder, k):
    store = Store(folder)
    store.load()
    for i in range(first, n):
        save(store, i, needed_from=i - 1)
    killed.left = k
    for name in ("mkdir", "fsync", "rename", "replace", "rmdir", "unlink", "truncate", "open"):
        def wrapped(*args, name=name, function=getattr(os, name), **kwargs):
            return killed(name, function, *args, **kwargs)
        setattr(os, name, wrapped)
    plain = pathlib.Path.open
    pathlib.Path.open = lambda *args, **kwargs: File(plain(*args, **kwargs))
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


class TestKills:
    @pytest.mark.parametrize(
        ("segment", "before", "broken"),
        [
            pytest.param(10**6, 1, None, id="append"),
            pytest.param(10**6, 0, None, id="own-segment"),
            pytest.param(2 * RECORD, 2, None, id="another-segment", marks=pytest.mark.slow),
            pytest.param(2 * RECORD, 0, "step-30", id="again", marks=pytest.mark.slow),
        ],
    )
    def test_at_any_point(self, tmp_path, monkeypatch, segment, before, broken):
        """Whatever is left, it is a whole checkpoint, the last or the new one, and goes on.

        The process that is killed has saved as many before.
        """
        monkeypatch.setattr(tfpg.checkpoints.store, "_SEGMENT_BYTES", segment)
        base, last = tmp_path / "base", 3 + before
        store = Store(base)
        for n in range(1, 4):
            save(store, n, needed_from=n - 1)
        if broken:
            flipped(base / broken / "state.bin")
            last -= 1
        points = int(run(KILLS, base, segment, last + 1 - before, last + 1))
        assert points >= 19
        met = set()
        for k in range(1, points + 1):
            folder = tmp_path / f"{k:03d}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if broken else "error")
                store = Store(folder)
                found = store.load()
            left = found.state["n"]
            met.add(left)
            assert loaded_quietly(folder) == left
            for n in range(left + 1, last + 3):
                save(store, n, needed_from=n - 1)
            assert loaded_quietly(folder) == last + 2
            assert store.steps() == [10 * (last + 1), 10 * (last + 2)]
        assert met == {last, last + 1}


def loaded_quietly(folder):
    """Which checkpoint is gone on with, whose records are there from where they are needed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = Store(folder)
        n = store.load().state["n"]
        first = int(next(store.log())["rows"][0])
        assert first <= max(n - 1, 1)
        return loaded(folder, first)[0]


FULL = """
import os, resource, sys
import numpy as np
from tfpg.checkpoints.store import Store
from test_store import loaded, names, put, record_of, save, saved, segments, state_of

folder, what = sys.argv[1:]
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

def limited(size, *args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        put(store, *args)
    except OSError as error:
        print(error.strerror)
    else:
        print("written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

store = Store(folder) if what == "first" else saved(folder)
before = names(folder) if what != "first" else []
sizes = segments(folder) if what != "first" else {}
large = {"large": np.arange(30_000.0)}
for _ in range(3):
    if what == "log":
        limited(20_000, 40, state_of(4), {}, [(4, record_of(4)), (5, large)])
    elif what == "new segment":
        import tfpg.checkpoints.store
        tfpg.checkpoints.store._SEGMENT_BYTES = 1000
        limited(20_000, 40, state_of(4), {}, [(4, large)])
    elif what == "buffered":  # nothing is written before the flush
        limited(1300, 40, state_of(4), {}, [(4, record_of(4))])
    else:
        limited(20_000, 40, large, {}, [(4, record_of(4))])
    now = {name: size for name, size in segments(folder).items() if size}
    assert now == sizes, now
    if what != "first":
        assert names(folder) == before, names(folder)
        assert loaded(folder)[0] == 3
for n in (1, 2, 3) if what == "first" else (4, 5):
    save(store, n)
    assert loaded(folder)[0] == n
assert all(segments(folder).values()), segments(folder)
"""


@pytest.mark.parametrize("what", ["state", "log", "new segment", "buffered", "first"])
def test_a_full_disk(tmp_path, what):
    """What was there stays, the log is as it was, and when there is room again, it goes on."""
    assert run(FULL, tmp_path, what) == "File too large\n" * 3
