"""Streaming keeps no step: resident memory does not grow with the length of an episode."""

import subprocess
import sys

import pytest

PROGRAM = """
import gymnasium, keras, numpy as np, psutil, sys
from gymnasium import spaces
import tfpg

class Long(gymnasium.Env):
    observation_space = spaces.Box(-9, 9, (64,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.length = 1_000

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=64).astype("float32"), {}

    def step(self, action):
        self.t += 1
        observation = self.np_random.normal(size=64).astype("float32")
        return observation, float(action), self.t == self.length, False, {}

env = Long()
model = tfpg.networks.actor_critic(env, seed=0)
agent = tfpg.Reinforce(
    model, gradient="streaming", baseline="value", episodes_per_update=1, max_steps=10**9
)
process = psutil.Process()
for length in (1_000, int(sys.argv[1])):
    env.length = length
    history = agent.fit(env, 1, seed=0, verbose=0).history
    assert history["episode_length"] == [length]
    print(process.memory_info().rss)
"""


@pytest.mark.slow
def test_streaming_memory_is_flat_between_a_thousand_and_a_hundred_thousand_steps():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "100000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    short, long = map(int, done.stdout.split())
    # The observations of 100,000 steps alone are 25 MB.
    assert long - short < 8_000_000
