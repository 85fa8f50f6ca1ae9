"""What checkpoints cost, after every iteration and as usual, and what a large replay adds.

Trainings of CartPole with a network of 64-64, with and without checkpoints in turn, the same seed
and so the same work; the clock runs after compilation. Then a full replay of a million steps:
megabytes and seconds of its first checkpoint and of those after every further 1,024 steps.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --pairs 3 --iterations 60 --rows 100000
"""

import argparse
import os
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FIRST = 5  # iterations that compile


def agents():
    """The agents that are measured, by name; DQN with and without what its replay takes."""
    import tfpg

    nets = tfpg.networks
    layers = {"hidden": (64, 64), "seed": 0}
    yield "reinforce", lambda: tfpg.Reinforce(nets.mlp("CartPole-v1", **layers))
    yield (
        "ppo",
        lambda: tfpg.PPO(
            nets.actor_critic("CartPole-v1", **layers), num_steps=128, epochs=4, minibatches=4
        ),
    )
    yield (
        "dqn",
        lambda: tfpg.DQN(
            nets.mlp("CartPole-v1", activation="relu", **layers),
            learn_period=128,
            updates_per_learn=64,
        ),
    )


def seconds(make, iterations: int, folder: str | None, share: float | None) -> float:
    """Of the iterations after the first ones."""
    import keras

    import tfpg

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == FIRST:
                self.start = time.perf_counter()

    clock = Clock()
    kept = None if folder is None else tfpg.Checkpoints(folder, share=share)
    make().fit("CartPole-v1", iterations, seed=1, verbose=0, callbacks=[clock], checkpoints=kept)
    return time.perf_counter() - clock.start


def cost(pairs: int, iterations: int) -> None:
    """Prints two rows for each agent."""
    print(f"{'agent':26}{'ms an iteration':>17}{'with checkpoints':>18}  more (min to max)")
    for (name, make), share in product(agents(), (None, 0.05)):
        without, with_ = [], []
        for pair in range(pairs):
            for kept in (False, True) if pair % 2 == 0 else (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    took = seconds(make, iterations, folder if kept else None, share)
                (with_ if kept else without).append(1e3 * took / (iterations - FIRST))
        more = [100 * (b / a - 1) for a, b in zip(without, with_, strict=True)]
        print(
            f"{name + (', every iteration' if share is None else ', as usual'):26}"
            f"{median(without):17.1f}{median(with_):18.1f}  "
            f"{median(more):.1f} % ({min(more):.1f} to {max(more):.1f})",
            flush=True,
        )


def replay(rows: int) -> None:
    """Prints what a full replay's checkpoints take."""
    import numpy as np
    from gymnasium import spaces

    from tfpg.replay import ReplayBuffer, saving
    from tfpg.resuming import Store
    from tfpg.types import Trajectory

    steps, count = 128, 8
    buffer = ReplayBuffer(spaces.Box(-1, 1, (4,)), rows, count)
    rng = np.random.default_rng(0)

    def play() -> None:
        zeros = np.zeros((steps, count), bool)
        buffer.add(
            Trajectory(
                observations=rng.normal(size=(steps + 1, count, 4)).astype("float32"),
                actions=rng.integers(2, size=(steps, count)),
                rewards=np.ones((steps, count)),
                terminated=zeros,
                truncated=zeros,
                mask=np.ones((steps, count)),
                log_probs=np.zeros((steps, count), np.float32),
            )
        )

    while len(buffer) < (buffer.rows - 1) * count:
        play()
    with tempfile.TemporaryDirectory() as folder:
        store, before, sizes, times = Store(folder), None, [], []
        for i in range(12):
            start = time.perf_counter()
            record = saving.rows_since(buffer, before)
            before = buffer.written
            needed = int(before.min()) + 1 - buffer.rows
            known = size_of(folder)
            state = {"replay": saving.told(buffer)}
            store.save(i, state, {}, [(int(before.max()), record)], needed)
            times.append(time.perf_counter() - start)
            sizes.append((size_of(folder) - known) / 1e6)
            play()
    print(
        f"\nA replay of {len(buffer):,} steps: {sizes[0]:.1f} MB in {times[0]:.2f} s at first, "
        f"then {1e3 * median(sizes[1:]):.0f} kB in {1e3 * median(times[1:]):.0f} ms for "
        f"{steps * count:,} steps."
    )


def size_of(folder: str) -> int:
    """Bytes of the log in a folder."""
    return sum(p.stat().st_size for p in Path(folder).glob("log/*.bin"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=105)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the replay")
    args = parser.parse_args()
    cost(args.pairs, args.iterations)
    replay(args.rows)


if __name__ == "__main__":
    main()
