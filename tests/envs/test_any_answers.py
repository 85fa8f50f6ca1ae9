"""Environments that answer with random types, shapes and values.

Each training either has the result of the one with plain answers, or ends with an error of one to
three lines that names the environment, the step and the value.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import flat_weights, small_agent

import tfpg
from tfpg.errors import EnvError

BOX = spaces.Box(-9, 9, (2,), np.float32)
SPACES = BOX, spaces.Discrete(2)
FIELDS = ("observation", "reward", "terminated", "truncated", "info")


def read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


def objects(x):
    return np.array(x, object)


def strided(x):
    return np.stack([x, x], axis=-1)[..., 0]


REPORTS = [{}, {"lives": "many"}, {"final_obs": 3, 4: None}, {"env_failed": "no", "a": {"b": []}}]
NUMBERS = [np.float64, np.float32, np.int8, np.uint8, np.bool_, np.array, lambda x: np.array([x])]
OTHERS = [
    None,
    "no",
    "1",
    {},
    [],
    (),
    [None],
    np.array(["a"]),
    np.array([None]),
    1j,
    b"1",
    object(),
]

# Other forms of an answer. They do not change its value.
GOOD = {
    "observation": [
        np.array,
        np.ndarray.tolist,
        tuple,
        np.float64,
        read_only,
        strided,
        np.longdouble,
    ],
    "reward": [float, int, bool, *NUMBERS, objects, lambda x: np.array([[x]]), lambda x: [x]],
    "terminated": [bool, int, float, *NUMBERS, objects, lambda x: [x]],
    "info": [lambda _, each=each: each for each in REPORTS],
}
# Answers that mean nothing.
BAD = {
    "observation": [
        *(np.zeros(3), np.zeros((2, 1)), np.zeros(()), 0.5, [0.0], [[0.0], [0.0, 1.0]], [0, "a"]),
        *(np.array([np.nan, 0], "f4"), np.array([0, np.inf], "f4"), np.zeros(2, complex)),
    ],
    "reward": [np.ones(2), [1.0, 2.0], np.nan, -np.inf, np.array([np.nan]), np.array([])],
    "terminated": [2, -1, 0.5, np.nan, [0, 1], np.array([0, 1]), np.array([]), np.array(7)],
    "info": [3, True],
}
for each in GOOD, BAD:
    each["truncated"] = each["terminated"]
NAMES = {"observation": "observation", "reward": "reward", "info": "info"}


def changed_reset(x, changes):
    return tuple(
        changes[name](value) if name in changes else value
        for name, value in (("observation", x), ("info", {}))
    )


class Answers(gymnasium.Env):
    """Episodes of five steps. The changes are made from step ``since`` on; from -1, in resets."""

    observation_space, action_space = SPACES

    def __init__(self, changes=None, since=0):
        self.changes, self.since = changes or {}, since

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        x = self.np_random.normal(size=2).astype("float32")
        return changed_reset(x, self.changes) if self.since < 0 else (x, {})

    def step(self, action):
        self.t += 1
        x = self.np_random.normal(size=2).astype("float32")
        result = dict(zip(FIELDS, (x, float(action), self.t == 5, False, {}), strict=True))
        if self.t > self.since:
            result |= {name: change(result[name]) for name, change in self.changes.items()}
        return tuple(result.values())


def column(x):
    return np.array(x)[:, None]


def one_row(value):
    """A change of a single row, which makes a list of a vector environment's answer."""
    return lambda x: [*list(x)[:1], value, *list(x)[2:]]


GOOD_VECTOR = {
    "observation": [np.array, np.ndarray.tolist, list, np.float64, read_only, strided, objects],
    "reward": [np.array, list, tuple, np.float32, np.int8, np.bool_, read_only, column, objects],
    "terminated": [
        *(np.array, list, tuple, np.float32, np.int64, np.uint8, read_only, column, objects)
    ],
    "info": [lambda _, each=each: each for each in REPORTS],
}
BAD_VECTOR = {
    "observation": [
        *(lambda x: x[:3], lambda x: x[:, :1], lambda x: x.T, lambda x: x * 1j),
        *(lambda x: np.float32(0), lambda x: np.where(x > 0, np.nan, np.inf), one_row(np.zeros(3))),
    ],
    "reward": [
        *(lambda x: x[:3], lambda x: 1.0, lambda x: np.ones((4, 2)), lambda x: x * np.nan),
        *(lambda x: x + 1j, one_row([1.0, 2.0])),
    ],
    "terminated": [
        *(lambda x: x[:3], lambda x: True, lambda x: x + 2, lambda x: np.ones((4, 2))),
        *(lambda x: x * np.nan, one_row(0.5), one_row(-1)),
    ],
    "info": [lambda _: 3, lambda _: True],
}
for each in BAD_VECTOR.values():
    each += [one_row(other) for other in OTHERS] if each is not BAD_VECTOR["info"] else []
    each += [lambda _, other=other: other for other in OTHERS if other != {}]
for each in GOOD_VECTOR, BAD_VECTOR:
    each["truncated"] = each["terminated"]


class VectorAnswers(VectorEnv):
    """Four environments with episodes of five to eight steps."""

    num_envs = 4
    single_observation_space, single_action_space = SPACES
    observation_space = spaces.Box(-9, 9, (4, 2), np.float32)
    action_space = spaces.MultiDiscrete([2] * 4)

    def __init__(self, changes=None, since=0, mode=AutoresetMode.NEXT_STEP):
        self.changes, self.since, self.mode = changes or {}, since, mode
        self.metadata = {"autoreset_mode": mode}
        self.lengths = np.arange(5, 9)

    def observe(self):
        return self.rng.normal(size=(4, 2)).astype("float32")

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self.total, self.rng = 0, np.random.default_rng(0)
            self.t, self.over = np.zeros(4, int), np.zeros(4, bool)
        else:
            self.t[mask] = 0
        x = self.observe()
        return changed_reset(x, self.changes) if self.since < 0 else (x, {})

    def step(self, actions):
        self.total += 1
        self.t = np.where(self.over, 0, self.t + 1)
        rewards = np.where(self.over, 0.0, actions * 1.0)
        over, infos = self.t >= self.lengths, {}
        if self.mode is AutoresetMode.NEXT_STEP:
            self.over = over
        elif self.mode is AutoresetMode.SAME_STEP:
            infos = {"final_obs": self.observe()} if over.any() else {}
            self.t[over] = 0
        answers = self.observe(), rewards, over, np.zeros(4, bool), infos
        result = dict(zip(FIELDS, answers, strict=True))
        if self.total > self.since:
            for name, change in self.changes.items():
                changed = change(result[name])
                if name == "info" and isinstance(changed, dict):
                    changed = {**changed, **result[name]}
                result[name] = changed
        return tuple(result.values())


class Trained:
    """An agent that is trained again and again from the same weights, compiled only once."""

    def __init__(self, algorithm, make):
        self.make = make
        self.agent = small_agent(algorithm, SPACES)
        self.agent.fit(make(), 1, seed=0, verbose=0)
        self.state = self.agent.get_state()
        self.plain = self.weights()

    def weights(self, *args):
        self.agent.set_state(self.state)
        self.agent.replay = None
        self.agent.fit(self.make(*args), 2, seed=0, verbose=0)
        return flat_weights(self.agent.model)


MODES = list(AutoresetMode)
KINDS = {
    "reinforce": (tfpg.Reinforce, lambda *args: lambda: Answers(*args)),
    "a2c": (tfpg.A2C, lambda *args: lambda: Answers(*args)),
    "ppo": (tfpg.PPO, lambda *args: lambda: Answers(*args)),
    "dqn": (tfpg.DQN, lambda *args: lambda: Answers(*args)),
    **{
        f"vector {mode.value}": (tfpg.A2C, lambda *args, mode=mode: VectorAnswers(*args, mode=mode))
        for mode in MODES
    },
}


@pytest.fixture(scope="module")
def trained():
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Trained(*KINDS[kind])
        return made[kind]

    return get


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(sorted(KINDS)))
    good, bad = (GOOD_VECTOR, BAD_VECTOR) if kind.startswith("vector") else (GOOD, BAD)
    changes = {
        name: draw(st.sampled_from(good[name]))
        for name in draw(st.sets(st.sampled_from(FIELDS), min_size=1))
    }
    wrong = draw(st.one_of(st.none(), st.sampled_from(FIELDS)))
    if wrong is not None:
        value = draw(st.sampled_from(bad[wrong]))
        if not kind.startswith("vector"):
            others = OTHERS if wrong != "info" else [x for x in OTHERS if x != {}]
            value = draw(st.sampled_from([value, *others]))
            changes[wrong] = lambda _: value
        else:
            changes[wrong] = value
    return kind, changes, wrong, draw(st.integers(-1, 4))


def check(trained, case):
    kind, changes, wrong, since = case
    one = trained(kind)
    if wrong is None:
        np.testing.assert_array_equal(one.weights(changes, since), one.plain)
        return
    with pytest.raises((EnvError, ValueError, FloatingPointError)) as caught:
        one.weights(changes, since)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3, text
    assert "nvironment" in text, text
    in_reset = since < 0 and wrong in ("observation", "info")
    assert ("reset" if in_reset else "step") in text, text
    assert wrong in text or (wrong == "info" and "final_obs" in text), text


EXAMPLES = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=200, **EXAMPLES)
@given(cases())
def test_any_answer_trains_as_the_plain_one_or_is_refused(trained, case):
    check(trained, case)


@pytest.mark.slow
@settings(max_examples=2000, **EXAMPLES)
@given(cases())
def test_two_thousand_answers_train_as_the_plain_ones_or_are_refused(trained, case):
    check(trained, case)
