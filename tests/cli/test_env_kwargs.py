"""Keyword arguments of environments on the command line, and how often environments are made."""

import json
from collections import Counter
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import tfpg
from tfpg.cli.main import main
from tfpg.envs import join_env_id, make, make_vec, same_env, split_env_id

TRAIN = ["train", "reinforce", "Sized-v0", "--iterations", "1", "--episodes-per-update", "2"]
MADE = Counter()


class Sized(gymnasium.Env):
    """Episodes of ``length`` steps. Counts how often it is made in which render mode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    action_space = spaces.Discrete(2)

    def __init__(self, length=4, size=2, render_mode=None):
        self.length, self.render_mode = length, render_mode
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)
        MADE[render_mode] += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == self.length, False, {}

    def render(self):
        return np.full((40, 40, 3), 9 * self.t, np.uint8)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gymnasium.registry, "Sized-v0", EnvSpec("Sized-v0", Sized))
    MADE.clear()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, "X-v0"),
        ({"a": 1, "b": 0.5, "c": True, "d": None}, "X-v0?a=1&b=0.5&c=true&d=null"),
        ({"path": "a/b c", "n": "5", "x": "true"}, "X-v0?path=a/b c&n=%225%22&x=%22true%22"),
        ({"list": [1, "x"], "dict": {"a": 1}, "odd": "a&b=c?"}, None),
    ],
)
def test_an_id_holds_any_arguments(kwargs, text):
    joined = join_env_id("X-v0", kwargs)
    assert text is None or joined == text
    assert split_env_id(joined) == ("X-v0", kwargs)
    assert split_env_id(join_env_id(joined, {"a": 2})) == ("X-v0", {**kwargs, "a": 2})


def test_a_plus_is_no_space():
    assert split_env_id("X-v0?x=1e+5&y=a+b") == ("X-v0", {"x": 1e5, "y": "a+b"})


@pytest.mark.parametrize("env_id", ["X-v0?a", "X-v0?a=1&b", "X-v0?a=1&&b=2"])
def test_an_argument_without_a_value_is_an_error(env_id):
    with pytest.raises(ValueError, match=r"must have the form ID\?KEY=VALUE&KEY=VALUE"):
        split_env_id(env_id)


def test_arguments_reach_single_and_vector_environments():
    env_id = "FrozenLake-v1?is_slippery=false&map_name=8x8"
    with make(env_id) as env:
        assert env.spec.kwargs["is_slippery"] is False
        assert env.observation_space.n == 64
    envs = make_vec(env_id, 2)
    assert envs.single_observation_space.n == 64
    envs.close()
    vector = make_vec("CartPole-v1?sutton_barto_reward=true", 2)
    vector.reset(seed=0)
    assert vector.step(np.array([0, 1]))[1].tolist() == [0.0, 0.0]
    vector.close()
    assert same_env("FrozenLake?map_name=8x8&is_slippery=false", env_id)
    assert not same_env("FrozenLake-v1", env_id)


def test_a_run_keeps_its_arguments_and_other_commands_use_them(capsys):
    run = [*TRAIN, "--seed", "1", "--no-video", "--run", "r"]
    assert main([*run, "--env-kwargs", "length=7", "size=3"]) == 0
    assert json.loads(Path("r/config.json").read_text())["env"] == "Sized-v0?length=7&size=3"
    lengths = {}
    other = ["--env", "Sized-v0", "--env-kwargs", "size=3"]
    for given in ([], ["--env-kwargs", "length=5"], other):
        capsys.readouterr()
        assert main(["evaluate", "r", "--episodes", "2", "--json", *given]) == 0
        result = json.loads(capsys.readouterr().out)
        lengths[result["env"]] = result["episode_length"]
    assert lengths == {
        "Sized-v0?length=7&size=3": 7.0,
        "Sized-v0?length=5&size=3": 5.0,
        "Sized-v0?size=3": 4.0,
    }


@pytest.mark.parametrize("given", ["length", "=7", "2x=1"])
def test_arguments_on_the_command_line_are_pairs(given, capsys):
    assert main([*TRAIN, "--env-kwargs", given]) == 2
    assert f"--env-kwargs must be KEY=VALUE, got {given!r}" in capsys.readouterr().err


def test_an_argument_that_the_environment_does_not_take_is_an_error(capsys):
    assert main([*TRAIN, "--no-video", "--env-kwargs", "colour=1"]) == 1
    assert "unexpected keyword argument 'colour'" in capsys.readouterr().err


def test_commands_make_no_more_environments_than_they_use():
    run = ["--seed", "1", "--run", "r"]
    ppo = ["train", "ppo", "Sized-v0", "--iterations", "1", "--num-steps", "8"]
    made = []
    for command in (
        [*ppo, "--num-envs", "8", *run],  # a video is tried before the training, and recorded after
        ["evaluate", "r", "--episodes", "3"],
        ["evaluate", "r"],
        ["record", "r", "a.gif"],
    ):
        assert main(command) == 0
        made.append((MADE[None], MADE["rgb_array"]))
        MADE.clear()
    validation = 10
    assert made == [(8 + validation, 2), (3, 0), (8, 0), (1, 1)]
    assert tfpg.load_model("r/model.keras").input_shape == (None, 2)
