"""Measure how the cost of training grows with environments, batches, episodes and networks.

Prints a table for each. Every row is measured in its own process, after compilation, with the peak
memory of that process. Importing TensorFlow and Keras takes most of the memory of small rows.

    python benchmarks/growth.py
    python benchmarks/growth.py --only network --seconds 2
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

CARTPOLE = "CartPole-v1"
UPDATES = {"epochs": 4, "minibatches": 4, "reward_scale": 1.0}


def speed_of(agent: Any, env: Any, seconds: float) -> float:
    """Return the environment steps per second of training for about some seconds."""
    agent.fit(env, 2, seed=0, verbose=0)  # compiles
    start = time.perf_counter()
    agent.fit(env, 1, seed=0, verbose=0)
    count = max(1, int(seconds / (time.perf_counter() - start)))
    before, start = agent.env_steps, time.perf_counter()
    agent.fit(env, count, seed=0, verbose=0)
    return (agent.env_steps - before) / (time.perf_counter() - start)


def with_environments(num_envs: int, seconds: float) -> dict[str, float]:
    """PPO with 32 steps, 4 epochs of 4 minibatches, and two layers of 64 units."""
    import tfpg

    found = {}
    for name, env in (("steps/s", CARTPOLE), ("steps/s, functional", "functional/CartPole")):
        model = tfpg.networks.actor_critic(env, hidden=(64, 64), normalize=False, seed=0)
        agent = tfpg.PPO(model, num_envs=num_envs, num_steps=32, **UPDATES)
        found[name] = speed_of(agent, env, seconds)
    return found


def with_batch(batch_size: int, seconds: float) -> dict[str, float]:
    """DQN with 64 updates for every 64 steps, and two layers of 64 units."""
    import tfpg

    model = tfpg.networks.mlp(CARTPOLE, hidden=(64, 64), activation="relu", seed=0)
    options = {"learn_period": 64, "updates_per_learn": 64, "learning_starts": 5000}
    options |= {"n_step": 1, "target_update_period": 128}
    agent = tfpg.DQN(model, batch_size=batch_size, **options)
    speed = speed_of(agent, CARTPOLE, seconds)
    return {"updates/s": speed, "transitions/s": speed * batch_size}


def with_episodes(length: int, seconds: float) -> dict[str, float]:
    """REINFORCE with 16 episodes of Pendulum, and two layers of 64 units."""
    import tfpg

    env = f"Pendulum-v1?max_episode_steps={length}"
    model = tfpg.networks.mlp(env, hidden=(64, 64), seed=0)
    agent = tfpg.Reinforce(model, episodes_per_update=16)
    speed = speed_of(agent, env, seconds)
    return {"steps/s": speed, "updates/s": speed / (16 * length)}


def with_width(units: int, seconds: float) -> dict[str, float]:
    """PPO with 8 environments, 128 steps, 4 epochs of 4 minibatches, and two layers."""
    import tfpg

    model = tfpg.networks.actor_critic(CARTPOLE, hidden=(units, units), normalize=False, seed=0)
    agent = tfpg.PPO(model, num_envs=8, num_steps=128, **UPDATES)
    return {"parameters": model.count_params(), "steps/s": speed_of(agent, CARTPOLE, seconds)}


TABLES: dict[str, tuple[Callable[[int, float], dict[str, float]], list[int]]] = {
    "environments": (with_environments, [1, 8, 64, 512, 4096]),
    "batch": (with_batch, [32, 64, 256, 1024, 4096]),
    "episode length": (with_episodes, [50, 200, 1000, 5000]),
    "network width": (with_width, [16, 64, 256, 1024, 2048]),
}


def rows_of(name: str, seconds: float) -> Iterator[dict[str, float]]:
    """Yield the rows of a table. Each is measured in a new process."""
    for value in TABLES[name][1]:
        command = [sys.executable, __file__, "--only", name, "--value", str(value)]
        done = subprocess.run(
            [*command, "--seconds", str(seconds)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{name} {value} failed:\n{done.stderr[-2000:]}")
        yield {name: value, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="training time of each row")
    parser.add_argument("--only", help="tables whose name contains this")
    parser.add_argument("--value", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.value:
        found = TABLES[args.only][0](args.value, args.seconds)
        found["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    for name in (name for name in TABLES if (args.only or "") in name):
        print(f"\n{TABLES[name][0].__doc__}\n")
        for i, row in enumerate(rows_of(name, args.seconds)):
            if i == 0:
                print("| " + " | ".join(row) + " |\n|" + "---:|" * len(row))
            print("| " + " | ".join(f"{x:,.0f}" for x in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
