"""The loop of agents with a replay: what is given to what, and what holds between two fits."""

import copy
import io
import warnings
from contextlib import redirect_stdout

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from small import SMALL as QUICK
from small import q_network
from toys import Countdown, Endless

import tfpg
from tfpg.envs.supervised import SupervisedEnv
from tfpg.errors import TrainingWarning
from tfpg.schedules import exponential, linear

SMALL = {**QUICK, "target_update_period": 1000}


class Spy(tfpg.DQN):
    """Keeps what its parts are given."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.drawn, self.betas, self.learned, self.acted, self.warmed_up = [], [], [], [], []

    def _learn(self, rng, beta):
        self.drawn.append(copy.deepcopy(rng).random())
        self.betas.append((self.env_steps, beta))
        return super()._learn(rng, beta)

    def learn_from(self, transitions):
        logs, errors = super().learn_from(transitions)
        self.learned.append((transitions, errors))
        return logs, errors

    def collect(self, collector, policy):
        self.acted.append(policy is self.policy)
        return super().collect(collector, policy)

    def warm_up(self, collector, policy):
        super().warm_up(collector, policy)
        self.warmed_up.append(self.env_steps)


def spied(env="CartPole-v1", iterations=2, model=None, **options):
    inputs = {Endless: 1, Countdown: 2}.get(env, 4)
    agent = Spy(model or q_network(inputs), **{**SMALL, **options})
    agent.fit(env, iterations, seed=3, verbose=0)
    return agent


class Paid(Countdown):
    """Pays -5, 5, -5, ..."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 5.0 * (-1) ** self.t, *rest


class TestWhatIsGiven:
    def test_errors_go_back_to_their_transitions(self):
        agent = spied(prioritized=True, priority_alpha=0.5, iterations=1)
        transitions, errors = agent.learned[-1]
        last = dict(zip(transitions.indices.tolist(), np.abs(errors), strict=True))
        for index, error in last.items():
            weight = agent.replay.tree.get(np.array([index]))[0]
            assert weight == pytest.approx(error**0.5, rel=1e-3)

    def test_every_block_is_drawn_with_randomness_of_its_own(self):
        assert len(set(spied().drawn)) == 8

    def test_beta_follows_its_schedule_and_stays_in_its_range(self):
        agent = spied(prioritized=True, priority_beta=lambda n: 0.1 + n / 100)
        assert len({beta for _, beta in agent.betas}) > 2
        for env_steps, beta in agent.betas:
            assert beta == pytest.approx(min(0.1 + env_steps / 100, 1.0))

    def test_the_largest_weight_of_every_batch_is_one(self):
        agent = spied(prioritized=True, iterations=3)
        for transitions, _ in agent.learned[-3:]:
            batches = transitions.weights.reshape(-1, 8)
            assert (batches.max(axis=1) == 1).all()
            assert batches.min() < 0.9

    def test_random_play_before_the_first_update_whatever_epsilon_is(self):
        agent = spied(Endless, iterations=1, epsilon=0.0, capacity=4000, learning_starts=128)
        rows = np.arange(128 // 4)
        actions = agent.replay.rows_since()["actions"]
        assert set(actions[rows]) == {0, 1}
        assert len(set(actions[rows[-1] + 1 : rows[-1] + 16])) == 1

    def test_the_warm_up_counts_steps_and_not_resets(self):
        agent = spied(Countdown, learning_starts=200)
        assert agent.warmed_up == [200]
        agent = spied(
            lambda: SyncVectorEnv([Countdown] * 4), learning_starts=200, model=q_network(2)
        )
        assert 200 <= agent.warmed_up[0] < 204

    def test_a_warm_up_that_is_longer_than_the_ring(self):
        agent = spied(Countdown, capacity=120, learning_starts=400)
        assert agent.warmed_up == [400]

    def test_frozen_weights_act_while_updates_run(self):
        assert all(spied().acted)
        # Each iteration begins when no update runs; the first update of all is not run beside.
        assert spied(overlap=True).acted == [True, True, False, False, True, False, False, False]

    def test_rewards_are_clipped_on_both_sides(self):
        agent = spied(Paid, model=q_network(2), reward_clip=1)
        rows = agent.replay.rows_since()
        assert set(rows["rewards"][rows["real"]]) == {-1.0, 1.0}

    def test_the_agents_options_are_the_replays(self):
        replay = spied(prioritized=True, priority_alpha=0.3, n_step=2, gamma=0.7).replay
        assert (replay.alpha, replay.n_step, replay.gamma) == (0.3, 2, 0.7)

    def test_epsilon_stays_in_its_range(self):
        agent = spied(epsilon=lambda n: 1 - n / 100, iterations=3)
        assert agent.explore() == 0.0

    @pytest.mark.filterwarnings("ignore::tfpg.errors.TrainingWarning")
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
        met = []
        remember = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: met.append(float(statistics.moving_mean[0]))
        )
        tfpg.DQN(model, **SMALL).fit(Clock, 2, [remember], seed=0, verbose=0)
        assert met == [3.5, (3.5 + 15.5) / 2]  # of the steps 0 to 7, and 8 to 23
        assert float(statistics.moving_mean[0]) == pytest.approx((3.5 + 15.5 + 31.5) / 3)

    @pytest.mark.parametrize(
        ("window", "steps", "means"),
        [
            (20, 32, [(8 + 8 * 3) / 16, (2 + 18 * 3) / 20, 3.0]),  # 16, 10 and 11 of them
            (50, 96, [(8 + 29 * 3) / 37, 3.0]),  # 37 and 32
            (20, 192, [(8 + 61 * 3) / 69, 3.0]),  # 69 and 64
        ],
    )
    def test_the_mean_return_is_of_a_window_or_of_the_iterations(self, window, steps, means):
        lengths = [1] * 40 + [3] * 1000
        options = {"num_envs": 1, "steps_per_iteration": steps, "window": window}
        agent = tfpg.DQN(q_network(2), **{**SMALL, **options})
        # 32 episodes of 1 are played at random before, and do not count.
        history = agent.fit(
            lambda: Countdown(lengths=lengths), len(means), seed=0, verbose=0
        ).history
        assert history["episode_return"] == pytest.approx(means)


class TestBetweenFits:
    def test_the_target_network_stays_where_nothing_was_changed(self):
        agent = spied()
        target = [v.numpy() for v in agent.target.weights]
        agent.fit("CartPole-v1", 3, initial_iteration=2, seed=3, verbose=0)
        for before, after in zip(target, agent.target.weights, strict=True):
            np.testing.assert_array_equal(before, after.numpy())
        assert not np.array_equal(target[0], agent.model.get_weights()[0])

    def test_the_target_network_is_that_of_weights_that_were_set(self):
        agent, other = spied(), q_network(seed=9)
        agent.model.set_weights(other.get_weights())
        agent.fit("CartPole-v1", 3, initial_iteration=2, seed=3, verbose=0)
        for target, weights in zip(agent.target.weights, other.get_weights(), strict=True):
            np.testing.assert_array_equal(target.numpy(), weights)

    def test_the_target_network_is_that_of_a_backup(self, tmp_path):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        agent = tfpg.DQN(q_network(), **SMALL)
        agent.fit("CartPole-v1", 2, callbacks=[backup], seed=3, verbose=0)
        weights = agent.model.get_weights()
        again = tfpg.DQN(q_network(seed=5), **SMALL)
        history = again.fit("CartPole-v1", 3, callbacks=[backup], seed=3, verbose=0)
        assert history.epoch == [2]
        for target, restored in zip(again.target.weights, weights, strict=True):
            np.testing.assert_array_equal(target.numpy(), restored)

    def test_what_was_refused_is_refused_again(self):
        agent = spied()
        agent.capacity = 10**16
        for _ in range(2):
            with pytest.raises(MemoryError, match="use a smaller capacity"):
                agent.fit("CartPole-v1", 3, initial_iteration=2, verbose=0)
        assert agent.replay is None
        agent.capacity = 2000
        agent.fit("CartPole-v1", 3, initial_iteration=2, seed=0, verbose=0)
        assert len(agent.replay) > 64

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
            ],
        ),
    )
    def test_what_is_stored_otherwise_needs_another_replay(self, option, value):
        class Lives(Countdown):
            def step(self, action):
                *rest, info = super().step(action)
                return *rest, {**info, "lives": 3 - self.t}

        agent = spied(Lives, model=q_network(2), prioritized=True, end_on_life_loss=True)
        replay = agent.replay
        agent.fit(Lives, 3, initial_iteration=2, seed=0, verbose=0)
        assert agent.replay is replay
        setattr(agent, option, value)
        agent.fit(Lives, 4, initial_iteration=3, seed=0, verbose=0)
        assert agent.replay is not replay

    def test_other_environments_are_not_mixed_into_the_replay(self):
        agent = spied("CartPole-v1")
        replay = agent.replay
        agent.fit("CartPole-v0", 3, initial_iteration=2, seed=0, verbose=0)
        assert agent.replay is not replay

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("tau", 5.0, "tau must be a number above"),
            ("learn_period", 0, "learn_period must be"),
            ("updates_per_learn", 0, "updates_per_learn must be"),
            ("target_update_period", 0, "target_update_period must be"),
            ("epsilon", 2.0, "epsilon must be a number from"),
            ("batch_size", 10**6, "at least batch_size"),
            ("loss", "l1", "loss must be one of"),
            ("gamma", 1.5, "gamma must be"),
        ],
    )
    def test_nonsense_is_refused_then_too(self, option, value, message):
        agent = tfpg.DQN(q_network(2), **SMALL)
        setattr(agent, option, value)
        with pytest.raises(ValueError, match=message):
            agent.fit(Countdown, 1, verbose=0)

    def test_numbers_may_take_the_place_of_schedules(self):
        agent = spied(Countdown)
        agent.epsilon, agent.priority_beta = 0.0, 1.0
        history = agent.fit(Countdown, 3, initial_iteration=2, seed=0, verbose=0).history
        assert history["epsilon"] == [0.0]

    def test_episodes_that_were_going_on_are_cut(self):
        agent = spied(Endless)
        assert agent.replay.rows_since()["truncated"].sum() == 0
        agent.fit(Endless, 3, initial_iteration=2, seed=0, verbose=0)
        assert agent.replay.rows_since()["truncated"].sum() == 4

    def test_counts_go_on(self):
        agent = spied(Countdown)
        before = agent.episodes
        history = agent.fit(Countdown, 3, initial_iteration=2, seed=0, verbose=0).history
        assert history["episodes"][0] > before
        assert agent.warmed_up == [32, 32 + 2 * 64]  # nothing more to play at random

    def test_noise_and_seeds_are_those_of_the_iteration(self):
        agent = spied()
        assert agent.first_numbers(3) == (192, 192)

    def test_returns_that_were_met_are_remembered(self):
        class Goal(Countdown):
            """Costs 0.001 a step and pays 1 in the end."""

            def step(self, action):
                observation, _, ended, *rest = super().step(action)
                return observation, 1.0 if ended else -0.001, ended, *rest

        agent = spied(lambda: Goal(length=40), model=q_network(2), iterations=4, gamma=0.999)
        met = agent._warnings._largest_return
        assert met > 0.8
        agent.fit(lambda: Goal(length=40), 5, initial_iteration=4, seed=0, verbose=0)
        assert agent._warnings._largest_return >= met
        assert agent._warnings.gamma == 0.999


class TestFrames:
    def stacked(self, moves=True):
        class Frames(gymnasium.Env):
            """Three frames of one pixel, the newest last; or always other ones."""

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

    def model(self):
        return keras.Sequential(
            [
                keras.Input((1, 1, 3), dtype="uint8"),
                keras.layers.Flatten(),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Dense(2),
            ]
        )

    def test_are_stored_once_where_that_is_said(self):
        env = self.stacked()
        agent = tfpg.DQN(self.model(), frame_stack=3, **SMALL)
        agent.fit(env, 2, seed=0, verbose=0)
        assert agent.replay.stack == 3
        whole = tfpg.DQN(self.model(), **SMALL)
        whole.fit(env, 2, seed=0, verbose=0)
        assert whole.replay.stack == 1
        transitions = agent.replay.sample(np.random.default_rng(0), 64)
        for x in transitions.observations[:, 0, 0].astype(int):
            assert (np.diff(x) == (x[1:] > 0)).all()

    def learned(self, **options):
        agent = tfpg.DQN(self.model(), frame_stack=3, **{**SMALL, **options})
        agent.model.set_weights([np.full_like(w, 0.1) for w in agent.model.get_weights()])
        history = agent.fit(self.stacked(), 2, seed=0, verbose=0)
        return agent, history.history["loss"], agent.model.get_weights()

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_on_a_device_teach_the_same(self, jit_compile):
        _, losses, weights = self.learned(replay_device=None, jit_compile=jit_compile)
        agent, *other = self.learned(replay_device="CPU:0", jit_compile=jit_compile)
        drawn = agent.replay.sample(np.random.default_rng(0), 8)
        assert tf.is_tensor(drawn.observations)
        assert other[0] == losses
        for a, b in zip(weights, other[1], strict=True):
            np.testing.assert_array_equal(a, b)

    def test_stay_in_the_machine_where_the_device_is_full(self, monkeypatch):
        from tfpg.agents import off_policy

        class Full(off_policy.ReplayBuffer):
            def __init__(self, *args, device=None, **options):
                if device is not None:
                    raise MemoryError("GPU:0 has not as much free.")
                super().__init__(*args, **options)

        monkeypatch.setattr(off_policy, "ReplayBuffer", Full)
        monkeypatch.setattr(off_policy, "replay_device", lambda asked, _: asked and "GPU:0")
        with pytest.warns(UserWarning, match="as much free. Its images are kept in the mach"):
            agent, *_ = self.learned()
        assert isinstance(agent.replay.observations(np.arange(2)), np.ndarray)
        with pytest.raises(MemoryError, match="GPU:0 has not as much free"):
            self.learned(replay_device="GPU:0")

    def test_that_are_none_are_refused(self):
        agent = tfpg.DQN(self.model(), frame_stack=3, **SMALL)
        with pytest.raises(ValueError, match="do not move on by one along the last axis"):
            agent.fit(self.stacked(moves=False), 1, seed=0, verbose=0)

    def test_of_another_number(self):
        agent = tfpg.DQN(self.model(), frame_stack=4, **SMALL)
        with pytest.raises(ValueError, match="observations of 4 frames along their last axis"):
            agent.fit(self.stacked(), 1, seed=0, verbose=0)


class TestLives:
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_that_a_reset_does_not_tell(self, mode):
        class Lives(Countdown):
            def step(self, action):
                *rest, info = super().step(action)
                return *rest, {**info, "lives": 4 - self.t // 2}

        make = (lambda: SupervisedEnv(Lives(length=7))) if mode is AutoresetMode.DISABLED else None
        envs = SyncVectorEnv([make or (lambda: Lives(length=7))] * 4, autoreset_mode=mode)
        agent = tfpg.DQN(q_network(2), end_on_life_loss=True, **SMALL)
        agent.fit(envs, 3, seed=0, verbose=0)
        rows = agent.replay.rows_since()
        lost = np.isin(rows["observations"][:, 0], (1, 3, 5, 6))
        np.testing.assert_array_equal(rows["terminated"], lost & rows["real"])
        assert not rows["truncated"].any()


class TestSeeds:
    @pytest.mark.parametrize("slow", [False, True])
    def test_are_given_once_where_they_are_slow(self, slow):
        envs = SyncVectorEnv([Countdown] * 2, autoreset_mode="Disabled")
        envs.slow_seeds = slow
        spied(envs, model=q_network(2))
        seeds = envs.envs[0].unwrapped.seeds
        assert seeds[0] is not None
        assert (None in seeds[1:]) == slow


class TestWhatIsSaid:
    def test_warnings_are_of_the_line_that_called(self):
        def told(call):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                call()
            return [each.filename for each in said if each.category is TrainingWarning]

        constant = tfpg.Reinforce(q_network(2), max_steps=5)
        small = tfpg.DQN(q_network(2), **{**SMALL, "learning_starts": 3000})
        assert told(lambda: constant.fit(Countdown, 9, seed=0, verbose=0)) == [__file__]
        assert __file__ in told(lambda: small.fit(Countdown, 1, seed=0, verbose=0))

    def test_overlap_that_does_nothing(self):
        agent = tfpg.DQN(q_network(2), overlap=True, acting="tensorflow", **SMALL)
        with pytest.warns(UserWarning, match="overlap=True has no effect"):
            agent.fit(Countdown, 1, seed=0, verbose=0)

    def test_the_bar_shows_returns_that_come_later(self):
        agent = tfpg.DQN(q_network(2), **SMALL)
        text = io.StringIO()
        with redirect_stdout(text):
            agent.fit(lambda: Countdown(length=30), 6, seed=0, verbose=1)
        states = [line for line in text.getvalue().split("\r") if "/6" in line]
        assert "return: " not in states[0]
        assert " return: 30" in states[-1]

    def test_a_long_warm_up_says_so(self, capsys):
        agent = tfpg.DQN(q_network(2), **{**SMALL, "learning_starts": 10_000})
        agent.fit(Countdown, 1, seed=0, verbose=2)
        assert "Playing 10,000 steps at random before the" in capsys.readouterr().out

    def test_a_loss_that_is_not_used(self):
        model = q_network(2)
        model.compile("adam", loss="mse")
        with pytest.warns(UserWarning, match="compiled with loss='mse', which is not used"):
            tfpg.DQN(model)

    @pytest.mark.slow
    def test_agents_made_in_a_loop_are_not_taken_for_retracing(self, caplog, monkeypatch):
        logger = tf.get_logger()  # which hands nothing on
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])
        once = {**SMALL, "steps_per_iteration": 16}  # a compiled call in all
        for seed in range(7):
            tfpg.DQN(q_network(2, seed=seed), **once).fit(Countdown, 1, seed=0, verbose=0)
        assert "retracing" not in caplog.text

    def test_the_epsilon_in_the_end(self):
        table = [0.5, 0.25, 0.125]
        for schedule, end in (
            (lambda n: table[min(int(n), 2)], 0.125),
            (exponential(0.1, 0.1, 0.0), 0.1),
            (linear(1.0, 0.02, 100), 0.02),
            (0.3, 0.3),
        ):
            agent = tfpg.DQN(q_network(2), epsilon=schedule, **SMALL)
            assert agent.head_options() == {"epsilon": end}


class TestDiagnostics:
    def test_the_policy_that_is_trained_is_measured(self, tmp_path):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        model.set_weights([np.array([[0.0], [0], [-9], [-3]], "float32"), np.zeros(1, "float32")])
        model.compile(keras.optimizers.SGD(1e-9))
        look = tfpg.callbacks.Diagnostics(tmp_path / "d.png", "CartPole-v1", every=1, episodes=5)
        agent = tfpg.Reinforce(model, positive_action=0, max_steps=300, episodes_per_update=4)
        agent.fit("CartPole-v1", 1, callbacks=[look], seed=0, verbose=0)
        result = agent.evaluate("CartPole-v1", 5, seed=0)
        assert result["episode_return"] > 100
        assert np.minimum(look.measured[0]["returns"], 300).tolist() == result["episode_returns"]

    def test_a_figure_that_cannot_be_written(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="mkdir -p"):
            tfpg.callbacks.Diagnostics(tmp_path / "no/d.png", "CartPole-v1")
        with pytest.raises(ValueError, match=r"A figure ends in .png, .*figure' does not"):
            tfpg.callbacks.Diagnostics(tmp_path / "figure", "CartPole-v1")

    def test_when_and_with_which_seeds(self, tmp_path):
        look = tfpg.callbacks.Diagnostics(tmp_path / "d.png", "CartPole-v1", every=2, episodes=3)
        look.set_model(q_network())
        for count in (1, 3, 3, 4, 5, 7):
            look.on_epoch_end(0, {"episodes": count})
        assert [each["episodes"] for each in look.measured] == [3, 4, 7]
        assert len({tuple(each["returns"]) for each in look.measured}) > 1
