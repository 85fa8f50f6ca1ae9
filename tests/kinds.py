"""Action spaces for every head, and observation spaces of every kind."""

import keras
import numpy as np
from gymnasium import spaces

layers = keras.layers
BOX = spaces.Box(np.array([-1, 0, -5], "float32"), np.array([1, 2, 5], "float32"))
X = np.random.default_rng(0).normal(0, 3, (64, 3)).astype("float32")

INTEGERS = spaces.Box(-2, 2, (2,), np.int64)
SMALL = spaces.Box(-0.1, 0.1, (2, 1), np.float64)
CHOICES = spaces.MultiDiscrete([3, 2, 4], start=[5, -1, 0])

# Action space, outputs, last activation, options, and the shape of an action as it is learned.
# The head is that of the first word of the name.
HEADS = {
    "bernoulli": (spaces.Discrete(2), 1, None, {}, ()),
    "bernoulli sigmoid": (spaces.Discrete(2, start=-1), 1, "sigmoid", {}, ()),
    "bernoulli 0": (spaces.Discrete(2), 1, "sigmoid", {"positive_action": 0}, ()),
    "categorical": (spaces.Discrete(4), 4, "linear", {}, ()),
    "categorical softmax": (spaces.Discrete(4, start=-2), 4, "softmax", {}, ()),
    "categorical int32": (spaces.Discrete(2, dtype=np.int32), 2, None, {}, ()),
    "q-values": (spaces.Discrete(4, start=-2), 4, None, {"epsilon": 0.3}, ()),
    "choices": (CHOICES, 9, None, {}, (3,)),
    "choices 2d": (spaces.MultiDiscrete([[3, 2], [2, 2]]), 9, None, {}, (4,)),
    "bits": (spaces.MultiBinary(3), 3, None, {}, (3,)),
    "bits sigmoid": (spaces.MultiBinary(3), 3, "sigmoid", {}, (3,)),
    "bits 2d": (spaces.MultiBinary([2, 3]), 6, None, {}, (6,)),
    "gaussian": (BOX, 6, None, {}, (3,)),
    "gaussian own log_std": (BOX, 3, None, {"log_std": -0.5}, (3,)),
    "gaussian 2d": (spaces.Box(-1, 1, (2, 2), np.float64), 8, None, {}, (4,)),
    "gaussian float64": (SMALL, 4, None, {}, (2,)),
    "gaussian integers": (INTEGERS, 4, None, {}, (2,)),
    "gaussian squashed": (BOX, 6, None, {"squash": True}, (3,)),
    "gaussian squashed own log_std": (BOX, 3, None, {"squash": True}, (3,)),
    "gaussian squashed 2d": (SMALL, 4, None, {"squash": True}, (2,)),
}
CAMERA = spaces.Box(0, 255, (6, 5, 3), np.uint8)
MIXED = spaces.Dict(
    {
        "speed": spaces.Box(-9, 9, (2,), np.float64),
        "room": spaces.Discrete(4, start=1),
        "keys": spaces.MultiBinary(3),
        "dials": spaces.MultiDiscrete([2, 3]),
        "camera": CAMERA,
    }
)
SPACES = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "box-2d": spaces.Box(-1, 1, (3, 2), np.float64),
    "integers": spaces.Box(-5, 5, (2,), np.int32),
    "camera": CAMERA,
    "discrete": spaces.Discrete(5, start=-2),
    "multi-discrete": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "multi-discrete-2d": spaces.MultiDiscrete([[3, 2], [2, 2]]),
    "multi-binary": spaces.MultiBinary([2, 3]),
    "dict": MIXED,
}


def sample(space, count, seed=0):
    space.seed(seed)
    rows = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]) for key in space}
    return np.stack(rows)


def model_of(outputs, activation=None):
    stack = [keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dense(outputs, activation)]
    return keras.Sequential(stack)
