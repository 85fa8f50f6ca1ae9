import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv, VectorEnv
from toys import Bandit, Countdown

from tfpg.envs import make, make_vec, open_env, open_vec, spaces_of
from tfpg.envs.make import Parked, unknown_env


def test_an_id_that_gymnasium_vectorizes_is_made_so():
    with open_vec("CartPole-v1", 4) as envs:
        assert type(envs.unwrapped).__name__ == "CartPoleVectorEnv"
        assert envs.num_envs == 4


def test_other_ids_are_parked_copies():
    with open_vec("Acrobot-v1", 3) as envs:
        assert isinstance(envs, SyncVectorEnv)
        assert envs.num_envs == 3
        assert all(isinstance(env, Parked) for env in envs.envs)


def test_callables_may_make_either_kind():
    made = []

    def one():
        made.append(Countdown())
        return made[-1]

    with open_vec(one, 3) as envs:
        assert envs.num_envs == 3
    assert len(made) == 3
    with open_vec(lambda: gymnasium.make_vec("CartPole-v1", num_envs=5), 3) as envs:
        assert envs.num_envs == 5


def test_what_was_given_is_left_open_and_what_was_made_is_closed():
    class Closing(Countdown):
        closed = 0

        def close(self):
            type(self).closed += 1

    given = Closing()
    with open_vec(given) as envs:
        assert envs.num_envs == 1
    with open_env(given) as env:
        assert env is given
    vector = SyncVectorEnv([Closing])
    with open_vec(vector) as envs:
        assert envs is vector
    spaces_of(given), spaces_of(vector)
    assert Closing.closed == 0
    with open_vec(Closing, 2):
        pass
    with open_env(Closing):
        pass
    assert Closing.closed == 3
    with pytest.raises(RuntimeError), open_vec(Closing, 2):
        raise RuntimeError
    assert Closing.closed == 5


@pytest.mark.parametrize("name", ["Pong-v5", "PongNoFrameskip-v4", "Pong-ram-v0", "pong-v4"])
def test_atari_games_by_their_old_names(name):
    pytest.importorskip("ale_py")
    assert unknown_env(name).endswith("Did you mean ALE/Pong-v5?")


def test_unknown_ids_offer_the_nearest():
    for function in (make, make_vec, spaces_of):
        with pytest.raises(
            ValueError, match=r"Unknown environment 'CartPol-v1'. Did you mean.*CartPole-v1"
        ):
            function("CartPol-v1")
    with pytest.raises(ValueError, match="Did you mean.*CartPole-v1"):
        make("cartpole-v1")
    with pytest.raises(ValueError, match="Did you mean.*CartPole-v1"):
        make("CartPole-v99")
    with pytest.raises(ValueError, match="pprint_registry"):
        make("qqqqqq")


def test_ids_of_modules_that_are_not_there():
    with pytest.raises(ImportError, match="no_such_module"):
        make("no_such_module:Env-v0")


@pytest.mark.parametrize("wrong", [3, None, ["CartPole-v1"]])
def test_what_is_no_environment_is_refused(wrong):
    with pytest.raises(TypeError, match="Expected an environment id"):
        make_vec(wrong)


def test_callables_that_make_something_else_are_refused():
    with pytest.raises(TypeError, match="returned int"):
        make_vec(lambda: 3)
    with pytest.raises(TypeError, match="single environment"), open_env(make_vec("CartPole-v1")):
        pass


@pytest.mark.parametrize("num_envs", [0, -1])
def test_at_least_one_copy(num_envs):
    with pytest.raises(ValueError, match="num_envs"):
        make_vec("CartPole-v1", num_envs)


def test_a_parked_environment_rests_until_it_is_seeded():
    inner = Countdown(length=2)
    env = Parked(inner)
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


def test_spaces_of_every_kind():
    assert spaces_of(Bandit())[1] == Bandit().action_space
    assert spaces_of(Bandit)[0].shape == (1,)
    envs = make_vec("CartPole-v1", 3)
    assert isinstance(envs, VectorEnv)
    assert spaces_of(envs)[0].shape == (4,)


def test_ids_without_a_version_are_the_newest():
    with open_env("CartPole") as env:
        assert env.spec.id == "CartPole-v1"
    with open_vec("Acrobot", 2) as envs:
        assert envs.envs[0].spec.id == "Acrobot-v1"


def test_ids_of_modules(tmp_path, monkeypatch):
    (tmp_path / "my_module_of_envs.py").write_text(
        "import gymnasium\nfrom toys import Countdown\n"
        "gymnasium.register('Mine-v0', entry_point=Countdown, max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for function in (make, make_vec):
        env = function("my_module_of_envs:Mine-v0")
        env.close()
    assert spaces_of("my_module_of_envs:Mine-v0")[0].shape == (2,)


def test_a_callable_must_make_a_new_environment_each_time():
    env = Countdown()
    with pytest.raises(ValueError, match="the same environment twice"):
        make_vec(lambda: env, 3)


def test_environments_made_before_one_fails_are_closed():
    closed = []

    class Fails(Countdown):
        made = 0

        def __init__(self):
            type(self).made += 1
            if type(self).made == 4:
                raise RuntimeError("no more")
            super().__init__()

        def close(self):
            closed.append(self)

    with pytest.raises(RuntimeError, match="no more"):
        make_vec(Fails, 5)
    assert len(closed) == 3
