"""Environments as functions of tensors, which are compiled together with the training::

    agent.fit(tfpg.envs.functional.CartPole(), iterations=100)

The ids ``functional/CartPole``, ``functional/MountainCar``, ``functional/MountainCarContinuous``,
``functional/Pendulum`` and ``functional/Acrobot`` work wherever an id does.
"""

from __future__ import annotations

import gymnasium

from tfpg.core.backend import lazy_names

_ENVS = ("Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum")

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **{name: f"tfpg.envs.functional.classic_control:{name}" for name in _ENVS},
        "single": "tfpg.envs.functional.adapters:single",
        "FuncEnv": "tfpg.envs.functional.func_env:FuncEnv",
        "Random": "tfpg.envs.functional.func_env:Random",
        "FunctionalEnv": "tfpg.envs.functional.adapters:FunctionalEnv",
        "FunctionalVectorEnv": "tfpg.envs.functional.adapters:FunctionalVectorEnv",
    },
)


def _register(name: str, max_episode_steps: int, reward_threshold: float | None) -> None:
    gymnasium.register(
        f"functional/{name}",
        entry_point="tfpg.envs.functional.adapters:FunctionalEnv",
        vector_entry_point="tfpg.envs.functional.adapters:FunctionalVectorEnv",
        max_episode_steps=max_episode_steps,
        reward_threshold=reward_threshold,
        kwargs={"func_env": name},
    )


_register("Acrobot", 500, -100.0)
_register("CartPole", 500, 475.0)
_register("MountainCar", 200, -110.0)
_register("MountainCarContinuous", 999, 90.0)
_register("Pendulum", 200, None)
