"""Environments of every kind are filmed on a machine without a display."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import imageio.v3 as iio
import numpy as np
import psutil
import pytest
from toys import Countdown, Listed, Windowed

import tfpg
from tfpg.video.display import (
    DisplayError,
    gl_library,
    headless_sdl,
    keep_mesa_apart,
    offscreen_gl,
    virtual_display,
)
from tfpg.video.render_env import pictures, rendering
from tfpg.video.window import WindowError


def ones(observations):
    return np.ones(len(observations), int)


def xvfbs():
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.name() == "Xvfb" and p.status() != psutil.STATUS_ZOMBIE]


def painted(t):
    """What `Windowed` shows after t steps."""
    frame = np.full((81, 120, 3), (10 * t, 100, 200), np.uint8)
    frame[:, 10 * t : 10 * t + 10] = (255, 255, 0)
    return frame


class TestWindows:
    @pytest.mark.parametrize("when", ["stepped", "asked"])
    def test_what_is_filmed_is_what_is_in_the_window(self, xvfb, no_display, when):
        with rendering(lambda: Windowed(when=when)) as env:
            env.reset(seed=0)
            for t in range(6):
                (shown,) = pictures(env)
                np.testing.assert_array_equal(shown, painted(t))
                env.step(1)
        assert not xvfbs()
        assert "DISPLAY" not in os.environ
        assert "SDL_VIDEODRIVER" not in os.environ

    def test_a_film_of_one_decodes_to_it(self, xvfb, no_display, tmp_path):
        path = tmp_path / "film.mp4"
        film = tfpg.record(ones, Windowed, path, seed=0, overlay=False)
        decoded = iio.imread(path, plugin="pyav")
        assert decoded.shape == (film.frames, 82, 120, 3) == (6, 82, 120, 3)
        for t, frame in enumerate(decoded):
            # The columns beside an edge are mixed by the film's half resolution of colours.
            near = np.abs(frame[:81].astype(int) - painted(t))
            edges = [10 * t - 1, 10 * t, 10 * t + 9, 10 * t + 10]
            assert np.delete(near, [e for e in edges if 0 <= e < 120], axis=1).max() < 24

    def test_an_id_that_only_has_a_window(self, xvfb, no_display):
        gymnasium.register("toys/Windowed-v0", "toys:Windowed", kwargs={"length": 10})
        try:
            with rendering("toys/Windowed-v0") as env:
                np.testing.assert_array_equal(pictures(env)[0], painted(0))
        finally:
            del gymnasium.registry["toys/Windowed-v0"]

    def test_a_window_of_somebody_else_is_left_open(self, xvfb, no_display, monkeypatch):
        import pygame

        with virtual_display():
            monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
            pygame.display.quit()
            pygame.display.set_mode((64, 48))
            try:
                said = pytest.raises(WindowError, match="pygame has a window open in this process")
                with said, rendering(Windowed):
                    pass
                assert pygame.display.get_surface() is not None
            finally:
                pygame.display.quit()

    def test_one_larger_than_the_screen(self, xvfb, no_display, monkeypatch):
        monkeypatch.setattr("tfpg.video.window._SCREEN", (100, 60))
        said = pytest.raises(WindowError, match="cannot be seen whole on a screen of 100 x 60")
        with said, rendering(Windowed):
            pass
        assert not xvfbs()

    def test_after_pygame_has_drawn_without_one_and_before_it_does_again(self, xvfb, no_display):
        for _ in range(2):
            with rendering("CartPole-v1") as env:
                assert pictures(env)[0].shape == (400, 600, 3)
            with rendering(Windowed) as env:
                np.testing.assert_array_equal(pictures(env)[0], painted(0))

    def test_the_display_of_the_user_is_left_alone(self, xvfb, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":77")  # there is none
        with rendering(Windowed) as env:
            assert os.environ["DISPLAY"] != ":77"
            np.testing.assert_array_equal(pictures(env)[0], painted(0))
        assert os.environ["DISPLAY"] == ":77"

    @pytest.mark.slow
    def test_films_at_the_same_time_do_not_meet(self, xvfb, no_display, tmp_path):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import numpy as np, tfpg\nfrom toys import Windowed\n"
            "ones = lambda x: np.ones(len(x), int)\n"
            "film = tfpg.record(ones, lambda: Windowed(20), sys.argv[2], seed=0, overlay=False)\n"
            "print(film.frames)"
        )
        here = os.path.dirname(os.path.dirname(__file__))
        paths = [str(tmp_path / f"{i}.gif") for i in range(2)]
        running = [
            subprocess.Popen([sys.executable, "-c", code, here, p], stdout=subprocess.PIPE)
            for p in paths
        ]
        assert [int(p.communicate(timeout=120)[0].splitlines()[-1]) for p in running] == [21, 21]
        films = [Path(path).read_bytes() for path in paths]
        assert films[0] == films[1]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_nothing_is_left_when_it_fails(self, xvfb, no_display, error):
        with pytest.raises(error), rendering(Windowed):
            assert xvfbs()
            raise error
        assert not xvfbs()
        assert "DISPLAY" not in os.environ

    def test_one_that_opens_none(self, xvfb, no_display, monkeypatch):
        monkeypatch.setattr("tfpg.video.window._PATIENCE", 0.2)
        said = pytest.raises(WindowError, match="has opened no window on its display within")
        with said, rendering(lambda: Windowed(when="never")):
            pass
        assert not xvfbs()

    def test_an_environment_itself_is_refused(self, no_display):
        said = pytest.raises(ValueError, match="give the callable that makes it")
        with said, rendering(Windowed()):
            pass

    def test_a_missing_xvfb_is_one_line_with_the_mend(self, no_display, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DisplayError, match="Xvfb is not installed: apt-get install xvfb") as e:
            tfpg.record(ones, Windowed, tmp_path / "film.mp4")
        assert "\n" not in str(e.value)
        assert list(tmp_path.iterdir()) == []


class TestArrays:
    def test_a_list_has_all_its_pictures_in_the_film(self, no_display, tmp_path):
        film = tfpg.record(ones, Listed, tmp_path / "film.mp4", seed=0, overlay=False)
        assert (film.frames, film.episode_lengths) == (7, [3])
        shades = iio.imread(film.path, plugin="pyav").mean(axis=(1, 2, 3))
        np.testing.assert_allclose(shades, [0, 5, 10, 15, 20, 25, 30], atol=3)

    def test_render_none_is_said(self, no_display):
        class Silent(Countdown):
            def render(self):
                return None

        said = pytest.raises(ValueError, match=r"rendered nothing: render\(\) gave None")
        with said, rendering(lambda: Silent(render_mode="rgb_array")):
            pass

    @pytest.mark.parametrize("mode", [None, "ansi"])
    def test_other_modes_are_said(self, no_display, mode):
        said = pytest.raises(ValueError, match=f"render_mode='rgb_array', and this .* {mode!r}")
        with said, rendering(lambda: Countdown(render_mode=mode)):
            pass

    def test_an_id_that_cannot(self, no_display):
        gymnasium.register("toys/Ansi-v0", "toys:Ansi")
        import toys

        toys.Ansi = type("Ansi", (Countdown,), {"metadata": {"render_modes": ["ansi"]}})
        try:
            said = pytest.raises(ValueError, match="cannot be filmed: its render modes are ansi")
            with said, rendering("toys/Ansi-v0"):
                pass
        finally:
            del gymnasium.registry["toys/Ansi-v0"], toys.Ansi

    def test_an_atari_game(self, no_display, tmp_path):
        film = tfpg.record(
            ones, "ALE/Pong-v5", tmp_path / "film.mp4", seed=0, max_steps=5, overlay=False
        )
        decoded = iio.imread(film.path, plugin="pyav")
        assert decoded.shape == (6, 210, 160, 3)
        with rendering("ALE/Pong-v5") as env:
            rng = np.random.default_rng([0, 0, 1])
            env.reset(seed=int(rng.integers(2**31)))
            for frame in decoded:
                near = np.abs(frame.astype(int) - pictures(env)[0])
                assert near.mean() < 3
                env.step(1)


class TestMuJoCo:
    @pytest.fixture(autouse=True)
    def mujoco(self):
        pytest.importorskip("mujoco", reason="mujoco is not installed: pip install 'tfpg[mujoco]'")
        if gl_library() is None:
            pytest.skip("there is neither EGL nor OSMesa")

    def test_is_rendered_without_a_display_beside_tensorflow(self, no_display, tmp_path):
        # In a process of its own: both hold an LLVM, and the wrong one would end the process.
        path = tmp_path / "film.mp4"
        code = (
            "import os, sys, numpy as np, tensorflow as tf, tfpg; tf.zeros(())\n"
            "model = tfpg.networks.mlp('InvertedDoublePendulum-v5', seed=0)\n"
            "options = {'seed': 0, 'max_steps': 5, 'overlay': False}\n"
            "film = tfpg.record(model, 'InvertedDoublePendulum-v5', sys.argv[1], **options)\n"
            "shown = list(tfpg.frames(model, 'InvertedDoublePendulum-v5', **options))\n"
            "np.save(sys.argv[2], shown)"
        )
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL")}
        subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / "shown.npy"], env=environment, check=True
        )
        shown, decoded = np.load(tmp_path / "shown.npy"), iio.imread(path, plugin="pyav")
        assert shown.shape == decoded.shape == (6, 480, 480, 3)
        assert shown.std() > 5
        assert np.abs(shown.astype(int) - decoded).mean() < 3

    def test_a_display_that_is_not_there_is_not_needed(self, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":77")
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        with rendering("InvertedPendulum-v5") as env:
            assert pictures(env)[0].shape == (480, 480, 3)

    def test_the_choice_of_the_user_stands(self, no_display, monkeypatch):
        monkeypatch.setenv("MUJOCO_GL", "osmesa")
        with offscreen_gl():
            assert os.environ["MUJOCO_GL"] == "osmesa"
        monkeypatch.delenv("MUJOCO_GL")
        with offscreen_gl():
            assert os.environ["MUJOCO_GL"] == gl_library()
        assert "MUJOCO_GL" not in os.environ

    @pytest.mark.slow
    def test_without_any_gl_the_mend_is_said(self, tmp_path):
        # OpenGL's libraries cannot be taken away here, so the environment says they are.
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from tfpg.video import stage\n"
            "from toys import Countdown\n"
            "class Broken(Countdown):\n"
            "    def render(self): raise RuntimeError('no OpenGL context')\n"
            "stage.gl_library = lambda: None\n"
            "try:\n"
            "    with stage.rendering(lambda: Broken(render_mode='rgb_array')): pass\n"
            "except stage.DisplayError as error: print(error)"
        )
        here = os.path.dirname(os.path.dirname(__file__))
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL")}
        done = subprocess.run(
            [sys.executable, "-c", code, here], env=environment, capture_output=True, text=True
        )
        assert "no OpenGL context" in done.stdout
        assert "apt-get install" in done.stdout
        assert len(done.stdout.splitlines()) == 1


class TestDisplay:
    def test_goes_with_a_process_that_is_killed(self, xvfb, no_display):
        code = (
            "import os\nfrom tfpg.video.display import virtual_display\n"
            "from pathlib import Path\n"
            "with virtual_display() as name:\n"
            "    print(name, flush=True)\n    os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        name = done.stdout.strip()
        assert name.startswith(":")
        socket = f"/tmp/.X11-unix/X{name[1:]}"
        until = time.monotonic() + 10
        while os.path.exists(socket) and time.monotonic() < until:
            time.sleep(0.05)
        assert not os.path.exists(socket)

    def test_an_xvfb_that_is_killed_leaves_nothing_running(self, xvfb, no_display):
        with virtual_display():
            xvfbs()[0].kill()
            time.sleep(0.2)
        assert not xvfbs()
        with virtual_display() as name:
            assert os.environ["DISPLAY"] == name

    def test_sound_is_not_missed(self, no_display):
        with headless_sdl():
            assert os.environ["SDL_AUDIODRIVER"] == "dummy"
        assert "SDL_AUDIODRIVER" not in os.environ

    def test_mesa_may_be_missing(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LIBGL_DRIVERS_PATH", str(tmp_path))
        keep_mesa_apart()
        (tmp_path / "swrast_dri.so").write_text("no library")
        keep_mesa_apart()
