"""Measure the agents with their default options, on twelve tasks.

Each agent is made as in `tfpg.PPO(tfpg.networks.actor_critic(env))`, without any other option, with
the network that suits it. The score is the greedy mean return of 100 new episodes with the last
model, as a percentage: 0 is random play, and 100 is the reference of the task. DQN plays only the
tasks with discrete actions.

    python benchmarks/defaults.py                      # all: two hours
    python benchmarks/defaults.py ppo a2c --tasks CartPole-v1 Inventory --seeds 1
    python benchmarks/defaults.py ppo --options '{"epochs": 4}' --network '{"normalize": true}'

Each result is appended to a file as a line of JSON. Results that are in the file are not measured
again. ``--options``, ``--network`` and ``--optimizer`` (arguments of Adam) measure other defaults.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from jobs import in_processes


class Inventory(gymnasium.Env):
    """Order goods for 30 days. A unit sells for 4, costs 2, and 0.2 for each day in stock."""

    observation_space = spaces.Dict(
        {"stock": spaces.Box(0, 20, (1,), np.float32), "day": spaces.Discrete(30)}
    )
    action_space = spaces.Discrete(11)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.stock, self.day = 5, 0
        return self._observation(), {}

    def step(self, action):
        available = min(self.stock + int(action), 20)
        bought, sold = available - self.stock, min(available, int(self.np_random.poisson(4.0)))
        self.stock, self.day = available - sold, self.day + 1
        reward = 4.0 * sold - 2.0 * bought - 0.2 * self.stock
        return self._observation(), reward, self.day == 30, False, {}

    def _observation(self):
        stock = np.array([self.stock], np.float32)
        return {"stock": stock, "day": min(self.day, 29)}


class Catch(gymnasium.Env):
    """Catch a ball that falls through a grid of 10 x 5 pixels. The return is 1 or -1."""

    observation_space = spaces.Box(0, 1, (10, 5), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(5)), 2
        return self._observation(), {}

    def step(self, action):
        self.row += 1
        self.paddle = min(max(self.paddle + int(action) - 1, 0), 4)
        over = self.row == 9
        reward = (1.0 if self.paddle == self.column else -1.0) if over else 0.0
        return self._observation(), reward, over, False, {}

    def _observation(self):
        grid = np.zeros((10, 5), np.uint8)
        grid[self.row, self.column] = grid[9, self.paddle] = 1
        return grid


class Task(NamedTuple):
    """A task, and the two returns that define its scale."""

    env: str | Callable[[], gymnasium.Env]
    env_steps: int
    random: float  # of random play; in CliffWalking, of standing still
    reference: float  # of the optimal policy or, rounded, of the best preset or published score
    discrete: bool = True


TASKS = {
    "CartPole-v1": Task("CartPole-v1", 100_000, 22, 500),
    "Acrobot-v1": Task("Acrobot-v1", 300_000, -500, -70),
    "LunarLander-v3": Task("LunarLander-v3", 500_000, -200, 260),
    "FrozenLake-v1": Task("FrozenLake-v1", 200_000, 0.01, 0.74),
    "Taxi-v4": Task("Taxi-v4", 500_000, -770, 7.9),
    "CliffWalking-v1": Task("CliffWalking-v1?max_episode_steps=200", 200_000, -200, -13),
    "Inventory": Task(Inventory, 100_000, 153, 223.8),
    "Catch": Task(Catch, 100_000, -0.53, 1),
    "Pendulum-v1": Task("Pendulum-v1", 300_000, -1240, -150, discrete=False),
    "MountainCarContinuous-v0": Task("MountainCarContinuous-v0", 200_000, -33, 93, discrete=False),
    "InvertedPendulum-v5": Task("InvertedPendulum-v5", 300_000, 5, 1000, discrete=False),
    "HalfCheetah-v5": Task("HalfCheetah-v5", 500_000, -270, 1500, discrete=False),
}
AGENTS = {  # and their networks
    "reinforce": ("Reinforce", "mlp"),
    "a2c": ("A2C", "actor_critic"),
    "ppo": ("PPO", "actor_critic"),
    "dqn": ("DQN", "dueling"),
}


def measure(algorithm: str, name: str, seed: int, changes: dict[str, dict]) -> dict:
    """Train one agent, and return its score."""
    import keras

    import tfpg

    task = TASKS[name]
    agent_class, network = AGENTS[algorithm]
    model = getattr(tfpg.networks, network)(task.env, seed=seed, **changes["network"])
    agent = getattr(tfpg, agent_class)(model, **changes["options"])
    if changes["optimizer"]:
        config = {**model.optimizer.get_config(), **changes["optimizer"]}
        model.compile(optimizer=keras.optimizers.Adam.from_config(config))
    start = time.perf_counter()
    agent.fit(task.env, env_steps=task.env_steps, seed=seed, verbose=0)
    seconds = time.perf_counter() - start
    score = agent.evaluate(task.env, 100, seed=10_000 + seed)["episode_return"]
    return {
        "algorithm": algorithm,
        "task": name,
        "seed": seed,
        "changes": changes,
        "return": score,
        "percent": 100 * (score - task.random) / (task.reference - task.random),
        "env_steps": agent.env_steps,
        "seconds": round(seconds, 1),
    }


def print_tables(rows: list[dict], algorithms: list[str], tasks: list[str]) -> None:
    """Print the median return of each algorithm in each task, then the lowest and the highest."""
    names = [algorithm.upper() for algorithm in algorithms]
    medians = [["task", "random play", *names, "best preset", "reference"]]
    ranges = [["task", "env steps", *names]]
    percents: dict[str, list[float]] = {algorithm: [] for algorithm in algorithms}
    for name in tasks:
        task, middle, ends = TASKS[name], list[str](), list[str]()
        for algorithm in algorithms:
            own = [row for row in rows if (row["algorithm"], row["task"]) == (algorithm, name)]
            returns = [row["return"] for row in own]
            middle.append(readable(float(np.median(returns))) if own else "")
            ends.append(f"{readable(min(returns))} to {readable(max(returns))}" if own else "")
            if own:
                percents[algorithm].append(float(np.median([row["percent"] for row in own])))
        random, reference = f"{task.random:,g}", f"{task.reference:,g}"
        medians.append([name, random, *middle, preset_score(name), reference])
        ranges.append([name, f"{task.env_steps:,}", *ends])
    for table in (medians, ranges):
        table.insert(1, ["---"] * len(table[0]))
        print("\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n")
    for algorithm, values in percents.items():
        mean = np.clip(values, 0, 100).mean() if values else np.nan
        print(f"{algorithm.upper()}: {mean:.0f}%, the mean of the medians, clipped to 0 to 100%")


def preset_score(env: str) -> str:
    """Return the best score of the presets for an environment, in the fewest steps, or nothing."""
    from tfpg.agents.presets import PRESETS

    scores = [
        (preset.score.mean, -preset.env_steps, algorithm.upper())
        for (algorithm, each), preset in PRESETS.items()
        if each == env and preset.score
    ]
    if not scores:
        return ""
    mean, _, algorithm = max(scores, key=lambda score: score[:2])
    return f"{readable(mean)} ({algorithm})"


def readable(x: float) -> str:
    """Return a return with three digits, and no exponent."""
    digits = 3 if x == 0 else max(0, 2 - int(np.floor(np.log10(abs(x)))))
    return f"{x:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{x:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algorithms", nargs="*", help="reinforce, a2c, ppo, dqn (default: all)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--file", default="benchmarks/defaults.jsonl", help="file of the results")
    for name in ("options", "network", "optimizer"):
        parser.add_argument(f"--{name}", type=json.loads, default={}, help="JSON, to replace some")
    args = parser.parse_args()
    algorithms = args.algorithms or list(AGENTS)
    changes = {name: getattr(args, name) for name in ("options", "network", "optimizer")}
    file, rows = Path(args.file), list[dict]()
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row for row in rows if row["changes"] == changes]
    known = {(row["algorithm"], row["task"], row["seed"]) for row in rows}
    jobs = [
        (algorithm, task, seed, changes)
        for seed in range(args.seeds)
        for algorithm in algorithms
        for task in args.tasks
        if (TASKS[task].discrete or algorithm != "dqn") and (algorithm, task, seed) not in known
    ]
    for row in in_processes(measure, jobs, args.jobs):
        rows.append(row)
        print(json.dumps(row), flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
    rows.sort(key=lambda row: row["seed"])
    print_tables(rows, algorithms, args.tasks)


if __name__ == "__main__":
    main()
