"""Whatever is put in, what comes out is what happened: every sampled transition tells of itself."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.core.arrays import map_arrays
from tfpg.envs.supervised import SupervisedEnv
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.ops.distributions import EpsilonGreedy
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.trajectory import Trajectory

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
        from tfpg.models.policy import Decision

        def act(observations, noise):
            x = observations["a"] if isinstance(observations, dict) else observations
            t = x[:, 2] if x.ndim == 2 else x[:, 2, 0, -1]
            actions = (t % 4).astype(np.int64)
            return Decision(actions, actions, np.zeros((len(actions), 4), np.float32))

        return act

    def distribution_of(self, outputs):
        return EpsilonGreedy(outputs, 1.0)


def collector(mode, count=3, **options):
    makers = [lambda n=n: Telling(n, **options) for n in range(count)]
    if mode is AutoresetMode.DISABLED:
        makers = [lambda m=m: SupervisedEnv(m()) for m in makers]
    return Collector(SyncVectorEnv(makers, autoreset_mode=mode), seed=0)


def filled(mode, steps, capacity, n_step=1, count=3, prioritized=False, device=None, **options):
    player = collector(mode, count, **options)
    replay = ReplayBuffer(
        player.envs.single_observation_space,
        capacity,
        count,
        n_step=n_step,
        gamma=GAMMA,
        frame_stack=None if options.get("kind") == "dict" else options.get("stack"),
        prioritized=prioritized,
        device=device,
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


def test_a_cut_episode_is_bootstrapped_from_where_it_was_left():
    replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, n_step=3, gamma=GAMMA)
    replay.add(fragment([0, 1, 2]))
    replay.cut()
    replay.add(fragment([50, 51, 52, 53, 54]))
    transitions = replay.sample(np.random.default_rng(0), 200)
    found = {
        int(x): (float(r), float(d), int(y))
        for x, r, d, y in zip(
            transitions.observations[:, 0],
            transitions.rewards,
            transitions.discounts,
            transitions.next_observations[:, 0],
            strict=True,
        )
    }
    assert found == {
        0: (1.5, 0.25, 2),
        1: (1.0, 0.5, 2),
        50: (1.75, 0.125, 53),
        51: (1.75, 0.125, 54),
    }


def fragment(observations):
    """Steps of one environment between observations, each paid 1."""
    steps = len(observations) - 1
    return Trajectory(
        np.array(observations, np.float32).reshape(-1, 1, 1),
        np.zeros((steps, 1), int),
        np.ones((steps, 1)),
        *np.zeros((2, steps, 1), bool),
        np.ones((steps, 1)),
        np.zeros((steps, 1)),
    )


def test_a_lost_life_ends_what_is_learned_and_not_the_episode():
    data = fragment(range(6))
    data.terminated[2] = True
    replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, n_step=2, gamma=GAMMA)
    replay.add(data)
    transitions = replay.sample(np.random.default_rng(0), 100)
    found = dict(
        zip(transitions.observations[:, 0].tolist(), transitions.discounts.tolist(), strict=True)
    )
    assert found == {0: 0.25, 1: 0.0, 2: 0.0, 3: 0.25}


class TestSampling:
    def test_uniform_over_the_steps(self):
        replay, _ = filled(AutoresetMode.DISABLED, [10] * 4, 90)
        first, stop = replay._window()
        rows = replay._between(first, stop)
        rows = rows[replay._real[rows]]
        drawn = replay.sample(np.random.default_rng(3), 100_000).indices
        counts = np.bincount(drawn, minlength=90)[rows]
        assert counts.sum() == 100_000
        expected = 100_000 / len(rows)
        assert ((counts - expected) ** 2 / expected).sum() < len(rows) + 5 * np.sqrt(2 * len(rows))

    def test_prioritized_in_proportion_and_weighted_back(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, prioritized=True, alpha=0.5)
        replay.add(fragment(range(5)))
        rows = np.arange(4)
        replay.update_priorities(rows, np.array([1.0, -4.0, 9.0, 0.0]))
        transitions = replay.sample(np.random.default_rng(0), 60_000, 60_000, beta=1.0)
        frequencies = np.bincount(transitions.indices, minlength=4) / 60_000
        np.testing.assert_allclose(frequencies, np.array([1, 2, 3, 1e-3]) / 6.001, atol=0.005)
        # The mean of anything, weighted, is that of a uniform draw, but for one factor.
        weighted = np.bincount(transitions.indices, transitions.weights, minlength=4)
        np.testing.assert_allclose(weighted[:3] / weighted[0], 1, rtol=0.02)
        assert transitions.weights.max() == 1

    def test_the_largest_weight_of_every_batch_is_one(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, prioritized=True)
        replay.add(fragment(range(9)))
        replay.update_priorities(np.arange(8), np.arange(8.0))
        weights = replay.sample(np.random.default_rng(0), 30, 5, beta=0.5).weights
        np.testing.assert_array_equal(weights.reshape(6, 5).max(axis=1), 1)

    def test_new_steps_get_the_highest_priority_that_was_met(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, prioritized=True, alpha=1.0)
        replay.add(fragment([0, 1, 2]))
        np.testing.assert_allclose(replay.tree.get(np.arange(3)), [1, 1, 0])
        replay.update_priorities(np.array([0]), np.array([-7.0]))
        replay.add(fragment([2, 3]))
        np.testing.assert_allclose(replay.tree.get(np.arange(3)), [7, 1, 7], rtol=1e-6)

    def test_equal_seeds_draw_equally(self):
        replay, _ = filled(AutoresetMode.NEXT_STEP, [10] * 3, 90)
        one, same, other = (
            replay.sample(np.random.default_rng(seed), 40).indices for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()

    def test_a_batch_is_drawn_from_all_parts_of_the_priorities(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 40, 1, prioritized=True)
        replay.add(fragment(range(17)))
        drawn = replay.sample(np.random.default_rng(0), 32, 16).indices
        for batch in drawn.reshape(2, 16):
            assert sorted(batch) == list(range(16))

    def test_a_transition_without_an_error_is_not_forgotten(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, prioritized=True)
        replay.add(fragment([0, 1, 2]))
        replay.update_priorities(np.array([0, 1]), np.array([0.0, 1.0]))
        assert 0 < replay.tree.get(np.array([0]))[0] < 1e-3

    def test_what_was_written_over_gets_no_priority(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, 1, prioritized=True)
        replay.add(fragment(range(12)))
        gone = replay.sample(np.random.default_rng(0), 64).indices
        replay.add(fragment(range(11, 22)))
        replay.update_priorities(gone, np.full(64, 9.0))
        first, stop = replay._window()
        inside = np.zeros(20, bool)
        inside[replay._between(first, stop)] = True
        assert (replay.tree.get(np.flatnonzero(~inside)) == 0).all()
        assert (replay.tree.get(np.flatnonzero(inside)) > 0).all()

    @pytest.mark.parametrize("prioritized", [False, True])
    def test_nothing_whole_to_draw(self, prioritized):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 20, n_step=3, prioritized=prioritized)
        for data in (None, fragment([0, 1, 2])):
            if data is not None:
                replay.add(data)
            with pytest.raises(ValueError, match="no whole transition in the replay yet, of . st"):
                replay.sample(np.random.default_rng(0), 4)


class TestMemory:
    def test_a_stack_of_frames_costs_one(self):
        space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        one = ReplayBuffer(space, 1000, frame_stack=4)
        assert one.nbytes == 1000 * (84 * 84 + 11)
        assert ReplayBuffer(space, 1000).nbytes == 1000 * (4 * 84 * 84 + 11)

    def test_a_million_frames_take_less_than_seven_and_a_half_gigabytes(self):
        from tfpg.rollouts.replay_storage import bytes_needed

        space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        assert 7.0e9 < bytes_needed(space, 1_000_000, frame_stack=4)[0] < 7.5e9
        assert bytes_needed(space, 1_000_000, frame_stack=4, prioritized=True)[0] < 7.5e9

    def test_is_refused_before_it_is_taken(self):
        space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        message = r"A replay of 1,000,000,000 rows needs 28.2 TB, and .* are free: use a smaller"
        with pytest.raises(MemoryError, match=message):
            ReplayBuffer(space, 10**9)


class TestBadInput:
    def test_a_capacity_that_holds_too_little(self):
        with pytest.raises(
            ValueError, match="capacity 20 has 2 rows for each of 8 .* needs at least 4: .* of 32"
        ):
            ReplayBuffer(spaces.Box(0, 1, (1,)), 20, 8)

    @pytest.mark.parametrize(("n_step", "stack"), [(1, 1), (3, 1), (1, 4), (5, 3)])
    def test_the_least_that_is_asked_for_is_enough(self, n_step, stack):
        least = 2 * stack + n_step + 1
        options = {"n_step": n_step, "count": 2, "stack": stack}
        with pytest.raises(ValueError, match=f"needs at least {least}: "):
            filled(AutoresetMode.DISABLED, [], 2 * least - 1, **options)
        for mode in AutoresetMode:
            replay, _ = filled(mode, [1] * 30, 2 * least, **options)
            assert len(replay) >= 2

    def test_observations_that_are_no_stack(self):
        with pytest.raises(ValueError, match=r"frame_stack=4 is for .* these have shape \(3,\)"):
            ReplayBuffer(spaces.Box(0, 1, (3,)), 20, frame_stack=4)

    def test_more_steps_than_rows(self):
        replay = ReplayBuffer(spaces.Box(0, 99, (1,)), 8, 1)
        with pytest.raises(ValueError, match="9 steps of each environment are more than"):
            replay.add(fragment(range(10)))
        assert len(replay) == 0


@pytest.mark.parametrize("kind", ["array", "dict"])
def test_observations_in_a_dict(kind):
    replay, _ = filled(AutoresetMode.DISABLED, [5] * 6, 60, kind=kind)
    transitions = replay.sample(np.random.default_rng(0), 50)
    if kind == "dict":
        np.testing.assert_array_equal(
            transitions.observations["a"][:, 2], transitions.observations["b"]
        )


@modes
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("steps", [[2], [7, 7], [12] * 9])
def test_a_state_brings_it_back(mode, prioritized, steps):
    options = {"n_step": 2, "count": 2, "prioritized": prioritized, "stack": 3}
    replay, player = filled(mode, steps, 120, **options)
    if prioritized and len(steps) > 1:
        drawn = replay.sample(np.random.default_rng(0), 5).indices
        replay.update_priorities(drawn, np.arange(5.0))
    other, _ = filled(mode, [13] * 3, 120, **options)  # what it held is forgotten
    other.set_state(replay.get_state(), [replay.rows_since()])
    data = player.collect_steps(Player(), 9)
    for each in (replay, other):
        each.add(data)
    assert len(replay) == len(other)
    one, same = (each.sample(np.random.default_rng(5), 50, 25) for each in (replay, other))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_of_another_replay_is_refused():
    replay, _ = filled(AutoresetMode.DISABLED, [5], 60)
    state = replay.get_state()
    with pytest.raises(ValueError, match="of 3 environments, and this replay of 2"):
        filled(AutoresetMode.DISABLED, [5], 60, count=2)[0].set_state(state, [])
    full, _ = filled(AutoresetMode.DISABLED, [9] * 9, 60)
    with pytest.raises(ValueError, match="a replay of another capacity"):
        filled(AutoresetMode.DISABLED, [5], 90)[0].set_state(full.get_state(), [])
    for options, message in (
        ({"n_step": 3}, "n_step=1 and prioritized=False, and this replay n_step=3 and"),
        ({"prioritized": True}, "prioritized=False, and this replay n_step=1 and prioritized=True"),
    ):
        with pytest.raises(ValueError, match=message):
            filled(AutoresetMode.DISABLED, [5], 60, **options)[0].set_state(state, [])


@pytest.mark.parametrize("options", [{"stack": 4}, {"stack": 4, "kind": "dict"}])
def test_a_device_holds_and_gives_what_the_machine_does(options, monkeypatch):
    from tfpg.rollouts import replay_device as device

    monkeypatch.setattr(device, "_CHUNK", 20)  # several parts
    arrays = kept = None
    for place in (None, "CPU:0"):
        replay, _ = filled(AutoresetMode.NEXT_STEP, [20, 15, 9], 150, device=place, **options)
        drawn = replay.sample(np.random.default_rng(0), 64)
        images = drawn.observations
        images = images["a"] if isinstance(images, dict) else images
        assert isinstance(images, np.ndarray) == (place is None)
        if "kind" not in options:
            check(replay, drawn._replace(**seen(drawn)), **options)
        if place is None:
            arrays, kept = drawn, replay.rows_since()
    for name, x in seen(drawn).items():
        same(x, getattr(arrays, name))
    same(replay.rows_since(), kept)
    before = replay.get_state(), [replay.rows_since()]
    replay.add(filled(AutoresetMode.NEXT_STEP, [], 150, **options)[1].collect_steps(Player(), 9))
    replay.set_state(*before)
    same(seen(replay.sample(np.random.default_rng(0), 64)), seen(drawn))


def seen(transitions):
    """The observations of transitions, as arrays."""
    names = ("observations", "next_observations")
    return {name: map_arrays(np.asarray, getattr(transitions, name)) for name in names}


def same(a, b):
    if isinstance(a, dict):
        for key in a:
            same(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


class TestDevice:
    IMAGES = spaces.Box(0, 255, (84, 84, 4), np.uint8)

    def test_vectors_stay_in_the_machine(self):
        from tfpg.rollouts.replay_device import replay_device

        assert replay_device("CPU:0", spaces.Box(-1, 1, (4,))) is None
        assert replay_device(None, self.IMAGES) is None
        assert replay_device("CPU:0", self.IMAGES) == "CPU:0"
        assert replay_device("/device:CPU:0", spaces.Dict(a=self.IMAGES)) == "/device:CPU:0"

    def test_a_device_that_is_not_there(self):
        from tfpg.rollouts.replay_device import replay_device

        with pytest.raises(ValueError, match="replay_device='GPU:7' is none of .*CPU:0"):
            replay_device("GPU:7", self.IMAGES)

    @pytest.mark.slow
    def test_a_device_that_has_not_as_much(self):
        from tfpg.rollouts.replay_device import DeviceRows

        with pytest.raises(MemoryError, match="need 70.6 TB on CPU:0, which has not as much free"):
            DeviceRows(10**10, np.dtype((np.uint8, (84, 84))), "CPU:0")
