"""Where the time of an iteration goes, for ``tfpg bench``."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from tfpg.envs import EnvLike, open_vec
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.loop import only_step

_ROUNDS = 5


class Timing(NamedTuple):
    """The time of an iteration and of its parts, in seconds.

    Each part is measured in a separate loop, where it runs slightly faster than in training.
    ``callbacks and logs`` is the remaining time.
    """

    steps: float  # environment steps
    whole: float
    parts: dict[str, float]

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.whole


def measure(agent: Any, env: EnvLike, seconds: float = 5.0) -> Timing:
    """Train an agent for a few seconds, and return the time of an iteration and of its parts.

    Args:
        agent: The agent. The measurement trains it.
        env: The environment.
        seconds: Approximate measuring time, not including compilation.

    Example:
        >>> import tfpg
        >>> agent = tfpg.A2C(tfpg.networks.actor_critic("CartPole-v1", hidden=(8,)))
        >>> list(measure(agent, "CartPole-v1", 0.1).parts)
        ['environment', 'acting', 'rest of playing', 'update', 'callbacks and logs']
    """
    agent.fit(env, 2, seed=0, verbose=0)  # compiles
    start = _seconds(lambda: agent.fit(env, 1, seed=0, verbose=0))
    compiled = agent.compiled_iterations
    count = max(2, int(seconds / 4 / _ROUNDS / start), compiled.most if compiled else 0)
    before = agent.env_steps
    several = _seconds(lambda: agent.fit(env, 1 + count, seed=0, verbose=0))
    whole = max(several - start, 1e-9) / count  # without one-time costs
    steps = (agent.env_steps - before) / (1 + count) / _ROUNDS
    if compiled is not None:
        return Timing(steps, whole, {"one compiled call": whole})
    with open_vec(env, agent.num_envs, manual_resets=agent.manual_resets) as envs:
        policy = agent.policy_for(envs)
        collector = Collector(envs, 1, window=agent.window)
        agent.begin(collector, policy)
        agent.warm_up(collector, policy)
        data = agent.collect(collector, policy)
        agent.update(data)
        rounds = steps / data.mask.sum()  # of playing and learning, in an iteration
        times = int(max(1, count * rounds))
        play = _seconds(lambda: _repeat(lambda: agent.collect(collector, policy), times)) / times
        update = _seconds(lambda: _repeat(lambda: agent.update(data), times)) / times
        observations, _ = envs.reset(seed=0)
        act = policy.actor().for_envs(envs.num_envs)
        noise = policy.head.noise(np.random.default_rng(0), envs.num_envs)
        length = len(data.mask)
        decision = act(observations, noise)
        acting = _seconds(lambda: _repeat(lambda: act(observations, noise), length))
        stepping = _seconds(lambda: only_step(envs, decision.env_actions[None], length))
    parts = {
        "environment": rounds * stepping,
        "acting": rounds * acting,
        "rest of playing": rounds * max(play - stepping - acting, 0.0),
        "update": rounds * update,
    }
    parts["callbacks and logs"] = max(whole - sum(parts.values()), 0.0)
    return Timing(steps, whole, parts)


def _repeat(function: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        function()


def _seconds(function: Callable[[], Any]) -> float:
    """The median time of a few calls."""
    found = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return median(found)
