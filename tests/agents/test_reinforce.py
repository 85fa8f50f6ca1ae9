"""REINFORCE: the textbook's updates, two ways to the same gradient, and what it learns."""

import itertools
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but
from small import BOX, HEADS, episodes_of, flat_weights, prepared, small_agent, small_model
from toys import Bandit, Countdown, Walk

import tfpg
from tfpg.envs import open_vec
from tfpg.errors import EnvDataError
from tfpg.ops.gradients import gradient_of
from tfpg.ops.per_step import flatten
from tfpg.rollouts.collector import Collector

SCRIPTS = Path(__file__).parents[2] / "scripts"
GRADIENTS = ["fused", "accumulated"]
BASELINES = [None, "mean", "step", "value"]
STANDARDIZE = ["batch", "episode", None]


@pytest.mark.parametrize("gradient", slow_but(["accumulated"], GRADIENTS))
@pytest.mark.parametrize("num_envs", slow_but([4], [1, 4]))
def test_three_updates_are_those_of_the_textbook_script(gradient, num_envs):
    sys.path.insert(0, str(SCRIPTS))
    try:
        import reinforce_in_one_file as textbook
    finally:
        sys.path.remove(str(SCRIPTS))
    env = gymnasium.make("CartPole-v1")
    by_hand = textbook.make_model(3)
    before = flat_weights(by_hand)
    returns = textbook.train(env, by_hand, keras.optimizers.Adam(0.01), 3, 4, 30, 0.95, seed=7)

    model = textbook.make_model(3)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    options = {"gamma": 0.95, "episodes_per_update": 4, "max_steps": 30, "num_envs": num_envs}
    options |= {"baseline": None, "entropy_coef": 0.0}
    agent = tfpg.Reinforce(model, gradient=gradient, **options)
    history = agent.fit(lambda: gymnasium.make("CartPole-v1"), 3, seed=7, verbose=0)
    np.testing.assert_allclose(history.history["episode_return"], returns)
    np.testing.assert_allclose(flat_weights(model), flat_weights(by_hand), atol=1e-6)
    assert np.abs(flat_weights(model) - before).max() > 0.01


def agent_for(head, gradient="fused", baseline=None, own_critic=False, seed=0, **options):
    """An agent whose change of weights is its gradient: SGD with a learning rate of 1."""
    _, outputs, activation, head_options = HEADS[head]
    keras.utils.set_random_seed(seed)
    x = keras.Input((3,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(x)
    out = keras.layers.Dense(outputs, activation)(hidden)
    value = keras.layers.Dense(1)(hidden)
    model = keras.Model(x, [out, value] if baseline == "value" and not own_critic else out)
    model.compile(keras.optimizers.SGD(1.0))
    if own_critic:
        hidden = keras.layers.Dense(4, "tanh")(x)
        options["value_model"] = keras.Model(x, keras.layers.Dense(1)(hidden))
        options["value_model"].compile(keras.optimizers.SGD(1.0))
    options = {"episodes_per_update": 5, "num_envs": 1, **head_options, **options}
    return tfpg.Reinforce(model, gamma=0.9, gradient=gradient, baseline=baseline, **options)


def all_weights(agent):
    head = [v.numpy().ravel() for v in agent.policy.head.variables]
    return np.concatenate([flat_weights(*agent.models), *head])


def change_of_weights(head, gradient, iterations=1, env_options=None, **options):
    """The change of all weights in some updates, and the last logs."""
    agent = agent_for(head, gradient, **options)
    env = lambda: Walk(HEADS[head][0], **(env_options or {}))  # noqa: E731
    agent.policy_for(env)
    before = all_weights(agent)
    logs = agent.fit(env, iterations, seed=3, verbose=0).history
    return all_weights(agent) - before, {name: x[-1] for name, x in logs.items()}


def check_that_gradients_agree(head, **options):
    (fused, logs), (accumulated, other_logs) = (
        change_of_weights(head, gradient, **options) for gradient in GRADIENTS
    )
    assert np.linalg.norm(fused) > 1e-4
    assert np.linalg.norm(accumulated - fused) < 1e-5 * np.linalg.norm(fused)
    assert set(logs) <= set(other_logs)
    for name in logs:
        assert other_logs[name] == pytest.approx(logs[name], rel=1e-4, abs=1e-5), name


class TestFusedEqualsAccumulated:
    @pytest.mark.parametrize(
        ("head", "baseline"),
        slow_but(
            [("bernoulli", "mean"), ("squashed", "value")], itertools.product(HEADS, BASELINES)
        ),
    )
    def test_gradients_agree_for_every_head_and_baseline(self, head, baseline):
        check_that_gradients_agree(head, baseline=baseline, entropy_coef=0.02)

    @pytest.mark.slow
    @pytest.mark.parametrize("baseline", BASELINES)
    @pytest.mark.parametrize("standardize", STANDARDIZE)
    def test_gradients_agree_for_every_standardization(self, standardize, baseline):
        options = {"baseline": baseline, "standardize": standardize}
        check_that_gradients_agree("categorical", seed=1, **options)

    @pytest.mark.parametrize(
        ("gae_lambda", "own_critic"),
        slow_but([(0.7, True)], itertools.product([0.0, 0.7, 1.0], [False, True])),
    )
    def test_gradients_agree_with_bootstrapping(self, gae_lambda, own_critic):
        options = {"baseline": "value", "gae_lambda": gae_lambda, "own_critic": own_critic}
        check_that_gradients_agree("bernoulli", seed=2, **options)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "env", [{"lengths": (1,)}, {"integer_rewards": True}, {"lengths": (40, 1)}]
    )
    def test_gradients_agree_for_short_and_long_episodes_and_integer_rewards(self, env):
        check_that_gradients_agree("categorical", env_options=env, baseline="value")

    @pytest.mark.slow
    def test_gradients_agree_over_several_updates(self):
        check_that_gradients_agree("bernoulli", iterations=3)

    def test_gradients_agree_for_observations_in_a_dict(self):
        class Named(Walk):
            def __init__(self):
                super().__init__()
                self.observation_space = spaces.Dict({"x": self.observation_space})

            def _observe(self):
                return {"x": super()._observe()}

        models = []
        for gradient in GRADIENTS:
            keras.utils.set_random_seed(0)
            x = keras.Input((3,), name="x")
            models.append(keras.Model({"x": x}, keras.layers.Dense(2)(x)))
            models[-1].compile(keras.optimizers.SGD(1.0))
            agent = tfpg.Reinforce(models[-1], gradient=gradient, episodes_per_update=4, num_envs=1)
            agent.fit(Named, 2, seed=0, verbose=0)
        np.testing.assert_allclose(*map(flat_weights, models), atol=1e-5)


@pytest.mark.parametrize("batch_size", slow_but([7], [1, 4, 7, 1000]))
def test_slices_give_the_gradient_of_the_whole_batch(batch_size):
    whole, logs = change_of_weights("gaussian", "fused", baseline="value")
    sliced, sliced_logs = change_of_weights(
        "gaussian", "fused", baseline="value", batch_size=batch_size
    )
    np.testing.assert_allclose(sliced, whole, atol=1e-6 * np.linalg.norm(whole))
    assert sliced_logs["loss"] == pytest.approx(logs["loss"], rel=1e-5)


class TestValueModel:
    def test_a_value_model_is_updated_value_updates_times(self, eager):
        agent = agent_for("gaussian-free", baseline="value", own_critic=True, value_updates=3)
        agent.fit(lambda: Walk(BOX), 2, seed=0, verbose=0)
        # The optimizers of the policy, of its log standard deviation, and of the value model.
        assert [int(optimizer.iterations) for optimizer, _ in agent.trainable.groups] == [2, 2, 6]
        assert agent.trainable.groups[-1][0] is agent.value_model.optimizer

    def test_a_frozen_value_model_stays_as_it_is(self, eager):
        agent = agent_for("bernoulli", baseline="value", own_critic=True, value_updates=3)
        agent.value_model.trainable = False
        before = flat_weights(agent.value_model)
        agent.fit(Walk, 1, seed=0, verbose=0)
        np.testing.assert_array_equal(before, flat_weights(agent.value_model))

    def test_a_value_needs_an_output_or_a_model_but_not_both(self):
        mlp, critic = small_model(tfpg.Reinforce), tfpg.networks.critic("CartPole-v1")
        for options, message in [
            ({"model": mlp, "baseline": "value"}, "second output of shape"),
            ({"model": small_model(tfpg.A2C), "value_model": critic}, "does not need a value_mod"),
            (
                {"model": mlp, "value_model": small_model(tfpg.Reinforce)},
                r"must have shape \(batch, 1\), but it has shape \(None, 2\)",
            ),
        ]:
            with pytest.raises(ValueError, match=message):
                tfpg.Reinforce(**options).fit("CartPole-v1", 1)
        for algorithm in (tfpg.A2C, tfpg.PPO):
            with pytest.raises(ValueError, match="second output of shape"):
                algorithm(mlp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "accumulated", "batch_size": 8}, 'batch_size needs gradient="fused"'),
        ({"gae_lambda": 0.9}, "gae_lambda and n_step require a value function"),
        ({"n_step": 2}, "gae_lambda and n_step require a value function"),
        ({"value_updates": 5}, "value_updates needs a value_model"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tfpg.Reinforce(small_model(tfpg.Reinforce), **options)


class TestNothingToLearn:
    """One episode, one step, equal returns: zeros where nothing is known, never NaN."""

    @pytest.mark.parametrize("baseline", slow_but(["value"], BASELINES))
    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_one_episode_of_one_step_keeps_weights_and_logs_finite(self, gradient, baseline, eager):
        agent = agent_for("bernoulli", gradient, baseline, episodes_per_update=1)
        history = agent.fit(lambda: Walk(lengths=(1,)), 2, seed=0, verbose=0).history
        assert np.isfinite(all_weights(agent)).all()
        assert all(np.isfinite(x).all() for x in history.values())
        assert not {"grad_snr", "zscore_saving"} & set(history)

    @pytest.mark.parametrize("standardize", slow_but(STANDARDIZE[:1], STANDARDIZE[:2]))
    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("baseline", [None, "step"])
    def test_equal_returns_change_nothing_but_an_entropy_bonus_does(
        self, gradient, standardize, baseline, eager
    ):
        for entropy_coef in (0.0, 1.0):
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
            model.set_weights([np.zeros((1, 2)), np.array([1.0, -1.0])])
            model.compile(keras.optimizers.SGD(0.5))
            options = {"gradient": gradient, "standardize": standardize, "baseline": baseline}
            agent = tfpg.Reinforce(model, entropy_coef=entropy_coef, **options)
            logs = [prepared(agent, Bandit).update(episodes_of([[3.0, 3.0]])) for _ in range(5)]
            assert np.isfinite([list(each.values()) for each in logs]).all()
            if entropy_coef:
                assert logs[-1]["entropy"] - logs[0]["entropy"] > 0.05
            else:
                assert [each["grad_norm"] for each in logs] == [0.0] * 5
                np.testing.assert_array_equal(flat_weights(model), [0, 0, 1, -1])


class TestNoise:
    def test_a_sure_reward_has_more_signal_than_a_lottery(self):
        class Paid(Walk):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, float(action), *rest

        class Lottery(Walk):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, float(self.np_random.normal()), *rest

        agent = agent_for("bernoulli", "accumulated", episodes_per_update=100, num_envs=100)
        start = agent.model.get_weights()
        snr = {}
        for env in (Paid, Lottery):
            agent.model.set_weights(start)
            snr[env] = agent.fit(env, 1, seed=0, verbose=0).history["grad_snr"][0]
        assert snr[Paid] > 10 > 3 > snr[Lottery]

    def test_the_signal_to_noise_ratio_is_that_of_its_definition(self):
        # The gradient is a mean over episodes of one step each.
        env = lambda: Walk(HEADS["categorical"][0], lengths=(1,))  # noqa: E731
        agent = prepared(agent_for("categorical", "accumulated", standardize=None), env)
        with open_vec(env) as envs:
            data = Collector(envs, 3).collect_episodes(agent.policy, 5)
        batch = agent.to_batch(data)
        rows = []
        for i in range(5):
            with tf.GradientTape() as tape:
                policy = agent.policy.distribution(batch.inputs[i : i + 1])
                value = batch.advantages[i] * policy.log_prob(batch.actions[i : i + 1])[0]
            rows.append(flatten(gradient_of(tape, value, agent.model.trainable_variables)).numpy())
        rows = np.array(rows, float)
        variance = rows.var(axis=0, ddof=1).sum() / 5
        logs = agent.update(data)
        assert logs["grad_snr"] == pytest.approx((rows.mean(0) ** 2).sum() / variance, rel=1e-4)

    def test_the_saving_of_a_baseline_is_that_of_its_definition(self):
        env = lambda: Walk(HEADS["categorical"][0], lengths=(1, 3, 2))  # noqa: E731
        agent = prepared(agent_for("categorical", "accumulated", "step"), env)
        with open_vec(env) as envs:
            data = Collector(envs, 3).collect_episodes(agent.policy, 5)
        batch = agent.to_batch(data)
        ends = np.cumsum(data.mask.sum(axis=0)).astype(int)[:-1]
        variances = []
        for weights in (batch.advantages, batch.returns / batch.returns.std()):
            rows = []
            for steps in np.split(np.arange(len(weights)), ends):
                with tf.GradientTape() as tape:
                    policy = agent.policy.distribution(batch.inputs[steps])
                    log_prob = policy.log_prob(batch.actions[steps])
                    value = tf.reduce_sum(weights[steps].astype(np.float32) * log_prob)
                variables = agent.model.trainable_variables
                rows.append(flatten(gradient_of(tape, value, variables)).numpy())
            variances.append(np.array(rows, float).var(axis=0, ddof=1).sum())
        logs = agent.update(data)
        assert logs["baseline_saving"] == pytest.approx(1 - variances[0] / variances[1], rel=1e-4)
        assert "zscore_saving" not in logs

    def test_comparing_equal_episodes_saves_all_variance(self):
        class Equal(Walk):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, 1.0, *rest

        agent = agent_for("bernoulli", "accumulated", "step")
        logs = agent.fit(lambda: Equal(lengths=(2,)), 1, seed=0, verbose=0).history
        assert logs["baseline_saving"] == [1.0]

    @pytest.mark.parametrize("baseline", ["mean", "step"])
    def test_a_good_baseline_saves_variance(self, baseline):
        class Offset(Walk):
            def step(self, action):
                observation, reward, *rest = super().step(action)
                return observation, reward + 100.0, *rest

        options = {"standardize": None, "episodes_per_update": 50, "num_envs": 50}
        agent = agent_for("bernoulli", "accumulated", baseline, **options)
        logs = agent.fit(lambda: Offset(lengths=(1,)), 1, seed=0, verbose=0).history
        assert logs["baseline_saving"][0] > 0.99


class TestNonFinite:
    def test_a_non_finite_gradient_is_named_and_skipped_and_ten_end_the_training(self):
        model = small_model(tfpg.Reinforce, Bandit)
        agent = prepared(tfpg.Reinforce(model), Bandit)
        before = flat_weights(model)
        moments = [v.numpy() for v in model.optimizer.variables]
        data = episodes_of([[1.0, 2.0]])
        observations = data.observations.copy()
        observations[0, 0] = np.inf
        bad = data._replace(observations=observations)
        with pytest.warns(UserWarning, match="gradient of .*kernel.* is not finite .* continues"):
            agent.update(bad)
        for _ in range(8):
            agent.update(bad)  # without another warning
        with pytest.raises(FloatingPointError, match="gradient of .*kernel.* is not finite"):
            agent.update(bad)
        np.testing.assert_array_equal(before, flat_weights(model))
        for a, b in zip(moments, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_the_observation_that_an_episode_ends_with_is_checked(self, gradient, eager):
        class EndsWithNan(Walk):
            episode = 0

            def reset(self, **options):
                self.episode += 1
                return super().reset(**options)

            def step(self, action):
                observation, reward, terminated, truncated, info = super().step(action)
                if (terminated or truncated) and self.episode > 1:
                    observation[0] = np.nan
                return observation, reward, terminated, truncated, info

        agent = agent_for("bernoulli", gradient)
        with pytest.raises(EnvDataError, match="step 5 of its episode"):
            agent.fit(lambda: EndsWithNan(lengths=(5,)), 1, seed=0, verbose=0)


def test_regularizers_pull_weights_to_zero():
    penalty = keras.regularizers.L2(10)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, kernel_regularizer=penalty)])
    model.compile(keras.optimizers.SGD(0.05))
    agent = prepared(tfpg.Reinforce(model), Bandit)
    agent.update(episodes_of([[3.0, 3.0]]))
    kernel = np.abs(model.get_weights()[0])
    for _ in range(20):
        agent.update(episodes_of([[3.0, 3.0]]))
    assert (np.abs(model.get_weights()[0]) < 1e-3 + 0.01 * kernel).all()


def test_environment_steps_are_counted(eager):
    agent = small_agent(tfpg.Reinforce, Countdown, episodes_per_update=5)
    history = agent.fit(lambda: Countdown(length=3), 4, seed=0, verbose=0).history
    assert history["env_steps"] == [15, 30, 45, 60]
    assert history["episode_length"] == history["episode_return"] == [3, 3, 3, 3]


class TestLearning:
    @pytest.mark.parametrize(
        ("space", "score"),
        [
            (spaces.Discrete(2), 0.95),
            (spaces.Discrete(2, start=3), 0.95),
            (BOX, -0.4),
        ],
        ids=["discrete", "discrete-start", "box"],
    )
    def test_every_kind_of_action_learns_a_bandit(self, space, score):
        env = lambda: Bandit(space)  # noqa: E731
        model = tfpg.networks.mlp(env, hidden=(16,), seed=0, log_std=-0.5)
        model.compile(keras.optimizers.Adam(0.05))
        agent = tfpg.Reinforce(model, episodes_per_update=64)
        agent.fit(env, 25, seed=1, verbose=0)
        assert agent.evaluate(env, 50, seed=2)["episode_return"] > score

    @pytest.mark.parametrize("positive_action", [0, 1])
    def test_a_sigmoid_of_either_action_learns_a_bandit(self, positive_action):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
        model.compile(keras.optimizers.Adam(0.1))
        agent = tfpg.Reinforce(model, episodes_per_update=64, positive_action=positive_action)
        agent.fit(Bandit, 25, seed=1, verbose=0)
        assert agent.evaluate(Bandit, 50, seed=2)["episode_return"] > 0.95

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_cartpole_is_solved_within_half_a_million_steps(self, seed):
        agent = tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1", seed=seed))
        history = agent.fit("CartPole-v1", 40, seed=seed, verbose=0).history
        assert max(history["episode_return"]) >= 475
        assert max(history["env_steps"]) <= 40 * 32 * 500
