"""An environment with nothing but its spaces, which is all that a policy asks for."""

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)


def stub_env(action_space, observation_space=OBSERVATIONS):
    env = gymnasium.Env()
    env.observation_space, env.action_space = observation_space, action_space
    return env
