"""Recurrent policies: how they remember, and their updates against backpropagation by hand."""

from functools import partial

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from masked import reporting
from small import ROLLOUT, collected, flat_weights, prepared
from toys import Countdown

import tfpg
from tfpg.agents.minibatches import sequence_order, without_gaps
from tfpg.core.seeding import evaluation_rng, reset_seed
from tfpg.envs.probes import Cue
from tfpg.models.recurrent import BEGIN
from tfpg.rollouts.collector import Collector

CELLS = ["gru", "lstm"]


def network(env="CartPole-v1", **options):
    options = {"units": 6, "hidden": (5,), "normalize": False, "seed": 0, **options}
    return tfpg.networks.recurrent(env, **options)


def with_sgd(model, rate=0.1):
    model.compile(keras.optimizers.SGD(rate))
    return model


def agent_of(algorithm, env="CartPole-v1", model=None, **options):
    options = {**ROLLOUT, "sequence_length": 4, **options}
    return algorithm(model or with_sgd(network(env)), **options)


def larger(model, spread=0.5):
    """The model with weights that make a difference."""
    rng = np.random.default_rng(1)
    model.set_weights(
        [w + rng.normal(0, spread, w.shape) * (w.ndim > 1) for w in model.get_weights()]
    )
    return model


class Recorded(Countdown):
    """Keeps the actions of all steps, and observes noise."""

    def __init__(self, length=12, render_mode="rgb_array"):
        super().__init__(length, render_mode=render_mode)
        self.observation_space = spaces.Box(-9, 9, (2,), np.float32)
        self.actions = []

    def _observe(self):
        return self.np_random.normal(size=2).astype(np.float32)

    def step(self, action):
        self.actions.append(int(action))
        return super().step(action)


def reset_of(seed, episode=0):
    return reset_seed(evaluation_rng(seed, episode))


def actions_of(model, seed, remember=True):
    env = Recorded()
    observation, _ = env.reset(seed=seed)
    state, over = np.zeros((1, 6), np.float32), False
    while not over:
        outputs = model({"observation": observation[None], "state": state})
        state = outputs["state"].numpy() * remember
        observation, _, over, *_ = env.step(int(np.argmax(outputs["policy"])))
    return env.actions


class TestMemory:
    @pytest.mark.parametrize("cell", CELLS)
    def test_the_state_of_a_step_is_what_the_model_returned_in_the_step_before(self, cell):
        model = larger(network(Countdown, cell=cell))
        agent = prepared(agent_of(tfpg.A2C, Countdown, model), Countdown)
        data = collected(agent, Countdown, num_steps=9)
        seen, names = data.observations, [name for name in model.input if name != "observation"]
        begins = seen[BEGIN]
        # An episode of Countdown has three steps, and a row with its last observation.
        assert begins[:, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1][: len(begins)]
        for t in range(len(begins) - 1):
            row = {name: seen[name][t] for name in model.input}
            after = model(row)
            for name in names:
                expected = np.where(begins[t + 1][:, None], 0.0, after[name])
                np.testing.assert_allclose(seen[name][t + 1], expected, atol=1e-5)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_it_begins_again_with_each_episode_in_all_autoreset_modes(self, mode):
        envs = SyncVectorEnv([Countdown] * 4, autoreset_mode=mode)
        model = larger(network(Countdown))
        agent = prepared(agent_of(tfpg.A2C, Countdown, model), Countdown)
        data = collected(agent, envs, num_steps=9)
        first = data.observations["observation"][..., 0] == 0
        real = np.concatenate([data.mask > 0, np.ones_like(data.mask[:1], bool)])
        assert (data.observations[BEGIN][real] == first[real]).all()
        assert (data.observations["state"][first & real] == 0).all()
        later = real & ~first
        assert (np.abs(data.observations["state"][later]).sum(axis=-1) > 0).all()

    def test_fragments_continue_episodes(self):
        model = larger(network())
        agent = prepared(agent_of(tfpg.A2C, model=model), "CartPole-v1")
        with tfpg.envs.open_vec("CartPole-v1", 4) as envs:
            collector = Collector(envs, 5)
            one, other = (collector.collect_steps(agent.policy, 4) for _ in range(2))
        np.testing.assert_array_equal(one.observations["state"][-1], other.observations["state"][0])

    def test_evaluations_and_videos_remember(self, tmp_path):
        """The greedy actions are those of the model alone, called with its own states."""
        model, played = larger(network(Recorded), 2.0), []
        with_memory = [actions_of(model, seed) for seed in range(3)]
        assert with_memory != [actions_of(model, seed, remember=False) for seed in range(3)]
        policy = tfpg.Policy(model, Recorded)
        for seed in range(3):
            env = Recorded()
            tfpg.record(policy, env, tmp_path / "a.gif", seed=seed, overlay=("value", "bars"))
            played.append(env.actions)
        assert played == [actions_of(model, reset_of(seed)) for seed in range(3)]
        env = Recorded()
        tfpg.evaluate(policy, env, episodes=3, seed=0)
        assert env.actions == [x for e in range(3) for x in actions_of(model, reset_of(0, e))]

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_time_limits_bootstrap_with_the_state_in_all_autoreset_modes(self, mode):
        make = lambda: gymnasium.wrappers.TimeLimit(Countdown(length=99), 3)  # noqa: E731
        envs = SyncVectorEnv([make] * 4, autoreset_mode=mode)
        agent = prepared(agent_of(tfpg.A2C, Countdown, larger(network(Countdown))), Countdown)
        data = collected(agent, envs, num_steps=9)
        last = data.observations["state"][3]  # after three steps, before the next episode
        rows = {name: data.observations[name][2] for name in ("observation", "state")}
        np.testing.assert_allclose(last, agent.model(rows)["state"], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_it_acts_alike_in_numpy_and_tensorflow(cell):
    model, decisions = larger(network(cell=cell)), []
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(5, 20, 4)).astype(np.float32)
    for acting in ("auto", "tensorflow"):
        policy = tfpg.Policy(model, "CartPole-v1", acting=acting)
        assert policy.acting == {"auto": "numpy"}.get(acting, acting)
        act = policy.actor().for_envs(20)
        decisions.append([act(observations) for observations in seen][-1])
    one, other = decisions
    np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-5)
    for name, state in one.state.items():
        np.testing.assert_allclose(state, other.state[name], atol=1e-5)


@pytest.mark.parametrize("state", ["probabilities", "with others"])
def test_probabilities_that_are_a_state_act_alike_in_numpy_and_tensorflow(state):
    size = {"probabilities": 2, "with others": 7}[state]
    x = keras.Input((4,), name="observation")
    before = keras.Input((size,), name="state")
    features = keras.layers.Dense(5, "tanh")(keras.layers.Concatenate()([x, before]))
    output = keras.layers.Dense(2, "softmax")(features)
    after = output if size == 2 else keras.layers.Concatenate()([features, output])
    inputs, outputs = {"observation": x, "state": before}, {"policy": output, "state": after}
    model = larger(keras.Model(inputs, outputs))
    seen = np.random.default_rng(0).normal(size=(5, 20, 4)).astype(np.float32)
    act = tfpg.Policy(model, "CartPole-v1", acting="numpy").actor().for_envs(20)
    state = np.zeros((20, size), np.float32)
    for observations in seen:
        decision = act(observations)
        state = model({"observation": observations, "state": state})["state"].numpy()
        np.testing.assert_allclose(decision.state["state"], state, atol=1e-5)


def test_resetting_and_the_number_of_environments():
    policy = tfpg.Policy(larger(network()), "CartPole-v1")
    observation = np.ones((1, 4), np.float32)
    act = policy.actor().for_envs(1)
    first, second = act(observation).outputs, act(observation).outputs
    assert not np.allclose(first, second)
    for ended in (True, [True], np.array([True]), np.True_):
        act.reset(ended)
        np.testing.assert_array_equal(act(observation).outputs, first)
    act.reset(False)
    assert not np.allclose(act(observation).outputs, first)
    for count in (2, 0):
        with pytest.raises(ValueError, match=f"{count} observations, but .* in 1 environments"):
            act(np.ones((count, 4), np.float32))


@pytest.mark.parametrize("key", ["policy", "value", "state"])
def test_observations_with_the_names_of_outputs(key):
    parts = {key: spaces.Box(-1, 1, (3,)), "x": spaces.Box(-1, 1, (2,))}
    model = tfpg.networks.recurrent((spaces.Dict(parts), spaces.Discrete(2)), 6, layer_norm=True)
    policy = tfpg.Policy(model, (spaces.Dict(parts), spaces.Discrete(2)))
    assert list(policy.states) == ["memory_state" if key == "state" else "state"]
    observations = {name: np.ones((2, *part.shape), "f") for name, part in parts.items()}
    decision = policy.actor().for_envs(2)(observations)
    assert decision.env_actions.shape == (2,)


def test_rollouts_shorter_than_a_sequence():
    agents = [agent_of(tfpg.PPO, num_steps=8, sequence_length=n, minibatches=2) for n in (16, 8)]
    for agent in agents:
        agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    np.testing.assert_array_equal(*(flat_weights(agent.model) for agent in agents))


def test_one_policy_serves_all_evaluations():
    agent = agent_of(tfpg.PPO)
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    policy = agent.policy
    for seed in range(2):
        agent.evaluate("CartPole-v1", 1, seed=seed)
    assert agent.policy is policy


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_of_sequences_are_those_of_the_steps_that_were_played(cell):
    """Also where an episode begins inside a sequence."""
    model = larger(network(Countdown, cell=cell))
    agent = prepared(agent_of(tfpg.PPO, Countdown, model), Countdown)
    data = collected(agent, Countdown, num_steps=6)
    steps, envs = data.mask.shape
    order = sequence_order((steps, envs), steps, 1, 1, np.random.default_rng(0))[0]
    rows = {
        name: tf.constant(np.reshape(x[:-1], (-1, *x.shape[2:]))[order])
        for name, x in agent.policy.encode(data.observations).items()
    }
    distribution, values = agent.policy.distribution_and_value(rows, steps)
    real = data.mask.ravel()[order] > 0
    log_probs = distribution.log_prob(data.actions.ravel()[order]).numpy()
    np.testing.assert_allclose(log_probs[real], data.log_probs.ravel()[order][real], atol=1e-5)
    expected = agent.policy.values(data.observations)[:-1].ravel()[order]
    np.testing.assert_allclose(values.numpy()[real], expected[real], atol=1e-5)


def test_an_update_is_that_of_backpropagation_through_time():
    """In each sequence, from the state that it was played with; through no beginning."""
    length, model = 3, larger(network(Countdown))
    options = {"sequence_length": length, "num_steps": 6, "gae_lambda": 0.9, "standardize": None}
    options |= {"entropy_coef": 0.0, "max_steps": None}
    agent = prepared(agent_of(tfpg.A2C, Countdown, with_sgd(model), **options), Countdown)
    envs = SyncVectorEnv([lambda: Countdown(length=4)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    data = collected(agent, envs, num_steps=6)
    data = without_gaps(data, 6, agent.gamma, agent.policy.values)
    other = with_sgd(network(Countdown))
    other.set_weights(model.get_weights())
    targets = agent.to_batch(data)
    column = {name: getattr(targets, name).reshape(4, 6) for name in ("advantages", "returns")}
    assert (data.mask == 1).all()
    losses = []
    with tf.GradientTape() as tape:
        for n in range(4):
            for start in range(0, 6, length):
                state = tf.constant(data.observations["state"][start][n : n + 1])
                for t in range(start, start + length):
                    if data.observations[BEGIN][t, n]:
                        state = tf.zeros((1, 6))
                    seen = data.observations["observation"][t][n : n + 1]
                    outputs = other({"observation": tf.constant(seen), "state": state})
                    state = outputs["state"]
                    log_probs = tf.nn.log_softmax(outputs["policy"])[0]
                    error = outputs["value"][0, 0] - column["returns"][n, t]
                    policy_loss = -column["advantages"][n, t] * log_probs[data.actions[t, n]]
                    losses.append(policy_loss + 0.5 * error**2)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, other.trainable_variables)
    other.optimizer.apply(gradients, other.trainable_variables)
    before = flat_weights(model)
    logs = agent.update(data)
    assert logs["loss"] == pytest.approx(float(loss), rel=1e-4)
    np.testing.assert_allclose(flat_weights(model), flat_weights(other), atol=1e-5)
    assert np.abs(flat_weights(model) - before).max() > 1e-3


class TestReinforce:
    """Whole episodes are sequences, from a state of zero."""

    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.parametrize("baseline", ["step", "value"])
    def test_an_update_is_that_of_backpropagation_through_episodes(self, cell, baseline):
        model, other = larger(network(cell=cell)), with_sgd(network(cell=cell))
        other.set_weights(model.get_weights())
        options = {"episodes_per_update": 3, "entropy_coef": 0.0, "baseline": baseline}
        agent = prepared(tfpg.Reinforce(with_sgd(model), num_envs=2, **options), "CartPole-v1")
        with tfpg.envs.open_vec("CartPole-v1", 2) as envs:
            data = agent.collect(Collector(envs, 7), agent.policy)
        targets, names = agent.to_batch(data), [x for x in model.input if x != "observation"]
        lengths = data.mask.sum(axis=0).astype(int)
        assert len(set(lengths)) > 1
        losses, row = [], 0
        with tf.GradientTape() as tape:
            for n, length in enumerate(lengths):
                states = {name: tf.zeros((1, 6)) for name in names}
                for t in range(length):
                    seen = tf.constant(data.observations["observation"][t, n][None])
                    outputs = other({"observation": seen, **states})
                    states = {name: outputs[name] for name in names}
                    log_probs = tf.nn.log_softmax(outputs["policy"])[0]
                    loss = -targets.advantages[row] * log_probs[data.actions[t, n]]
                    if baseline == "value":
                        loss += 0.5 * (outputs["value"][0, 0] - targets.returns[row]) ** 2
                    losses.append(loss)
                    row += 1
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, other.trainable_variables)
        pairs = zip(gradients, other.trainable_variables, strict=True)
        pairs = [(gradient, variable) for gradient, variable in pairs if gradient is not None]
        other.optimizer.build(other.trainable_variables)
        other.optimizer.apply_gradients(pairs)
        logs = agent.update(data)
        assert logs["loss"] == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(flat_weights(model), flat_weights(other), rtol=1e-3, atol=1e-4)

    def test_the_first_state_of_each_episode_is_zero(self):
        agent = tfpg.Reinforce(larger(network()), episodes_per_update=4, num_envs=2)
        agent = prepared(agent, "CartPole-v1")
        with tfpg.envs.open_vec("CartPole-v1", 2) as envs:
            data = agent.collect(Collector(envs, 7), agent.policy)
        assert (data.observations[BEGIN][0] == 1).all()
        assert (data.observations["state"][0] == 0).all()
        assert not data.observations[BEGIN][1:].any()
        assert (data.observations["state"][1] != 0).any(axis=-1).all()

    def test_it_remembers_a_cue(self):
        model = tfpg.networks.recurrent(lambda: Cue(2), units=16, hidden=(), seed=0)
        model.compile(keras.optimizers.Adam(0.03))
        agent = tfpg.Reinforce(model, gamma=1.0)
        agent.fit(lambda: Cue(2), 60, seed=0, verbose=0)
        assert agent.evaluate(lambda: Cue(2), 50, seed=1)["episode_return"] == 1.0

    @pytest.mark.parametrize("options", [{"gradient": "accumulated"}, {"batch_size": 64}])
    def test_options_that_split_episodes_are_refused(self, options):
        agent = tfpg.Reinforce(network(), **options)
        with pytest.raises(ValueError, match="must be computed over whole episodes: use gradient="):
            agent.fit("CartPole-v1", 1, seed=0, verbose=0)


@pytest.mark.parametrize("algorithm", [tfpg.A2C, tfpg.PPO, tfpg.Reinforce])
def test_a_state_of_size_0_trains_as_a_model_without_one(algorithm):
    plain = with_sgd(tfpg.networks.actor_critic("CartPole-v1", (5,), normalize=False, seed=0))
    x = keras.Input((4,), name="observation")
    state = keras.Input((0,), name="state")
    policy, value = plain(x)
    model = keras.Model(
        {"observation": x, "state": state}, {"policy": policy, "value": value, "state": state + 0.0}
    )
    with_sgd(model)
    if algorithm is tfpg.Reinforce:
        build = partial(algorithm, episodes_per_update=4, baseline="value")
    else:
        build = partial(agent_of, algorithm, epochs=2, minibatches=1, num_steps=8)
    agents = [build(model=each) for each in (model, plain)]
    first = plain.get_weights()
    histories, weights = [], []
    for agent in agents:
        plain.set_weights(first)
        histories.append(agent.fit("CartPole-v1", 3, seed=0, verbose=0).history)
        weights.append(flat_weights(plain))
    np.testing.assert_allclose(*weights, atol=1e-6)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_a_saved_model_acts_alike_and_plain_keras_loads_it(cell, tmp_path):
    model = network(cell=cell)
    agent = agent_of(tfpg.PPO, model=model)
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    path = tfpg.save_model(model, tmp_path / "model.keras")
    inputs = {name: np.ones((2, *x.shape[1:]), "f") for name, x in model.input.items()}
    expected = model(inputs)
    for loaded in (keras.saving.load_model(path), tfpg.load_model(path)):
        for name, x in loaded(inputs).items():
            np.testing.assert_allclose(x, expected[name], atol=1e-6)
    results = [tfpg.evaluate(x, "CartPole-v1", 3, seed=0) for x in (agent, tfpg.load_model(path))]
    assert results[0] == results[1]


@pytest.mark.slow
def test_masks_and_memory_together():
    played = []

    def make():
        played.append(reporting("infos"))
        return played[-1]

    agent = agent_of(tfpg.PPO, make, network(make))
    history = agent.fit(make, 3, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert [env.unwrapped.invalid for env in played] == [0] * len(played)


def test_minibatches_consist_of_sequences():
    order = sequence_order((6, 3), 3, 2, 2, np.random.default_rng(0))
    assert order.shape == (4, 9)
    assert sorted(order[:2].ravel().tolist()) == list(range(18))
    for sequence in order.reshape(-1, 3):
        assert np.diff(sequence).tolist() == [3, 3]
        assert sequence[0] // 3 in (0, 3)
    uneven = sequence_order((2, 3), 2, 1, 2, np.random.default_rng(0))
    assert uneven.shape == (2, 4)
    assert (uneven == -1).sum(axis=1).tolist() == [0, 2]


class TestRefusals:
    @pytest.mark.parametrize("algorithm", [tfpg.DQN, tfpg.PQN, tfpg.SAC])
    def test_other_algorithms(self, algorithm):
        with pytest.raises(ValueError, match="has the state 'state'. Use tfpg.PPO, tfpg.A2C or"):
            algorithm(network())

    def test_sequences_that_do_not_fit(self):
        agent = agent_of(tfpg.A2C, num_steps=8, sequence_length=3)
        with pytest.raises(ValueError, match=r"num_steps \(8\) must be a multiple of sequence_len"):
            agent.fit("CartPole-v1", 1, seed=0, verbose=0)

    def test_acting_without_a_state(self):
        policy = tfpg.Policy(network(), "CartPole-v1")
        for function in (policy.act, policy.values, policy.encode, policy.actor()):
            with pytest.raises(ValueError, match=r"use act = policy.actor\(\).for_envs\(N\)"):
                function(np.zeros((1, 4), np.float32))

    def test_more_minibatches_than_sequences(self):
        agent = agent_of(tfpg.PPO, num_envs=1, num_steps=8, minibatches=4)
        size = r"has 2 sequences of 4 steps \(num_envs 1 x num_steps 8\)"
        with pytest.raises(ValueError, match=f"{size}, which is too few for 4"):
            agent.fit("CartPole-v1", 1, seed=0, verbose=0)

    def test_a_separate_value_model(self):
        model = network()
        outputs = {name: x for name, x in model.output.items() if name != "value"}
        agent = tfpg.PPO(
            keras.Model(model.input, outputs), value_model=tfpg.networks.critic("CartPole-v1")
        )
        message = 'needs an output named "value" of shape .* and no value_model'
        with pytest.raises(ValueError, match=message):
            agent.fit("CartPole-v1", 1, seed=0, verbose=0)
        with pytest.raises(ValueError, match=message):
            tfpg.PPO(agent.model).fit("CartPole-v1", 1, seed=0, verbose=0)

    @pytest.mark.parametrize("batch", [1, 16])
    def test_a_stateful_layer(self, batch):
        model = keras.Sequential(
            [keras.Input(batch_shape=(batch, 4)), keras.layers.Reshape((1, 4))]
        )
        model.add(keras.layers.GRU(6, stateful=True, name="memory"))
        model.add(keras.layers.Dense(2))
        with pytest.raises(ValueError, match=r"'memory' \(GRU\) is stateful, so it would not forg"):
            tfpg.Policy(model, "CartPole-v1")

    def test_models_in_other_forms(self):
        unnamed, x = keras.Input((4,), name="x"), keras.Input((4,), name="observation")
        state = keras.Input((2,), name="state")
        outputs = {"policy": keras.layers.Dense(2)(state), "state": 0.5 * state}
        other = {"policy": outputs["policy"], "next_state": 0.5 * state}
        for inputs, results, message in (
            ({"x": unnamed, "state": state}, outputs, r"keras.Input\(shape, name='observation'\)"),
            (
                {"observation": x, "state": state},
                other,
                "If it is recurrent, use dicts of inputs and outputs",
            ),
            (
                x,
                [keras.layers.Dense(2)(x) for _ in range(3)],
                "Each state of a recurrent model is an output with the name of",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                tfpg.Policy(keras.Model(inputs, results), "CartPole-v1")

    def test_a_state_named_as_an_observation(self):
        space = spaces.Dict(state=spaces.Box(-1, 1, (3,)))
        x, state = keras.Input((3,), name="observation"), keras.Input((2,), name="state")
        outputs = {"policy": keras.layers.Dense(2)(x), "state": 0.5 * state}
        model = keras.Model({"observation": x, "state": state}, outputs)
        with pytest.raises(ValueError, match="'state' has the name of an observation"):
            tfpg.Policy(model, (space, spaces.Discrete(2)))

    def test_a_state_that_changes_its_shape(self):
        x, state = keras.Input((3,), name="observation"), keras.Input((2,), name="state")
        outputs = {"policy": keras.layers.Dense(2)(x), "state": keras.layers.Dense(4)(state)}
        model = keras.Model({"observation": x, "state": state}, outputs)
        with pytest.raises(ValueError, match=r"shape \(None, 2\) as an input and \(None, 4\)"):
            tfpg.Policy(model, (spaces.Box(-1, 1, (3,)), spaces.Discrete(2)))

    def test_exports(self, tmp_path):
        policy = tfpg.Policy(network(), "CartPole-v1")
        with pytest.raises(ValueError, match="recurrent policies cannot be exported"):
            tfpg.export(policy, tmp_path / "policy.onnx")


@pytest.mark.slow
def test_ppo_remembers_a_cue_for_twenty_steps():
    model = tfpg.networks.recurrent(Cue, units=32, hidden=(32,), seed=0)
    model.compile(keras.optimizers.Adam(3e-3, epsilon=1e-5, global_clipnorm=0.5))
    options = {"num_envs": 16, "num_steps": 44, "sequence_length": 22, "epochs": 4, "gamma": 1.0}
    agent = tfpg.PPO(model, minibatches=2, gae_lambda=1.0, **options)
    agent.fit(Cue, 100, seed=0, verbose=0)
    assert agent.evaluate(Cue, 100, seed=1)["episode_return"] == 1.0
