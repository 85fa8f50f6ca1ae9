"""The worked example of docs/extending.md: an algorithm of the reader's own, in one file."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfpg

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "cross_entropy.py").write_text(BLOCKS[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cross_entropy", raising=False)
    return tmp_path


def trained(iterations, checkpoints=None):
    agent_class = importlib.import_module("cross_entropy").CrossEntropy
    model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), seed=0)
    agent = agent_class(model, episodes_per_update=8, epochs=2)
    history = agent.fit("CartPole-v1", iterations, seed=1, verbose=0, checkpoints=checkpoints)
    return agent, history.history


def test_the_example_has_at_most_120_lines():
    assert len(BLOCKS[0].splitlines()) <= 120


def test_options_are_checked_and_documented(folder):
    agent_class = importlib.import_module("cross_entropy").CrossEntropy
    assert "elite_fraction: Share of the episodes that are imitated." in agent_class.__doc__
    with pytest.raises(ValueError, match="elite_fraction must be a number above 0 and up to 1"):
        agent_class(tfpg.networks.mlp("CartPole-v1"), elite_fraction=2.0)


def test_a_resumed_training_equals_an_uninterrupted_one(folder):
    whole, history = trained(4)
    trained(2, checkpoints="checkpoints")
    resumed, resumed_history = trained(4, checkpoints="checkpoints")
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed_history == history


@pytest.mark.slow
def test_the_command_line_trains_resumes_and_records(folder):
    def output_of(*args):
        done = subprocess.run(
            [sys.executable, "-m", "tfpg", *args], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, ""), args
        return done.stdout

    training = ["cross_entropy:CrossEntropy", "CartPole-v1", "--iterations", "4"]
    printed = output_of("train", *training, "--elite-fraction", "0.3", "--no-video", "--run", "run")
    assert "elite_return" in printed
    assert "killed 1 time: the result equals" in output_of(
        "verify-resume", *training, "--kills", "1"
    )
    output_of("record", "run", "cem.gif")
    assert (folder / "cem.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.slow
def test_the_example_learns(folder):
    agent_class = importlib.import_module("cross_entropy").CrossEntropy
    agent = agent_class(tfpg.networks.mlp("CartPole-v1", seed=0))
    agent.fit("CartPole-v1", 40, seed=1, verbose=0)
    assert agent.evaluate("CartPole-v1", 20, seed=7)["episode_return"] > 400


@pytest.mark.slow
def test_the_python_example_runs(folder):
    code = BLOCKS[1].replace("iterations=30", "iterations=2")
    assert code != BLOCKS[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "cem.mp4").exists()
