"""tfpg: deep reinforcement learning for Keras that you can read, trust and film.

Example:
    >>> import tfpg
    >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(20, 10), activation="elu")
    >>> history = tfpg.Reinforce(model, gamma=0.95).fit("CartPole-v1", iterations=2, verbose=0)
    >>> sorted(history.history)
    ['entropy', 'env_steps', 'episode_length', 'episode_return', 'grad_norm', 'loss', 'policy_loss']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfpg import callbacks, schedules
    from tfpg.agents import presets
    from tfpg.agents.a2c import A2C
    from tfpg.agents.actor_critic import ActorCritic
    from tfpg.agents.agent import Agent
    from tfpg.agents.dqn import DQN
    from tfpg.agents.ppo import PPO
    from tfpg.agents.reinforce import Reinforce
    from tfpg.checkpoints.manager import Checkpoints
    from tfpg.checks.env_checks import check_env
    from tfpg.errors import EnvError, EnvWorkerDied
    from tfpg.models import networks
    from tfpg.models.policy import Policy
    from tfpg.models.saving import load_model, save_model
    from tfpg.rollouts.evaluation import evaluate
    from tfpg.video.notebook import show
    from tfpg.video.record import frames, record

__version__ = "0.1.0"

# Importing TensorFlow takes seconds, so every name is imported when it is first used.
_HOME = {
    "A2C": "tfpg.agents.a2c",
    "ActorCritic": "tfpg.agents.actor_critic",
    "Agent": "tfpg.agents.agent",
    "Checkpoints": "tfpg.checkpoints.manager",
    "DQN": "tfpg.agents.dqn",
    "EnvError": "tfpg.errors",
    "EnvWorkerDied": "tfpg.errors",
    "PPO": "tfpg.agents.ppo",
    "Policy": "tfpg.models.policy",
    "Reinforce": "tfpg.agents.reinforce",
    "callbacks": "tfpg.callbacks",
    "check_env": "tfpg.checks.env_checks",
    "evaluate": "tfpg.rollouts.evaluation",
    "frames": "tfpg.video.record",
    "load_model": "tfpg.models.saving",
    "networks": "tfpg.models.networks",
    "presets": "tfpg.agents.presets",
    "record": "tfpg.video.record",
    "save_model": "tfpg.models.saving",
    "schedules": "tfpg.schedules",
    "show": "tfpg.video.notebook",
}

__all__ = [
    "A2C",
    "ActorCritic",
    "Agent",
    "Checkpoints",
    "DQN",
    "EnvError",
    "EnvWorkerDied",
    "PPO",
    "Policy",
    "Reinforce",
    "callbacks",
    "check_env",
    "evaluate",
    "frames",
    "load_model",
    "networks",
    "presets",
    "record",
    "save_model",
    "schedules",
    "show",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tfpg' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    is_module = name in ("callbacks", "networks", "presets", "schedules")
    value = module if is_module else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
