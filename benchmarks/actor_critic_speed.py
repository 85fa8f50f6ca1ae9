"""Compare the environment steps per second of A2C and PPO with Stable-Baselines3 on CartPole.

Both have the same numbers of environments, steps, epochs and minibatches, and the same networks:
two layers of 64 tanh units for the policy, and two more for the value. Every measurement runs in
its own process, and timing starts after compilation and warm-up. Stable-Baselines3 runs in its own
virtual environment with one thread, which is faster here.

    python benchmarks/actor_critic_speed.py
    python benchmarks/actor_critic_speed.py --rounds 1 --only "a2c 8x5"

The last two columns are the limits of tfpg on this machine: the environments alone with random
actions, and the compiled updates alone, in the same unit.
"""

import argparse
import sys
import time
from statistics import median

import numpy as np
from peers import alternate, number_from, peer_python, ratio

ENV = "CartPole-v1"

# Environments, steps, epochs, minibatches, and environment steps that are timed.
SETTINGS = {
    "a2c 8x5": ("A2C", 8, 5, 1, 1, 60_000),
    "a2c 8x16": ("A2C", 8, 16, 1, 1, 100_000),
    "a2c 64x16": ("A2C", 64, 16, 1, 1, 400_000),
    "ppo 8x32, zoo": ("PPO", 8, 32, 20, 1, 50_000),
    "ppo 8x128": ("PPO", 8, 128, 10, 4, 50_000),
}


def of_peer(name: str) -> float:
    """Return the steps per second of Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    algorithm, num_envs, num_steps, epochs, minibatches, steps = SETTINGS[name]
    options = {"policy_kwargs": {"net_arch": [64, 64]}, "device": "cpu", "seed": 0}
    if algorithm == "PPO":
        options |= {"n_epochs": epochs, "batch_size": num_envs * num_steps // minibatches}
    envs = make_vec_env(ENV, n_envs=num_envs, seed=0)
    agent = getattr(stable_baselines3, algorithm)("MlpPolicy", envs, n_steps=num_steps, **options)
    agent.learn(3 * num_envs * num_steps)
    steps //= 4
    start = time.perf_counter()
    agent.learn(steps, reset_num_timesteps=False)
    return steps / (time.perf_counter() - start)


def agent_of(name: str):
    """Return the agent of tfpg, and the iterations that are timed."""
    import tfpg

    algorithm, num_envs, num_steps, epochs, minibatches, steps = SETTINGS[name]
    model = tfpg.networks.actor_critic(ENV, hidden=(64, 64), seed=0)
    agent = getattr(tfpg, algorithm)(
        model, num_envs=num_envs, num_steps=num_steps, epochs=epochs, minibatches=minibatches
    )
    agent.fit(ENV, 3, seed=0, verbose=0)  # compiles
    return agent, steps // (num_envs * num_steps)


def of_tfpg(name: str) -> float:
    """Return the steps per second of tfpg."""
    agent, iterations = agent_of(name)
    before = agent.env_steps
    start = time.perf_counter()
    agent.fit(ENV, iterations, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def of_environments(name: str) -> float:
    """Return the steps per second of the environments alone."""
    from tfpg.envs import open_vec

    _, num_envs, _, _, _, steps = SETTINGS[name]
    actions = np.random.default_rng(0).integers(2, size=(100, num_envs))
    with open_vec(ENV, num_envs) as envs:
        envs.reset(seed=0)
        start = time.perf_counter()
        for t in range(steps // num_envs):
            envs.step(actions[t % 100])
    return steps / (time.perf_counter() - start)


def of_updates(name: str) -> float:
    """Return the steps per second that the updates alone would allow."""
    from tfpg.envs import open_vec
    from tfpg.rollouts.collector import Collector

    agent, iterations = agent_of(name)
    with open_vec(ENV, agent.num_envs) as envs:
        data = Collector(envs, 0).collect_steps(agent.policy, agent.num_steps)
    start = time.perf_counter()
    for _ in range(iterations):
        agent.update(data)
    return iterations * data.mask.size / (time.perf_counter() - start)


SIDES = {"tfpg": of_tfpg, "peer": of_peer, "environments": of_environments, "updates": of_updates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--only", help="the name of a single setting")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(SIDES[args.side](args.only))
        return
    pythons = dict.fromkeys(SIDES, sys.executable) | {"peer": peer_python("stable-baselines3")}
    print(f"{'setting':16}{'tfpg/s':>10}{'SB3/s':>9}  {'ratio':22}{'envs/s':>11}{'updates/s':>11}")
    for name in [args.only] if args.only else SETTINGS:
        sides = {
            side: lambda side=side, name=name: number_from(
                [pythons[side], __file__, "--side", side, "--only", name]
            )
            for side in SIDES
        }
        found = alternate(sides, args.rounds)
        speeds = {side: f"{median(x):,.0f}" for side, x in found.items()}
        print(
            f"{name:16}{speeds['tfpg']:>10}{speeds['peer']:>9}  "
            f"{ratio(found['tfpg'], found['peer']):22}"
            f"{speeds['environments']:>11}{speeds['updates']:>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
