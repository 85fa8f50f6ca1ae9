"""Whatever steps are added, each sampled transition is one that happened."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpg.core.arrays import map_arrays
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import Decision
from tfpg.ops.distributions import EpsilonGreedy
from tfpg.rollouts import replay_storage
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.replay_storage import DeviceRows, bytes_needed, replay_device
from tfpg.rollouts.trajectory import Trajectory

GAMMA = 0.5
IMAGES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
NUMBERS = spaces.Box(0, 99, (1,))


class Telling(gymnasium.Env):
    """Observes the numbers of its environment, episode and step, and is paid by them.

    Every third episode is truncated, the others terminate. With ``stack`` an observation is a stack
    of so many frames, and the missing ones are those of step 0, or zeros.
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

    def observe(self):
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
        self.length = length_of(self.number, self.episode)
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.length
        cut = over and self.episode % 3 == 2
        reward = reward_of(self.number, self.episode % 200, self.t - 1)
        return self.observe(), reward, over and not cut, cut, {}


def reward_of(number, episode, t):
    return 100.0 * number + episode + t / 10


def length_of(number, episode):
    return 1 + (7 * episode + 3 * number) % 6


class Player:
    """A policy whose action is the number of the step."""

    head = EpsilonGreedyHead(spaces.Discrete(4))

    def actor(self, weights=None):
        return self

    def __call__(self, observations, noise):
        x = observations["a"] if isinstance(observations, dict) else observations
        t = x[:, 2] if x.ndim == 2 else x[:, 2, 0, -1]
        actions = (t % 4).astype(np.int64)
        return Decision(actions, actions, np.zeros((len(actions), 4), np.float32))

    def distribution_of(self, outputs):
        return EpsilonGreedy(outputs, 1.0)


def filled(mode, steps, capacity, n_step=1, count=3, prioritized=False, device=None, **options):
    """A replay that was given fragments of so many steps, and the collector that played them."""
    makers = [lambda n=n: Telling(n, **options) for n in range(count)]
    collector = Collector(SyncVectorEnv(makers, autoreset_mode=mode), seed=0)
    replay = ReplayBuffer(
        collector.envs.single_observation_space,
        capacity,
        count,
        n_step=n_step,
        gamma=GAMMA,
        frame_stack=None if options.get("kind") == "dict" else options.get("stack"),
        prioritized=prioritized,
        device=device,
    )
    for number in steps:
        replay.add(collector.collect_steps(Player(), number))
    return replay, collector


def check(replay, transitions, stack=1, zeros=False):
    """Each transition is what the environment's own rules say of its first observation."""
    for i in range(len(transitions.rewards)):
        x, following = transitions.observations[i], transitions.next_observations[i]
        number, episode, t = (x if stack == 1 else x[:, 0, -1]).tolist()
        length = length_of(number, episode)
        steps = min(replay.n_step, length - t)
        rewards = [reward_of(number, episode, t + j) * GAMMA**j for j in range(steps)]
        ends = t + steps == length and episode % 3 != 2
        assert transitions.actions[i] == t % 4
        assert transitions.rewards[i] == pytest.approx(sum(rewards), rel=1e-6)
        assert transitions.discounts[i] == pytest.approx(0 if ends else GAMMA**steps)
        env = Telling(number, stack, zeros)
        for seen, time in ((x, t), (following, t + steps)):
            env.episode, env.t = episode, time
            np.testing.assert_array_equal(seen, env.observe())


def sample(replay, count, batch_size=None, seed=0, **options):
    return replay.sample(np.random.default_rng(seed), count, batch_size, **options)


def fragment(observations):
    """Steps of one environment between these observations, each paid 1."""
    steps = len(observations) - 1
    return Trajectory(
        np.array(observations, np.float32).reshape(-1, 1, 1),
        np.zeros((steps, 1), int),
        np.ones((steps, 1)),
        *np.zeros((2, steps, 1), bool),
        np.ones((steps, 1)),
        np.zeros((steps, 1)),
    )


def numbers(*fragments, rows=20, **options):
    """A replay of one environment that observes numbers."""
    replay = ReplayBuffer(NUMBERS, rows, gamma=GAMMA, **options)
    for data in fragments:
        replay.add(fragment(data))
    return replay


modes = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda m: m.name)


@modes
@pytest.mark.parametrize(
    ("n_step", "stack", "zeros", "prioritized"),
    [(1, 1, False, False), (3, 1, False, True), (1, 4, False, True), (3, 3, True, False)],
)
def test_transitions_are_what_happened(mode, n_step, stack, zeros, prioritized):
    steps = [1, 1, 7, 2, 12, 1, 1, 5, 12, 12, 12, 12]
    options = {"stack": stack, "zeros": zeros, "prioritized": prioritized}
    replay, _ = filled(mode, steps, 200, n_step, **options)
    transitions = sample(replay, 600)
    check(replay, transitions, stack, zeros)
    # Nearly all stored steps come up.
    assert 0.8 * len(replay) < len(set(transitions.indices)) <= len(replay)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=25),
    st.integers(12, 60),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(list(AutoresetMode)),
)
def test_any_sequence_of_fragments(steps, rows, n_step, stack, mode):
    replay, _ = filled(mode, steps, 2 * (rows + 50), n_step, 2, stack=stack)
    prioritized, _ = filled(mode, steps, 2 * (rows + 50), n_step, 2, prioritized=True, stack=stack)
    if not replay.ready:
        assert sum(steps) <= n_step + stack
        return
    check(replay, sample(replay, 64), stack)
    check(prioritized, sample(prioritized, 64), stack)
    # What can be sampled has a priority, and nothing else.
    tree = prioritized.tree
    weights = tree.get(np.arange(tree.capacity))
    assert tree.total == pytest.approx(weights.sum())
    assert set(np.flatnonzero(weights)) == set(sample(replay, 5000).indices)


def test_an_episode_that_is_cut_bootstraps_from_its_last_observation():
    replay = numbers([0, 1, 2], n_step=3)
    replay.cut()
    replay.add(fragment([50, 51, 52, 53, 54]))
    transitions = sample(replay, 200)
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


def test_an_episode_that_failed_is_cut():
    replay = numbers([0, 1, 2], n_step=2)
    data = fragment([9, 50, 51, 52])
    data.mask[0] = 0
    replay.add(data)
    transitions = sample(replay, 100)
    pairs = zip(transitions.observations[:, 0], transitions.next_observations[:, 0], strict=True)
    assert set(pairs) == {(0, 2), (1, 2), (50, 52)}


def test_a_lost_life_ends_what_is_learned_and_not_the_episode():
    data = fragment(range(6))
    data.terminated[2] = True
    replay = numbers(n_step=2)
    replay.add(data)
    transitions = sample(replay, 100)
    found = dict(zip(transitions.observations[:, 0], transitions.discounts, strict=True))
    assert found == {0: 0.25, 1: 0.0, 2: 0.0, 3: 0.25}


class TestSampling:
    def test_steps_are_drawn_uniformly(self):
        replay, _ = filled(AutoresetMode.DISABLED, [10] * 4, 90)
        _, counts = np.unique(sample(replay, 100_000, seed=3).indices, return_counts=True)
        assert len(counts) == len(replay)
        expected = 100_000 / len(replay)
        spread = ((counts - expected) ** 2 / expected).sum()
        assert spread < len(replay) + 5 * np.sqrt(2 * len(replay))

    def test_priorities_set_the_proportions_and_weights_correct_for_them(self):
        replay = numbers(range(5), prioritized=True, alpha=0.5)
        replay.update_priorities(np.arange(4), np.array([1.0, -4.0, 9.0, 0.0]))
        transitions = sample(replay, 60_000, 60_000, beta=1.0)
        frequencies = np.bincount(transitions.indices, minlength=4) / 60_000
        np.testing.assert_allclose(frequencies, np.array([1, 2, 3, 1e-3]) / 6.001, atol=0.005)
        # A weighted mean is that of a uniform draw, up to a factor.
        weighted = np.bincount(transitions.indices, transitions.weights, minlength=4)
        np.testing.assert_allclose(weighted[:3] / weighted[0], 1, rtol=0.02)
        assert transitions.weights.max() == 1

    def test_the_largest_weight_of_each_batch_is_one(self):
        replay = numbers(range(9), prioritized=True)
        replay.update_priorities(np.arange(8), np.arange(8.0))
        weights = sample(replay, 30, 5, beta=0.5).weights
        np.testing.assert_array_equal(weights.reshape(6, 5).max(axis=1), 1)

    def test_new_steps_get_the_highest_priority_so_far(self):
        replay = numbers([0, 1, 2], prioritized=True, alpha=1.0)
        np.testing.assert_allclose(replay.tree.get(np.arange(3)), [1, 1, 0])
        replay.update_priorities(np.array([0]), np.array([-7.0]))
        replay.add(fragment([2, 3]))
        np.testing.assert_allclose(replay.tree.get(np.arange(3)), [7, 1, 7], rtol=1e-6)

    def test_a_seed_draws_the_same_transitions(self):
        replay, _ = filled(AutoresetMode.NEXT_STEP, [10] * 3, 90)
        one, same, other = (sample(replay, 40, seed=seed).indices for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()

    def test_a_batch_is_drawn_from_all_parts_of_the_priorities(self):
        replay = numbers(range(17), rows=40, prioritized=True)
        for batch in sample(replay, 32, 16).indices.reshape(2, 16):
            assert sorted(batch) == list(range(16))

    def test_a_transition_without_an_error_can_be_drawn_again(self):
        replay = numbers([0, 1, 2], prioritized=True)
        replay.update_priorities(np.array([0, 1]), np.array([0.0, 1.0]))
        assert 0 < replay.tree.get(np.array([0]))[0] < 1e-3

    def test_steps_that_were_overwritten_get_no_priority(self):
        replay = numbers(range(12), prioritized=True)
        overwritten = sample(replay, 64).indices
        replay.add(fragment(range(11, 22)))
        replay.update_priorities(overwritten, np.full(64, 9.0))
        # 19 of the 20 rows are steps; the last one holds the observation after them.
        weights = replay.tree.get(np.arange(20))
        assert np.count_nonzero(weights) == len(replay) == 19
        assert set(sample(replay, 500).observations[:, 0]) == set(range(2, 21))

    @pytest.mark.parametrize("prioritized", [False, True])
    def test_without_a_whole_transition_there_is_no_sample(self, prioritized):
        replay = numbers(n_step=3, prioritized=prioritized)
        for steps in (0, 2):
            assert not replay.ready
            with pytest.raises(ValueError, match=f"holds {steps} steps and no complete transition"):
                sample(replay, 4)
            replay.add(fragment([0, 1, 2]))


class TestMemory:
    def test_a_stack_of_frames_is_stored_once(self):
        assert ReplayBuffer(IMAGES, 1000, frame_stack=4).nbytes == 1000 * (84 * 84 + 11)
        assert ReplayBuffer(IMAGES, 1000).nbytes == 1000 * (4 * 84 * 84 + 11)

    def test_a_million_frames_take_less_than_seven_and_a_half_gigabytes(self):
        assert 7.0e9 < bytes_needed(IMAGES, 1_000_000, frame_stack=4)[0] < 7.5e9
        assert bytes_needed(IMAGES, 1_000_000, frame_stack=4, prioritized=True)[0] < 7.5e9

    def test_too_much_is_refused_before_it_is_taken(self):
        message = (
            r"A replay buffer of 1,000,000,000 rows needs 28.2 TB, but only .* are free: use a"
        )
        with pytest.raises(MemoryError, match=message):
            ReplayBuffer(IMAGES, 10**9)


class TestBadInput:
    def test_a_capacity_that_is_too_small(self):
        with pytest.raises(
            ValueError, match="capacity 20 has 2 rows for each of 8 .* needs at least 4: .* of 32"
        ):
            ReplayBuffer(NUMBERS, 20, 8)

    @pytest.mark.parametrize(("n_step", "stack"), [(1, 1), (3, 1), (1, 4), (5, 3)])
    def test_the_smallest_capacity_is_enough(self, n_step, stack):
        least = 2 * stack + n_step + 1
        options = {"n_step": n_step, "count": 2, "stack": stack}
        with pytest.raises(ValueError, match=f"needs at least {least}: "):
            filled(AutoresetMode.DISABLED, [], 2 * least - 1, **options)
        for mode in AutoresetMode:
            assert len(filled(mode, [1] * 30, 2 * least, **options)[0]) >= 2

    def test_observations_that_are_no_stack(self):
        with pytest.raises(ValueError, match=r"frame_stack=4 is for .* these have shape \(3,\)"):
            ReplayBuffer(spaces.Box(0, 1, (3,)), 20, frame_stack=4)

    @pytest.mark.parametrize("actions", [4, 6])
    def test_frames_next_to_action_masks(self, actions):
        images, mask = spaces.Box(0, 255, (8, 8, 4), np.uint8), spaces.MultiBinary(actions)
        space = spaces.Dict(observation=images, action_mask=mask)
        with pytest.raises(ValueError, match="frame_stack=4 is not possible with action masks"):
            ReplayBuffer(space, 100, frame_stack=4)
        ReplayBuffer(space, 100)

    def test_more_steps_than_rows(self):
        replay = numbers(rows=8)
        with pytest.raises(ValueError, match="9 steps of each environment are too many"):
            replay.add(fragment(range(10)))
        assert len(replay) == 0


def test_observations_in_a_dict():
    replay, _ = filled(AutoresetMode.DISABLED, [5] * 6, 60, kind="dict")
    observations = sample(replay, 50).observations
    np.testing.assert_array_equal(observations["a"][:, 2], observations["b"])


def test_actions_may_be_vectors():
    """Each is found with its own reward, also if it is not the first of several rewards."""
    replay = ReplayBuffer(NUMBERS, 60, 2, n_step=3, gamma=0.5, action=np.dtype((np.float32, (2,))))
    smaller = ReplayBuffer(NUMBERS, 60, 2)
    assert replay.nbytes - smaller.nbytes == 60 * (2 - 1) * 4
    numbers = np.arange(24, dtype=np.float32).reshape(12, 2)
    data = Trajectory(
        np.zeros((13, 2, 1), np.float32),
        np.stack([numbers, -numbers / 7], axis=-1),
        numbers,
        *np.zeros((2, 12, 2), bool),
        np.ones((12, 2)),
        np.zeros((12, 2)),
    )
    replay.add(data)
    found = sample(replay, 50)
    assert found.actions.dtype == np.float32
    first = found.actions[:, 0]
    np.testing.assert_array_equal(found.actions[:, 1], -first / 7)
    np.testing.assert_allclose(found.rewards, first + 0.5 * (first + 2) + 0.25 * (first + 4))
    other = ReplayBuffer(NUMBERS, 60, 2, n_step=3, gamma=0.5, action=np.dtype((np.float32, (2,))))
    other.set_state(replay.get_state(), [replay.rows_since()])
    np.testing.assert_array_equal(sample(other, 50).actions, found.actions)


@modes
@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("steps", [[2], [7, 7], [12] * 9])
def test_a_state_restores_a_replay(mode, prioritized, steps):
    options = {"n_step": 2, "count": 2, "prioritized": prioritized, "stack": 3}
    replay, collector = filled(mode, steps, 120, **options)
    if prioritized and len(steps) > 1:
        replay.update_priorities(sample(replay, 5).indices, np.arange(5.0))
    written, first = replay.written, replay.rows_since()
    replay.add(collector.collect_steps(Player(), 9))
    other, _ = filled(mode, [13] * 3, 120, **options)  # what it held is forgotten
    other.set_state(replay.get_state(), [first, replay.rows_since(written)])
    data = collector.collect_steps(Player(), 9)
    for each in (replay, other):
        each.add(data)
    assert len(replay) == len(other)
    one, same = (sample(each, 50, 25, seed=5) for each in (replay, other))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 2, "capacity": 40}, "num_envs=3, but this one has num_envs=2"),
        ({"capacity": 90}, "rows=20, but this one has rows=30"),
        ({"n_step": 3}, "n_step=1, but this one has n_step=3"),
        ({"prioritized": True}, "prioritized=False, but this one has prioritized=True"),
    ],
)
def test_the_state_of_another_replay_is_refused(options, words):
    state = filled(AutoresetMode.DISABLED, [5], 60)[0].get_state()
    other, _ = filled(AutoresetMode.DISABLED, [5], **{"capacity": 60, **options})
    with pytest.raises(ValueError, match=words):
        other.set_state(state, [])


def observations_of(transitions):
    """The observations of transitions, as arrays."""
    names = ("observations", "next_observations")
    return {name: map_arrays(np.asarray, getattr(transitions, name)) for name in names}


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"stack": 4}, {"stack": 4, "kind": "dict"}])
def test_a_device_gives_what_the_machine_gives(options, monkeypatch):
    monkeypatch.setattr(replay_storage, "CHUNK", 20)  # several parts
    steps = [20, 15, 9]
    here, _ = filled(AutoresetMode.NEXT_STEP, steps, 150, **options)
    there, collector = filled(AutoresetMode.NEXT_STEP, steps, 150, device="CPU:0", **options)
    one, other = sample(here, 64), sample(there, 64)
    for replay, drawn in ((here, one), (there, other)):
        images = drawn.observations["a"] if "kind" in options else drawn.observations
        assert isinstance(images, np.ndarray) == (replay is here)
    if "kind" not in options:
        check(there, other._replace(**observations_of(other)), **options)
    assert_same(observations_of(one), observations_of(other))
    assert_same(here.rows_since(), there.rows_since())
    before = there.get_state(), [there.rows_since()]
    there.add(collector.collect_steps(Player(), 9))
    there.set_state(*before)
    assert_same(observations_of(sample(there, 64)), observations_of(other))


class TestDevice:
    def test_vectors_stay_in_the_machine(self):
        assert replay_device("CPU:0", spaces.Box(-1, 1, (4,))) is None
        assert replay_device(None, IMAGES) is None
        assert replay_device("CPU:0", IMAGES) == "CPU:0"
        assert replay_device("/device:CPU:0", spaces.Dict(a=IMAGES)) == "/device:CPU:0"

    def test_a_device_that_does_not_exist(self):
        with pytest.raises(ValueError, match="replay_device='GPU:7' is not one of .*CPU:0"):
            replay_device("GPU:7", IMAGES)

    @pytest.mark.slow
    def test_a_device_without_enough_memory(self):
        with pytest.raises(MemoryError, match="needs 70.6 TB on CPU:0, which does not have"):
            DeviceRows(10**10, np.dtype((np.uint8, (84, 84))), "CPU:0")
