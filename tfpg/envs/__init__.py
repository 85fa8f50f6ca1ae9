"""Environments: made from ids and callables, vectorized, and run in worker processes."""

from tfpg.envs.make import (
    EnvLike,
    check_separate,
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
    "check_separate",
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
