"""The settings of the presets, each with its measured score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfpg.schedules import linear

_ADAM = {"epsilon": 1e-5, "global_clipnorm": 0.5}
_Q_ADAM = {"global_clipnorm": 10.0}


class Score(NamedTuple):
    """The measured score of a preset."""

    mean: float  #: the interquartile mean
    low: float  #: lower end of its 95% bootstrap interval
    high: float  #: upper end


class Preset(NamedTuple):
    """The settings of an algorithm for an environment."""

    env_steps: int  #: the budget
    learning_rate: float  #: of Adam
    options: Mapping[str, Any] = {}  #: of the agent
    network: Mapping[str, Any] = {}  #: arguments of the architecture
    architecture: str | None = None  #: a name in tfpg.networks. None for mlp or actor_critic
    critic: Mapping[str, Any] | None = None  #: of tfpg.networks.critic, or twin_critic for SAC
    critic_learning_rate: float | None = None  #: of Adam, for the critic
    adam: Mapping[str, Any] = {}  #: other arguments of Adam
    anneal: bool = False  #: decay the learning rate to 0 over the budget, linearly
    episodes: int | None = None  #: a budget of episodes instead, for REINFORCE
    score: Score | None = None  #: of ten seeds, or five if a seed takes more than five minutes


PRESETS: dict[tuple[str, str], Preset] = {
    ("reinforce", "CartPole-v1"): Preset(
        env_steps=200_000,
        learning_rate=0.01,
        network={"hidden": (64, 64)},
        options={"episodes_per_update": 16, "entropy_coef": 0.0, "baseline": None},
        score=Score(500.0, 500.0, 500.0),
    ),
    ("reinforce", "Acrobot-v1"): Preset(
        env_steps=1_000_000,
        learning_rate=0.005,
        network={"hidden": (64, 64)},
        critic={"hidden": (64, 64)},
        critic_learning_rate=0.005,
        options={
            "episodes_per_update": 32,
            "entropy_coef": 0.01,
            "baseline": "value",
            "gae_lambda": 0.97,
            "value_updates": 20,
        },
        score=Score(-80.5, -83.7, -77.8),
    ),
    ("reinforce", "LunarLander-v3"): Preset(
        env_steps=3_200_000,
        episodes=3200,
        learning_rate=0.005,
        network={"hidden": (64, 64)},
        critic={"hidden": (64, 64)},
        critic_learning_rate=0.005,
        options={
            "episodes_per_update": 16,
            "entropy_coef": 0.0,
            "baseline": "value",
            "gae_lambda": 0.97,
            "value_updates": 40,
            "gamma": 0.995,
            "max_steps": 1000,
        },
        score=Score(252.6, 226.3, 258.7),
    ),
    ("a2c", "CartPole-v1"): Preset(
        env_steps=500_000,
        learning_rate=3e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": False},
        options={
            "reward_scale": 1.0,
            "entropy_coef": 0.0,
            "num_envs": 8,
            "num_steps": 16,
            "gae_lambda": 0.95,
            "standardize": "batch",
        },
        score=Score(500.0, 492.0, 500.0),
    ),
    ("ppo", "CartPole-v1"): Preset(
        env_steps=100_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": False},
        options={
            "reward_scale": 1.0,
            "entropy_coef": 0.0,
            "num_envs": 8,
            "num_steps": 32,
            "epochs": 20,
            "minibatches": 1,
            "gamma": 0.98,
            "gae_lambda": 0.8,
        },
        score=Score(500.0, 500.0, 500.0),
    ),
    ("ppo", "Acrobot-v1"): Preset(
        env_steps=1_000_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": True},
        options={
            "reward_scale": 1.0,
            "entropy_coef": 0.0,
            "num_envs": 16,
            "num_steps": 256,
            "epochs": 10,
            "minibatches": 16,
            "gae_lambda": 0.94,
            "gamma": 0.99,
        },
        score=Score(-67.2, -69.0, -65.9),
    ),
    ("ppo", "LunarLander-v3"): Preset(
        env_steps=1_000_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": False},
        options={
            "num_envs": 16,
            "num_steps": 256,
            "epochs": 8,
            "minibatches": 16,
            "gamma": 0.999,
            "gae_lambda": 0.98,
            "entropy_coef": 0.01,
            "reward_scale": "auto",
        },
        score=Score(276.8, 274.0, 278.2),
    ),
    ("ppo", "Pendulum-v1"): Preset(
        env_steps=300_000,
        learning_rate=1e-3,
        adam=_ADAM,
        anneal=True,
        network={"normalize": False},
        options={
            "entropy_coef": 0.0,
            "num_envs": 16,
            "num_steps": 128,
            "epochs": 10,
            "minibatches": 16,
            "gamma": 0.95,
            "gae_lambda": 0.95,
            "reward_scale": "auto",
        },
        score=Score(-154.8, -159.8, -144.2),
    ),
    ("ppo", "MountainCarContinuous-v0"): Preset(
        env_steps=100_000,
        learning_rate=3e-4,
        adam=_ADAM,
        network={"normalize": True, "log_std": 1.0},
        options={
            "entropy_coef": 0.0,
            "num_envs": 8,
            "num_steps": 256,
            "epochs": 10,
            "minibatches": 8,
            "gamma": 0.9999,
            "gae_lambda": 0.9,
            "reward_scale": "auto",
        },
        score=Score(92.8, 92.6, 92.9),
    ),
    ("dqn", "CartPole-v1"): Preset(
        env_steps=50_000,
        learning_rate=2e-3,
        adam=_Q_ADAM,
        anneal=True,
        network={"hidden": (128, 128)},
        architecture="dueling",
        options={
            "batch_size": 128,
            "n_step": 10,
            "learn_period": 64,
            "updates_per_learn": 32,
            "tau": 0.01,
            "epsilon": linear(1.0, 0.02, 8000),
            "learning_starts": 1000,
            "steps_per_iteration": 1024,
        },
        score=Score(500.0, 494.8, 500.0),
    ),
    ("dqn", "Acrobot-v1"): Preset(
        env_steps=100_000,
        learning_rate=1e-3,
        adam=_Q_ADAM,
        anneal=True,
        network={"hidden": (128, 128)},
        architecture="dueling",
        options={
            "batch_size": 128,
            "n_step": 1,
            "learn_period": 16,
            "updates_per_learn": 16,
            "tau": 0.01,
            "epsilon": linear(1.0, 0.01, 8000),
            "explore_steps": 4,
            "learning_starts": 1000,
            "steps_per_iteration": 2048,
            "window": 200,
        },
        score=Score(-72.6, -74.4, -70.8),
    ),
    ("dqn", "MountainCar-v0"): Preset(
        env_steps=120_000,
        learning_rate=1e-3,
        adam=_Q_ADAM,
        anneal=True,
        network={"hidden": (128, 128), "activation": "relu", "normalize": True},
        architecture="mlp",
        options={
            "batch_size": 128,
            "n_step": 10,
            "learn_period": 16,
            "updates_per_learn": 8,
            "target_update_period": 200,
            "epsilon": linear(1.0, 0.02, 15_000),
            "explore_steps": 24,
            "learning_starts": 5000,
            "steps_per_iteration": 2048,
            "window": 100,
        },
        score=Score(-100.8, -103.1, -99.6),
    ),
    ("dqn", "LunarLander-v3"): Preset(
        env_steps=300_000,
        learning_rate=7e-4,
        adam=_Q_ADAM,
        anneal=True,
        network={"hidden": (256, 256)},
        architecture="dueling",
        options={
            "capacity": 300_000,
            "batch_size": 128,
            "n_step": 3,
            "prioritized": True,
            "learn_period": 32,
            "updates_per_learn": 16,
            "tau": 0.01,
            "epsilon": linear(1.0, 0.02, 30_000),
            "explore_steps": 12,
            "learning_starts": 2000,
            "steps_per_iteration": 16_384,
        },
        score=Score(259.0, 233.1, 267.4),
    ),
    ("pqn", "CartPole-v1"): Preset(
        env_steps=100_000,
        learning_rate=1e-3,
        adam=_Q_ADAM,
        anneal=True,
        network={"hidden": (128, 128), "activation": "relu", "layer_norm": True},
        options={
            "num_envs": 8,
            "num_steps": 32,
            "epochs": 2,
            "minibatches": 8,
            "q_lambda": 0.95,
            "epsilon": linear(1.0, 0.05, 30_000),
        },
        score=Score(500.0, 500.0, 500.0),
    ),
}

_MUJOCO = Preset(
    env_steps=1_000_000,
    learning_rate=3e-4,
    adam=_ADAM,
    anneal=True,
    options={
        "num_envs": 32,
        "num_steps": 64,
        "epochs": 10,
        "minibatches": 32,
        "entropy_coef": 0.0,
        "squash": True,
    },
)

_SAC = Preset(
    env_steps=300_000,
    learning_rate=3e-4,
    network={"hidden": (256, 256), "activation": "relu", "log_std": None},
    critic={"hidden": (256, 256)},
)
_SMALL_SAC = _SAC._replace(
    network={**_SAC.network, "hidden": (64, 64)}, critic={"hidden": (64, 64)}
)
_SAC_MUJOCO: dict[str, Any] = {"batch_size": 128, "capacity": 300_000}
_PQN = PRESETS["pqn", "CartPole-v1"]

PRESETS |= {
    ("ppo", "HalfCheetah-v5"): _MUJOCO._replace(
        options={**_MUJOCO.options, "gamma": 0.98}, score=Score(4205.0, 3412.9, 4576.5)
    ),
    ("ppo", "Hopper-v5"): _MUJOCO._replace(score=Score(2761.6, 2070.4, 3325.3)),
    ("ppo", "Walker2d-v5"): _MUJOCO._replace(score=Score(4077.7, 3205.8, 4537.0)),
    ("ppo", "InvertedPendulum-v5"): _MUJOCO._replace(
        options={**_MUJOCO.options, "squash": False}, score=Score(1000.0, 996.8, 1000.0)
    ),
    ("ppo", "Ant-v5"): _MUJOCO._replace(
        network={"log_std": -1.0},
        options={**_MUJOCO.options, "squash": False},
        score=Score(1657.4, 1230.7, 2212.2),
    ),
    ("pqn", "LunarLander-v3"): _PQN._replace(
        env_steps=1_000_000,
        options={
            **_PQN.options,
            "num_envs": 16,
            "num_steps": 64,
            "epsilon": linear(1.0, 0.05, 300_000),
        },
        score=Score(241.6, 226.0, 254.5),
    ),
    ("sac", "Pendulum-v1"): _SMALL_SAC._replace(
        env_steps=20_000, score=Score(-142.5, -147.2, -134.3)
    ),
    ("sac", "MountainCarContinuous-v0"): _SMALL_SAC._replace(
        env_steps=30_000,
        options={"explore_steps": 32, "gamma": 0.999, "window": 100},
        score=Score(94.1, 93.8, 94.4),
    ),
    ("sac", "InvertedPendulum-v5"): _SMALL_SAC._replace(
        env_steps=50_000, options={"window": 10}, score=Score(1000.0, 998.8, 1000.0)
    ),
    ("sac", "HalfCheetah-v5"): _SAC._replace(
        learning_rate=1e-3, options=_SAC_MUJOCO, score=Score(7741.7, 6433.6, 8920.0)
    ),
    ("sac", "Hopper-v5"): _SAC._replace(options=_SAC_MUJOCO, score=Score(2917.0, 1845.7, 3394.4)),
}

_RETURNS = {  # the ranges of discounted returns
    "CartPole-v1": (0.0, 100.0),
    "Acrobot-v1": (-100.0, 0.0),
    "LunarLander-v3": (-300.0, 300.0),
}


def _like_dqn(
    algorithm: str,
    env: str,
    score: Score,
    network: Mapping[str, Any] = {},
    options: Mapping[str, Any] = {},
    learning_rate: float | None = None,
) -> Preset:
    """DQN's settings for an environment, for an algorithm with distributions of returns."""
    preset = PRESETS["dqn", env]
    own_network: dict[str, Any] = {"atoms": 11 if algorithm == "qrdqn" else 51}
    own_options: dict[str, Any] = {}
    if algorithm != "qrdqn":
        own_options["v_min"], own_options["v_max"] = _RETURNS[env]
    if algorithm == "rainbow":
        own_network["noisy"] = True
        n_step = max(3, preset.options["n_step"])
        own_options |= {"epsilon": 0.0, "prioritized": True, "n_step": n_step}
    return preset._replace(
        learning_rate=learning_rate or preset.learning_rate,
        network={**preset.network, **own_network, **network},
        options={**preset.options, **own_options, **options},
        score=score,
    )


_NORMALIZED = {"hidden": (128, 128), "layer_norm": True}
_LIKE_DQN: dict[tuple[str, str], tuple] = {
    ("c51", "CartPole-v1"): (Score(500.0, 494.1, 500.0),),
    ("c51", "Acrobot-v1"): (Score(-64.3, -65.6, -63.4), {"layer_norm": True}),
    ("c51", "LunarLander-v3"): (
        Score(255.8, 211.2, 268.5),
        _NORMALIZED,
        {"priority_beta": linear(0.4, 1.0, 300_000)},
    ),
    ("qrdqn", "CartPole-v1"): (Score(500.0, 497.6, 500.0),),
    ("qrdqn", "Acrobot-v1"): (Score(-66.6, -68.7, -65.2), {"layer_norm": True}),
    ("qrdqn", "LunarLander-v3"): (
        Score(259.1, 252.3, 263.9),
        {**_NORMALIZED, "atoms": 25},
        {"prioritized": False},
        3e-4,
    ),
    ("rainbow", "CartPole-v1"): (
        Score(499.4, 494.3, 500.0),
        {"layer_norm": True},
        {"priority_beta": linear(0.4, 1.0, 50_000)},
    ),
    ("rainbow", "Acrobot-v1"): (
        Score(-67.3, -68.6, -65.9),
        {"layer_norm": True},
        {"priority_beta": linear(0.4, 1.0, 100_000)},
    ),
    ("rainbow", "LunarLander-v3"): (Score(261.1, 234.1, 268.1), {"hidden": (128, 128)}),
}
PRESETS |= {task: _like_dqn(*task, *rest) for task, rest in _LIKE_DQN.items()}

_DQN = Preset(env_steps=200_000, learning_rate=5e-4, adam=_Q_ADAM, architecture="dueling")
_ATOMS = {"atoms": 51}
_RAINBOW = {"atoms": 51, "noisy": True}

# For environments without a measured preset: the defaults of the agents and their optimizers.
DEFAULTS: dict[str, Preset] = {
    "reinforce": Preset(env_steps=1_000_000, learning_rate=0.01),
    "a2c": Preset(env_steps=1_000_000, learning_rate=1e-3, adam=_ADAM),
    "ppo": Preset(env_steps=1_000_000, learning_rate=1e-3, adam=_ADAM),
    "dqn": _DQN,
    "c51": _DQN._replace(network=_ATOMS),
    "qrdqn": _DQN._replace(network=_ATOMS),
    "rainbow": _DQN._replace(network=_RAINBOW),
    "pqn": Preset(
        env_steps=1_000_000,
        learning_rate=5e-4,
        adam=_Q_ADAM,
        network={"activation": "relu", "layer_norm": True},
    ),
    "sac": _SAC,
}

_ATARI_DQN = Preset(
    env_steps=2_500_000,  # ten million frames
    learning_rate=1e-4,
    adam={**_Q_ADAM, "epsilon": 1.5e-4},
    architecture="nature_cnn",
    options={
        "capacity": 1_000_000,
        "batch_size": 32,
        "n_step": 1,
        "learn_period": 32,
        "updates_per_learn": 8,
        "target_update_period": 2000,
        "epsilon": linear(1.0, 0.01, 250_000),
        "learning_starts": 20_000,
        "reward_clip": 1.0,
        "end_on_life_loss": True,
        "steps_per_iteration": 4096,
    },
)

# For Atari games without a measured preset: close to the settings of the papers.
ATARI: dict[str, Preset] = {
    "ppo": Preset(
        env_steps=2_500_000,  # ten million frames
        learning_rate=2.5e-4,
        adam=_ADAM,
        anneal=True,
        network={"hidden": (), "activation": "relu", "shared": True, "normalize": False},
        options={"num_envs": 8, "epochs": 4, "minibatches": 4, "clip_ratio": 0.1},
    ),
    "dqn": _ATARI_DQN,
    "c51": _ATARI_DQN._replace(network=_ATOMS),
    "qrdqn": _ATARI_DQN._replace(network=_ATOMS),
    "rainbow": _ATARI_DQN._replace(
        network={**_RAINBOW, "dueling": True},
        options={**_ATARI_DQN.options, "n_step": 3, "epsilon": 0.0},
    ),
}
