"""Recording: whole videos, decoded again, and the frames they are made of."""

import gymnasium
import keras
import numpy as np
import pytest
from decoding import decode, video_info
from gymnasium import spaces
from masked import InInfos, InMethod, Pairs
from PIL import Image
from toys import Countdown, Listed, Windowed

import tfpg
from tfpg.envs.probes import Divisors
from tfpg.errors import EnvError
from tfpg.video.frames import BACKGROUND
from tfpg.video.record import one_by_one, side_by_side


def zeros(observations):
    return np.zeros(len(observations), int)


def ones(observations):
    return np.ones(len(observations), int)


class PaidByAction(Countdown):
    """The reward is the action, the length follows from the seed, and the image shows both."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.lengths, self.last = [1 + seed % 7], 0
        return result

    def step(self, action):
        observation, _, *rest = super().step(action)
        self.last = int(action)
        return observation, float(action), *rest

    def render(self):
        return np.full((32, 48, 3), 10 * self.t + 100 * self.last, np.uint8)


class Long(Countdown):
    def render(self):
        return np.full((32, 48, 3), 4 * self.t, np.uint8)


def make(cls, *args):
    """A callable that makes such an environment."""
    return lambda: cls(*args, render_mode="rgb_array")


PAID = make(PaidByAction)


@pytest.fixture(autouse=True)
def on_a_server(no_display):
    """All of these run without a display."""


@pytest.fixture(scope="module")
def model():
    return tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)


@pytest.fixture(scope="module")
def pong():
    return tfpg.networks.nature_cnn("ALE/Pong-v5", seed=0)


def shades(frames):
    """The gray of the first pixel of every frame."""
    return [int(frame[0, 0, 0]) for frame in frames]


class TestRecord:
    def test_there_is_a_frame_for_every_reset_and_step(self, model, tmp_path):
        paths = [tmp_path / f"a{suffix}" for suffix in (".mp4", ".gif", ".webm", ".png")]
        video = tfpg.record(model, "CartPole-v1", paths, seed=1, max_steps=9)
        assert (video.path, video.paths, video.frames) == (paths[0], tuple(paths), 10)
        assert (video.episode_lengths, video.episode_returns) == ([9], [9.0])
        assert sorted(tmp_path.iterdir()) == sorted(paths)
        for path in (paths[0], paths[2]):
            decoded = decode(path)
            assert decoded.shape == (10, 422, 600, 3)  # with the caption
            assert video_info(path)["fps"] == 50
            pictures = decoded[:, :400]
            assert pictures.mean() > 100  # a white background
            assert (pictures.min(axis=(1, 2, 3)) < 60).all()  # and a black cart
            assert np.abs(pictures[-1].astype(int) - pictures[0]).max() > 60  # that moves
        with Image.open(paths[1]) as gif, Image.open(paths[3]) as sheet:
            assert (gif.n_frames, gif.size) == (10, (600, 422))
            assert sheet.size == (4 * 404 - 4, 3 * 285 - 4)

    def test_it_shows_the_episodes_that_were_played(self, tmp_path):
        video = tfpg.record(ones, make(Countdown, 6), tmp_path / "a.mp4", 2, seed=0, overlay=False)
        assert (video.episode_returns, video.episode_lengths) == ([6.0, 6.0], [6, 6])
        decoded = decode(video.path).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(decoded, [10 * t for t in range(7)] * 2, atol=3)
        assert video_info(video.path)["fps"] == 10

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_the_same_seed_gives_the_same_file(self, model, tmp_path, deterministic):
        policy = tfpg.Policy(model, "CartPole-v1", epsilon=0.3)
        files = []
        for seed in (1, 1, 2):
            options = {"deterministic": deterministic, "overlay": True, "grid": True, "scale": 0.3}
            paths = [tmp_path / "a.mp4", tmp_path / "a.gif"]
            tfpg.record(policy, "CartPole-v1", paths, 2, seed=seed, max_steps=15, **options)
            files.append([path.read_bytes() for path in paths])
        assert files[0] == files[1]
        assert files[0] != files[2]

    @pytest.mark.parametrize("fps", [61, 240, 1e6])
    def test_a_warning_says_that_files_hold_fewer_frames(self, tmp_path, fps):
        with pytest.warns(UserWarning, match="exceeds the maximum of 60"):
            tfpg.record(ones, PAID, tmp_path / "a.mp4", seed=0, fps=fps)
        assert video_info(tmp_path / "a.mp4")["fps"] <= 60

    @pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
    def test_the_lowest_frame_rate_can_be_written(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        tfpg.record(ones, PAID, path, seed=0, fps=0.002)
        assert len(decode(path)) > 1

    @pytest.mark.parametrize(
        ("options", "fps", "frames"),
        [
            ({}, 10, 61),
            ({"speed": 12}, 60, 31),
            ({"fps": 30, "speed": 0.5}, 15, 61),
            ({"max_seconds": 2, "speed": 2}, 20, 40),
            ({"max_seconds": 0.001}, 10, 1),
        ],
    )
    def test_speed_and_length(self, tmp_path, options, fps, frames):
        path = tmp_path / "a.mp4"
        tfpg.record(ones, make(Long, 60), path, seed=0, overlay=False, **options)
        assert video_info(path)["fps"] == pytest.approx(fps)
        assert len(decode(path)) == frames

    def test_a_video_that_is_cut_reports_the_episodes_it_shows(self, tmp_path):
        options = {"seed": 0, "fps": 10, "max_seconds": 0.6, "overlay": False}
        video = tfpg.record(ones, make(Countdown, 3), tmp_path / "a.gif", 4, **options)
        assert (video.frames, video.episode_lengths, video.episode_returns) == (
            6,
            [3, 1],
            [3.0, 1.0],
        )

    def test_agents_policies_and_callables_are_recorded_alike(self, model, tmp_path):
        policy = tfpg.Policy(model, "CartPole-v1")
        options = {"seed": 1, "max_steps": 9, "overlay": False, "scale": 0.2}
        videos = [
            tfpg.record(each, "CartPole-v1", tmp_path / "a.gif", **options)
            for each in (model, tfpg.Reinforce(model), policy, policy.act)
        ]
        assert all(video == videos[0] for video in videos)

    def test_a_sigmoid_that_is_the_probability_of_action_0_is_recorded_as_it_was_trained(
        self, tmp_path
    ):
        net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        # As P(action 0) it pushes the cart under the pole, as P(action 1) away from it.
        net.set_weights([np.array([[0.0], [0.5], [-5.0], [-2.0]]), np.zeros(1)])
        options = {"seed": 1, "max_steps": 60, "scale": 0.1}
        policy = tfpg.Policy(net, "CartPole-v1", positive_action=0)
        wrong = tfpg.record(net, "CartPole-v1", tmp_path / "a.gif", **options)
        right = tfpg.record(policy, "CartPole-v1", tmp_path / "a.gif", **options)
        assert (right.episode_returns, wrong.episode_returns[0] < 20) == ([60.0], True)

    @pytest.mark.parametrize("env_id", ["Acrobot-v1", "Pendulum-v1"])
    @pytest.mark.parametrize("deterministic", [True, False])
    def test_it_shows_the_episodes_that_evaluate_plays(self, tmp_path, env_id, deterministic):
        net = tfpg.networks.mlp(env_id, hidden=(8,), seed=0)
        options = {"seed": 4, "max_steps": 9, "deterministic": deterministic}
        video = tfpg.record(net, env_id, tmp_path / "a.gif", 2, scale=0.1, **options)
        result = tfpg.evaluate(net, env_id, 2, **options)
        assert video.episode_returns == pytest.approx(result["episode_returns"])

    def test_an_environment_that_was_passed_in_stays_open(self, tmp_path):
        env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
        tfpg.record(zeros, env, tmp_path / "a.gif", 2, seed=0, max_steps=2)
        assert env.render().shape == (400, 600, 3)
        env.close()

    def test_a_video_of_a_single_color_is_a_warning(self, tmp_path):
        class Black(Countdown):
            def render(self):
                return np.zeros((32, 48, 3), np.uint8)

        with pytest.warns(UserWarning, match="All frames of .*a.gif' show the same single color"):
            tfpg.record(ones, make(Black), tmp_path / "a.gif")


class TestFaults:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"path": "a.avi"}, ValueError, "ending in .mp4, .gif"),
            ({"path": []}, ValueError, "empty list"),
            ({"path": ["a.mp4", "no/a.gif"]}, FileNotFoundError, "does not exist: mkdir -p"),
            ({"path": "/proc/a.mp4"}, PermissionError, "cannot be written"),
            ({"episodes": 0}, ValueError, "episodes must be an integer of at least 1"),
            ({"max_steps": 0}, ValueError, "max_steps"),
            ({"seed": -1}, ValueError, "seed"),
            ({"fps": float("nan")}, ValueError, "fps must be positive"),
            ({"fps": 0}, ValueError, "fps must be positive"),
            ({"fps": 1e-9}, ValueError, "fps times speed must be at least 0.002, but it is 1e-09"),
            ({"fps": 1e-3}, ValueError, "no file shows a frame for so long"),
            ({"speed": 1e-6}, ValueError, "fps times speed must be at least 0.002"),
            ({"speed": 0}, ValueError, "speed must be positive"),
            ({"max_seconds": -1}, ValueError, "max_seconds must be positive"),
            ({"scale": 0}, ValueError, "scale must be positive"),
            ({"crop": (0, 0, 10)}, ValueError, r"crop must be \(left, top, right, bottom\)"),
            ({"crop": (0, 0, 100, 10)}, ValueError, "which is 48 pixels wide and 32 high"),
            ({"overlay": "bras"}, ValueError, "Unknown overlay 'bras'. Expected some of caption"),
            ({"overlay": "bars"}, ValueError, "'bars' is not available for this policy, only capt"),
            ({"action_names": ("a",)}, ValueError, "Expected 2 action_names.* but got 1"),
            ({"grid": 0, "episodes": 2}, ValueError, "grid must be an integer of at least 1"),
            ({"policy": lambda x: 1}, ValueError, r"shape.*\(\)"),
            ({"policy": {}}, ValueError, "The mapping of policies is empty"),
            ({"policy": "model"}, TypeError, "Expected a Keras model"),
            ({"env": "CartPol-v1"}, ValueError, "Did you mean.*CartPole-v1"),
            ({"env": Countdown()}, ValueError, "render_mode='rgb_array', but this one has None"),
        ],
    )
    def test_invalid_options_are_one_line_and_leave_no_file(
        self, tmp_path, monkeypatch, options, error, message
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(error, match=message) as caught:
            tfpg.record(**{"policy": ones, "env": PAID, "path": "a.mp4", **options})
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_model_for_another_environment_is_refused(self, model, tmp_path):
        with pytest.raises(ValueError, match="inputs of shape"):
            tfpg.record(model, "Acrobot-v1", tmp_path / "a.mp4")

    def test_an_environment_that_fails_leaves_no_file(self, tmp_path):
        class Breaks(PaidByAction):
            def step(self, action):
                raise RuntimeError("broke")

        with pytest.raises(RuntimeError, match="broke"):
            tfpg.record(ones, make(Breaks), [tmp_path / "a.mp4", tmp_path / "b.gif"], seed=0)
        assert list(tmp_path.iterdir()) == []

    def test_weights_of_nan_leave_no_file(self, tmp_path):
        net = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
        net.set_weights([np.full_like(w, np.nan) for w in net.get_weights()])
        with pytest.raises(FloatingPointError, match="not finite"):
            tfpg.record(net, "CartPole-v1", tmp_path / "a.mp4")
        assert list(tmp_path.iterdir()) == []


class TestFrames:
    def test_they_are_those_of_the_video(self, model, tmp_path):
        options = {"seed": 3, "max_steps": 20, "overlay": ("caption", "bars"), "scale": 0.5}
        shown = list(tfpg.frames(model, "CartPole-v1", **options))
        video = tfpg.record(model, "CartPole-v1", tmp_path / "a.mp4", **options)
        decoded = decode(video.path)
        assert len(shown) == video.frames
        assert np.abs(np.stack(shown).astype(int) - decoded).mean() < 2

    def test_the_environment_is_closed_when_the_generator_is(self):
        env = PAID()
        env.closed = False
        env.close = lambda: setattr(env, "closed", True)
        shown = tfpg.frames(ones, lambda: env, 5, seed=0, overlay=False, scale=1)
        assert next(shown).shape == (32, 48, 3)
        shown.close()
        assert env.closed

    def test_every_image_of_a_list_is_shown(self):
        assert shades(tfpg.frames(ones, Listed, overlay=False)) == [0, 5, 10, 15, 20, 25, 30]

    def test_float_images_whose_size_changes_are_letterboxed(self):
        class Growing(Countdown):
            def render(self):
                return np.full((20 + 2 * self.t, 10), self.t / 10)

        shown = list(tfpg.frames(ones, make(Growing), overlay=False, scale=1))
        assert [frame.shape for frame in shown] == [(20, 10, 3)] * 4
        assert [int(frame[10, 5, 0]) for frame in shown] == [0, 26, 51, 76]

    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            ((1, 1), (200, 200)),
            ((8, 8), (200, 200)),
            ((84, 84), (252, 252)),
            ((30, 127), (60, 254)),
            ((128, 30), (128, 30)),
        ],
    )
    def test_small_pictures_are_enlarged_by_a_whole_factor(self, size, shown):
        class Sized(Countdown):
            def render(self):
                return np.random.default_rng(self.t).integers(0, 255, (*size, 3), np.uint8)

        frame = next(tfpg.frames(ones, make(Sized), overlay=False))
        assert frame.shape == (*shown, 3)
        factor = shown[0] // size[0]
        for axis in (0, 1):
            frame = frame.take(range(0, shown[axis], factor), axis).repeat(factor, axis)
        np.testing.assert_array_equal(frame, next(tfpg.frames(ones, make(Sized), overlay=False)))
        unscaled = next(tfpg.frames(ones, make(Sized), overlay=False, scale=1))
        assert unscaled.shape == (*size, 3)

    def test_the_picture_is_cropped_and_then_scaled(self):
        options = {"seed": 0, "overlay": False, "crop": (8, 0, 24, 8), "scale": 3}
        assert next(tfpg.frames(ones, PAID, **options)).shape == (24, 48, 3)


class TestSeveralEpisodes:
    def test_they_follow_one_another_by_default(self):
        shown = shades(tfpg.frames(ones, PAID, 3, seed=0, overlay=False))
        assert shown.count(0) == 3  # each begins black

    def test_a_grid_shows_them_side_by_side_and_dims_those_that_have_ended(self, tmp_path):
        options = {"scale": 1, "seed": 0, "overlay": False}
        video = tfpg.record(ones, PAID, tmp_path / "a.gif", 2, grid=True, **options)
        shown = list(tfpg.frames(ones, PAID, 2, grid=True, **options))
        alone = []
        for shade in shades(tfpg.frames(ones, PAID, 2, **options)):
            alone += [[]] * (shade == 0)
            alone[-1] = [*alone[-1], shade]
        assert video.episode_lengths == [len(each) - 1 for each in alone]
        assert video.episode_returns == [len(each) - 1 for each in alone]
        assert len(set(video.episode_lengths)) == 2
        assert len(shown) == video.frames == max(map(len, alone))
        for column, expected in enumerate(alone):
            seen = [int(frame[16, column * 52 + 24, 0]) for frame in shown]
            dimmed = [expected[-1] // 2] * (len(shown) - len(expected))
            assert seen == expected + dimmed

    @pytest.mark.parametrize(
        ("policies", "episodes", "grid", "rows", "columns"),
        [
            *((1, 3, True, 1, 3), (1, 5, True, 2, 3), (1, 9, True, 3, 3), (1, 4, 4, 1, 4)),
            *((2, 1, None, 1, 2), (2, 3, True, 2, 3), (3, 2, 2, 3, 2)),
        ],
    )
    def test_rows_and_columns_of_a_grid(self, policies, episodes, grid, rows, columns):
        policy = {str(i): zeros for i in range(policies)} if policies > 1 else zeros
        options = {"scale": 1, "seed": 0, "overlay": False, "crop": (0, 0, 48, 32)}
        frame = next(tfpg.frames(policy, PAID, episodes, grid=grid, **options))
        width = (frame.shape[1] + 4) // columns - 4
        height = (frame.shape[0] + 4) // rows - 4
        assert frame.shape == (rows * (height + 4) - 4, columns * (width + 4) - 4, 3)
        titled = policies > 1 or episodes > 1
        assert (width >= 48, 32 <= height <= 32 + 18 * titled) == (True, True)

    def test_several_policies_play_the_same_episodes(self, tmp_path):
        video = tfpg.record({"a": zeros, "b": ones}, PAID, tmp_path / "a.gif", 3, seed=0)
        lengths = video.episode_lengths
        assert lengths[:3] == lengths[3:]
        assert video.episode_returns == [0.0] * 3 + [float(n) for n in lengths[3:]]

    def test_rank_shows_the_best_the_median_and_the_worst(self, tmp_path):
        options = {"seed": 0, "overlay": False}
        every = tfpg.record(ones, PAID, tmp_path / "a.gif", 9, **options)
        video = tfpg.record(ones, PAID, tmp_path / "b.gif", 9, rank=True, **options)
        returns = sorted(every.episode_returns, reverse=True)
        assert video.episode_returns == [returns[0], returns[4], returns[-1]]
        assert len(set(video.episode_returns)) == 3

    def test_without_a_grid_policies_follow_one_another_in_the_order_of_the_mapping(self, tmp_path):
        models = {f"iteration {n}": policy for n, policy in ((0, zeros), (9, ones))}
        video = tfpg.record(models, PAID, tmp_path / "a.gif", seed=0, grid=False)
        assert video.episode_returns == [0.0, float(video.episode_lengths[1])]
        assert video.frames == sum(video.episode_lengths) + 2

    def test_a_grid_needs_an_environment_for_each_episode(self, tmp_path, xvfb):
        env = PAID()
        for same in (
            env,
            lambda: env,
            lambda: gymnasium.wrappers.TimeLimit(env, 5),
        ):
            with pytest.raises(ValueError, match="needs an environment of its own: pass an id"):
                tfpg.record(ones, same, tmp_path / "a.gif", 2, grid=True)
        with pytest.raises(ValueError, match="Only one window can be recorded at a time"):
            tfpg.record(ones, Windowed, tmp_path / "a.gif", 2, grid=True)
        assert list(tmp_path.iterdir()) == []

    def test_streams_of_other_sizes_are_letterboxed(self):
        small, large = (np.full((n, n, 3), 200, np.uint8) for n in (4, 8))
        assert [f.shape for f in one_by_one([iter([small]), iter([large])])] == [(4, 4, 3)] * 2
        (frame,) = side_by_side([iter([small]), iter([large])], 2)
        assert frame.shape == (4, 12, 3)
        assert (frame[:, 4:8] == BACKGROUND).all()
        assert (frame[:, :4] == 200).all()
        assert (frame[:, 8:] == 200).all()


class TestOverlays:
    def test_the_picture_is_unchanged_and_frames_have_one_size(self):
        net = tfpg.networks.actor_critic("CartPole-v1", hidden=(8,), seed=0)
        plain = next(tfpg.frames(net, "CartPole-v1", seed=0, overlay=False))
        drawn = list(tfpg.frames(net, "CartPole-v1", seed=0, overlay=True, max_steps=3))
        assert len({frame.shape for frame in drawn}) == 1
        np.testing.assert_array_equal(drawn[0][:400], plain)
        assert len(drawn[0]) > 440

    def test_true_draws_everything_a_policy_has(self, model):
        policy = tfpg.Policy(model, "CartPole-v1", epsilon=0.5)
        names = ("caption", "action", "bars", "value", "entropy", "epsilon")
        for subject, overlay in (
            (policy, names),
            (model, ("caption", "action", "bars", "entropy")),
        ):
            one = next(tfpg.frames(subject, "CartPole-v1", seed=0, overlay=overlay))
            every = next(tfpg.frames(subject, "CartPole-v1", seed=0, overlay=True))
            np.testing.assert_array_equal(one, every)

    def test_an_overlay_that_the_policy_does_not_have_is_refused(self, model):
        for overlay, message in (
            ("epsilon", r"'epsilon' is not available .*Policy\(model, env, epsilon=0\)"),
            ("saliency", "'saliency' is not available for this policy, only caption"),
            ("value", "'value' is not available"),
        ):
            with pytest.raises(ValueError, match=message):
                next(tfpg.frames(model, "CartPole-v1", overlay=overlay))

    def test_action_names_are_drawn(self):
        options = {"seed": 0, "overlay": "action"}
        ours = next(tfpg.frames(ones, PAID, action_names=("hold", "push"), **options))
        theirs = next(tfpg.frames(ones, PAID, **options))
        assert ours.shape != theirs.shape or (ours != theirs).any()

    def test_saliency_is_drawn_on_the_picture_and_cropped_with_it(self, pong):
        options = {"seed": 0, "max_steps": 1}
        plain = next(tfpg.frames(pong, "ALE/Pong-v5", overlay=False, **options))
        whole = next(tfpg.frames(pong, "ALE/Pong-v5", overlay="saliency", **options))
        box = (20, 30, 100, 90)
        part = next(tfpg.frames(pong, "ALE/Pong-v5", overlay="saliency", crop=box, **options))
        assert whole.shape == plain.shape
        redder = whole[..., 0].astype(int) - plain[..., 0]
        assert redder.max() > 50
        assert (redder == 0).any()
        np.testing.assert_array_equal(part, whole[30:90, 20:100])


class Rendered(gymnasium.Wrapper):
    """Shows a picture of random colors."""

    render_mode = "rgb_array"

    def render(self):
        return np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)


class Stuck(Rendered):
    """From its second step on, no action is valid."""

    def step(self, action):
        observation, *_ = self.env.step(action)
        self.steps += 1
        observation["action_mask"][:] = self.steps < 2
        return observation, -1.0, False, False, {}

    def reset(self, **arguments):
        self.steps = 0
        return self.env.reset(**arguments)


class Halves(gymnasium.Env):
    """Observes two numbers as a tuple, which it then changes."""

    observation_space = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)])
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return (0, np.zeros(2, np.float32)), {}

    def step(self, action):
        self.t += 1
        return (self.t % 3, np.ones(2, np.float64)), 1.0, self.t == 4, False, {}


class TestObservations:
    """They are brought into the form that training has."""

    @pytest.mark.parametrize("wrap", [lambda env: env, InInfos, InMethod])
    def test_masks_in_a_tuple(self, tmp_path, wrap):
        model, env = tfpg.networks.mlp(Pairs, seed=0), Rendered(wrap(Pairs()))
        video = tfpg.record(model, env, tmp_path / "a.gif", episodes=2, seed=0, overlay=True)
        assert env.unwrapped.invalid == 0
        expected = tfpg.evaluate(model, Pairs, 2, seed=0)["episode_returns"]
        assert video.episode_returns == expected

    def test_no_valid_action_is_an_error_that_names_the_step(self, tmp_path):
        env = Stuck(Divisors(largest=12))
        model = tfpg.networks.mlp(env, seed=0)
        with pytest.raises(EnvError, match="in step 1 .* no action is valid"):
            tfpg.record(model, env, tmp_path / "a.gif", seed=0)
        assert not list(tmp_path.iterdir())

    def test_a_tuple(self, tmp_path):
        model = tfpg.networks.mlp(Halves, seed=0)
        video = tfpg.record(model, Rendered(Halves()), tmp_path / "a.gif", seed=0, overlay=True)
        assert video.episode_returns == [4.0]
        expected = tfpg.evaluate(model, Halves, 1, seed=0)["episode_returns"]
        assert video.episode_returns == expected
