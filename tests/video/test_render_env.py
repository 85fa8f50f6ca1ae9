"""Environments of every kind render on a machine without a display."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
import toys
from decoding import decode
from PIL import ImageGrab
from toys import Countdown, Windowed

import tfpg
from tfpg.video.display import (
    DisplayError,
    gl_library,
    offscreen_drivers,
    preload_mesa,
    virtual_display,
)
from tfpg.video.render_env import open_render_env, render_images
from tfpg.video.window import WindowError

TESTS = Path(__file__).parents[1]
VARIABLES = ("DISPLAY", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "MUJOCO_GL")


def ones(observations):
    return np.ones(len(observations), int)


def running_xvfbs():
    children = psutil.Process().children(recursive=True)
    return [p for p in children if p.name() == "Xvfb" and p.status() != psutil.STATUS_ZOMBIE]


def run(code, *args, **options):
    """Run code in a process of its own, without a display."""
    environment = {k: v for k, v in os.environ.items() if k not in (*VARIABLES, "XDG_RUNTIME_DIR")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        **options,
    )


@pytest.fixture
def clean(no_display, monkeypatch):
    """Without a display before, and without Xvfb or a changed environment after."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    before = {name: os.environ.get(name) for name in VARIABLES}
    yield
    assert not running_xvfbs()
    assert {name: os.environ.get(name) for name in VARIABLES} == before


@pytest.fixture
def register(monkeypatch):
    """Registers an environment under an id for one test."""
    ids = []

    def add(env_id, entry_point, **kwargs):
        gymnasium.register(env_id, entry_point, **kwargs)
        ids.append(env_id)
        return env_id

    yield add
    for env_id in ids:
        del gymnasium.registry[env_id]


class NeedsDisplay(Countdown):
    """Renders what an X display shows, plus a color for the step, and cannot without a display."""

    def render(self):
        screen = ImageGrab.grab(xdisplay=os.environ.get("DISPLAY", ":nowhere"))
        return np.asarray(screen)[:80, :120] + np.array([10 * self.t, 100, 200], np.uint8)


def needs_display():
    return NeedsDisplay(length=5, render_mode="rgb_array")


def painted(t):
    """What `Windowed` shows after t steps."""
    frame = np.full((81, 120, 3), (10 * t, 100, 200), np.uint8)
    frame[:, 10 * t : 10 * t + 10] = (255, 255, 0)
    return frame


def assert_shows_window(env):
    np.testing.assert_array_equal(render_images(env)[0], painted(0))


@pytest.mark.usefixtures("xvfb", "clean")
class TestWindows:
    @pytest.mark.parametrize("when", ["stepped", "asked"])
    def test_images_are_what_is_in_the_window(self, when):
        with open_render_env(lambda: Windowed(when=when)) as env:
            env.reset(seed=0)
            for t in range(6):
                (shown,) = render_images(env)
                np.testing.assert_array_equal(shown, painted(t))
                env.step(1)

    def test_a_window_is_recorded_to_a_file(self, tmp_path):
        video = tfpg.record(ones, Windowed, tmp_path / "a.mp4", seed=0, overlay=False, scale=1)
        decoded = decode(video.path)
        assert decoded.shape == (video.frames, 82, 120, 3) == (6, 82, 120, 3)
        for t, frame in enumerate(decoded):
            # Columns next to an edge are mixed, for colors have half the resolution.
            difference = np.abs(frame[:81].astype(int) - painted(t))
            edges = [10 * t - 1, 10 * t, 10 * t + 9, 10 * t + 10]
            assert np.delete(difference, [e for e in edges if 0 <= e < 120], axis=1).max() < 24

    def test_action_masks_in_infos_are_found(self):
        class Masked(Windowed):
            def reset(self, **arguments):
                return super().reset(**arguments)[0], {"action_mask": np.ones(2, np.int8)}

            def _draw(self):
                if self.render_mode == "human":
                    super()._draw()

        with open_render_env(Masked) as env:
            assert "action_mask" in env.observation_space.spaces
            env.reset(seed=0)
            assert_shows_window(env)

    def test_an_id_that_only_opens_a_window(self, register):
        with open_render_env(register("toys/Windowed-v0", "toys:Windowed")) as env:
            assert_shows_window(env)

    def test_an_id_made_by_a_function_that_only_opens_a_window(self, register):
        def build(render_mode=None):
            if render_mode not in (None, "human"):
                raise ValueError("human only")
            return Windowed(render_mode=render_mode)

        with open_render_env(register("toys/Built-v0", build)) as env:
            assert_shows_window(env)

    @pytest.mark.parametrize("modes", [[], None, ["human"]])
    def test_an_id_that_refuses_to_render_off_screen_is_recorded_from_its_window(
        self, register, modes
    ):
        class Unnamed(Windowed):
            metadata = {} if modes is None else {"render_modes": modes}

            def __init__(self, render_mode=None):
                if render_mode == "rgb_array":
                    raise ValueError("human only")
                super().__init__(render_mode=render_mode)

        with open_render_env(register("toys/Unnamed-v0", lambda **kw: Unnamed(**kw))) as env:
            assert_shows_window(env)

    def test_an_open_window_of_pygame_is_left_alone(self, monkeypatch):
        import pygame

        with virtual_display(), monkeypatch.context() as patch:
            patch.setenv("SDL_VIDEODRIVER", "x11")
            pygame.display.quit()
            pygame.display.set_mode((64, 48))
            failed = pytest.raises(WindowError, match="pygame has an open window in this process")
            try:
                with failed, open_render_env(Windowed):
                    pass
                assert pygame.display.get_surface() is not None
            finally:
                pygame.display.quit()

    def test_a_window_larger_than_the_screen(self, monkeypatch):
        monkeypatch.setattr("tfpg.video.window.SCREEN_SIZE", (100, 60))
        failed = pytest.raises(WindowError, match="larger than the screen of 100 x 60")
        with failed, open_render_env(Windowed):
            pass

    def test_an_environment_that_opens_no_window(self, monkeypatch):
        monkeypatch.setattr("tfpg.video.window.WINDOW_TIMEOUT", 0.2)
        failed = pytest.raises(WindowError, match="opened no window on its display within")
        with failed, open_render_env(lambda: Windowed(when="never")):
            pass

    def test_off_screen_drawing_and_windows_alternate(self):
        for _ in range(2):
            with open_render_env("CartPole-v1") as env:
                assert render_images(env)[0].shape == (400, 600, 3)
            with open_render_env(Windowed) as env:
                assert_shows_window(env)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_leaves_no_display(self, error):
        with pytest.raises(error), open_render_env(Windowed):
            assert running_xvfbs()
            raise error

    def test_an_environment_itself_is_refused(self):
        failed = pytest.raises(ValueError, match="pass the callable that makes it")
        with failed, open_render_env(Windowed()):
            pass

    @pytest.mark.slow
    def test_two_processes_record_windows_at_the_same_time(self, tmp_path):
        code = (
            "import sys, numpy as np, tfpg\nfrom toys import Windowed\n"
            "ones = lambda x: np.ones(len(x), int)\n"
            "tfpg.record(ones, lambda: Windowed(20), sys.argv[1], seed=0, overlay=False)"
        )
        paths = [tmp_path / f"{i}.gif" for i in range(2)]
        running = [
            subprocess.Popen([sys.executable, "-c", code, path], cwd=TESTS) for path in paths
        ]
        assert [process.wait(timeout=120) for process in running] == [0, 0]
        assert paths[0].read_bytes() == paths[1].read_bytes()

    @pytest.mark.slow
    def test_ctrl_c_in_a_terminal_does_not_reach_the_display(self):
        # A terminal sends it to all processes of the group. A window whose display ends would end
        # the process before any of its own code runs.
        code = (
            "import os, signal, time\nfrom toys import Windowed\n"
            "from tfpg.video.render_env import open_render_env\n"
            "try:\n"
            "    with open_render_env(Windowed) as env:\n"
            "        os.killpg(0, signal.SIGINT)\n        time.sleep(1)\n"
            "except KeyboardInterrupt: print('interrupted', len(os.environ.get('DISPLAY', '')))"
        )
        done = run(code, start_new_session=True)
        assert done.stdout.splitlines()[-1:] == ["interrupted 0"], done.stderr[-2000:]


def test_a_window_opens_on_a_virtual_display_and_never_on_the_users(xvfb, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":77")  # there is none
    with open_render_env(Windowed) as env:
        assert os.environ["DISPLAY"] != ":77"
        assert_shows_window(env)
    assert os.environ["DISPLAY"] == ":77"


class TestOffScreen:
    @pytest.mark.parametrize("mode", [None, "ansi"])
    def test_other_render_modes_are_refused(self, no_display, mode):
        failed = pytest.raises(ValueError, match=f"render_mode='rgb_array', but this .* {mode!r}")
        with failed, open_render_env(lambda: Countdown(render_mode=mode)):
            pass

    def test_an_id_with_other_render_modes_is_refused(self, no_display, register, monkeypatch):
        kind = type("Ansi", (Countdown,), {"metadata": {"render_modes": ["ansi"]}})
        monkeypatch.setattr(toys, "Ansi", kind, raising=False)
        failed = pytest.raises(ValueError, match="cannot be recorded: its render modes are ansi")
        with failed, open_render_env(register("toys/Ansi-v0", "toys:Ansi")):
            pass

    def test_an_environment_that_refuses_to_draw_with_sdls_dummy_driver_is_drawn(self, clean):
        class Road(Countdown):
            def render(self):
                driver = os.environ.get("SDL_VIDEODRIVER")
                return np.full((4, 4, 3), 0 if driver == "dummy" else 120, np.uint8)

        with open_render_env(lambda: Road(render_mode="rgb_array")) as env:
            assert render_images(env)[0].max() == 120

    def test_an_atari_game(self, no_display, tmp_path):
        options = {"seed": 0, "max_steps": 5, "overlay": False}
        video = tfpg.record(ones, "ALE/Pong-v5", tmp_path / "a.mp4", **options)
        decoded = decode(video.path)
        assert decoded.shape == (6, 210, 160, 3)
        with open_render_env("ALE/Pong-v5") as env:
            rng = np.random.default_rng([0, 0, 1])
            env.reset(seed=int(rng.integers(2**31)))
            for frame in decoded:
                assert np.abs(frame.astype(int) - render_images(env)[0]).mean() < 3
                env.step(1)

    @pytest.mark.slow
    def test_nothing_is_printed_about_a_missing_desktop(self):
        code = (
            "from tfpg.video.render_env import open_render_env\n"
            "with open_render_env('CartPole-v1'): pass"
        )
        done = run(code, check=True)
        assert "XDG_RUNTIME_DIR" not in done.stderr


class TestOpenGL:
    @pytest.fixture
    def mujoco(self):
        pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'gymnasium[mujoco]'")
        if gl_library() is None:
            pytest.skip("there is neither EGL nor OSMesa")

    def test_mujoco_renders_without_a_display_next_to_tensorflow(self, mujoco, tmp_path):
        # In a process of its own: without preparation, the LLVMs of both would end the process.
        code = (
            "import sys, numpy as np, tensorflow as tf, tfpg; tf.zeros(())\n"
            "model = tfpg.networks.mlp('InvertedDoublePendulum-v5', seed=0)\n"
            "options = {'seed': 0, 'max_steps': 5, 'overlay': False}\n"
            "tfpg.record(model, 'InvertedDoublePendulum-v5', sys.argv[1], **options)\n"
            "np.save(sys.argv[2], list(tfpg.frames(model, 'InvertedDoublePendulum-v5', **options)))"
        )
        run(code, tmp_path / "a.mp4", tmp_path / "shown.npy", check=True)
        shown, decoded = np.load(tmp_path / "shown.npy"), decode(tmp_path / "a.mp4")
        assert shown.shape == decoded.shape == (6, 480, 480, 3)
        assert shown.std() > 5
        assert np.abs(shown.astype(int) - decoded).mean() < 3

    def test_mujoco_does_not_need_the_display_that_is_set(self, mujoco, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":77")  # there is none
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        with open_render_env("InvertedPendulum-v5") as env:
            assert render_images(env)[0].shape == (480, 480, 3)

    @pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5", "Hopper-v5", "Walker2d-v5"])
    def test_the_camera_follows_the_body(self, mujoco, name):
        pictures = []
        with open_render_env(name) as env:
            env.reset(seed=0)
            data = env.unwrapped.data
            for position in (0.0, 20.0):
                data.qpos[0] = position
                env.unwrapped.set_state(data.qpos, data.qvel)
                red, _, blue = (render_images(env)[0][..., i].astype(int) for i in range(3))
                pictures.append((red - blue > 40).sum())  # pixels of the body
        assert pictures[0] > 1000
        assert pictures[1] > 0.5 * pictures[0]

    def test_without_opengl_the_error_says_what_to_install(self, xvfb, clean, monkeypatch):
        class Broken(Countdown):
            def render(self):
                raise RuntimeError("no OpenGL context")

        monkeypatch.setattr("tfpg.video.render_env.gl_library", lambda: None)
        failed = pytest.raises(DisplayError, match="no OpenGL context.* apt-get install libegl1")
        with failed, open_render_env(lambda: Broken(render_mode="rgb_array")):
            pass

    def test_mesa_may_be_missing(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LIBGL_DRIVERS_PATH", str(tmp_path))
        preload_mesa()
        (tmp_path / "swrast_dri.so").write_text("not a library")
        preload_mesa()


class TestDrivers:
    def test_drivers_are_set_for_the_block_only(self, clean):
        with offscreen_drivers():
            assert os.environ["SDL_VIDEODRIVER"].startswith("offscreen")
            assert os.environ["SDL_AUDIODRIVER"] == "dummy"
            assert os.environ.get("MUJOCO_GL") == gl_library()

    @pytest.mark.parametrize(
        ("name", "value"), [("SDL_VIDEODRIVER", "x11"), ("MUJOCO_GL", "osmesa")]
    )
    def test_drivers_that_the_user_has_chosen_are_kept(self, no_display, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        with offscreen_drivers():
            assert os.environ[name] == value
        assert os.environ[name] == value


class TestVirtualDisplay:
    @pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
    def test_it_is_always_stopped(self, xvfb, clean, error):
        with pytest.raises(error or SystemExit), virtual_display() as name:
            assert os.environ["DISPLAY"] == name
            assert len(running_xvfbs()) == 1
            raise error or SystemExit

    def test_the_previous_display_is_restored(self, xvfb, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":77")
        with virtual_display() as name:
            assert name != ":77"
        assert os.environ["DISPLAY"] == ":77"

    def test_a_process_has_one_at_a_time_and_threads_take_turns(self, xvfb, clean):
        failed = pytest.raises(DisplayError, match="A process can have only one at a time")
        with virtual_display(), failed, virtual_display():
            pass
        names = []

        def other():
            with virtual_display() as name:
                names.append(name)

        with virtual_display() as name:
            thread = threading.Thread(target=other)
            thread.start()
            time.sleep(0.2)
            assert names == []  # it waits
            assert os.environ["DISPLAY"] == name
        thread.join()
        assert len(names) == 1

    def test_an_environment_that_needs_a_display_gets_one(self, xvfb, clean, tmp_path):
        video = tfpg.record(ones, needs_display, tmp_path / "a.mp4", seed=0, overlay=False, scale=1)
        decoded = decode(video.path)
        assert decoded.shape == (6, 80, 120, 3)
        np.testing.assert_allclose(decoded[:, 40, 60, 2], 200, atol=6)

    def test_it_is_stopped_when_a_recording_fails(self, xvfb, clean, tmp_path):
        class Breaks(NeedsDisplay):
            def step(self, action):
                assert running_xvfbs()
                raise RuntimeError("broke")

        with pytest.raises(RuntimeError, match="broke"):
            tfpg.record(ones, lambda: Breaks(render_mode="rgb_array"), tmp_path / "a.mp4")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("env", [needs_display, Windowed])
    def test_a_missing_xvfb_is_one_line_that_says_how_to_install_it(
        self, clean, monkeypatch, tmp_path, env
    ):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DisplayError, match="Xvfb is not installed: apt-get install xvfb") as e:
            tfpg.record(ones, env, tmp_path / "a.mp4")
        assert "\n" not in str(e.value)
        assert list(tmp_path.iterdir()) == []

    def test_it_ends_with_a_process_that_is_killed(self, xvfb):
        code = (
            "import os\nfrom tfpg.video.display import virtual_display\n"
            "with virtual_display() as name:\n"
            "    print(name, flush=True)\n    os.kill(os.getpid(), 9)"
        )
        name = run(code).stdout.strip()
        assert name.startswith(":")
        socket = Path(f"/tmp/.X11-unix/X{name[1:]}")
        deadline = time.monotonic() + 10
        while socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not socket.exists()

    def test_an_xvfb_that_is_killed_leaves_nothing_running(self, xvfb, clean):
        with virtual_display():
            running_xvfbs()[0].kill()
            time.sleep(0.2)
        with virtual_display() as name:
            assert os.environ["DISPLAY"] == name
