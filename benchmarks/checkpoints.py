"""What checkpoints cost.

Trains each algorithm on CartPole with the default checkpoints, and prints the share of the time
that they take. Then fills a replay of a million steps, and prints the size and time of its first
checkpoint and of those after each further 1,024 steps.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --seconds 30 --rows 100000
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def agents():
    """The agents that are measured, by name."""
    import tfpg

    layers = {"hidden": (64, 64), "seed": 0}
    mlp = tfpg.networks.mlp
    yield "reinforce", tfpg.Reinforce(mlp("CartPole-v1", **layers))
    yield "ppo", tfpg.PPO(tfpg.networks.actor_critic("CartPole-v1", **layers))
    yield "dqn", tfpg.DQN(mlp("CartPole-v1", activation="relu", **layers))


def cost(seconds: float) -> None:
    """Print a row for each agent."""
    import keras

    import tfpg

    class Timed(tfpg.Checkpoints):
        took, count = 0.0, 0

        def save(self, *args, **options):
            begin = time.perf_counter()
            saved = super().save(*args, **options)
            self.took, self.count = self.took + time.perf_counter() - begin, self.count + 1
            return saved

    class StopAfter(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = time.perf_counter() - self.begin > seconds

    print(f"{'agent':12}{'iterations':>12}{'checkpoints':>14}{'ms each':>10}{'share':>10}")
    for name, agent in agents():
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            timed = Timed(folder)
            options = {"callbacks": [StopAfter()], "checkpoints": timed, "verbose": 0}
            history = agent.fit("CartPole-v1", 10**6, **options)
            share = timed.took / (time.perf_counter() - begin)
        each = 1e3 * timed.took / timed.count
        print(f"{name:12}{len(history.epoch):12}{timed.count:14}{each:10.1f}{share:10.2%}")


def replay(rows: int) -> None:
    """Print what the checkpoints of a full replay take."""
    import numpy as np
    from gymnasium import spaces

    from tfpg.checkpoints.store import Store
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
        store, written, sizes, times = Store(folder), None, [], []
        for step in range(12):
            begin = time.perf_counter()
            entry, written = buffer.rows_since(written), buffer.written
            position, needed = int(written.max()), int(written.min()) + 1 - buffer.rows
            store.save(step, {"replay": buffer.get_state()}, {}, entry, position, needed)
            times.append(time.perf_counter() - begin)
            sizes.append(max(Path(folder).glob("log/*.log")).stat().st_size / 1e6)
            play()
    print(
        f"\nA replay of {len(buffer):,} steps: {sizes[0]:.1f} MB in {times[0]:.2f} s at first, "
        f"then {1e3 * median(sizes[1:]):.0f} kB in {1e3 * median(times[1:]):.0f} ms for "
        f"{steps * count:,} steps."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, each agent")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the replay")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # about how well the agents learn
    cost(args.seconds)
    replay(args.rows)


if __name__ == "__main__":
    main()
