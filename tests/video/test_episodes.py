"""Episodes as they are played for a video."""

import math
import warnings

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from toys import Countdown, Endless

import tfpg
from tfpg.core.seeding import evaluation_rng, reset_seed
from tfpg.errors import EnvDataError
from tfpg.video.episodes import Episode, Player, best_median_worst, list_episodes

layers = keras.layers


def zeros(observations):
    return np.zeros(len(observations), int)


def countdown(length=3, **options):
    return Countdown(length, render_mode="rgb_array", **options)


class Walk(gymnasium.Env):
    """A random walk of eight steps, pushed by the actions. The reward is the position."""

    observation_space = spaces.Box(-100, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.normal()
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.t += 1
        self.x += self.np_random.normal() + 2 * int(action) - 1
        return np.array([self.x], np.float32), self.x, False, self.t == 8, {}

    def render(self):
        return np.full((2, 3, 3), 10 * self.t, np.uint8)


class Broken(Countdown):
    """Returns a given observation or reward after ``t`` steps."""

    def __init__(self, t, observation=None, reward=1.0):
        super().__init__(length=4, render_mode="rgb_array")
        self.at, self.number, self.reward = t, observation, reward

    def _observe(self):
        found = super()._observe()
        if self.t == self.at and self.number is not None:
            found[0] = self.number
        return found

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, self.reward if self.t == self.at else reward, *rest


def even(inputs=1):
    """A policy that takes each of two actions half of the time."""
    dense = layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    return keras.Sequential([keras.Input((inputs,)), dense])


def play(policy, env, seed=0, episode=0, **options):
    return list(Player(policy, env, seed, **options).rendered_steps(episode))


def summary(steps):
    """The content of rendered steps, to compare."""
    return [
        (
            step.image.tolist(),
            step.observation.tolist(),
            step.decision and step.decision.env_actions.tolist(),
            step.step,
            step.episode_return,
        )
        for step in steps
    ]


class TestRenderedSteps:
    def test_there_is_one_after_the_reset_and_one_after_every_step(self):
        steps = play(zeros, countdown(3))
        assert [step.step for step in steps] == [0, 1, 2, 3]
        assert [step.episode_return for step in steps] == [0.0, 1.0, 2.0, 3.0]
        assert [int(step.image[0, 0, 0]) for step in steps] == [0, 10, 20, 30]
        assert [step.observation.tolist() for step in steps] == [[[t, 0.0]] for t in range(4)]
        assert [step.decision is None for step in steps] == [False, False, False, True]

    def test_the_decision_is_the_one_on_the_observation_that_is_shown(self):
        dense = layers.Dense(2)
        model = keras.Sequential([keras.Input((2,)), dense])
        dense.set_weights([np.array([[-1.0, 1.0], [0.0, 0.0]]), np.array([1.5, -1.5])])
        decisions = [step.decision for step in play(model, countdown(4))[:-1]]
        # The logits of step t are 1.5 - t and t - 1.5.
        assert [d.env_actions.tolist() for d in decisions] == [[0], [0], [1], [1]]
        assert [d.outputs.tolist() for d in decisions] == [[[1.5 - t, t - 1.5]] for t in range(4)]

    def test_the_environment_is_stepped_only_when_the_next_one_is_requested(self):
        env = countdown(3)
        steps = Player(zeros, env, seed=0).rendered_steps(0)
        assert env.seeds == []
        next(steps)
        assert (len(env.seeds), env.t) == (1, 0)
        next(steps)
        assert env.t == 1

    def test_rewards_add_up(self):
        steps = play(zeros, Walk(), seed=3)
        positions = [float(step.observation[0, 0]) for step in steps]
        for t, step in enumerate(steps):
            assert step.episode_return == pytest.approx(sum(positions[1 : t + 1]), abs=1e-4)

    def test_dict_observations_are_batches_of_one(self):
        class Parts(Countdown):
            def __init__(self):
                super().__init__(length=1, render_mode="rgb_array")
                self.observation_space = spaces.Dict(a=self.observation_space, b=spaces.Discrete(9))

            def _observe(self):
                return {"a": np.array([self.t, 0], np.float32), "b": np.int64(7)}

        seen = []
        steps = play(lambda x: (seen.append(x), np.zeros(1, int))[1], Parts())
        assert (seen[0]["a"].tolist(), seen[0]["b"].tolist()) == ([[0.0, 0.0]], [7])
        assert steps[1].observation["a"].tolist() == [[1.0, 0.0]]

    @pytest.mark.parametrize("images", [1, 3])
    def test_a_list_of_images_gives_several_per_step(self, images):
        class Several(Countdown):
            def render(self):
                return [np.full((2, 3, 3), 10 * self.t + i, np.uint8) for i in range(images)]

        steps = play(zeros, Several(2, render_mode="rgb_array_list"))
        expected = [(t, i) for t in range(3) for i in range(images)]
        assert [step.step for step in steps] == [t for t, _ in expected]
        assert [step.episode_return for step in steps] == [t for t, _ in expected]
        assert [int(step.image[0, 0, 0]) for step in steps] == [10 * t + i for t, i in expected]
        assert [step.decision is None for step in steps] == [t == 2 for t, _ in expected]

    def test_gymnasiums_render_collection_works(self):
        steps = play(zeros, gymnasium.wrappers.RenderCollection(countdown(3)))
        assert [int(step.image[0, 0, 0]) for step in steps] == [0, 10, 20, 30]

    def test_an_environment_that_renders_nothing_is_an_error(self):
        with pytest.raises(ValueError, match=r"rendered nothing: render\(\) returned None"):
            play(zeros, Countdown(3))

    def test_something_that_is_no_policy_is_an_error(self):
        with pytest.raises(TypeError, match="Expected a Keras model"):
            Player("policy", countdown(), seed=0)


class TestSeeds:
    @pytest.mark.parametrize("deterministic", [True, False])
    def test_the_same_seed_gives_the_same_steps(self, deterministic):
        once, again, other = (
            summary(play(even(), Walk(), seed, 2, deterministic=deterministic))
            for seed in (5, 5, 6)
        )
        assert once == again
        assert once[0] != other[0]

    def test_earlier_episodes_do_not_matter(self):
        player = Player(even(), Walk(), 5, deterministic=False)
        first = summary(player.rendered_steps(1))
        summary(player.rendered_steps(0))
        next(player.rendered_steps(3))  # begun and abandoned
        assert summary(player.rendered_steps(1)) == first

    def test_every_episode_has_a_seed_of_its_own(self):
        env = countdown(1)
        player = Player(zeros, env, seed=7)
        for episode in (0, 1, 2, 1):
            list(player.rendered_steps(episode))
        assert env.seeds == [reset_seed(evaluation_rng(7, e)) for e in (0, 1, 2, 1)]
        assert len(set(env.seeds)) == 3

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_episodes_are_those_that_evaluate_plays(self, deterministic):
        result = tfpg.evaluate(even(), Walk, 4, seed=11, deterministic=deterministic)
        player = Player(even(), Walk(), 11, deterministic)
        returns = [player.episode_return(episode) for episode in range(4)]
        assert returns == pytest.approx(result["episode_returns"], abs=1e-9)
        assert len(set(returns)) == 4
        assert returns[2] == list(player.rendered_steps(2))[-1].episode_return

    def test_actions_are_sampled_only_if_requested(self):
        def actions(deterministic):
            steps = [play(even(), Walk(), 5, e, deterministic=deterministic) for e in range(3)]
            return [[int(s.decision.env_actions[0]) for s in each[:-1]] for each in steps]

        assert actions(True) == [[0] * 8] * 3
        assert len(set(map(tuple, actions(False)))) == 3


class TestLimits:
    @pytest.mark.parametrize(
        ("length", "env_limit", "max_steps", "steps"),
        [
            *((10, None, 1, 1), (10, None, 3, 3), (2, None, 5, 2), (3, None, 3, 3)),
            *((100, 6, None, 6), (100, 6, 4, 4), (100, 6, 8, 8), (1, None, None, 1)),
        ],
    )
    def test_an_episode_is_cut_off_at_max_steps_or_the_environments_limit(
        self, length, env_limit, max_steps, steps
    ):
        env = countdown(length)
        if env_limit:
            env.spec = EnvSpec("Countdown-v0", max_episode_steps=env_limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shown = play(zeros, env, max_steps=max_steps)
        assert [step.step for step in shown] == list(range(steps + 1))
        assert [step.decision is None for step in shown] == [False] * steps + [True]
        assert env.t == steps

    def test_a_truncated_episode_is_over(self):
        env = gymnasium.wrappers.TimeLimit(countdown(100), 5)
        assert [step.step for step in play(zeros, env)] == list(range(6))

    def test_an_endless_episode_is_cut_off_with_a_warning_unless_max_steps_is_given(self):
        with pytest.warns(UserWarning, match="cut off after 10,000 steps") as caught:
            assert Player(zeros, Endless(), seed=0).episode_return(0) == 0.0
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Player(zeros, Endless(), seed=0, max_steps=20).episode_return(0) == 0.0

    def test_the_return_alone_needs_no_rendering(self):
        assert Player(zeros, Countdown(4), seed=0).episode_return(0) == 4.0


class TestNonFinite:
    @pytest.mark.parametrize("number", [math.nan, -math.inf])
    @pytest.mark.parametrize("t", [1, 4])
    def test_a_reward_of_nan_or_infinity_names_the_environment_and_the_step(self, number, t):
        player = Player(zeros, Broken(t, reward=number), seed=0)
        for play_episode in (
            lambda: list(player.rendered_steps(0)),
            lambda: player.episode_return(0),
        ):
            with pytest.raises(EnvDataError, match=f"reward.*{number}") as error:
                play_episode()
            assert (error.value.env, error.value.step) == (0, t - 1)

    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.parametrize("number", [math.nan, math.inf])
    @pytest.mark.parametrize("t", [0, 2])
    def test_an_observation_of_nan_or_infinity_ends_the_episode_there(self, number, t):
        steps = Player(even(inputs=2), Broken(t, observation=number), seed=0).rendered_steps(0)
        for _ in range(t):
            next(steps)
        with pytest.raises(EnvDataError, match="observation") as error:
            next(steps)
        assert (error.value.env, error.value.step) == (0, t)

    def test_a_model_that_returns_nan_is_not_blamed_on_the_environment(self):
        policy = tfpg.Policy(even(inputs=2), countdown())
        policy.model.layers[-1].set_weights([np.zeros((2, 2)), np.array([np.nan, 0.0])])
        with pytest.raises(FloatingPointError) as error:
            play(policy, countdown())
        assert not isinstance(error.value, EnvDataError)


class TestListEpisodes:
    def test_one_policy_has_no_title(self):
        assert list_episodes("policy", 3) == [Episode("policy", n, "") for n in range(3)]

    def test_several_policies_play_the_same_episodes(self):
        assert list_episodes({"a": 1, 2.5: 2}, 2) == [
            *(Episode(1, 0, "a"), Episode(1, 1, "a"), Episode(2, 0, "2.5"), Episode(2, 1, "2.5"))
        ]

    def test_an_empty_mapping_is_an_error(self):
        with pytest.raises(ValueError, match="The mapping of policies is empty"):
            list_episodes({}, 2)


@pytest.mark.parametrize(
    ("returns", "numbers"),
    [
        ([7.0], [0]),
        ([1.0, 2.0], [1, 0]),
        ([2.0, 1.0], [0, 1]),
        ([1.0, 3.0, 2.0], [1, 2, 0]),
        ([3.0, 1.0, 4.0, 2.0], [2, 3, 1]),  # 2 is the lower of the two in the middle
        ([-5.0, -1.0, -3.0, -2.0, -4.0], [1, 2, 0]),
        # Of equal ones the first is the best and the last the worst.
        ([5.0, 5.0, 5.0], [0, 1, 2]),
        ([5.0, 5.0], [0, 1]),
        ([1.0, 5.0, 5.0, 5.0, 2.0], [1, 3, 0]),
    ],
)
def test_the_best_the_median_and_the_worst_episode(returns, numbers):
    played = []

    def episode_return(episode):
        played.append(episode.number)
        return returns[episode.number]

    count = len(returns)
    ranked = best_median_worst(list_episodes({"after": "policy"}, count), episode_return)
    ranks = {1: ["best"], 2: ["best", "worst"]}.get(len(numbers), ["best", "median", "worst"])
    titles = [f"after {rank} of {count}" for rank in ranks]
    assert ranked == [Episode("policy", n, t) for n, t in zip(numbers, titles, strict=True)]
    assert played == list(range(count))
