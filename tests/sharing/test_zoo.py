"""The trained models that come with tfpg play as well as recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from marks import slow_but

import tfpg
from tfpg.cli.main import main
from tfpg.sharing import runs

FOLDER = Path(tfpg.__file__).parent / "zoo"
SCORES = json.loads((FOLDER / "scores.json").read_text())
NAMES = [f"{algorithm}/{env}" for algorithm, env in tfpg.presets.PRESETS]


def test_there_is_a_model_for_each_preset_and_together_they_are_small():
    assert sorted(runs.zoo()) == sorted(SCORES) == sorted(NAMES)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 2_000_000


@pytest.mark.parametrize("name", slow_but(["ppo/CartPole-v1"], NAMES))
def test_the_score_is_that_of_new_episodes(name):
    expected = SCORES[name]
    agent = tfpg.load_agent(f"zoo:{name}")
    result = agent.evaluate(name.split("/")[1], 100, seed=1)
    error = np.hypot(result["episode_return_std"], expected["std"]) / 10  # of the difference
    assert abs(result["episode_return"] - expected["return"]) <= max(4 * error, 0.5)
    low = tfpg.presets.find(*name.split("/")).score.low
    assert expected["return"] + expected["std"] / 5 >= low


@pytest.mark.slow
def test_commands_take_a_name_and_write_nothing_next_to_the_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(FOLDER.rglob("*"))
    assert main(["evaluate", "zoo:dqn/CartPole-v1", "--episodes", "2", "--seed", "1"]) == 0
    assert "zoo:dqn/CartPole-v1 in CartPole-v1, 2 greedy episodes" in capsys.readouterr().out
    assert main(["record", "zoo:ppo/CartPole-v1", "a.png", "--max-steps", "9"]) == 0
    assert main(["export", "zoo:ppo/CartPole-v1", "--format", "litert", "--steps", "50"]) == 0
    train = "train ppo CartPole-v1 --model zoo:ppo/CartPole-v1 --iterations 1 --no-video --run r"
    assert main(train.split()) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CartPole-v1.tflite", "a.png", "r"]
    assert sorted(FOLDER.rglob("*")) == before


def test_an_unknown_name_is_an_error_with_those_that_exist(capsys):
    assert main(["evaluate", "zoo:ppo/CartPole"]) == 1
    error = capsys.readouterr().err
    assert "No 'zoo:ppo/CartPole' in the zoo" in error
    assert "zoo:ppo/CartPole-v1" in error
