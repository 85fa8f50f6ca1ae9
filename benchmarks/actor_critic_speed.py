"""Compare the environment steps per second of A2C and PPO with Stable-Baselines3.

Both have the same numbers of environments, steps, epochs and minibatches, and the same networks:
two layers of 64 tanh units for the policy, and two more for the value. Every measurement runs in
its own process, and timing starts after compilation and warm-up. Stable-Baselines3 runs in its own
virtual environment with one thread, which is faster here.

    python benchmarks/actor_critic_speed.py
    python benchmarks/actor_critic_speed.py --rounds 1 --only "a2c CartPole 8x5"

The last two columns are the limits of tfpg on this machine: the environments alone with random
actions, and the compiled updates alone, in the same unit.
"""

import time

from peers import compare, env_steps_per_second

CARTPOLE = "CartPole-v1"

# Environment id, environments, steps, epochs, minibatches, and environment steps that are timed.
SETTINGS = {
    "a2c CartPole 8x5": (CARTPOLE, 8, 5, 1, 1, 60_000),
    "a2c CartPole 8x16": (CARTPOLE, 8, 16, 1, 1, 100_000),
    "a2c CartPole 64x16": (CARTPOLE, 64, 16, 1, 1, 400_000),
    "ppo CartPole 8x32, zoo": (CARTPOLE, 8, 32, 20, 1, 50_000),
    "ppo CartPole 8x128": (CARTPOLE, 8, 128, 10, 4, 50_000),
    "ppo HalfCheetah 8x256": ("HalfCheetah-v5", 8, 256, 10, 32, 40_960),
}


def of_peer(name: str) -> float:
    """Return the steps per second of Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    env_id, num_envs, num_steps, epochs, minibatches, steps = SETTINGS[name]
    algorithm = name[:3].upper()
    options = {"policy_kwargs": {"net_arch": [64, 64]}, "device": "cpu", "seed": 0}
    if algorithm == "PPO":
        options |= {"n_epochs": epochs, "batch_size": num_envs * num_steps // minibatches}
    envs = make_vec_env(env_id, n_envs=num_envs, seed=0)
    agent = getattr(stable_baselines3, algorithm)("MlpPolicy", envs, n_steps=num_steps, **options)
    agent.learn(3 * num_envs * num_steps)
    steps //= 4
    start = time.perf_counter()
    agent.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - start)


def agent_of(name: str):
    """Return the agent of tfpg, and the iterations that are timed."""
    import tfpg

    env_id, num_envs, num_steps, epochs, minibatches, steps = SETTINGS[name]
    model = tfpg.networks.actor_critic(env_id, hidden=(64, 64), normalize=False, seed=0)
    sizes = {"num_envs": num_envs, "num_steps": num_steps}
    options = {"epochs": epochs, "minibatches": minibatches, "reward_scale": 1.0}
    if name.startswith("a2c"):
        options |= {"gae_lambda": 1.0, "standardize": None}
    agent = getattr(tfpg, name[:3].upper())(model, entropy_coef=0.0, **sizes, **options)
    agent.fit(env_id, 3, seed=0, verbose=0)  # compiles
    return agent, steps // (num_envs * num_steps)


def of_tfpg(name: str) -> float:
    """Return the steps per second of tfpg."""
    agent, iterations = agent_of(name)
    before = agent.env_steps
    start = time.perf_counter()
    agent.fit(SETTINGS[name][0], iterations, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def of_environments(name: str) -> float:
    """Return the steps per second of the environments alone."""
    env_id, num_envs, _, _, _, steps = SETTINGS[name]
    return env_steps_per_second(env_id, num_envs, steps)


def of_updates(name: str) -> float:
    """Return the steps per second that the updates alone would allow."""
    from tfpg.envs import open_vec
    from tfpg.rollouts.collector import Collector

    agent, iterations = agent_of(name)
    with open_vec(SETTINGS[name][0], agent.num_envs) as envs:
        data = Collector(envs, 0).collect_steps(agent.policy, agent.num_steps)
    start = time.perf_counter()
    for _ in range(iterations):
        agent.update(data)
    return iterations * data.mask.size / (time.perf_counter() - start)


SIDES = {"tfpg": of_tfpg, "peer": of_peer, "environments": of_environments, "updates": of_updates}


if __name__ == "__main__":
    compare(__doc__, __file__, SIDES, SETTINGS, "stable-baselines3", "SB3")
