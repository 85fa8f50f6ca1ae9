"""Compare the environment steps per second of SAC with Stable-Baselines3, at one update per step.

Both have two layers, a batch of 256, Adam and a learned temperature. Every measurement
runs in its own process, and timing starts after compilation and warm-up. Stable-Baselines3 runs in
its own virtual environment, which is made if it is missing.

    python benchmarks/sac_speed.py
    python benchmarks/sac_speed.py --rounds 1 --only Pendulum
    python benchmarks/sac_speed.py --side updates --only "Pendulum, 256 units"  # one side of a row

Stable-Baselines3 makes an update after each step of one environment. tfpg makes 32 updates after 32
steps, 4 in each of 8 environments, so it acts with older weights. The last three columns are the
limits of tfpg on this machine, in the same unit: the environments alone with random actions, the
compiled updates alone, and the matrix products between the hidden layers alone, which take most of
the time of an update.
"""

import time

import numpy as np
from peers import compare, env_steps_per_second

LEARNING_STARTS = 1000
STEPS = 4096
BATCH = 256
PRODUCTS = 16  # of [BATCH, units] and [units, units] in an update: 8 forward, 8 backward
SETTINGS = {
    "Pendulum, 256 units": ("Pendulum-v1", 256),
    "HalfCheetah, 256 units": ("HalfCheetah-v5", 256),
    "HalfCheetah, 64 units": ("HalfCheetah-v5", 64),
}


def of_peer(name: str) -> float:
    """Return the steps per second of Stable-Baselines3."""
    from stable_baselines3 import SAC

    env, units = SETTINGS[name]
    options = {"learning_starts": LEARNING_STARTS, "policy_kwargs": {"net_arch": [units, units]}}
    agent = SAC("MlpPolicy", env, device="cpu", seed=0, **options)
    agent.learn(LEARNING_STARTS + 200, progress_bar=False)
    before = agent.num_timesteps
    start = time.perf_counter()
    agent.learn(STEPS, reset_num_timesteps=False, progress_bar=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - start)


def trained_agent(name: str):
    """Return the agent of tfpg after an iteration, in which it is compiled."""
    import tfpg

    env, units = SETTINGS[name]
    preset, hidden = tfpg.presets.DEFAULTS["sac"], {"hidden": (units, units)}
    preset = preset._replace(
        network={**preset.network, **hidden}, critic={**preset.critic, **hidden}
    )
    agent = tfpg.presets.make("sac", env, seed=0, preset=preset)
    agent.fit(env, 1, seed=0, verbose=0)
    return agent


def of_tfpg(name: str) -> float:
    """Return the steps per second of tfpg."""
    agent, env = trained_agent(name), SETTINGS[name][0]
    before = agent.env_steps
    iterations = STEPS // agent.steps_per_iteration
    start = time.perf_counter()
    agent.fit(env, 1 + iterations, initial_iteration=1, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def of_environments(name: str) -> float:
    """Return the steps per second of the environments alone."""
    return env_steps_per_second(SETTINGS[name][0], 8, 10 * STEPS)


def of_updates(name: str) -> float:
    """Return the steps per second that the updates alone would allow."""
    agent = trained_agent(name)
    rng, count = np.random.default_rng(0), agent.updates_per_learn * agent.batch_size
    transitions = agent.replay.sample(rng, count, agent.batch_size, 1.0)
    blocks = STEPS // agent.learn_period
    start = time.perf_counter()
    for _ in range(blocks):
        agent.learn_from(transitions)
    return blocks * agent.learn_period / (time.perf_counter() - start)


def of_products(name: str) -> float:
    """Return the steps per second that the matrix products between hidden layers would allow."""
    import tensorflow as tf

    units, updates = SETTINGS[name][1], 32
    weights = tf.random.normal((units, units), stddev=units**-0.5)

    @tf.function(jit_compile=True)
    def multiply(x: tf.Tensor) -> tf.Tensor:
        for _ in range(updates * PRODUCTS):
            x = tf.matmul(x, weights)
        return x

    x = tf.random.normal((BATCH, units))
    multiply(x)
    start = time.perf_counter()
    for _ in range(STEPS // updates):
        multiply(x)
    return STEPS / (time.perf_counter() - start)


SIDES = {
    "tfpg": of_tfpg,
    "peer": of_peer,
    "environments": of_environments,
    "updates": of_updates,
    "products": of_products,
}


if __name__ == "__main__":
    compare(__doc__, __file__, SIDES, SETTINGS, "stable-baselines3", "SB3")
