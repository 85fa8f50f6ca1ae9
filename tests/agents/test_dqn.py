"""DQN: its updates against the textbook's, what it trains in, and what it refuses."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from marks import slow_but
from small import (
    SMALL,
    flat_weights,
    prepared,
    q_network,
    random_transitions,
    small_agent,
    small_model,
)
from toys import Bandit, Countdown, Endless

import tfpg
from tfpg.envs.probes import NoisyChain, ObservedAction
from tfpg.rollouts.replay import Transitions
from tfpg.schedules import exponential, linear


def train(env="CartPole-v1", iterations=3, model=None, **options):
    agent = tfpg.DQN(model or q_network(), **{**SMALL, **options})
    history = agent.fit(env, iterations, seed=3, verbose=0).history
    return agent, history


def prepared_agent(model=None, **options):
    agent = small_agent(tfpg.DQN, model=model or q_network(), **options)
    return prepared(agent, "CartPole-v1")


def part_of(transitions, start, size):
    return Transitions(*(x[start : start + size] for x in transitions))


def textbook_updates(model, data, batch_size, *, double=True, loss="huber", period=None, tau=None):
    """Make the same updates one at a time, with a second Keras model as the target network."""
    target = keras.models.clone_model(model)
    target.set_weights(model.get_weights())
    errors = []
    for update, start in enumerate(range(0, len(data.rewards), batch_size), 1):
        part = part_of(data, start, batch_size)
        following = target(part.next_observations).numpy()
        chooser = model(part.next_observations).numpy() if double else following
        best = chooser.argmax(axis=-1)
        goal = part.rewards + part.discounts * following[np.arange(batch_size), best]
        with tf.GradientTape() as tape:
            values = model(part.observations)
            taken = tf.gather(values, part.actions, batch_dims=1)
            difference = goal - taken
            if loss == "huber":
                size = tf.abs(difference)
                each = tf.where(size <= 1, 0.5 * difference**2, size - 0.5)
            else:
                each = difference**2
            mean = tf.reduce_mean(part.weights * each)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(mean, variables), variables)
        errors.append(difference.numpy())
        if tau is not None:
            pairs = zip(target.get_weights(), model.get_weights(), strict=True)
            target.set_weights([old + tau * (new - old) for old, new in pairs])
        elif update % period == 0:
            target.set_weights(model.get_weights())
    return np.concatenate(errors), target.get_weights()


def check_against_the_textbook(data, **options):
    names = {"target_update_period": "period"}
    agent, model = prepared_agent(**options), q_network()
    _, errors = agent.learn_from(data)
    options = {names.get(name, name): x for name, x in options.items()}
    expected, target = textbook_updates(model, data, 8, **options)
    np.testing.assert_allclose(errors, expected, atol=1e-5)
    np.testing.assert_allclose(flat_weights(agent.model), flat_weights(model), atol=1e-6)
    for a, b in zip(agent.target.weights, target, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


class TestUpdates:
    @pytest.mark.parametrize("double", [False, True])
    @pytest.mark.parametrize("loss", slow_but(["huber"], ["huber", "mse"]))
    def test_updates_are_those_of_the_textbook(self, double, loss):
        data = random_transitions(80)
        check_against_the_textbook(data, double=double, loss=loss, target_update_period=3)

    def test_a_target_network_that_follows_by_tau_is_that_of_the_textbook(self):
        check_against_the_textbook(random_transitions(40), tau=0.1)

    def test_many_updates_in_one_call_are_many_calls(self):
        data = random_transitions(96)
        one, many = prepared_agent(), prepared_agent()
        one.learn_from(data)
        for start in range(0, 96, 24):
            many.learn_from(part_of(data, start, 24))
        np.testing.assert_allclose(flat_weights(one.model), flat_weights(many.model), atol=1e-6)
        assert one.updates == many.updates == 12

    @pytest.mark.slow
    def test_xla_gives_the_same_weights(self):
        data = random_transitions(80)
        plain, compiled = prepared_agent(), prepared_agent(jit_compile=True)
        (logs, errors), (xla_logs, xla_errors) = (x.learn_from(data) for x in (plain, compiled))
        np.testing.assert_allclose(errors, xla_errors, atol=1e-5)
        models = plain.model, compiled.model
        np.testing.assert_allclose(*map(flat_weights, models), atol=1e-5)
        assert logs == pytest.approx(xla_logs, rel=1e-4)

    def test_logs_are_means_over_the_updates(self):
        data = random_transitions(16)
        agent = prepared_agent(q_network(optimizer=keras.optimizers.SGD(0.0)))
        logs, errors = agent.learn_from(data)
        values = agent.model(data.observations).numpy()
        size = np.abs(errors)
        huber = np.where(size <= 1, 0.5 * size**2, size - 0.5)
        assert logs["loss"] == pytest.approx((data.weights * huber).mean(), rel=1e-5)
        assert logs["mean_q"] == pytest.approx(values.max(axis=1).mean(), rel=1e-5)
        assert logs["td_error"] == pytest.approx(size.mean(), rel=1e-5)
        norms = []
        for start in (0, 8):
            part = part_of(data, start, 8)
            following = agent.model(part.next_observations).numpy().max(axis=1)
            goal = part.rewards + part.discounts * following
            with tf.GradientTape() as tape:
                taken = tf.gather(agent.model(part.observations), part.actions, batch_dims=1)
                each = keras.losses.huber(goal[:, None], taken[:, None])
                loss = tf.reduce_mean(part.weights * each)
            grads = tape.gradient(loss, agent.model.trainable_variables)
            norms.append(tf.linalg.global_norm(grads).numpy())
        assert logs["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)

    @pytest.mark.parametrize(
        ("wrong", "jit_compile"), slow_but([(np.inf, True)], [(np.nan, False), (np.inf, True)])
    )
    def test_a_non_finite_update_undoes_all_updates_of_its_call(self, wrong, jit_compile):
        agent = prepared_agent(jit_compile=jit_compile)
        agent.learn_from(random_transitions(24))

        def everything():
            groups = agent.model.variables, agent.model.optimizer.variables, agent.target.weights
            return [v.numpy() for group in groups for v in group]

        before, data = everything(), random_transitions(24)
        data.rewards[17] = wrong  # in the last of three updates
        with pytest.raises(FloatingPointError, match=r"gradient of '.*' is not finite .*skipped"):
            agent.learn_from(data)
        for a, b in zip(before, everything(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert agent.updates == 3

    @pytest.mark.parametrize("convolves", [False, True])
    def test_auto_compiles_with_xla_unless_a_cpu_would_convolve(self, convolves):
        class NotForXla(keras.layers.Layer):
            def call(self, x):
                return x + tf.ensure_shape(tf.numpy_function(np.zeros_like, [x], x.dtype), x.shape)

        layers = [keras.Input((4,)), NotForXla()]
        if convolves:
            reshape = keras.layers.Reshape
            layers += [reshape((4, 1)), keras.layers.Conv1D(2, 2), keras.layers.Flatten()]
        model = keras.Sequential([*layers, keras.layers.Dense(2)])
        agent = prepared_agent(model, jit_compile="auto")
        if convolves and not tf.config.list_logical_devices("GPU"):
            agent.learn_from(random_transitions(8))
        else:
            with pytest.warns(UserWarning, match=r"XLA cannot compile the updates .*PyFunc"):
                agent.learn_from(random_transitions(8))


class TestTraining:
    @pytest.mark.parametrize("n_step", slow_but([4], [1, 4]))
    def test_every_option_is_reproducible_and_waits_for_a_whole_transition(self, n_step):
        options = {"prioritized": True, "priority_beta": linear(0.0, 1.0, 300), "overlap": True}
        options |= {"n_step": n_step, "learning_starts": 1, "learn_period": 4}
        one, same = (train(iterations=2, **options) for _ in range(2))
        np.testing.assert_array_equal(flat_weights(one[0].model), flat_weights(same[0].model))
        assert one[1] == same[1]

    def test_steps_updates_episodes_and_epsilon_are_logged(self):
        agent, history = train(epsilon=linear(1.0, 0.5, 100))
        # The steps in which CartPole resets itself do not count.
        steps = np.diff(history["env_steps"], prepend=32)
        assert ((steps > 50) & (steps <= 64)).all()
        assert history["updates"] == [16, 32, 48]
        assert history["epsilon"][-1] == 0.5
        assert history["episodes"] == sorted(history["episodes"])
        assert set(history) >= {"loss", "mean_q", "td_error", "grad_norm", "episode_return"}
        assert agent.env_steps == history["env_steps"][-1]

    def test_epsilon_follows_steps_episodes_or_is_a_number(self):
        agent, history = train(Countdown, model=q_network(2), epsilon=linear(1.0, 0.0, 320))
        # 32 to warm up, then 64 an iteration, the last 16 of which are played with the epsilon
        # from before them.
        np.testing.assert_allclose(history["epsilon"], [1 - n / 320 for n in (80, 144, 208)])

        agent.epsilon = schedule = exponential(1.0, 0.0, 0.01)
        agent.epsilon_per = "episode"
        before = agent.episodes
        history = agent.fit(Countdown, 5, initial_iteration=3, seed=3, verbose=0).history
        assert schedule(history["episodes"][-1]) <= history["epsilon"][-1] < schedule(before)
        assert agent.episodes == history["episodes"][-1] > before + 20

        agent.epsilon = 0.25
        history = agent.fit(Countdown, 6, initial_iteration=5, seed=3, verbose=0).history
        assert history["epsilon"] == [0.25]

    def test_an_exploring_action_is_repeated(self):
        class Recorded(Countdown):
            actions = []

            def step(self, action):
                self.actions.append(int(action))
                return super().step(action)

        options = {"epsilon": 1.0, "explore_steps": 5, "num_envs": 1}
        train(lambda: Recorded(9), 2, model=q_network(2), **options)
        groups = np.reshape(Recorded.actions[:125], (-1, 5))
        assert (groups == groups[:, :1]).all()
        assert 0.2 < groups[:, 0].mean() < 0.8

    def test_any_keras_model_can_be_a_q_network(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.hidden = keras.layers.Dense(8, "relu")
                self.out = keras.layers.Dense(2)

            def call(self, x):
                return self.out(self.hidden(x))

        agent, history = train(model=Subclassed(), iterations=2)
        assert agent.policy.acting == "tensorflow"
        assert np.isfinite(history["loss"]).all()

    def test_every_autoreset_mode_stores_the_same_steps(self):
        agent, before = tfpg.DQN(q_network(2), **SMALL), 0
        for mode in AutoresetMode:
            maker = lambda: Countdown(lengths=[2, 5, 3])  # noqa: E731
            envs = SyncVectorEnv([maker] * 4, autoreset_mode=mode)
            history = agent.fit(envs, 2, seed=3, verbose=0).history
            assert np.isfinite(history["loss"]).all()
            assert 2 < history["episode_length"][-1] < 5
            rows = agent.replay.rows_since()
            assert len(agent.replay) == rows["real"].sum() == agent.env_steps > before
            assert rows["real"][rows["terminated"]].all()
            before = agent.env_steps
            envs.close()

    def test_one_environment_and_discrete_observations(self):
        env = tfpg.envs.make("FrozenLake-v1")
        options = {"learn_period": 1, "updates_per_learn": 1, "steps_per_iteration": 30}
        agent, history = train(env, model=small_model(tfpg.DQN, env), **options)
        assert np.isfinite(history["loss"]).all()
        assert agent.replay.num_envs == 1
        assert agent.replay.rows_since()["observations"].dtype == np.int64
        env.close()

    @pytest.mark.parametrize("keys", slow_but([["sign", "b"]], [["sign", "b"], ["sign"]]))
    def test_observations_in_a_dict_and_models_that_take_some_of_them(self, keys):
        class Both(Bandit):
            def __init__(self):
                super().__init__()
                self.observation_space = spaces.Dict(
                    {"sign": spaces.Box(-1, 1, (1,), np.float32), "b": spaces.Discrete(3)}
                )

            def reset(self, **kwargs):
                x, info = super().reset(**kwargs)
                return {"sign": x, "b": 1}, info

            def step(self, action):
                x, *rest = super().step(action)
                return {"sign": x, "b": 2}, *rest

        inputs = [keras.Input({"sign": (1,), "b": (3,)}[key], name=key) for key in keys]
        x = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        _, history = train(Both, model=keras.Model(inputs, keras.layers.Dense(2)(x)))
        assert np.isfinite(history["loss"]).all()

    def test_every_stored_transition_obeys_the_equations_of_cartpole(self):
        agent, _ = train(iterations=5)
        sampled = agent.replay.sample(np.random.default_rng(0), 200)
        x, y = sampled.observations.astype(float), sampled.next_observations.astype(float)
        np.testing.assert_allclose(y[:, 0], x[:, 0] + 0.02 * x[:, 1], atol=1e-5)
        np.testing.assert_allclose(y[:, 2], x[:, 2] + 0.02 * x[:, 3], atol=1e-5)
        force = np.sign(y[:, 1] - x[:, 1])
        np.testing.assert_array_equal(force, 2 * sampled.actions - 1)
        ended = (np.abs(y[:, 0]) > 2.4) | (np.abs(y[:, 2]) > 12 * np.pi / 180)
        np.testing.assert_array_equal(sampled.discounts == 0, ended)

    @pytest.mark.slow
    def test_dueling_and_prioritized_learn_a_bandit(self):
        model = tfpg.networks.dueling(ObservedAction, hidden=(16,), seed=0)
        model.compile(keras.optimizers.Adam(0.01))
        agent, _ = train(ObservedAction, model=model, prioritized=True, iterations=20)
        assert agent.evaluate(ObservedAction, 50, seed=0)["episode_return"] == 1.0

    @pytest.mark.slow
    def test_a_convolution_learns_a_bandit_of_images(self):
        class Pictures(Bandit):
            frame_stack = 4

            def __init__(self):
                super().__init__()
                self.observation_space = spaces.Box(0, 255, (36, 36, 4), np.uint8)

            def _picture(self, value):
                return np.full((36, 36, 4), value, np.uint8)

            def reset(self, **kwargs):
                _, info = super().reset(**kwargs)
                return self._picture(200 * self.sign + 20), info

            def step(self, action):
                _, *rest = super().step(action)
                return self._picture(0), *rest

        model = tfpg.networks.nature_cnn(Pictures, hidden=16, seed=0)
        model.compile(keras.optimizers.Adam(1e-3))
        agent, history = train(Pictures, 8, model=model, jit_compile="auto", batch_size=32)
        assert agent.replay.rows_since()["observations"].dtype == np.uint8
        assert agent.evaluate(Pictures, 20, seed=0)["episode_return"] == 1.0
        assert history["loss"][-1] < history["loss"][0]

    def test_pong_stores_each_frame_once(self):
        model = tfpg.networks.nature_cnn("ALE/Pong-v5", hidden=8, seed=0)
        options = {"reward_clip": 1.0, "end_on_life_loss": True, "learning_starts": 64}
        agent, history = train("ALE/Pong-v5", 1, model=model, jit_compile="auto", **options)
        assert np.isfinite(history["loss"]).all()
        assert agent.replay.stack == 4
        assert agent.replay.rows_since()["observations"].shape[1:] == (84, 84)
        sampled = agent.replay.sample(np.random.default_rng(0), 30)
        x, y = sampled.observations, sampled.next_observations
        np.testing.assert_array_equal(y[..., :3], x[..., 1:])


@pytest.mark.slow
def test_plain_q_learning_overestimates_a_noisy_chain_and_double_hardly_does():
    def mean_q(double, seed):
        """Over states and actions, and the second half of the training. True values are 0."""
        states, _ = NoisyChain().values(gamma=0.99)
        model = tfpg.networks.mlp(NoisyChain, hidden=(32,), activation="tanh", seed=seed)
        model.compile(optimizer=keras.optimizers.Adam(0.01))
        # A small replay keeps the estimates noisy, and it is another one at the next copy.
        agent = tfpg.DQN(
            model,
            double=double,
            loss="mse",
            capacity=256,
            n_step=1,
            batch_size=32,
            learn_period=64,
            updates_per_learn=64,
            target_update_period=512,
            epsilon=1.0,
            learning_starts=256,
            steps_per_iteration=256,
            jit_compile=False,
        )
        measured = []
        measure = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: measured.append(np.asarray(model(states)).mean())
        )
        agent.fit(NoisyChain, 16, [measure], seed=seed, verbose=0)
        return np.mean(measured[8:])

    plain, double = (np.mean([mean_q(d, seed) for seed in (0, 1)]) for d in (False, True))
    assert plain > 0.5
    assert abs(double) < plain / 2


def test_samples_explore_and_the_mode_is_greedy():
    policy = tfpg.Policy(q_network(), "CartPole-v1", epsilon=0.5)
    x = np.tile(np.ones((1, 4), np.float32), (4000, 1))
    greedy = policy.act(x)[0]
    share = (policy.act(x, deterministic=False, seed=0) == greedy).mean()
    assert share == pytest.approx(0.75, abs=0.03)


def test_other_players_of_the_model_get_the_final_epsilon():
    table = [0.5, 0.25, 0.125]
    for schedule, end in (
        (lambda n: table[min(int(n), 2)], 0.125),
        (exponential(0.1, 0.1, 0.0), 0.1),
        (linear(1.0, 0.02, 100), 0.02),
        (0.3, 0.3),
    ):
        agent = small_agent(tfpg.DQN, epsilon=schedule)
        assert agent.head_options() == {"epsilon": end}
        assert agent.policy_for("CartPole-v1").head.epsilon == end


class TestRefused:
    def test_real_actions_are_refused_and_agents_that_learn_them_are_named(self):
        message = (
            r"Q-values need Discrete actions, but the action space is Box\(.*"
            "Use tfpg.Reinforce, tfpg.A2C or tfpg.PPO instead"
        )
        with pytest.raises(ValueError, match=message):
            train("Pendulum-v1", model=q_network(3, 1))

    @pytest.mark.parametrize("outputs", [1, 3])
    def test_a_wrong_number_of_outputs_is_refused(self, outputs):
        message = rf"model has {outputs} outputs?, but Discrete\(2\) needs 2 \(the value of each"
        with pytest.raises(ValueError, match=message):
            train(model=q_network(outputs=outputs))

    @pytest.mark.parametrize("last", ["softmax", "tanh", "relu"])
    def test_a_model_that_ends_in_an_activation_is_refused(self, last):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, last)])
        message = f"ends in a {last} activation, but Q-values can be any"
        with pytest.raises(ValueError, match=message):
            train(model=model)

    def test_a_model_with_a_value_is_refused(self):
        with pytest.raises(ValueError, match="has a second output, but a Q-network has only one"):
            train(model=small_model(tfpg.A2C))

    def test_a_learn_period_that_is_no_multiple_of_the_environments_is_refused(self):
        with pytest.raises(ValueError, match="of all 3 .* 3, got 16: change learn_period or num"):
            train(num_envs=3)

    def test_end_on_life_loss_without_lives_is_refused(self):
        with pytest.raises(ValueError, match="end_on_life_loss needs an environment that"):
            train(end_on_life_loss=True)

    def test_a_replay_that_does_not_fit_into_memory_is_refused(self):
        with pytest.raises(
            MemoryError, match="A replay buffer of .* rows needs .* are free: use a "
        ):
            train(capacity=10**12)

    def test_nan_rewards_of_an_environment_end_the_training(self):
        class Broken(Countdown):
            def step(self, action):
                x, _, *rest = super().step(action)
                return x, np.nan if self.t == 2 else 1.0, *rest

        with pytest.raises(tfpg.errors.EnvDataError, match="Environment 0 returned .* nan"):
            train(Broken, model=q_network(2))


class TestOutput:
    def test_the_progress_bar_shows_rates_and_the_history_does_not(self, capsys):
        agent = tfpg.DQN(q_network(2), **SMALL)
        history = agent.fit(Countdown, 2, seed=0, verbose=2).history
        assert not any("/s" in name for name in history)
        lines = capsys.readouterr().out.splitlines()
        agent.fit(Countdown, 3, initial_iteration=2, seed=0, verbose=2)
        for line in (lines[-1], capsys.readouterr().out):  # those of this fit alone
            steps, updates = (
                int(re.search(rf" {name}/s: ([\d,]+)", line)[1].replace(",", ""))
                for name in ("steps", "updates")
            )
            assert steps == pytest.approx(4 * updates, rel=0.2)  # 64 steps and 16 updates

    def test_a_large_replay_and_a_long_warm_up_are_announced(self, capsys):
        options = {"capacity": 10_000_000, "learning_starts": 10_000}
        agent = tfpg.DQN(q_network(1), **{**SMALL, **options})
        agent.fit(Endless, 1, seed=0, verbose=2)
        out = capsys.readouterr().out
        assert re.match(r"The replay buffer for 10,000,000 steps takes up to \d+ MB of memory", out)
        assert "Playing 10,000 steps at random before the" in out

    @pytest.mark.slow
    def test_agents_made_in_a_loop_are_not_taken_for_retracing(self, caplog, monkeypatch):
        logger = tf.get_logger()  # which hands nothing on
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])
        once = {**SMALL, "steps_per_iteration": 16}  # a compiled call in all
        for seed in range(7):
            tfpg.DQN(q_network(2, seed=seed), **once).fit(Countdown, 1, seed=0, verbose=0)
        assert "retracing" not in caplog.text
