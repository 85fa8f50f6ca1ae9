"""Iterations in functional environments: several rollouts and updates in one compiled call."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tfpg.agents.optimization import CompiledUpdate, Layout
from tfpg.core.backend import tf
from tfpg.envs.functional import FunctionalVectorEnv
from tfpg.rollouts.functional_rollout import (
    FunctionalCollector,
    Position,
    begin,
    play,
    shuffled,
)

_STEPS_PER_CALL = 16_384


class CompiledIterations:
    """Runs an agent's iterations, several per call, and returns their logs one at a time.

    Args:
        agent: The agent.
        collector: The environments.

    Attributes:
        num_steps: The maximum number of environment steps per iteration.
        most: The maximum number of iterations per call.
    """

    def __init__(self, agent: Any, collector: FunctionalCollector):
        self._agent, self._env = agent, collector.env
        self._num_envs = collector.envs.num_envs
        self._limit = _limit_of(agent, collector)
        if agent.plays_episodes:
            assert self._limit is not None  # see `plays_in_tensors`
            self._num_steps = self._limit
        else:
            self._num_steps = agent.num_steps
        self.num_steps = self._num_steps * self._num_envs
        self.most = agent.steps_per_execution or max(1, _STEPS_PER_CALL // self.num_steps)
        self._layout = Layout()
        self._call = CompiledUpdate(self._iterate, agent.jit_compile, agent.models)
        self._waiting: deque[dict[str, Any]] = deque()

    @property
    def pending(self) -> int:
        """The number of finished iterations whose logs have not been returned yet."""
        return len(self._waiting)

    def fits(self, collector: FunctionalCollector) -> bool:
        """Whether it was made for the same environments."""
        mine = self._env, self._num_envs, self._limit
        return mine == (collector.env, collector.envs.num_envs, _limit_of(self._agent, collector))

    def forget(self) -> None:
        """Discard logs that an interrupted run has not returned."""
        self._waiting.clear()

    def next_logs(self, collector: FunctionalCollector) -> dict[str, float]:
        """Return the logs of the next iteration, after making more if necessary.

        Raises:
            FloatingPointError: See `RolloutAgent.update`.
        """
        agent = self._agent
        if not self._waiting:
            agent.trainable.follow_learning_rate()
            count = max(1, min(self.most, collector.until - collector.fragment))
            numbers = np.array(collector.fragment, np.int64), np.array(count, np.int32)
            scale = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), agent.return_scale)
            state = collector.position, scale, agent.batches_seen()
            epsilons = agent.exploration(self.most, self.num_steps)
            results, state = self._call(state, collector.seed_tensor, *numbers, epsilons)
            collector.position, agent.return_scale, batches = state
            agent.set_batches_seen(batches)
            rows = results["logs"][: int(results["made"])]
            self._waiting.extend(self._layout.unpacked_row(row) for row in rows)
        logs = self._waiting.popleft()
        collector.fragment += 1
        ended = logs.pop("ended") > 0
        collector.finish(logs.pop("returns")[ended], logs.pop("lengths")[ended].astype(int))
        before = agent.env_steps - collector.steps
        collector.steps += int(logs.pop("steps"))
        agent.env_steps = before + collector.steps
        agent.check_results(logs)
        return {"env_steps": agent.env_steps, **logs, **agent.count_steps(self.num_steps)}

    def _iterate(
        self,
        state: tuple[Position, Any, Any],
        seed: tf.Tensor,
        first: tf.Tensor,
        count: tf.Tensor,
        epsilons: tf.Tensor | None,
    ) -> tuple[dict[str, tf.Tensor], tuple[Position, Any, Any]]:
        """Make ``count`` iterations from number ``first``; stop where a result is not finite."""

        def iterate(k: Any, _: Any, state: tuple[Position, Any, Any], rows: tf.TensorArray) -> Any:
            number = first + tf.cast(k, tf.int64)
            epsilon = None if epsilons is None else epsilons[k]
            logs, state = self._play_and_learn(*state, seed, number, epsilon)
            fine = logs["returns_finite"] & tf.reduce_all(logs["finite"])
            (row,) = self._layout.packed(logs, None)
            return k + 1, fine, state, rows.write(k, row)

        rows = tf.TensorArray(tf.float32, self.most)
        made, _, state, rows = tf.while_loop(
            lambda k, fine, *_: fine & (k < count),
            iterate,
            (tf.constant(0), tf.constant(True), state, rows),
        )
        return {"made": made, "logs": rows.stack()}, state

    def _play_and_learn(
        self,
        position: Position,
        scale: Any,
        batches: Any,
        seed: tf.Tensor,
        number: tf.Tensor,
        epsilon: tf.Tensor | None,
    ) -> tuple[dict[str, tf.Tensor], tuple[Position, Any, Any]]:
        """Make one iteration: a rollout or whole episodes, and the updates."""
        agent, episodes = self._agent, self._agent.plays_episodes
        if episodes:
            position = begin(self._env, self._num_envs, seed, number)
        position, played = play(
            self._env,
            agent.trained_policy,
            position,
            self._num_steps,
            seed,
            number,
            self._limit,
            single_episode=episodes,
            epsilon=epsilon,
        )
        order, data = None, played.data
        if not episodes and agent.minibatches > 1:
            steps = math.prod(data.mask.shape)
            order = shuffled(steps, agent.epochs, agent.minibatches, seed, number)
        scaled, scale = agent.scaled(data, scale)
        logs, batches = agent.learn_in_graph(scaled, order, batches)
        finished = {
            "ended": position.over if episodes else data.terminated | data.truncated,
            "returns": position.returns if episodes else played.returns,
            "lengths": position.lengths if episodes else played.lengths,
            "steps": tf.reduce_sum(data.mask),
        }
        return {**logs, **finished}, (position, scale, batches)


def _limit_of(agent: Any, envs: FunctionalCollector | FunctionalVectorEnv) -> int | None:
    limits = [x for x in (agent.max_steps, envs.max_episode_steps) if x is not None]
    return min(limits, default=None)


def compiled_iterations(agent: Any, collector: Any) -> CompiledIterations | None:
    """Return the iterations of an agent in functional environments; None in other environments.

    They are kept, because compiling them takes seconds.
    """
    if not isinstance(collector, FunctionalCollector):
        return None
    known = agent.compiled_iterations
    if known is None or not known.fits(collector):
        agent.compiled_iterations = CompiledIterations(agent, collector)
    agent.compiled_iterations.forget()
    return agent.compiled_iterations


def plays_in_tensors(agent: Any, envs: VectorEnv) -> bool:
    """Whether an agent's iterations in a vector environment are compiled as a whole.

    A subclass that overrides ``collect``, ``update`` or ``iterate`` uses the host loop.
    """
    if not isinstance(envs, FunctionalVectorEnv) or agent.has_own_loop:
        return False
    if not agent.plays_in_tensors:
        return False
    if not agent.plays_episodes:
        return True
    return envs.num_envs == agent.episodes_per_update and _limit_of(agent, envs) is not None
