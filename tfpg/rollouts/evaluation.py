"""Evaluation: whole episodes, with each environment's share fixed in advance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.core.arrays import batch_size
from tfpg.core.options import checked, count
from tfpg.core.seeding import check_seed, evaluation_rng
from tfpg.envs import EnvLike, has_own_vectorization, open_vec
from tfpg.models.heads import Head
from tfpg.models.policy import Actor, Decision, as_policy, is_policy_like
from tfpg.rollouts.finite import check_rewards
from tfpg.rollouts.loop import play_episodes

# Environments that play at once: of a vector environment of their own, or made one by one.
_MAX_ENVS, _MAX_MADE = 32, 8


def evaluate(
    policy: Any,
    env: EnvLike,
    episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Play whole episodes and return their returns and lengths.

    Args:
        policy: A Keras model, an agent, a `Policy`, or any callable that maps observations
            ``[N, ...]`` to actions ``[N, ...]`` as the environment takes them.
        env: An environment id, environment, vector environment or callable that makes one.
        episodes: Number of episodes, at least 1.
        deterministic: Whether to take the most probable action instead of a sample. Ignored for
            callables.
        seed: The seed of the resets and the samples. None: a random seed.
        max_steps: Length at which an episode is truncated. None: the environment's own limit.

    Returns:
        A dict with ``episode_return`` and ``episode_length`` (means), ``episode_return_std``
        (population), ``episodes``, ``seed``, and the lists ``episode_returns`` and
        ``episode_lengths``, in the order of the episodes.

    Raises:
        ValueError: ``episodes`` or ``max_steps`` is below 1, or the policy does not fit.
        tfpg.errors.EnvDataError: A reward or an observation is NaN or infinite.
        FloatingPointError: The model's outputs are NaN or infinite.

    Example:
        >>> import numpy as np
        >>> result = evaluate(lambda x: np.ones(len(x), int), "CartPole-v1", episodes=5, seed=0)
        >>> len(result["episode_returns"]), result["episode_length"] < 20
        (5, True)
    """
    episodes = checked("episodes", episodes, count)
    max_steps = None if max_steps is None else checked("max_steps", max_steps, count)
    seed = check_seed(seed)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    with open_envs(env, episodes) as envs:
        act, head = actor_for(policy, envs, deterministic)
        for first in range(0, episodes, envs.num_envs):
            part = slice(first, min(first + envs.num_envs, episodes))
            wanted = part.stop - part.start
            rngs = [evaluation_rng(seed, first + i) for i in range(envs.num_envs)]
            playing = for_envs(act, envs.num_envs)
            for step in play_episodes(
                envs,
                playing,
                rngs,
                head=head,
                num_episodes=wanted,
                max_steps=max_steps,
                reset=getattr(playing, "reset", None),
            ):
                check_rewards(step.rewards, step.real, step.lengths - 1)
                returns[part] += step.rewards[:wanted]
                lengths[part] += step.real[:wanted]
    return {
        "episode_return": float(returns.mean()),
        "episode_return_std": float(returns.std()),
        "episode_length": float(lengths.mean()),
        "episodes": episodes,
        "seed": seed,
        "episode_returns": returns.tolist(),
        "episode_lengths": lengths.tolist(),
    }


def open_envs(env: EnvLike, episodes: int) -> AbstractContextManager[VectorEnv]:
    """Open as many environments as evaluating so many episodes needs, for a ``with`` statement.

    Example:
        >>> with open_envs("Acrobot-v1", 3) as few, open_envs("Acrobot-v1", 100) as many:
        ...     few.num_envs, many.num_envs
        (3, 8)
    """
    vectorized = isinstance(env, str) and has_own_vectorization(env)
    return open_vec(env, min(episodes, _MAX_ENVS if vectorized else _MAX_MADE))


def for_envs(act: Callable, count: int) -> Callable:
    """Return how a policy acts in ``count`` environments, with states if it is recurrent."""
    return act.for_envs(count) if isinstance(act, Actor) else act


def actor_for(policy: Any, env: EnvLike, deterministic: bool) -> tuple[Callable, Head | None]:
    """Return how a policy acts in ``env``, and the head to draw noise for.

    Args:
        policy: A Keras model, an agent, a `Policy` or a callable; see `evaluate`.
        env: The environment it acts in.
        deterministic: Act without noise.

    Returns:
        ``act(observations [N, ...], noise) -> Decision``, and the head, which is None where no
        noise is needed.
    """
    if is_policy_like(policy) or not callable(policy):
        policy = as_policy(policy, env)
        return policy.actor(), None if deterministic else policy.head

    def act(observations: np.ndarray, _: Any) -> Decision:
        actions = np.asarray(policy(observations))
        size = batch_size(observations)
        if actions.ndim < 1 or len(actions) != size:
            keys = ", ".join(map(repr, observations)) if isinstance(observations, dict) else ""
            raise ValueError(
                f"The callable returned actions of shape {actions.shape} for {size} "
                f"observations{f' (a dict with {keys})' if keys else ''}: it must return one for "
                f"each, ({size}, ...)."
            )
        return Decision(actions, actions, actions)

    return act, None
