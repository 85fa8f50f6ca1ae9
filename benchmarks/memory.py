"""Measure the memory of a process while each agent makes 10,000 iterations.

It must not grow after the first iterations, except for the history and DQN's replay buffer (here of
1,000 steps).

    python benchmarks/memory.py
    python benchmarks/memory.py --only dqn --iterations 2000
"""

import argparse
import gc
import subprocess
import sys
import time
from pathlib import Path

ENV = "CartPole-v1"
PARTS = 5  # calls of fit, with a measurement after each


def agent_of(name: str):
    """Return a small agent and its environment."""
    import tfpg

    actor_critic, mlp = (
        make(ENV, hidden=(32,), seed=0) for make in (tfpg.networks.actor_critic, tfpg.networks.mlp)
    )
    if name == "reinforce":
        return tfpg.Reinforce(mlp, episodes_per_update=4, max_steps=20), ENV
    if name == "dqn":
        options = {"capacity": 1000, "learning_starts": 100, "steps_per_iteration": 64}
        return tfpg.DQN(mlp, **options), ENV
    kind = tfpg.A2C if name == "a2c" else tfpg.PPO
    env = "functional/CartPole" if "functional" in name else ENV
    return kind(actor_critic, num_envs=8, num_steps=16), env


AGENTS = ["reinforce", "a2c", "ppo", "dqn", "ppo, functional"]


def resident() -> float:
    """Return the memory of this process in MiB."""
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def measure(name: str, iterations: int) -> None:
    """Train an agent, and print the memory along the way."""
    agent, env = agent_of(name)
    start, cells = time.perf_counter(), [name]
    for part in range(PARTS):
        first, last = (iterations * k // PARTS for k in (part, part + 1))
        agent.fit(env, last, initial_iteration=first, seed=0, verbose=0)
        cells.append(f"{resident():,.0f}")
    print("| " + " | ".join([*cells, f"{time.perf_counter() - start:.0f}"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10_000, help="iterations of each agent")
    parser.add_argument("--only", choices=AGENTS, help="a single agent")
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.iterations)
        return
    marks = [f"{args.iterations * k // PARTS:,}" for k in range(1, PARTS + 1)]
    print("| MiB after iterations | " + " | ".join(marks) + " | seconds |")
    print("|---|" + "---:|" * (PARTS + 1), flush=True)
    for name in AGENTS:
        command = [sys.executable, "-W", "ignore", __file__, "--only", name]
        subprocess.run([*command, "--iterations", str(args.iterations)], check=True)


if __name__ == "__main__":
    main()
