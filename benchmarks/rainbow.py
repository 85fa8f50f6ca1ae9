"""Measure what each part of Rainbow contributes: DQN with one part, and Rainbow without one.

    python benchmarks/rainbow.py CartPole-v1
    python benchmarks/rainbow.py Acrobot-v1 --seeds 5 --v-min -100 --v-max 0
    python benchmarks/rainbow.py CartPole-v1 --env-steps 5000 --seeds 1     # to see that it runs

Each row is the interquartile mean over the seeds, with a 95% bootstrap interval, of the greedy mean
return of 100 new episodes with the last model. Otherwise, all rows use the settings of DQN's preset
for the environment. Parts that a row does not name are off, even if the preset has them.
"""

import argparse
import time

import numpy as np
from jobs import in_processes, interval

import tfpg
from tfpg.agents.presets import PARTS

ROWS = {
    "DQN, no part": (),
    **{f"DQN, {part}": (part,) for part in PARTS},
    "Rainbow": PARTS,
    **{f"Rainbow without {part}": tuple(p for p in PARTS if p != part) for part in PARTS},
}


def train(row: str, env: str, seed: int, env_steps: int | None, bounds: dict) -> tuple:
    """Return the row, the seed, the greedy mean return of 100 episodes, and the seconds."""
    algorithm, preset = tfpg.presets.with_parts(ROWS[row], env)
    if env_steps:
        preset = tfpg.presets.with_budget(preset, env_steps)
    options = bounds if algorithm == "c51" else {}
    agent = tfpg.presets.make(algorithm, env, seed, preset=preset, **options)
    iterations = tfpg.presets.iterations_of(preset)
    start = time.perf_counter()
    agent.fit(env, iterations, seed=seed, verbose=0, env_steps=preset.env_steps)
    seconds = time.perf_counter() - start
    return row, seed, agent.evaluate(env, 100, seed=10_000 + seed)["episode_return"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env", help="environment id")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--env-steps", type=int, help="budget (default: that of DQN's preset)")
    parser.add_argument("--v-min", type=float, help="lowest discounted return")
    parser.add_argument("--v-max", type=float, help="highest discounted return")
    args = parser.parse_args()
    bounds = {"v_min": args.v_min, "v_max": args.v_max}
    bounds = {name: x for name, x in bounds.items() if x is not None}
    if len(bounds) < 2 and "v_min" not in tfpg.presets.find("c51", args.env).options:
        parser.error(f"C51 has no preset for {args.env}: pass --v-min and --v-max.")
    jobs = [(r, args.env, s, args.env_steps, bounds) for r in ROWS for s in range(args.seeds)]
    results = []
    for result in in_processes(train, jobs, args.jobs):
        results.append(result)
        print(*result, flush=True)
    print("| | interquartile mean (95%) | returns | seconds per seed |\n|---|---|---|---|")
    for name in ROWS:
        own = sorted(rest for row, *rest in results if row == name)
        if own:
            _, scores, seconds = zip(*own, strict=True)
            returns = ", ".join(f"{x:.0f}" for x in scores)
            print(f"| {name} | {interval(scores)} | {returns} | {np.median(seconds):.0f} |")


if __name__ == "__main__":
    main()
