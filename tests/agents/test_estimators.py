"""Fused and accumulated: two ways to the same gradient."""

import itertools

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from marks import slow_but
from toys import Countdown

import tfpg
from tfpg.envs import open_vec
from tfpg.errors import EnvDataError

ESTIMATORS = ("fused", "accumulated")


class Walk(gymnasium.Env):
    """Episodes of different lengths, ended or cut, with rewards that depend on the actions."""

    def __init__(self, action_space=None, lengths=(5, 1, 9), integer_rewards=False):
        self.observation_space = spaces.Box(-9, 9, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.lengths, self.integer = lengths, integer_rewards

    def _observe(self):
        return self.np_random.normal(size=3).astype("float32")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, self.lengths[int(self.np_random.integers(len(self.lengths)))]
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.length
        reward = float(np.sum(np.asarray(action))) + float(self.np_random.normal(2.0))
        cut = bool(self.np_random.integers(2))
        if self.integer:
            reward = round(reward)
        return self._observe(), reward, over and not cut, over and cut, {}


BOX = spaces.Box(-1, 1, (2,), np.float32)
HEADS = {
    "bernoulli": (spaces.Discrete(2), 1, "sigmoid", {}),
    "categorical": (spaces.Discrete(3), 3, None, {}),
    "multi-categorical": (spaces.MultiDiscrete([3, 2]), 5, None, {}),
    "multi-binary": (spaces.MultiBinary(3), 3, None, {}),
    "gaussian": (BOX, 4, None, {}),
    "gaussian-free": (BOX, 2, None, {}),
    "squashed": (BOX, 4, None, {"squash": True}),
}


def weights_of(agent):
    models = [agent.model, agent.value_model] if agent.value_model else [agent.model]
    parts = [w.ravel() for model in models for w in model.get_weights()]
    parts += [v.numpy().ravel() for v in agent.policy.head.variables]
    return np.concatenate(parts)


def agent_for(head, gradient, baseline=None, own_model=False, seed=0, **options):
    _, outputs, activation, head_options = HEADS[head]
    keras.utils.set_random_seed(seed)
    x = keras.Input((3,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(x)
    out = keras.layers.Dense(outputs, activation)(hidden)
    value = keras.layers.Dense(1)(hidden)
    two = baseline == "value" and not own_model
    model = keras.Model(x, [out, value] if two else out)
    model.compile(keras.optimizers.SGD(1.0))
    if own_model:
        hidden = keras.layers.Dense(4, "tanh")(x)
        options["value_model"] = keras.Model(x, keras.layers.Dense(1)(hidden))
        options["value_model"].compile(keras.optimizers.SGD(1.0))
    return tfpg.Reinforce(
        model,
        gamma=0.9,
        episodes_per_update=5,
        gradient=gradient,
        baseline=baseline,
        num_envs=1,
        **head_options,
        **options,
    )


def step(head, gradient, iterations=1, env_options=None, **options):
    """The change of the weights in one update, and its logs."""
    agent = agent_for(head, gradient, **options)
    env = lambda: Walk(HEADS[head][0], **(env_options or {}))  # noqa: E731
    agent.prepare(agent.policy_for(env))
    before = weights_of(agent)
    logs = agent.fit(env, iterations, seed=3, verbose=0).history
    return weights_of(agent) - before, {name: x[-1] for name, x in logs.items()}


def check_alike(head, **options):
    results = {gradient: step(head, gradient, **options) for gradient in ESTIMATORS}
    change, logs = results["fused"]
    size = np.linalg.norm(change)
    assert size > 1e-4
    for gradient in ESTIMATORS[1:]:
        other, other_logs = results[gradient]
        assert np.linalg.norm(other - change) < 1e-5 * size, gradient
        for name in set(logs) & set(other_logs):
            assert other_logs[name] == pytest.approx(logs[name], rel=1e-4, abs=1e-5), name


BASELINES = [None, "mean", "value"]


@pytest.mark.parametrize(
    ("head", "baseline"),
    slow_but(
        [("bernoulli", "mean"), ("squashed", "value")],
        itertools.product(HEADS, BASELINES),
    ),
)
def test_every_head_and_baseline(head, baseline):
    check_alike(head, baseline=baseline, entropy_coef=0.02)


STANDARDIZE = ["batch", "episode", None]


@pytest.mark.slow
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("standardize", STANDARDIZE)
def test_every_standardization(standardize, baseline):
    check_alike("categorical", baseline=baseline, standardize=standardize, seed=1)


@pytest.mark.parametrize(
    ("gae_lambda", "own_model"),
    slow_but([(0.7, True)], itertools.product([0.0, 0.7, 1.0], [False, True])),
)
def test_bootstrapping(gae_lambda, own_model):
    check_alike("bernoulli", baseline="value", gae_lambda=gae_lambda, own_model=own_model, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "env", [{"lengths": (1,)}, {"integer_rewards": True}, {"lengths": (40, 1)}]
)
def test_lengths_and_rewards_of_all_kinds(env):
    check_alike("categorical", env_options=env, baseline="value")


@pytest.mark.slow
def test_several_updates_in_a_row():
    check_alike("bernoulli", iterations=3)


@pytest.mark.parametrize("batch_size", slow_but([7], [1, 4, 7, 1000]))
def test_slices_give_the_same(batch_size):
    whole, logs = step("gaussian", "fused", baseline="value")
    sliced, sliced_logs = step("gaussian", "fused", baseline="value", batch_size=batch_size)
    np.testing.assert_allclose(sliced, whole, atol=1e-6 * np.linalg.norm(whole))
    assert sliced_logs["loss"] == pytest.approx(logs["loss"], rel=1e-5)


def test_a_value_model_is_updated_as_often_as_it_says():
    agent = agent_for("gaussian-free", "fused", "value", own_model=True, value_updates=3)
    agent.fit(lambda: Walk(BOX), 2, seed=0, verbose=0)
    assert int(agent.value_model.optimizer.iterations) == 6
    assert int(agent.model.optimizer.iterations) == 2
    assert [int(optimizer.iterations) for optimizer, _ in agent.trainable.groups] == [2, 2, 6]


def test_a_frozen_value_model_needs_no_updates():
    agent = agent_for("bernoulli", "fused", "value", own_model=True, value_updates=3)
    agent.value_model.trainable = False
    before = agent.value_model.get_weights()
    agent.fit(Walk, 1, seed=0, verbose=0)
    for a, b in zip(before, agent.value_model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Unsaid(Walk):
    """What it ends with is NaN, but for every first episode."""

    episode = 0

    def reset(self, **options):
        self.episode += 1
        return super().reset(**options)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if (terminated or truncated) and self.episode > 1:
            observation[0] = np.nan
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("gradient", ESTIMATORS)
def test_an_observation_that_an_episode_ends_with_is_looked_at(gradient):
    agent = agent_for("bernoulli", gradient)
    with pytest.raises(EnvDataError, match="step 5 of its episode"):
        agent.fit(lambda: Unsaid(lengths=(5,)), 1, seed=0, verbose=0)


class TestDegenerate:
    """One episode, one step, equal returns: zeros where nothing can be told, never NaN."""

    @pytest.mark.parametrize("baseline", slow_but(["value"], BASELINES))
    @pytest.mark.parametrize("gradient", ESTIMATORS)
    def test_one_episode_of_one_step(self, gradient, baseline):
        agent = agent_for("bernoulli", gradient, baseline)
        agent.episodes_per_update = 1
        env = lambda: Walk(lengths=(1,))  # noqa: E731
        history = agent.fit(env, 2, seed=0, verbose=0).history
        assert np.isfinite(weights_of(agent)).all()
        assert all(np.isfinite(x).all() for x in history.values())
        assert not {"grad_snr", "zscore_saving"} & set(history)

    @pytest.mark.parametrize("standardize", slow_but(STANDARDIZE[:1], STANDARDIZE[:2]))
    @pytest.mark.parametrize("gradient", ESTIMATORS)
    def test_equal_returns_teach_nothing(self, gradient, standardize):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(1.0))
        agent = tfpg.Reinforce(
            model, gradient=gradient, standardize=standardize, episodes_per_update=3, num_envs=1
        )
        before = np.concatenate([w.ravel() for w in model.get_weights()])
        # One step an episode: every return is 1.
        logs = agent.fit(lambda: Countdown(length=1), 1, seed=0, verbose=0).history
        after = np.concatenate([w.ravel() for w in model.get_weights()])
        np.testing.assert_array_equal(before, after)
        assert logs["grad_norm"] == [0.0]


class TestNoise:
    def test_a_sure_gradient_has_more_signal_than_a_random_one(self):
        class Paid(Walk):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, float(action), *rest

        class Lottery(Walk):
            def step(self, action):
                observation, _, *rest = super().step(action)
                return observation, float(self.np_random.normal()), *rest

        snr = {}
        for env in (Paid, Lottery):
            agent = agent_for("bernoulli", "accumulated")
            agent.episodes_per_update = agent.num_envs = 100
            snr[env] = agent.fit(env, 1, seed=0, verbose=0).history["grad_snr"][0]
        assert snr[Paid] > 10 > 3 > snr[Lottery]

    def test_snr_is_what_its_definition_says(self):
        # Episodes of one step with SGD: the batch gradient is the mean of the episodes'.
        agent = agent_for("categorical", "accumulated", standardize=None)
        env = lambda: Walk(HEADS["categorical"][0], lengths=(1,))  # noqa: E731
        agent.prepare(agent.policy_for(env))
        from tfpg.ops.gradients import gradient_of
        from tfpg.ops.per_step import flatten
        from tfpg.rollouts.collector import Collector

        import tensorflow as tf  # isort: skip

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

    def test_a_good_baseline_saves_variance(self):
        class Offset(Walk):
            def step(self, action):
                observation, reward, *rest = super().step(action)
                return observation, reward + 100.0, *rest

        agent = agent_for("bernoulli", "accumulated", "mean", standardize=None)
        agent.episodes_per_update = agent.num_envs = 50
        env = lambda: Offset(lengths=(1,))  # noqa: E731
        logs = agent.fit(env, 1, seed=0, verbose=0).history
        assert logs["baseline_saving"][0] > 0.99


def test_dict_observations():
    class Named(Walk):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (3,), np.float32)})

        def _observe(self):
            return {"x": super()._observe()}

    results = []
    for gradient in ESTIMATORS:
        keras.utils.set_random_seed(0)
        x = keras.Input((3,), name="x")
        model = keras.Model({"x": x}, keras.layers.Dense(2)(x))
        model.compile(keras.optimizers.SGD(1.0))
        agent = tfpg.Reinforce(model, gradient=gradient, episodes_per_update=4, num_envs=1)
        agent.fit(Named, 2, seed=0, verbose=0)
        results.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "accumulated", "batch_size": 8}, 'batch_size needs gradient="fused"'),
        ({"gae_lambda": 0.9}, "gae_lambda and n_step need values"),
        ({"n_step": 2}, "gae_lambda and n_step need values"),
        ({"value_updates": 5}, "value_updates needs a value_model"),
        ({"baseline": "median"}, "baseline must be one of"),
        ({"standardize": "step"}, "standardize must be one of"),
        ({"value_coef": -1.0}, "value_coef must be a number of at least 0"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"), **options)


def test_a_value_needs_an_output_or_a_model():
    with pytest.raises(ValueError, match="second output of shape"):
        tfpg.Reinforce(tfpg.networks.mlp("CartPole-v1"), baseline="value").fit("CartPole-v1", 1)
    both = tfpg.Reinforce(
        tfpg.networks.actor_critic("CartPole-v1"), value_model=tfpg.networks.critic("CartPole-v1")
    )
    with pytest.raises(ValueError, match="does not need a value_model"):
        both.fit("CartPole-v1", 1)
    with pytest.raises(
        ValueError, match=r"must have shape \(batch, 1\), but it has shape \(None, 2\)"
    ):
        tfpg.Reinforce(
            tfpg.networks.mlp("CartPole-v1"), value_model=tfpg.networks.mlp("CartPole-v1")
        ).fit("CartPole-v1", 1)
