"""PQN: its updates against the paper's, its exploration, how it acts, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from small import (
    AfterEachIteration,
    TraceCounter,
    collected,
    flat_weights,
    options_for,
    prepared,
    three_actions,
)

import tfpg
from tfpg.agents.minibatches import minibatch_order
from tfpg.core.seeding import shuffle_rng
from tfpg.envs.functional import CartPole
from tfpg.envs.probes import ObservedAction
from tfpg.rollouts.trajectory import Trajectory
from tfpg.schedules import linear

SMALL = {**options_for(tfpg.PQN), "minibatches": 2}
FALLING = linear(1.0, 0.1, 100)


def network(inputs=3, outputs=3):
    return tfpg.networks.mlp(
        (spaces.Box(-9, 9, (inputs,), np.float32), spaces.Discrete(outputs)),
        hidden=(5,),
        layer_norm=True,
        seed=0,
    )


def agent_of(model=None, **options):
    return tfpg.PQN(model or network(4, 2), **{**SMALL, **options})


class TestReturns:
    """Of three steps with rewards 10, 20 and 30, between states of values 1, 2, 4 and 8."""

    def returns(self, terminated, truncated, mask=(1, 1, 1), **options):
        x = keras.Input((1,))
        model = keras.Sequential([x, keras.layers.Dense(2)])
        model.set_weights([np.ones((1, 2)), np.array([0.0, -1.0])])  # the largest Q-value is x
        agent = prepared(agent_of(model, gamma=0.5, **options), ObservedAction)
        column = lambda x, kind=float: np.asarray(x, kind)[:, None]  # noqa: E731
        observations = np.array([1, 2, 4, 8], "float32")[:, None, None]
        ends = column(terminated, bool), column(truncated, bool)
        data = Trajectory(
            *(observations, column([0, 1, 0], int), column([10, 20, 30]), *ends),
            *(column(mask), column([0, 0, 0])),
        )
        return agent.to_batch(data, agent.policy.values(observations)).returns

    @pytest.mark.parametrize(
        ("terminated", "truncated", "expected"),
        [
            ([0, 0, 0], [0, 0, 0], [17.875, 29.5, 34.0]),
            ([0, 1, 0], [0, 0, 0], [15.5, 20.0, 34.0]),
            ([0, 0, 0], [0, 1, 0], [16.0, 22.0, 34.0]),
            ([0, 0, 1], [0, 0, 0], [17.625, 28.5, 30.0]),
        ],
    )
    def test_a_termination_stops_the_bootstrap_and_a_time_limit_the_sum(
        self, terminated, truncated, expected
    ):
        np.testing.assert_allclose(self.returns(terminated, truncated, q_lambda=0.5), expected)

    def test_lambda_0_is_one_step_and_lambda_1_is_all_rewards_of_the_rollout(self):
        never = [0, 0, 0]
        np.testing.assert_allclose(self.returns(never, never, q_lambda=0.0), [11.0, 22.0, 34.0])
        np.testing.assert_allclose(self.returns(never, never, q_lambda=1.0), [28.5, 37.0, 34.0])

    def test_a_masked_row_is_no_step_but_its_state_is_bootstrapped_from(self):
        found = self.returns([0, 0, 0], [1, 0, 0], mask=[1, 0, 1], q_lambda=0.5)
        np.testing.assert_allclose(found, [11.0, 34.0])


def papers_steps(model, data, gamma, lam):
    """Observations, actions and targets, step by step of all environments, in plain loops."""
    columns = []
    for n in range(data.mask.shape[1]):
        steps, target, last = [], None, True
        for t in reversed(range(len(data.mask))):
            if not data.mask[t, n]:
                last = True
                continue
            best = float(np.max(model(data.observations[t + 1, n][None])))
            if data.terminated[t, n]:
                target = data.rewards[t, n]
            elif data.truncated[t, n] or last:
                target = data.rewards[t, n] + gamma * best
            else:
                target = data.rewards[t, n] + gamma * ((1 - lam) * best + lam * target)
            last = False
            steps.append((data.observations[t, n], data.actions[t, n], target))
        columns.append(steps[::-1])
    return [column[t] for t in range(len(columns[0])) for column in columns]


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 1), (2, 4)])
def test_updates_are_those_of_the_paper(epochs, minibatches):
    def compiled_network():
        model = network()
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=0.5))
        return model

    options = {"gamma": 0.9, "q_lambda": 0.7, "epochs": epochs, "minibatches": minibatches}
    agent = prepared(agent_of(compiled_network(), **options), three_actions)
    data = collected(agent, three_actions)
    assert data.terminated.any()
    assert (data.truncated & ~data.terminated).any()
    model = compiled_network()
    steps = papers_steps(model, data, 0.9, 0.7)
    observations, actions, targets = (np.array(x) for x in zip(*steps, strict=True))
    order = [np.arange(len(steps))] * epochs
    if minibatches > 1:
        everything = np.arange(len(steps))
        order = minibatch_order(everything, len(steps), epochs, minibatches, shuffle_rng(0, 0))
    losses, largest = [], []
    for chosen in order:
        with tf.GradientTape() as tape:
            q_values = model(observations[chosen])
            of_taken = tf.gather(q_values, actions[chosen], batch_dims=1)
            loss = tf.reduce_mean((targets[chosen].astype("float32") - of_taken) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
        largest.append(float(np.max(q_values, axis=-1).mean()))
    logs = agent.update(data)
    np.testing.assert_allclose(flat_weights(agent.model), flat_weights(model), atol=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert logs["mean_q"] == pytest.approx(np.mean(largest), abs=1e-5)


class TestExploration:
    @pytest.mark.parametrize("env", ["CartPole-v1", CartPole()], ids=["host", "functional"])
    def test_epsilon_follows_the_steps_of_all_calls_of_fit(self, env):
        agent = agent_of(epsilon=FALLING)
        logs = [agent.fit(env, count, seed=0, verbose=0).history["epsilon"] for count in (3, 2)]
        # 4 environments x 8 steps in each iteration
        np.testing.assert_allclose(logs[0], [1.0, 0.712, 0.424])
        np.testing.assert_allclose(logs[1], [0.136, 0.1])
        assert agent.head.epsilon == logs[1][-1]

    @pytest.mark.parametrize("env", ["CartPole-v1", CartPole()], ids=["host", "functional"])
    def test_a_schedule_is_played_as_it_is_logged(self, env):
        """A network that prefers action 1 by far plays action 0 only at random."""
        rates = []
        for epsilon in (0.0, 0.5, linear(1.0, 0.0, 1), linear(0.0, 1.0, 1)):
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            model.set_weights([np.zeros((4, 2)), np.array([0.0, 1e6])])
            model.compile(keras.optimizers.SGD(0.0))
            agent = agent_of(model, epsilon=epsilon, num_envs=64, num_steps=32)
            lengths = agent.fit(env, 2, seed=0, verbose=0).history["episode_length"]
            rates.append(lengths)
        always, half, first_random, first_greedy = rates
        assert max(always) < 11  # the cart that is always pushed to one side
        assert min(half) > 11
        assert first_random[0] > 15
        assert first_greedy[0] == always[0]
        assert first_greedy[1] > first_greedy[0]
        assert first_random[1] < first_random[0]

    def test_a_changing_epsilon_traces_nothing_again(self):
        for env in ("CartPole-v1", CartPole()):
            counter = TraceCounter()
            agent = agent_of(epsilon=FALLING)
            agent.model.layers[1].kernel.regularizer = counter
            count = AfterEachIteration(lambda counter=counter: counter.traces)
            agent.fit(env, 4, [count], seed=0, verbose=0)
            assert count.values == [counter.traces] * 4
            assert counter.traces > 0


def test_a_saved_model_acts_greedily_and_explores_as_in_the_end(tmp_path):
    agent = agent_of(epsilon=FALLING)
    agent.fit("CartPole-v1", 2, seed=0, verbose=0)
    model = tfpg.load_model(agent.save(tmp_path / "model.keras"))
    policy = tfpg.Policy(model, "CartPole-v1")
    assert policy.acting == "numpy"
    assert policy.head.epsilon == 0.1
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    q_values = model(x).numpy()
    np.testing.assert_array_equal(policy.act(x), q_values.argmax(axis=-1))
    np.testing.assert_allclose(policy.values(x), q_values.max(axis=-1), rtol=1e-5)


class TestRefusals:
    def test_continuous_actions(self):
        with pytest.raises(ValueError, match="Q-values need Discrete actions"):
            agent_of(network(3, 1)).fit("Pendulum-v1", iterations=1)

    def test_a_value_output(self):
        with pytest.raises(ValueError, match="a Q-network has only one"):
            agent_of(tfpg.networks.actor_critic("CartPole-v1")).fit("CartPole-v1", iterations=1)

    def test_a_network_of_distributions(self):
        model = tfpg.networks.mlp("CartPole-v1", hidden=(8,), atoms=5)
        tfpg.C51(model).policy_for("CartPole-v1")
        with pytest.raises(ValueError, match=r"use tfpg\.C51"):
            agent_of(model)

    def test_options_of_policies(self):
        with pytest.raises(TypeError, match="gae_lambda"):
            agent_of(gae_lambda=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "functional/CartPole"])
def test_pqn_learns_to_balance(env):
    agent = tfpg.presets.make("pqn", env, seed=0)
    agent.fit(env, env_steps=60_000, seed=0, verbose=0)
    assert agent.evaluate("CartPole-v1", 20, seed=1)["episode_return"] > 400
