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
from tfpg.rollouts.loop import NO_LIMIT_STEPS
from tfpg.video.episodes import Player, Take, ranked, takes_of

layers = keras.layers


def zeros(observations):
    return np.zeros(len(observations), int)


def countdown(length=3, **options):
    return Countdown(length, render_mode="rgb_array", **options)


class Walk(gymnasium.Env):
    """A random walk of eight steps, paid where it goes; what is done pushes it."""

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
    """Gives, when ``t`` steps are done, an observation or a reward that is none."""

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


class Several(Countdown):
    """Shows the way to where it is in so many pictures."""

    def __init__(self, pictures):
        super().__init__(length=2, render_mode="rgb_array_list")
        self.pictures = pictures

    def render(self):
        return [np.full((2, 3, 3), 10 * self.t + i, np.uint8) for i in range(self.pictures)]


def even(inputs=1):
    """A policy that does either half of the time."""
    dense = layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    return keras.Sequential([keras.Input((inputs,)), dense])


def told(shots):
    """What is in shots, to compare."""
    return [
        (
            shot.image.tolist(),
            shot.observation.tolist(),
            shot.decision and shot.decision.env_actions.tolist(),
            shot.step,
            shot.episode_return,
        )
        for shot in shots
    ]


class TestShots:
    def test_there_is_one_after_the_reset_and_after_every_step(self):
        shots = list(Player(zeros, countdown(3), seed=0).shots(0))
        assert [shot.step for shot in shots] == [0, 1, 2, 3]
        assert [shot.episode_return for shot in shots] == [0.0, 1.0, 2.0, 3.0]
        assert [int(shot.image[0, 0, 0]) for shot in shots] == [0, 10, 20, 30]
        assert [shot.observation.tolist() for shot in shots] == [[[t, 0.0]] for t in range(4)]
        assert [shot.decision is None for shot in shots] == [False, False, False, True]

    def test_hold_the_decision_on_what_is_seen(self):
        dense = layers.Dense(2)
        model = keras.Sequential([keras.Input((2,)), dense])
        dense.set_weights([np.array([[-1.0, 1.0], [0.0, 0.0]]), np.array([1.5, -1.5])])
        shots = list(Player(model, countdown(4), seed=0).shots(0))
        # The logits of step t are 1.5 - t and t - 1.5.
        decisions = [shot.decision for shot in shots[:-1]]
        assert [d.env_actions.tolist() for d in decisions] == [[0], [0], [1], [1]]
        assert [d.outputs.tolist() for d in decisions] == [[[1.5 - t, t - 1.5]] for t in range(4)]

    def test_come_as_they_are_asked_for(self):
        env = countdown(3)
        shots = Player(zeros, env, seed=0).shots(0)
        assert env.seeds == []
        next(shots)
        assert (env.seeds != [], env.t) == (True, 0)
        next(shots)
        assert env.t == 1

    def test_returns_add_up_with_their_signs(self):
        env = Walk()
        shots = list(Player(zeros, env, seed=3).shots(0))
        places = [float(shot.observation[0, 0]) for shot in shots]
        for t, shot in enumerate(shots):
            assert shot.episode_return == pytest.approx(sum(places[1 : t + 1]), abs=1e-4)

    def test_an_episode_may_be_one_step_long(self):
        shots = list(Player(zeros, countdown(1), seed=0).shots(0))
        assert [(shot.step, shot.decision is None) for shot in shots] == [(0, False), (1, True)]

    def test_dicts_are_rows_too(self):
        class Parts(Countdown):
            def __init__(self):
                super().__init__(length=1, render_mode="rgb_array")
                box = self.observation_space
                self.observation_space = spaces.Dict(a=box, b=spaces.Discrete(9))

            def _observe(self):
                return {"a": np.array([self.t, 0], np.float32), "b": np.int64(7)}

        seen = []

        def act(observations):
            seen.append(observations)
            return np.zeros(1, int)

        shots = list(Player(act, Parts(), seed=0).shots(0))
        assert seen[0]["a"].tolist() == [[0.0, 0.0]]
        assert seen[0]["b"].tolist() == [7]
        assert shots[1].observation["a"].tolist() == [[1.0, 0.0]]

    @pytest.mark.parametrize("pictures", [1, 3])
    def test_a_list_of_pictures_is_several_shots_a_step(self, pictures):
        shots = list(Player(zeros, Several(pictures), seed=0).shots(0))
        steps = [t for t in range(3) for _ in range(pictures)]
        assert [shot.step for shot in shots] == steps
        assert [shot.episode_return for shot in shots] == [float(t) for t in steps]
        assert [int(shot.image[0, 0, 0]) for shot in shots] == [
            10 * t + i for t in range(3) for i in range(pictures)
        ]
        assert [shot.decision is None for shot in shots] == [t == 2 for t in steps]

    def test_gymnasiums_lists_of_pictures(self):
        env = gymnasium.wrappers.RenderCollection(countdown(3))
        shots = list(Player(zeros, env, seed=0).shots(0))
        assert [int(shot.image[0, 0, 0]) for shot in shots] == [0, 10, 20, 30]
        assert [shot.step for shot in shots] == [0, 1, 2, 3]

    def test_an_environment_that_shows_nothing_is_an_error(self):
        with pytest.raises(ValueError, match="rendered nothing: render\\(\\) gave None") as error:
            next(Player(zeros, Countdown(3), seed=0).shots(0))
        assert len(str(error.value).splitlines()) == 1

    def test_what_is_no_policy_is_an_error(self):
        with pytest.raises(TypeError, match="Expected a Keras model, an agent or a tfpg.Policy"):
            Player("policy", countdown(), seed=0)


class TestSeeds:
    def test_the_same_seed_gives_the_same_shots(self):
        for deterministic in (True, False):
            once, again = (
                told(Player(even(), Walk(), 5, deterministic).shots(2)) for _ in range(2)
            )
            assert once == again

    def test_another_seed_gives_others(self):
        one, other = (told(Player(even(), Walk(), seed).shots(0)) for seed in (5, 6))
        assert one[0] != other[0]

    def test_what_was_played_before_does_not_matter(self):
        player = Player(even(), Walk(), 5, deterministic=False)
        first = told(player.shots(1))
        told(player.shots(0))
        next(player.shots(3))  # begun, and left
        assert told(player.shots(1)) == first

    def test_every_episode_begins_elsewhere(self):
        env = countdown(1)
        player = Player(zeros, env, seed=7)
        for episode in (0, 1, 2, 1):
            list(player.shots(episode))
        assert len(set(env.seeds)) == 3
        assert env.seeds[3] == env.seeds[1]
        assert env.seeds[:3] == [reset_seed(evaluation_rng(7, e)) for e in range(3)]

    def test_samples_are_drawn_where_they_are_wanted(self):
        def played(deterministic, episode):
            shots = Player(even(), Walk(), 5, deterministic).shots(episode)
            return [int(shot.decision.env_actions[0]) for shot in shots if shot.decision]

        assert [played(True, e) for e in range(3)] == [[0] * 8] * 3
        sampled = [played(False, e) for e in range(3)]
        assert {action for actions in sampled for action in actions} == {0, 1}
        assert len(set(map(tuple, sampled))) == 3

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_episodes_are_those_of_an_evaluation(self, deterministic):
        found = tfpg.evaluate(even(), Walk, 4, seed=11, deterministic=deterministic)
        player = Player(even(), Walk(), 11, deterministic)
        returns = [player.outcome(episode) for episode in range(4)]
        assert returns == pytest.approx(found["episode_returns"], abs=1e-9)
        assert len(set(returns)) == 4


class TestLimits:
    @pytest.mark.parametrize("max_steps", [1, 3])
    def test_max_steps_cuts(self, max_steps):
        env = countdown(10)
        shots = list(Player(zeros, env, seed=0, max_steps=max_steps).shots(0))
        assert [shot.step for shot in shots] == list(range(max_steps + 1))
        assert shots[-1].decision is None
        assert shots[-1].episode_return == max_steps
        assert env.t == max_steps

    def test_an_episode_that_ends_before_is_not_longer(self):
        shots = list(Player(zeros, countdown(2), seed=0, max_steps=5).shots(0))
        assert [shot.step for shot in shots] == [0, 1, 2]

    def test_one_that_ends_right_there_ends_once(self):
        shots = list(Player(zeros, countdown(3), seed=0, max_steps=3).shots(0))
        assert [shot.step for shot in shots] == [0, 1, 2, 3]
        assert [shot.decision is None for shot in shots] == [False] * 3 + [True]

    def test_the_environments_own_limit_holds(self):
        env = countdown(100)
        env.spec = EnvSpec("Countdown-v0", max_episode_steps=6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shots = list(Player(zeros, env, seed=0).shots(0))
        assert [shot.step for shot in shots] == list(range(7))
        assert shots[-1].decision is None

    def test_max_steps_goes_before_it(self):
        env = countdown(100)
        env.spec = EnvSpec("Countdown-v0", max_episode_steps=6)
        assert Player(zeros, env, seed=0, max_steps=4).outcome(0) == 4.0
        assert Player(zeros, env, seed=0, max_steps=8).outcome(0) == 8.0

    def test_a_truncated_episode_is_over(self):
        env = gymnasium.wrappers.TimeLimit(countdown(100), 5)
        assert [shot.step for shot in Player(zeros, env, seed=0).shots(0)] == list(range(6))

    def test_one_without_end_is_cut_with_a_warning(self):
        with pytest.warns(UserWarning, match="was cut after 10,000 steps") as said:
            assert Player(zeros, Endless(), seed=0).outcome(0) == 0.0
        assert len(said) == 1
        assert NO_LIMIT_STEPS == 10_000

    def test_max_steps_cuts_one_without_end_and_says_nothing(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Player(zeros, Endless(), seed=0, max_steps=20).outcome(0) == 0.0


class TestOutcome:
    def test_is_the_return_of_what_is_seen(self):
        player = Player(even(), Walk(), 5, deterministic=False)
        for episode in range(3):
            *_, last = player.shots(episode)
            assert player.outcome(episode) == last.episode_return

    def test_needs_no_pictures(self):
        assert Player(zeros, Countdown(4), seed=0).outcome(0) == 4.0


class TestFaults:
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("t", [1, 4])
    def test_a_reward_that_is_none(self, number, t):
        player = Player(zeros, Broken(t, reward=number), seed=0)
        with pytest.raises(EnvDataError) as error:
            list(player.shots(0))
        assert str(error.value).startswith(
            f"Environment 0 returned a reward of {number} in step {t - 1} of its episode."
        )
        assert len(str(error.value).splitlines()) == 1
        assert (error.value.env, error.value.step) == (0, t - 1)
        with pytest.raises(EnvDataError):
            player.outcome(0)

    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.parametrize("number", [math.nan, math.inf])
    @pytest.mark.parametrize("t", [0, 2])
    def test_an_observation_that_is_none(self, number, t):
        player = Player(even(inputs=2), Broken(t, observation=number), seed=0)
        with pytest.raises(EnvDataError) as error:
            list(player.shots(0))
        assert str(error.value).startswith(
            "Environment 0 returned an observation with NaN or infinity in 1 of 2 values before "
            f"step {t} of its episode."
        )
        assert len(str(error.value).splitlines()) == 1
        assert (error.value.env, error.value.step) == (0, t)

    def test_what_was_seen_before_was_seen(self):
        shots = Player(even(inputs=2), Broken(2, observation=math.nan), seed=0).shots(0)
        assert [next(shots).step, next(shots).step] == [0, 1]
        with pytest.raises(EnvDataError):
            next(shots)

    def test_a_model_whose_outputs_are_none_is_no_fault_of_the_environment(self):
        policy = tfpg.Policy(even(inputs=2), countdown())
        policy.model.layers[-1].set_weights([np.zeros((2, 2)), np.array([np.nan, 0.0])])
        with pytest.raises(FloatingPointError) as error:
            next(Player(policy, countdown(), seed=0).shots(0))
        assert not isinstance(error.value, EnvDataError)


class TestTakesOf:
    def test_of_one_policy_have_no_title(self):
        assert takes_of("policy", 3) == [Take("policy", e, "") for e in range(3)]

    def test_of_several_are_the_same_episodes(self):
        assert takes_of({"before": 1, "after": 2}, 2) == [
            Take(1, 0, "before"),
            Take(1, 1, "before"),
            Take(2, 0, "after"),
            Take(2, 1, "after"),
        ]

    def test_titles_may_be_numbers(self):
        assert takes_of({10: "a", 2.5: "b"}, 1) == [Take("a", 0, "10"), Take("b", 0, "2.5")]

    def test_of_none_is_an_error(self):
        with pytest.raises(ValueError, match="There is no policy in the mapping: nothing to film."):
            takes_of({}, 2)


class TestRanked:
    @staticmethod
    def of(returns, title=""):
        takes = [Take(None, e, title) for e in range(len(returns))]
        found = ranked(takes, lambda take: returns[take.episode])
        return [(take.episode, take.title) for take in found]

    @pytest.mark.parametrize(
        ("returns", "expected"),
        [
            ([7.0], [(0, "best of 1")]),
            ([1.0, 2.0], [(1, "best of 2"), (0, "worst of 2")]),
            ([2.0, 1.0], [(0, "best of 2"), (1, "worst of 2")]),
            ([1.0, 3.0, 2.0], [(1, "best of 3"), (2, "median of 3"), (0, "worst of 3")]),
            # Of 4, 3, 2 and 1 the lower of the two in the middle is 2.
            ([3.0, 1.0, 4.0, 2.0], [(2, "best of 4"), (3, "median of 4"), (1, "worst of 4")]),
            (
                [-5.0, -1.0, -3.0, -2.0, -4.0],
                [(1, "best of 5"), (2, "median of 5"), (0, "worst of 5")],
            ),
        ],
    )
    def test_the_best_the_median_and_the_worst(self, returns, expected):
        assert self.of(returns) == expected

    def test_equals_are_different_episodes(self):
        assert self.of([5.0, 5.0, 5.0]) == [
            (0, "best of 3"),
            (1, "median of 3"),
            (2, "worst of 3"),
        ]
        assert self.of([5.0, 5.0]) == [(0, "best of 2"), (1, "worst of 2")]

    def test_of_equals_the_first_is_best(self):
        assert self.of([1.0, 5.0, 5.0, 5.0, 2.0])[0] == (1, "best of 5")

    def test_keep_their_titles_and_policies(self):
        takes = [Take("policy", e, "after") for e in range(2)]
        assert ranked(takes, lambda take: take.episode) == [
            Take("policy", 1, "after best of 2"),
            Take("policy", 0, "after worst of 2"),
        ]

    def test_every_episode_is_played_once(self):
        played = []

        def outcome(take):
            played.append(take.episode)
            return 0.0

        ranked([Take(None, e) for e in range(5)], outcome)
        assert played == [0, 1, 2, 3, 4]
