"""Compare the environment steps per second of SAC with Stable-Baselines3, at one update per step.

Both have two layers of 256 units, a batch of 256, Adam and a learned temperature. Every measurement
runs in its own process, and timing starts after compilation and warm-up. Stable-Baselines3 runs in
its own virtual environment, which is made if it is missing.

    python benchmarks/sac_speed.py
    python benchmarks/sac_speed.py --rounds 1 --only Pendulum
    python benchmarks/sac_speed.py --side updates --only Pendulum-v1  # one side of a row alone

Stable-Baselines3 makes an update after each step of one environment. tfpg makes 32 updates after 32
steps, 4 in each of 8 environments, so it acts with older weights. The last two columns are the
limits of tfpg on this machine: the environments alone with random actions, and the compiled updates
alone, in the same unit.
"""

import time

import numpy as np
from peers import compare, env_steps_per_second

LEARNING_STARTS = 1000
STEPS = 4096
SETTINGS = ("Pendulum-v1", "HalfCheetah-v5")


def of_peer(env: str) -> float:
    """Return the steps per second of Stable-Baselines3."""
    from stable_baselines3 import SAC

    agent = SAC("MlpPolicy", env, learning_starts=LEARNING_STARTS, device="cpu", seed=0)
    agent.learn(LEARNING_STARTS + 200, progress_bar=False)
    before = agent.num_timesteps
    start = time.perf_counter()
    agent.learn(STEPS, reset_num_timesteps=False, progress_bar=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - start)


def trained_agent(env: str):
    """Return the agent of tfpg after an iteration, in which it is compiled."""
    import tfpg

    agent = tfpg.presets.make("sac", env, seed=0, preset=tfpg.presets.DEFAULTS["sac"])
    agent.fit(env, 1, seed=0, verbose=0)
    return agent


def of_tfpg(env: str) -> float:
    """Return the steps per second of tfpg."""
    agent = trained_agent(env)
    before = agent.env_steps
    iterations = STEPS // agent.steps_per_iteration
    start = time.perf_counter()
    agent.fit(env, 1 + iterations, initial_iteration=1, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def of_environments(env: str) -> float:
    """Return the steps per second of the environments alone."""
    return env_steps_per_second(env, 8, 10 * STEPS)


def of_updates(env: str) -> float:
    """Return the steps per second that the updates alone would allow."""
    agent = trained_agent(env)
    rng, count = np.random.default_rng(0), agent.updates_per_learn * agent.batch_size
    transitions = agent.replay.sample(rng, count, agent.batch_size, 1.0)
    blocks = STEPS // agent.learn_period
    start = time.perf_counter()
    for _ in range(blocks):
        agent.learn_from(transitions)
    return blocks * agent.learn_period / (time.perf_counter() - start)


SIDES = {"tfpg": of_tfpg, "peer": of_peer, "environments": of_environments, "updates": of_updates}


if __name__ == "__main__":
    compare(__doc__, __file__, SIDES, SETTINGS, "stable-baselines3", "SB3")
