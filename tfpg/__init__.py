"""tfpg: deep reinforcement learning for Keras that you can read, trust and film.

Example:
    >>> import tfpg
    >>> model = tfpg.networks.mlp("CartPole-v1", hidden=(20, 10), activation="elu")
    >>> history = tfpg.Reinforce(model, gamma=0.95).fit("CartPole-v1", iterations=2, verbose=0)
    >>> sorted(history.history)
    ['entropy', 'env_steps', 'episode_length', 'episode_return', 'grad_norm', 'loss', 'policy_loss']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfpg.core.backend import lazy_names

if TYPE_CHECKING:
    from tfpg import callbacks, schedules
    from tfpg.agents import presets
    from tfpg.agents.a2c import A2C
    from tfpg.agents.agent import Agent
    from tfpg.agents.c51 import C51
    from tfpg.agents.dqn import DQN
    from tfpg.agents.policy_gradient import ActorCritic
    from tfpg.agents.ppo import PPO
    from tfpg.agents.pqn import PQN
    from tfpg.agents.qrdqn import QRDQN
    from tfpg.agents.rainbow import Rainbow
    from tfpg.agents.reinforce import Reinforce
    from tfpg.agents.sac import SAC
    from tfpg.checkpoints.manager import Checkpoints
    from tfpg.checks.env_checks import check_env
    from tfpg.errors import EnvError, EnvWorkerDied
    from tfpg.models import networks
    from tfpg.models.policy import Policy
    from tfpg.models.saving import load_model, save_model
    from tfpg.results.comparison import compare
    from tfpg.results.learning_curves import plot
    from tfpg.rollouts.evaluation import evaluate
    from tfpg.rollouts.ray_workers import RayWorkers
    from tfpg.sharing.export import export
    from tfpg.sharing.loading import load_agent
    from tfpg.sharing.run_report import report
    from tfpg.video.notebook import show
    from tfpg.video.record import frames, record

__version__ = "0.1.0"

__all__ = [
    "A2C",
    "ActorCritic",
    "Agent",
    "C51",
    "Checkpoints",
    "DQN",
    "EnvError",
    "EnvWorkerDied",
    "PPO",
    "PQN",
    "Policy",
    "QRDQN",
    "Rainbow",
    "RayWorkers",
    "Reinforce",
    "SAC",
    "callbacks",
    "check_env",
    "compare",
    "evaluate",
    "export",
    "frames",
    "load_agent",
    "load_model",
    "networks",
    "plot",
    "presets",
    "record",
    "report",
    "save_model",
    "schedules",
    "show",
    "__version__",
]


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "A2C": "tfpg.agents.a2c:A2C",
        "ActorCritic": "tfpg.agents.policy_gradient:ActorCritic",
        "Agent": "tfpg.agents.agent:Agent",
        "C51": "tfpg.agents.c51:C51",
        "Checkpoints": "tfpg.checkpoints.manager:Checkpoints",
        "DQN": "tfpg.agents.dqn:DQN",
        "EnvError": "tfpg.errors:EnvError",
        "EnvWorkerDied": "tfpg.errors:EnvWorkerDied",
        "PPO": "tfpg.agents.ppo:PPO",
        "PQN": "tfpg.agents.pqn:PQN",
        "Policy": "tfpg.models.policy:Policy",
        "QRDQN": "tfpg.agents.qrdqn:QRDQN",
        "Rainbow": "tfpg.agents.rainbow:Rainbow",
        "RayWorkers": "tfpg.rollouts.ray_workers:RayWorkers",
        "Reinforce": "tfpg.agents.reinforce:Reinforce",
        "SAC": "tfpg.agents.sac:SAC",
        "callbacks": "tfpg.callbacks",
        "check_env": "tfpg.checks.env_checks:check_env",
        "compare": "tfpg.results.comparison:compare",
        "evaluate": "tfpg.rollouts.evaluation:evaluate",
        "export": "tfpg.sharing.export:export",
        "frames": "tfpg.video.record:frames",
        "load_agent": "tfpg.sharing.loading:load_agent",
        "load_model": "tfpg.models.saving:load_model",
        "networks": "tfpg.models.networks",
        "plot": "tfpg.results.learning_curves:plot",
        "presets": "tfpg.agents.presets",
        "record": "tfpg.video.record:record",
        "report": "tfpg.sharing.run_report:report",
        "save_model": "tfpg.models.saving:save_model",
        "schedules": "tfpg.schedules",
        "show": "tfpg.video.notebook:show",
    },
)
