import gc
import os
import signal
import subprocess
import sys
import threading
import time

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from tfpg.video.encoders import ENCODERS, Sheet, evenly, thinned
from tfpg.video.writer import SUFFIXES, VideoWriter


def moving_square(count, height=64, width=96):
    for t in range(count):
        frame = np.full((height, width, 3), 240, np.uint8)
        x = 4 + t % (width - 20)
        frame[20:36, x : x + 16] = (200, 30, 40)
        yield frame


def write(path, frames, fps=25):
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(frame)
    return video


class TestMp4:
    def test_decodes_to_what_was_written(self, tmp_path):
        path = tmp_path / "film.mp4"
        frames = list(moving_square(30))
        assert write(path, frames).frames == 30
        decoded = iio.imread(path, plugin="pyav")
        assert decoded.shape == (30, 64, 96, 3)
        difference = np.abs(decoded.astype(int) - np.stack(frames)).mean(axis=(1, 2, 3))
        assert difference.max() < 3
        # The square is where it was, frame for frame.
        for written, read in zip(frames, decoded, strict=True):
            centre = [np.argwhere(f[:, :, 1] < 120)[:, 1].mean() for f in (written, read)]
            assert abs(centre[0] - centre[1]) < 1

    def test_is_what_browsers_play(self, tmp_path):
        path = tmp_path / "film.mp4"
        write(path, moving_square(30), fps=12.5)
        meta = iio.immeta(path, plugin="pyav")
        assert meta["codec"] == "h264"
        assert meta["video_format"] == "yuv420p"
        assert meta["fps"] == 12.5
        assert meta["duration"] == pytest.approx(30 / 12.5)
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")  # the index in front: faststart

    @pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (33, 47), (600, 400)])
    def test_odd_sides_get_one_more_row_or_column(self, tmp_path, height, width):
        path = tmp_path / "film.mp4"
        write(path, moving_square(4, height, width))
        decoded = iio.imread(path, plugin="pyav")
        assert decoded.shape == (4, height + height % 2, width + width % 2, 3)
        # What is added repeats the edge.
        assert np.abs(decoded[:, -1].astype(int) - decoded[:, height - 1]).mean() < 3
        assert np.abs(decoded[:, :, -1].astype(int) - decoded[:, :, width - 1]).mean() < 3
        assert decoded.mean() > 150

    def test_a_single_frame(self, tmp_path):
        write(tmp_path / "film.mp4", moving_square(1))
        assert iio.imread(tmp_path / "film.mp4", plugin="pyav").shape[0] == 1


class TestGif:
    @pytest.mark.parametrize("count", [1, 5, 31, 32, 33, 80])
    def test_has_every_frame_and_loops(self, tmp_path, count):
        path = tmp_path / "film.gif"
        write(path, moving_square(count), fps=20)
        with Image.open(path) as film:
            assert film.size == (96, 64)
            assert film.n_frames == count
            if count > 1:
                assert film.info["loop"] == 0
                assert film.info["duration"] == 50

    def test_shows_what_was_written(self, tmp_path):
        path = tmp_path / "film.gif"
        frames = list(moving_square(50))
        write(path, frames)
        with Image.open(path) as film:
            for t in (0, 20, 31, 32, 49):
                film.seek(t)
                shown = np.asarray(film.convert("RGB")).astype(int)
                assert np.abs(shown - frames[t]).max() <= 8

    def test_frames_whose_buffer_is_reused_are_copied(self, tmp_path):
        buffer = np.zeros((64, 96, 3), np.uint8)
        frames = list(moving_square(10))
        with VideoWriter(tmp_path / "film.gif", 25) as video:
            for frame in frames:
                buffer[:] = frame
                video.write(buffer)
        with Image.open(tmp_path / "film.gif") as film:
            film.seek(0)
            shown = np.asarray(film.convert("RGB")).astype(int)
        assert np.abs(shown - frames[0]).max() <= 8

    def test_colours_that_come_late_are_near_enough(self, tmp_path):
        frames = [np.full((32, 32, 3), 255, np.uint8)] * 40
        frames += [np.full((32, 32, 3), (10, 200, 60), np.uint8)] * 3
        write(tmp_path / "film.gif", frames)
        with Image.open(tmp_path / "film.gif") as film:
            film.seek(42)
            late = np.asarray(film.convert("RGB")).astype(int)
        assert np.abs(late - (10, 200, 60)).max() <= 32

    def test_of_more_than_50_frames_a_second_some_are_left_out(self, tmp_path):
        frames = list(moving_square(10))
        assert write(tmp_path / "film.gif", frames, fps=200).frames == 10
        with Image.open(tmp_path / "film.gif") as film:
            assert (film.info["duration"], film.n_frames) == (20, 3)
            film.seek(1)
            shown = np.asarray(film.convert("RGB")).astype(int)
        assert np.abs(shown - frames[4]).max() <= 8


class TestWebM:
    def test_decodes_to_what_was_written(self, tmp_path):
        path = tmp_path / "film.webm"
        frames = list(moving_square(20, 63, 95))
        write(path, frames, fps=25)
        meta = iio.immeta(path, plugin="pyav")
        assert (meta["codec"], meta["video_format"], meta["fps"]) == ("vp9", "yuv420p", 25)
        decoded = iio.imread(path, plugin="pyav")
        assert decoded.shape == (20, 64, 96, 3)
        assert np.abs(decoded[:, :63, :95].astype(int) - np.stack(frames)).mean() < 4


class TestSheet:
    @pytest.mark.parametrize(
        ("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (12, 3, 4), (1000, 3, 4)]
    )
    def test_shows_frames_from_the_first_to_the_last(self, tmp_path, count, rows, columns):
        frames = (np.full((30, 40, 3), t // 5, np.uint8) for t in range(count))
        write(tmp_path / "sheet.png", frames)
        with Image.open(tmp_path / "sheet.png") as image:
            sheet = np.asarray(image)
        assert sheet.shape == (rows * 34 - 4, columns * 44 - 4, 3)
        shades = sheet[15::34, 20::44, 0].ravel().tolist()
        assert shades == sorted(shades)
        assert (shades[0], shades[-1]) == (0, (count - 1) // 5)

    def test_they_are_evenly_spaced(self, tmp_path):
        frames = (np.full((4, 4, 3), t // 5, np.uint8) for t in range(1000))
        write(tmp_path / "sheet.png", frames)
        with Image.open(tmp_path / "sheet.png") as image:
            shades = np.asarray(image)[2::8, 2::8, 0].ravel().astype(int)
        np.testing.assert_allclose(np.diff(shades), 200 / 11, atol=3.5)

    def test_keeps_few_however_long_the_film(self, tmp_path):
        sheet = Sheet(tmp_path / "sheet.png", fps=30)
        for _ in range(5000):
            sheet.write(np.zeros((4, 4, 3), np.uint8))
            assert len(sheet._kept) < 100

    def test_large_pictures_are_reduced(self, tmp_path):
        write(tmp_path / "sheet.png", [np.zeros((500, 800, 3), np.uint8)])
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.size == (400, 250)


@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [
        *((50, 60, (1, 50.0)), (60, 60, (1, 60.0)), (61, 60, (2, 30.5)), (200, 50, (4, 50.0))),
        *((0.5, 50, (1, 0.5)), (1e4, float("inf"), (1, 1e4))),
    ],
)
def test_frames_are_left_out_beyond_what_can_be_shown(fps, most, expected):
    assert thinned(fps, most) == expected


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(1, 12, [0]), (2, 12, [0, 1]), (9, 3, [0, 4, 8]), (100, 1, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_evenly(count, wanted, expected):
    assert evenly(count, wanted) == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_frames_give_the_same_file(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(40)]
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", frames)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_who_renders_does_not_wait_for_the_encoder(tmp_path, monkeypatch):
    write_slowly = ENCODERS[".mp4"].write

    def slow(self, frame):
        time.sleep(0.1)
        write_slowly(self, frame)

    monkeypatch.setattr(ENCODERS[".mp4"], "write", slow)
    with VideoWriter(tmp_path / "film.mp4", 25) as video:
        start = time.monotonic()
        for frame in moving_square(8):
            video.write(frame)
        assert time.monotonic() - start < 0.4  # 0.8 s of encoding
    assert iio.imread(tmp_path / "film.mp4", plugin="pyav").shape[0] == 8


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestFaults:
    def test_an_exception_leaves_nothing_and_an_earlier_film_as_it_was(self, tmp_path, suffix):
        path = tmp_path / f"film{suffix}"
        for count in (5, 40):
            with pytest.raises(RuntimeError, match="crash"), VideoWriter(path, 25) as video:
                for frame in moving_square(count):
                    video.write(frame)
                raise RuntimeError("crash")
            assert list(tmp_path.iterdir()) == []
        write(path, moving_square(5))
        before = path.read_bytes()
        with pytest.raises(RuntimeError, match="crash"), VideoWriter(path, 25) as video:
            video.write(next(moving_square(1)))
            raise RuntimeError("crash")
        assert path.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1

    def test_ctrl_c_while_the_film_is_finished_leaves_nothing(self, tmp_path, suffix, monkeypatch):
        close = ENCODERS[suffix].close

        def interrupted(self, failed):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            close(self, failed)

        monkeypatch.setattr(ENCODERS[suffix], "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / f"film{suffix}", moving_square(3))
        assert not [t for t in threading.enumerate() if t.name == "tfpg-film"]
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupt_at_the_very_start_leaves_nothing(self, tmp_path, suffix, monkeypatch):
        start = threading.Thread.start

        def interrupted(self):
            start(self)
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / f"film{suffix}", 25):
            pass
        assert not [t for t in threading.enumerate() if t.name == "tfpg-film"]
        assert list(tmp_path.iterdir()) == []

    def test_frames_are_for_the_block(self, tmp_path, suffix):
        path, frame = tmp_path / f"film{suffix}", np.zeros((4, 4, 3), np.uint8)
        video = VideoWriter(path, 25)
        with pytest.raises(ValueError, match="takes frames in its with block"):
            video.write(frame)
        with video:
            video.write(frame)
        film = path.read_bytes()
        with pytest.raises(ValueError, match="takes frames in its with block"):
            video.write(frame)
        with pytest.raises(ValueError, match="No frames"), video:
            pass
        assert path.read_bytes() == film

    def test_no_frames(self, tmp_path, suffix):
        with pytest.raises(ValueError, match="No frames for"):
            write(tmp_path / f"film{suffix}", [])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (np.zeros((4, 4, 3)), "uint8.*float64"),
            (np.zeros((4, 4), np.uint8), "height, width, 3"),
            (np.zeros((4, 4, 4), np.uint8), "height, width, 3"),
        ],
    )
    def test_what_is_no_frame(self, tmp_path, suffix, frame, message):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / f"film{suffix}", [frame])
        assert list(tmp_path.iterdir()) == []

    def test_a_frame_of_another_size(self, tmp_path, suffix):
        frames = [np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)]
        with pytest.raises(
            ValueError, match=r"Frame 1 has size \(6, 4\), and the film has \(4, 6\)"
        ):
            write(tmp_path / f"film{suffix}", frames)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
    def test_fps(self, tmp_path, suffix, fps):
        with pytest.raises(ValueError, match="fps must be above 0"):
            VideoWriter(tmp_path / f"film{suffix}", fps)

    def test_a_full_disk_is_one_error_and_leaves_nothing(self, tmp_path, suffix):
        # A file size limit fails a write the way a full disk does, and needs no mount.
        code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
from tfpg.video.writer import VideoWriter, VideoWriteError
rng = np.random.default_rng(0)
try:
    with VideoWriter({str(tmp_path / ("film" + suffix))!r}, 25) as video:
        for _ in range(200):
            video.write(rng.integers(0, 255, (64, 96, 3), np.uint8))
except VideoWriteError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"film{suffix}" in done.stdout
        assert "Nothing of it was left behind." in done.stdout
        assert len(done.stdout.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
def test_what_wrote_it_does_nothing_more_when_it_is_deleted(tmp_path, suffix, monkeypatch):
    # imageio would close once more, collecting garbage, where a Ctrl-C is ignored.
    with VideoWriter(tmp_path / f"film{suffix}", 25) as video:
        video.write(next(moving_square(1)))
    collected = []
    monkeypatch.setattr(gc, "collect", lambda *_: collected.append(1))
    video._encoder._writer.__del__()
    assert collected == []


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
def test_a_missing_codec_is_one_line_with_the_mend(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(ENCODERS[suffix], "codec", "libnone")
    with pytest.raises(ImportError, match=f"{suffix} needs the codec libnone, .*: pip install"):
        write(tmp_path / f"film{suffix}", moving_square(40))
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_decides(tmp_path):
    with pytest.raises(
        ValueError, match=r"ends in .mp4, .gif, .webm or .png, and this is .*film.avi"
    ):
        VideoWriter(tmp_path / "film.avi", 25)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_film(tmp_path, suffix):
    code = f"""
import resource, sys
import numpy as np
from tfpg.video.writer import VideoWriter
with VideoWriter({str(tmp_path / ("film" + suffix))!r}, 25) as video:
    frame = np.zeros((200, 300, 3), np.uint8)
    for t in range(4000):
        frame[:, :] = t % 250
        video.write(frame)
        if t == 400:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 3,600 more frames are 648 MB of pixels; some wait for the encoder, 18 MB of a sheet's stay.
    assert int(done.stdout) < 40_000
