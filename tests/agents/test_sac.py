"""SAC: its updates against the paper's, how it explores, and what it refuses."""

import re

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but
from small import SMALL, flat_weights, prepared, small_sac
from toys import Bandit

import tfpg
from tfpg.models.heads import GaussianHead
from tfpg.rollouts.replay import Transitions

SEED = 3, 4
LOW, HIGH = np.float32([-1.0, 0.0]), np.float32([3.0, 0.5])


class TwoActions(gymnasium.Env):
    """Two dimensions with different bounds; observes three random numbers."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(LOW, HIGH)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype("float32"), {}

    def step(self, action):
        assert self.action_space.contains(action), repr(action)
        over = bool(self.np_random.random() < 0.2)
        return self.np_random.normal(size=3).astype("float32"), float(action[0]), over, False, {}


def sgd():
    return keras.optimizers.SGD(0.05)


def ready(**options):
    agent = small_sac(TwoActions(), **options)
    for model in agent.models:
        model.compile(sgd())
    return prepared(agent, TwoActions())


def random_transitions(count=24, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    return Transitions(
        normal(count, 3),
        normal(count, 2),
        normal(count),
        rng.choice([0.0, 0.9], count).astype("float32"),
        normal(count, 3),
        rng.random(count).astype("float32"),
        np.arange(count),
    )


def sampled(model, observations, noise):
    """Actions in [-1, 1] and their log-probabilities, by the density of a change of variables."""
    mean, log_std = tf.split(tf.cast(model(observations), tf.float64), 2, axis=1)
    u = mean + tf.exp(log_std) * noise
    density = tf.exp(-0.5 * ((u - mean) / tf.exp(log_std)) ** 2 - log_std) / np.sqrt(2 * np.pi)
    return tf.tanh(u), tf.reduce_sum(tf.math.log(density / (1 - tf.tanh(u) ** 2)), axis=1)


def call(critic, observations, actions):
    inputs = tf.constant(observations), tf.cast(actions, tf.float32)
    return tf.cast(critic(list(inputs)), tf.float64)


def papers_updates(model, critic, log_alpha, data, *, learned, target_entropy, tau):
    """The updates of the paper one at a time, and the means of what they log."""
    target = keras.models.clone_model(critic)
    target.set_weights(critic.get_weights())
    logs, drawn = [], np.random.default_rng(SEED).standard_normal((3, 8, 2, 2), np.float32)
    for start in range(0, len(data.rewards), 8):
        part = Transitions(*(x[start : start + 8] for x in data[:7]))
        noise, next_noise = np.moveaxis(drawn[start // 8], 1, 0)
        alpha = float(np.exp(log_alpha))
        next_actions, next_log_probs = sampled(model, part.next_observations, next_noise)
        smaller = tf.reduce_min(call(target, part.next_observations, next_actions), axis=1)
        goals = part.rewards + part.discounts * (smaller - alpha * next_log_probs).numpy()
        with tf.GradientTape(persistent=True) as tape:
            q_values = call(critic, part.observations, np.tanh(part.actions))
            errors = q_values - goals[:, None]
            critic_loss = tf.reduce_mean(part.weights * tf.reduce_sum(errors**2, axis=1))
            actions, log_probs = sampled(model, part.observations, noise)
            values = call(critic, part.observations, actions)
            policy_loss = tf.reduce_mean(alpha * log_probs - tf.reduce_min(values, axis=1))
        critic_gradients = tape.gradient(critic_loss, critic.trainable_variables)
        gradients = tape.gradient(policy_loss, model.trainable_variables)
        slope = -float(tf.reduce_mean(log_probs)) - target_entropy if learned else 0.0
        logs.append(
            {
                "loss": critic_loss + policy_loss + log_alpha * slope,
                "policy_loss": policy_loss,
                "mean_q": tf.reduce_mean(q_values),
                "td_error": tf.reduce_mean(tf.abs(errors)),
                "entropy": np.log((HIGH - LOW) / 2).sum() - tf.reduce_mean(log_probs),
                "alpha": alpha,
                "grad_norm": tf.linalg.global_norm(
                    [*critic_gradients, *gradients, tf.constant(slope)]
                ),
            }
        )
        critic.optimizer.apply(critic_gradients, critic.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        log_alpha -= 0.05 * slope
        pairs = zip(target.get_weights(), critic.get_weights(), strict=True)
        target.set_weights([old + tau * (new - old) for old, new in pairs])
    means = {name: float(np.mean([float(each[name]) for each in logs])) for name in logs[0]}
    return log_alpha, means


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tau": 0.1}, {"learned": True, "target_entropy": -2.0}),
        ({"tau": 0.1, "target_entropy": 0.5}, {"learned": True, "target_entropy": 0.5}),
        ({"tau": 0.3, "alpha": 0.2}, {"learned": False, "target_entropy": -2.0}),
    ],
)
def test_updates_are_those_of_the_paper(options, expected):
    data, agent, same = random_transitions(), ready(**options), ready()
    log_alpha = 0.0 if expected["learned"] else np.log(0.2)
    logs, _ = agent.learn_from(data, SEED)
    log_alpha, means = papers_updates(
        same.model, same.critic, log_alpha, data, tau=options["tau"], **expected
    )
    np.testing.assert_allclose(flat_weights(agent.model), flat_weights(same.model), atol=1e-5)
    np.testing.assert_allclose(flat_weights(agent.critic), flat_weights(same.critic), atol=1e-5)
    assert logs == pytest.approx(means, rel=1e-4, abs=1e-5)
    if expected["learned"]:
        assert float(agent.log_alpha) == pytest.approx(log_alpha, abs=1e-5)
    else:
        assert float(agent.log_alpha) == 0.0


def test_updates_without_a_seed_differ():
    data, agents = random_transitions(), [ready() for _ in range(2)]
    for agent in agents:
        agent.learn_from(data)
    one, other = (flat_weights(agent.model) for agent in agents)
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_xla_gives_the_same_weights():
    data = random_transitions()
    plain, compiled = ready(), ready(jit_compile=True)
    (logs, errors), (xla_logs, xla_errors) = (x.learn_from(data, SEED) for x in (plain, compiled))
    np.testing.assert_allclose(errors, xla_errors, atol=1e-5)
    for one, other in zip(plain.models, compiled.models, strict=True):
        np.testing.assert_allclose(flat_weights(one), flat_weights(other), atol=1e-5)
    assert logs == pytest.approx(xla_logs, rel=1e-4)


def test_updates_with_a_gradient_that_is_not_finite_are_undone():
    agent, data = ready(), random_transitions()
    before = [flat_weights(*agent.models), [w.numpy() for w in agent.target.weights]]
    data.rewards[5] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        agent.learn_from(data)
    np.testing.assert_array_equal(flat_weights(*agent.models), before[0])
    for weight, old in zip(agent.target.weights, before[1], strict=True):
        np.testing.assert_array_equal(weight, old)
    assert float(agent.log_alpha) == 0.0


def test_the_warm_up_is_uniform_within_the_bounds_and_what_follows_is_the_policys():
    agent = small_sac(TwoActions(), learning_starts=4000, capacity=8000)
    agent.model.get_layer(index=-1).bias.assign([3.0, -3.0, -5.0, -5.0])  # hardly random
    agent.model.get_layer(index=-1).kernel.assign(np.zeros((8, 4)))
    agent.fit(TwoActions, 1, seed=0, verbose=0)
    rows = agent.replay.rows_since()
    actions = np.tanh(rows["actions"][rows["real"]])
    per_env = len(actions) // agent.num_envs
    first = actions.reshape(agent.num_envs, per_env, 2)[:, :900].reshape(-1, 2)
    np.testing.assert_allclose(np.histogram(first, 10, (-1, 1))[0] / first.size, 0.1, atol=0.02)
    assert np.corrcoef(first.T)[0, 1] == pytest.approx(0, abs=0.06)
    last = actions.reshape(agent.num_envs, per_env, 2)[:, -5:]
    assert (last[..., 0] > 0.9).all()
    assert (last[..., 1] < -0.9).all()


def test_actions_are_stored_as_they_are_before_the_tanh():
    """However close to a bound, they are exact."""
    agent = small_sac(TwoActions())
    agent.model.get_layer(index=-1).bias.assign([30.0, 0.0, -5.0, 0.0])
    agent.fit(TwoActions, 1, seed=0, verbose=0)
    rows = agent.replay.rows_since()
    actions = rows["actions"][rows["real"]]
    assert actions.dtype == np.float32
    assert actions.shape[1:] == (2,)
    assert (actions[:, 0] > 20).any()
    assert len(np.unique(actions[:, 0])) == len(actions)


class TestHead:
    space = spaces.Box(LOW, HIGH)

    def test_log_stds_are_clipped(self):
        head = GaussianHead(self.space, 4, squash=True)
        outputs = np.array([[0.0, 0.0, -50.0, 50.0]], np.float32)
        np.testing.assert_array_equal(head.distribution(outputs).log_std, [[-10.0, 2.0]])
        np.testing.assert_array_equal(
            head.distribution(tf.constant(outputs)).log_std, [[-10.0, 2.0]]
        )
        free = GaussianHead(self.space, 4)
        np.testing.assert_array_equal(free.distribution(outputs).log_std, [[-50.0, 50.0]])

    def test_at_random_actions_of_the_environment_are_uniform(self):
        head = GaussianHead(self.space, 4, squash=True)
        head.at_random = True
        noise = head.noise(np.random.default_rng(0), 20_000)
        actions = head.env_actions(
            head.distribution(np.zeros((20_000, 4), "float32")).sample(noise)
        )
        share = (np.sort(actions, axis=0) - LOW) / (HIGH - LOW)
        expected = np.linspace(0, 1, 20_000)[:, None].repeat(2, axis=1)
        np.testing.assert_allclose(share, expected, atol=0.02)


@pytest.mark.slow
def test_the_entropy_approaches_its_target_where_all_actions_are_equally_good():
    class Indifferent(TwoActions):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    agent = small_sac(Indifferent(), target_entropy=-3.0, updates_per_learn=64)
    for model in agent.models:
        model.compile(keras.optimizers.Adam(0.01))
    history = agent.fit(Indifferent, 25, seed=0, verbose=0).history
    expected = -3.0 + np.log((HIGH - LOW) / 2).sum()
    assert np.mean(history["entropy"][-5:]) == pytest.approx(expected, abs=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"n_step": 3, "prioritized": True}, {"overlap": True}])
def test_it_finds_the_best_action(options):
    env = Bandit(spaces.Box(-2, 4, (1,), np.float32))
    options |= {"updates_per_learn": 32, "batch_size": 64, "target_entropy": -3.0}
    agent = small_sac(env, (32, 32), **options)
    for model in agent.models:
        model.compile(keras.optimizers.Adam(0.01))
    agent.fit(lambda: Bandit(env.action_space), 12, seed=0, verbose=0)
    actions = agent.predict(np.array([[-1.0], [1.0]], np.float32))
    np.testing.assert_allclose(actions, [[-0.5], [0.5]], atol=0.2)


@pytest.mark.parametrize(
    "optimizer",
    slow_but([keras.optimizers.AdamW], [keras.optimizers.AdamW, keras.optimizers.SGD]),
)
def test_the_decay_of_weights_is_not_for_the_temperature(optimizer):
    found = []
    for decay in (0.0, 0.5):
        agent = small_sac(TwoActions())
        agent.log_alpha.assign(2.0)
        for model in agent.models:
            model.compile(optimizer(0.1, weight_decay=decay))
        prepared(agent, TwoActions()).learn_from(random_transitions(8), SEED)
        found.append((float(agent.log_alpha), flat_weights(agent.model)))
    assert found[0][0] == found[1][0] != 2.0
    assert not np.array_equal(found[0][1], found[1][1])


def test_the_same_seed_gives_the_same_weights():
    one, two = small_sac(TwoActions()), small_sac(TwoActions())
    for agent in (one, two):
        agent.fit(TwoActions, 2, seed=3, verbose=0)
    np.testing.assert_array_equal(flat_weights(*one.models), flat_weights(*two.models))
    assert float(one.log_alpha) == float(two.log_alpha) != 0.0


def test_a_saved_model_acts_as_it_was_trained(tmp_path):
    agent = small_sac(TwoActions())
    agent.fit(TwoActions, 1, seed=0, verbose=0)
    agent.save(tmp_path / "model.keras")
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    policy = tfpg.Policy(tfpg.load_model(tmp_path / "model.keras"), TwoActions())
    np.testing.assert_array_equal(policy.act(observations), agent.predict(observations))
    means = keras.models.load_model(tmp_path / "model.keras")(observations)[:, :2]
    expected = LOW + (HIGH - LOW) * (np.tanh(means) + 1) / 2
    np.testing.assert_allclose(agent.predict(observations), expected, atol=1e-6)


@pytest.mark.parametrize(("one", "other"), slow_but([(False, True)], [(True, True), (False, True)]))
def test_the_critic_has_running_statistics_of_its_observations(one, other):
    class Shifted(TwoActions):
        def reset(self, **options):
            observation, info = super().reset(**options)
            return 5 + observation, info

        def step(self, action):
            observation, *rest = super().step(action)
            return 5 + observation, *rest

    model = tfpg.networks.mlp(Shifted(), (8,), log_std=None, normalize=one, seed=0)
    critic = tfpg.networks.twin_critic(Shifted(), (8,), normalize=other, layer_norm=True, seed=1)
    agent = tfpg.SAC(model, critic=critic, **{**SMALL, "target_update_period": None})
    agent.fit(Shifted, 2, seed=0, verbose=0)
    layers = [x for each in agent.models for x in each.layers if x.name.endswith("_statistics")]
    assert len(layers) == one + other
    for layer in layers:
        np.testing.assert_allclose(layer.moving_mean, [5, 5, 5], atol=0.5)
        np.testing.assert_array_equal(layer.moving_mean, layers[0].moving_mean)


def test_a_critic_that_was_not_built_is_trained():
    class Critic(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)

        def call(self, inputs):
            return self.out(self.hidden(keras.ops.concatenate(inputs, axis=-1)))

    model = small_sac(TwoActions()).model
    agent = tfpg.SAC(model, critic=Critic(), **{**SMALL, "target_update_period": None})
    prepared(agent, TwoActions())
    assert len(agent.trainable.groups[-1][1]) == len(agent.target.weights) == 4
    weights = [flat_weights(agent.critic)]
    for iterations in (1, 2):
        agent.fit(TwoActions, iterations, initial_iteration=iterations - 1, seed=0, verbose=0)
        weights.append(flat_weights(agent.critic))
    assert (weights[0] != weights[1]).all()
    assert (weights[1] != weights[2]).all()


def test_discrete_and_dict_observations_train_too():
    class Named(TwoActions):
        observation_space = spaces.Dict(
            {"actions": spaces.Discrete(3), "x": TwoActions.observation_space}
        )

        def reset(self, **options):
            observation, info = super().reset(**options)
            return {"actions": 1, "x": observation}, info

        def step(self, action):
            observation, *rest = super().step(action)
            return {"actions": 2, "x": observation}, *rest

    agent = small_sac(Named())
    history = agent.fit(Named, 1, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()


class TestKeysOfTheCritic:
    """A critic may see other keys of an observation than the policy."""

    class Named(TwoActions):
        observation_space = spaces.Dict(
            {"seen": TwoActions.observation_space, "hidden": spaces.Box(-9, 9, (2,), np.float32)}
        )

        def reset(self, **options):
            observation, info = super().reset(**options)
            return {"seen": observation, "hidden": observation[:2]}, info

        def step(self, action):
            observation, *rest = super().step(action)
            return {"seen": observation, "hidden": observation[:2]}, *rest

    def agent(self, *keys):
        named = self.Named()
        parts = {key: named.observation_space[key] for key in keys}
        critic = tfpg.networks.twin_critic((spaces.Dict(parts), named.action_space), (8,), seed=1)
        seen = keras.Input((3,), name="seen")
        model = keras.Model({"seen": seen}, keras.layers.Dense(4)(seen))
        return tfpg.SAC(model, critic=critic, **{**SMALL, "target_update_period": None})

    @pytest.mark.parametrize("keys", [["seen", "hidden"], ["hidden"]])
    def test_they_train_and_the_policy_acts_without_them(self, keys):
        agent = self.agent(*keys)
        before = flat_weights(agent.critic)
        agent.fit(self.Named, 1, seed=0, verbose=0)
        assert (flat_weights(agent.critic) != before).any()
        assert agent.policy.actor()({"seen": np.zeros((5, 3), "float32")}).actions.shape == (5, 2)

    def test_they_must_exist(self):
        agent = self.agent("hidden")
        env = spaces.Dict({"seen": TwoActions.observation_space}), TwoActions.action_space
        expected = r"Observations have no key 'hidden'. Their keys are \['seen'\]"
        with pytest.raises(ValueError, match=expected):
            prepared(agent, env)


class TestErrors:
    def test_a_critic_is_needed(self):
        with pytest.raises(ValueError, match=re.escape("critic=tfpg.networks.twin_critic(env)")):
            tfpg.SAC(tfpg.networks.mlp("Pendulum-v1"))

    @pytest.mark.parametrize(
        ("given", "known"),
        [
            ("ent_coef", "alpha"),
            ("entropy_coef", "alpha"),
            ("value_model", "critic"),
            ("buffer_size", "capacity"),
            ("gradient_steps", "updates_per_learn"),
        ],
    )
    def test_names_of_other_libraries_are_translated(self, given, known):
        expected = f"Unknown SAC option '{given}'. In tfpg, it is called '{known}'."
        with pytest.raises(TypeError, match=re.escape(expected)):
            small_sac(**{given: 0.1})

    @pytest.mark.parametrize("env", ["CartPole-v1", "unbounded"])
    def test_actions_must_be_bounded(self, env):
        agent = small_sac("Pendulum-v1")
        if env == "unbounded":
            env = spaces.Box(-1, 1, (3,)), spaces.Box(-np.inf, np.inf, (1,))
        with pytest.raises(ValueError, match="SAC needs actions in a bounded Box"):
            agent.policy_for(env)

    def test_actions_must_be_able_to_differ(self):
        env = spaces.Box(-1, 1, (3,)), spaces.Box(2, 2, (1,))
        with pytest.raises(ValueError, match="bounded Box, but both bounds of dimension 0 are 2"):
            small_sac("Pendulum-v1").policy_for(env)

    def test_the_target_of_the_entropy_must_be_reachable(self):
        limit = r"target_entropy must be below 1\.386, the entropy of uniform actions"
        with pytest.raises(ValueError, match=limit):
            prepared(small_sac(TwoActions(), target_entropy=2 * np.log(2)), TwoActions())
        prepared(small_sac(TwoActions(), target_entropy=1.38), TwoActions())

    def test_a_fixed_temperature_has_no_target(self):
        with pytest.raises(ValueError, match=r'is for alpha="auto", got alpha=0\.2: leave one'):
            small_sac(alpha=0.2, target_entropy=-1.0)

    def test_two_q_values_are_needed(self):
        critic = tfpg.networks.critic("Pendulum-v1")
        agent = tfpg.SAC(tfpg.networks.mlp("Pendulum-v1", log_std=None), critic=critic)
        with pytest.raises(ValueError, match="critic cannot be called"):
            prepared(agent, "Pendulum-v1")

    def test_two_outputs_are_to_be_concatenated(self):
        twin = tfpg.networks.twin_critic("Pendulum-v1", (8,))
        critic = keras.Model(twin.input, twin.layers[-1].input)
        agent = tfpg.SAC(small_sac().model, critic=critic)
        with pytest.raises(ValueError, match=r"\(batch, 2\), .* Concatenate the values of its"):
            prepared(agent, "Pendulum-v1")

    def test_the_second_model_is_called_a_critic(self):
        agent = small_sac()
        rates = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)
        expected = "that of critic too, use learning rate schedules."
        with pytest.warns(UserWarning, match=re.escape(expected)):
            agent.fit("Pendulum-v1", 1, [rates], seed=0, verbose=0)
        assert {"critic", "agent"} < set(agent.variables())
        agent.critic.compile(agent.model.optimizer)
        with pytest.raises(ValueError, match="The policy and the critic were compiled with the"):
            prepared(agent, "Pendulum-v1")

    def test_a_log_std_is_needed(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        agent = tfpg.SAC(model, critic=tfpg.networks.twin_critic("Pendulum-v1", (8,)))
        with pytest.raises(ValueError, match="SAC needs a model with 2 outputs"):
            prepared(agent, "Pendulum-v1")

    def test_twin_critics_are_for_boxes(self):
        with pytest.raises(ValueError, match="twin_critic, for tfpg.SAC, needs a Box"):
            tfpg.networks.twin_critic("CartPole-v1")
