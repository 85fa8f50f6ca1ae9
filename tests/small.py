"""Small agents, models and data for tests of anything but how well an agent learns."""

import keras
import numpy as np
from gymnasium import spaces
from toys import Walk

import tfpg
from tfpg.agents.q_learning import QLearning
from tfpg.envs import open_vec
from tfpg.rollouts.collector import Collector
from tfpg.rollouts.replay import Transitions
from tfpg.rollouts.trajectory import Trajectory

ALGORITHMS = [tfpg.Reinforce, tfpg.A2C, tfpg.PPO, tfpg.DQN]
DISTRIBUTIONAL = tfpg.C51, tfpg.QRDQN, tfpg.Rainbow

SMALL = {  # options of a DQN
    "num_envs": 4,
    "batch_size": 8,
    "n_step": 1,
    "capacity": 2000,
    "learn_period": 16,
    "updates_per_learn": 4,
    "target_update_period": 6,
    "learning_starts": 32,
    "steps_per_iteration": 64,
    "jit_compile": False,
}
ROLLOUT = {  # options of an A2C or a PPO
    "num_envs": 4,
    "num_steps": 8,
    "entropy_coef": 0.0,
    "reward_scale": 1.0,
    "jit_compile": False,
}
EPISODES = {"episodes_per_update": 4, "max_steps": 30}  # options of a REINFORCE

BOX = spaces.Box(-1, 1, (2,), np.float32)
HEADS = {  # action space, outputs of the model, its last activation, options of the agent
    "bernoulli": (spaces.Discrete(2), 1, "sigmoid", {}),
    "categorical": (spaces.Discrete(3), 3, None, {}),
    "multi-categorical": (spaces.MultiDiscrete([3, 2]), 5, None, {}),
    "multi-binary": (spaces.MultiBinary(3), 3, None, {}),
    "gaussian": (BOX, 4, None, {}),
    "gaussian-free": (BOX, 2, None, {}),
    "squashed": (BOX, 4, None, {"squash": True}),
}


def three_actions():
    """A `Walk` with three actions, for models of the categorical head."""
    return Walk(spaces.Discrete(3))


def options_for(algorithm):
    if issubclass(algorithm, QLearning):
        return SMALL
    if algorithm is tfpg.PQN:
        return {name: x for name, x in ROLLOUT.items() if name != "entropy_coef"}
    return EPISODES if algorithm is tfpg.Reinforce else ROLLOUT


def small_model(algorithm, env="CartPole-v1", **options):
    options = {"hidden": (8,), "seed": 0, **options}
    if algorithm in (tfpg.A2C, tfpg.PPO):
        return tfpg.networks.actor_critic(env, **{"normalize": False, **options})
    if algorithm in DISTRIBUTIONAL:
        options["atoms"] = 5
        options["noisy"] = algorithm is tfpg.Rainbow
    return tfpg.networks.mlp(env, **{"activation": "tanh", **options})


def small_agent(algorithm, env="CartPole-v1", model=None, **options):
    """An agent whose iterations take milliseconds."""
    model = model or small_model(algorithm, env)
    if "tau" in options:
        options["target_update_period"] = None
    return algorithm(model, **{**options_for(algorithm), **options})


def small_sac(env="Pendulum-v1", hidden=(8,), **options):
    """A SAC whose iterations take milliseconds."""
    model = tfpg.networks.mlp(env, hidden, "tanh", log_std=None, seed=0)
    critic = tfpg.networks.twin_critic(env, hidden, "tanh", seed=1)
    return tfpg.SAC(model, critic=critic, **{**SMALL, "target_update_period": None, **options})


def q_network(inputs=4, outputs=2, seed=0, optimizer=None):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(8, "tanh"), layers.Dense(outputs)]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.01))
    return model


def prepared(agent, env):
    """The agent, ready to update without `fit`."""
    agent.prepare(agent.policy_for(env))
    return agent


def every_checkpoint(folder):
    """Checkpoints after each iteration."""
    return tfpg.Checkpoints(folder, every_seconds=0)


def flat_weights(*models):
    return np.concatenate([w.ravel() for model in models for w in model.get_weights()])


def collected(agent, env, num_steps=8):
    """A rollout of four environments that the agent played."""
    with open_vec(env, 4) as envs:
        return Collector(envs, 5).collect_steps(agent.policy, num_steps)


def episodes_of(rewards, mask=None):
    """Episodes ``[T, N]`` with the given rewards, one in each column, all terminated."""
    rewards = np.asarray(rewards, float)
    mask = np.ones(rewards.shape) if mask is None else np.asarray(mask, float)
    steps, columns = rewards.shape
    terminated = np.zeros(rewards.shape, bool)
    terminated[mask.sum(axis=0).astype(int) - 1, np.arange(columns)] = True
    return Trajectory(
        np.arange((steps + 1) * columns, dtype="float32").reshape(steps + 1, columns, 1),
        np.zeros((steps, columns), int),
        rewards,
        terminated,
        np.zeros_like(terminated),
        mask,
        np.zeros((steps, columns), "float32"),
    )


def random_transitions(count, seed=0, inputs=4, actions=2):
    rng = np.random.default_rng(seed)
    return Transitions(
        rng.normal(size=(count, inputs)).astype("float32"),
        rng.integers(actions, size=count).astype("int32"),
        rng.normal(size=count).astype("float32"),
        rng.choice([0.0, 0.9], count).astype("float32"),
        rng.normal(size=(count, inputs)).astype("float32"),
        rng.random(count).astype("float32"),
        np.arange(count),
    )


class TraceCounter(keras.regularizers.Regularizer):
    """A penalty of zero that counts how often an update that contains it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, x):
        self.traces += 1
        return 0.0 * keras.ops.sum(x)


class AfterEachIteration(keras.callbacks.Callback):
    """Records the value of a function after each iteration."""

    def __init__(self, function):
        super().__init__()
        self.function, self.values = function, []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(self.function())
