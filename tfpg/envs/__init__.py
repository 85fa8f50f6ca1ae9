"""Environments: made from ids and callables, vectorized, and run in worker processes."""

from tfpg.envs.make import (
    EnvLike,
    Spaces,
    check_separate,
    has_own_vectorization,
    is_atari,
    join_env_id,
    make,
    make_vec,
    open_env,
    open_vec,
    parse_value,
    render_modes,
    reward_threshold,
    same_env,
    spaces_of,
    split_env_id,
)

__all__ = [
    "EnvLike",
    "Spaces",
    "check_separate",
    "has_own_vectorization",
    "is_atari",
    "join_env_id",
    "make",
    "make_vec",
    "open_env",
    "open_vec",
    "parse_value",
    "render_modes",
    "reward_threshold",
    "same_env",
    "spaces_of",
    "split_env_id",
]
