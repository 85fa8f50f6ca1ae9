"""Video files, decoded again, and what is left of them after faults."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from decoding import decode, video_info
from PIL import Image

from tfpg.video.encoders import ENCODERS, evenly_spaced, make_palette, thin_out
from tfpg.video.writer import SUFFIXES, VideoWriteError, video_writer

FRAME = np.full((64, 96, 3), 240, np.uint8)


def moving_square(count, height=64, width=96):
    for t in range(count):
        frame = np.full((height, width, 3), 240, np.uint8)
        x = 4 + t % (width - 20)
        frame[20:36, x : x + 16] = (200, 30, 40)
        yield frame


def write(path, frames, fps=25):
    with video_writer([path], fps) as add:
        for frame in frames:
            add(frame)
    return path


def gif_frame(path, index):
    with Image.open(path) as gif:
        gif.seek(index)
        return np.asarray(gif.convert("RGB")).astype(int)


def encoder_threads():
    return [thread for thread in threading.enumerate() if thread.name == "tfpg-encoder"]


class TestMp4AndWebM:
    @pytest.mark.parametrize(
        ("suffix", "codec", "tolerance"), [(".mp4", "h264", 3), (".webm", "vp9", 5)]
    )
    def test_decoded_frames_are_those_that_were_written(self, tmp_path, suffix, codec, tolerance):
        frames = list(moving_square(30))
        path = write(tmp_path / f"a{suffix}", frames, fps=12.5)
        decoded = decode(path)
        assert decoded.shape == (30, 64, 96, 3)
        assert np.abs(decoded.astype(int) - frames).mean(axis=(1, 2, 3)).max() < tolerance
        for written, read in zip(frames, decoded, strict=True):
            centers = [np.argwhere(f[:, :, 1] < 120)[:, 1].mean() for f in (written, read)]
            assert abs(centers[0] - centers[1]) < 1
        meta = video_info(path)
        assert (meta["codec"], meta["pixel_format"], meta["fps"]) == (codec, "yuv420p", 12.5)

    def test_the_index_of_an_mp4_is_in_front(self, tmp_path):
        path = write(tmp_path / "a.mp4", moving_square(30), fps=12.5)
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        assert video_info(path)["duration"] == pytest.approx(30 / 12.5)

    @pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (33, 47)])
    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    def test_odd_sides_repeat_their_last_row_or_column(self, tmp_path, suffix, height, width):
        path = write(tmp_path / f"a{suffix}", moving_square(4, height, width))
        decoded = decode(path).astype(int)
        assert decoded.shape == (4, height + height % 2, width + width % 2, 3)
        assert np.abs(decoded[:, -1] - decoded[:, height - 1]).mean() < 3
        assert np.abs(decoded[:, :, -1] - decoded[:, :, width - 1]).mean() < 3
        assert decoded.mean() > 150


class TestGif:
    @pytest.mark.parametrize("count", [1, 31, 32, 33, 80])
    def test_it_has_every_frame_and_loops(self, tmp_path, count):
        frames = list(moving_square(count))
        path = write(tmp_path / "a.gif", frames, fps=20)
        with Image.open(path) as gif:
            assert (gif.size, gif.n_frames) == ((96, 64), count)
            if count > 1:
                assert (gif.info["loop"], gif.info["duration"]) == (0, 50)
        for t in {0, count // 2, count - 1}:
            assert np.abs(gif_frame(path, t) - frames[t]).max() <= 8

    def test_a_buffer_that_is_reused_is_copied(self, tmp_path):
        frames, buffer = list(moving_square(10)), np.zeros((64, 96, 3), np.uint8)
        with video_writer([tmp_path / "a.gif"], 25) as add:
            for frame in frames:
                buffer[:] = frame
                add(buffer)
        assert np.abs(gif_frame(tmp_path / "a.gif", 0) - frames[0]).max() <= 8

    def test_colors_that_appear_late_are_close(self, tmp_path):
        late = np.full((32, 32, 3), (10, 200, 60), np.uint8)
        path = write(tmp_path / "a.gif", [np.full((32, 32, 3), 255, np.uint8)] * 40 + [late] * 3)
        assert np.abs(gif_frame(path, 42) - (10, 200, 60)).max() <= 32

    def test_large_frames_have_their_colors_in_the_palette(self):
        frames = [np.full((1400, 1400, 3), (200, 210, 220), np.uint8)] * 32
        palette = make_palette(frames).reshape(-1, 3).astype(int)
        assert np.abs(palette - (200, 210, 220)).sum(axis=1).min() == 0


class TestContactSheet:
    @pytest.mark.parametrize(
        ("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (12, 3, 4), (1000, 3, 4)]
    )
    def test_frames_are_evenly_spaced_from_the_first_to_the_last(
        self, tmp_path, count, rows, columns
    ):
        frames = (np.full((30, 40, 3), t // 5, np.uint8) for t in range(count))
        with Image.open(write(tmp_path / "a.png", frames)) as image:
            sheet = np.asarray(image)
        assert sheet.shape == (rows * 34 - 4, columns * 44 - 4, 3)
        shades = sheet[15::34, 20::44, 0].ravel().astype(int)
        assert (shades[0], shades[-1]) == (0, (count - 1) // 5)
        np.testing.assert_allclose(
            np.diff(shades), (count - 1) / 5 / max(1, len(shades) - 1), atol=3.5
        )

    @pytest.mark.parametrize(
        ("width", "height", "expected"),
        [(800, 500, (400, 250)), (1600, 500, (800, 250)), (2400, 500, (1600, 333))],
    )
    def test_large_frames_are_reduced_wide_ones_less(self, tmp_path, width, height, expected):
        path = write(tmp_path / "a.png", [np.zeros((height, width, 3), np.uint8)])
        with Image.open(path) as image:
            assert image.size == expected


@pytest.mark.parametrize(
    ("fps", "maximum", "expected"),
    [
        *((50, 60, (1, 50.0)), (60, 60, (1, 60.0)), (61, 60, (2, 30.5)), (200, 50, (4, 50.0))),
        *((0.5, 50, (1, 0.5)), (1e4, float("inf"), (1, 1e4))),
    ],
)
def test_frames_are_dropped_above_the_maximum_rate(fps, maximum, expected):
    assert thin_out(fps, maximum) == expected


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(1, 12, [0]), (2, 12, [0, 1]), (9, 3, [0, 4, 8]), (100, 1, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_indices_are_evenly_spaced(count, wanted, expected):
    assert evenly_spaced(count, wanted) == expected


def test_several_files_are_written_in_one_pass_each_at_its_own_rate(tmp_path):
    paths = [tmp_path / f"a{suffix}" for suffix in SUFFIXES]
    frames = list(moving_square(10))
    with video_writer(paths, fps=200) as add:
        for frame in frames:
            add(frame)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.info["duration"], gif.n_frames) == (20, 3)
    assert np.abs(gif_frame(tmp_path / "a.gif", 1) - frames[4]).max() <= 8
    meta = video_info(tmp_path / "a.mp4")
    assert (meta["fps"], len(decode(tmp_path / "a.mp4"))) == (50, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_frames_give_the_same_file(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(40)]
    one, other = (write(tmp_path / f"{name}{suffix}", frames).read_bytes() for name in "ab")
    assert one == other


def test_adding_a_frame_does_not_wait_for_the_encoder(tmp_path, monkeypatch):
    write_frame = ENCODERS[".mp4"].write

    def slow(self, frame):
        time.sleep(0.1)
        write_frame(self, frame)

    monkeypatch.setattr(ENCODERS[".mp4"], "write", slow)
    with video_writer([tmp_path / "a.mp4"], 25) as add:
        start = time.monotonic()
        for frame in moving_square(8):
            add(frame)
        assert time.monotonic() - start < 0.4  # encoding takes 0.8 s
    assert len(decode(tmp_path / "a.mp4")) == 8


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestFaults:
    @pytest.mark.parametrize("count", [0, 5, 40])
    def test_an_exception_leaves_no_file_and_an_earlier_one_unchanged(
        self, tmp_path, suffix, count
    ):
        path = tmp_path / f"a{suffix}"
        for before in (None, b"earlier"):
            if before is not None:
                path.write_bytes(before)
            with pytest.raises(RuntimeError, match="crash"), video_writer([path], 25) as add:
                for frame in moving_square(count):
                    add(frame)
                raise RuntimeError("crash")
            assert [p.read_bytes() for p in tmp_path.iterdir()] == [before] * (before is not None)
            assert not encoder_threads()

    def test_ctrl_c_while_a_file_is_finished_leaves_nothing(self, tmp_path, suffix, monkeypatch):
        close = ENCODERS[suffix].close

        def interrupted(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            close(self)

        monkeypatch.setattr(ENCODERS[suffix], "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / f"a{suffix}", moving_square(3))
        assert not encoder_threads()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("started", [True, False])
    def test_a_thread_that_fails_to_start_leaves_nothing(
        self, tmp_path, suffix, monkeypatch, started
    ):
        start = threading.Thread.start

        def interrupted(self):
            if started:
                start(self)
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), video_writer([tmp_path / f"a{suffix}"], 25):
            pass
        assert not encoder_threads()
        assert list(tmp_path.iterdir()) == []

    def test_a_video_without_frames_is_an_error(self, tmp_path, suffix):
        with pytest.raises(ValueError, match="There are no frames to write to"):
            write(tmp_path / f"a{suffix}", [])
        assert list(tmp_path.iterdir()) == []

    def test_if_one_of_several_files_fails_none_is_written(self, tmp_path, suffix, monkeypatch):
        def full(self):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ENCODERS[suffix], "close", full)
        paths = [tmp_path / f"a{each}" for each in SUFFIXES]
        failed = pytest.raises(VideoWriteError, match=f"a{suffix}': No space left on device.*free")
        with failed, video_writer(paths, 25) as add:
            add(FRAME)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_one_error_and_leaves_nothing(self, tmp_path, suffix):
        # A limit on the size of files fails a write as a full disk does, and needs no mount.
        code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
from tfpg.video.writer import VideoWriteError, video_writer
rng = np.random.default_rng(0)
try:
    with video_writer([sys.argv[1]], 25) as add:
        for _ in range(200):
            add(rng.integers(0, 255, (64, 96, 3), np.uint8))
except VideoWriteError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / f"a{suffix}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"a{suffix}" in done.stdout
        assert "No part of it was left on the disk." in done.stdout
        assert len(done.stdout.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
def test_a_missing_codec_is_an_error_that_says_how_to_install_it(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(ENCODERS[suffix], "codec", "libnone")
    with pytest.raises(
        ImportError, match=f"{suffix} files need the codec libnone, .*: pip install"
    ):
        write(tmp_path / f"a{suffix}", moving_square(40))
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ending in .mp4, .gif, .webm, or .png, but got .*a.avi"):
        write(tmp_path / "a.avi", [FRAME])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_video(tmp_path, suffix):
    code = """
import resource, sys
import numpy as np
from tfpg.video.writer import video_writer
with video_writer([sys.argv[1]], 25) as add:
    frame = np.zeros((200, 300, 3), np.uint8)
    for t in range(4000):
        frame[:, :] = t % 250
        add(frame)
        if t == 400:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / f"a{suffix}"],
        capture_output=True,
        text=True,
        check=True,
    )
    # 3,600 more frames are 648 MB of pixels. A contact sheet keeps up to 18 MB of them.
    assert int(done.stdout) < 40_000
