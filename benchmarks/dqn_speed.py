"""Compare the environment steps per second of DQN with Stable-Baselines3 on CartPole.

Both make the same numbers of steps and updates with the same batch size, network, optimizer (Adam,
clipped at a norm of 10), plain targets, Huber loss and exploration. Every measurement runs in its
own process, and timing starts after compilation and warm-up. Stable-Baselines3 runs in its own
virtual environment.

    python benchmarks/dqn_speed.py
    python benchmarks/dqn_speed.py --rounds 1 --only "zoo"

Rows of tfpg: "256 at once" plays 256 steps and then makes 256 updates in one call, where
Stable-Baselines3 makes 8 updates after 8 steps. "8 envs" plays the steps of the zoo's setting in 8
environments instead of one. The last two columns are the limits of tfpg on this machine: the
environments alone with random actions, and the compiled updates alone, in the same unit.
"""

import time

import numpy as np
from peers import compare, env_steps_per_second

ENV = "CartPole-v1"
LEARNING_STARTS = 1000
ITERATION = 1024  # steps of an iteration of tfpg
STEPS = 10_240

# "learn": steps between updates, and the number of updates. "target": updates between copies into
# the target network. "epsilon": steps over which it decays from 1, and its final value.
ONE_PER_STEP = {
    "hidden": [64, 64],
    "batch": 32,
    "learning_rate": 1e-3,
    "num_envs": 8,
    "learn": [8, 8],
    "target": 100,
    "epsilon": [8000, 0.05],
}
ZOO = {
    "hidden": [256, 256],
    "batch": 64,
    "learning_rate": 2.3e-3,
    "num_envs": 1,
    "learn": [256, 128],
    "target": 128,
    "epsilon": [8000, 0.04],
}
# The settings of Stable-Baselines3, and those of tfpg.
SETTINGS = {
    "one per step, 128 at once": (ONE_PER_STEP, {**ONE_PER_STEP, "learn": [128, 128]}),
    "one per step, 256 at once": (ONE_PER_STEP, {**ONE_PER_STEP, "learn": [256, 256]}),
    "zoo, 1 env": (ZOO, ZOO),
    "zoo, 8 envs": (ZOO, {**ZOO, "num_envs": 8}),
}


def of_peer(name: str) -> float:
    """Return the steps per second of Stable-Baselines3."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    setting = SETTINGS[name][0]
    period, updates = setting["learn"]
    decay_steps, final_epsilon = setting["epsilon"]
    num_envs = setting["num_envs"]
    envs = make_vec_env(ENV, n_envs=num_envs, seed=0)
    warm_up = LEARNING_STARTS + 10 * max(period, num_envs)
    agent = DQN(
        "MlpPolicy",
        envs,
        learning_rate=setting["learning_rate"],
        batch_size=setting["batch"],
        buffer_size=100_000,
        learning_starts=LEARNING_STARTS,
        gamma=0.99,
        train_freq=period // num_envs,
        gradient_steps=updates,
        # Counted in environment steps, not in updates.
        target_update_interval=max(1, setting["target"] * period // updates),
        max_grad_norm=10.0,
        exploration_initial_eps=1.0,
        exploration_fraction=decay_steps / (warm_up + STEPS),
        exploration_final_eps=final_epsilon,
        policy_kwargs={"net_arch": setting["hidden"]},
        device="cpu",
        seed=0,
    )
    agent.learn(warm_up, progress_bar=False)
    before = agent.num_timesteps
    start = time.perf_counter()
    # Without a reset, so that epsilon and the steps continue.
    agent.learn(STEPS, reset_num_timesteps=False, progress_bar=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - start)


def trained_agent(name: str):
    """Return the agent of tfpg after two iterations, in which it is compiled."""
    import keras

    import tfpg

    setting = SETTINGS[name][1]
    period, updates = setting["learn"]
    decay_steps, final_epsilon = setting["epsilon"]
    model = tfpg.networks.mlp(ENV, hidden=setting["hidden"], activation="relu", seed=0)
    optimizer = keras.optimizers.Adam(setting["learning_rate"], global_clipnorm=10.0)
    model.compile(optimizer=optimizer)
    agent = tfpg.DQN(
        model,
        gamma=0.99,
        double=False,
        n_step=1,
        batch_size=setting["batch"],
        capacity=100_000,
        learn_period=period,
        updates_per_learn=updates,
        target_update_period=setting["target"],
        epsilon=tfpg.schedules.linear(1.0, final_epsilon, decay_steps),
        learning_starts=LEARNING_STARTS,
        num_envs=setting["num_envs"],
        steps_per_iteration=ITERATION,
    )
    agent.fit(ENV, 2, seed=0, verbose=0)
    return agent


def of_tfpg(name: str) -> float:
    """Return the steps per second of tfpg."""
    agent = trained_agent(name)
    before = agent.env_steps
    start = time.perf_counter()
    agent.fit(ENV, 2 + STEPS // ITERATION, initial_iteration=2, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def of_environments(name: str) -> float:
    """Return the steps per second of the environments alone."""
    return env_steps_per_second(ENV, SETTINGS[name][1]["num_envs"], STEPS)


def of_updates(name: str) -> float:
    """Return the steps per second that the updates alone would allow."""
    agent = trained_agent(name)
    count = agent.updates_per_learn * agent.batch_size
    transitions = agent.replay.sample(np.random.default_rng(0), count, agent.batch_size, 1.0)
    blocks = STEPS // agent.learn_period
    start = time.perf_counter()
    for _ in range(blocks):
        agent.learn_from(transitions)
    return blocks * agent.learn_period / (time.perf_counter() - start)


SIDES = {"tfpg": of_tfpg, "peer": of_peer, "environments": of_environments, "updates": of_updates}


if __name__ == "__main__":
    compare(__doc__, __file__, SIDES, SETTINGS, "stable-baselines3", "SB3")
