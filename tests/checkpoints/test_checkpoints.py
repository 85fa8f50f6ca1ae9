"""When checkpoints are due, whose the folder is, and what happens when one cannot be written."""

import json
import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import tfpg
from tfpg.checkpoints.manager import Checkpoints, check_versions, versions
from tfpg.checkpoints.store import Store
from tfpg.errors import CheckpointCorruptError, VersionSkewError


def save(checkpoints, n, **options):
    return checkpoints.save(n, {"n": n}, {}, entry={"n": n}, position=n, **options)


def contents(folder):
    store = Store(folder)
    found = store.load()
    return found.state["n"], [entry["n"] for entry in store.log()]


class TestWhenOneIsDue:
    def test_by_default_every_ten_seconds(self, tmp_path):
        assert Checkpoints(tmp_path).every_seconds == 10.0
        with Checkpoints(tmp_path) as checkpoints:
            assert not checkpoints.due(0)

    def test_every_so_many_seconds(self, tmp_path):
        with Checkpoints(tmp_path, every_seconds=0.2) as checkpoints:
            assert not checkpoints.due(0)
            time.sleep(0.25)
            assert checkpoints.due(1)
            save(checkpoints, 1)
            assert not checkpoints.due(2)

    def test_zero_seconds_are_every_iteration(self, tmp_path):
        with Checkpoints(tmp_path, every_seconds=0) as checkpoints:
            assert all(checkpoints.due(n) for n in range(5))

    def test_every_so_many_iterations(self, tmp_path):
        with Checkpoints(tmp_path, every_iterations=3) as checkpoints:
            assert [checkpoints.due(n) for n in range(6)] == [0, 0, 1, 0, 0, 1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"every_seconds": -1.0}, "every_seconds must be at least 0, but it is -1.0"),
            ({"every_seconds": float("nan")}, "every_seconds must be at least 0, but it is nan"),
            ({"every_iterations": 0}, "every_iterations must be at least 1, but it is 0"),
            ({"keep": 0}, "keep must be at least 1, but it is 0"),
        ],
    )
    def test_options_out_of_range_are_refused(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, **options)


class TestAFolderThatCannotBeWritten:
    @pytest.fixture
    def broken(self, tmp_path):
        """A folder with a checkpoint, and a file in the place of its log."""
        checkpoints = Checkpoints(tmp_path / "run")
        save(checkpoints, 1)
        (tmp_path / "run/log").rename(tmp_path / "log")
        (tmp_path / "run/log").write_text("not a folder")
        return checkpoints

    def fixed(self, checkpoints):
        (checkpoints.folder / "log").unlink()
        (checkpoints.folder.parent / "log").rename(checkpoints.folder / "log")

    def test_one_warning_and_the_next_checkpoint_is_tried(self, broken):
        text = r"cannot be written to '.*run' \(.*, .* free\).* Training continues, and tries"
        with pytest.warns(UserWarning, match=text):
            assert not save(broken, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not save(broken, 3)
        assert broken.folder.joinpath("step-1.ckpt").exists()
        self.fixed(broken)
        assert save(broken, 4)
        assert contents(broken.folder) == (4, [1, 4])

    def test_another_failure_later_is_another_warning(self, broken):
        with pytest.warns(UserWarning, match="Training continues"):
            save(broken, 2)
        self.fixed(broken)
        save(broken, 3)
        (broken.folder / "log").rename(broken.folder.parent / "log")
        (broken.folder / "log").write_text("not a folder")
        with pytest.warns(UserWarning, match="Training continues"):
            save(broken, 4)

    def test_the_last_checkpoint_is_an_error(self, broken):
        with pytest.raises(OSError, match=r"cannot be written .* The previous one is unchanged"):
            save(broken, 2, last=True)

    def test_a_failed_checkpoint_is_tried_again_when_the_next_is_due(self, broken):
        with broken:
            with pytest.warns(UserWarning, match="Training continues"):
                save(broken, 2)
            assert not broken.due(1)


class TestTheLock:
    def test_a_folder_belongs_to_one_training(self, tmp_path):
        handles = len(os.listdir("/proc/self/fd"))
        with Checkpoints(tmp_path) as checkpoints:
            save(checkpoints, 1)
            with (
                pytest.raises(BlockingIOError, match="Another run is writing to"),
                Checkpoints(tmp_path),
            ):
                pass
        with Checkpoints(tmp_path):
            pass
        assert len(os.listdir("/proc/self/fd")) == handles

    def test_a_process_that_is_just_ending_is_waited_for(self, tmp_path):
        code = "import sys, time; from tfpg.checkpoints.manager import Checkpoints\n"
        code += "with Checkpoints(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
        other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        assert other.stdout.readline() == b"locked\n"
        threading.Timer(0.5, other.kill).start()
        with Checkpoints(tmp_path):
            assert other.wait(10) == -9

    def test_a_folder_without_a_checkpoint_is_removed(self, tmp_path):
        with Checkpoints(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()
        assert not (tmp_path / "run").exists()

    def test_a_process_may_change_its_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with Checkpoints("run") as checkpoints:
            save(checkpoints, 1)
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            save(checkpoints, 2)
        assert contents(tmp_path / "run") == (2, [1, 2])
        assert os.listdir(tmp_path / "elsewhere") == []


def test_arrays_that_were_loaded_can_be_written_to(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"sums": np.zeros(3)}, {})
    sums = Checkpoints(tmp_path).load().state["sums"]
    sums += 1
    assert sums.tolist() == [1.0, 1.0, 1.0]


def written_with(folder, monkeypatch, **others):
    with monkeypatch.context() as patched:
        found = {**versions(), **others}
        patched.setattr("tfpg.checkpoints.manager.versions", lambda: found)
        save(Checkpoints(folder), 1)


class TestVersions:
    @pytest.mark.parametrize("package", ["tfpg", "keras"])
    def test_a_newer_tfpg_or_keras_is_an_error(self, tmp_path, monkeypatch, package):
        written_with(tmp_path, monkeypatch, **{package: "99.1.0"})
        text = f"step-1.ckpt was written with {package} 99.1.0, but {versions()[package]} is inst"
        with pytest.raises(VersionSkewError, match=text):
            Checkpoints(tmp_path).load()
        with pytest.raises(VersionSkewError, match=f"pip install -U {package}, .*_skew=True"):
            Checkpoints(tmp_path).load()
        assert Checkpoints(tmp_path, allow_version_skew=True).load().state == {"n": 1}

    @pytest.mark.parametrize(
        "other",
        [
            *({"tfpg": "0.0.1"}, {"keras": "2.9"}, {"numpy": "99.0"}, {"gymnasium": "1.0"}),
            *({"python": "3.1"}, {"tensorflow": "unknown"}, {"keras": "3.15.0"}),
        ],
    )
    def test_other_versions_are_a_warning(self, tmp_path, monkeypatch, other):
        written_with(tmp_path, monkeypatch, **other)
        ((package, version),) = other.items()
        text = rf"was written with {package} {version} \(here .*\): it may not resume bit for bit"
        with pytest.warns(UserWarning, match=text):
            Checkpoints(tmp_path).load()

    @pytest.mark.filterwarnings("error")
    def test_the_same_versions_are_silent(self, tmp_path):
        save(Checkpoints(tmp_path), 1)
        assert Checkpoints(tmp_path).load().header["versions"]["tfpg"] == tfpg.__version__
        check_versions("a checkpoint", {})

    def test_a_broken_checkpoint_is_broken_whatever_wrote_it(self, tmp_path, monkeypatch):
        written_with(tmp_path, monkeypatch, keras="99.1.0")
        path = tmp_path / "step-1.ckpt"
        header, record = path.read_bytes().split(b"\n", 1)
        assert json.loads(header)["versions"]["keras"] == "99.1.0"
        path.write_bytes(header + b"\n" + record[:-1])
        with pytest.raises(CheckpointCorruptError, match="is damaged"):
            Checkpoints(tmp_path).load()
