"""Measuring a policy: whole episodes, a share for every environment fixed in advance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfpg.core.arrays import batch_size
from tfpg.core.seeding import check_seed, evaluation_rng
from tfpg.envs import EnvLike, open_vec
from tfpg.models.heads import Head
from tfpg.models.policy import Decision, as_policy, is_policy_like
from tfpg.rollouts.finite import check_rewards
from tfpg.rollouts.loop import play

_MOST_ENVS = 32


def evaluate(
    policy: Any,
    env: EnvLike,
    episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Return and length of whole episodes.

    Args:
        policy: A Keras model, an agent, a `Policy`, or any callable that maps observations
            ``[N, ...]`` to actions ``[N, ...]`` as the environment wants them.
        env: An environment id, environment, vector environment or callable making one.
        episodes: How many, at least 1.
        deterministic: Play the most probable action; else sample. Callables do as they like.
        seed: Of the resets and the samples. None: fresh ones.
        max_steps: Where an episode is cut. None: the environment's own limit.

    Returns:
        A dict: ``episode_return`` and ``episode_length`` (means), ``episode_return_std``
        (population), ``episodes``, ``seed``, and the lists ``episode_returns`` and
        ``episode_lengths``, in the order of the episodes.

    Raises:
        ValueError: ``episodes`` or ``max_steps`` is below 1, or the policy does not fit.
        tfpg.errors.EnvDataError: A reward or an observation is not finite.
        FloatingPointError: The model's outputs are not.

    Example:
        >>> import numpy as np
        >>> result = evaluate(lambda x: np.ones(len(x), int), "CartPole-v1", episodes=5, seed=0)
        >>> len(result["episode_returns"]), result["episode_length"] < 20
        (5, True)
    """
    episodes = check_count("episodes", episodes)
    max_steps = None if max_steps is None else check_count("max_steps", max_steps)
    seed = check_seed(seed)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, int)
    with open_vec(env, num_envs=min(episodes, _MOST_ENVS)) as envs:
        act, head = actor_for(policy, envs, deterministic)
        for first in range(0, episodes, envs.num_envs):
            columns = slice(first, min(first + envs.num_envs, episodes))
            count = columns.stop - columns.start
            rngs = [evaluation_rng(seed, first + i) for i in range(envs.num_envs)]
            steps = play(envs, act, rngs, columns=count, max_steps=max_steps, head=head)
            for t, step in enumerate(steps):
                check_rewards(step.rewards, step.running, t)
                returns[columns] += np.where(step.running, step.rewards, 0.0)[:count]
                lengths[columns] += step.running[:count]
    return {
        "episode_return": float(returns.mean()),
        "episode_return_std": float(returns.std()),
        "episode_length": float(lengths.mean()),
        "episodes": episodes,
        "seed": seed,
        "episode_returns": returns.tolist(),
        "episode_lengths": lengths.tolist(),
    }


def check_count(name: str, value: Any) -> int:
    """Returns the value as an int.

    Raises:
        ValueError: It is not an integer of at least 1.

    Example:
        >>> check_count("episodes", 3)
        3
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, and it is {value!r}.")
    return int(value)


def actor_for(policy: Any, env: EnvLike, deterministic: bool) -> tuple[Callable, Head | None]:
    """How a policy acts in ``env``: ``act(observations, noise)``, and the head to draw noise for.

    Args:
        policy: What `evaluate` takes.
        env: What it acts in.
        deterministic: Without noise.

    Returns:
        ``act`` maps observations ``[N, ...]`` and noise to a `Decision`. The head is None where
        no noise is wanted.
    """
    if is_policy_like(policy) or not callable(policy):
        policy = as_policy(policy, env)
        return policy.actor(), None if deterministic else policy.head

    def act(observations: np.ndarray, _: Any) -> Decision:
        actions = np.asarray(policy(observations))
        count = batch_size(observations)
        if actions.ndim < 1 or len(actions) != count:
            raise ValueError(
                f"The callable was given {count} observations, and returned actions of shape "
                f"{actions.shape}: it returns one for each, ({count}, ...)."
            )
        return Decision(actions, actions, actions)

    return act, None
