"""Environments: from ids, Gymnasium environments and callables to what tfpg steps."""

from tfpg.envs.make import (
    EnvLike,
    has_own_vectorization,
    is_atari,
    make,
    make_vec,
    open_env,
    open_vec,
    render_modes,
    reward_threshold,
    same_env,
    spaces_of,
)

__all__ = [
    "EnvLike",
    "has_own_vectorization",
    "is_atari",
    "make",
    "make_vec",
    "open_env",
    "open_vec",
    "render_modes",
    "reward_threshold",
    "same_env",
    "spaces_of",
]
