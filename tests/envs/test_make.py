import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from toys import Bandit, Countdown

from tfpg.envs import make, make_vec, open_env, open_vec, spaces_of
from tfpg.envs.supervised import SupervisedEnv


def test_ids_that_gymnasium_vectorizes_use_its_vector_environment():
    with open_vec("CartPole-v1", 4) as envs:
        assert type(envs.unwrapped).__name__ == "CartPoleVectorEnv"
        assert envs.num_envs == 4


def test_other_ids_become_copies_of_the_single_environment():
    with open_vec("Acrobot-v1", 3) as envs:
        assert isinstance(envs, SyncVectorEnv)
        assert len(envs.envs) == envs.num_envs == 3


def test_callables_may_make_single_and_vector_environments():
    made = []

    def build():
        made.append(Countdown())
        return made[-1]

    with open_vec(build, 3) as envs:
        assert envs.num_envs == 3
    assert len(made) == 3
    with open_vec(lambda: gymnasium.make_vec("CartPole-v1", num_envs=5), 3) as envs:
        assert envs.num_envs == 5


class Closing(Countdown):
    """Counts how many instances were closed."""

    closed = 0

    def close(self):
        Closing.closed += 1


@pytest.fixture
def closed():
    Closing.closed = 0
    return lambda: Closing.closed


def test_environments_that_are_passed_in_are_left_open(closed):
    given = Closing()
    with open_vec(given) as envs:
        assert envs.num_envs == 1
    with open_env(given) as env:
        assert env is given
    vector = SyncVectorEnv([Closing])
    with open_vec(vector) as envs:
        assert envs is vector
    assert spaces_of(given) == spaces_of(vector)
    assert closed() == 0


def test_environments_that_are_made_are_closed(closed):
    with open_vec(Closing, 2):
        pass
    with open_env(Closing):
        pass
    assert closed() == 3
    with pytest.raises(RuntimeError), open_vec(Closing, 2):
        raise RuntimeError
    assert closed() == 5


def test_environments_made_before_one_fails_are_closed(closed):
    left = [Closing] * 3
    with pytest.raises(RuntimeError, match="pop from empty list"):
        make_vec(lambda: left.pop()(), 5)
    assert closed() == 3


@pytest.mark.parametrize("name", ["Pong-v5", "pongnoframeskip-v4", "pong-ram-v0", "pong-v4"])
def test_old_names_of_atari_games_suggest_the_new_one(name):
    pytest.importorskip("ale_py")
    with pytest.raises(ValueError, match=r"Did you mean ALE/Pong-v5\?$"):
        make(name)


@pytest.mark.parametrize("function", [make, make_vec, spaces_of])
def test_unknown_ids_suggest_similar_ones(function):
    message = r"Unknown environment 'CartPol-v1'. Did you mean.*CartPole-v1.*module:id"
    with pytest.raises(ValueError, match=message):
        function("CartPol-v1")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cartpole-v1", "Did you mean.*CartPole-v1"),
        ("CartPole-v99", "Did you mean.*CartPole-v1"),
        ("qqqqqq", "pprint_registry"),
    ],
)
def test_unknown_ids(name, words):
    with pytest.raises(ValueError, match=words):
        make(name)


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    code = (
        "import sys; sys.modules['Box2D'] = None; import tfpg.envs; "
        "tfpg.envs.make('LunarLander-v3')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: LunarLander-v3 needs a package that is not installed: "
        "pip install 'gymnasium[box2d]'"
    )


def test_an_id_with_a_missing_module():
    with pytest.raises(ImportError, match="no_such_module"):
        make("no_such_module:Env-v0")


@pytest.mark.parametrize("wrong", [3, None, ["CartPole-v1"]])
def test_other_objects_are_refused(wrong):
    with pytest.raises(TypeError, match="Expected an environment id"):
        make_vec(wrong)


def test_callables_that_return_something_else_are_refused():
    with pytest.raises(TypeError, match="returned int"):
        make_vec(lambda: 3)
    with pytest.raises(TypeError, match="single environment"), open_env(make_vec("CartPole-v1")):
        pass


@pytest.mark.parametrize("num_envs", [0, -1])
def test_there_is_at_least_one_environment(num_envs):
    with pytest.raises(ValueError, match="num_envs"):
        make_vec("CartPole-v1", num_envs)


def test_a_callable_must_make_a_new_environment_each_time():
    env = Countdown()
    with pytest.raises(ValueError, match="the same environment twice"):
        make_vec(lambda: env, 3)


def test_a_finished_environment_idles_until_it_gets_a_seed():
    inner = Countdown(length=2)
    env = SupervisedEnv(inner)
    env.reset(seed=7)
    env.step(0)
    last, _, terminated, _, _ = env.step(1)
    assert terminated
    for _ in range(3):
        observation, _ = env.reset()
        np.testing.assert_array_equal(observation, last)
        observation, reward, terminated, truncated, _ = env.step(0)
        np.testing.assert_array_equal(observation, last)
        assert (reward, terminated, truncated) == (0.0, False, False)
    assert inner.seeds == [7]
    observation, _ = env.reset(seed=8)
    assert inner.seeds == [7, 8]
    assert observation[0] == 0


def test_spaces_of_environments_callables_and_vector_environments():
    assert spaces_of(Bandit())[1] == Bandit().action_space
    assert spaces_of(Bandit)[0].shape == (1,)
    with open_vec("CartPole-v1", 3) as envs:
        assert spaces_of(envs)[0].shape == (4,)


def test_ids_without_a_version_mean_the_newest():
    with open_env("CartPole") as env:
        assert env.spec.id == "CartPole-v1"
    with open_vec("Acrobot", 2) as envs:
        assert envs.envs[0].spec.id == "Acrobot-v1"


def test_an_id_may_name_the_module_that_registers_it(tmp_path, monkeypatch):
    (tmp_path / "my_module_of_envs.py").write_text(
        "import gymnasium\nfrom toys import Countdown\n"
        "gymnasium.register('Mine-v0', entry_point=Countdown, max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for function in (make, make_vec):
        function("my_module_of_envs:Mine-v0").close()
    assert spaces_of("my_module_of_envs:Mine-v0")[0].shape == (2,)
