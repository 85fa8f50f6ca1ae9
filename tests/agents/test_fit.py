"""What `fit`, `predict`, `evaluate` and `save` do, whatever the algorithm."""

import copy
import gc
import itertools
import json
import pickle

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from small import (
    ALGORITHMS,
    AfterEachIteration,
    TraceCounter,
    collected,
    episodes_of,
    flat_weights,
    options_for,
    q_network,
    small_agent,
    small_model,
    small_sac,
    three_actions,
)
from toys import Bandit, Camera, Countdown

import tfpg
from tfpg.models import networks


def algorithms(*fast):
    """All algorithms, those that are not listed marked slow."""
    return pytest.mark.parametrize("algorithm", slow_but(fast, ALGORITHMS))


@pytest.fixture(scope="module")
def reinforce():
    """A REINFORCE that was trained for an iteration."""
    agent = small_agent(tfpg.Reinforce)
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    return agent


class TestReproducibility:
    @algorithms(tfpg.Reinforce, tfpg.PPO, tfpg.DQN)
    def test_the_same_seed_gives_the_same_weights_and_logs(self, algorithm):
        global_state = np.random.get_state()[1].copy()
        agents = [small_agent(algorithm), small_agent(algorithm)]
        one, other = (agent.fit("CartPole-v1", 3, seed=3, verbose=0).history for agent in agents)
        models = [agent.model for agent in agents]
        assert one == other
        np.testing.assert_array_equal(*map(flat_weights, models))
        np.testing.assert_array_equal(global_state, np.random.get_state()[1])
        for agent, seed in zip(agents, (3, 4), strict=True):
            agent.fit("CartPole-v1", 4, seed=seed, initial_iteration=3, verbose=0)
        assert not np.array_equal(*map(flat_weights, models))

    @pytest.mark.slow
    @pytest.mark.parametrize("gradient", ["fused", "accumulated"])
    def test_the_same_seed_gives_the_same_weights_in_acrobot(self, gradient):
        weights = []
        for seed in (5, 5, 6):
            model = tfpg.networks.mlp("Acrobot-v1", seed=1)
            options = {"gradient": gradient, "entropy_coef": 0.01, "max_steps": 40}
            agent = tfpg.Reinforce(model, episodes_per_update=4, **options)
            agent.fit("Acrobot-v1", 3, seed=seed, verbose=0)
            weights.append(flat_weights(model))
        np.testing.assert_array_equal(weights[0], weights[1])
        assert not np.array_equal(weights[0], weights[2])

    def test_two_fits_in_a_row_are_one_long_fit(self, eager):
        whole, parts = (small_agent(tfpg.Reinforce) for _ in range(2))
        whole.fit("CartPole-v1", 4, seed=5, verbose=0)
        parts.fit("CartPole-v1", 2, seed=5, verbose=0)
        parts.fit("CartPole-v1", 4, seed=5, initial_iteration=2, verbose=0)
        np.testing.assert_array_equal(flat_weights(whole.model), flat_weights(parts.model))
        assert whole.env_steps == parts.env_steps

    @pytest.mark.slow
    @pytest.mark.parametrize("algorithm", [tfpg.A2C, tfpg.PPO])
    def test_a_fit_that_continues_another_plays_episodes_with_new_seeds(self, algorithm):
        env = Countdown(length=2)
        agent = small_agent(algorithm, env, num_envs=1, minibatches=1)
        agent.fit(env, 1, seed=0, verbose=0)
        agent.fit(env, 2, seed=0, initial_iteration=1, verbose=0)
        assert len(set(env.seeds)) == len(env.seeds)
        assert agent.env_steps == 16


class TestTracing:
    @pytest.mark.parametrize(
        ("algorithm", "options"),
        slow_but(
            [(tfpg.Reinforce, ()), (tfpg.PPO, ()), (tfpg.DQN, (("overlap", True),))],
            [*((each, ()) for each in ALGORITHMS), (tfpg.DQN, (("overlap", True),))],
        ),
    )
    def test_updates_are_traced_in_the_first_iteration_alone(self, algorithm, options):
        counter = TraceCounter()
        model = small_model(algorithm)
        model.layers[1].kernel.regularizer = counter
        agent = small_agent(algorithm, model=model, **dict(options))
        count = AfterEachIteration(lambda: counter.traces)
        # CartPole's vectorized environments take a step to reset themselves, which is no data.
        history = agent.fit("CartPole-v1", 8, [count], seed=0, verbose=0).history
        agent.fit("CartPole-v1", 2, [count], seed=1, verbose=0)
        assert count.values == [counter.traces] * 10
        assert counter.traces > 0
        if algorithm in (tfpg.A2C, tfpg.PPO):
            steps = np.diff([0, *history["env_steps"]])
            assert steps.max() == 32
            assert steps.min() < 32

    @pytest.mark.slow
    @pytest.mark.parametrize("algorithm", [tfpg.A2C, tfpg.PPO])
    def test_xla_gives_the_same_weights(self, algorithm):
        models = []
        for jit_compile in (False, True):
            agent = small_agent(algorithm, jit_compile=jit_compile)
            agent.model.compile(keras.optimizers.SGD(0.1))
            agent.fit("CartPole-v1", 3, seed=3, verbose=0)
            models.append(agent.model)
        np.testing.assert_allclose(*map(flat_weights, models), atol=1e-5)


class TestKerasModels:
    @algorithms(tfpg.Reinforce, tfpg.DQN)
    def test_frozen_layers_and_optimizers_may_change_between_fits(self, algorithm):
        model = small_model(algorithm, hidden=(6, 6))
        first, second = model.layers[1:3]
        first.trainable = False
        start = model.get_weights()
        agent = small_agent(algorithm, model=model)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        middle = model.get_weights()
        first.trainable, second.trainable = True, False
        model.compile(keras.optimizers.SGD(0.1))
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        end = model.get_weights()
        for i, (a, b, c) in enumerate(zip(start, middle, end, strict=True)):
            assert np.array_equal(a, b) == (i < 2)
            assert np.array_equal(b, c) == (i in (2, 3))
        updates = {tfpg.PPO: 160, tfpg.DQN: 32}
        assert int(model.optimizer.iterations) == updates.get(algorithm, 2)

    def test_an_uncompiled_model_gets_the_default_optimizer(self):
        model = small_model(tfpg.Reinforce)
        tfpg.Reinforce(model)
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)

    def test_a_compiled_model_keeps_its_optimizer_and_its_schedule(self, eager):
        model = small_model(tfpg.Reinforce)
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
        model.compile(keras.optimizers.SGD(schedule, momentum=0.9))
        small_agent(tfpg.Reinforce, model=model).fit("CartPole-v1", 3, seed=0, verbose=0)
        assert isinstance(model.optimizer, keras.optimizers.SGD)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 0.5**3)

    def test_a_loss_that_is_not_used_is_a_warning(self):
        model = q_network()
        model.compile("adam", loss="mse")
        with pytest.warns(UserWarning, match="compiled with loss='mse', which is not used"):
            tfpg.DQN(model)

    def test_a_model_without_trainable_weights_is_refused(self):
        model = small_model(tfpg.Reinforce)
        model.trainable = False
        with pytest.raises(ValueError, match="no trainable weights"):
            tfpg.Reinforce(model).fit("CartPole-v1", 1, verbose=0)

    def test_loss_scaling_is_refused(self):
        model = small_model(tfpg.Reinforce)
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
        with pytest.raises(ValueError, match="mixed_bfloat16"):
            tfpg.Reinforce(model).fit("CartPole-v1", 1, verbose=0)

    def test_only_keras_models_are_accepted(self):
        with pytest.raises(TypeError, match="Reinforce needs a Keras model.* got .CartPole-v1"):
            tfpg.Reinforce("CartPole-v1")

    @pytest.mark.parametrize(
        ("algorithm", "policy"),
        slow_but(
            [(tfpg.PPO, "mixed_bfloat16"), (tfpg.DQN, "float64")],
            itertools.product(ALGORITHMS, ["mixed_bfloat16", "float64"]),
        ),
    )
    def test_models_of_another_precision_train(self, algorithm, policy):
        keras.config.set_dtype_policy(policy)
        try:
            model = small_model(algorithm)
        finally:
            keras.config.set_dtype_policy("float32")
        history = small_agent(algorithm, model=model).fit("CartPole-v1", 2, seed=0, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
        kept = "float32" if policy.startswith("mixed") else policy
        assert {w.dtype for w in model.trainable_variables} == {kept}

    @algorithms(tfpg.A2C)
    def test_statistics_of_observations_change_in_training_alone(self, algorithm, eager):
        agent = small_agent(algorithm, model=small_model(algorithm, normalize=True))
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        layer = agent.model.get_layer("observation_statistics")
        seen = layer.moving_variance.numpy().copy()
        assert (seen != 1).all()
        agent.evaluate("CartPole-v1", 2, seed=0)
        np.testing.assert_array_equal(layer.moving_variance, seen)

    @algorithms(tfpg.PPO)
    def test_a_convolution_gets_images_as_uint8(self, algorithm):
        x = keras.Input((8, 8, 1), dtype="uint8")
        y = keras.layers.Rescaling(1 / 255)(x)
        y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(y))
        dense = keras.layers.Dense
        two = algorithm is not tfpg.DQN
        model = keras.Model(x, [dense(2)(y), dense(1)(y)] if two else dense(2)(y))
        options = {"baseline": "value"} if algorithm is tfpg.Reinforce else {}
        agent = small_agent(algorithm, model=model, **options)
        history = agent.fit(Camera, 2, seed=0, verbose=0).history
        assert agent.policy.acting == "tensorflow"
        assert np.isfinite(history["loss"]).all()
        if two:
            data = collected(agent, Camera)
            assert data.observations.dtype == np.uint8
            assert agent.to_batch(data).inputs.dtype == np.uint8
        else:
            assert agent.replay.rows_since()["observations"].dtype == np.uint8


class TestEnvironments:
    def test_every_autoreset_mode_trains(self, eager):
        agent = small_agent(tfpg.A2C, three_actions())
        for mode in AutoresetMode:
            envs = SyncVectorEnv([three_actions] * 4, autoreset_mode=mode)
            assert np.isfinite(agent.fit(envs, 2, seed=0, verbose=0).history["loss"]).all()

    @pytest.mark.parametrize(
        "algorithm", slow_but([tfpg.A2C], [tfpg.Reinforce, tfpg.A2C, tfpg.DQN])
    )
    def test_a_vector_environment_that_waits_to_be_reset_trains(self, algorithm, eager):
        class Waiting(gymnasium.vector.VectorEnv):
            """Three environments with episodes of one, two and three steps."""

            num_envs = 3
            metadata = {"autoreset_mode": AutoresetMode.DISABLED}
            single_observation_space = spaces.Box(-9, 9, (3,), np.float32)
            single_action_space = spaces.Discrete(3)
            observation_space = spaces.Box(-9, 9, (3, 3), np.float32)
            action_space = spaces.MultiDiscrete([3] * 3)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                mask = (options or {}).get("reset_mask")
                if mask is None:
                    self.t = np.zeros(3)
                else:
                    self.t[mask] = 0
                return self._observe(), {}

            def step(self, actions):
                self.t += 1
                ended = self.t >= 1 + np.arange(3)
                return self._observe(), np.ones(3), ended, np.zeros_like(ended), {}

            def _observe(self):
                return np.repeat(self.t[:, None], 3, axis=1).astype("float32")

        options = {"learn_period": 15} if algorithm is tfpg.DQN else {}
        agent = small_agent(algorithm, Waiting(), **options)
        history = agent.fit(Waiting(), 4, seed=0, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_max_steps_truncates_the_episodes_of_an_id(self, eager):
        agent = small_agent(tfpg.A2C, "Pendulum-v1", max_steps=5)
        history = agent.fit("Pendulum-v1", 12, seed=0, verbose=0).history
        assert history["episode_length"][-1] == 5.0

    def test_the_users_environment_stays_open(self, eager):
        class Closing(Countdown):
            closed = False

            def close(self):
                self.closed = True

        env = Closing()
        small_agent(tfpg.Reinforce, env).fit(env, 2, verbose=0)
        assert not env.closed


class TestLogs:
    @algorithms(tfpg.A2C)
    def test_the_mean_return_waits_for_a_tenth_of_the_window(self, algorithm, eager):
        env = Countdown(length=4)
        small = {tfpg.Reinforce: {}, tfpg.DQN: {"learn_period": 8, "steps_per_iteration": 8}}
        options = small.get(algorithm, {"minibatches": 1})
        window = {"window": 100} if algorithm is tfpg.DQN else {}
        agent = small_agent(algorithm, env, num_envs=1, **options, **window)
        history = agent.fit(env, 7, seed=0, verbose=0).history
        assert len(history["env_steps"]) == 7
        # Seven iterations have 14 episodes, of which 10 are needed, or 4 each.
        count = 7 if algorithm is tfpg.Reinforce else 3
        assert history["episode_return"] == history["episode_length"] == [4.0] * count

    def test_padding_is_left_out_of_means_and_counts(self, eager):
        envs = SyncVectorEnv([lambda n=n: Countdown(length=n) for n in (2, 6)])
        agent = small_agent(tfpg.Reinforce, envs, episodes_per_update=2)
        history = agent.fit(envs, 1, seed=0, verbose=0).history
        assert history["env_steps"] == [8]
        assert history["episode_length"] == history["episode_return"] == [4.0]


class TestValidation:
    def test_the_training_environment_is_refused(self):
        env = Countdown(length=7)
        agent = small_agent(tfpg.A2C, env)
        with pytest.raises(ValueError, match="validation_envs is the training environment"):
            agent.fit(env, 1, validation_envs=env)

    def test_validation_does_not_change_the_training(self, eager):
        agents = [small_agent(tfpg.A2C, three_actions()) for _ in range(2)]
        options = {"validation_freq": 4, "validation_episodes": 3, "seed": 3, "verbose": 0}
        agents[0].fit(three_actions, 6, **options)
        history = agents[1].fit(three_actions, 6, validation_envs=three_actions, **options).history
        assert len(history["val_episode_return"]) == len(history["val_episode_length"]) == 2
        np.testing.assert_array_equal(*(flat_weights(agent.model) for agent in agents))
        assert history["env_steps"][-1] == agents[0].env_steps

    def test_validations_can_follow_environment_steps(self, eager):
        agent = small_agent(tfpg.A2C, Countdown, num_envs=2, num_steps=5)
        steps = {"env_steps": 64, "validation_env_steps": 25, "validation_episodes": 2}
        logs = agent.fit(Countdown, validation_envs=Countdown, seed=0, verbose=0, **steps).history
        assert logs["env_steps"] == [10 * i for i in range(1, 7)]
        assert logs["val_env_steps"] == [30, 50, 60]  # the last one is at the end
        assert len(logs["val_episode_return"]) == 3

    def test_callbacks_can_monitor_the_validation(self, tmp_path, eager):
        stop = tfpg.callbacks.StopAtReturn(2.0, monitor="val_episode_return")
        checkpoint = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_episode_return", mode="max", save_best_only=True
        )
        agent = small_agent(tfpg.Reinforce, Countdown)
        options = {"validation_envs": Countdown, "validation_freq": 3, "seed": 0, "verbose": 0}
        history = agent.fit(Countdown, 9, callbacks=[stop, checkpoint], **options)
        assert len(history.epoch) == 3
        assert (tmp_path / "best.keras").exists()


class TestArguments:
    @pytest.mark.parametrize(
        "name", ["validation_freq", "validation_episodes", "validation_env_steps", "env_steps"]
    )
    def test_counts_of_the_validation_are_checked(self, name):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
            small_agent(tfpg.Reinforce).fit("CartPole-v1", 1, **{name: 0})

    def test_the_length_of_the_training_is_required(self):
        with pytest.raises(TypeError, match="fit needs iterations=... or env_steps=..."):
            small_agent(tfpg.Reinforce).fit("CartPole-v1")

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("epochs", "In tfpg, it is called 'iterations'"),
            ("total_timesteps", "In tfpg, it is called 'env_steps'"),
            ("callback", "In tfpg, it is called 'callbacks'"),
            ("verbos", "Did you mean 'verbose'"),
        ],
    )
    def test_an_unknown_argument_of_fit_is_refused_with_a_hint(self, name, hint):
        with pytest.raises(TypeError, match=f"Unknown argument of fit '{name}'. {hint}"):
            small_agent(tfpg.Reinforce).fit("CartPole-v1", 1, **{name: 1})

    def test_other_libraries_names_of_methods_are_refused_with_a_hint(self):
        for name in ("learn", "train"):
            with pytest.raises(AttributeError, match="call fit"):
                getattr(small_agent(tfpg.Reinforce), name)
        assert not hasattr(small_agent(tfpg.Reinforce), "other")

    def test_the_error_of_a_property_is_not_hidden(self):
        class Broken(tfpg.Reinforce):
            @property
            def gain(self):
                return self.missing

        with pytest.raises(AttributeError, match="'missing'"):
            _ = Broken(small_model(tfpg.Reinforce)).gain

    @pytest.mark.parametrize("iterations", [0, -1, 2.5])
    def test_iterations_are_checked(self, iterations):
        with pytest.raises(ValueError, match="iterations must be an integer of at least 1"):
            small_agent(tfpg.Reinforce).fit("CartPole-v1", iterations)

    def test_callbacks_may_be_none_or_a_single_one(self, reinforce):
        for callbacks in (None, keras.callbacks.TerminateOnNaN()):
            reinforce.fit("CartPole-v1", 1, callbacks=callbacks, verbose=0)

    def test_predict_needs_an_environment_first(self):
        agent = small_agent(tfpg.Reinforce)
        with pytest.raises(RuntimeError, match="call fit or evaluate first"):
            agent.predict(np.zeros((1, 4), "float32"))
        agent.evaluate("CartPole-v1", 1, seed=0)
        assert agent.predict(np.zeros((2, 4), "float32")).shape == (2,)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_update_needs_an_environment_first(self, algorithm):
        with pytest.raises(RuntimeError, match="call fit"):
            small_agent(algorithm, Bandit).update(episodes_of([[1.0]]))

    def test_non_finite_weights_end_the_fit_before_it_learns(self):
        agent = small_agent(tfpg.Reinforce)
        agent.model.set_weights([np.full_like(w, np.nan) for w in agent.model.get_weights()])
        with pytest.raises(FloatingPointError, match="outputs are not finite"):
            agent.fit("CartPole-v1", 1, verbose=0)


class TestOptions:
    """The checks themselves are tested in core/test_options.py."""

    @pytest.mark.parametrize(
        ("algorithm", "options", "message"),
        [
            (tfpg.Reinforce, {"gamma": 1.01}, "gamma must be a number from 0 to 1, got 1.01"),
            (tfpg.Reinforce, {"num_envs": -2}, "num_envs must be"),
            (tfpg.Reinforce, {"max_steps": 0}, "max_steps must be an integer of at least 1 or"),
            (tfpg.Reinforce, {"episodes_per_update": 0}, "must be an integer of at least 1"),
            (tfpg.Reinforce, {"entropy_coef": float("nan")}, "entropy_coef must be a number of"),
            (tfpg.Reinforce, {"gradient": "exact"}, "must be 'fused' or 'accumulated', got"),
            (tfpg.Reinforce, {"acting": "jax"}, "acting must be 'auto', 'numpy', or"),
            (tfpg.Reinforce, {"baseline": "median"}, "baseline must be None, 'mean', 'step', or"),
            (tfpg.Reinforce, {"standardize": "step"}, "standardize must be 'batch', 'episode', or"),
            (tfpg.Reinforce, {"value_coef": -1.0}, "value_coef must be a number of at least 0"),
            (tfpg.Reinforce, {"gamme": 0.9}, "Unknown Reinforce option 'gamme'. Did .* 'gamma'"),
            (tfpg.PPO, {"learning_rate": 1e-3}, "The model has the optimizer: model.compile"),
            (tfpg.PPO, {"n_steps": 64}, "option 'n_steps'. In tfpg, it is called 'num_steps'"),
            (tfpg.DQN, {"n_steps": 64}, "option 'n_steps'. Did you mean 'n_step'"),
            (tfpg.A2C, {"gae_lambda": 1.5}, "gae_lambda must be a number from 0 to 1"),
            (tfpg.A2C, {"num_steps": 0}, "num_steps must be an integer of at least 1"),
            (tfpg.A2C, {"standardize": "episode"}, "standardize must be 'batch' or None, got"),
            (tfpg.A2C, {"reward_scale": 0.0}, "reward_scale must be a number above 0"),
            (tfpg.A2C, {"reward_scale": "running"}, "reward_scale must be .* above 0 or 'auto'"),
            (tfpg.PPO, {"clip_ratio": 0.0}, "clip_ratio must be a number above 0"),
            (tfpg.PPO, {"target_kl": -1.0}, "target_kl must be a number above 0"),
            (tfpg.PPO, {"value_clip": 0}, "value_clip must be a number above 0"),
            (tfpg.PPO, {"epochs": 0}, "epochs must be an integer of at least 1"),
            (tfpg.DQN, {"capacity": 4}, r"capacity must be at least batch_size \(8\), got 4"),
            (tfpg.DQN, {"window": 0}, "window must be an integer of at least 1, got 0"),
            (tfpg.DQN, {"n_step": 0}, "n_step must be an integer of at least 1, got 0"),
            (tfpg.DQN, {"batch_size": 0}, "batch_size must be"),
            (tfpg.DQN, {"gamma": 1.5}, "gamma must be a number from"),
            (tfpg.DQN, {"learn_period": 0}, "learn_period must be"),
            (tfpg.DQN, {"target_update_period": 0}, "target_update_period must be"),
            (tfpg.DQN, {"loss": "mae"}, "loss must be 'huber' or 'mse', got"),
            (tfpg.DQN, {"epsilon": 1.5}, "epsilon must be a number .* or a schedule"),
            (tfpg.DQN, {"epsilon": "linear"}, "epsilon must be a number .* got 'linear'"),
            (tfpg.DQN, {"epsilon_per": "update"}, "epsilon_per must be 'step' or"),
            (tfpg.DQN, {"tau": 1.5}, "tau must be a number above 0 and up to 1"),
            (tfpg.DQN, {"tau": 0.0}, "tau must be a number .* got 0.0"),
            (tfpg.DQN, {"priority_beta": -1}, "priority_beta must be a number from"),
            (tfpg.DQN, {"reward_clip": 0}, "reward_clip must be a number above 0 or None, got 0"),
            (tfpg.DQN, {"updates_per_learn": 2.5}, "updates_per_learn must be an integer"),
        ],
    )
    def test_options_out_of_range_are_refused(self, algorithm, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            small_agent(algorithm, **options)
        if "option '" in message or "optimizer" in message:  # not names of options
            return
        agent = small_agent(algorithm)  # and also if they are set later
        for name, value in options.items():
            setattr(agent, name, value)
        with pytest.raises(ValueError, match=message):
            agent.fit("CartPole-v1", 1, verbose=0)

    def test_minibatches_divide_the_steps_of_the_environments_that_there_are(self):
        envs = SyncVectorEnv([Countdown] * 16)
        agent = small_agent(tfpg.PPO, Countdown, num_steps=8, minibatches=64)
        assert np.isfinite(agent.fit(envs, 1, seed=0, verbose=0).history["loss"]).all()
        with pytest.raises(ValueError, match="has 32 steps .num_envs 4 x num_steps 8., which is"):
            agent.fit(Countdown, 1, seed=0, verbose=0)

    def test_options_that_change_between_fits_count_in_the_next_one(self, reinforce):
        reinforce.entropy_coef = 100.0
        assert reinforce.fit("CartPole-v1", 1, seed=0, verbose=0).history["loss"][0] < -50

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_the_config_is_json_and_makes_an_agent_with_the_same_config(self, algorithm):
        config = json.loads(json.dumps(small_agent(algorithm).get_config()))
        assert config["gamma"] == 0.99
        assert "model" not in config
        if algorithm is tfpg.DQN:
            assert config.pop("epsilon") == "linear(1.0, 0.05, 20000)"
            assert (config["priority_beta"], config["capacity"]) == (0.4, 2000)
        again = algorithm(small_model(algorithm), **config).get_config()
        assert {name: again[name] for name in config} == config


class TestSaving:
    @pytest.mark.parametrize("algorithm", [*ALGORITHMS, tfpg.PQN])
    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    @pytest.mark.parametrize("trained", [False, True])
    @pytest.mark.filterwarnings("error::UserWarning")
    def test_an_agent_can_be_pickled_and_copied(self, algorithm, how, trained):
        # A copy starts a schedule of epsilon again.
        agent = small_agent(algorithm, **({"epsilon": 0.5} if algorithm is tfpg.PQN else {}))
        if trained:
            agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        again = copy.deepcopy(agent) if how == "deepcopy" else pickle.loads(pickle.dumps(agent))
        np.testing.assert_array_equal(flat_weights(again.model), flat_weights(agent.model))
        assert again.get_config() == agent.get_config()
        before = flat_weights(agent.model)
        for each in (agent, again):
            each.fit("CartPole-v1", 1, seed=1, verbose=0)
        if algorithm is not tfpg.DQN:  # whose replay buffer is not copied
            np.testing.assert_array_equal(flat_weights(again.model), flat_weights(agent.model))
        assert (flat_weights(again.model) != before).any()

    def test_values_are_scaled_as_in_the_last_training_also_in_copies(self):
        agent = small_agent(tfpg.PPO, reward_scale="auto")
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        scale = tfpg.Policy(agent.model, "CartPole-v1").value_scale
        assert scale > 1.5
        again = copy.deepcopy(agent)
        assert tfpg.Policy(again.model, "CartPole-v1").value_scale == scale
        further = small_agent(tfpg.A2C, model=agent.model, reward_scale=1.0)
        further.fit("CartPole-v1", 1, seed=0, verbose=0)
        assert tfpg.Policy(agent.model, "CartPole-v1").value_scale == 1.0

    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_a_copy_has_the_critic_and_the_temperature_that_were_trained(self, how):
        agent = small_sac()
        agent.fit("Pendulum-v1", 1, seed=0, verbose=0)
        again = copy.deepcopy(agent) if how == "deepcopy" else pickle.loads(pickle.dumps(agent))
        assert float(again.log_alpha) == float(agent.log_alpha) != 0.0
        np.testing.assert_array_equal(flat_weights(*again.models), flat_weights(*agent.models))
        again.fit("Pendulum-v1", 1, seed=1, verbose=0)
        assert float(again.log_alpha) != float(agent.log_alpha)
        assert (flat_weights(again.critic) != flat_weights(agent.critic)).any()

    def test_a_copy_has_the_free_log_std_that_was_trained(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        agent = small_agent(tfpg.Reinforce, model=model)
        agent.fit("Pendulum-v1", 2, seed=0, verbose=0)
        (trained,) = agent.policy.head.variables
        assert trained.numpy() != 0
        again = copy.deepcopy(agent)
        (copied,) = again.policy_for("Pendulum-v1").head.variables
        np.testing.assert_allclose(copied, trained, rtol=1e-6)

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_layers_may_be_unfrozen_after_a_model_was_saved(self, tmp_path):
        agent = small_agent(tfpg.Reinforce)
        agent.model.layers[1].trainable = False
        tfpg.load_model(agent.save(tmp_path / "model.keras"))
        agent.model.layers[1].trainable = True
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)

    def test_a_copy_has_a_value_model_of_its_own(self):
        agent = small_agent(
            tfpg.PPO, model=small_model(tfpg.DQN), value_model=networks.critic("CartPole-v1")
        )
        again = copy.deepcopy(agent)
        again.fit("CartPole-v1", 1, seed=0, verbose=0)
        assert (flat_weights(again.value_model) != flat_weights(agent.value_model)).any()

    @algorithms(tfpg.A2C)
    def test_plain_keras_loads_the_saved_model_and_acts_the_same(self, algorithm, tmp_path, eager):
        agent = small_agent(algorithm)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        path = agent.save(tmp_path / "model.keras")
        plain = keras.saving.load_model(path)
        x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
        outputs = plain(x)
        outputs = outputs[0] if isinstance(outputs, list) else outputs
        np.testing.assert_array_equal(agent.predict(x), outputs.numpy().argmax(axis=1))
        same = [tfpg.evaluate(each, "CartPole-v1", 5, seed=1) for each in (agent, plain)]
        assert same[0]["episode_returns"] == same[1]["episode_returns"]
        algorithm.load(path, **options_for(algorithm)).fit("CartPole-v1", 1, verbose=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_agent_that_is_gone_leaves_no_graph_behind(algorithm):
    def graphs():
        gc.collect()
        return sum(type(x).__name__ == "FuncGraph" for x in gc.get_objects())

    small_agent(algorithm).fit("CartPole-v1", 1, seed=0, verbose=0)
    before = graphs()
    small_agent(algorithm).fit("CartPole-v1", 1, seed=0, verbose=0)
    assert graphs() == before
