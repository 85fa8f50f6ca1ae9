"""Atari games: the DQN papers' protocol, the same in a single game and in many."""

import subprocess
import sys

import numpy as np
import pytest
from decoding import decode, video_info
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import tfpg
from tfpg.envs import make, make_vec, open_env, open_vec, same_env, spaces_of
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.loop import autoreset_mode, takes_seeds, time_limit

IMAGES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
NOOP, FIRE, LEFT, RIGHT = range(4)  # Breakout


@pytest.fixture(scope="module")
def breakouts():
    with open_vec("ALE/Breakout-v5", 3) as envs:
        yield envs


def seed_with(noops):
    """A seed whose first episode starts with so many of 0 to 30 no-ops."""
    firsts = (np.random.RandomState(s).randint(2**32, dtype=np.uint32) for s in range(1000))
    return next(s for s, first in enumerate(firsts) if int(first) * 31 >> 32 == noops)


def only(n, count=3):
    return np.arange(count) == n


def act_on_all_pixels(observations, actions=6):
    return observations.astype(int).sum(axis=(1, 2, 3)) // 97 % actions


def play_both(game, seed, steps, **kwargs):
    """Yield what the single game and the second of two games return in one episode."""
    rng = np.random.default_rng(seed)
    with open_env(game, **kwargs) as env, open_vec(game, 2, **kwargs) as envs:
        (x, info), (xs, infos) = env.reset(seed=seed), envs.reset(seed=[0, seed])
        yield (x, 0.0, False, False, info["lives"]), (xs[1], 0.0, False, False, infos["lives"][1])
        for _ in range(steps):
            action = int(rng.integers(env.action_space.n))
            *one, info = env.step(action)
            *both, infos = envs.step(np.array([NOOP, action]))
            yield (*one, info["lives"]), (*(x[1] for x in both), infos["lives"][1])
            if one[2] or one[3]:
                break


def test_spaces_are_four_frames_and_the_minimal_actions():
    assert spaces_of("ALE/Breakout-v5") == (IMAGES, spaces.Discrete(4))
    with open_env("ALE/Breakout-v5") as env:
        assert (env.observation_space, env.action_space) == (IMAGES, spaces.Discrete(4))
        assert env.reset()[0] in IMAGES


def test_properties_that_rollouts_and_replays_use(breakouts):
    assert breakouts.frame_stack == 4
    assert takes_seeds(breakouts)
    assert autoreset_mode(breakouts) is AutoresetMode.DISABLED
    assert time_limit(breakouts) == 27_000
    with open_env("ALE/Breakout-v5", render_mode="rgb_array") as env:
        assert env.spec.max_episode_steps == 27_000
        assert env.metadata["render_fps"] == 15


def test_a_step_is_four_frames_and_the_last_four_observed_frames_are_stacked(breakouts):
    before, infos = breakouts.reset(seed=7)
    frame = infos["episode_frame_number"]
    assert not before[..., :3].any()
    assert before[..., 3].any()
    for t in range(1, 9):
        after, *_, infos = breakouts.step(np.array([FIRE, LEFT, RIGHT]))
        np.testing.assert_array_equal(after[..., :3], before[..., 1:])
        np.testing.assert_array_equal(infos["episode_frame_number"], frame + 4 * t)
        before = after


def test_an_episode_starts_with_0_to_30_no_ops(breakouts):
    seeds = [seed_with(0), seed_with(13), seed_with(30)]
    assert breakouts.reset(seed=seeds)[1]["episode_frame_number"].tolist() == [0, 13, 30]
    with open_env("ALE/Breakout-v5") as env:
        for seed, noops in zip(seeds, (0, 13, 30), strict=True):
            assert env.reset(seed=seed)[1]["episode_frame_number"] == noops


def test_an_episode_depends_on_its_seed_and_not_on_the_number_of_games(breakouts):
    actions = np.random.default_rng(0).integers(4, size=20)

    def observations(envs, seeds, column=0):
        frames = [envs.reset(seed=seeds)[0][column]]
        frames += [envs.step(np.full(envs.num_envs, a))[0][column] for a in actions]
        return np.array(frames)

    first = observations(breakouts, [5, 6, 7], 2)
    np.testing.assert_array_equal(observations(breakouts, [7, 8, 9], 0), first)
    with open_vec("ALE/Breakout-v5", 1) as one:
        np.testing.assert_array_equal(observations(one, 7), first)
        assert (observations(one, [seed_with(0)]) != observations(one, [seed_with(30)])).any()


def test_only_the_games_of_the_mask_are_reset(breakouts):
    breakouts.reset(seed=[1, 2, 3])
    for _ in range(20):
        before, *_, infos = breakouts.step(np.full(3, FIRE))
    frames = infos["episode_frame_number"]
    seeds = [None, seed_with(13), None]
    after, infos = breakouts.reset(seed=seeds, options={"reset_mask": only(1)})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert infos["episode_frame_number"].tolist() == [frames[0], 13, frames[2]]
    after, infos = breakouts.reset(options={"reset_mask": only(2)})
    np.testing.assert_array_equal(after[0], before[0])
    assert infos["episode_frame_number"][2] <= 30
    following, *_ = breakouts.step(np.full(3, FIRE))
    np.testing.assert_array_equal(following[..., :3], after[..., 1:])


def test_the_game_ends_with_the_last_life_only(breakouts):
    lives = breakouts.reset(seed=4)[1]["lives"]
    assert lives.tolist() == [5, 5, 5]
    for _ in range(400):
        # Two games serve the ball and miss it.
        *_, terminated, truncated, infos = breakouts.step(np.array([FIRE, FIRE, NOOP]))
        np.testing.assert_array_equal(terminated[:2], infos["lives"][:2] == 0)
        if terminated.any():
            break
    assert terminated[:2].any()
    assert not truncated.any()
    assert infos["lives"][2] == 5  # nothing fires on reset


def test_points_are_not_clipped_and_actions_are_not_sticky():
    rng = np.random.default_rng(0)
    with open_vec("ALE/SpaceInvaders-v5", 2, noop_max=0) as envs:
        envs.reset(seed=[1, 2])
        points = []
        for action in rng.integers(6, size=200):
            observations, rewards, *_ = envs.step(np.full(2, action))
            # A sticky action would make them differ.
            np.testing.assert_array_equal(observations[0], observations[1])
            points.append(rewards)
    assert np.max(points) > 1
    assert rewards.dtype == np.float64


@pytest.mark.parametrize(
    ("game", "kwargs"),
    [("Pong", {}), ("Breakout", {}), ("SpaceInvaders", {"noop_max": 0})],
)
def test_a_single_game_shows_the_same_pixels_as_one_of_many(game, kwargs):
    count = 0
    for one, other in play_both(f"ALE/{game}-v5", 11, 150, **kwargs):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]
        count += 1
    assert count == 151 or one[2]


def test_no_ops_do_not_count_toward_the_limit_of_frames():
    steps = list(play_both("ALE/Pong-v5", seed_with(13), 9, max_num_frames_per_episode=20))
    assert len(steps) == 6
    for one, other in steps:
        assert one[1:] == other[1:]
    assert [other[2:4] for _, other in steps] == [(False, False)] * 5 + [(False, True)]


def test_actions_outside_the_space_are_refused(breakouts):
    breakouts.reset(seed=1)
    for wrong in ([0, 1, 4], [0, 1], [-1, 0, 0], [0.5, 0, 0]):
        with pytest.raises(ValueError, match=r"Expected 3 actions in Discrete\(4\)"):
            breakouts.step(np.array(wrong))
    breakouts.step([0, 1, 3])


def test_videos_show_the_episodes_that_are_evaluated(tmp_path):
    env, limit = "ALE/Pong-v5", {"seed": 3, "max_steps": 70}
    result = tfpg.evaluate(act_on_all_pixels, env, 2, **limit)
    assert min(result["episode_returns"]) < 0
    video = tfpg.record(act_on_all_pixels, env, tmp_path / "video.mp4", overlay=False, **limit)
    assert video.episode_returns == result["episode_returns"][:1]
    assert video.frames == 71
    frames = decode(video.path)
    assert frames.shape == (71, 210, 160, 3)
    assert np.ptp(frames[0].astype(int), axis=-1).max() > 20  # in color
    assert video_info(video.path)["fps"] == 15


def test_evaluated_episodes_do_not_depend_on_the_number_of_games():
    def policy(observations):
        return act_on_all_pixels(observations, actions=4)

    result = tfpg.evaluate(policy, "ALE/Breakout-v5", 3, seed=0)
    assert len(set(result["episode_lengths"])) == 3
    alone = tfpg.evaluate(policy, "ALE/Breakout-v5", 1, seed=0)
    assert alone["episode_lengths"] == result["episode_lengths"][:1]


def test_fragments_are_reproducible(breakouts):
    model = tfpg.networks.nature_cnn("ALE/Breakout-v5", hidden=4, seed=0)
    policy = tfpg.Policy(model, "ALE/Breakout-v5")

    def collect():
        return Collector(breakouts, seed=0).collect_steps(policy, 4, max_steps=3)

    trajectory = collect()
    assert trajectory.observations.dtype == np.uint8
    assert trajectory.observations.shape == (6, 3, 84, 84, 4)
    np.testing.assert_array_equal(collect().observations, trajectory.observations)


def test_spellings_of_an_id():
    assert same_env("ALE/Pong", "ALE/Pong-v5")
    assert same_env("ale_py:ALE/Pong-v5", "ALE/Pong-v5")


@pytest.mark.parametrize("function", [make, make_vec, spaces_of])
@pytest.mark.parametrize("name", ["ALE/Pogn-v5", "ale/pong-v5"])
def test_unknown_games_suggest_similar_ones(function, name):
    message = f"Unknown environment '{name}'. Did you mean ALE/Pong-v5"
    with pytest.raises(ValueError, match=message):
        function(name)


@pytest.mark.parametrize(
    ("missing", "call", "message"),
    [
        ("ale_py", "make_vec('ALE/Pong-v5', 2)", "Atari games need ale-py"),
        ("ale_py", "make('ALE/Pong-v5')", "Atari games need ale-py"),
        ("cv2", "make('ALE/Pong-v5')", "A single Atari game needs OpenCV"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(missing, call, message):
    code = f"import sys; sys.modules[{missing!r}] = None; from tfpg.envs.make import *; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == f"ImportError: {message}: pip install ale-py opencv-python-headless"
    )
