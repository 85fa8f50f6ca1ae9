"""A2C and PPO: what they compute, that they learn with every head, and what they refuse."""

import csv
import pickle

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow_but
from test_estimators import HEADS, Walk
from toys import Countdown

import tfpg
from tfpg.agents.minibatches import minibatch_order
from tfpg.agents.reward_scale import ReturnScale
from tfpg.envs.probes import ObservedAction
from tfpg.rollouts.trajectory import Trajectory

AGENTS = [tfpg.A2C, tfpg.PPO]
FAST = {"num_envs": 4, "num_steps": 8, "jit_compile": False}


def weights_of(*models):
    return np.concatenate([w.ravel() for model in models for w in model.get_weights()])


def train(kind, env=Walk, iterations=3, seed=3, head="categorical", own=False, **options):
    space, outputs, activation, head_options = HEADS[head]
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    hidden = keras.layers.Dense(5, "tanh")(x)
    out, value = keras.layers.Dense(outputs, activation)(hidden), keras.layers.Dense(1)(hidden)
    model = keras.Model(x, out if own else [out, value])
    model.compile(keras.optimizers.SGD(0.1))
    if own:
        options["value_model"] = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        options["value_model"].compile(keras.optimizers.SGD(0.1))
    agent = kind(model, gamma=0.9, **{**FAST, **head_options, **options})
    made = (lambda: env(space)) if env is Walk else env
    history = agent.fit(made, iterations, seed=seed, verbose=0).history
    return agent, history


class TestEquivalence:
    SAME = {"gae_lambda": 0.9, "standardize": "batch", "entropy_coef": 0.01, "epochs": 1}

    @pytest.mark.parametrize("own", [False, True])
    def test_ppo_with_one_epoch_and_one_minibatch_is_a2c(self, own):
        a, a_logs = train(tfpg.A2C, own=own, minibatches=1, **self.SAME)
        b, b_logs = train(tfpg.PPO, own=own, minibatches=1, **self.SAME)
        np.testing.assert_allclose(weights_of(a.model), weights_of(b.model), atol=1e-6)
        for name in ("value_loss", "entropy", "grad_norm", "explained_variance"):
            np.testing.assert_allclose(a_logs[name], b_logs[name], rtol=1e-4)
        np.testing.assert_allclose(b_logs["approx_kl"], 0, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", AGENTS)
    def test_xla_gives_the_same(self, kind):
        plain, _ = train(kind)
        compiled, _ = train(kind, jit_compile=True)
        np.testing.assert_allclose(weights_of(plain.model), weights_of(compiled.model), atol=1e-5)

    def test_a2c_is_reinforce_on_whole_episodes_without_bootstrapping(self):
        # Four environments whose episodes take exactly the fragment, lambda 1.
        class Ends(Walk):
            def step(self, action):
                observation, reward, *over, info = super().step(action)
                return observation, reward, any(over), False, info

        def made():
            return Ends(HEADS["categorical"][0], lengths=(8,))

        a, _ = train(tfpg.A2C, env=made, iterations=1, standardize="batch")
        agent = tfpg.Reinforce(
            keras.models.clone_model(a.model), gamma=0.9, baseline="value", episodes_per_update=4
        )
        keras.utils.set_random_seed(0)
        again, _ = train(tfpg.A2C, env=made, iterations=1, standardize="batch")
        np.testing.assert_array_equal(weights_of(a.model), weights_of(again.model))
        # The same data through both updates.
        data = _collected(made, again)
        agent.model.set_weights(again.model.get_weights())
        agent.model.compile(keras.optimizers.SGD(0.1))
        agent.prepare(agent.policy_for(made))
        logs = again.update(data), agent.update(data)
        np.testing.assert_allclose(weights_of(again.model), weights_of(agent.model), atol=1e-6)
        assert logs[0]["value_loss"] == pytest.approx(logs[1]["value_loss"], rel=1e-5)

    @pytest.mark.parametrize("kind", slow_but([tfpg.PPO], AGENTS))
    def test_the_same_seed_gives_the_same_weights(self, kind):
        first, second, other = (train(kind, seed=s)[0].model for s in (3, 3, 4))
        np.testing.assert_array_equal(weights_of(first), weights_of(second))
        assert not np.array_equal(weights_of(first), weights_of(other))

    @pytest.mark.parametrize("kind", slow_but([tfpg.A2C], AGENTS))
    def test_traced_once(self, kind):
        agent, _ = train(kind, iterations=4)
        agent.fit(lambda: Walk(HEADS["categorical"][0]), 2, seed=1, verbose=0)
        assert agent._updates.experimental_get_tracing_count() == 1

    def test_resets_that_take_a_step_do_not_retrace(self):
        agent = tfpg.PPO(tfpg.networks.actor_critic("CartPole-v1"), **FAST)
        history = agent.fit("CartPole-v1", 8, seed=0, verbose=0).history  # NEXT_STEP
        assert agent._updates.experimental_get_tracing_count() == 1
        steps = np.diff([0, *history["env_steps"]])
        assert steps.max() == 32
        assert steps.min() < 32


def _collected(env, agent):
    from tfpg.envs import open_vec
    from tfpg.rollouts.collector import Collector

    with open_vec(env, 4) as envs:
        return Collector(envs, 5).collect_steps(agent.policy, 8)


class TestBatches:
    """Truncation bootstraps, termination does not, to the last digit."""

    def agent(self, **options):
        x = keras.Input((1,))
        value = keras.layers.Dense(1, kernel_initializer="ones")  # V(x) = x
        model = keras.Model(x, [keras.layers.Dense(2)(x), value(x)])
        agent = tfpg.A2C(model, gamma=0.5, **{**FAST, **options})
        agent.prepare(agent.policy_for(ObservedAction))
        return agent

    def data(self, terminated, truncated, mask=(1, 1, 1)):
        column = lambda x, kind=float: np.asarray(x, kind)[:, None]  # noqa: E731
        return Trajectory(
            np.array([1, 2, 4, 8], "float32")[:, None, None],
            column([0, 1, 0], int),
            column([10, 20, 30]),
            column(terminated, bool),
            column(truncated, bool),
            column(mask),
            column([0, 0, 0]),
        )

    @pytest.mark.parametrize(
        ("terminated", "truncated", "returns"),
        [
            ([0, 0, 0], [0, 0, 0], [28.5, 37.0, 34.0]),
            ([0, 1, 0], [0, 0, 0], [20.0, 20.0, 34.0]),
            ([0, 0, 0], [0, 1, 0], [21.0, 22.0, 34.0]),
            ([0, 1, 0], [0, 1, 0], [20.0, 20.0, 34.0]),
        ],
    )
    def test_returns(self, terminated, truncated, returns):
        batch = self.agent().to_batch(self.data(terminated, truncated))
        np.testing.assert_allclose(batch.returns, returns)
        np.testing.assert_allclose(batch.advantages, np.array(returns) - [1, 2, 4])
        np.testing.assert_allclose(batch.values, [1, 2, 4])

    def test_a_masked_row_is_no_step_but_its_observation_is_bootstrapped_from(self):
        batch = self.agent().to_batch(self.data([0, 0, 0], [1, 0, 0], mask=[1, 0, 1]))
        np.testing.assert_allclose(batch.returns, [11.0, 34.0])
        np.testing.assert_allclose(batch.inputs[:, 0], [1, 4])

    def test_n_step_takes_the_place_of_lambda(self):
        batch = self.agent(n_step=1).to_batch(self.data([0, 0, 0], [0, 0, 0]))
        np.testing.assert_allclose(batch.returns, [11.0, 22.0, 34.0])

    def test_a_reward_scale_scales_what_is_learned_from_alone(self):
        batch = self.agent(reward_scale=0.1).to_batch(self.data([0, 0, 1], [0, 0, 0]))
        np.testing.assert_allclose(batch.returns, [2.75, 3.5, 3.0])
        _, scaled = train(tfpg.A2C, reward_scale=0.1)
        _, plain = train(tfpg.A2C, reward_scale=1.0)
        np.testing.assert_array_equal(scaled["env_steps"], plain["env_steps"])
        assert scaled["value_loss"][0] < plain["value_loss"][0]


class TestReturnScale:
    def test_divides_by_the_standard_deviation_of_the_return(self):
        rng = np.random.default_rng(0)
        rewards = rng.normal(3, 2, (200, 8))
        ended = rng.random((200, 8)) < 0.1
        none = np.zeros_like(ended)
        data = Trajectory(None, None, rewards, ended, none, np.ones((200, 8)), None)
        running, returns = np.zeros(8), []
        for t in range(200):
            running = 0.9 * running + rewards[t]
            returns.append(running)
            running = np.where(ended[t], 0, running)
        scaled = ReturnScale(0.9)(data)
        np.testing.assert_allclose(scaled, rewards / np.std(returns), rtol=1e-6)

    def test_returns_that_are_all_the_same_have_no_scale(self):
        one = np.ones((1, 3))
        data = Trajectory(None, None, one, one > 0, one < 0, one, None)
        np.testing.assert_array_equal(ReturnScale(0.9)(data), one)

    def test_what_is_said_between_fits_counts(self):
        agent = tfpg.A2C(tfpg.networks.actor_critic("CartPole-v1"), **FAST, reward_scale="auto")
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        scale = agent._scale
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
        assert agent._scale is scale
        agent.reward_scale = 1.0
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        assert agent._scale is None
        agent.reward_scale = "auto"
        agent.gamma = 0.5
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        assert agent._scale.gamma == 0.5

    def test_an_episode_goes_on_across_fragments(self):
        one = np.ones((1, 1))
        data = Trajectory(None, None, one, one < 0, one < 0, one, None)
        scale = ReturnScale(1.0)
        for expected in (1.0, 2.0, 3.0):
            scale(data)
            assert scale._carried[0] == expected


class TestMinibatches:
    @given(
        count=st.integers(1, 60),
        spare=st.integers(0, 10),
        epochs=st.integers(1, 3),
        parts=st.integers(1, 8),
    )
    @settings(max_examples=60, deadline=None)
    def test_every_epoch_sees_every_step_once(self, count, spare, epochs, parts):
        capacity = max(count + spare, parts)
        rng = np.random.default_rng(0)
        order, valid = minibatch_order(count, capacity, epochs, parts, rng)
        assert order.shape == valid.shape
        assert valid.any(axis=1).all()
        used = min(parts, count)
        assert len(order) == epochs * used
        for epoch in range(epochs):
            rows = slice(epoch * used, (epoch + 1) * used)
            assert sorted(order[rows][valid[rows] > 0].tolist()) == list(range(count))
        assert np.ptp(valid.sum(axis=1)) <= 1


class TestPPO:
    def test_updates_end_when_the_policy_has_moved_far(self):
        far, far_logs = train(tfpg.PPO, epochs=20, target_kl=1e-5, iterations=2)
        _, near_logs = train(tfpg.PPO, epochs=20, target_kl=1e3, iterations=2)
        assert near_logs["updates_applied"] == [80, 80]
        assert max(far_logs["updates_applied"]) < 20
        # The update that was too far is not one of them.
        assert int(far.model.optimizer.iterations) == sum(far_logs["updates_applied"])

    def test_clip_fraction_and_kl_grow_with_the_step(self):
        _, small = train(tfpg.PPO, epochs=8)
        agent, large = None, None
        keras.utils.set_random_seed(0)
        model = tfpg.networks.actor_critic(Walk, hidden=(5,), seed=0)
        model.compile(keras.optimizers.Adam(0.2))
        agent = tfpg.PPO(model, **{**FAST, "epochs": 8})
        large = agent.fit(Walk, 3, seed=3, verbose=0).history
        assert max(large["clip_fraction"]) > max(small["clip_fraction"])
        assert max(large["approx_kl"]) > max(small["approx_kl"]) >= 0

    def test_values_kept_near_their_old_ones(self):
        free, _ = train(tfpg.PPO, epochs=10)
        kept, _ = train(tfpg.PPO, epochs=10, value_clip=1e-3)
        assert not np.array_equal(weights_of(free.model), weights_of(kept.model))


@pytest.mark.parametrize("kind", slow_but([tfpg.PPO], AGENTS))
class TestBoth:
    @pytest.mark.parametrize("head", HEADS)
    def test_every_head_trains(self, kind, head):
        agent, history = train(kind, head=head)
        assert np.isfinite([x for name in ("loss", "entropy") for x in history[name]]).all()
        for variable in agent.policy.head.variables:
            assert np.abs(variable.numpy()).max() > 0  # it moved from 0

    def test_statistics_are_kept_while_training_and_not_elsewhere(self, kind):
        model = tfpg.networks.actor_critic("CartPole-v1", normalize=True, seed=0)
        agent = kind(model, **FAST)
        agent.fit("CartPole-v1", 3, seed=0, verbose=0)
        layer = model.get_layer("observation_statistics")
        seen = layer.moving_variance.numpy().copy()
        assert (seen != 1).all()
        agent.evaluate("CartPole-v1", 2, seed=0)
        np.testing.assert_array_equal(layer.moving_variance, seen)

    def test_a_non_finite_gradient_is_named_and_not_applied(self, kind):
        agent, _ = train(kind)
        made = lambda: Walk(HEADS["categorical"][0])  # noqa: E731
        data = _collected(made, agent)
        before = weights_of(agent.model)
        rewards = data.rewards.copy()
        rewards[0, 0] = np.inf
        with pytest.raises(FloatingPointError, match="because rewards are not"):
            agent.update(data._replace(rewards=rewards))
        log_probs = data.log_probs.copy()
        log_probs[:] = -np.inf  # a ratio without bound
        if kind is tfpg.PPO:
            with pytest.raises(FloatingPointError, match="is not finite .*skipped"):
                agent.update(data._replace(log_probs=log_probs))
        np.testing.assert_array_equal(before, weights_of(agent.model))

    def test_one_environment_and_one_step(self, kind):
        agent, history = train(kind, num_envs=1, num_steps=1, minibatches=1, iterations=5)
        assert history["env_steps"] == [1, 2, 3, 4, 5]
        assert np.isfinite(weights_of(agent.model)).all()

    def test_equal_rewards_and_integer_rewards(self, kind):
        model = tfpg.networks.actor_critic(Countdown, hidden=(5,))
        history = kind(model, **FAST).fit(Countdown, 12, seed=0, verbose=0).history
        assert history["episode_return"][-1] == 3.0
        assert np.isfinite(history["loss"]).all()

    @pytest.mark.slow
    def test_returns_are_told_when_a_tenth_of_the_window_has_ended(self, kind):
        env = Countdown(length=4)
        agent = kind(tfpg.networks.actor_critic(env), num_envs=1, num_steps=8, minibatches=1)
        history = agent.fit(env, 7, seed=0, verbose=0).history
        assert len(history["env_steps"]) == 7
        assert history["episode_return"] == [4.0, 4.0, 4.0]  # 10 episodes have 40 steps

    def test_stock_callbacks_wait_for_the_first_mean_return(self, kind, tmp_path):
        cb = keras.callbacks
        best = cb.ModelCheckpoint(
            tmp_path / "best.keras", monitor="episode_return", mode="max", save_best_only=True
        )
        stop = cb.EarlyStopping(monitor="episode_return", mode="max", patience=50)
        plateau = cb.ReduceLROnPlateau(monitor="episode_return", mode="max", patience=50)
        metrics = tfpg.callbacks.MetricsLogger(tmp_path / "metrics.csv")
        keep = tfpg.callbacks.KeepBest(tmp_path / "keep.keras")
        model = tfpg.networks.actor_critic("CartPole-v1", hidden=(4,), seed=0)
        rate = float(kind(model).model.optimizer.learning_rate)
        history = kind(model, **FAST).fit(
            "CartPole-v1",
            20,
            callbacks=[best, stop, plateau, metrics, keep],
            seed=0,
            verbose=0,
            validation_envs="CartPole-v1",
            validation_freq=7,
        )
        top = max(history.history["episode_return"])
        assert best.best == stop.best == keep.best == pytest.approx(top)
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)
        rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
        assert rows[0]["episode_return"] == "NA"
        assert float(rows[-1]["episode_return"]) == pytest.approx(
            history.history["episode_return"][-1]
        )
        measured = [row["val_episode_return"] != "NA" for row in rows]
        assert measured == [(i + 1) % 7 == 0 or i == 19 for i in range(20)]

    def test_max_steps_cuts_episodes_of_an_id(self, kind):
        agent = kind(tfpg.networks.actor_critic("Pendulum-v1"), **FAST, max_steps=5)
        history = agent.fit("Pendulum-v1", 12, seed=0, verbose=0).history
        assert history["episode_length"][-1] == 5.0

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_every_autoreset_mode(self, kind, mode):
        makers = [lambda: Walk(HEADS["categorical"][0])] * 4
        envs = SyncVectorEnv(makers, autoreset_mode=mode)
        _, history = train(kind, env=envs)
        assert np.isfinite(history["loss"]).all()

    @pytest.mark.slow
    def test_two_fits_go_on_in_other_episodes(self, kind):
        env = Countdown(length=2)
        agent = kind(tfpg.networks.actor_critic(env), num_steps=8, num_envs=1, minibatches=1)
        agent.fit(env, 1, seed=0, verbose=0)
        agent.fit(env, 2, seed=0, initial_iteration=1, verbose=0)
        assert len(set(env.seeds)) == len(env.seeds)
        assert agent.env_steps == 16


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (tfpg.A2C, {"gae_lambda": 1.5}, r"gae_lambda must be a number from 0 to 1"),
        (tfpg.A2C, {"num_steps": 0}, "num_steps must be an integer of at least 1"),
        (tfpg.A2C, {"standardize": "episode"}, "standardize must be one of"),
        (tfpg.A2C, {"reward_scale": 0.0}, "reward_scale must be a number above 0"),
        (tfpg.A2C, {"reward_scale": "running"}, "reward_scale must be a number above 0"),
        (tfpg.PPO, {"minibatches": 5000}, "too few for 5000 minibatches"),
        (tfpg.PPO, {"clip_ratio": 0.0}, "clip_ratio must be a number above 0"),
        (tfpg.PPO, {"target_kl": -1.0}, "target_kl must be a number above 0"),
        (tfpg.PPO, {"value_clip": 0}, "value_clip must be a number above 0"),
        (tfpg.PPO, {"epochs": 0}, "epochs must be an integer of at least 1"),
        (tfpg.PPO, {"entropy_coef": -0.1}, "entropy_coef must be a number of at least 0"),
    ],
)
def test_options_out_of_range(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(tfpg.networks.actor_critic("CartPole-v1"), **options)


def test_a_model_without_a_value_says_how_to_get_one():
    agent = tfpg.PPO(tfpg.networks.mlp("CartPole-v1"))
    with pytest.raises(ValueError, match="networks.actor_critic does, or pass value_model="):
        agent.fit("CartPole-v1", 1)


def test_outputs_in_a_dict_go_by_their_names(tmp_path):
    x = keras.Input((4,))
    hidden = keras.layers.Dense(8, "tanh")(x)
    outputs = {"value": keras.layers.Dense(1)(hidden), "policy": keras.layers.Dense(2)(hidden)}
    model = keras.Model(x, outputs)
    agent = tfpg.PPO(model, **FAST)
    history = agent.fit("CartPole-v1", 3, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert agent.policy.acting == "numpy"
    agent.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for deterministic in (True, False):
        results = [
            tfpg.evaluate(m, "CartPole-v1", 5, seed=1, deterministic=deterministic)
            for m in (agent, again)
        ]
        assert results[0] == results[1]


@pytest.mark.slow
def test_backup_and_restore_goes_on_with_the_iterations(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
    with pytest.raises(RuntimeError, match="power cut"):
        tfpg.A2C(model, **FAST).fit("CartPole-v1", 4, [backup(), Break()], seed=0, verbose=0)
    again = tfpg.networks.actor_critic("CartPole-v1", seed=5)
    history = tfpg.A2C(again, **FAST).fit("CartPole-v1", 4, backup(), seed=0, verbose=0)
    assert history.epoch == [2, 3]
    assert int(again.optimizer.iterations) == 4


@pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
def test_a_fragment_in_which_environments_only_reset_themselves_is_passed_over(jit_compile):
    model = tfpg.networks.actor_critic("CartPole-v1", hidden=(4,), normalize=True, seed=0)
    agent = tfpg.A2C(model, num_envs=1, num_steps=1, reward_scale="auto", jit_compile=jit_compile)
    history = agent.fit("CartPole-v1", 60, seed=0, verbose=0).history
    assert agent.env_steps == 60
    assert np.isfinite(weights_of(model)).all()
    assert np.isfinite(history["loss"]).all()


class TestTwoModels:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [tfpg.PPO, tfpg.Reinforce])
    def test_a_layer_of_the_critic_that_is_frozen_stays_as_it_is(self, kind):
        model, critic = (
            make("CartPole-v1", hidden=(4,), seed=0)
            for make in (tfpg.networks.mlp, tfpg.networks.critic)
        )
        options = {"max_steps": 9} if kind is tfpg.Reinforce else FAST
        agent = kind(model, value_model=critic, **options)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        layer = next(x for x in critic.layers if x.weights)
        layer.trainable, before = False, layer.get_weights()
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        for a, b in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_shared_weights_are_refused(self):
        x = keras.Input((4,))
        trunk = keras.layers.Dense(5)(x)
        model = keras.Model(x, keras.layers.Dense(2)(trunk))
        value_model = keras.Model(x, keras.layers.Dense(1)(trunk))
        agent = tfpg.A2C(model, value_model=value_model, **FAST)
        with pytest.raises(ValueError, match="share the weight '.*kernel', which both would train"):
            agent.fit("CartPole-v1", 1, verbose=0)

    def test_one_optimizer_for_both_is_refused(self):
        model, value = tfpg.networks.mlp("CartPole-v1"), tfpg.networks.critic("CartPole-v1")
        optimizer = keras.optimizers.Adam()
        model.compile(optimizer)
        value.compile(optimizer)
        with pytest.raises(ValueError, match="each with an optimizer of its own"):
            tfpg.A2C(model, value_model=value, **FAST).fit("CartPole-v1", 1, verbose=0)

    @pytest.mark.parametrize("keys", slow_but([["b"]], [["a", "b"], ["b"]]))
    def test_a_critic_may_see_what_the_policy_does_not(self, keys):
        class Two(Walk):
            def __init__(self):
                super().__init__()
                box = spaces.Box(-9, 9, (3,), np.float32)
                self.observation_space = spaces.Dict({"a": box, "b": box})

            def _observe(self):
                return {"a": super()._observe(), "b": super()._observe()}

        a = keras.Input((3,), name="a")
        model = keras.Model({"a": a}, keras.layers.Dense(2)(a))
        inputs = [keras.Input((3,), name=key) for key in keys]
        joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        value_model = keras.Model(inputs, keras.layers.Dense(1)(joined))
        for acting in ("numpy", "tensorflow"):
            agent = tfpg.PPO(model, value_model=value_model, acting=acting, **FAST)
            history = agent.fit(Two, 2, seed=0, verbose=0).history
            assert np.isfinite(history["loss"]).all()


class TestFreeLogStd:
    """Weights that the head keeps beside the model are the agent's."""

    def agent(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        value = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        return tfpg.PPO(model, value_model=value, **FAST, log_std=-0.5)

    def env(self, bound=1.0):
        return lambda: Walk(spaces.Box(-bound, bound, (2,), np.float32))

    def test_survives_a_look_at_another_environment(self):
        agent = self.agent()
        agent.fit(self.env(), 2, seed=0, verbose=0)
        learned = agent.policy.head.variables[0].numpy().copy()
        assert (learned != -0.5).all()
        policy = agent.policy
        agent.evaluate(self.env(3.0), 2, seed=0)
        np.testing.assert_array_equal(agent.policy.head.variables[0].numpy(), learned)
        agent.fit(self.env(), 3, seed=0, initial_iteration=2, verbose=0)
        assert agent.policy is policy
        assert not np.array_equal(agent.policy.head.variables[0].numpy(), learned)

    def test_is_told_to_whoever_plays_the_model(self):
        agent = self.agent()
        agent.fit(self.env(), 2, seed=0, verbose=0)
        again = tfpg.Policy(agent.model, self.env(), **agent.head_options())
        x = np.ones((4, 3), "float32")
        np.testing.assert_array_equal(
            again.act(x, deterministic=False, seed=1),
            agent.policy.act(x, deterministic=False, seed=1),
        )


class CountingVectorEnv(gymnasium.vector.VectorEnv):
    """A vector environment of its own kind that waits to be reset, with one generator for all."""

    def __init__(self, num_envs=3):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(-9, 9, (3,), np.float32)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(-9, 9, (num_envs, 3), np.float32)
        self.action_space = spaces.MultiDiscrete([3] * num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self.t = np.zeros(self.num_envs)
        else:
            self.t[mask] = 0
        return self._observe(), {}

    def step(self, actions):
        self.t += 1
        ended = self.t >= 1 + np.arange(self.num_envs)
        return self._observe(), np.ones(self.num_envs), ended, np.zeros_like(ended), {}

    def _observe(self):
        return np.repeat(self.t[:, None], 3, axis=1).astype("float32")


@pytest.mark.parametrize("kind", slow_but([tfpg.PPO], [*AGENTS, tfpg.Reinforce]))
def test_a_vector_environment_of_another_kind_that_waits_to_be_reset(kind):
    options = {"episodes_per_update": 5} if kind is tfpg.Reinforce else FAST
    agent = kind(tfpg.networks.actor_critic(CountingVectorEnv()), **options)
    history = agent.fit(CountingVectorEnv(), 4, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()


class TestValidation:
    def test_the_environment_that_is_trained_in_is_refused(self):
        env = Countdown(length=7)
        agent = tfpg.A2C(tfpg.networks.actor_critic(env), **FAST)
        with pytest.raises(ValueError, match="validation_envs is the environment that is trained"):
            agent.fit(env, 1, validation_envs=env)

    def test_is_measured_apart_and_leaves_training_as_it_was(self):
        plain, _ = train(tfpg.A2C, iterations=6)
        keras.utils.set_random_seed(0)
        made = lambda: Walk(HEADS["categorical"][0])  # noqa: E731
        x = keras.Input((3,))
        hidden = keras.layers.Dense(5, "tanh")(x)
        model = keras.Model(x, [keras.layers.Dense(3)(hidden), keras.layers.Dense(1)(hidden)])
        model.compile(keras.optimizers.SGD(0.1))
        agent = tfpg.A2C(model, gamma=0.9, **FAST)
        history = agent.fit(
            made,
            6,
            seed=3,
            verbose=0,
            validation_envs=made,
            validation_freq=4,
            validation_episodes=3,
        ).history
        assert len(history["val_episode_return"]) == len(history["val_episode_length"]) == 2
        np.testing.assert_array_equal(weights_of(plain.model), weights_of(model))
        assert history["env_steps"][-1] == 6 * 32

    def test_can_be_monitored(self, tmp_path):
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1", seed=0), episodes_per_update=8)
        stop = tfpg.callbacks.StopAtReturn(9.0, monitor="val_episode_return")
        checkpoint = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_episode_return", mode="max", save_best_only=True
        )
        history = agent.fit(
            "CartPole-v1",
            9,
            callbacks=[stop, checkpoint],
            seed=0,
            verbose=0,
            validation_envs="CartPole-v1",
            validation_freq=3,
        )
        assert len(history.epoch) == 3
        assert (tmp_path / "best.keras").exists()

    @pytest.mark.parametrize("name", ["validation_freq", "validation_episodes"])
    def test_counts(self, name):
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"))
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
            agent.fit("CartPole-v1", 1, validation_envs="CartPole-v1", **{name: 0})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ppo_solves_cartpole_within_a_hundred_thousand_steps(seed):
    from tfpg.agents import presets

    preset = presets.find("ppo", "CartPole-v1")
    agent = presets.make_agent("ppo", "CartPole-v1", preset, seed)
    history = agent.fit("CartPole-v1", presets.iterations_of(preset), seed=seed, verbose=0).history
    assert history["episode_return"][-1] >= 475
    assert history["env_steps"][-1] <= 100_000
    assert agent.evaluate("CartPole-v1", 20, seed=9)["episode_return"] >= 490


@pytest.mark.parametrize(
    ("policy", "kept"), [("mixed_bfloat16", "float32"), ("float64", "float64")]
)
def test_models_of_another_precision_train(policy, kept):
    keras.config.set_dtype_policy(policy)
    try:
        model = tfpg.networks.actor_critic("CartPole-v1", seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    history = tfpg.PPO(model, **FAST).fit("CartPole-v1", 2, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert {w.dtype for w in model.trainable_variables} == {kept}


def test_an_image_reaches_a_convolution_as_uint8():
    class Camera(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action):
            self.t += 1
            return self.observation_space.sample(), 1.0, self.t == 4, False, {}

    x = keras.Input((8, 8, 1), dtype="uint8")
    y = keras.layers.Rescaling(1 / 255)(x)
    y = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(y))
    model = keras.Model(x, [keras.layers.Dense(2)(y), keras.layers.Dense(1)(y)])
    agent = tfpg.PPO(model, **FAST)
    history = agent.fit(Camera, 2, seed=0, verbose=0).history
    assert agent.policy.acting == "tensorflow"
    assert np.isfinite(history["loss"]).all()
    data = _collected(Camera, agent)
    assert data.observations.dtype == np.uint8
    assert agent.to_batch(data).inputs.dtype == np.uint8


def test_an_agent_that_is_not_fitted_goes_to_another_process():
    agent = tfpg.PPO(tfpg.networks.actor_critic("CartPole-v1", seed=0))
    again = pickle.loads(pickle.dumps(agent))
    for a, b in zip(agent.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.get_config() == agent.get_config()
