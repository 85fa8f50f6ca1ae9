"""Training in functional environments: rollouts and updates in one compiled call."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from small import every_checkpoint, flat_weights, prepared

import tfpg
from tfpg.envs import functional, open_vec
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.functional_rollout import FunctionalCollector, begin, play, shuffled

ENV = functional.CartPole()
OPTIONS = {"num_envs": 4, "num_steps": 16, "gamma": 0.9}
EPISODES = {"episodes_per_update": 4, "max_steps": 12, "gamma": 0.9, "baseline": "value"}
ALGORITHMS = [tfpg.A2C, tfpg.PPO, tfpg.Reinforce, tfpg.PQN]


def network_of(algorithm):
    return tfpg.networks.mlp if algorithm is tfpg.PQN else tfpg.networks.actor_critic


def agent_of(algorithm=tfpg.PPO, env=ENV, seed=0, model=None, **options):
    model = model or network_of(algorithm)(env, hidden=(8,), seed=seed)
    return algorithm(model, **{**(EPISODES if algorithm is tfpg.Reinforce else OPTIONS), **options})


def fit(agent, iterations, **options):
    return agent.fit(ENV, iterations, seed=3, verbose=0, **options).history


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestAnyNumberOfIterationsInACall:
    def test_gives_the_same_weights_and_logs(self, algorithm):
        one, three = (agent_of(algorithm, steps_per_execution=k) for k in (1, 3))
        logs = [fit(agent, 7) for agent in (one, three)]
        np.testing.assert_allclose(flat_weights(one.model), flat_weights(three.model), atol=1e-6)
        assert logs[0]["env_steps"] == logs[1]["env_steps"]
        np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], atol=1e-4)
        assert len(logs[0]["loss"]) == 7

    def test_a_run_that_stops_and_resumes_ends_with_the_same_weights(self, algorithm, tmp_path):
        whole, begun, resumed = (agent_of(algorithm, steps_per_execution=2) for _ in range(3))
        expected = fit(whole, 6)
        fit(begun, 4, checkpoints=every_checkpoint(tmp_path))
        found = fit(resumed, 6, checkpoints=every_checkpoint(tmp_path))
        np.testing.assert_array_equal(flat_weights(whole.model), flat_weights(resumed.model))
        assert found["loss"] == expected["loss"]
        assert resumed.env_steps == whole.env_steps


class TestCallbacks:
    def test_an_iteration_is_an_epoch_and_early_stopping_saves_what_was_made(self, tmp_path):
        stop = keras.callbacks.EarlyStopping("env_steps", patience=2, mode="min")
        agent = agent_of(steps_per_execution=5)
        logs = fit(agent, 20, callbacks=[stop], checkpoints=every_checkpoint(tmp_path))
        assert len(logs["loss"]) == 5  # the call was not over when patience was
        again = agent_of(steps_per_execution=5)
        stop = keras.callbacks.EarlyStopping("env_steps", patience=2, mode="min")
        fit(again, 20, callbacks=[stop], checkpoints=every_checkpoint(tmp_path))
        np.testing.assert_array_equal(flat_weights(agent.model), flat_weights(again.model))

    def test_a_callback_gets_the_weights_of_its_iteration(self):
        seen, alone = [], []
        note = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(flat_weights(agent.model))
        )
        agent = agent_of()
        fit(agent, 3, callbacks=[note])
        for count in (1, 2, 3):
            other = agent_of()
            fit(other, count)
            alone.append(flat_weights(other.model))
        np.testing.assert_allclose(seen, alone, atol=1e-6)

    def test_validation_measures_the_weights_of_its_iteration(self):
        agent, plain = agent_of(), agent_of()
        logs = fit(agent, 6, validation_envs="CartPole-v1", validation_freq=2)
        assert len(logs["val_episode_return"]) == 3
        fit(plain, 6)
        np.testing.assert_allclose(flat_weights(agent.model), flat_weights(plain.model), atol=1e-6)


def first_rollout(agent, seed):
    """What a run with this seed plays first, as arrays."""
    prepared(agent, ENV)
    seed, zero = (tf.constant(x, tf.int64) for x in (seed, 0))
    episodes = isinstance(agent, tfpg.Reinforce)
    steps = agent.max_steps if episodes else agent.num_steps
    start = begin(ENV, agent.num_envs, seed, zero)
    options = {"max_steps": agent.max_steps, "single_episode": episodes}
    if isinstance(agent, tfpg.PQN):
        options["epsilon"] = tf.constant(agent.epsilon_at(0))
    position, played = play(ENV, agent.policy, start, steps, seed, zero, **options)
    data = tf.nest.map_structure(lambda x: x.numpy(), played.data)
    exact = {name: getattr(data, name).astype(np.float64) for name in ("rewards", "mask")}
    return data._replace(**exact), position


VALUE_MODEL = {"baseline": None, "value_updates": 3}


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (tfpg.A2C, {}),
        (tfpg.PPO, {"minibatches": 1, "reward_scale": 0.5}),
        (tfpg.PPO, {"minibatches": 1, "reward_scale": "auto"}),
        (tfpg.PQN, {"minibatches": 1, "epsilon": 0.3}),
        (tfpg.Reinforce, {}),
        (tfpg.Reinforce, {"gae_lambda": 0.8, "entropy_coef": 0.1, "standardize": None}),
        (tfpg.Reinforce, {"baseline": "mean", "standardize": "episode"}),
        (tfpg.Reinforce, {"baseline": "step"}),
        (tfpg.Reinforce, VALUE_MODEL),
    ],
)
def test_the_updates_are_those_of_the_host_loop_on_the_same_rollout(algorithm, options):
    def agent():
        if options is not VALUE_MODEL:
            return agent_of(algorithm, **options)
        networks = tfpg.networks
        model, critic = (make(ENV, hidden=(8,), seed=0) for make in (networks.mlp, networks.critic))
        return algorithm(model, value_model=critic, **{**EPISODES, **options})

    compiled, host = agent(), agent()
    compiled.jit_compile = False  # random numbers differ in XLA
    history = fit(compiled, 1)
    assert compiled.compiled_iterations is not None
    data, _ = first_rollout(host, 3)
    logs = host.update(data)
    host.update_statistics([data], host.policy)
    for name, value in logs.items():
        assert history[name][0] == pytest.approx(value, rel=1e-3, abs=1e-5)
    for model, other in zip(compiled.models, host.models, strict=True):
        np.testing.assert_allclose(flat_weights(model), flat_weights(other), atol=2e-5)


def test_whole_episodes_are_played_once_and_end_with_their_last_observation():
    data, position = first_rollout(agent_of(tfpg.Reinforce, episodes_per_update=64), 0)
    lengths = data.mask.sum(axis=0).astype(int)
    assert (lengths == position.lengths.numpy()).all()
    assert (lengths == position.returns.numpy()).all()  # a reward of 1 for each step
    assert lengths.min() < lengths.max() == 12
    for n, length in enumerate(lengths):
        assert data.mask[:length, n].all()
        assert not data.mask[length:, n].any()
        ended = data.terminated[:, n] | data.truncated[:, n]
        assert np.flatnonzero(ended).tolist() == [length - 1]
        angle = data.observations[length, n, 2]
        assert (abs(angle) > 0.2095) == data.terminated[length - 1, n]


@pytest.mark.parametrize(
    "options", [{"gradient": "accumulated"}, {"batch_size": 8}, {"num_envs": 2}]
)
def test_reinforce_uses_the_host_loop_where_it_cannot_be_compiled(options):
    agent = agent_of(tfpg.Reinforce, **options)
    history = fit(agent, 2)
    assert agent.compiled_iterations is None
    assert len(history["episode_return"]) == 2


@pytest.mark.parametrize("num_envs", [2, 32])
def test_reinforce_plays_its_episodes_in_any_number_of_environments(num_envs):
    agent = agent_of(tfpg.Reinforce, episodes_per_update=8, max_steps=3)
    envs = functional.FunctionalVectorEnv(ENV, num_envs)
    assert agent.fit(envs, 1, seed=0, verbose=0).history["env_steps"] == [24.0]


def test_episodes_that_end_early_are_padded_with_real_observations():
    class Positive(functional.CartPole):
        observation_space = gymnasium.spaces.Box(1.0, 100.0, (4,))

        def observation(self, state, rng, params=None):
            return 50.0 + super().observation(state, rng)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.log(inputs)))
    agent = tfpg.Reinforce(model, episodes_per_update=4, max_steps=200)
    assert np.isfinite(agent.fit(Positive(), 2, seed=0, verbose=0).history["loss"]).all()
    assert agent.compiled_iterations is not None


def test_episodes_without_a_limit_use_the_host_loop():
    class Endless(functional.CartPole):
        max_episode_steps = None

    agent = agent_of(tfpg.Reinforce, max_steps=None)
    agent.fit(Endless(), 1, seed=0, verbose=0)
    assert agent.compiled_iterations is None


@pytest.mark.parametrize("name", ["Acrobot", "MountainCarContinuous", "Pendulum"])
def test_other_action_spaces_train(name):
    env = getattr(functional, name)()
    agent = agent_of(env=env, squash=name == "Pendulum")
    history = agent.fit(env, 2, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["env_steps"] == [64, 128]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_running_statistics_are_those_of_the_host_loop(algorithm):
    def agent():
        model = network_of(algorithm)(ENV, hidden=(8,), normalize=True, seed=0)
        return agent_of(algorithm, model=model, **scaled)

    scaled = {} if algorithm is tfpg.Reinforce else {"reward_scale": "auto", "minibatches": 1}
    compiled, host = agent(), agent()
    compiled.jit_compile = False  # random numbers differ in XLA
    fit(compiled, 1)
    assert compiled.compiled_iterations is not None
    data, _ = first_rollout(host, 3)
    host.update(data)
    host.update_statistics([data], host.policy)
    np.testing.assert_allclose(flat_weights(compiled.model), flat_weights(host.model), atol=2e-5)
    layer = compiled.model.get_layer("observation_statistics")
    assert layer.moving_mean.numpy().all()
    for found, expected in zip(
        tf.nest.flatten(compiled.return_scale), tf.nest.flatten(host.return_scale), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # The next fit continues with them, and so does the host loop.
    fit(compiled, 2)
    compiled.fit("CartPole-v1", 1, seed=0, verbose=0)


def test_other_algorithms_train_through_the_adapter():
    model = tfpg.networks.mlp(ENV, hidden=(8,), seed=0)
    options = {"learning_starts": 64, "steps_per_iteration": 64}
    history = tfpg.DQN(model, **options).fit("functional/CartPole", 2, seed=0, verbose=0)
    assert len(history.history["episode_return"]) == 2


@pytest.mark.slow
def test_ppo_solves_cartpole():
    model = tfpg.networks.actor_critic(ENV, hidden=(64, 64), seed=0)
    agent = tfpg.PPO(model, num_envs=16, num_steps=128, epochs=10)
    agent.fit(ENV, 60, seed=1, verbose=0)
    assert tfpg.evaluate(agent, "CartPole-v1", 20, seed=2)["episode_return"] > 450


@pytest.mark.slow
def test_reinforce_solves_cartpole():
    model = tfpg.networks.mlp(ENV, hidden=(64, 64), seed=0)
    model.compile(keras.optimizers.Adam(0.01))
    agent = tfpg.Reinforce(model, episodes_per_update=32)
    agent.fit(ENV, 60, seed=1, verbose=0)
    assert tfpg.evaluate(agent, "CartPole-v1", 20, seed=2)["episode_return"] > 450


@pytest.mark.parametrize("steps", [1, 2, 5, 64, 1000])
def test_every_epoch_is_a_random_order_of_all_steps(steps):
    seed = tf.constant(3, tf.int64)
    order = shuffled(steps, 3, 1, seed, seed).numpy()
    assert [sorted(row) for row in order.tolist()] == [list(range(steps))] * 3
    if steps > 5:
        assert len({tuple(row) for row in order.tolist()}) == 3


def test_all_orders_are_equally_likely():
    seed, counts = tf.constant(0, tf.int64), np.zeros((16, 16))
    for iteration in range(400):
        for row in shuffled(16, 4, 1, seed, tf.constant(iteration, tf.int64)).numpy():
            counts[np.arange(16), row] += 1
    expected = counts.sum() / counts.size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 15 * 15 + 4 * np.sqrt(2 * 15 * 15)  # four standard deviations


def test_minibatches_share_the_steps_evenly():
    seed = tf.constant(1, tf.int64)
    order = shuffled(10, 2, 4, seed, seed).numpy()
    assert order.shape == (8, 3)
    assert sorted(order[:4][order[:4] >= 0].tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("algorithm", "env", "options"),
    [
        (tfpg.PPO, ENV, {"num_envs": 1, "num_steps": 9, "minibatches": 4}),
        (tfpg.PPO, ENV, {"num_envs": 8, "num_steps": 16, "minibatches": 64}),
        (tfpg.A2C, functional.Pendulum(), {"num_steps": 1, "max_steps": 5}),
    ],
)
def test_minibatches_of_nothing_but_resets_are_left_out(algorithm, env, options):
    agent = agent_of(algorithm, env, **options)
    history = agent.fit(env, 12, seed=0, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(flat_weights(agent.model)).all()


def test_another_time_limit_compiles_again():
    agent = agent_of(tfpg.A2C, num_steps=32)
    for limit in (5, 9):
        history = agent.fit(functional.FunctionalVectorEnv(ENV, 4, limit), 2, seed=0, verbose=0)
        assert history.history["episode_length"][-1] <= limit
    assert history.history["episode_length"][-1] > 5


def test_a_subclass_that_learns_in_its_own_way_uses_the_host_loop():
    class Shaped(tfpg.A2C):
        def update(self, data):
            return {**super().update(data), "own": 1.0}

    assert fit(agent_of(Shaped), 2)["own"] == [1.0, 1.0]


class Broken(functional.CartPole):
    def reward(self, state, action, next_state, rng, params=None):
        return super().reward(state, action, next_state, rng) * float("nan")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_learned_from_rewards_that_are_not_finite(algorithm):
    options = {} if algorithm is tfpg.PQN else {"entropy_coef": 0.1}
    agent = agent_of(algorithm, **options)
    before = flat_weights(agent.model)
    with pytest.raises(FloatingPointError, match="because the rewards are not"):
        agent.fit(Broken(), 1, seed=0, verbose=0)
    np.testing.assert_array_equal(flat_weights(agent.model), before)
    fit(agent, 1)  # the next training has finite statistics
    assert all(np.isfinite(x).all() for x in tf.nest.flatten(agent.return_scale))


def test_checkpoints_are_written_between_calls_when_they_are_due(tmp_path):
    agent = agent_of(steps_per_execution=16)
    checkpoints = tfpg.Checkpoints(tmp_path, every_iterations=3, keep=10)
    fit(agent, 10, checkpoints=checkpoints)
    assert len(list(tmp_path.glob("*.ckpt"))) == 4  # after 3, 6, 9 and 10


def test_a_run_resumes_in_the_same_functional_environment_alone(tmp_path):
    fit(agent_of(), 1, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="environment"):
        agent_of().fit(Broken(), 2, seed=3, verbose=0, checkpoints=tmp_path)


def test_max_steps_cuts_episodes_of_an_id_and_of_an_environment():
    for env in ("functional/CartPole", ENV):
        agent = agent_of(max_steps=6, num_steps=32)
        agent.fit(env, 2, seed=0, verbose=0)
        assert agent.compiled_iterations is not None
        assert agent.model.history.history["episode_length"][-1] <= 6


def test_parts_of_a_run_begin_in_different_states():
    with open_vec(ENV, 4) as envs:
        first, later = (FunctionalCollector(envs, 0, fragment=n) for n in (0, 10))
    assert (first.position.observations.numpy() != later.position.observations.numpy()).all()


def test_a_subclass_that_changes_weights_after_the_update_acts_with_them():
    class Shrinking(tfpg.PPO):
        def update(self, data):
            logs = super().update(data)
            for variable in self.trainable.variables:
                variable.assign(0.0 * variable)
            return logs

    agent = agent_of(Shrinking)
    agent.fit("CartPole-v1", 1, seed=0, verbose=0)
    with open_vec("CartPole-v1", 4) as envs:
        collector = Collector(envs, 0)
        agent.update(agent.collect(collector, agent.policy))
        data = agent.collect(collector, agent.policy)
    np.testing.assert_allclose(data.log_probs, np.log(0.5), atol=1e-6)
