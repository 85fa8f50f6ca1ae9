"""DQN: what it computes, that it is reproducible, and what it refuses."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from PIL import Image
from small import SMALL, q_network
from toys import Bandit, Countdown, Endless

import tfpg
from tfpg.envs.probes import ObservedAction
from tfpg.rollouts.replay import ReplayBuffer, Transitions
from tfpg.schedules import exponential, linear


def train(env="CartPole-v1", iterations=3, seed=3, model=None, **options):
    agent = tfpg.DQN(model or q_network(), **{**SMALL, **options})
    history = agent.fit(env, iterations, seed=seed, verbose=0).history
    return agent, history


def weights_of(agent):
    return np.concatenate([w.ravel() for w in agent.model.get_weights()])


def transitions(count, seed=0, inputs=4, actions=2):
    rng = np.random.default_rng(seed)
    return Transitions(
        rng.normal(size=(count, inputs)).astype("float32"),
        rng.integers(actions, size=count).astype("int32"),
        rng.normal(size=count).astype("float32"),
        rng.choice([0.0, 0.9], count).astype("float32"),
        rng.normal(size=(count, inputs)).astype("float32"),
        rng.random(count).astype("float32"),
        np.arange(count),
    )


def built(model=None, env="CartPole-v1", **options):
    agent = tfpg.DQN(model or q_network(), **{**SMALL, **options})
    agent.prepare(agent.policy_for(env))
    return agent


def textbook_updates(model, data, batch_size, *, double, loss, period=None, tau=None):
    """The same updates, one at a time, with a second Keras model as the target network."""
    target = keras.models.clone_model(model)
    target.set_weights(model.get_weights())
    errors = []
    for update, start in enumerate(range(0, len(data.rewards), batch_size), 1):
        part = Transitions(*(x[start : start + batch_size] for x in data))
        following = target(part.next_observations).numpy()
        chooser = model(part.next_observations).numpy() if double else following
        best = chooser.argmax(axis=-1)
        goal = part.rewards + part.discounts * following[np.arange(batch_size), best]
        with tf.GradientTape() as tape:
            values = model(part.observations)
            taken = tf.gather(values, part.actions, batch_dims=1)
            difference = goal - taken
            if loss == "huber":
                size = tf.abs(difference)
                each = tf.where(size <= 1, 0.5 * difference**2, size - 0.5)
            else:
                each = difference**2
            mean = tf.reduce_mean(part.weights * each)
        model.optimizer.apply(
            tape.gradient(mean, model.trainable_variables), model.trainable_variables
        )
        errors.append(difference.numpy())
        if tau is not None:
            pairs = zip(target.get_weights(), model.get_weights(), strict=True)
            target.set_weights([old + tau * (new - old) for old, new in pairs])
        elif update % period == 0:
            target.set_weights(model.get_weights())
    return np.concatenate(errors), target.get_weights()


class TestUpdates:
    @pytest.mark.parametrize("double", [False, True])
    @pytest.mark.parametrize("loss", slow_but(["huber"], ["huber", "mse"]))
    def test_are_the_textbooks(self, double, loss):
        data = transitions(80)
        agent, model = built(double=double, loss=loss, target_update_period=3), q_network()
        _, errors = agent.learn_from(data)
        expected, target = textbook_updates(model, data, 8, double=double, loss=loss, period=3)
        np.testing.assert_allclose(errors, expected, atol=1e-5)
        for a, b in zip(agent.model.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        for a, b in zip(agent.target.weights, target, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    def test_a_target_network_that_follows_softly(self):
        data = transitions(40)
        agent, model = built(tau=0.1), q_network()
        agent.learn_from(data)
        _, target = textbook_updates(model, data, 8, double=True, loss="huber", tau=0.1)
        for a, b in zip(agent.target.weights, target, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    def test_many_in_one_call_are_many_calls(self):
        data = transitions(96)
        one, many = built(), built()
        one.learn_from(data)
        for start in range(0, 96, 24):
            many.learn_from(Transitions(*(x[start : start + 24] for x in data)))
        np.testing.assert_allclose(weights_of(one), weights_of(many), atol=1e-6)
        assert one.updates == many.updates == 12

    @pytest.mark.slow
    def test_xla_gives_the_same(self):
        data = transitions(80)
        one, other = built(), built(jit_compile=True)
        one_logs, one_errors = one.learn_from(data)
        logs, errors = other.learn_from(data)
        np.testing.assert_allclose(errors, one_errors, atol=1e-5)
        np.testing.assert_allclose(weights_of(one), weights_of(other), atol=1e-5)
        assert logs == pytest.approx(one_logs, rel=1e-4)

    def test_logs_are_means(self):
        data = transitions(16)
        agent = built(model=q_network(optimizer=keras.optimizers.SGD(0.0)))
        logs, errors = agent.learn_from(data)
        values = agent.model(data.observations).numpy()
        size = np.abs(errors)
        huber = np.where(size <= 1, 0.5 * size**2, size - 0.5)
        assert logs["loss"] == pytest.approx((data.weights * huber).mean(), rel=1e-5)
        assert logs["mean_q"] == pytest.approx(values.max(axis=1).mean(), rel=1e-5)
        assert logs["td_error"] == pytest.approx(size.mean(), rel=1e-5)
        norms = []
        for start in (0, 8):
            part = Transitions(*(x[start : start + 8] for x in data))
            following = agent.model(part.next_observations).numpy().max(axis=1)
            goal = part.rewards + part.discounts * following
            with tf.GradientTape() as tape:
                taken = tf.gather(agent.model(part.observations), part.actions, batch_dims=1)
                loss = tf.reduce_mean(
                    part.weights * keras.losses.huber(goal[:, None], taken[:, None])
                )
            grads = tape.gradient(loss, agent.model.trainable_variables)
            norms.append(tf.linalg.global_norm(grads).numpy())
        assert logs["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)

    def test_the_target_network_does_not_learn(self):
        agent = built(target_update_period=1000)
        before = [v.numpy() for v in agent.target.weights]
        agent.learn_from(transitions(40))
        for a, b in zip(agent.target.weights, before, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(("wrong", "jit_compile"), [(np.nan, False), (np.inf, True)])
    def test_what_is_not_finite_is_named_and_nothing_applied(self, wrong, jit_compile):
        agent = built(jit_compile=jit_compile)
        agent.learn_from(transitions(24))
        before = weights_of(agent)
        moments = [v.numpy() for v in agent.model.optimizer.variables]
        target = [v.numpy() for v in agent.target.weights]
        data = transitions(24)
        data.rewards[17] = wrong  # in the last of three updates
        with pytest.raises(FloatingPointError, match=r"gradient of '.*' is not finite .*skipped"):
            agent.learn_from(data)
        np.testing.assert_array_equal(weights_of(agent), before)
        pairs = [
            *zip(agent.model.optimizer.variables, moments, strict=True),
            *zip(agent.target.weights, target, strict=True),
        ]
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
        assert agent.updates == 3

    @pytest.mark.parametrize(
        ("policy", "computed", "kept"),
        [("mixed_bfloat16", "bfloat16", "float32"), ("float64", "float64", "float64")],
    )
    def test_precision_by_keras_own_policy(self, policy, computed, kept):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = q_network()
        finally:
            keras.config.set_dtype_policy(before)
        agent, history = train(model=model, iterations=2)
        assert agent.model.layers[0].compute_dtype == computed
        assert agent.model.trainable_variables[0].dtype == kept
        assert np.isfinite(history["loss"]).all()

    def test_any_keras_model_is_a_q_network(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.hidden = keras.layers.Dense(8, "relu")
                self.out = keras.layers.Dense(2)

            def call(self, x):
                return self.out(self.hidden(x))

        agent, history = train(model=Subclassed(), iterations=2)
        assert agent.policy.acting == "tensorflow"
        assert np.isfinite(history["loss"]).all()


class TestTraining:
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, marks=pytest.mark.slow),
            pytest.param({"overlap": True}, marks=pytest.mark.slow),
            {
                "prioritized": True,
                "priority_beta": linear(0.0, 1.0, 300),
                "n_step": 3,
                "overlap": True,
            },
        ],
    )
    def test_the_same_seed_gives_the_same_weights(self, options):
        one, one_logs = train(**options)
        same, same_logs = train(**options)
        other, _ = train(seed=4, **options)
        np.testing.assert_array_equal(weights_of(one), weights_of(same))
        assert one_logs == same_logs
        assert not np.array_equal(weights_of(one), weights_of(other))

    @pytest.mark.parametrize("overlap", [False, True])
    def test_traced_once(self, overlap):
        agent, _ = train(iterations=3, overlap=overlap)
        agent.fit("CartPole-v1", 6, initial_iteration=3, seed=3, verbose=0)
        assert agent._update_block.experimental_get_tracing_count() == 1

    def test_logs(self):
        agent, history = train(epsilon=linear(1.0, 0.5, 100))
        # A step in which CartPole resets itself is none.
        steps = np.diff(history["env_steps"], prepend=32)
        assert ((steps > 50) & (steps <= 64)).all()
        assert history["updates"] == [16, 32, 48]
        assert history["epsilon"][-1] == 0.5
        assert history["episodes"] == sorted(history["episodes"])
        assert set(history) >= {"loss", "mean_q", "td_error", "grad_norm", "episode_return"}
        assert agent.env_steps == history["env_steps"][-1]

    def test_epsilon_in_steps_and_in_episodes(self):
        _, history = train(Countdown, model=q_network(inputs=2), epsilon=linear(1.0, 0.0, 320))
        # 32 to warm up, then 64 an iteration, whose last 16 were played with what was known
        # before them.
        np.testing.assert_allclose(history["epsilon"], [1 - n / 320 for n in (80, 144, 208)])
        schedule = exponential(1.0, 0.0, 0.1)
        agent, history = train(epsilon=schedule, epsilon_per="episode", iterations=2)
        assert schedule(history["episodes"][-1]) <= history["epsilon"][-1] < schedule(0)
        assert agent.episodes == history["episodes"][-1] > 5

    def test_a_number_is_a_constant_epsilon(self):
        _, history = train(epsilon=0.25, iterations=2)
        assert history["epsilon"] == [0.25, 0.25]

    def test_warms_up_once(self):
        agent, history = train(Countdown, model=q_network(inputs=2), learning_starts=100)
        assert history["env_steps"] == [164, 228, 292]
        again = agent.fit(Countdown, 5, initial_iteration=3, seed=3, verbose=0).history
        assert again["env_steps"] == [356, 420]

    def test_a_second_fit_goes_on_with_what_is_stored(self):
        agent, _ = train()
        stored, updates = len(agent.replay), agent.updates
        agent.fit("CartPole-v1", 4, initial_iteration=3, seed=3, verbose=0)
        assert len(agent.replay) > stored
        assert agent.updates == updates + 16

    def test_environments_of_another_number_get_a_replay_of_their_own(self):
        agent, _ = train()
        agent.num_envs = 8
        agent.fit("CartPole-v1", 1, seed=3, verbose=0)
        assert agent.replay.num_envs == 8

    def test_what_is_said_between_fits_counts(self):
        agent, _ = train(prioritized=True)
        replay = agent.replay
        agent.gamma = 0.5
        agent.fit("CartPole-v1", 4, initial_iteration=3, seed=3, verbose=0)
        assert agent.replay is replay
        assert replay.gamma == 0.5
        agent.n_step = 3
        agent.fit("CartPole-v1", 5, initial_iteration=4, seed=3, verbose=0)
        assert agent.replay.n_step == 3
        assert agent.replay is not replay

    def test_another_optimizer_keeps_the_target_network(self):
        agent, _ = train(target_update_period=1000)
        target = agent.target.weights
        agent.model.compile(keras.optimizers.SGD(0.01))
        agent.fit("CartPole-v1", 4, initial_iteration=3, seed=3, verbose=0)
        assert agent.target.weights is target
        assert agent.updates == 64

    def test_a_layer_that_is_frozen_between_fits_stays_as_it_is(self):
        agent, _ = train()
        agent.model.layers[0].trainable = False
        before = agent.model.layers[0].kernel.numpy()
        agent.model.compile(keras.optimizers.Adam(0.01))
        agent.fit("CartPole-v1", 4, initial_iteration=3, seed=3, verbose=0)
        np.testing.assert_array_equal(agent.model.layers[0].kernel, before)

    def test_its_config_is_json(self):
        config = json.loads(json.dumps(tfpg.DQN(q_network(), **SMALL).get_config()))
        assert config["epsilon"] == "linear(1.0, 0.05, 10000)"
        assert config["priority_beta"] == 0.4
        assert (config["capacity"], config["double"]) == (2000, True)

    def test_one_environment(self):
        env = tfpg.envs.make("CartPole-v1")
        agent, history = train(env, learn_period=1, updates_per_learn=1, steps_per_iteration=30)
        assert np.isfinite(history["loss"]).all()
        assert agent.replay.num_envs == 1
        env.close()

    @pytest.mark.parametrize("n_step", [1, 4])
    def test_waits_for_a_whole_transition(self, n_step):
        _, history = train(learning_starts=1, n_step=n_step, learn_period=4)
        assert np.isfinite(history["loss"]).all()

    def test_an_action_that_explores_is_repeated(self):
        class Told(Countdown):
            actions = []

            def step(self, action):
                self.actions.append(int(action))
                return super().step(action)

        train(
            lambda: Told(9), 2, model=q_network(inputs=2), epsilon=1.0, explore_steps=5, num_envs=1
        )
        played = Told.actions[:125]
        groups = np.reshape(played, (-1, 5))
        assert (groups == groups[:, :1]).all()
        assert 0.2 < groups[:, 0].mean() < 0.8

    def test_a_lost_life_ends_what_is_learned(self):
        class Lives(Countdown):
            def __init__(self):
                super().__init__(length=9)

            def reset(self, **kwargs):
                return super().reset(**kwargs)[0], {"lives": 3}

            def step(self, action):
                *rest, _ = super().step(action)
                return *rest, {"lives": 3 - self.t // 3}

        agent, history = train(Lives, model=q_network(inputs=2), end_on_life_loss=True)
        assert history["episode_length"][-1] == 9
        rows = agent.replay.rows_since()
        lost = np.isin(rows["observations"][:, 0], (2, 5, 8))
        np.testing.assert_array_equal(rows["terminated"], lost & rows["real"])

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_every_autoreset_mode(self, mode):
        envs = SyncVectorEnv(
            [lambda: Countdown(lengths=[2, 5, 3]) for _ in range(4)], autoreset_mode=mode
        )
        agent, history = train(envs, model=q_network(inputs=2))
        assert np.isfinite(history["loss"]).all()
        assert 2 < history["episode_length"][-1] < 5
        assert len(agent.replay) == agent.env_steps
        rows = agent.replay.rows_since()
        assert rows["real"][rows["terminated"]].all()
        envs.close()

    def test_discrete_observations(self):
        model = tfpg.networks.mlp("FrozenLake-v1", hidden=(16,), activation="relu")
        agent, history = train("FrozenLake-v1", model=model)
        assert agent.replay.rows_since()["observations"].dtype == np.int64
        assert np.isfinite(history["loss"]).all()

    def test_observations_in_a_dict(self):
        class Both(Bandit):
            def __init__(self):
                super().__init__()
                self.observation_space = spaces.Dict(
                    {"sign": spaces.Box(-1, 1, (1,), np.float32), "b": spaces.Discrete(3)}
                )

            def reset(self, **kwargs):
                x, info = super().reset(**kwargs)
                return {"sign": x, "b": 1}, info

            def step(self, action):
                x, *rest = super().step(action)
                return {"sign": x, "b": 2}, *rest

        for chosen in (("sign", "b"), ("sign",)):
            shapes = {"sign": (1,), "b": (3,)}
            inputs = {key: keras.Input(shapes[key], name=key) for key in chosen}
            parts = list(inputs.values())
            x = parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)
            model = keras.Model(inputs, keras.layers.Dense(2)(x))
            _, history = train(Both, model=model)
            assert np.isfinite(history["loss"]).all()

    def test_statistics_are_kept_while_training(self):
        model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), activation="relu", normalize=True)
        agent, _ = train(model=model, overlap=True)
        assert np.abs(agent.model.get_layer("observation_statistics").moving_mean).max() > 0

    def test_rewards_are_clipped_in_what_is_learned_alone(self):
        class Rich(Countdown):
            def step(self, action):
                x, _, *rest = super().step(action)
                return x, 50.0, *rest

        agent, history = train(Rich, model=q_network(inputs=2), reward_clip=1.0)
        assert agent.replay.rows_since()["rewards"].max() == 1
        assert history["episode_return"][-1] == 150

    def test_max_steps_cuts_episodes(self):
        agent, history = train(Endless, model=q_network(inputs=1), max_steps=7)
        assert history["episode_length"][-1] == 7
        rows = agent.replay.rows_since()
        assert rows["truncated"].any()
        assert not rows["terminated"].any()

    @pytest.mark.slow
    def test_dueling_and_prioritized_learn_a_bandit(self):
        model = tfpg.networks.dueling(ObservedAction, hidden=(16,), seed=0)
        model.compile(keras.optimizers.Adam(0.01))
        agent, _ = train(ObservedAction, model=model, prioritized=True, iterations=20)
        assert agent.evaluate(ObservedAction, 50, seed=0)["episode_return"] == 1.0

    def test_saved_loaded_and_played_by_plain_keras(self, tmp_path):
        agent, _ = train(model=tfpg.networks.dueling("CartPole-v1", hidden=(8,)))
        path = agent.save(tmp_path / "q.keras")
        plain = keras.saving.load_model(path)
        x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
        np.testing.assert_array_equal(agent.predict(x), plain(x).numpy().argmax(axis=1))
        same = [
            tfpg.evaluate(each, "CartPole-v1", 5, seed=1)["episode_returns"]
            for each in (agent, plain)
        ]
        assert same[0] == same[1]
        again = tfpg.DQN.load(path, **SMALL)
        again.fit("CartPole-v1", 1, seed=0, verbose=0)

    def test_a_sample_explores_and_the_mode_is_greedy(self):
        policy = tfpg.Policy(q_network(), "CartPole-v1", epsilon=0.5)
        x = np.tile(np.ones((1, 4), np.float32), (4000, 1))
        greedy = policy.act(x)[0]
        share = (policy.act(x, deterministic=False, seed=0) == greedy).mean()
        assert share == pytest.approx(0.75, abs=0.03)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"capacity": 4}, r"capacity must be at least batch_size \(8\), got 4"),
            ({"window": 0}, "window must be an integer of at least 1, got 0"),
            ({"n_step": 0}, "n_step must be an integer of at least 1, got 0"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"gamma": 1.5}, "gamma must be a number from"),
            ({"loss": "mae"}, r"loss must be one of 'huber', 'mse'"),
            ({"epsilon": 1.5}, "epsilon must be a number .* or a schedule"),
            ({"epsilon": "linear"}, "epsilon must be a number .* got 'linear'"),
            ({"epsilon_per": "update"}, "epsilon_per must be one of"),
            ({"tau": 1.5}, "tau must be a number above 0 and up to 1"),
            ({"tau": 0.0}, "tau must be a number .* got 0.0"),
            ({"priority_beta": -1}, "priority_beta must be a number from"),
            ({"reward_clip": 0}, "reward_clip must be a number above 0 or None, got 0"),
            ({"updates_per_learn": 2.5}, "updates_per_learn must be an integer"),
        ],
    )
    def test_options_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            tfpg.DQN(q_network(), **{**SMALL, **options})

    def test_real_actions_name_the_agents_that_do_them(self):
        message = (
            r"Q-values need Discrete actions, but the action space is Box\(.*"
            "tfpg.Reinforce, tfpg.A2C and tfpg.PPO can learn in it"
        )
        with pytest.raises(ValueError, match=message):
            train("Pendulum-v1", model=q_network(3, 1))

    @pytest.mark.parametrize("outputs", [1, 3])
    def test_a_wrong_number_of_outputs(self, outputs):
        message = rf"model has {outputs} outputs?, but Discrete\(2\) needs 2 \(the value of each"
        with pytest.raises(ValueError, match=message):
            train(model=q_network(outputs=outputs))

    @pytest.mark.parametrize("last", ["softmax", "tanh", "relu"])
    def test_a_model_that_ends_in_an_activation(self, last):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, last)])
        with pytest.raises(
            ValueError, match=f"ends in a {last} activation, but Q-values can be any"
        ):
            train(model=model)

    def test_a_model_with_a_value(self):
        model = tfpg.networks.actor_critic("CartPole-v1")
        with pytest.raises(ValueError, match="has a second output, and a Q-network has one"):
            train(model=model)

    def test_a_period_that_the_environments_do_not_divide(self):
        with pytest.raises(ValueError, match="multiple of the 3 environments, .* got 16"):
            train(num_envs=3)

    def test_update_before_fit(self):
        with pytest.raises(RuntimeError, match="call fit"):
            tfpg.DQN(q_network()).update(None)

    def test_lives_that_are_not_told(self):
        with pytest.raises(ValueError, match="end_on_life_loss needs an environment that"):
            train(end_on_life_loss=True)

    def test_a_replay_that_does_not_fit_into_memory(self):
        with pytest.raises(MemoryError, match="A replay of .* rows needs .* are free: use a small"):
            train(capacity=10**12)

    def test_nan_rewards_are_the_environments(self):
        class Broken(Countdown):
            def step(self, action):
                x, _, *rest = super().step(action)
                return x, np.nan if self.t == 2 else 1.0, *rest

        with pytest.raises(tfpg.errors.EnvDataError, match="Environment 0 returned .* nan"):
            train(Broken, model=q_network(inputs=2))


def test_the_replay_is_what_was_played():
    """Every stored transition of CartPole obeys CartPole's own equations."""
    agent, _ = train(iterations=5)
    replay = agent.replay
    assert isinstance(replay, ReplayBuffer)
    sampled = replay.sample(np.random.default_rng(0), 200)
    x, y = sampled.observations.astype(float), sampled.next_observations.astype(float)
    np.testing.assert_allclose(y[:, 0], x[:, 0] + 0.02 * x[:, 1], atol=1e-5)
    np.testing.assert_allclose(y[:, 2], x[:, 2] + 0.02 * x[:, 3], atol=1e-5)
    force = np.sign(y[:, 1] - x[:, 1])
    np.testing.assert_array_equal(force, 2 * sampled.actions - 1)
    ended = (np.abs(y[:, 0]) > 2.4) | (np.abs(y[:, 2]) > 12 * np.pi / 180)
    np.testing.assert_array_equal(sampled.discounts == 0, ended)


def frames_env(stack=4, size=36):
    """A tiny picture of a sign, stacked; the action that fits it is paid."""

    class Pictures(Bandit):
        frame_stack = stack

        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Box(0, 255, (size, size, stack), np.uint8)

        def _picture(self, value):
            return np.full((size, size, stack), value, np.uint8)

        def reset(self, **kwargs):
            _, info = super().reset(**kwargs)
            return self._picture(200 * self.sign + 20), info

        def step(self, action):
            _, *rest = super().step(action)
            return self._picture(0), *rest

    return Pictures


class TestImages:
    def test_xla_is_for_gpus_where_a_model_convolves(self):
        env = frames_env()
        agent = tfpg.DQN(
            tfpg.networks.nature_cnn(env, hidden=16, seed=0), **SMALL | {"jit_compile": "auto"}
        )
        agent.prepare(agent.policy_for(env))
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        assert agent._update_block._jit_compile == on_gpu
        assert built(jit_compile="auto")._update_block._jit_compile

    @pytest.mark.slow
    def test_a_convolution_learns_from_uint8(self):
        env = frames_env()
        model = tfpg.networks.nature_cnn(env, hidden=16, seed=0)
        model.compile(keras.optimizers.Adam(1e-3))
        agent, history = train(env, 8, model=model, jit_compile="auto", batch_size=32)
        assert agent.replay.rows_since()["observations"].dtype == np.uint8
        assert agent.evaluate(env, 20, seed=0)["episode_return"] == 1.0
        assert history["loss"][-1] < history["loss"][0]

    def test_pong_plays_and_learns_with_frames_stored_once(self):
        model = tfpg.networks.nature_cnn("ALE/Pong-v5", hidden=16, seed=0)
        options = {"reward_clip": 1.0, "end_on_life_loss": True, "learning_starts": 64}
        agent, history = train("ALE/Pong-v5", 1, model=model, jit_compile="auto", **options)
        assert np.isfinite(history["loss"]).all()
        assert agent.replay.stack == 4
        assert agent.replay.rows_since()["observations"].shape[1:] == (84, 84)
        sampled = agent.replay.sample(np.random.default_rng(0), 30)
        x, y = sampled.observations, sampled.next_observations
        np.testing.assert_array_equal(y[..., :3], x[..., 1:])


class TestCallbacks:
    def test_diagnostics_are_measured_every_so_many_episodes(self, tmp_path):
        figure = tmp_path / "figure.png"
        look = tfpg.callbacks.Diagnostics(figure, Countdown, every=25, episodes=3, solved=2.5)
        agent = tfpg.DQN(q_network(inputs=2), **SMALL)
        agent.fit(Countdown, 4, callbacks=[look], seed=0, verbose=0)
        counts = [each["episodes"] for each in look.measured]
        assert agent.episodes >= 75
        assert [count // 25 for count in counts[:-1]] == [1, 2, 3][: len(counts) - 1]
        assert counts[-1] == agent.episodes
        assert len(counts) >= 3
        assert all(each["returns"] == [3.0] * 3 for each in look.measured)
        assert [each["epsilon"] for each in look.measured] == sorted(
            (each["epsilon"] for each in look.measured), reverse=True
        )
        picture = np.asarray(Image.open(figure))
        assert picture.shape[0] > picture.shape[1] * 0.9  # three panels

    def test_diagnostics_count_iterations_where_no_episodes_are_told(self, tmp_path):
        look = tfpg.callbacks.Diagnostics(tmp_path / "figure.png", "CartPole-v1", 2, 2, max_steps=9)
        assert look.solved == 475.0
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"), episodes_per_update=2, max_steps=9)
        agent.fit("CartPole-v1", 5, callbacks=[look], seed=0, verbose=0)
        assert [each["episodes"] for each in look.measured] == [2, 4, 5]
        assert "epsilon" not in look.measured[0]

    def test_the_bar_tells_rates_and_the_history_does_not(self, capsys):
        _, history = train(Countdown, model=q_network(inputs=2))
        assert not any("/s" in name for name in history)
        agent = tfpg.DQN(q_network(inputs=2), **SMALL)
        agent.fit(Countdown, 2, seed=0, verbose=2)
        lines = capsys.readouterr().out.splitlines()
        agent.fit(Countdown, 3, initial_iteration=2, seed=0, verbose=2)
        for line in (lines[-1], capsys.readouterr().out):  # not all updates that ever were
            steps, updates = (
                int(re.search(rf" {name}/s: ([\d,]+)", line)[1].replace(",", ""))
                for name in ("steps", "updates")
            )
            assert steps == pytest.approx(4 * updates, rel=0.2)  # 64 steps and 16 updates

    def test_a_budget_of_steps_counts_the_warm_up_once(self):
        stop = tfpg.callbacks.StopAtSteps(500)
        agent = tfpg.DQN(q_network(inputs=2), **{**SMALL, "learning_starts": 200})
        agent.fit(Countdown, 99, callbacks=[stop], seed=0, verbose=0)
        assert agent.env_steps == 200 + 4 * 64

    def test_a_large_replay_says_what_it_takes(self, capsys):
        agent = tfpg.DQN(q_network(inputs=2), **{**SMALL, "capacity": 10_000_000})
        agent.fit(Countdown, 1, seed=0, verbose=2)
        out = capsys.readouterr().out
        assert re.match(r"The replay of 10,000,000 steps takes up to 190 MB of memory", out)

    def test_stock_callbacks(self, tmp_path):
        checkpoint = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="episode_return", mode="max", save_best_only=True
        )
        log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
        stop = keras.callbacks.EarlyStopping("loss", patience=1, mode="max")
        agent = tfpg.DQN(q_network(), **SMALL)
        agent.fit("CartPole-v1", 6, callbacks=[checkpoint, log, stop], seed=0, verbose=0)
        assert (tmp_path / "best.keras").exists()
        assert "mean_q" in (tmp_path / "log.csv").read_text().splitlines()[0]
