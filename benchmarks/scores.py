"""Measure the scores of the presets: interquartile means of ten seeds, with bootstrap intervals.

A score is the greedy mean return of 100 new episodes. It is measured for the model with the best
training return within the preset's budget, and for the last model.

    python benchmarks/scores.py                          # every preset, ten seeds: hours
    python benchmarks/scores.py ppo/CartPole-v1 --seeds 3 --jobs 2
    python benchmarks/scores.py dqn/LunarLander-v3@100000    # a preset with a different budget
    python benchmarks/scores.py --quick                  # a small budget, to check that all work
    python benchmarks/scores.py ppo/CartPole-v1 dqn/CartPole-v1 --plot curves.png

``--plot`` draws the return in training against environment steps.

Each result is appended to a file as a line of JSON. Seeds that are in the file are not run again,
except with ``--fresh``.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jobs import in_processes, interval

from tfpg.results.statistics import interquartile_mean

POINTS = 100  # of a curve


def run_seed(name: str, seed: int, fraction: float) -> dict:
    """Train with a fraction of a preset's budget, and return the scores."""
    import tfpg

    preset_name, _, env_steps = name.partition("@")
    algorithm, env = preset_name.split("/", 1)
    preset = tfpg.presets.find(algorithm, env)
    if env_steps:
        preset = tfpg.presets.with_budget(preset, int(env_steps))
    iterations = max(1, int(tfpg.presets.iterations_of(preset) * fraction))
    agent = tfpg.presets.make(algorithm, env, seed, preset=preset)
    with tempfile.TemporaryDirectory() as folder:
        keep = tfpg.callbacks.KeepBest(Path(folder) / "best.keras")
        start = time.perf_counter()
        env_steps = int(preset.env_steps * fraction)
        history = agent.fit(env, iterations, [keep], seed=seed, verbose=0, env_steps=env_steps)
        seconds = time.perf_counter() - start
        # Evaluate the model from its file, as users do.
        best = tfpg.load_model(keep.path) if keep.path.exists() else agent.model
        scores = {
            which: tfpg.evaluate(model, env, 100, seed=10_000 + seed)["episode_return"]
            for which, model in (("best", best), ("last", agent.model))
        }
    returns = history.history["episode_return"]  # from the first iteration in which one ended
    steps = history.history["env_steps"][-len(returns) :]
    every = slice(None, None, -(-len(returns) // POINTS))
    curve = {"env_steps": steps[every], "episode_return": returns[every]}
    return {
        "name": name,
        "seed": seed,
        "fraction": fraction,
        **scores,
        "env_steps": agent.env_steps,
        "seconds": seconds,
        "curve": curve,
    }


def print_table(rows: list[dict], names: list[str]) -> None:
    """Print a row for each preset that has results."""
    print("| preset | seeds | best model, IQM (95%) | worst | last model, IQM | steps | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["seed"])
        if not own:
            continue
        best, last = (np.array([row[which] for row in own]) for which in ("best", "last"))
        print(
            f"| {name} | {len(own)} | {interval(best)} | {best.min():.1f} | "
            f"{interquartile_mean(last):.1f} | "
            f"{np.mean([row['env_steps'] for row in own]):,.0f} | "
            f"{np.median([row['seconds'] for row in own]):.0f} |"
        )


def plot(rows: list[dict], names: list[str], path: str) -> None:
    """Draw the learning curves of presets, with a panel for each environment."""
    import tfpg

    lines: dict[str, list] = {}
    for row in rows:
        if row["name"] in names:
            algorithm, env = row["name"].split("/", 1)
            history = SimpleNamespace(history=row["curve"], params={"env": env.split("@")[0]})
            lines.setdefault(algorithm, []).append(history)
    tfpg.plot(lines, path)


def main() -> None:
    import tfpg

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="ALGORITHM/ENV[@STEPS] (default: all)")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the budget, one seed")
    parser.add_argument("--file", default="benchmarks/scores.jsonl", help="file of the results")
    parser.add_argument("--plot", metavar="FILE", help="draw the learning curves")
    parser.add_argument("--fresh", action="store_true", help="run seeds of the file again")
    args = parser.parse_args()
    names = args.names or [f"{algorithm}/{env}" for algorithm, env in tfpg.presets.PRESETS]
    fraction, seeds = (0.05, 1) if args.quick else (1.0, args.seeds)
    file = Path(args.file)
    rows = []
    if file.exists() and not args.quick:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if args.fresh:
            rows = [row for row in rows if row["name"] not in names]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {(row["name"], row["seed"]) for row in rows}
    jobs = [(n, s, fraction) for n in names for s in range(seeds) if (n, s) not in known]
    for row in in_processes(run_seed, jobs, args.jobs):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if not args.quick:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
    print_table(rows, names)
    if args.plot:
        plot(rows, names, args.plot)


if __name__ == "__main__":
    main()
