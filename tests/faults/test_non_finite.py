"""NaN and infinity: nothing is learned from them, and what reproduces them is saved."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from small import SMALL, every_checkpoint, q_network

import tfpg


class Overflowing(gymnasium.Env):
    """Gives rewards whose square is infinite, from its n-th episode on."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)
    episodes = 0

    def __init__(self, after=12):
        self.after = after

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        type(self).episodes += 1
        return self.np_random.uniform(-1, 1, 4).astype("float32"), {}

    def step(self, action):
        reward = 1e300 * self.np_random.normal() if type(self).episodes > self.after else 1.0
        observation = self.np_random.uniform(-1, 1, 4).astype("float32")
        return observation, reward, bool(self.np_random.random() < 0.3), False, {}


@pytest.fixture
def overflowing():
    Overflowing.episodes = 0
    return Overflowing


def test_the_error_says_where_it_happened_and_a_bundle_reproduces_it(overflowing, tmp_path):
    model = tfpg.networks.mlp(overflowing, hidden=(4,), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=4, standardize=None)
    with pytest.raises(FloatingPointError) as caught:
        every = every_checkpoint(tmp_path)
        agent.fit(overflowing, 9, seed=0, verbose=0, checkpoints=every)
    text = str(caught.value)
    iteration = re.search(r"This happened in iteration (\d+), after [\d,]+ steps; the grad", text)
    folder = tmp_path / "non-finite"
    assert f"are in {str(folder)!r}" in text
    saved = tfpg.load_model(folder / "model.keras")
    for a, b in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    with np.load(folder / "data.npz", allow_pickle=False) as data:
        assert np.abs(data["rewards"]).max() > 1e299
        assert data["observations"].shape[1:] == (4, 4)
    about = json.loads((folder / "about.json").read_text())
    assert about["iteration"] == int(iteration[1]) - 1
    assert about["agent"] == "Reinforce"
    assert len(list(tmp_path.glob("step-*.ckpt"))) == 2


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_bundle_of_a_replay_has_the_transitions(overflowing, tmp_path):
    model = q_network()
    agent = tfpg.DQN(model, prioritized=True, **SMALL)
    with pytest.raises(FloatingPointError, match=r"This happened in iteration \d+, after"):
        agent.fit(overflowing, 9, seed=0, verbose=0, checkpoints=tmp_path)
    with np.load(tmp_path / "non-finite/data.npz", allow_pickle=False) as data:
        assert np.isinf(data["rewards"]).any()
    assert np.isfinite(agent.replay.tree.total)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_model_that_is_not_finite_from_the_start_has_no_bundle(tmp_path):
    model = q_network()
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(FloatingPointError, match="Its weight .* is not finite"):
        tfpg.DQN(model, **SMALL).fit("CartPole-v1", 1, seed=0, verbose=0, checkpoints=tmp_path)
    assert list(tmp_path.glob("*")) == []


def test_without_checkpoints_no_bundle_is_written(overflowing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = tfpg.Reinforce(
        tfpg.networks.mlp(overflowing, hidden=(4,), seed=0),
        episodes_per_update=4,
        standardize=None,
    )
    with pytest.raises(FloatingPointError, match=r"iteration \d, after [\d,]+ steps;"):
        agent.fit(overflowing, 9, seed=0, verbose=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_line_exits_with_3(tmp_path):
    (tmp_path / "poisoned.py").write_text(
        "import gymnasium\n"
        "from toys import Countdown\n"
        "class Poisoned(Countdown):\n"
        "    def step(self, action):\n"
        "        seen, reward, *rest = super().step(action)\n"
        "        return seen, float('nan'), *rest\n"
        "gymnasium.register('Poisoned-v0', Poisoned)\n"
    )
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tmp_path), str(tests), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tfpg", "train", "reinforce", "poisoned:Poisoned-v0"]
    bundle = tmp_path / "run/checkpoints/non-finite"
    for _ in range(2):  # what is left does not prevent another try
        done = subprocess.run(
            [*command, "--iterations", "2", "--no-video", "--run", str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 3, done.stderr
        assert "tfpg: error: Environment 0 returned a reward of nan in step 0" in done.stderr
        assert f"are in {str(bundle)!r}." in done.stderr
        assert "Traceback" not in done.stderr
        assert {x.name for x in bundle.iterdir()} >= {"model.keras", "about.json"}


def test_episodes_with_non_finite_observations_can_be_dropped():
    from tfpg.envs import open_vec
    from tfpg.rollouts.collector import Collector

    class Sometimes(Overflowing):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            if self.np_random.random() < 0.3:
                observation[0] = np.nan
            return observation, reward, *rest

    Sometimes.episodes = -1000
    with open_vec(Sometimes, num_envs=3, on_env_error="drop") as envs:
        policy = tfpg.Policy(tfpg.networks.mlp(Sometimes, hidden=(4,), seed=0), envs)
        with pytest.warns(UserWarning, match="1 of 4 numbers of its observation are not finite"):
            data = Collector(envs, seed=0).collect_episodes(policy, 9)
    assert np.isfinite(data.observations).all()
    assert data.rewards.shape[1] == 9
