"""A2C and PPO: their updates against each other, every head and option, and what is refused."""

import csv

import keras
import numpy as np
import pytest
from gymnasium import spaces
from marks import slow_but
from small import (
    BOX,
    HEADS,
    ROLLOUT,
    collected,
    flat_weights,
    prepared,
    small_agent,
    small_model,
    three_actions,
)
from toys import Countdown, Walk

import tfpg
from tfpg.envs.probes import ObservedAction
from tfpg.rollouts.trajectory import Trajectory

AGENTS = [tfpg.A2C, tfpg.PPO]
either_algorithm = pytest.mark.parametrize("algorithm", slow_but([tfpg.PPO], AGENTS))


def train(algorithm, env=None, iterations=3, head="categorical", own_critic=False, **options):
    """An agent trained by SGD in a `Walk`, and the history of its logs."""
    space, outputs, activation, head_options = HEADS[head]
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    hidden = keras.layers.Dense(5, "tanh")(x)
    out, value = keras.layers.Dense(outputs, activation)(hidden), keras.layers.Dense(1)(hidden)
    model = keras.Model(x, out if own_critic else [out, value])
    model.compile(keras.optimizers.SGD(0.1))
    if own_critic:
        options["value_model"] = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        options["value_model"].compile(keras.optimizers.SGD(0.1))
    agent = algorithm(model, gamma=0.9, **{**ROLLOUT, **head_options, **options})
    history = agent.fit(env or (lambda: Walk(space)), iterations, seed=3, verbose=0).history
    return agent, history


class TestEquivalence:
    @pytest.mark.parametrize("own_critic", [False, True])
    def test_ppo_with_one_epoch_and_one_minibatch_is_a2c(self, own_critic):
        same = {"gae_lambda": 0.9, "standardize": "batch", "entropy_coef": 0.01}
        same |= {"epochs": 1, "minibatches": 1, "own_critic": own_critic}
        a2c, a2c_logs = train(tfpg.A2C, **same)
        ppo, ppo_logs = train(tfpg.PPO, **same)
        np.testing.assert_allclose(flat_weights(*a2c.models), flat_weights(*ppo.models), atol=1e-6)
        for name in ("value_loss", "entropy", "grad_norm", "explained_variance"):
            np.testing.assert_allclose(a2c_logs[name], ppo_logs[name], rtol=1e-4)
        np.testing.assert_allclose(ppo_logs["approx_kl"], 0, atol=1e-6)

    def test_a2c_is_reinforce_on_whole_episodes_that_terminate(self):
        class Terminates(Walk):
            def step(self, action):
                observation, reward, *over, info = super().step(action)
                return observation, reward, any(over), False, info

        env = lambda: Terminates(HEADS["categorical"][0], lengths=(8,))  # noqa: E731
        a2c, _ = train(tfpg.A2C, env, iterations=1, gae_lambda=1.0, standardize="batch")
        model = keras.models.clone_model(a2c.model)
        model.set_weights(a2c.model.get_weights())
        model.compile(keras.optimizers.SGD(0.1))
        reinforce = prepared(
            tfpg.Reinforce(model, gamma=0.9, baseline="value", entropy_coef=a2c.entropy_coef), env
        )
        data = collected(a2c, env)  # four episodes of eight steps
        logs = a2c.update(data), reinforce.update(data)
        np.testing.assert_allclose(flat_weights(a2c.model), flat_weights(model), atol=1e-6)
        assert logs[0]["value_loss"] == pytest.approx(logs[1]["value_loss"], rel=1e-5)


class TestReturns:
    """Truncation bootstraps and termination does not, to the last digit."""

    def agent(self, **options):
        x = keras.Input((1,))
        value = keras.layers.Dense(1, kernel_initializer="ones")  # V(x) = x
        model = keras.Model(x, [keras.layers.Dense(2)(x), value(x)])
        options = {**ROLLOUT, "gamma": 0.5, "gae_lambda": 1.0, "standardize": None, **options}
        return prepared(tfpg.A2C(model, **options), ObservedAction)

    def rollout(self, terminated, truncated, mask=(1, 1, 1)):
        """Observations 1, 2, 4 and 8, with rewards of 10, 20 and 30 between them."""
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
    def test_only_truncation_bootstraps(self, terminated, truncated, returns):
        batch = self.agent().to_batch(self.rollout(terminated, truncated))
        np.testing.assert_allclose(batch.returns, returns)
        np.testing.assert_allclose(batch.advantages, np.array(returns) - [1, 2, 4])
        np.testing.assert_allclose(batch.values, [1, 2, 4])

    def test_a_masked_row_is_no_step_but_its_observation_is_bootstrapped_from(self):
        batch = self.agent().to_batch(self.rollout([0, 0, 0], [1, 0, 0], mask=[1, 0, 1]))
        np.testing.assert_allclose(batch.returns, [11.0, 34.0])
        np.testing.assert_allclose(batch.inputs[:, 0], [1, 4])

    def test_n_step_bootstraps_after_n_rewards(self):
        batch = self.agent(n_step=1).to_batch(self.rollout([0, 0, 0], [0, 0, 0]))
        np.testing.assert_allclose(batch.returns, [11.0, 22.0, 34.0])

    def test_reward_scale_multiplies_the_rewards_that_are_learned_from(self):
        agent = self.agent(reward_scale=0.1)
        data, _ = agent.scaled(self.rollout([0, 0, 1], [0, 0, 0]), ())
        batch = agent.to_batch(data)
        np.testing.assert_allclose(batch.returns, [2.75, 3.5, 3.0])

    def test_logs_show_the_rewards_as_they_are(self, eager):
        agent = small_agent(tfpg.A2C, Countdown, reward_scale=0.1)
        history = agent.fit(Countdown, 6, seed=0, verbose=0).history
        assert history["episode_return"][-1] == 3.0


def test_the_running_reward_scale_lasts_until_gamma_or_the_option_changes(eager):
    agent = small_agent(tfpg.A2C, reward_scale="auto")
    batches = lambda: agent.return_scale.moments.batches  # noqa: E731
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    assert batches() == 4
    agent.reward_scale = 1.0
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    assert not agent.return_scale
    agent.reward_scale = "auto"
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    agent.gamma = 0.5
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    assert batches() == 1


class TestPPO:
    def test_updates_end_when_the_policy_has_moved_far(self):
        far, far_logs = train(tfpg.PPO, epochs=20, minibatches=4, target_kl=1e-5, iterations=2)
        _, near_logs = train(tfpg.PPO, epochs=20, minibatches=4, target_kl=1e3, iterations=2)
        assert near_logs["updates_applied"] == [80, 80]
        assert max(far_logs["updates_applied"]) < 20
        # The update that was too far is not applied.
        assert int(far.model.optimizer.iterations) == sum(far_logs["updates_applied"])

    def test_clip_fraction_and_kl_grow_with_the_learning_rate(self):
        agent = small_agent(tfpg.PPO, Walk, epochs=8)
        logs = []
        for rate in (1e-3, 0.2):
            agent.model.optimizer.learning_rate = rate
            logs.append(agent.fit(Walk, 3, seed=3, verbose=0).history)
        small, large = logs
        assert max(large["clip_fraction"]) > max(small["clip_fraction"])
        assert max(large["approx_kl"]) > max(small["approx_kl"]) >= 0

    def test_value_clip_changes_the_updates(self):
        free, _ = train(tfpg.PPO, epochs=10)
        clipped, _ = train(tfpg.PPO, epochs=10, value_clip=1e-3)
        assert not np.array_equal(flat_weights(free.model), flat_weights(clipped.model))


@either_algorithm
class TestBothAlgorithms:
    @pytest.mark.parametrize("head", HEADS)
    def test_every_head_trains(self, algorithm, head):
        agent, history = train(algorithm, head=head)
        assert np.isfinite([x for name in ("loss", "entropy") for x in history[name]]).all()
        for variable in agent.policy.head.variables:
            assert np.abs(variable.numpy()).max() > 0  # it moved from 0

    def test_non_finite_rewards_and_gradients_are_named_and_not_applied(self, algorithm):
        agent, _ = train(algorithm)
        data = collected(agent, three_actions)
        before = flat_weights(agent.model)
        rewards = data.rewards.copy()
        rewards[0, 0] = np.inf
        with pytest.raises(FloatingPointError, match="because the rewards are not"):
            agent.update(data._replace(rewards=rewards))
        if algorithm is tfpg.PPO:
            infinite_ratio = np.full_like(data.log_probs, -np.inf)
            with pytest.raises(FloatingPointError, match="is not finite .*skipped"):
                agent.update(data._replace(log_probs=infinite_ratio))
        np.testing.assert_array_equal(before, flat_weights(agent.model))

    def test_one_environment_and_one_step_are_enough(self, algorithm, eager):
        agent, history = train(algorithm, num_envs=1, num_steps=1, minibatches=1, iterations=5)
        assert history["env_steps"] == [1, 2, 3, 4, 5]
        assert np.isfinite(flat_weights(agent.model)).all()

    def test_equal_and_integer_rewards_train(self, algorithm):
        class Integers(Countdown):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, 1, *rest

        history = small_agent(algorithm, Integers).fit(Integers, 6, seed=0, verbose=0).history
        assert history["episode_return"][-1] == 3.0
        assert np.isfinite(history["loss"]).all()

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
    def test_observations_of_any_dtype_are_standardized(self, algorithm, dtype):
        class Grid(Countdown):
            def __init__(self):
                super().__init__()
                self.observation_space = spaces.Box(0, 200, (2, 3), dtype)

            def reset(self, **options):
                return np.full((2, 3), 100, dtype), super().reset(**options)[1]

            def step(self, action):
                return np.full((2, 3), 100, dtype), *super().step(action)[1:]

        model = tfpg.networks.actor_critic(Grid(), seed=0)
        algorithm(model, num_envs=2, num_steps=4, minibatches=1).fit(Grid, 2, seed=0, verbose=0)
        layer = model.get_layer("observation_statistics")
        np.testing.assert_allclose(layer.moving_mean, np.full(6, layer.moving_mean[0]))
        assert layer.moving_mean[0] > 0.1

    def test_stock_callbacks_wait_for_the_first_mean_return(self, algorithm, tmp_path):
        monitor = {"monitor": "episode_return", "mode": "max"}
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", save_best_only=True, **monitor
        )
        stop = keras.callbacks.EarlyStopping(patience=50, **monitor)
        plateau = keras.callbacks.ReduceLROnPlateau(patience=50, **monitor)
        metrics = tfpg.callbacks.MetricsLogger(tmp_path / "metrics.csv")
        keep = tfpg.callbacks.KeepBest(tmp_path / "keep.keras")
        agent = small_agent(algorithm)
        rate = float(agent.model.optimizer.learning_rate)
        history = agent.fit(
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
        assert float(agent.model.optimizer.learning_rate) == pytest.approx(rate)
        rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
        assert rows[0]["episode_return"] == "NA"
        assert float(rows[-1]["episode_return"]) == pytest.approx(
            history.history["episode_return"][-1]
        )
        measured = [row["val_episode_return"] != "NA" for row in rows]
        assert measured == [(i + 1) % 7 == 0 or i == 19 for i in range(20)]


@pytest.mark.parametrize("jit_compile", slow_but([False], [False, True]))
def test_a_rollout_in_which_environments_only_reset_themselves_is_played_again(jit_compile):
    model = small_model(tfpg.A2C, hidden=(4,), normalize=True)
    agent = tfpg.A2C(model, num_envs=1, num_steps=1, reward_scale="auto", jit_compile=jit_compile)
    history = agent.fit("CartPole-v1", 60, seed=0, verbose=0).history
    assert agent.env_steps == 60
    assert np.isfinite(flat_weights(model)).all()
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_backup_and_restore_continues_after_the_last_iteration(tmp_path):
    class PowerCut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    with pytest.raises(RuntimeError, match="power cut"):
        small_agent(tfpg.A2C).fit("CartPole-v1", 4, [backup(), PowerCut()], seed=0, verbose=0)
    agent = small_agent(tfpg.A2C, model=small_model(tfpg.A2C, seed=5))
    assert agent.fit("CartPole-v1", 4, backup(), seed=0, verbose=0).epoch == [2, 3]
    assert int(agent.model.optimizer.iterations) == 4


class TestModels:
    def test_a_model_without_a_value_says_how_to_get_one(self):
        how = "networks.actor_critic does, or pass value_model="
        with pytest.raises(ValueError, match=how):
            tfpg.PPO(small_model(tfpg.Reinforce))
        later = tfpg.PPO(keras.Sequential([keras.layers.Dense(2)]))  # its outputs are not known yet
        with pytest.raises(ValueError, match=how):
            later.fit("CartPole-v1", 1)

    def test_outputs_in_a_dict_are_found_by_their_names(self, tmp_path):
        x = keras.Input((4,))
        hidden = keras.layers.Dense(8, "tanh")(x)
        outputs = {"value": keras.layers.Dense(1)(hidden), "policy": keras.layers.Dense(2)(hidden)}
        agent = small_agent(tfpg.PPO, model=keras.Model(x, outputs))
        history = agent.fit("CartPole-v1", 3, seed=0, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert agent.policy.acting == "numpy"
        again = keras.saving.load_model(agent.save(tmp_path / "model.keras"))
        for deterministic in (True, False):
            results = [
                tfpg.evaluate(m, "CartPole-v1", 5, seed=1, deterministic=deterministic)
                for m in (agent, again)
            ]
            assert results[0] == results[1]

    def test_a_policy_and_a_critic_that_share_weights_are_refused(self):
        x = keras.Input((4,))
        trunk = keras.layers.Dense(5)(x)
        model = keras.Model(x, keras.layers.Dense(2)(trunk))
        critic = keras.Model(x, keras.layers.Dense(1)(trunk))
        with pytest.raises(ValueError, match="share the weight '.*kernel', which both would train"):
            small_agent(tfpg.A2C, model=model, value_model=critic).fit("CartPole-v1", 1, verbose=0)

    def test_a_policy_and_a_critic_with_the_same_optimizer_are_refused(self):
        model, critic = small_model(tfpg.Reinforce), tfpg.networks.critic("CartPole-v1")
        optimizer = keras.optimizers.Adam()
        model.compile(optimizer)
        critic.compile(optimizer)
        with pytest.raises(ValueError, match="each with its own optimizer"):
            small_agent(tfpg.A2C, model=model, value_model=critic).fit("CartPole-v1", 1, verbose=0)

    @pytest.mark.slow
    @pytest.mark.parametrize("algorithm", [tfpg.PPO, tfpg.Reinforce])
    def test_a_layer_of_the_critic_that_is_frozen_between_fits_stays_as_it_is(self, algorithm):
        critic = tfpg.networks.critic("CartPole-v1", hidden=(4,), seed=0)
        agent = small_agent(algorithm, model=small_model(tfpg.Reinforce), value_model=critic)
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        layer = next(x for x in critic.layers if x.weights)
        layer.trainable, before = False, layer.get_weights()
        agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        for a, b in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("keys", slow_but([["b"]], [["a", "b"], ["b"]]))
    def test_a_critic_may_see_what_the_policy_does_not(self, keys, eager):
        class Two(Walk):
            def __init__(self):
                super().__init__()
                box = self.observation_space
                self.observation_space = spaces.Dict({"a": box, "b": box})

            def _observe(self):
                return {"a": super()._observe(), "b": super()._observe()}

        a = keras.Input((3,), name="a")
        model = keras.Model({"a": a}, keras.layers.Dense(2)(a))
        inputs = [keras.Input((3,), name=key) for key in keys]
        joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        critic = keras.Model(inputs, keras.layers.Dense(1)(joined))
        for acting in ("numpy", "tensorflow"):
            agent = small_agent(tfpg.A2C, model=model, value_model=critic, acting=acting)
            assert np.isfinite(agent.fit(Two, 2, seed=0, verbose=0).history["loss"]).all()


def test_a_free_log_standard_deviation_belongs_to_the_agent(eager):
    def env(bound=1.0):
        return lambda: Walk(spaces.Box(-bound, bound, (2,), np.float32))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    critic = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    agent = small_agent(tfpg.A2C, model=model, value_model=critic, log_std=-0.5)
    agent.fit(env(), 2, seed=0, verbose=0)
    policy, log_std = agent.policy, lambda: agent.policy.head.variables[0].numpy().copy()
    learned = log_std()
    assert (learned != -0.5).all()
    # Other policies that play the model sample as it does.
    again = tfpg.Policy(model, env(), **agent.head_options())
    x = np.ones((4, 3), "float32")
    np.testing.assert_array_equal(
        again.act(x, deterministic=False, seed=1), policy.act(x, deterministic=False, seed=1)
    )
    # It survives an evaluation in another environment, and is trained further after it.
    agent.evaluate(env(3.0), 2, seed=0)
    np.testing.assert_array_equal(log_std(), learned)
    agent.fit(env(), 3, seed=0, initial_iteration=2, verbose=0)
    assert agent.policy is policy
    assert not np.array_equal(log_std(), learned)


def test_an_option_of_the_policy_that_is_changed_between_two_fits_is_used():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [keras.layers.Dense(1)(inputs) for _ in range(2)])
    agent = small_agent(tfpg.A2C, model=model, acting="tensorflow")
    agent.fit("Pendulum-v1", 1, seed=0, verbose=0)
    log_std = agent.policy.head.variables
    assert len(log_std) == 1
    assert not agent.policy.head.squash
    agent.squash, agent.acting = True, "numpy"
    agent.fit("Pendulum-v1", 1, seed=0, verbose=0)
    assert (agent.policy.head.squash, agent.policy.acting) == (True, "numpy")
    assert [id(x) for x in agent.policy.head.variables] == [id(x) for x in log_std]


def test_clipped_actions_are_counted_unless_the_policy_squashes(eager):
    env = lambda: Walk(BOX)  # noqa: E731
    model = tfpg.networks.actor_critic(env, hidden=(8,), log_std=2.0)
    model.compile(keras.optimizers.SGD(0.0))
    with pytest.warns(tfpg.errors.TrainingWarning, match="of the actions are out of bounds"):
        history = small_agent(tfpg.A2C, model=model).fit(env, 8, seed=0, verbose=0).history
    # Both of two normals with a standard deviation of 7 seldom stay within 1.
    assert 0.9 < np.mean(history["clipped_actions"]) <= 1.0
    squashed = small_agent(tfpg.A2C, model=model, squash=True)
    assert "clipped_actions" not in squashed.fit(env, 2, verbose=0).history


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_ppo_solves_cartpole_within_a_hundred_thousand_steps(seed):
    from tfpg.agents import presets

    preset = presets.find("ppo", "CartPole-v1")
    agent = presets.make("ppo", "CartPole-v1", seed, preset=preset)
    history = agent.fit("CartPole-v1", presets.iterations_of(preset), seed=seed, verbose=0).history
    assert history["episode_return"][-1] >= 475
    assert history["env_steps"][-1] <= 100_000
    assert agent.evaluate("CartPole-v1", 20, seed=9)["episode_return"] >= 490
