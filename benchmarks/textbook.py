"""Compare the environment steps per second of tfpg.Reinforce and the textbook loop.

Both do the same work: CartPole-v1, a 20-10-1 network, 10 episodes of at most 200 steps per
update, gamma 0.95, Adam 0.01. The textbook loop (scripts/reinforce_in_one_file.py) is measured
over its first iterations. Their episodes are short, which makes no difference: its cost is per
step. tfpg is measured over a whole call of fit, including compilation.

    python benchmarks/textbook.py
"""

import argparse
import contextlib
import io
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


def textbook_steps_per_second(iterations: int, seed: int) -> float:
    """Return the speed of the textbook loop."""
    import gymnasium
    import keras
    import reinforce_in_one_file as textbook

    env = gymnasium.make("CartPole-v1")
    model = textbook.make_model(seed)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        returns = textbook.train(
            env, model, keras.optimizers.Adam(0.01), iterations, 10, 200, 0.95, seed
        )
    steps = 10 * sum(returns)  # the return of an episode of CartPole is its number of steps
    return steps / (time.perf_counter() - start)


def tfpg_steps_per_second(iterations: int, seed: int) -> float:
    """Return the speed of a whole call of fit."""
    import keras
    import reinforce_in_one_file as textbook

    import tfpg

    model = textbook.make_model(seed)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    agent = tfpg.Reinforce(model, gamma=0.95, episodes_per_update=10, max_steps=200)
    start = time.perf_counter()
    agent.fit("CartPole-v1", iterations, seed=seed, verbose=0)
    return agent.env_steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=150, help="iterations of tfpg")
    parser.add_argument("--textbook", type=int, default=3, help="iterations of the textbook loop")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs to time")
    args = parser.parse_args()

    tfpg_steps_per_second(1, 0)  # start TensorFlow before the clock runs
    print("  seed   textbook steps/s   tfpg steps/s      times")
    ratios = []
    for seed in range(args.repeats):
        slow = textbook_steps_per_second(args.textbook, seed)
        fast = tfpg_steps_per_second(args.iterations, seed)
        ratios.append(fast / slow)
        print(f"{seed:6}{slow:19,.0f}{fast:15,.0f}{ratios[-1]:11,.0f}", flush=True)
    print(f"median: {median(ratios):,.0f} times as fast")


if __name__ == "__main__":
    main()
