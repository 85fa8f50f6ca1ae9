"""Masks are found wherever an environment reports them, and checked like observations."""

import dataclasses
import functools
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from masked import WAYS, InInfos, InMethod, Pairs, reporting

import tfpg
from tfpg.envs import open_env, open_vec, spaces_of
from tfpg.envs.action_masks import ActionMasks, mask_source, with_masks
from tfpg.envs.contracts import VectorForm, flat_mask, mask_choices, usable_space
from tfpg.envs.probes import Divisors
from tfpg.errors import EnvError
from tfpg.models.policy import Decision
from tfpg.rollouts.loop import Progress, play, seeded_reset

BOX = spaces.Box(-1, 1, (1,), np.float32)


class Scripted(gymnasium.Env):
    """Observes a mask from a list in each step, and ends with the last of them.

    Args:
        masks: The masks, that of the reset first.
        ends: ``"terminated"`` or ``"truncated"``.
    """

    def __init__(self, masks, ends="terminated", actions=None, space=None):
        self.masks, self.ends = masks, ends
        self.action_space = actions or spaces.Discrete(3)
        space = space or spaces.Box(0, 1, np.shape(masks[0]), np.int8)
        self.observation_space = spaces.Dict(observation=BOX, action_mask=space)

    def observe(self):
        return {"observation": np.zeros(1, np.float32), "action_mask": self.masks[self.t]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        last = self.t == len(self.masks) - 1
        flags = last and self.ends == "terminated", last and self.ends == "truncated"
        return self.observe(), 0.0, *flags, {}


def masks_of(*rows):
    return [np.array(row, np.int8) for row in rows]


KEY = "action_mask"


class Placed(gymnasium.Env):
    """Its subclasses have the key of the masks in its infos in different places."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, self.infos()


def infos_with(key):
    return {key: np.ones(2, np.int8)}


def module_infos():
    return infos_with(KEY)


def decorated(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


class Constant(Placed):
    def infos(self):
        return infos_with("action_mask")


class Keyword(Placed):
    def infos(self):
        return dict(action_mask=np.ones(2, np.int8))  # noqa: C408


class Module(Placed):
    def infos(self):
        return infos_with(KEY)


class Inner(Placed):
    def infos(self):
        return (lambda: infos_with(KEY))()


class Attribute(Placed):
    key = "action_mask"

    def infos(self):
        return infos_with(self.key)


class Default(Placed):
    def infos(self, key="action_mask"):
        return infos_with(key)


class OnlyKeyword(Placed):
    def infos(self, *, key="action_mask"):
        return infos_with(key)


class Property(Placed):
    @property
    def valid(self):
        return infos_with("action_mask")

    def infos(self):
        return self.valid


class Static(Placed):
    @staticmethod
    def infos():
        return infos_with("action_mask")


class Helper(Placed):
    def infos(self):
        return module_infos()


class Decorated(Placed):
    @decorated
    def infos(self):
        return infos_with("action_mask")


KEYS = {
    kind.__name__: kind
    for kind in (
        *(Constant, Keyword, Module, Inner, Attribute, Default, OnlyKeyword, Property, Static),
        *(Helper, Decorated),
    )
}


class TestWhereTheyAre:
    @pytest.mark.parametrize("way", WAYS)
    def test_they_become_a_part_of_the_observations(self, way):
        space, _ = spaces_of(lambda: reporting(way))
        assert set(space) == {"action_mask", "observation"}
        with (
            open_vec(Divisors, 3) as plain,
            open_vec(lambda: reporting(way, Divisors()), 3) as envs,
        ):
            expected, _ = plain.reset(seed=[1, 2, 3])
            found, _ = envs.reset(seed=[1, 2, 3])
            for _ in range(4):
                for key in space:
                    np.testing.assert_array_equal(found[key], expected[key])
                actions = expected["action_mask"].argmax(axis=1)
                expected, *_ = plain.step(actions)
                found, *_ = envs.step(actions)

    @pytest.mark.parametrize("way", WAYS)
    def test_an_environment_of_your_own_and_one_for_videos_have_them(self, way):
        env = reporting(way)
        assert "action_mask" in spaces_of(env)[0].spaces
        with open_env(env) as opened:
            assert "action_mask" in opened.reset(seed=0)[0]
        with open_env(lambda: reporting(way)) as opened:
            assert "action_mask" in opened.reset(seed=0)[0]

    @pytest.mark.parametrize("way", ["infos", "method"])
    def test_they_are_seen_through_wrappers(self, way):
        env = gymnasium.wrappers.TimeLimit(reporting(way), 5)
        assert isinstance(with_masks(env), ActionMasks)

    def test_a_dict_gets_one_more_key(self):
        class Named(gymnasium.ObservationWrapper):
            def __init__(self, env):
                super().__init__(env)
                self.observation_space = spaces.Dict(number=env.observation_space)

            def observation(self, observation):
                return {"number": observation}

        space, _ = spaces_of(lambda: Named(reporting("infos")))
        assert set(space) == {"action_mask", "number"}

    def test_gymnasiums_taxi_has_them(self):
        (env_id,) = [name for name in gymnasium.registry if name.startswith("Taxi-v")][-1:]
        space, _ = spaces_of(env_id)
        assert space["observation"] == spaces.Discrete(500)
        with open_vec(env_id, 2) as envs:
            assert envs.reset(seed=[0, 1])[0]["action_mask"].shape == (2, 6)

    def test_other_environments_are_not_even_reset(self):
        env = gymnasium.make("CartPole-v1")
        assert with_masks(env) is env
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)

    def test_your_environment_stays_as_it_is(self):
        env = gymnasium.make("Taxi-v4")
        env.reset(seed=5)
        for action in (0, 1, 2):
            env.step(action)

        def state():
            rng = env.unwrapped.np_random.bit_generator.state["state"]["state"]
            return int(env.unwrapped.s), rng, env.get_wrapper_attr("_elapsed_steps")

        before = state()
        assert "action_mask" in spaces_of(env)[0].spaces
        with open_env(env), open_vec(env):
            assert state() == before

    def test_no_second_window_is_opened_to_find_them(self):
        class Window(Constant):
            def reset(self, **arguments):
                assert self.render_mode != "human", "opens a window"
                return super().reset(**arguments)

        env = Window()
        env.render_mode = "human"
        assert mask_source(env) == "infos"
        assert env.render_mode == "human"

    @pytest.mark.parametrize("made", [False, True])
    def test_one_that_cannot_be_copied_is_reset_only_if_it_was_made_here(self, made):
        class Locked(InInfos):
            def __init__(self, env):
                super().__init__(env)
                self.lock, self.resets = threading.Lock(), 0

            def reset(self, **arguments):
                self.resets += 1
                return super().reset(**arguments)

        env = Locked(Divisors(largest=12))
        assert (mask_source(env, new=made) == "infos") is made
        assert env.resets == made
        if not made:
            with (
                open_vec(env) as envs,
                pytest.warns(UserWarning, match=r"Ignoring the 'action_mask'.*ActionMasks"),
            ):
                envs.reset(seed=[0])

    def test_one_that_cannot_be_copied_any_more_keeps_its_masks(self):
        env = InInfos(Divisors(largest=12))
        assert mask_source(env) == "infos"
        env.clock = threading.Lock()  # as pygame's clock, after it was rendered
        assert mask_source(env) == "infos"

    def test_an_environment_does_not_have_to_be_hashable(self):
        @dataclasses.dataclass
        class Data(gymnasium.Env):
            size: int = 2

            def __post_init__(self):
                self.observation_space, self.action_space = BOX, spaces.Discrete(self.size)

            def reset(self, *, seed=None, options=None):
                return np.zeros(1, np.float32), {"action_mask": np.ones(self.size, np.int8)}

        with pytest.raises(TypeError, match="unhashable"):
            hash(Data())
        with open_vec(Data) as envs:
            assert envs.reset(seed=[0])[0]["action_mask"].tolist() == [[1, 1]]

    @pytest.mark.parametrize("kind", KEYS)
    def test_the_key_is_found_wherever_a_class_may_have_it(self, kind):
        assert mask_source(KEYS[kind]()) == "infos"

    def test_a_key_that_the_infos_do_not_have_is_no_mask(self):
        class Reader(gymnasium.Wrapper):
            def reset(self, **arguments):
                observation, info = self.env.reset(**arguments)
                info.pop("action_mask", None)
                return observation, info

        assert mask_source(Reader(gymnasium.make("CartPole-v1"))) is None

    def test_a_method_that_nothing_calls_is_a_warning(self):
        with (
            pytest.warns(UserWarning, match=r"Ignoring action_masks\(\) of .* SyncVectorEnv"),
            open_vec(SyncVectorEnv([lambda: InMethod(Divisors(largest=12))])),
        ):
            pass

    def test_masks_that_nobody_expected_are_not_ignored_in_silence(self):
        key = "action" + "_mask"  # which no constant of the class shows

        class Hidden(gymnasium.Env):
            observation_space, action_space = BOX, spaces.Discrete(2)

            def reset(self, *, seed=None, options=None):
                return np.zeros(1, np.float32), {key: np.ones(2, np.int8)}

        with (
            open_vec(Hidden) as envs,
            pytest.warns(UserWarning, match=r"Ignoring the 'action_mask'"),
        ):
            envs.reset(seed=[0])
        with open_vec(lambda: ActionMasks(Hidden())) as envs:
            assert envs.reset(seed=[0])[0]["action_mask"].tolist() == [[1, 1]]
        own = SyncVectorEnv([Hidden], autoreset_mode=AutoresetMode.DISABLED)
        with pytest.warns(UserWarning, match=r"Ignoring the 'action_mask'"):
            VectorForm(own).reset(own.reset(seed=0))

    @pytest.mark.slow
    def test_finding_them_does_not_shift_an_own_generator(self):
        class OwnGenerator(Constant):
            observation_space = spaces.Discrete(1000)

            def __init__(self):
                self.rng = np.random.default_rng(0)

            def reset(self, *, seed=None, options=None):
                return self.rng.integers(1000), self.infos()

        seen = []
        for workers in (None, 2):
            with open_vec(OwnGenerator, 2, workers=workers) as envs:
                seen.append(envs.reset(seed=[0, 1])[0]["observation"].tolist())
        assert seen[0] == seen[1] == [850] * 2

    @pytest.mark.slow
    @pytest.mark.parametrize("way", WAYS)
    def test_workers_return_the_same(self, way):
        results = []
        for workers in (None, 2):
            with open_vec(lambda: reporting(way), 3, workers=workers) as envs:
                observations, _ = envs.reset(seed=[5, 6, 7])
                rows = [observations["action_mask"].copy()]
                observations, *_ = envs.step(rows[0].argmax(axis=1))
                results.append([*rows, observations["action_mask"].copy()])
        np.testing.assert_array_equal(*results)


class Square(gymnasium.ObservationWrapper):
    """Has the masks of `Pairs` in an array with a row for each choice."""

    def __init__(self, env):
        super().__init__(env)
        mask = spaces.Box(0, 1, (2, 3), bool)
        self.observation_space = spaces.Dict({**env.observation_space, "action_mask": mask})

    def observation(self, observation):
        return {**observation, "action_mask": np.array(observation["action_mask"], bool)}


class TestTheirForm:
    @pytest.mark.parametrize(
        ("space", "mask"),
        [
            (spaces.MultiBinary(3), np.array([0, 1, 1], np.int8)),
            (spaces.MultiDiscrete([2, 2, 2]), [0, 1, 1]),
            (spaces.Box(0, 1, (3,), bool), np.array([False, True, True])),
            (spaces.Box(0, 1, (3,)), np.array([0.0, 1.0, 1.0])),
            (spaces.Box(0, 1, (1, 3), np.uint8), np.array([[0, 1, 1]])),
        ],
        ids=str,
    )
    def test_masks_of_every_space_become_zeros_and_ones(self, space, mask):
        env = Scripted([mask, mask], space=space)
        space = usable_space(env.observation_space)["action_mask"]
        assert (space.shape, space.dtype != bool) == ((3,), True)
        with open_vec(lambda: env) as envs:
            assert envs.reset(seed=[0])[0]["action_mask"].tolist() == [[0, 1, 1]]

    def test_a_tuple_has_a_mask_for_each_choice(self):
        assert mask_choices(usable_space(Pairs.observation_space), Pairs.action_space) == (3, 3)
        for build in (Pairs, lambda: InInfos(Pairs()), lambda: InMethod(Pairs())):
            with open_vec(build, 2) as envs:
                observations, _ = envs.reset(seed=[0, 1])
                assert observations["action_mask"].shape == (2, 6)
                numbers, masks = observations["observation"], observations["action_mask"]
                by_two = (numbers % 2 == 0) & (numbers > 2)
                np.testing.assert_array_equal(masks[:, [1, 4]] > 0, by_two)

    @pytest.mark.parametrize("mode", AutoresetMode)
    @pytest.mark.parametrize("wrap", [lambda env: env, Square], ids=["tuple", "square"])
    @pytest.mark.parametrize("as_dict", [False, True])
    def test_a_vector_environment_of_your_own_may_have_them(self, mode, wrap, as_dict):
        envs = SyncVectorEnv([lambda: wrap(Pairs())] * 2, autoreset_mode=mode)
        form, over = VectorForm(envs), np.zeros(2, bool)
        rows, ended = [form.reset(envs.reset(seed=4))], 0
        for _ in range(12):
            if mode is AutoresetMode.DISABLED and over.any():
                rows.append(form.reset(envs.reset(options={"reset_mask": over})))
            actions = rows[-1]["action_mask"].reshape(2, 2, 3).argmax(axis=2)
            *result, infos = envs.step(actions)
            observations, _, over, _, infos = form.step((*result, infos))
            if mode is AutoresetMode.SAME_STEP and over.any():
                if as_dict:  # as vector environments of another kind have it
                    any_row = next(filter(None, infos["final_obs"]))
                    final = [x or any_row for x in infos["final_obs"]]
                    space = envs.single_observation_space
                    infos["final_obs"] = concatenate(space, final, create_empty_array(space, 2))
                rows.append(form.with_final(observations, over, infos, None))
            rows.append(observations)
            ended += over.sum()
        assert ended > 2
        for row in rows:
            assert row["action_mask"].shape == (2, 6)
            by_two = (row["observation"] % 2 == 0) & (row["observation"] > 2)
            np.testing.assert_array_equal(row["action_mask"][:, [1, 4]] > 0, by_two)

    @pytest.mark.parametrize("form", [tuple, list])
    def test_choices_may_have_different_numbers_of_options(self, form):
        class Uneven(Constant):
            action_space = spaces.MultiDiscrete([3, 2])

            def infos(self):
                return {"action_mask": form([np.array([0, 1, 1], bool), [True, False]])}

        class Method(Uneven):
            def action_masks(self):
                return self.infos()["action_mask"]

        for kind in (Uneven, Method):
            with open_vec(kind) as envs:
                assert envs.reset(seed=[0])[0]["action_mask"].tolist() == [[0, 1, 1, 1, 0]]

    def test_a_flat_mask_stays(self):
        assert flat_mask([True, False]).tolist() == [1, 0]
        assert flat_mask(np.array([True, False])).dtype == np.int8
        mask = np.array([1, 0], np.int8)
        assert not np.shares_memory(flat_mask(mask), mask)
        with pytest.raises(ValueError, match="must be numbers or booleans, but it is NoneType"):
            flat_mask(None)


class TestMistakes:
    def error_of(self, env, steps=5, **options):
        with open_vec(lambda: env, **options) as envs, pytest.raises(EnvError) as caught:
            envs.reset(seed=[7])
            for _ in range(steps):
                envs.step(np.array([0]))
        return str(caught.value)

    def test_no_valid_action_names_the_environment_and_the_step(self):
        text = self.error_of(Scripted(masks_of([1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0])))
        assert "Environment 0" in text
        assert "step 1" in text
        assert "no action is valid, but the episode has not terminated" in text
        text = self.error_of(Scripted(masks_of([0, 0, 0])))
        assert "could not be reset" in text

    def test_no_valid_option_names_the_choice(self):
        masks = masks_of([1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0])
        text = self.error_of(Scripted(masks, actions=spaces.MultiDiscrete([2, 2])))
        assert "no option of choice 1 is valid" in text

    def test_after_a_termination_no_action_has_to_be_valid(self):
        masks = masks_of([1, 0, 0], [0, 0, 0])
        with open_vec(lambda: Scripted(masks)) as envs:
            envs.reset(seed=[0])
            assert envs.step(np.array([0]))[2].all()
        assert "no action is valid" in self.error_of(Scripted(masks, ends="truncated"))

    def test_after_a_termination_masks_may_be_missing(self):
        class Ending(InMethod):
            def action_masks(self):
                assert self.env.number > 1, "the game is over"
                return super().action_masks()

        class Missing(InInfos):
            def infos(self, observation):
                return super().infos(observation) if self.env.number > 1 else {}

        for kind in (Ending, Missing):
            with open_vec(lambda kind=kind: kind(Divisors(largest=2))) as envs:
                envs.reset(seed=[0])
                observations, _, terminated, *_ = envs.step(np.array([0]))
                assert terminated.all()
                assert not observations["action_mask"].any()

    def test_other_values_than_zero_and_one_are_refused(self):
        text = self.error_of(Scripted(masks_of([1, 0, 0], [1, 3, 0], [1, 0, 0])))
        assert "expected zeros and ones, got 3" in text

    def test_masks_of_another_size_are_refused(self):
        class Short(InMethod):
            def action_masks(self):
                return super().action_masks()[:-1]

        text = self.error_of(Short(Divisors(largest=12)))
        assert "its action mask has 5 values, but Discrete(6) needs 6" in text
        with pytest.raises(ValueError, match=r"has shape \(2,\), but Discrete\(3\) needs 3 values"):
            tfpg.networks.mlp(Scripted(masks_of([1, 1])))

    def test_infos_without_the_mask_are_refused(self):
        class Sometimes(InInfos):
            def step(self, action):
                *result, _ = super().step(action)
                return *result, {}

        env = Sometimes(Divisors(largest=12))
        env.reset(seed=0)
        text = self.error_of(env)
        assert "its infos had 'action_mask' before, but not now" in text

    @pytest.mark.parametrize("actions", [spaces.Box(-1, 1, (3,)), spaces.MultiBinary(3)], ids=str)
    def test_other_actions_cannot_be_masked(self, actions):
        env = Scripted(masks_of([1, 0, 0], [1, 0, 0]), actions=actions)
        with pytest.raises(ValueError, match="needs Discrete or MultiDiscrete actions"):
            tfpg.networks.mlp(env)
        with (
            pytest.raises(ValueError, match="needs Discrete or MultiDiscrete actions"),
            open_vec(lambda: env),
        ):
            pass

    def test_an_environment_whose_mask_does_not_fit_is_closed_if_it_was_made_here(self):
        class Closing(Scripted):
            closed = False

            def close(self):
                self.closed = True

        for given in (False, True):
            env = Closing(masks_of([1, 1], [1, 1]))
            with (
                pytest.raises(ValueError, match="needs 3 values"),
                open_vec(env if given else lambda env=env: env),
            ):
                pass
            assert env.closed is not given

    @pytest.mark.parametrize("actions", [spaces.Box(-1, 1, (3,)), spaces.MultiBinary(3)], ids=str)
    def test_their_masks_elsewhere_are_ignored(self, actions):
        class Infos(Constant):
            action_space = actions

        class Method(Infos):
            action_masks = Placed.reset

            def infos(self):
                return {}

        with (
            pytest.warns(UserWarning, match=r"'action_mask' in the infos. Only Discrete and Multi"),
            open_vec(Infos) as envs,
        ):
            assert envs.reset(seed=[0])[0].tolist() == [0]
        with (
            pytest.warns(UserWarning, match=r"Ignoring action_masks\(\): only Discrete and Multi"),
            open_vec(Method) as envs,
        ):
            assert envs.reset(seed=[0])[0].tolist() == [0]

    @pytest.mark.filterwarnings("error")
    def test_a_wrapper_can_take_them_away(self):
        class NoMethod(gymnasium.Wrapper):
            action_masks = None

        class NoInfo(gymnasium.Wrapper):
            def reset(self, **arguments):
                observation, info = self.env.reset(**arguments)
                info.pop("action_mask")
                return observation, info

        for env in (NoMethod(reporting("method")), NoInfo(reporting("infos"))):
            assert mask_source(env) is None
            with open_vec(env) as envs:
                assert envs.reset(seed=[0])[0].shape == (1,)

    @pytest.mark.parametrize("way", ["infos", "method"])
    def test_they_do_not_hide_what_else_is_wrong(self, way):
        class Old(gymnasium.Wrapper):
            def step(self, action):
                *result, _ = self.env.step(action)
                return tuple(result)

        class Named(gymnasium.Wrapper):
            def __init__(self, env):
                super().__init__(env)
                self.observation_space = spaces.Dict(number=env.observation_space)

        class NoInfo(gymnasium.Wrapper):
            def reset(self, **arguments):
                return self.env.reset(**arguments)[0]

        assert "got a tuple of 4 (the interface of Gym before" in self.error_of(Old(reporting(way)))
        assert "expected a dict, got int" in self.error_of(Named(reporting(way)))
        if way == "method":  # those in infos are not found then
            assert "expected (observation, info)" in self.error_of(NoInfo(reporting(way)))
        report = tfpg.check_env(lambda: Old(reporting(way)), steps=20)
        assert "the interface of Gym before 0.26" in str(report).replace("\n" + " " * 28, " ")

    @pytest.mark.parametrize("at", [0, 1])
    def test_a_vector_environment_is_checked_too(self, at):
        class Vector(VectorEnv):
            num_envs = 2
            single_observation_space = spaces.Dict(
                observation=BOX, action_mask=spaces.MultiBinary(2)
            )
            single_action_space = spaces.Discrete(2)

            def observe(self):
                masks = np.ones((2, 2), np.int8)
                if self.t == at:
                    masks[1] = 0
                self.t += 1
                return {"observation": np.zeros((2, 1), np.float32), "action_mask": masks}

        envs = Vector()
        envs.t, form = 0, VectorForm(envs)
        flags, lengths = np.array([False, False]), np.array([4, 4])
        match = "environment 1 after a reset" if at == 0 else "in step 4 of environment 1"
        with pytest.raises(ValueError, match=f"invalid action_mask .*{match}.*no action is valid"):
            form.reset((envs.observe(), {}))
            form.step((envs.observe(), np.zeros(2), flags, flags, {}), lengths)
        envs.t = at
        over = np.array([False, True])
        form.step((envs.observe(), np.zeros(2), over, flags, {}), lengths)  # it has terminated

    @pytest.mark.parametrize("mode", AutoresetMode)
    @pytest.mark.parametrize("ends", ["terminated", "truncated"])
    @pytest.mark.parametrize("wrong", ["last", "next"])
    def test_the_masks_at_the_end_of_an_episode_are_checked(self, mode, ends, wrong):
        """That of the last observation after a truncation, that of the next episode always."""

        class Ending(Scripted):
            episode = 0

            def observe(self):
                observation = super().observe()
                if wrong == "next" and self.t == 0 and self.episode > 1:
                    return {**observation, "action_mask": np.zeros(3, np.int8)}
                return observation

            def reset(self, **arguments):
                self.episode += 1
                return super().reset(**arguments)

        last = [0, 0, 0] if wrong == "last" else [1, 0, 0]
        env = Ending(masks_of([1, 0, 0], [1, 0, 0], last), ends)
        envs = SyncVectorEnv([lambda: env], autoreset_mode=mode)
        act = lambda x, _: Decision(*[np.zeros(1, int)] * 3)  # noqa: E731
        progress = Progress(seeded_reset(envs, [0]), np.ones(1, bool), np.zeros(1, int))
        steps = play(envs, act, [None] * 4, progress, single_episode=False)
        if (wrong, ends) == ("last", "terminated"):
            assert len(list(steps)) == 4
            return
        with pytest.raises(ValueError, match="environment 0.* no action is valid"):
            list(steps)


class TestTheCheck:
    @pytest.mark.parametrize("way", WAYS)
    def test_it_finds_them_and_plays_valid_actions(self, way):
        made = []

        def build():
            made.append(reporting(way))
            return made[-1]

        report = tfpg.check_env(build, steps=200)
        assert report.ok, report
        where = "action_masks()" if way == "method" else way
        assert f"its action masks are in {where}" in report.rows[2].detail
        assert sum(env.unwrapped.invalid for env in made) == 0

    def test_it_plays_several_choices(self):
        assert tfpg.check_env(lambda: InInfos(Pairs()), steps=100).ok

    def test_it_reports_masks_without_a_valid_action(self):
        env = Scripted(masks_of([1, 0, 0], [0, 0, 0], [1, 0, 0]))
        report = tfpg.check_env(lambda: env, steps=20)
        assert not report.ok
        assert "no action is valid, but the episode has not terminated (step 0, seed 0" in str(
            report
        ).replace("\n" + " " * 28, " ")

    def test_it_reports_actions_that_cannot_be_masked(self):
        env = Scripted(masks_of([1, 0, 0], [1, 0, 0]), actions=spaces.MultiBinary(3))
        report = tfpg.check_env(lambda: env, steps=20)
        assert not report.ok
        (problem, *others) = [row for row in report.rows if row.verdict == "problem"]
        assert "needs Discrete or MultiDiscrete" in problem.detail
        assert [row.what for row in others] == ["algorithms"]

    def test_it_reports_masks_of_another_size_once(self):
        env = Scripted(masks_of([1, 1], [1, 1]))
        report = tfpg.check_env(lambda: env, steps=20)
        details = [row.detail for row in report.rows if row.verdict != "ok"]
        assert len(details) == 2
        assert "has shape (2,), but Discrete(3) needs 3 values" in details[0]
        assert "none of" in details[1]
