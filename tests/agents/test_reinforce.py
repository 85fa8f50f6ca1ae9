import itertools
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from marks import slow_but
from toys import Bandit, Countdown

import tfpg
from tfpg.agents.minibatches import make_batch
from tfpg.rollouts.trajectory import Trajectory

SCRIPTS = Path(__file__).parents[2] / "scripts"


def weights_of(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


class TestTheTextbook:
    """tfpg computes what the loop in one file computes, from the same seed."""

    @pytest.mark.parametrize("gradient", slow_but(["accumulated"], ["fused", "accumulated"]))
    @pytest.mark.parametrize("num_envs", slow_but([4], [1, 4]))
    def test_three_updates_give_the_same_weights(self, gradient, num_envs, capsys):
        sys.path.insert(0, str(SCRIPTS))
        try:
            import reinforce_in_one_file as textbook
        finally:
            sys.path.remove(str(SCRIPTS))
        env = gymnasium.make("CartPole-v1")
        by_hand = textbook.make_model(3)
        before = weights_of(by_hand)
        returns = textbook.train(env, by_hand, keras.optimizers.Adam(0.01), 3, 4, 30, 0.95, seed=7)

        model = textbook.make_model(3)
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        agent = tfpg.Reinforce(
            model,
            gamma=0.95,
            episodes_per_update=4,
            max_steps=30,
            gradient=gradient,
            num_envs=num_envs,
        )
        history = agent.fit(lambda: gymnasium.make("CartPole-v1"), 3, seed=7, verbose=0)
        np.testing.assert_allclose(history.history["episode_return"], returns)
        np.testing.assert_allclose(weights_of(model), weights_of(by_hand), atol=1e-6)
        assert np.abs(weights_of(model) - before).max() > 0.01


class TestDeterminism:
    @pytest.mark.parametrize(
        ("gradient", "env"),
        slow_but(
            [("fused", "CartPole-v1")],
            itertools.product(["fused", "accumulated"], ["CartPole-v1", "Acrobot-v1"]),
        ),
    )
    def test_the_same_seed_gives_the_same_weights_twice(self, env, gradient):
        def train(seed):
            model = tfpg.networks.mlp(env, seed=1)
            agent = tfpg.Reinforce(
                model, episodes_per_update=4, max_steps=40, gradient=gradient, entropy_coef=0.01
            )
            agent.fit(env, 3, seed=seed, verbose=0)
            return weights_of(model)

        first = train(5)
        np.testing.assert_array_equal(first, train(5))
        assert not np.array_equal(first, train(6))

    def test_two_fits_in_a_row_are_one_long_fit(self):
        def train(*ends):
            model = tfpg.networks.mlp("CartPole-v1", seed=1)
            agent = tfpg.Reinforce(model, episodes_per_update=4)
            first = 0
            for end in ends:
                agent.fit("CartPole-v1", end, seed=5, initial_iteration=first, verbose=0)
                first = end
            return weights_of(model), agent.env_steps

        whole, parts = train(4), train(2, 4)
        np.testing.assert_array_equal(whole[0], parts[0])
        assert whole[1] == parts[1]

    def test_nothing_global_is_seeded_or_drawn_from(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=1)
        np.random.seed(0)
        before = np.random.get_state()[1].copy()
        tfpg.Reinforce(model, episodes_per_update=2).fit("CartPole-v1", 1, seed=3, verbose=0)
        np.testing.assert_array_equal(before, np.random.get_state()[1])


class TestBatches:
    def data(self, rewards, mask=None):
        rewards = np.asarray(rewards, float)
        mask = np.ones(rewards.shape) if mask is None else np.asarray(mask, float)
        steps, columns = rewards.shape
        ended = np.zeros(rewards.shape, bool)
        for n in range(columns):
            ended[int(mask[:, n].sum()) - 1, n] = True
        return Trajectory(
            np.arange((steps + 1) * columns, dtype="float32").reshape(steps + 1, columns, 1),
            np.zeros((steps, columns), int),
            rewards,
            ended,
            np.zeros_like(ended),
            mask,
            np.zeros((steps, columns), "float32"),
        )

    def test_golden_weights_without_padding(self):
        data = self.data([[10, 10], [0, 20], [-50, 99]], [[1, 1], [1, 1], [1, 0]])
        batch = make_batch(data, gamma=0.8)
        expected = [-0.28435071, -0.86597718, -1.18910299, 1.26665318, 1.0727777]
        np.testing.assert_allclose(batch.advantages, expected, rtol=1e-6)
        np.testing.assert_array_equal(batch.inputs[:, 0], [0, 2, 4, 1, 3])

    def test_one_step_and_equal_returns_weigh_nothing(self):
        assert make_batch(self.data([[5.0]]), 0.9).advantages.tolist() == [0.0]
        assert (make_batch(self.data([[3.0, 3.0, 3.0]]), 0.9).advantages == 0).all()

    @pytest.mark.parametrize("gradient", ["fused", "accumulated"])
    def test_a_batch_that_says_nothing_changes_nothing(self, gradient):
        model = tfpg.networks.mlp(Bandit, seed=0)
        model.compile(keras.optimizers.SGD(1.0))
        agent = tfpg.Reinforce(model, gradient=gradient)
        agent.prepare(agent.policy_for(Bandit))
        before = weights_of(model)
        logs = agent.update(self.data([[3.0, 3.0]]))
        np.testing.assert_array_equal(before, weights_of(model))
        assert logs["grad_norm"] == 0
        assert np.isfinite(list(logs.values())).all()

    def test_a_time_limit_counts_as_an_end(self):
        data = self.data([[1.0], [1.0], [1.0]])
        cut = data._replace(terminated=data.truncated, truncated=data.terminated)
        np.testing.assert_array_equal(
            make_batch(data, 0.9).advantages, make_batch(cut, 0.9).advantages
        )


class TestLearning:
    """Every head learns the bandit; the estimators agree on the way."""

    CASES = {
        "categorical": (spaces.Discrete(2), 0.95),
        "categorical-start": (spaces.Discrete(2, start=3), 0.95),
        "gaussian": (spaces.Box(-1, 1, (2,), np.float32), -0.4),
    }

    @pytest.mark.parametrize("name", CASES)
    def test_bandit(self, name):
        space, score = self.CASES[name]
        env = lambda: Bandit(space)  # noqa: E731
        model = tfpg.networks.mlp(env, hidden=(16,), seed=0, log_std=-0.5)
        model.compile(keras.optimizers.Adam(0.05))
        agent = tfpg.Reinforce(model, episodes_per_update=64)
        agent.fit(env, 25, seed=1, verbose=0)
        assert agent.evaluate(env, 50, seed=2)["episode_return"] > score

    def test_bandit_with_one_sigmoid(self):
        for positive_action in (0, 1):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
            model.compile(keras.optimizers.Adam(0.1))
            agent = tfpg.Reinforce(model, episodes_per_update=64, positive_action=positive_action)
            agent.fit(Bandit, 25, seed=1, verbose=0)
            assert agent.evaluate(Bandit, 50, seed=2)["episode_return"] > 0.95

    @pytest.mark.parametrize("gradient", ["fused", "accumulated"])
    def test_an_entropy_bonus_broadens_the_policy(self, gradient):
        data = TestBatches().data([[3.0, 3.0]])  # equal returns: nothing but the bonus acts
        for coef, change in ((0.0, 0.0), (1.0, 0.05)):
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
            model.set_weights([np.zeros((1, 2)), np.array([1.0, -1.0])])
            model.compile(keras.optimizers.SGD(0.5))
            agent = tfpg.Reinforce(model, entropy_coef=coef, gradient=gradient)
            agent.prepare(agent.policy_for(Bandit))
            entropies = [agent.update(data)["entropy"] for _ in range(5)]
            assert entropies[-1] - entropies[0] >= change
            assert (coef == 0) == (entropies[-1] == entropies[0])

    def test_steps_are_counted(self):
        agent = tfpg.Reinforce(tfpg.networks.mlp(Countdown), episodes_per_update=5)
        history = agent.fit(lambda: Countdown(length=3), 4, seed=0, verbose=0).history
        assert history["env_steps"] == [15, 30, 45, 60]
        assert history["episode_length"] == history["episode_return"] == [3, 3, 3, 3]

    def test_means_and_counts_leave_padding_out(self):
        envs = SyncVectorEnv([lambda n=n: Countdown(length=n) for n in (2, 6)])
        agent = tfpg.Reinforce(tfpg.networks.mlp(envs), episodes_per_update=2)
        history = agent.fit(envs, 1, seed=0, verbose=0).history
        assert history["env_steps"] == [8]
        assert history["episode_length"] == history["episode_return"] == [4.0]

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_cartpole_within_half_a_million_steps(self, seed):
        model = tfpg.networks.mlp("CartPole-v1", seed=seed)
        agent = tfpg.Reinforce(model)
        history = agent.fit("CartPole-v1", 40, seed=seed, verbose=0).history
        assert max(history["episode_return"]) >= 475
        assert max(history["env_steps"]) <= 40 * 32 * 500


class TestSafety:
    def test_a_non_finite_gradient_is_named_and_not_applied(self):
        model = tfpg.networks.mlp(Bandit, seed=0)
        agent = tfpg.Reinforce(model)
        agent.prepare(agent.policy_for(Bandit))
        before = weights_of(model)
        moments = [v.numpy() for v in model.optimizer.variables]
        data = TestBatches().data([[1.0, 2.0]])
        observations = data.observations.copy()
        observations[0, 0] = np.inf
        bad = data._replace(observations=observations)
        with pytest.warns(UserWarning, match="gradient of .*kernel.* is not finite .* continues"):
            agent.update(bad)
        for _ in range(8):
            agent.update(bad)  # this was said once
        with pytest.raises(FloatingPointError, match="gradient of .*kernel.* is not finite"):
            agent.update(bad)
        np.testing.assert_array_equal(before, weights_of(model))
        for a, b in zip(moments, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nan_weights_stop_the_fit_before_it_plays_on(self):
        model = tfpg.networks.mlp("CartPole-v1")
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        with pytest.raises(FloatingPointError, match="outputs are not finite"):
            tfpg.Reinforce(model).fit("CartPole-v1", 1, verbose=0)

    def test_updates_are_traced_once(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=3)
        agent.fit("CartPole-v1", 5, seed=0, verbose=0)
        agent.fit("CartPole-v1", 5, seed=1, verbose=0)
        assert agent._fused.experimental_get_tracing_count() == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gamma": 1.01}, r"gamma must be a number from 0 to 1, got 1.01"),
            ({"gamma": -0.1}, "gamma"),
            ({"episodes_per_update": 0}, "must be an integer of at least 1"),
            ({"max_steps": 0}, "max_steps"),
            ({"num_envs": -2}, "num_envs"),
            ({"entropy_coef": -1.0}, "entropy_coef must be a number of at least 0"),
            ({"entropy_coef": float("nan")}, "entropy_coef"),
            (
                {"gradient": "exact"},
                "gradient must be one of 'fused', 'accumulated', got",
            ),
            ({"acting": "jax"}, "acting must be"),
        ],
    )
    def test_options_out_of_range(self, options, message):
        model = tfpg.networks.mlp("CartPole-v1")
        with pytest.raises(ValueError, match=message):
            tfpg.Reinforce(model, **options).policy_for("CartPole-v1")

    @pytest.mark.parametrize("iterations", [0, -1, 2.5])
    def test_at_least_one_iteration(self, iterations):
        with pytest.raises(ValueError, match="iterations must be an integer of at least 1"):
            tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1")).fit("CartPole-v1", iterations)

    def test_not_a_model(self):
        with pytest.raises(TypeError, match="Expected a keras.Model, got str"):
            tfpg.Reinforce("CartPole-v1")

    def test_predict_needs_an_environment_first(self):
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"))
        with pytest.raises(RuntimeError, match="call fit or evaluate first"):
            agent.predict(np.zeros((1, 4), "float32"))
        agent.evaluate("CartPole-v1", 1, seed=0)
        assert agent.predict(np.zeros((2, 4), "float32")).shape == (2,)

    def test_the_users_environment_stays_open(self):
        class Closing(Countdown):
            closed = False

            def close(self):
                self.closed = True

        env = Closing()
        tfpg.Reinforce(tfpg.networks.mlp(env), episodes_per_update=2).fit(env, 2, verbose=0)
        assert not env.closed


class TestKerasManners:
    def test_the_models_own_optimizer_is_used(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9))
        tfpg.Reinforce(model, episodes_per_update=2).fit("CartPole-v1", 2, seed=0, verbose=0)
        assert int(model.optimizer.iterations) == 2
        assert isinstance(model.optimizer, keras.optimizers.SGD)

    def test_an_uncompiled_model_gets_adam(self):
        model = tfpg.networks.mlp("CartPole-v1")
        tfpg.Reinforce(model)
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)

    def test_a_learning_rate_schedule_advances(self):
        model = tfpg.networks.mlp("CartPole-v1")
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
        model.compile(keras.optimizers.Adam(schedule))
        tfpg.Reinforce(model, episodes_per_update=2).fit("CartPole-v1", 3, seed=0, verbose=0)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 0.5**3)

    def test_frozen_layers_stay(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        model.layers[1].trainable = False
        before = [w.copy() for w in model.layers[1].get_weights()]
        tfpg.Reinforce(model, episodes_per_update=4).fit("CartPole-v1", 3, seed=0, verbose=0)
        for a, b in zip(before, model.layers[1].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_regularizers_are_heeded(self):
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(10))]
        )
        model.compile(keras.optimizers.SGD(0.05))
        agent = tfpg.Reinforce(model, episodes_per_update=2)
        agent.prepare(agent.policy_for(Bandit))
        agent.update(TestBatches().data([[3.0, 3.0]]))
        kernel = np.abs(model.get_weights()[0])
        for _ in range(20):
            agent.update(TestBatches().data([[3.0, 3.0]]))
        assert (np.abs(model.get_weights()[0]) < 1e-3 + 0.01 * kernel).all()

    def test_options_changed_after_a_fit_count_in_the_next(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=2)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        agent.entropy_coef = 100.0
        loss = agent.fit("CartPole-v1", 1, seed=0, verbose=0).history["loss"][0]
        assert loss < -50

    def test_layers_frozen_between_fits_stay(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=4)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        model.layers[1].trainable = False
        model.compile(keras.optimizers.Adam(0.01))
        before = [w.copy() for w in model.layers[1].get_weights()]
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        for a, b in zip(before, model.layers[1].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_an_optimizer_compiled_between_fits_takes_over(self):
        model = tfpg.networks.mlp("CartPole-v1", seed=0)
        agent = tfpg.Reinforce(model, episodes_per_update=4)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        model.compile(keras.optimizers.SGD(0.0))
        before = weights_of(model)
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        np.testing.assert_array_equal(before, weights_of(model))
        assert int(model.optimizer.iterations) == 2

    def test_nothing_to_train_is_said(self):
        model = tfpg.networks.mlp("CartPole-v1")
        model.trainable = False
        with pytest.raises(ValueError, match="no trainable weights"):
            tfpg.Reinforce(model).fit("CartPole-v1", 1, verbose=0)

    def test_loss_scaling_is_refused(self):
        model = tfpg.networks.mlp("CartPole-v1")
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
        with pytest.raises(ValueError, match="mixed_bfloat16"):
            tfpg.Reinforce(model).fit("CartPole-v1", 1, verbose=0)

    def test_update_before_fit_says_what_is_missing(self):
        with pytest.raises(RuntimeError, match="call fit, or prepare first"):
            tfpg.Reinforce(tfpg.networks.mlp(Bandit)).update(TestBatches().data([[1.0]]))

    def test_callbacks_may_be_none_or_one(self):
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"), episodes_per_update=2)
        for callbacks in (None, keras.callbacks.TerminateOnNaN()):
            agent.fit("CartPole-v1", 1, callbacks=callbacks, verbose=0)

    def test_mixed_precision_trains(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = tfpg.networks.mlp("CartPole-v1", seed=0)
        finally:
            keras.config.set_dtype_policy("float32")
        history = tfpg.Reinforce(model, episodes_per_update=2).fit(
            "CartPole-v1", 2, seed=0, verbose=0
        )
        assert np.isfinite(history.history["loss"]).all()
        assert all(w.dtype == tf.float32 for w in model.trainable_variables)
