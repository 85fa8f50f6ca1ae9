"""Whatever is put in, what comes out is what happened: every sampled transition tells of itself."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.collector import Collector
from tfpg.distributions.discrete import EpsilonGreedy
from tfpg.envs.make import Parked
from tfpg.heads import EpsilonGreedyHead
from tfpg.replay import ReplayBuffer

GAMMA = 0.5


class Telling(gymnasium.Env):
    """Observes the numbers of its environment, episode and step; pays them.

    Every third episode is truncated, the others terminate. With ``stack`` the observation stacks
    that many frames, of which the missing ones are those of step 0, or zeros.
    """

    def __init__(self, number=0, stack=1, zeros=False, kind="array"):
        self.number, self.stack, self.zeros, self.kind = number, stack, zeros, kind
        shape = (3,) if stack == 1 else (3, 1, stack)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        if kind == "dict":
            self.observation_space = spaces.Dict(
                {"a": self.observation_space, "b": spaces.Discrete(99)}
            )
        self.action_space = spaces.Discrete(4)
        self.episode = -1

    def _observe(self):
        x = np.array([self.number, self.episode % 200, self.t], np.uint8)
        if self.stack > 1:
            ago = np.arange(self.stack - 1, -1, -1)
            times = np.maximum(self.t - ago, 0)
            x = np.repeat(x[:, None, None], self.stack, axis=2)
            x[2, 0] = times
            if self.zeros:
                x[:, 0, ago > self.t] = 0
        return {"a": x, "b": np.int64(self.t)} if self.kind == "dict" else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        self.length = 1 + (7 * self.episode + 3 * self.number) % 6
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.length
        cut = over and self.episode % 3 == 2
        return (
            self._observe(),
            reward(self.number, self.episode % 200, self.t - 1),
            over and not cut,
            cut,
            {},
        )


def reward(number, episode, t):
    return 100.0 * number + episode + t / 10


def length_of(number, episode):
    return 1 + (7 * episode + 3 * number) % 6


class Player:
    """A policy that plays the step's number."""

    head = EpsilonGreedyHead(spaces.Discrete(4))

    def actor(self):
        from tfpg.policy import Decision

        def act(observations, noise):
            x = observations["a"] if isinstance(observations, dict) else observations
            t = x[:, 2] if x.ndim == 2 else x[:, 2, 0, -1]
            actions = (t % 4).astype(np.int64)
            return Decision(actions, actions, np.zeros((len(actions), 4), np.float32))

        return act

    def log_prob(self, outputs, actions):
        return EpsilonGreedy(outputs, 1.0).log_prob(actions)


def collector(mode, count=3, **options):
    makers = [lambda n=n: Telling(n, **options) for n in range(count)]
    if mode is AutoresetMode.DISABLED:
        makers = [lambda m=m: Parked(m()) for m in makers]
    return Collector(SyncVectorEnv(makers, autoreset_mode=mode), seed=0)


def filled(mode, steps, capacity, n_step=1, count=3, prioritized=False, **options):
    player = collector(mode, count, **options)
    replay = ReplayBuffer(
        player.envs.single_observation_space,
        capacity,
        count,
        n_step=n_step,
        gamma=GAMMA,
        frame_stack=options.get("stack"),
        prioritized=prioritized,
    )
    for number in steps:
        replay.add(player.collect_steps(Player(), number))
    return replay, player


def check(replay, transitions, stack=1, zeros=False, cuts=()):
    """Every transition is what the environment's own rule says of its first observation."""
    for i in range(len(transitions.rewards)):
        x, following = transitions.observations[i], transitions.next_observations[i]
        number, episode, t = (x if stack == 1 else x[:, 0, -1]).tolist()
        length = length_of(number, episode)
        steps = min(replay.n_step, length - t)
        for cut in cuts:  # the last step before somebody began anew
            if cut[:2] == (number, episode):
                steps = min(steps, cut[2] - t)
        rewards = [reward(number, episode, t + j) * GAMMA**j for j in range(steps)]
        ends = t + steps == length and episode % 3 != 2
        assert transitions.actions[i] == t % 4
        assert transitions.rewards[i] == pytest.approx(sum(rewards), rel=1e-6)
        assert transitions.discounts[i] == pytest.approx(0 if ends else GAMMA**steps)
        env = Telling(number, stack, zeros)
        for seen, time in ((x, t), (following, t + steps)):
            env.episode, env.t = episode, time
            np.testing.assert_array_equal(seen, env._observe())


MODES = [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
modes = pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)


@modes
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("stack", "zeros"), [(1, False), (4, False), (3, True)])
@pytest.mark.parametrize("prioritized", [False, True])
def test_transitions_are_what_happened(mode, n_step, stack, zeros, prioritized):
    replay, _ = filled(
        mode,
        [1, 1, 7, 2, 12, 1, 1, 5, 12, 12, 12, 12],
        200,
        n_step,
        stack=stack,
        zeros=zeros,
        prioritized=prioritized,
    )
    transitions = replay.sample(np.random.default_rng(0), 600)
    check(replay, transitions, stack, zeros)
    # Nearly every stored step comes up; none from a row that is no step.
    assert len(set(transitions.indices)) > 0.8 * len(replay)
    assert replay._real[transitions.indices].all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=25),
    st.integers(12, 60),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_any_order_of_adding(steps, rows, n_step, stack, mode, prioritized):
    capacity = 2 * (rows + 50)
    replay, _ = filled(mode, steps, capacity, n_step, 2, prioritized, stack=stack)
    assert len(replay) == replay._real.sum()
    assert replay._written.max() < replay.rows or len(replay) <= capacity
    try:
        transitions = replay.sample(np.random.default_rng(1), 64)
    except ValueError:
        assert sum(steps) <= n_step + stack
        return
    check(replay, transitions, stack)
    if prioritized:
        tree = replay.tree
        first, stop = replay._window()
        inside = replay._between(first, stop)
        leaves = tree.get(np.arange(tree.capacity))
        assert tree.total == pytest.approx(leaves.sum())
        assert set(np.flatnonzero(leaves)) == set(inside[replay._real[inside]])
