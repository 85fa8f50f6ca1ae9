"""C51 and QR-DQN: their updates against the papers', how they act, and what they refuse."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from small import SMALL, flat_weights, prepared, q_network, random_transitions

import tfpg
from tfpg.models.heads import EpsilonGreedyHead
from tfpg.models.policy import head_options_of

ATOMS = 5


def network(outputs=2 * ATOMS, seed=0):
    return q_network(outputs=outputs, seed=seed, optimizer=keras.optimizers.SGD(0.1))


def agent_of(algorithm, model=None, **options):
    if algorithm is tfpg.C51:
        options = {"v_min": -2.0, "v_max": 3.0, **options}
    return algorithm(model or network(), **{**SMALL, **options})


def ready(algorithm, **options):
    return prepared(agent_of(algorithm, **options), "CartPole-v1")


def per_action(outputs):
    return np.reshape(outputs, (-1, 2, ATOMS))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def of_taken(x, actions):
    return tf.gather(tf.reshape(x, [-1, 2, ATOMS]), actions, batch_dims=1)


def c51_loss(model, target, data, double):
    """The loss of each transition, with the projection as a loop over atoms."""
    support = np.linspace(-2.0, 3.0, ATOMS)
    following = softmax(per_action(target(data.next_observations)))
    chooser = softmax(per_action(model(data.next_observations))) if double else following
    best = (chooser @ support).argmax(axis=-1)
    goals = np.zeros((len(best), ATOMS))
    for b, action in enumerate(best):
        for j in range(ATOMS):
            value = data.rewards[b] + data.discounts[b] * support[j]
            place = (np.clip(value, -2.0, 3.0) + 2.0) / (5.0 / (ATOMS - 1))
            for i in range(ATOMS):
                goals[b, i] += max(0.0, 1.0 - abs(place - i)) * following[b, action, j]
    log_probs = tf.nn.log_softmax(of_taken(model(data.observations), data.actions))
    return -tf.reduce_sum(goals * tf.cast(log_probs, tf.float64), axis=-1)


def qrdqn_loss(model, target, data, double):
    following = per_action(target(data.next_observations))
    chooser = per_action(model(data.next_observations)) if double else following
    best = chooser.mean(axis=-1).argmax(axis=-1)
    goals = data.rewards[:, None] + data.discounts[:, None] * following[np.arange(len(best)), best]
    quantiles = of_taken(model(data.observations), data.actions)
    total = 0.0
    for i in range(ATOMS):
        for j in range(ATOMS):
            error = tf.cast(goals[:, j], tf.float32) - quantiles[:, i]
            size = tf.abs(error)
            huber = tf.where(size <= 1, 0.5 * size**2, size - 0.5)
            level = (i + 0.5) / ATOMS
            total += tf.where(error < 0, 1 - level, level) * huber / ATOMS
    return total


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("algorithm", "loss_of"), [(tfpg.C51, c51_loss), (tfpg.QRDQN, qrdqn_loss)])
def test_updates_are_those_of_the_papers(algorithm, loss_of, double):
    data = random_transitions(24)
    agent, model = ready(algorithm, double=double, target_update_period=2), network()
    target = keras.models.clone_model(model)
    target.set_weights(model.get_weights())
    logs, _ = agent.learn_from(data)
    losses = []
    for update in range(3):
        part = type(data)(*(x[8 * update : 8 * update + 8] for x in data))
        with tf.GradientTape() as tape:
            each = part.weights * tf.cast(loss_of(model, target, part, double), tf.float32)
            loss = tf.reduce_mean(each)
        model.optimizer.apply(
            tape.gradient(loss, model.trainable_variables), model.trainable_variables
        )
        losses.append(float(loss))
        if update == 1:
            target.set_weights(model.get_weights())
    np.testing.assert_allclose(flat_weights(agent.model), flat_weights(model), atol=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_td_error_is_that_of_the_means():
    data = random_transitions(8)
    agent = ready(tfpg.QRDQN, double=False)
    values = per_action(agent.model(data.observations)).mean(axis=-1)
    following = per_action(agent.model(data.next_observations)).mean(axis=-1).max(axis=-1)
    expected = data.rewards + data.discounts * following - values[np.arange(8), data.actions]
    logs, errors = agent.learn_from(data)
    np.testing.assert_allclose(errors, expected, atol=1e-5)
    assert logs["td_error"] == pytest.approx(np.abs(expected).mean(), rel=1e-4)
    assert logs["mean_q"] == pytest.approx(values.max(axis=-1).mean(), rel=1e-4)


def test_c51_prioritizes_by_a_divergence_that_is_0_for_a_perfect_prediction():
    """Where nothing follows and the reward is an atom, a network can predict the return exactly."""
    data = random_transitions(8)
    certain = 40.0  # logit
    data = data._replace(rewards=np.full(8, 3.0), discounts=np.zeros(8))
    agent = ready(tfpg.C51)
    _, errors = agent.learn_from(data)
    assert (errors > 0.1).all()
    last = agent.model.layers[-1]
    kernel, bias = (np.zeros_like(x) for x in last.get_weights())
    bias[[4, 9]] = certain
    last.set_weights([kernel, bias])
    _, errors = agent.learn_from(data)
    np.testing.assert_allclose(errors, 0.0, atol=1e-5)


class TestHead:
    space = spaces.Discrete(2)

    def test_quantiles_have_their_mean_as_q_value(self):
        head = EpsilonGreedyHead(self.space, 0.0, 6, "quantiles")
        outputs = np.array([[1.0, 2.0, 3.0, 0.0, 0.0, 9.0]])
        np.testing.assert_allclose(head.q_values(outputs), [[2.0, 3.0]])
        assert head.distribution(outputs).mode() == [1]

    def test_logits_have_the_mean_of_their_distribution_as_q_value(self):
        head = EpsilonGreedyHead(self.space, 0.0, 6, (-1.0, 1.0))
        outputs = np.log([[0.2, 0.3, 0.5, 0.6, 0.2, 0.2]])
        np.testing.assert_allclose(head.q_values(outputs), [[0.3, -0.4]], atol=1e-6)

    @pytest.mark.parametrize("support", [None, "quantiles", (-1.0, 1.0)])
    def test_outputs_may_have_several_leading_axes(self, support):
        outputs = np.random.default_rng(0).normal(size=(3, 4, 2 if support is None else 6))
        mask = np.random.default_rng(1).integers(2, size=(3, 4, 2))
        head = EpsilonGreedyHead(self.space, 0.25, outputs.shape[-1], support)
        for x in (outputs, head.masked(outputs, mask)):
            rows = head.distribution(x.reshape(12, -1)).log_prob(np.zeros(12, int))
            found = head.distribution(x).log_prob(np.zeros((3, 4), int))
            np.testing.assert_allclose(found, rows.reshape(3, 4))

    def test_tensors_and_arrays_agree(self):
        outputs = np.random.default_rng(0).normal(size=(7, 10)).astype("float32")
        for support in ("quantiles", (-2.0, 3.0)):
            head = EpsilonGreedyHead(self.space, 0.0, 10, support)
            found = head.q_values(tf.constant(outputs)).numpy()
            np.testing.assert_allclose(found, head.q_values(outputs), atol=1e-5)

    @pytest.mark.parametrize(
        ("support", "message"),
        [
            ((1.0, 1.0), "from a number to a larger one, in 5 steps"),
            ((0, np.inf), "a larger one"),
            ((1e8, 1e8 + 1), "that float32 can tell apart, got 1e+08 and 1e+08"),
            ((0.0, 1e308), "float32 can tell apart"),
            ("quantile", 'support must be "quantiles", or the lowest and the highest return, got'),
            ((0, 5, 10), "support must be"),
            (5, "support must be"),
            (np.array(["low", "high"]), "support must be"),
        ],
    )
    def test_impossible_supports_are_refused(self, support, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            tfpg.Policy(network(), "CartPole-v1", epsilon=0.1, support=support)

    def test_a_support_is_for_q_networks(self):
        policy = tfpg.Policy(network(), "CartPole-v1", epsilon=0.1, support=np.array([-2.0, 3.0]))
        assert policy.head.support == (-2.0, 3.0)
        with pytest.raises(ValueError, match="support is for Q-networks: pass epsilon, too"):
            tfpg.Policy(network(), "CartPole-v1", support=(-2.0, 3.0))

    @pytest.mark.parametrize("outputs", [2, 5])
    def test_a_number_of_outputs_that_does_not_fit_is_refused(self, outputs):
        message = f"has {outputs} outputs, but .* needs a multiple of 2"
        with pytest.raises(ValueError, match=message):
            ready(tfpg.QRDQN, model=network(outputs))


@pytest.mark.parametrize("algorithm", [tfpg.DQN, tfpg.C51, tfpg.Reinforce])
def test_other_agents_refuse_a_network_of_distributions(algorithm):
    model = network()
    agent_of(tfpg.QRDQN, model).fit("CartPole-v1", iterations=1, seed=0, verbose=0)
    known = head_options_of(model)
    with pytest.raises(ValueError, match=re.escape("use tfpg.QRDQN")):
        algorithm(model)
    assert head_options_of(model) == known


def test_a_new_network_of_distributions_in_another_agent():
    with pytest.raises(ValueError, match="has 10 outputs, but .* use tfpg.C51 or tfpg.QRDQN"):
        tfpg.DQN(network(), **SMALL).fit("CartPole-v1", iterations=1, seed=0, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"v_min": 5, "v_max": 5}, "v_max must be above v_min (5), got 5."),
        ({"v_max": float("nan")}, "v_max must be a number or None, got nan"),
        ({"v_min": "low"}, "v_min must be a number or None, got 'low'"),
    ],
)
def test_c51_refuses_impossible_bounds_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tfpg.C51(network(), **options)


@pytest.mark.parametrize("algorithm", [tfpg.C51, tfpg.QRDQN])
def test_a_saved_model_acts_as_it_was_trained(algorithm, tmp_path):
    agent = agent_of(algorithm)
    agent.fit("CartPole-v1", iterations=1, seed=0, verbose=0)
    tfpg.save_model(agent.model, tmp_path / "model.keras")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    loaded = tfpg.load_model(tmp_path / "model.keras")
    expected = agent.predict(observations)
    found = tfpg.Policy(loaded, "CartPole-v1").act(observations)
    np.testing.assert_array_equal(found, expected)
    outputs = keras.models.load_model(tmp_path / "model.keras")(observations)
    values = keras.ops.reshape(outputs, (-1, 2, ATOMS))  # the formulas of the docs
    if algorithm is tfpg.QRDQN:
        values = keras.ops.mean(values, axis=-1)
    else:
        values = keras.ops.sum(keras.ops.softmax(values) * np.linspace(-2, 3, ATOMS), axis=-1)
    np.testing.assert_array_equal(np.argmax(values, axis=-1), expected)


def test_training_further_keeps_the_range_of_the_atoms(tmp_path):
    path, options = tmp_path / "model.keras", {**SMALL, "learning_starts": 64}
    agent_of(tfpg.C51, v_min=-2.0, v_max=30.0).save(path)
    for load in (lambda: tfpg.C51(tfpg.load_model(path), **options), lambda: tfpg.C51.load(path)):
        agent = load()
        assert agent.support == (-2.0, 30.0)
        agent.save(tmp_path / "again.keras")
        assert tfpg.C51.load(tmp_path / "again.keras").support == (-2.0, 30.0)
    preset = tfpg.presets.find("c51", "CartPole-v1")
    for given, expected in (({}, (-2.0, 30.0)), ({"v_max": 50.0}, (-2.0, 50.0))):
        model = tfpg.load_model(path)
        made = tfpg.presets.make("c51", "CartPole-v1", preset=preset, model=model, **given)
        assert made.support == expected
    assert tfpg.C51(network(), **options).support == (-10.0, 10.0)


def test_a_range_that_is_changed_between_two_fits_is_that_of_the_updates():
    agent, other = agent_of(tfpg.C51, v_max=3.0), agent_of(tfpg.C51, v_max=30.0)
    agent.fit("CartPole-v1", iterations=1, seed=0, verbose=0)
    agent.v_max = 30.0
    agent.fit("CartPole-v1", iterations=1, seed=0, verbose=0)
    np.testing.assert_array_equal(agent.head.atoms, np.linspace(-2, 30, ATOMS, dtype="f"))
    other.model.set_weights(agent.model.get_weights())
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    expected = other.policy_for("CartPole-v1").values(observations)
    np.testing.assert_allclose(agent.policy.values(observations), expected)


@pytest.mark.parametrize("make", [tfpg.networks.mlp, tfpg.networks.dueling])
def test_networks_with_atoms_act_in_numpy(make):
    model = make("Acrobot-v1", hidden=(8,), atoms=7, seed=0)
    assert model.output_shape == (None, 21)
    numpy, tensors = (
        tfpg.Policy(model, "Acrobot-v1", epsilon=0, support="quantiles", acting=acting)
        for acting in ("numpy", "tensorflow")
    )
    observations = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    found = numpy.actor()(observations).outputs
    np.testing.assert_allclose(found, tensors.actor()(observations).outputs, atol=1e-6)


def test_the_streams_of_a_dueling_network_of_distributions_add_up():
    """For each atom, the mean over the actions is the value, and it is the same for all."""
    model = tfpg.networks.dueling("CartPole-v1", hidden=(8,), atoms=ATOMS, seed=0)
    observations = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    value = next(x for x in model.layers if getattr(x, "units", 0) == ATOMS)
    expected = keras.Model(model.input, value.output)(observations)
    found = per_action(model(observations)).mean(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
