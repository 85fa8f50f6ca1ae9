"""What films are made of: several episodes, several policies, several files."""

import gymnasium
import imageio.v3 as iio
import numpy as np
import pytest
from marks import slow_but
from PIL import Image
from toys import Countdown, Listed, Windowed

import tfpg
from tfpg.video.encoders import ENCODERS
from tfpg.video.frames import BACKGROUND
from tfpg.video.record import in_turn, side_by_side
from tfpg.video.writer import VideoWriteError


def zeros(observations):
    return np.zeros(len(observations), int)


def ones(observations):
    return np.ones(len(observations), int)


class Paid(Countdown):
    """Its reward is the action, its length depends on the seed, and it shows both."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.lengths = [1 + seed % 7]
        self.last = 0
        return result

    def step(self, action):
        observation, _, ended, truncated, info = super().step(action)
        self.last = int(action)
        return observation, float(action), ended, truncated, info

    def render(self):
        return np.full((32, 48, 3), 10 * self.t + 100 * self.last, np.uint8)


def three():
    return Countdown(3, render_mode="rgb_array")


def paid():
    return Paid(render_mode="rgb_array")


def model(env="CartPole-v1"):
    return tfpg.networks.mlp(env, hidden=(8,), seed=0)


class TestFiles:
    def test_several_from_one_pass(self, no_display, tmp_path):
        paths = [tmp_path / f"film{suffix}" for suffix in (".mp4", ".gif", ".webm", ".png")]
        film = tfpg.record(model(), "CartPole-v1", paths, seed=1, max_steps=9)
        assert film.paths == tuple(paths)
        assert (film.path, film.frames) == (paths[0], 10)
        assert sorted(tmp_path.iterdir()) == sorted(paths)
        for path in (paths[0], paths[2]):
            assert iio.imread(path, plugin="pyav").shape == (10, 422, 600, 3)
        with Image.open(paths[1]) as gif, Image.open(paths[3]) as sheet:
            assert (gif.n_frames, gif.size) == (10, (600, 422))
            assert sheet.size == (4 * 404 - 4, 3 * 285 - 4)

    def test_if_one_cannot_be_written_none_is(self, no_display, tmp_path):
        def breaks(observations):
            breaks.steps += 1
            if breaks.steps > 3:
                raise RuntimeError("broke")
            return ones(observations)

        breaks.steps = 0
        with pytest.raises(RuntimeError, match="broke"):
            tfpg.record(breaks, paid, [tmp_path / "a.mp4", tmp_path / "b.gif"], 9, seed=0)
        assert list(tmp_path.iterdir()) == []

    def test_if_one_fails_at_its_end_none_is(self, no_display, tmp_path, monkeypatch):
        def full(self, failed):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ENCODERS[".gif"], "close", full)
        paths = [tmp_path / f"film{suffix}" for suffix in (".mp4", ".gif", ".png")]
        with pytest.raises(VideoWriteError, match="film.gif': No space left on device"):
            tfpg.record(ones, paid, paths, seed=0)
        assert list(tmp_path.iterdir()) == []

    def test_all_are_looked_at_before_anything_is_played(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            tfpg.record(ones, paid, [tmp_path / "a.mp4", tmp_path / "no/b.gif"])
        with pytest.raises(ValueError, match="empty list"):
            tfpg.record(ones, paid, [])

    @pytest.mark.parametrize(
        ("options", "fps", "frames"),
        slow_but(
            [({}, 10, 61), ({"speed": 12}, 60, 31), ({"max_seconds": 2, "speed": 2}, 20, 40)],
            [
                ({}, 10, 61),
                ({"speed": 2}, 20, 61),
                ({"speed": 0.5}, 5, 61),
                ({"speed": 12}, 60, 31),
                ({"fps": 30}, 30, 61),
                ({"fps": 30, "speed": 2}, 60, 61),
                ({"max_seconds": 2}, 10, 20),
                ({"max_seconds": 2, "speed": 2}, 20, 40),
                ({"max_seconds": 0.001}, 10, 1),
            ],
        ),
    )
    def test_speed_and_length(self, no_display, tmp_path, options, fps, frames):
        class Long(Countdown):
            def render(self):
                return np.full((32, 48, 3), 4 * self.t, np.uint8)

        def long():
            return Long(60, render_mode="rgb_array")

        tfpg.record(ones, long, tmp_path / "film.mp4", seed=0, overlay=False, **options)
        meta = iio.immeta(tmp_path / "film.mp4", plugin="pyav")
        assert meta["fps"] == pytest.approx(fps)
        assert len(iio.imread(tmp_path / "film.mp4", plugin="pyav")) == frames

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"speed": 0}, "speed must be above 0"),
            ({"max_seconds": -1}, "max_seconds must be above 0"),
            ({"scale": 0}, "scale must be above 0"),
            ({"crop": (0, 0, 10)}, "crop is four numbers"),
            ({"crop": (0, 0, 100, 10)}, "must be within the frame, which is 48 wide and 32 high"),
            ({"overlay": "bras"}, "Unknown overlay 'bras': it is of caption, action"),
            ({"overlay": "bars"}, "The overlay 'bars' is not for this policy, which has caption"),
            ({"action_names": ("a",)}, "There are 2 actions and 1 names"),
            ({"grid": 0, "episodes": 2}, "grid must be an integer of at least 1"),
            ({"fps": float("nan")}, "fps must be above 0"),
            ({"policy": lambda observations: 1}, r"given 1 observations, and returned .* \(\)"),
            ({"policy": {}}, "no policy in the mapping"),
        ],
    )
    def test_bad_options_are_said(self, no_display, tmp_path, options, message):
        options = {"policy": ones, "grid": None, **options}
        with pytest.raises(ValueError, match=message) as caught:
            tfpg.record(env=paid, path=tmp_path / "film.mp4", **options)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


class TestFrames:
    def test_are_those_of_the_film(self, no_display, tmp_path):
        options = {"seed": 3, "max_steps": 20, "overlay": ("caption", "bars"), "scale": 0.5}
        shown = list(tfpg.frames(model(), "CartPole-v1", **options))
        film = tfpg.record(model(), "CartPole-v1", tmp_path / "film.mp4", **options)
        decoded = iio.imread(film.path, plugin="pyav")
        assert len(shown) == film.frames
        assert np.abs(np.stack(shown).astype(int) - decoded).mean() < 2

    def test_come_one_by_one_and_may_be_left(self, no_display):
        env = paid()
        env.closed = False
        env.close = lambda: setattr(env, "closed", True)
        shown = tfpg.frames(ones, lambda: env, 5, seed=0, overlay=False)
        assert next(shown).shape == (32, 48, 3)
        shown.close()
        assert env.closed

    def test_every_picture_of_a_list(self, no_display):
        shades = [f[0, 0, 0] for f in tfpg.frames(ones, Listed, seed=0, overlay=False)]
        assert shades == [0, 5, 10, 15, 20, 25, 30]

    def test_float_frames_and_sizes_that_change(self, no_display):
        class Odd(Countdown):
            def render(self):
                height = 20 + 2 * self.t
                return np.full((height, 10), self.t / 10)

        shown = list(tfpg.frames(ones, lambda: Odd(render_mode="rgb_array"), overlay=False))
        assert [frame.shape for frame in shown] == [(20, 10, 3)] * 4
        assert [int(frame[10, 5, 0]) for frame in shown] == [0, 26, 51, 76]

    def test_a_film_that_is_cut_tells_the_episodes_that_it_shows(self, no_display, tmp_path):
        path = tmp_path / "film.mp4"
        film = tfpg.record(ones, three, path, 4, seed=0, fps=10, max_seconds=0.6, overlay=False)
        assert (film.frames, film.episode_lengths, film.episode_returns) == (6, [3, 1], [3.0, 1.0])

    def test_crop_then_scale(self, no_display):
        options = {"seed": 0, "overlay": False, "crop": (8, 0, 24, 8), "scale": 3}
        assert next(tfpg.frames(ones, paid, **options)).shape == (24, 48, 3)


class TestSeveral:
    def test_one_after_another_by_default(self, no_display):
        film = [f[0, 0, 0] for f in tfpg.frames(ones, paid, 3, seed=0, overlay=False)]
        assert film.count(0) == 3  # each begins

    def test_a_grid_ends_with_the_longest_and_dims_the_others(self, no_display, tmp_path):
        options = {"seed": 0, "overlay": False}
        film = tfpg.record(ones, paid, tmp_path / "f.gif", 4, grid=True, **options)
        shown = list(tfpg.frames(ones, paid, 4, grid=True, **options))
        assert len(set(film.episode_lengths)) > 1
        assert len(shown) == film.frames == max(film.episode_lengths) + 1
        assert film.episode_returns == [float(n) for n in film.episode_lengths]

    def test_a_grid_is_the_episodes_themselves(self, no_display):
        options = {"seed": 0, "overlay": False}
        one_by_one, shown = [], list(tfpg.frames(ones, paid, 2, grid=True, **options))
        for frame in tfpg.frames(ones, paid, 2, **options):
            if frame[0, 0, 0] == 0:
                one_by_one.append([])
            one_by_one[-1].append(int(frame[0, 0, 0]))
        width = (shown[0].shape[1] - 4) // 2
        for column, shades in enumerate(one_by_one):
            middle = column * (width + 4) + width // 2
            seen = [int(frame[16, middle, 0]) for frame in shown]
            assert seen[: len(shades)] == shades
            assert set(seen[len(shades) :]) <= {shades[-1] // 2}

    @pytest.mark.parametrize(
        ("episodes", "grid", "rows", "columns"),
        [(3, True, 1, 3), (5, True, 2, 3), (9, True, 3, 3), (4, 4, 1, 4)],
    )
    def test_rows_and_columns(self, no_display, episodes, grid, rows, columns):
        frame = next(tfpg.frames(zeros, "CartPole-v1", episodes, grid=grid, scale=0.1, seed=0))
        one = next(tfpg.frames(zeros, "CartPole-v1", 2, grid=2, scale=0.1, seed=0))
        height, width = one.shape[0], (one.shape[1] - 4) // 2
        assert frame.shape == (rows * (height + 4) - 4, columns * (width + 4) - 4, 3)

    def test_policies_play_the_same_episodes(self, no_display, tmp_path):
        film = tfpg.record({"a": zeros, "b": ones}, paid, tmp_path / "f.gif", 3, seed=0)
        lengths = film.episode_lengths
        assert lengths[:3] == lengths[3:]
        assert film.episode_returns == [0.0] * 3 + [float(n) for n in lengths[3:]]

    def test_best_median_and_worst(self, no_display, tmp_path):
        options = {"seed": 0, "overlay": False}
        every = tfpg.record(ones, paid, tmp_path / "a.gif", 9, **options)
        film = tfpg.record(ones, paid, tmp_path / "b.gif", 9, rank=True, **options)
        ranked = sorted(every.episode_returns, reverse=True)
        assert film.episode_returns == [ranked[0], ranked[4], ranked[-1]]
        assert len(set(film.episode_returns)) == 3

    def test_a_timelapse_is_in_the_order_of_the_mapping(self, no_display, tmp_path):
        models = {f"iteration {n}": policy for n, policy in ((0, zeros), (9, ones))}
        film = tfpg.record(models, paid, tmp_path / "f.gif", seed=0, grid=False)
        assert film.episode_returns == [0.0, float(film.episode_lengths[1])]
        assert film.frames == sum(film.episode_lengths) + 2

    def test_side_by_side_wants_environments_of_its_own(self, no_display, tmp_path, xvfb):
        with pytest.raises(ValueError, match="an environment each: give an id or a callable"):
            tfpg.record(ones, paid(), tmp_path / "f.gif", 2, grid=True)
        env = paid()
        with pytest.raises(ValueError, match="a new one each time"):
            tfpg.record(ones, lambda: env, tmp_path / "f.gif", 2, grid=True)
        with pytest.raises(ValueError, match="A window is filmed alone"):
            tfpg.record(ones, Windowed, tmp_path / "f.gif", 2, grid=True)
        assert list(tmp_path.iterdir()) == []

    def test_streams_of_other_sizes_are_fitted(self):
        small, large = (np.full((n, n, 3), 200, np.uint8) for n in (4, 8))
        assert [f.shape for f in in_turn([iter([small]), iter([large])])] == [(4, 4, 3)] * 2
        (frame,) = side_by_side([iter([small]), iter([large])], 2)
        assert frame.shape == (4, 12, 3)
        assert (frame[:, 4:8] == BACKGROUND).all()
        assert (frame[:, :4] == 200).all()
        assert (frame[:, 8:] == 200).all()


class TestOverlays:
    def test_all_of_an_actor_critic(self, no_display):
        net = tfpg.networks.actor_critic("CartPole-v1", hidden=(8,), seed=0)
        plain = next(tfpg.frames(net, "CartPole-v1", seed=0, overlay=False))
        drawn = list(tfpg.frames(net, "CartPole-v1", seed=0, overlay=True, max_steps=3))
        assert all(frame.shape == drawn[0].shape for frame in drawn)
        np.testing.assert_array_equal(drawn[0][:400], plain)
        assert len(drawn[0]) > 440

    def test_a_q_network(self, no_display):
        policy = tfpg.Policy(model(), "CartPole-v1", epsilon=0.5)
        names = ("caption", "action", "bars", "value", "entropy", "epsilon")
        one = next(tfpg.frames(policy, "CartPole-v1", seed=0, overlay=names))
        every = next(tfpg.frames(policy, "CartPole-v1", seed=0, overlay=True))
        np.testing.assert_array_equal(one, every)

    def test_what_a_policy_has_not_is_said(self, no_display):
        with pytest.raises(ValueError, match=r"'epsilon' is not .*Policy\(model, env, epsilon=0\)"):
            next(tfpg.frames(model(), "CartPole-v1", overlay="epsilon"))
        with pytest.raises(ValueError, match="'saliency' is not for this policy, which has capt"):
            next(tfpg.frames(model(), "CartPole-v1", overlay="saliency"))

    def test_where_a_pixel_policy_looks(self, no_display):
        net = tfpg.networks.nature_cnn("ALE/Pong-v5", seed=0)
        options = {"seed": 0, "max_steps": 1}
        plain = next(tfpg.frames(net, "ALE/Pong-v5", overlay=False, **options))
        shown = next(tfpg.frames(net, "ALE/Pong-v5", overlay="saliency", **options))
        assert shown.shape == plain.shape
        redder = shown[..., 0].astype(int) - plain[..., 0]
        assert redder.max() > 50
        assert (redder == 0).any()

    def test_where_it_looks_is_cropped_with_the_picture(self, no_display):
        net = tfpg.networks.nature_cnn("ALE/Pong-v5", seed=0)
        options = {"seed": 0, "max_steps": 1, "overlay": "saliency"}
        whole = next(tfpg.frames(net, "ALE/Pong-v5", **options))
        part = next(tfpg.frames(net, "ALE/Pong-v5", crop=(20, 30, 100, 90), **options))
        np.testing.assert_array_equal(part, whole[30:90, 20:100])

    def test_the_same_seed_gives_the_same_film(self, no_display, tmp_path):
        films = []
        for name in "ab":
            options = {"seed": 5, "deterministic": False, "overlay": True, "grid": True}
            path = tmp_path / f"{name}.gif"
            tfpg.record(model(), "CartPole-v1", path, 2, max_steps=15, **options)
            films.append(path.read_bytes())
        assert films[0] == films[1]

    def test_names_given_are_used(self, no_display):
        options = {"seed": 0, "overlay": "action"}
        ours = next(tfpg.frames(ones, paid, action_names=("hold", "push"), **options))
        theirs = next(tfpg.frames(ones, paid, **options))
        assert ours.shape != theirs.shape or (ours != theirs).any()

    def test_an_environment_that_was_given_is_not_closed(self, no_display, tmp_path):
        env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
        tfpg.record(model(), env, tmp_path / "f.gif", 2, seed=0, max_steps=2)
        assert env.render().shape == (400, 600, 3)
        env.close()
