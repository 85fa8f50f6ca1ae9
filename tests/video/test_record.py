import os
import subprocess
import sys
import threading
import time

import gymnasium
import imageio.v3 as iio
import keras
import numpy as np
import psutil
import pytest
from PIL import ImageGrab
from toys import Countdown

import tfpg
from tfpg.video.display import DisplayError, headless_sdl, virtual_display
from tfpg.video.record import rendering


def xvfbs():
    """Xvfb processes below this one, or orphaned ones that were."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.name() == "Xvfb" and p.status() != psutil.STATUS_ZOMBIE]


def model(env="CartPole-v1"):
    return tfpg.networks.mlp(env, hidden=(8,), seed=0)


class NeedsDisplay(Countdown):
    """Renders what an X display shows, tinted by the step, and cannot without one."""

    def render(self):
        screen = ImageGrab.grab(xdisplay=os.environ.get("DISPLAY", ":nowhere"))
        return np.asarray(screen)[:80, :120] + np.array([10 * self.t, 100, 200], np.uint8)


class TestRecord:
    def test_a_frame_for_every_reset_and_step(self, tmp_path, no_display):
        film = tfpg.record(model(), "CartPole-v1", tmp_path / "film.mp4", seed=3, max_steps=12)
        assert film.frames == sum(film.episode_lengths) + 1
        decoded = iio.imread(film.path, plugin="pyav")
        assert decoded.shape == (film.frames, 422, 600, 3)  # with the caption
        decoded = decoded[:, :400]
        meta = iio.immeta(film.path, plugin="pyav")
        assert (meta["codec"], meta["video_format"], meta["fps"]) == ("h264", "yuv420p", 50)
        assert decoded.mean() > 100  # a white background
        assert (decoded.min(axis=(1, 2, 3)) < 60).all()  # a black cart in every frame
        assert np.abs(decoded[-1].astype(int) - decoded[0]).max() > 60  # and it moves

    def test_shows_the_episodes_that_were_played(self, tmp_path, no_display):
        env = Countdown(length=6, render_mode="rgb_array")
        film = tfpg.record(model(Countdown), env, tmp_path / "film.mp4", 2, seed=0, overlay=False)
        assert film.episode_returns == [6.0, 6.0]
        assert film.episode_lengths == [6, 6]
        decoded = iio.imread(film.path, plugin="pyav")
        shades = decoded.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(shades, [10 * t for t in range(7)] * 2, atol=3)
        assert iio.immeta(film.path, plugin="pyav")["fps"] == 10

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_the_same_seed_gives_the_same_film(self, tmp_path, no_display, deterministic):
        def film(name, seed):
            path = tmp_path / f"{name}.mp4"
            options = {"seed": seed, "deterministic": deterministic, "max_steps": 40}
            tfpg.record(model(), "CartPole-v1", path, **options)
            return path.read_bytes()

        assert film("a", 1) == film("b", 1)
        assert film("a", 1) != film("c", 2)

    def test_episodes_begin_apart_and_sampling_is_not_the_mode(self, tmp_path, no_display):
        greedy, sampled = (
            tfpg.record(
                model(), "CartPole-v1", tmp_path / "f.gif", 4, seed=1, deterministic=deterministic
            ).episode_lengths
            for deterministic in (True, False)
        )
        assert len(set(sampled)) > 1
        assert greedy != sampled
        env = Countdown(length=1, render_mode="rgb_array")
        tfpg.record(model(Countdown), env, tmp_path / "f.gif", 3, seed=1)
        assert len(set(env.seeds[-3:])) == 3

    def test_agents_policies_and_callables_can_be_filmed(self, tmp_path, no_display):
        net = model()
        policy = tfpg.Policy(net, "CartPole-v1")
        films = [
            tfpg.record(subject, "CartPole-v1", tmp_path / "film.gif", seed=1, max_steps=30)
            for subject in (net, tfpg.Reinforce(net), policy, policy.act)
        ]
        assert all(film == films[0] for film in films)

    def test_a_sigmoid_of_action_zero_is_filmed_without_retraining(self, tmp_path, no_display):
        net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        # Push the cart where the pole falls to; as P(action 0) the weights are the other way.
        net.set_weights([np.array([[0.0], [0.5], [-5.0], [-2.0]]), np.zeros(1)])
        policy = tfpg.Policy(net, "CartPole-v1", positive_action=0)
        wrong = tfpg.record(net, "CartPole-v1", tmp_path / "film.gif", seed=1)
        right = tfpg.record(policy, "CartPole-v1", tmp_path / "film.gif", seed=1)
        assert right.episode_returns[0] > 100 > wrong.episode_returns[0]

    def test_a_film_shows_the_episode_that_evaluate_plays(self, tmp_path, no_display):
        film = tfpg.record(
            model("Acrobot-v1"), "Acrobot-v1", tmp_path / "f.gif", seed=4, max_steps=9
        )
        result = tfpg.evaluate(model("Acrobot-v1"), "Acrobot-v1", 1, seed=4, max_steps=9)
        assert film.episode_returns == result["episode_returns"]

    def test_box_actions(self, tmp_path, no_display):
        film = tfpg.record(
            model("Pendulum-v1"),
            "Pendulum-v1",
            tmp_path / "film.mp4",
            max_steps=5,
            deterministic=False,
        )
        assert film.frames == 6

    def test_the_users_environment_stays_open_and_rendering_needs_no_display(
        self, tmp_path, no_display
    ):
        env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
        tfpg.record(model(), env, tmp_path / "film.gif", max_steps=3)
        assert env.render().shape == (400, 600, 3)
        assert not xvfbs()
        assert "DISPLAY" not in os.environ
        assert "SDL_VIDEODRIVER" not in os.environ
        env.close()


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"path": "film.avi"}, ValueError, "ends in .mp4, .gif"),
            ({"path": "no/film.mp4"}, FileNotFoundError, "does not exist: mkdir -p"),
            ({"path": "/proc/film.mp4"}, PermissionError, "cannot be written"),
            ({"episodes": 0}, ValueError, "episodes must be an integer of at least 1"),
            ({"max_steps": 0}, ValueError, "max_steps"),
            ({"seed": -1}, ValueError, "seed"),
            ({"fps": -5.0}, ValueError, "fps must be above 0"),
            ({"env": "CartPol-v1"}, ValueError, "Did you mean.*CartPole-v1"),
            ({"env": Countdown()}, ValueError, "render_mode='rgb_array', and this one has None"),
            ({"env": Countdown}, ValueError, "render_mode='rgb_array', and this one has None"),
            ({"policy": "model"}, TypeError, "Expected a Keras model"),
            ({"env": "Acrobot-v1"}, ValueError, "inputs of shape"),
        ],
    )
    def test_bad_input_is_said_in_one_line_and_leaves_nothing(
        self, tmp_path, monkeypatch, no_display, change, error, message
    ):
        monkeypatch.chdir(tmp_path)
        arguments = {"policy": model(), "env": "CartPole-v1", "path": "film.mp4", **change}
        with pytest.raises(error, match=message) as caught:
            tfpg.record(**arguments)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_an_environment_that_breaks_leaves_no_film(self, tmp_path, no_display):
        class Breaks(Countdown):
            def step(self, action):
                raise RuntimeError("broke")

        env = Breaks(render_mode="rgb_array")
        with pytest.raises(RuntimeError, match="broke"):
            tfpg.record(model(Countdown), env, tmp_path / "film.mp4")
        assert list(tmp_path.iterdir()) == []

    def test_nan_weights(self, tmp_path, no_display):
        net = model()
        net.set_weights([np.full_like(w, np.nan) for w in net.get_weights()])
        with pytest.raises(FloatingPointError, match="not finite"):
            tfpg.record(net, "CartPole-v1", tmp_path / "film.mp4")
        assert list(tmp_path.iterdir()) == []


class TestDisplay:
    def test_is_started_and_always_taken_down(self, xvfb, no_display):
        with virtual_display() as name:
            assert os.environ["DISPLAY"] == name
            assert len(xvfbs()) == 1
        assert not xvfbs()
        assert "DISPLAY" not in os.environ
        for error in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(error), virtual_display():
                raise error
            assert not xvfbs()
            assert "DISPLAY" not in os.environ

    def test_gives_back_the_display_that_was_there(self, xvfb, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":77")
        with virtual_display() as name:
            assert name != ":77"
        assert os.environ["DISPLAY"] == ":77"

    def test_a_process_has_one_at_a_time(self, xvfb, no_display):
        said = pytest.raises(DisplayError, match="a process has one at a time")
        with virtual_display() as name, said, virtual_display():
            pass
        assert not xvfbs()
        names = []

        def other():
            with virtual_display():
                names.append(os.environ["DISPLAY"])

        with virtual_display() as name:
            thread = threading.Thread(target=other)
            thread.start()
            time.sleep(0.2)
            assert names == []  # it waits
            assert os.environ["DISPLAY"] == name
        thread.join()
        assert len(names) == 1
        assert not xvfbs()

    @pytest.mark.slow
    def test_a_ctrl_c_of_the_terminal_does_not_reach_it(self, xvfb, no_display):
        # A terminal sends it to all processes of the group; a window whose display dies would
        # end the process before any of its own code runs.
        code = (
            "import os, signal, time\nfrom toys import Windowed\n"
            "from tfpg.video.render_env import rendering\n"
            "try:\n"
            "    with rendering(Windowed) as env:\n"
            "        os.killpg(0, signal.SIGINT)\n        time.sleep(1)\n"
            "except KeyboardInterrupt: print('interrupted', len(os.environ.get('DISPLAY', '')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=os.path.dirname(os.path.dirname(__file__)),
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        assert done.stdout.splitlines()[-1] == "interrupted 0", done.stderr[-2000:]

    def test_an_environment_that_needs_one_gets_one(self, xvfb, no_display, tmp_path):
        make = lambda: NeedsDisplay(length=5, render_mode="rgb_array")  # noqa: E731
        film = tfpg.record(model(Countdown), make, tmp_path / "film.mp4", seed=0, overlay=False)
        assert film.frames == 6
        decoded = iio.imread(film.path, plugin="pyav")
        assert decoded.shape == (6, 80, 120, 3)
        np.testing.assert_allclose(decoded[:, 40, 60, 2], 200, atol=6)
        assert not xvfbs()
        assert "DISPLAY" not in os.environ

    def test_is_taken_down_when_the_film_fails(self, xvfb, no_display, tmp_path):
        class Breaks(NeedsDisplay):
            def step(self, action):
                assert xvfbs()
                raise RuntimeError("broke")

        with pytest.raises(RuntimeError, match="broke"):
            tfpg.record(
                model(Countdown), lambda: Breaks(render_mode="rgb_array"), tmp_path / "film.mp4"
            )
        assert not xvfbs()
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_xvfb_is_one_line_with_the_mend(self, no_display, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        make = lambda: NeedsDisplay(render_mode="rgb_array")  # noqa: E731
        with pytest.raises(DisplayError, match="Xvfb is not installed: apt-get install xvfb") as e:
            tfpg.record(model(Countdown), make, tmp_path / "film.mp4")
        assert "\n" not in str(e.value)
        assert list(tmp_path.iterdir()) == []

    def test_sdl_is_left_as_it_was(self, monkeypatch):
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
        with headless_sdl():
            assert os.environ["SDL_VIDEODRIVER"] == "x11"
        assert os.environ["SDL_VIDEODRIVER"] == "x11"

    @pytest.mark.slow
    def test_rendering_on_a_server_says_nothing(self, tmp_path):
        code = "from tfpg.video.record import rendering\nwith rendering('CartPole-v1'): pass"
        env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "XDG_RUNTIME_DIR")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
        assert "XDG_RUNTIME_DIR" not in done.stderr

    def test_rendering_checks_the_mode(self, no_display):
        with pytest.raises(ValueError, match="render_mode"), rendering(Countdown()):
            pass
