"""What checkpoints cost, and what a large replay adds.

Trainings of CartPole with a network of 64-64: ten iterations with a checkpoint after each, ten
without, in turn, and each ten compared with those before them. None is left out, and where the
disk is slow it is waited for; with ``--share`` some are, as `tfpg.Checkpoints` has it. Then a full
replay of a million steps: megabytes and seconds of its first checkpoint and of those after every
further 1,024 steps.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --pairs 10 --rows 100000
    python benchmarks/checkpoints.py --agents ppo --pairs 300 --share 0.05
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FIRST, BLOCK = 20, 10  # iterations: those that compile, and those with or without checkpoints


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


def milliseconds(make, pairs: int, share: float | None):
    """Of iterations, ``[pairs, without and with, iterations]``, and how many had no checkpoint."""
    import keras
    import numpy as np

    import tfpg

    class InTurn(tfpg.Checkpoints):
        left_out = 0

        def due(self, iteration, last):
            if (iteration // BLOCK) % 2 == 0 and not last:
                return False
            while not (due := super().due(iteration, last)) and self.share is None:
                time.sleep(1e-4)  # for the disk
            self.left_out += not due
            return due

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            times.append(time.perf_counter())

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # Half of the time there are none anyway.
        kept = InTurn(folder, share=None if share is None else share / 2)
        iterations = FIRST + 2 * BLOCK * pairs + 1
        make().fit("CartPole-v1", iterations, verbose=0, callbacks=[Clock()], checkpoints=kept)
    return 1e3 * np.diff(times)[FIRST:].reshape(pairs, 2, BLOCK), kept.left_out


def cost(names: list[str], pairs: int, share: float | None) -> None:
    """Prints a row for each agent."""
    import numpy as np

    print(
        f"{'agent':12}{'ms an iteration':>17}{'with a checkpoint':>19}  more (quartiles)  left out"
    )
    for name, make in agents():
        if name not in names:
            continue
        took, left_out = milliseconds(make, pairs, share)
        without, with_ = np.median(took, axis=(0, 2))
        sums = took.sum(axis=2)
        low, more, high = 100 * np.quantile(sums[:, 1] / sums[:, 0], [0.25, 0.5, 0.75]) - 100
        told = f"{more:.1f} % ({low:.1f} to {high:.1f})"
        print(f"{name:12}{without:17.1f}{with_:19.1f}  {told:18}{left_out:8}", flush=True)


def replay(rows: int) -> None:
    """Prints what a full replay's checkpoints take."""
    import numpy as np
    from gymnasium import spaces

    from tfpg.checkpoints import Store
    from tfpg.checkpoints.serialization import pack
    from tfpg.rollouts.replay import ReplayBuffer
    from tfpg.rollouts.trajectory import Trajectory

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
            record = buffer.rows_since(before)
            before = buffer.written
            needed = int(before.min()) + 1 - buffer.rows
            known = size_of(folder)
            state = {"replay": buffer.get_state()}
            store.save(i, pack(state), {}, [(int(before.max()), pack(record))], needed)
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
    names = ["reinforce", "ppo", "dqn"]
    parser.add_argument("--agents", nargs="+", choices=names, default=names)
    parser.add_argument("--pairs", type=int, default=60, help="of ten iterations each")
    parser.add_argument("--share", type=float, help="of the time, at most")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the replay")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of how well is learned
    cost(args.agents, args.pairs, args.share)
    replay(args.rows)


if __name__ == "__main__":
    main()
