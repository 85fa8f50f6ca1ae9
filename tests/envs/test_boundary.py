"""Training and evaluation bring what environments return into one form, or refuse it by name."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TransformObservation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import ALGORITHMS, flat_weights, small_agent

import tfpg
from tfpg.envs import open_vec, spaces_of
from tfpg.envs.contracts import observation_in, single_step
from tfpg.errors import EnvError

BOX = spaces.Box(-9, 9, (2,), np.float32)


class Single(gymnasium.Env):
    """Episodes of five steps; ``change`` is applied to the result of each step."""

    observation_space = BOX
    action_space = spaces.Discrete(2)

    def __init__(self, change=lambda *result: result):
        self.change = change

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.options = 0, options
        return self.np_random.normal(size=2).astype("float32"), {}

    def step(self, action):
        self.t += 1
        x = self.np_random.normal(size=2).astype("float32")
        return self.change(x, float(action), self.t == 5, False, {})


class Vector(VectorEnv):
    """Four environments with episodes of ten steps; ``change`` is applied to each result."""

    num_envs = 4
    single_observation_space, single_action_space = BOX, spaces.Discrete(2)
    observation_space = spaces.Box(-9, 9, (4, 2), np.float32)
    action_space = spaces.MultiDiscrete([2] * 4)

    def __init__(self, change=lambda *result: result, mode=AutoresetMode.NEXT_STEP):
        self.change, self.mode = change, mode
        self.metadata = {} if mode is None else {"autoreset_mode": mode}

    def reset(self, *, seed=None, options=None):
        self.t, self.over = np.arange(4), np.zeros(4, bool)
        self.rng = np.random.default_rng(0)
        return self.rng.normal(size=(4, 2)).astype("float32"), {}

    def step(self, actions):
        self.t = np.where(self.over, 0, self.t + 1)
        rewards = np.where(self.over, 0.0, actions * 1.0)
        self.over = self.t >= 10
        x = self.rng.normal(size=(4, 2)).astype("float32")
        return self.change(x, rewards, self.over, np.zeros(4, bool), {})


def trained(algorithm, envs):
    agent = small_agent(algorithm, (BOX, spaces.Discrete(2)))
    agent.fit(envs, 2, seed=0, verbose=0)
    return flat_weights(agent.model)


HARMLESS_SINGLE = {
    "a reward in an array": lambda x, r, e, c, i: (x, np.array([r]), e, c, i),
    "an integer reward": lambda x, r, e, c, i: (x, int(r), e, c, i),
    "flags as numbers": lambda x, r, e, c, i: (x, r, int(e), np.float32(c), i),
    "flags in arrays": lambda x, r, e, c, i: (x, r, np.array([e]), np.array(c), i),
    "an observation in a list": lambda x, r, e, c, i: (x.tolist(), r, e, c, i),
    "a float64 observation": lambda x, r, e, c, i: (x.astype(float), r, e, c, i),
    "infos of many types": lambda x, r, e, c, i: (
        *(x, r, e, c),
        {"a": None if r else 1, "b": np.zeros(int(r) + 1), "lives": "none", 3: {}},
    ),
}


@pytest.mark.parametrize("name", HARMLESS_SINGLE)
@pytest.mark.parametrize("algorithm", [tfpg.Reinforce, tfpg.DQN])
def test_other_forms_of_a_result_train_the_same_weights(algorithm, name):
    changed = trained(algorithm, lambda: Single(HARMLESS_SINGLE[name]))
    np.testing.assert_array_equal(changed, trained(algorithm, Single))


REFUSED_SINGLE = {
    "two rewards": (lambda x, r, *f: (x, np.ones(2), *f), r"reward: .* shape \(2,\)"),
    "no reward": (lambda x, r, *f: (x, None, *f), "reward: expected a float, got NoneType"),
    "a text as flag": (lambda x, r, e, c, i: (x, r, "no", c, i), "a bool as terminated, got str"),
    "a flag of 2": (lambda x, r, e, c, i: (x, r, e, 2, i), r"a bool as truncated, got 2 \(int\)"),
    "four values": (lambda x, r, e, c, i: (x, r, e, i), "Gym before 0.26"),
    "no info": (lambda x, r, e, c, i: (x, r, e, c, None), "a dict as info, got NoneType"),
    "another shape": (lambda x, *f: (np.zeros(3, "f4"), *f), r"observation: shape \(3,\)"),
    "no observation": (lambda x, *f: (None, *f), "observation: expected numbers, got NoneType"),
}


@pytest.mark.parametrize("name", REFUSED_SINGLE)
@pytest.mark.parametrize("workers", [None, 1])
def test_other_results_are_refused_with_environment_step_and_field(workers, name):
    change, message = REFUSED_SINGLE[name]
    with (
        open_vec(lambda: Single(change), 2, workers=workers) as envs,
        pytest.raises(EnvError, match=f"Environment 0 failed in step 0 .*{message}"),
    ):
        envs.reset(seed=[1, 2])
        envs.step(np.zeros(2, int))


def test_a_key_that_is_missing_in_one_step_is_named():
    space = spaces.Dict(a=BOX, b=spaces.Discrete(3))
    whole = {"a": np.zeros(2), "b": 1, "more": "text"}
    assert list(observation_in(space, whole)) == ["a", "b"]
    with pytest.raises(ValueError, match="its observation: 'b' is missing"):
        observation_in(space, {"a": np.zeros(2)})


@pytest.mark.parametrize("shape", [(2,), (3, 4, 2), ()])
@pytest.mark.parametrize("named", [False, True])
def test_environments_that_share_one_observation_array_do_not_see_each_others(shape, named):
    shared, box = np.zeros(shape, np.float32), spaces.Box(-9, 9, shape, np.float32)

    class Sharing(Single):
        observation_space = spaces.Dict(x=box) if named else box

        def reset(self, **options):
            super().reset(**options)
            shared[...] = 5
            return {"x": shared} if named else shared, {}

        def step(self, action):
            shared[...] = action
            return {"x": shared} if named else shared, *super().step(action)[1:]

    with open_vec(Sharing, 3) as envs:
        envs.reset(seed=[1, 2, 3])
        observations = envs.step(np.array([0, 1, 0]))[0]
    observations = observations["x"] if named else observations
    np.testing.assert_array_equal(observations.reshape(3, -1)[:, 0], [0, 1, 0])


class ChangesItsAction(gymnasium.Env):
    observation_space, action_space = BOX, spaces.MultiDiscrete([3, 3])

    def __init__(self, action_space=action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        reward = float(action[0])
        action[:] = 0
        self.t += 1
        return np.ones(2, np.float32), reward, self.t == 10, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([3, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-9, 9, (2,), np.float32),
        spaces.Box(-9, 9, (2,), np.float64),
    ],
    ids=str,
)
def test_an_environment_that_changes_its_action_is_learned_from_as_it_was_sampled(space):
    model = tfpg.networks.mlp(lambda: ChangesItsAction(space), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=4)
    data = []
    agent.update = lambda batch: data.append(batch) or {}
    agent.fit(lambda: ChangesItsAction(space), 1, seed=0, verbose=0)
    assert len(np.unique(data[0].rewards)) > 1
    np.testing.assert_allclose(data[0].rewards, data[0].actions[..., 0], rtol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_episodes_are_reset_without_options(algorithm):
    seen = []

    class Watched(Single):
        def reset(self, *, seed=None, options=None):
            seen.append(options)
            return super().reset(seed=seed, options=options)

    small_agent(algorithm, Watched).fit(Watched, 2, seed=0, verbose=0)
    assert len(seen) >= 8
    assert set(seen) == {None}


FLAGS = [np.int64, np.int8, np.uint8, np.float32, list, lambda x: x[:, None]]


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_flags_of_a_vector_environment_may_be_numbers_or_columns(algorithm, kind):
    def change(x, rewards, terminated, truncated, infos):
        return x, rewards, kind(terminated), kind(truncated), infos

    changed = trained(algorithm, Vector(change))
    np.testing.assert_array_equal(changed, trained(algorithm, Vector()))


REFUSED_VECTOR = {
    "flags that are counts": (lambda x, r, e, c, i: (x, r, e + 2, c, i), "terminated .* booleans"),
    "too many flags": (lambda x, r, e, c, i: (x, r, e, np.zeros((4, 2)), i), r"shape \(4, 2\)"),
    "one reward": (lambda x, r, *f: (x, 1.0, *f), r"rewards in step 0 .* are not \[4\] numbers"),
    "rewards of text": (lambda x, r, *f: (x, ["a"] * 4, *f), "rewards .* list"),
    "other observations": (lambda x, *f: (x[:, :1], *f), r"not \[4, 2\] float32.*\(4, 1\)"),
    "four values": (lambda x, r, e, c, i: (x, r, e, i), "Gym before 0.26"),
}


@pytest.mark.parametrize("name", REFUSED_VECTOR)
def test_other_results_of_a_vector_environment_are_refused(name):
    change, message = REFUSED_VECTOR[name]
    with pytest.raises(ValueError, match=message):
        trained(tfpg.A2C, Vector(change))


class TwoSteps(Vector):
    """Resets itself in the step that ends an episode: rewards of 10, then of 1."""

    final = "final_obs"

    def reset(self, *, seed=None, options=None):
        result = super().reset()
        self.t = np.zeros(4, int)
        return result

    def step(self, actions):
        rewards = np.where(self.t % 2 == 0, 10.0, 1.0)
        self.t = self.t + 1
        over = self.t % 2 == 0
        x = np.zeros((4, 2), np.float32)
        infos = {self.final: [x[0] if each else None for each in over]} if over.any() else {}
        return x, rewards, over, np.zeros(4, bool), infos if self.final else {}


class OldTwoSteps(TwoSteps):
    final = "final_observation"


class ArrayTwoSteps(TwoSteps):
    """Makes an array of objects of its last observations, which NumPy gives another axis."""

    def step(self, actions):
        *results, infos = super().step(actions)
        return *results, {name: np.array(x, object) for name, x in infos.items()}


@pytest.mark.parametrize("kind", [TwoSteps, OldTwoSteps, ArrayTwoSteps])
def test_a_vector_environment_that_does_not_say_how_it_resets_itself_is_looked_at(kind):
    logs = small_agent(tfpg.PPO, (BOX, spaces.Discrete(2))).fit(
        kind(mode=None), 2, seed=0, verbose=0
    )
    assert logs.history["env_steps"] == [32, 64]
    assert logs.history["episode_length"][-1] == 2


def test_a_vector_environment_whose_resets_cannot_be_seen_is_asked_about():
    with pytest.raises(ValueError, match="does not say how it begins new episodes: set its"):
        trained(tfpg.PPO, Vector(mode=None))


def test_a_vector_environment_without_the_space_of_one_environment_is_refused():
    envs = Vector()
    envs.single_action_space = None
    with pytest.raises(ValueError, match="Vector has no single_action_space: set it"):
        tfpg.evaluate(lambda x: np.zeros(len(x), int), envs)


anything = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=2)),
    st.lists(st.floats(-2, 2), max_size=3),
    st.sampled_from([np.float32(1), np.ones(1), np.zeros((2, 1)), np.array([0, 1]), {}, ()]),
)
results = st.one_of(
    st.tuples(*[anything] * 4, st.just({})), st.lists(anything, max_size=6).map(tuple), anything
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(results, st.sampled_from([BOX, spaces.Discrete(3), spaces.Dict(a=spaces.MultiBinary(2))]))
def test_any_result_is_brought_into_form_or_refused_in_one_line(result, space):
    try:
        observation, reward, terminated, truncated, info = single_step(space, result)
    except ValueError as error:
        text = str(error)
    else:
        is_box = isinstance(space, spaces.Box)  # whose bounds are not enforced
        assert observation.shape == space.shape if is_box else space.contains(observation)
        assert [type(x) for x in (reward, terminated, truncated)] == [float, bool, bool]
        assert info == {}
        text = "its "
    assert "its " in text
    assert "\n" not in text


PARTS = BOX, spaces.Discrete(5, start=-2)


def named():
    """Observes two parts, of which the Discrete does not start at 0."""
    space = spaces.Dict({"0": PARTS[0], "1": PARTS[1]})
    return TransformObservation(Single(), lambda x: {"0": x, "1": int(x[0] > 0) - 2}, space)


def numbered():
    """Observes the same parts as a tuple."""
    space = spaces.Tuple(PARTS)
    return TransformObservation(Single(), lambda x: (x, int(x[0] > 0) - 2), space)


@pytest.mark.parametrize(("algorithm", "workers"), [(tfpg.Reinforce, 2), (tfpg.DQN, None)])
def test_tuples_train_like_dicts_whose_keys_are_their_indices(algorithm, workers):
    weights = []
    for env in (named, numbered):
        with open_vec(env, num_envs=2, workers=workers) as envs:
            agent = small_agent(algorithm, env)
            agent.fit(envs, 2, seed=0, verbose=0)
            returns = tfpg.evaluate(agent, env, episodes=3, seed=0)["episode_returns"]
        weights.append([*flat_weights(agent.model), *returns])
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("algorithm", [tfpg.PPO, tfpg.DQN])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments_may_observe_tuples(algorithm, mode):
    weights = []
    for env in (named, numbered):
        agent = small_agent(algorithm, env)
        agent.fit(SyncVectorEnv([env] * 4, autoreset_mode=mode), 2, seed=0, verbose=0)
        weights.append(flat_weights(agent.model))
    np.testing.assert_array_equal(*weights)


def test_a_policy_acts_on_tuples():
    policy = tfpg.Policy(tfpg.networks.mlp(numbered, seed=0), numbered)
    x, k = np.ones((3, 2), np.float32), np.array([-2, 0, 2])
    expected = policy.act({"0": x, "1": k})
    np.testing.assert_array_equal(policy.act((x, k)), expected)
    with pytest.raises(ValueError, match=r"a dict with the keys \['0', '1'\]"):
        policy.act((x,))


def test_a_part_of_a_tuple_that_does_not_fit_is_named_by_its_index():
    env = TransformObservation(Single(), lambda x: (x, 3), spaces.Tuple(PARTS))
    with (
        open_vec(env) as envs,
        pytest.raises(EnvError, match="could not be reset .*observation: '1': 3 is outside"),
    ):
        envs.reset(seed=0)


def test_parts_of_a_tuple_that_no_model_can_take_are_left_out():
    space = spaces.Tuple([spaces.Text(9), BOX])
    found, _ = spaces_of((space, BOX))
    assert found == spaces.Dict({"1": BOX})
    observed = observation_in(found, ("find the key", np.ones(2, np.float32)))
    assert list(observed) == ["1"]


class Mission(Single):
    """Observations with parts that no model can take."""

    parts = {"text": (spaces.Text(1), "find the key"), "pair": (spaces.Tuple([BOX]), (None,))}

    def __init__(self, *names):
        super().__init__()
        self.names = names
        unusable = {name: self.parts[name][0] for name in names}
        self.observation_space = spaces.Dict(x=BOX, **unusable)

    def reset(self, **options):
        x, info = super().reset(**options)
        return {"x": x, **{name: self.parts[name][1] for name in self.names}}, info

    def step(self, action):
        x, *rest = super().step(action)
        return {"x": x, **{name: self.parts[name][1] for name in self.names}}, *rest


@pytest.mark.parametrize(("algorithm", "workers"), [(tfpg.Reinforce, 2), (tfpg.DQN, None)])
def test_keys_that_no_model_can_take_are_left_out(algorithm, workers):
    weights = []
    for names in ((), ("text",)):
        with open_vec(lambda names=names: Mission(*names), num_envs=2, workers=workers) as envs:
            agent = small_agent(algorithm, Mission)
            agent.fit(envs, 2, seed=0, verbose=0)
            tfpg.evaluate(agent, envs, episodes=2)
        weights.append(flat_weights(agent.model))
    np.testing.assert_array_equal(*weights)


def test_a_warning_says_that_parts_other_than_text_are_left_out():
    with pytest.warns(UserWarning, match="Ignoring the observation 'pair': Tuple spaces"):
        tfpg.networks.mlp(lambda: Mission("pair", "text"))


@pytest.mark.parametrize(
    ("algorithm", "mode"),
    [
        (tfpg.Reinforce, AutoresetMode.DISABLED),
        *itertools.product([tfpg.A2C, tfpg.PPO, tfpg.DQN], AutoresetMode),
    ],
)
def test_custom_vector_environments_may_observe_text(algorithm, mode):
    envs = SyncVectorEnv([lambda: Mission("text")] * 4, autoreset_mode=mode)
    small_agent(algorithm, Mission).fit(envs, 2, seed=0, verbose=0)


class Wordless(gymnasium.Space):
    """A custom space that cannot be sampled."""

    def contains(self, x):
        return True


def test_spaces_that_are_left_out_are_not_touched():
    with pytest.warns(UserWarning, match="Ignoring the observation 'own'"):
        found, _ = spaces_of((spaces.Dict(x=BOX, own=Wordless()), BOX))
    assert list(found) == ["x"]
    parts = spaces.Dict(x=BOX, pair=spaces.Tuple([spaces.Discrete(9)], seed=3))
    drawn = spaces.Tuple([spaces.Discrete(9)], seed=3).sample()
    with pytest.warns(UserWarning, match="Ignoring"):
        spaces_of((parts, BOX))
    assert parts["pair"].sample() == drawn
