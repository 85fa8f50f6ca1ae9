"""Scores of the presets: ten seeds, interquartile mean, bootstrap interval.

A score is the greedy mean return of 100 fresh episodes of the model that was kept best by training
return within the preset's budget; the last model's is printed beside it.

    python benchmarks/scores.py                          # every preset, ten seeds: hours
    python benchmarks/scores.py ppo/CartPole-v1 --seeds 3 --jobs 2
    python benchmarks/scores.py dqn/LunarLander-v3@100000    # a preset with another budget
    python benchmarks/scores.py --quick                  # a small budget, to see that all runs

Results are kept in a file a line, and seeds that are in it are not run again (``--fresh`` does).
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np


def run_seed(name: str, seed: int, fraction: float) -> dict:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    import tfpg
    from tfpg.agents import presets
    from tfpg.callbacks.best import KeepBest
    from tfpg.callbacks.stopping import StopAtSteps

    algorithm, env = name.partition("@")[0].split("/", 1)
    preset = presets.find(algorithm, env)
    if "@" in name:
        preset = presets.with_budget(preset, int(name.partition("@")[2]))
    iterations = max(1, int(presets.iterations_of(preset) * fraction))
    budget = int(preset.env_steps * fraction)
    agent = presets.make_agent(algorithm, env, preset, seed)
    with tempfile.TemporaryDirectory() as folder:
        keep = KeepBest(Path(folder) / "best.keras")
        start = time.perf_counter()
        agent.fit(env, iterations, [keep, StopAtSteps(budget)], seed=seed, verbose=0)
        seconds = time.perf_counter() - start
        # A reloaded model: what users have.
        best = tfpg.load_model(keep.path) if keep.path.exists() else agent.model
        scores = {
            which: tfpg.evaluate(model, env, 100, seed=10_000 + seed)["episode_return"]
            for which, model in (("best", best), ("last", agent.model))
        }
    return {
        "name": name,
        "seed": seed,
        "fraction": fraction,
        **scores,
        "env_steps": agent.env_steps,
        "seconds": seconds,
    }


def interquartile_mean(scores: np.ndarray) -> float:
    scores = np.sort(scores)
    cut = len(scores) // 4
    return float(scores[cut : len(scores) - cut].mean())


def interval(scores: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(scores, (10_000, len(scores)))
    means = np.array([interquartile_mean(row) for row in draws])
    return tuple(np.quantile(means, [0.025, 0.975]))


def table(rows: list[dict], names: list[str]) -> None:
    print("| preset | seeds | best model, IQM (95 %) | worst | last model, IQM | steps | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        mine = [row for row in rows if row["name"] == name]
        if not mine:
            continue
        best, last = (np.array([row[which] for row in mine]) for which in ("best", "last"))
        low, high = interval(best)
        print(
            f"| {name} | {len(mine)} | {interquartile_mean(best):.1f} ({low:.1f} to {high:.1f}) | "
            f"{best.min():.1f} | {interquartile_mean(last):.1f} | "
            f"{np.mean([row['env_steps'] for row in mine]):,.0f} | "
            f"{np.median([row['seconds'] for row in mine]):.0f} |"
        )


def main() -> None:
    from tfpg.agents import presets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="ALGORITHM/ENV (default: all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the budget, one seed")
    parser.add_argument("--file", default="benchmarks/scores.jsonl")
    parser.add_argument("--fresh", action="store_true", help="run seeds again that are in the file")
    args = parser.parse_args()
    names = args.names or [f"{algorithm}/{env}" for algorithm, env in presets.PRESETS]
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
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        for done in concurrent.futures.as_completed(pool.submit(run_seed, *job) for job in jobs):
            try:
                row = done.result()
            except Exception as error:  # the others go on
                print(f"A seed failed: {error}", flush=True)
                continue
            rows.append(row)
            print(json.dumps(row), flush=True)
            if not args.quick:
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
    table(rows, names)


if __name__ == "__main__":
    main()
