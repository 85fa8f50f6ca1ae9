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
    from tfpg import callbacks, networks, presets, schedules
    from tfpg.agents.a2c import A2C
    from tfpg.agents.actor_critic import ActorCritic
    from tfpg.agents.agent import Agent
    from tfpg.agents.dqn import DQN
    from tfpg.agents.ppo import PPO
    from tfpg.agents.reinforce import Reinforce
    from tfpg.checking import check_env
    from tfpg.checkpoint import load_model, save_model
    from tfpg.errors import EnvError, EnvWorkerDied
    from tfpg.evaluation import evaluate
    from tfpg.policy import Policy
    from tfpg.rendering.episode import frames, record
    from tfpg.rendering.notebook import show
    from tfpg.resuming import Checkpoints

__version__ = "0.1.0"

# Importing TensorFlow takes seconds, so every name is imported when it is first used.
_HOME = {
    "A2C": "tfpg.agents.a2c",
    "ActorCritic": "tfpg.agents.actor_critic",
    "Agent": "tfpg.agents.agent",
    "Checkpoints": "tfpg.resuming",
    "DQN": "tfpg.agents.dqn",
    "EnvError": "tfpg.errors",
    "EnvWorkerDied": "tfpg.errors",
    "PPO": "tfpg.agents.ppo",
    "Policy": "tfpg.policy",
    "Reinforce": "tfpg.agents.reinforce",
    "callbacks": "tfpg.callbacks",
    "check_env": "tfpg.checking",
    "evaluate": "tfpg.evaluation",
    "frames": "tfpg.rendering.episode",
    "load_model": "tfpg.checkpoint",
    "networks": "tfpg.networks",
    "presets": "tfpg.presets",
    "record": "tfpg.rendering.episode",
    "save_model": "tfpg.checkpoint",
    "schedules": "tfpg.schedules",
    "show": "tfpg.rendering.notebook",
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
    value = module if _HOME[name] == f"tfpg.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
