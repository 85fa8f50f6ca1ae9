"""A check of the arguments of `Agent.fit`."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv


def check_apart(envs: Any, validation_envs: Any) -> None:
    """Raises where a policy would be measured in the environment object that it is trained in.

    Raises:
        ValueError: They are the same.

    Example:
        >>> check_apart("CartPole-v1", "CartPole-v1")
    """
    one, other = (getattr(e, "unwrapped", e) for e in (envs, validation_envs))
    if one is other and isinstance(one, (gymnasium.Env, VectorEnv)):
        raise ValueError(
            "validation_envs is the environment that is trained in, whose episodes measuring would "
            "break off: give another, an id or a callable."
        )
