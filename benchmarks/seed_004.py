"""Measure the scores of REINFORCE on CartPole with a textbook's settings and ten seeds.

The network has 20, 10 and 1 units (elu, elu, sigmoid). Each of 150 updates takes 10 episodes of at
most 200 steps. Gamma is 0.95, the optimizer Adam with 0.01. A score is the greedy mean return of
100 new episodes. Each seed has two: that of the best model, which Keras's own ModelCheckpoint saves
by episode_return, and that of the last model.

    python benchmarks/seed_004.py
"""

import argparse
import tempfile
import time

from jobs import interval


def train_and_score(seed: int, iterations: int) -> tuple[float, float, int, float]:
    """Return the scores of the best and the last model, environment steps, and seconds of fit."""
    import keras

    import tfpg

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(20, activation="elu"),
            keras.layers.Dense(10, activation="elu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    agent = tfpg.Reinforce(
        model,
        gamma=0.95,
        baseline=None,
        episodes_per_update=10,
        entropy_coef=0.0,
        max_steps=200,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/best.keras"
        save_best = keras.callbacks.ModelCheckpoint(
            path, monitor="episode_return", mode="max", save_best_only=True
        )
        start = time.perf_counter()
        agent.fit("CartPole-v1", iterations, callbacks=[save_best], seed=seed, verbose=0)
        seconds = time.perf_counter() - start
        best = keras.saving.load_model(path)
    scores = [
        tfpg.evaluate(m, "CartPole-v1", 100, seed=1_000 + seed, max_steps=200)["episode_return"]
        for m in (best, model)
    ]
    return *scores, agent.env_steps, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--iterations", type=int, default=150, help="updates of each seed")
    args = parser.parse_args()

    print("  seed   best model   last model   env steps   seconds")
    rows = []
    for seed in range(args.seeds):
        rows.append(train_and_score(seed, args.iterations))
        best, last, steps, seconds = rows[-1]
        print(f"{seed:6}{best:13.1f}{last:13.1f}{steps:12,}{seconds:10.1f}", flush=True)
    best_scores, last_scores, *_ = zip(*rows, strict=True)
    for name, scores in (("best", best_scores), ("last", last_scores)):
        print(
            f"{name} models: interquartile mean {interval(scores)}, with a 95% bootstrap interval, "
            f"{sum(s >= 195 for s in scores)} of {len(scores)} at 195 or more"
        )


if __name__ == "__main__":
    main()
