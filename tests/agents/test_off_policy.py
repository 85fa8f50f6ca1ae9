"""The loop of agents with a replay: what is stored, drawn and learned, and kept between fits."""

import copy

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from small import SMALL as WITH_COPIES
from small import collected, flat_weights, q_network
from toys import Countdown, Endless

import tfpg
from tfpg.agents import off_policy
from tfpg.envs.supervised import SupervisedEnv
from tfpg.rollouts.replay import ReplayBuffer

# Four updates in an iteration, and no copies into the target network.
SMALL = {**WITH_COPIES, "updates_per_learn": 1, "target_update_period": 1000}

pytestmark = pytest.mark.usefixtures("eager")


class Recording(tfpg.DQN):
    """Records the transitions that are learned from, and which policy acts."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.learned, self.acted, self.warmed_up = [], [], []

    def learn_from(self, transitions, seed):
        priorities = self.replay.tree and self.replay.tree.get(transitions.indices)
        logs, errors = super().learn_from(transitions, seed)
        self.learned.append((transitions, errors, priorities, self.env_steps))
        return logs, errors

    def collect(self, collector, policy):
        self.acted.append(policy is self.policy)
        return super().collect(collector, policy)

    def warm_up(self, collector, policy):
        super().warm_up(collector, policy)
        self.warmed_up.append(self.env_steps)


def trained(env="CartPole-v1", iterations=2, model=None, **options):
    inputs = {Endless: 1, "CartPole-v1": 4, "CartPole-v0": 4}.get(env, 2)
    agent = Recording(model or q_network(inputs), **{**SMALL, **options})
    agent.fit(env, iterations, seed=3, verbose=0)
    return agent


def fit_again(agent, env="CartPole-v1", first=2, iterations=1):
    last = first + iterations
    return agent.fit(env, last, initial_iteration=first, seed=3, verbose=0).history


class Lives(Countdown):
    """Episodes of nine steps that lose a life every third one. Resets report lives or do not."""

    def __init__(self, reset_reports=True):
        super().__init__(length=9)
        self.reset_reports = reset_reports

    def reset(self, **kwargs):
        observation, _ = super().reset(**kwargs)
        return observation, {"lives": 3} if self.reset_reports else {}

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"lives": 3 - self.t // 3}


class TestStoring:
    def test_rewards_are_clipped_in_the_replay_alone(self):
        class Paid(Countdown):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, (-5.0, 50.0, 0.5)[self.t - 1], *rest

        agent = trained(Paid, reward_clip=1)
        rows = agent.replay.rows_since()
        assert set(rows["rewards"][rows["real"]]) == {-1.0, 1.0, 0.5}
        assert fit_again(agent, Paid)["episode_return"] == [45.5]

    def test_max_steps_truncates_and_does_not_terminate(self):
        agent = trained(Endless, max_steps=7)
        rows = agent.replay.rows_since()
        assert rows["truncated"].any()
        assert not rows["terminated"].any()
        assert fit_again(agent, Endless)["episode_length"] == [7]

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    @pytest.mark.parametrize("reset_reports", [True, False])
    def test_a_lost_life_terminates_what_is_learned_but_not_the_episode(self, mode, reset_reports):
        def env():
            supervise = SupervisedEnv if mode is AutoresetMode.DISABLED else lambda env: env
            return supervise(Lives(reset_reports))

        envs = SyncVectorEnv([env] * 4, autoreset_mode=mode)
        agent = tfpg.DQN(q_network(2), end_on_life_loss=True, **SMALL)
        history = agent.fit(envs, 3, seed=0, verbose=0).history
        assert history["episode_length"][-1] == 9
        rows = agent.replay.rows_since()
        times = rows["observations"][:, 0]
        np.testing.assert_array_equal(
            rows["terminated"][rows["real"]], np.isin(times, (2, 5, 8))[rows["real"]]
        )
        assert not rows["truncated"].any()

    def test_options_of_the_agent_reach_the_replay(self):
        replay = trained(prioritized=True, priority_alpha=0.3, n_step=2, gamma=0.7).replay
        assert (replay.alpha, replay.n_step, replay.gamma) == (0.3, 2, 0.7)

    def test_the_warm_up_and_every_iteration_are_a_batch_of_the_statistics(self):
        class Clock(Endless):
            observation_space = spaces.Box(-1000, 1000, (1,), np.float32)

            def reset(self, *, seed=None, options=None):
                self.t = 0
                return np.zeros(1, np.float32), {}

            def step(self, action):
                self.t += 1
                return np.full(1, self.t, np.float32), 0.0, False, False, {}

        model = tfpg.networks.mlp(Clock(), hidden=(4,), normalize=True, seed=0)
        statistics = model.get_layer("observation_statistics")
        means = []
        remember = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: means.append(float(statistics.moving_mean[0]))
        )
        tfpg.DQN(model, **SMALL).fit(Clock, 2, [remember], seed=0, verbose=0)
        assert means == [3.5, (3.5 + 15.5) / 2]  # of the steps 0 to 7, and 8 to 23
        assert float(statistics.moving_mean[0]) == pytest.approx((3.5 + 15.5 + 31.5) / 3)


class TestWarmUp:
    def test_the_warm_up_plays_at_random_whatever_epsilon_is(self):
        agent = trained(Endless, iterations=1, epsilon=0.0, capacity=4000, learning_starts=128)
        actions = agent.replay.rows_since()["actions"]  # those of the first environment come first
        assert set(actions[: 128 // 4]) == {0, 1}
        assert len(set(actions[128 // 4 : 128 // 4 + 15])) == 1

    def test_the_warm_up_counts_steps_but_not_resets(self):
        assert trained(Countdown, learning_starts=200).warmed_up == [200]
        envs = SyncVectorEnv([Countdown] * 4)
        assert 200 <= trained(envs, learning_starts=200).warmed_up[0] < 204

    def test_the_warm_up_may_be_longer_than_the_replay(self):
        assert trained(Countdown, capacity=120, learning_starts=400).warmed_up == [400]

    def test_an_interrupted_warm_up_does_not_leave_the_policy_at_random(self):
        class Interrupted(Endless):
            def step(self, action):
                raise KeyboardInterrupt

        agent = tfpg.DQN(q_network(inputs=1), **SMALL, epsilon=0.25)
        with pytest.raises(KeyboardInterrupt):
            agent.fit(Interrupted, 1, seed=0, verbose=0)
        assert agent.policy.head.epsilon == 0.25

    def test_the_warm_up_happens_once(self):
        agent = trained(Countdown, learning_starts=100)
        assert agent.env_steps == 100 + 2 * 64
        assert fit_again(agent, Countdown)["env_steps"] == [100 + 3 * 64]


class TestLearning:
    def test_errors_become_the_priorities_of_their_transitions(self):
        agent = trained(prioritized=True, priority_alpha=0.5, iterations=1)
        transitions, errors, *_ = agent.learned[-1]
        last = dict(zip(transitions.indices.tolist(), np.abs(errors), strict=True))
        for index, error in last.items():
            priority = agent.replay.tree.get(np.array([index]))[0]
            assert priority == pytest.approx(error**0.5, rel=1e-3)

    def test_weights_follow_the_schedule_of_beta_and_the_largest_of_a_batch_is_one(self):
        agent = trained(prioritized=True, priority_beta=lambda n: 0.1 + n / 100, iterations=3)
        for transitions, _, priorities, env_steps in agent.learned:
            beta = min(0.1 + env_steps / 100, 1.0)
            rarity = priorities.reshape(-1, 8) ** -beta
            expected = rarity / rarity.max(axis=1, keepdims=True)
            np.testing.assert_allclose(transitions.weights, expected.ravel(), rtol=1e-5)
        assert 0.1 < 0.1 + agent.learned[0][3] / 100 < 1.0 < agent.learned[-1][3] / 100
        assert agent.learned[-1][0].weights.min() < 0.9

    def test_every_block_is_drawn_with_random_numbers_of_its_own(self, monkeypatch):
        draws, sample = [], ReplayBuffer.sample

        def recorded(replay, rng, *arguments):
            draws.append(copy.deepcopy(rng).random())
            return sample(replay, rng, *arguments)

        monkeypatch.setattr(ReplayBuffer, "sample", recorded)
        trained()
        assert len(set(draws)) == len(draws) == 8

    def test_the_numbers_of_an_iteration_do_not_repeat_earlier_ones(self):
        assert tfpg.DQN(q_network(), **SMALL).first_numbers(3) == (192, 192)

    def test_with_overlap_frozen_weights_act_while_updates_run(self):
        assert all(trained().acted)
        # No update runs when an iteration begins, and the first update of all runs alone.
        expected = [True, True, False, False, True, False, False, False]
        assert trained(overlap=True).acted == expected

    def test_overlap_without_effect_is_a_warning(self):
        with pytest.warns(UserWarning, match="overlap=True has no effect"):
            trained(Countdown, 1, overlap=True, acting="tensorflow")

    def test_epsilon_stays_within_its_range(self):
        assert trained(epsilon=lambda n: 1 - n / 100, iterations=3).explore() == 0.0

    @pytest.mark.parametrize(
        ("window", "steps", "means"),
        [
            (20, 32, [(8 + 8 * 3) / 16, (2 + 18 * 3) / 20, 3.0]),  # 16, 10 and 11 episodes
            (50, 96, [(8 + 29 * 3) / 37, 3.0]),  # 37 and 32
            (20, 192, [(8 + 61 * 3) / 69, 3.0]),  # 69 and 64
        ],
    )
    def test_the_mean_return_is_of_the_window_or_of_the_iteration(self, window, steps, means):
        lengths = [1] * 40 + [3] * 1000
        options = {"num_envs": 1, "steps_per_iteration": steps, "window": window}
        agent = tfpg.DQN(q_network(2), **{**SMALL, **options})
        # 32 episodes of one step are played at random before, and do not count.
        envs = lambda: Countdown(lengths=lengths)  # noqa: E731
        history = agent.fit(envs, len(means), seed=0, verbose=0).history
        assert history["episode_return"] == pytest.approx(means)


def test_a_target_network_follows_by_a_period_or_by_tau():
    both = {**WITH_COPIES, "target_update_period": 6, "tau": 0.25}
    with pytest.raises(ValueError, match=r"moves by tau \(0.25\) or is copied every .*\(6\)"):
        tfpg.DQN(q_network(), **both)


class TestTargetNetworkBetweenFits:
    def test_the_target_network_stays_if_nothing_else_changed_the_weights(self):
        agent = trained()
        target = [v.numpy() for v in agent.target.weights]
        agent.model.compile(keras.optimizers.SGD(0.01))  # another optimizer changes no weights
        fit_again(agent)
        for before, after in zip(target, agent.target.weights, strict=True):
            np.testing.assert_array_equal(before, after.numpy())
        assert not np.array_equal(target[0], agent.model.get_weights()[0])
        assert agent.updates == 3 * 4

    def test_the_target_network_is_copied_if_the_weights_were_set(self):
        agent, other = trained(), q_network(seed=9)
        agent.model.set_weights(other.get_weights())
        fit_again(agent)
        for target, weights in zip(agent.target.weights, other.get_weights(), strict=True):
            np.testing.assert_array_equal(target.numpy(), weights)

    def test_the_target_network_is_copied_from_a_restored_backup(self, tmp_path):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        agent = tfpg.DQN(q_network(), **SMALL)
        agent.fit("CartPole-v1", 2, callbacks=[backup], seed=3, verbose=0)
        weights = agent.model.get_weights()
        again = tfpg.DQN(q_network(seed=5), **SMALL)
        history = again.fit("CartPole-v1", 3, callbacks=[backup], seed=3, verbose=0)
        assert history.epoch == [2]
        for target, restored in zip(again.target.weights, weights, strict=True):
            np.testing.assert_array_equal(target.numpy(), restored)


class TestReplayBetweenFits:
    def test_the_replay_is_kept_and_its_current_episodes_are_truncated(self):
        agent = trained(Endless)
        replay, stored = agent.replay, len(agent.replay)
        assert replay.rows_since()["truncated"].sum() == 0
        agent.gamma, agent.epsilon, agent.priority_beta = 0.5, 0.0, 1.0
        assert fit_again(agent, Endless)["epsilon"] == [0.0]
        assert agent.replay is replay
        assert replay.rows_since()["truncated"].sum() == 4
        assert len(replay) == stored + 64
        assert replay.gamma == 0.5

    def test_counts_of_episodes_and_updates_continue(self):
        agent = trained(Countdown)
        before, updates = agent.episodes, agent.updates
        assert fit_again(agent, Countdown)["episodes"][0] > before
        assert agent.updates == updates + 4
        assert agent.warmed_up == [32, 32 + 2 * 64]  # no second warm-up

    @pytest.mark.parametrize(
        ("option", "value"),
        slow_but(
            [("n_step", 3), ("prioritized", False)],
            [
                ("n_step", 3),
                ("capacity", 1000),
                ("priority_alpha", 0.1),
                ("prioritized", False),
                ("reward_clip", 0.5),
                ("end_on_life_loss", False),
                ("num_envs", 8),
            ],
        ),
    )
    def test_a_new_replay_is_made_if_steps_would_be_stored_differently(self, option, value):
        agent = trained(Lives, prioritized=True, end_on_life_loss=True)
        replay = agent.replay
        fit_again(agent, Lives)
        assert agent.replay is replay
        setattr(agent, option, value)
        fit_again(agent, Lives, first=3)
        assert agent.replay is not replay
        assert agent.replay.n_step == agent.n_step
        assert agent.replay.num_envs == agent.num_envs

    def test_a_new_replay_is_made_for_another_environment(self):
        agent = trained("CartPole-v1")
        replay = agent.replay
        fit_again(agent, "CartPole-v0")
        assert agent.replay is not replay

    def test_a_new_replay_is_made_for_another_class(self):
        class Other(Countdown):
            pass

        agent = trained(Countdown)
        before = agent.replay
        fit_again(agent, Countdown)
        assert agent.replay is before
        fit_again(agent, Other, first=3)
        assert agent.replay is not before

    def test_training_can_continue_after_a_replay_that_did_not_fit_into_memory(self):
        agent = trained()
        agent.capacity = 10**16
        for _ in range(2):
            with pytest.raises(MemoryError, match="use a smaller capacity"):
                fit_again(agent)
        assert agent.replay is None
        agent.capacity = 2000
        fit_again(agent)
        assert len(agent.replay) > 64


class TestFrames:
    def frames(self, moves=True):
        class Frames(gymnasium.Env):
            """Stacks of three frames of one pixel, the newest last; or random ones."""

            observation_space = spaces.Box(0, 255, (1, 1, 3), np.uint8)
            action_space = spaces.Discrete(2)

            def observe(self):
                if not moves:
                    return self.np_random.integers(0, 255, (1, 1, 3), dtype=np.uint8)
                times = np.maximum(self.t - np.arange(2, -1, -1), 0)
                return times.astype(np.uint8)[None, None]

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.t = 0
                return self.observe(), {}

            def step(self, action):
                self.t += 1
                return self.observe(), 1.0, self.t >= 9, False, {}

        return Frames

    def trained(self, env=None, **options):
        layers = keras.layers
        model = [keras.Input((1, 1, 3), dtype="uint8"), layers.Flatten(), layers.Rescaling(1 / 255)]
        model = keras.Sequential([*model, layers.Dense(2)])
        model.set_weights([np.full_like(w, 0.1) for w in model.get_weights()])
        agent = tfpg.DQN(model, **{**SMALL, "frame_stack": 3, **options})
        history = agent.fit(env or self.frames(), 2, seed=0, verbose=0)
        return agent, history.history["loss"]

    def test_each_frame_is_stored_once_if_frame_stack_is_given(self):
        agent, _ = self.trained()
        whole, _ = self.trained(frame_stack=None)
        assert (agent.replay.stack, whole.replay.stack) == (3, 1)
        transitions = agent.replay.sample(np.random.default_rng(0), 64)
        for x in transitions.observations[:, 0, 0].astype(int):
            assert (np.diff(x) == (x[1:] > 0)).all()

    def test_a_single_frame_is_no_stack(self):
        whole, losses = self.trained(self.frames(moves=False), frame_stack=None)
        single, same = self.trained(self.frames(moves=False), frame_stack=1)
        assert (whole.replay.stack, single.replay.stack) == (1, 1)
        assert losses == same

    @pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
    def test_frames_on_a_device_give_the_same_weights(self, jit_compile):
        tf.config.run_functions_eagerly(False)
        options = {"jit_compile": jit_compile}
        agents, losses = zip(
            *(self.trained(replay_device=device, **options) for device in (None, "CPU:0")),
            strict=True,
        )
        drawn = agents[1].replay.sample(np.random.default_rng(0), 8)
        assert tf.is_tensor(drawn.observations)
        assert losses[0] == losses[1]
        np.testing.assert_array_equal(*(flat_weights(agent.model) for agent in agents))

    def test_frames_are_kept_in_memory_if_the_device_is_full(self, monkeypatch):
        class Full(ReplayBuffer):
            def __init__(self, *args, device=None, **options):
                if device is not None:
                    raise MemoryError("GPU:0 has not as much free.")
                super().__init__(*args, **options)

        monkeypatch.setattr(off_policy, "ReplayBuffer", Full)
        monkeypatch.setattr(off_policy, "replay_device", lambda asked, _: asked and "GPU:0")
        with pytest.warns(UserWarning, match="as much free. Its images are stored in main"):
            agent, _ = self.trained()
        drawn = agent.replay.sample(np.random.default_rng(0), 8)
        assert isinstance(drawn.observations, np.ndarray)
        with pytest.raises(MemoryError, match="GPU:0 has not as much free"):
            self.trained(replay_device="GPU:0")

    def test_observations_that_are_no_stacks_are_refused(self):
        with pytest.raises(ValueError, match="do not shift by one along the last axis"):
            self.trained(self.frames(moves=False))

    def test_stacks_of_another_number_of_frames_are_refused(self):
        with pytest.raises(ValueError, match="observations of 4 frames along their last axis"):
            self.trained(frame_stack=4)


@pytest.mark.parametrize("slow_seeds", [False, True])
def test_environments_with_slow_seeds_are_seeded_once(slow_seeds):
    envs = SyncVectorEnv([Countdown] * 2, autoreset_mode=AutoresetMode.DISABLED)
    envs.slow_seeds = slow_seeds
    trained(envs)
    seeds = envs.envs[0].unwrapped.seeds
    assert seeds[0] is not None
    assert (None in seeds[1:]) == slow_seeds


def test_update_stores_a_rollout_and_learns_from_it():
    agent = trained(Countdown, 1)
    stored, updates = len(agent.replay), agent.updates
    data = collected(agent, Countdown)
    logs = agent.update(data, seed=0)
    assert len(agent.replay) == stored + data.mask.sum()
    assert agent.updates == updates + 1
    assert np.isfinite(list(logs.values())).all()
