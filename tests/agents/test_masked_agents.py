"""Agents learn with action masks: their updates, and what they gain."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from marks import slow_but
from masked import WAYS, Pairs, reporting
from small import ALGORITHMS, DISTRIBUTIONAL, flat_weights, options_for, prepared, small_agent

import tfpg
from tfpg.envs import open_vec
from tfpg.envs.probes import Divisors
from tfpg.rollouts.replay import Transitions

EVERY = [*ALGORITHMS, *DISTRIBUTIONAL, tfpg.PQN]
LARGEST = 12
Q_LEARNING = [("dqn", 20_000), ("c51", 8_000), ("qrdqn", 20_000)]


def counted(build):
    """A callable that makes environments, and the environments that it has made."""
    made = []

    def count():
        made.append(build())
        return made[-1]

    return count, made


def finite(history):
    return all(np.isfinite(x).all() for x in history.history.values())


class TestTraining:
    @pytest.mark.parametrize(
        ("algorithm", "way"),
        slow_but(
            [
                *((each, "observations") for each in ALGORITHMS),
                (tfpg.C51, "infos"),
                (tfpg.PQN, "method"),
            ],
            [(each, way) for each in EVERY for way in WAYS],
        ),
    )
    def test_no_action_is_invalid_and_no_number_nan(self, algorithm, way):
        count, made = counted(lambda: reporting(way))
        agent = small_agent(algorithm, count)
        before = flat_weights(agent.model)
        assert finite(agent.fit(count, 6, seed=0, verbose=0))
        assert (flat_weights(agent.model) != before).any()
        assert np.isfinite(agent.evaluate(count, episodes=20, seed=1)["episode_return"])
        agent.evaluate(count, episodes=20, deterministic=False, seed=1)
        assert sum(env.unwrapped.invalid for env in made) == 0

    def test_where_masks_are_makes_no_difference(self):
        def weights(way):
            agent = small_agent(tfpg.PPO, lambda: reporting(way))
            agent.fit(lambda: reporting(way), 3, seed=0, verbose=0)
            return flat_weights(agent.model)

        expected = weights("observations")
        for way in ("infos", "method"):
            np.testing.assert_array_equal(weights(way), expected)

    @pytest.mark.parametrize(
        ("algorithm", "options"),
        [
            (tfpg.A2C, {"num_steps": 9}),
            (tfpg.PQN, {"num_steps": 9}),
            (tfpg.PPO, {"num_steps": 9, "epochs": 2, "minibatches": 2}),
            (tfpg.PPO, {"target_kl": 0.01, "value_clip": 0.2, "entropy_coef": 0.1}),
        ],
    )
    def test_padding_with_invalid_actions_does_not_count(self, algorithm, options):
        class Failing(gymnasium.Wrapper):
            """Fails now and then. Subtracting 1 is invalid wherever that leaves another action."""

            def masked(self, observation):
                mask = observation["action_mask"]
                mask[0] = not mask[1:].any()
                return observation

            def reset(self, **arguments):
                observation, info = self.env.reset(**arguments)
                return self.masked(observation), info

            def step(self, action):
                if self.env.unwrapped.np_random.random() < 0.1:
                    raise RuntimeError("no divisor")
                observation, *rest = self.env.step(action)
                return self.masked(observation), *rest

        def build():
            return Failing(Divisors(LARGEST))

        agent = small_agent(algorithm, build, **options)
        with (
            open_vec(build, 4, on_env_error="drop") as envs,
            pytest.warns(UserWarning, match="Its episode is left out"),
        ):
            assert finite(agent.fit(envs, 8, seed=0, verbose=0))

    @pytest.mark.parametrize(
        "algorithm", slow_but([tfpg.PPO], [tfpg.Reinforce, tfpg.A2C, tfpg.PPO])
    )
    def test_several_choices(self, algorithm):
        count, made = counted(Pairs)
        agent = small_agent(algorithm, count)
        assert finite(agent.fit(count, 6, seed=0, verbose=0))
        assert sum(env.invalid for env in made) == 0


class Renamed(gymnasium.ObservationWrapper):
    """Divisors with a mask under a name that only the model understands."""

    def __init__(self, env):
        super().__init__(env)
        parts = env.observation_space
        self.observation_space = spaces.Dict(
            observation=parts["observation"], valid=parts["action_mask"]
        )

    def observation(self, observation):
        return {"observation": observation["observation"], "valid": observation["action_mask"]}


def network(masks_itself, outputs=1):
    """A network with fixed weights, which may take the mask and apply it to its logits."""
    keras.utils.set_random_seed(0)
    x = keras.Input((LARGEST,), name="observation")
    y = keras.layers.Dense(8, "tanh")(x)
    logits = keras.layers.Dense(LARGEST // 2)(y)
    value = keras.layers.Dense(1)(y)
    inputs = {"observation": x}
    if masks_itself:
        inputs["valid"] = valid = keras.Input((LARGEST // 2,), name="valid", dtype="int8")
        logits += 1e9 * (keras.ops.cast(valid, "float32") - 1)
    model = keras.Model(inputs, [logits, value][:outputs])
    model.compile(keras.optimizers.SGD(0.1))
    return model


class TestUpdates:
    @pytest.mark.parametrize("algorithm", [tfpg.Reinforce, tfpg.A2C, tfpg.PPO])
    def test_they_are_those_of_a_model_that_masks_its_logits(self, algorithm):
        outputs = 1 if algorithm is tfpg.Reinforce else 2
        weights = []
        for masks_itself in (False, True):

            def build(masks_itself=masks_itself):
                env = Divisors(LARGEST)
                return Renamed(env) if masks_itself else env

            model = network(masks_itself, outputs)
            before = flat_weights(model)
            options = {**options_for(algorithm), "entropy_coef": 0.05}
            algorithm(model, **options).fit(build, 4, seed=3, verbose=0)
            assert np.abs(flat_weights(model) - before).max() > 1e-3
            weights.append(flat_weights(model))
        np.testing.assert_allclose(*weights, atol=2e-6)

    @staticmethod
    def transitions(rng, count=8):
        env = Divisors(LARGEST)
        numbers, following = rng.integers(2, LARGEST + 1, (2, count))
        following[0] = 1  # where nothing is valid
        masks, next_masks = (
            np.stack([env.valid(n) for n in each]) for each in (numbers, following)
        )
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        return Transitions(
            {"observation": numbers, "action_mask": masks},
            actions.astype("int32"),
            rng.normal(size=count).astype("float32"),
            np.where(following == 1, 0.0, 0.9).astype("float32"),
            {"observation": following, "action_mask": next_masks},
            np.ones(count, "float32"),
            np.arange(count),
        )

    @pytest.mark.parametrize("double", [False, True])
    @pytest.mark.parametrize("algorithm", [tfpg.DQN, *DISTRIBUTIONAL])
    def test_targets_are_those_of_the_best_valid_action(self, algorithm, double):
        options = {"double": double}
        if issubclass(algorithm, tfpg.C51):
            options |= {"v_min": -2.0, "v_max": 3.0}
        atoms = None if algorithm is tfpg.DQN else 5
        model = tfpg.networks.mlp(lambda: Divisors(LARGEST), hidden=(8,), atoms=atoms, seed=0)
        agent = prepared(small_agent(algorithm, model=model, **options), lambda: Divisors(LARGEST))
        rng = np.random.default_rng(4)
        for weight in agent.target_network.weights:
            weight.assign(rng.normal(size=weight.shape))
        model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
        data = self.transitions(rng)
        encode = agent.trained_policy.encode
        encoded = data._replace(
            observations=encode(data.observations),
            next_observations=encode(data.next_observations),
        )
        losses = agent.losses(tf.nest.map_structure(tf.convert_to_tensor, encoded))
        expected = self.losses_of(agent, model, data, double)
        np.testing.assert_allclose(losses["loss"], expected, rtol=2e-4, atol=1e-5)
        assert all(np.isfinite(x).all() for x in losses.values())

    @staticmethod
    def losses_of(agent, model, data, double):
        """The losses, one transition after another, with a loop over the valid actions."""
        one_hot = np.eye(LARGEST, dtype="float32")
        online = [w.numpy() for w in model.weights]

        def outputs(weights, numbers):
            kernel, bias, kernel2, bias2 = weights
            hidden = np.tanh(one_hot[numbers - 1] @ kernel + bias)
            return (hidden @ kernel2 + bias2).reshape(len(numbers), LARGEST // 2, -1)

        target = [w.numpy() for w in agent.target_network.weights]
        numbers, following = (x["observation"] for x in (data.observations, data.next_observations))
        now = outputs(online, numbers)
        then, chooser = outputs(target, following), outputs(online if double else target, following)
        support = np.linspace(-2.0, 3.0, 5)

        def softmax(x):
            exponentials = np.exp(x - x.max())
            return exponentials / exponentials.sum()

        def q_of(z):
            return softmax(z) @ support if isinstance(agent, tfpg.C51) else z.mean()

        losses = []
        for b, mask in enumerate(data.next_observations["action_mask"]):
            valid = np.flatnonzero(mask) if mask.any() else np.arange(len(mask))
            best = max(valid, key=lambda a: q_of(chooser[b, a]))
            taken, reward, discount = now[b, data.actions[b]], data.rewards[b], data.discounts[b]
            if isinstance(agent, tfpg.C51):
                goal = np.zeros(5)
                for p, z in zip(softmax(then[b, best]), support, strict=True):
                    place = (np.clip(reward + discount * z, -2.0, 3.0) + 2.0) / 1.25
                    for i in range(5):
                        goal[i] += max(0.0, 1.0 - abs(place - i)) * p
                losses.append(-goal @ np.log(softmax(taken)))
                continue
            goals = reward + discount * then[b, best]
            errors = goals[None] - taken[:, None]
            size = np.minimum(np.abs(errors), 1.0)
            huber = 0.5 * size**2 + np.abs(errors) - size
            if isinstance(agent, tfpg.QRDQN):
                tau = (np.arange(5)[:, None] + 0.5) / 5
                losses.append((np.abs(tau - (errors < 0)) * huber).mean(axis=1).sum())
            else:
                losses.append(huber.item())
        return losses


def mean_return(agent, env):
    """The exact mean return of the greedy policy in a `Divisors`, from all numbers."""
    numbers = np.arange(2, env.largest + 1)
    masks = np.stack([env.valid(n) for n in numbers])
    seen = {"observation": numbers, "action_mask": masks} if env.masks else numbers
    returns = np.zeros(env.largest + 1)
    for n, mask, action in zip(numbers, masks, agent.policy.act(seen), strict=True):
        returns[n] = returns[n - 1 - action] - 1 if mask[action] else -env.largest
    return returns[2:].mean()


class TestLearning:
    best = -Divisors().fewest_steps()[2:].mean()

    def test_the_fewest_steps_by_hand(self):
        # 64, 32, 16, 8, 4, 2, 1; and 7, 6, 3, 2, 1
        steps = Divisors().fewest_steps()
        assert steps[[1, 2, 3, 7, 64]].tolist() == [0, 1, 2, 4, 6]
        assert self.best == pytest.approx(-6.016, abs=1e-3)

    def trained(self, algorithm, masks, env_steps):
        def build():
            return Divisors(masks=masks)

        agent = tfpg.presets.make(algorithm, build, seed=0)
        agent.fit(build, env_steps=env_steps, seed=1, verbose=0)
        return mean_return(agent, build())

    @pytest.mark.parametrize(
        ("algorithm", "env_steps"),
        slow_but([("ppo", 8_000)], [("ppo", 8_000), ("dqn", 20_000), ("reinforce", 20_000)]),
    )
    def test_with_masks_it_finds_the_best_divisors(self, algorithm, env_steps):
        assert self.trained(algorithm, True, env_steps) > self.best - 0.1

    @pytest.mark.slow
    def test_without_masks_it_does_not_in_ten_times_as_many_steps(self):
        assert self.trained("ppo", False, 80_000) < self.best - 1.0
