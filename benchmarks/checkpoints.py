"""Measure the cost of checkpoints.

Trains each algorithm on CartPole with the default checkpoints, and prints the share of the time
that they take. Then fills a replay buffer of a million steps, and prints the size and time of its
first checkpoint and of the checkpoints after each further 1,024 steps.

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


def make_agents():
    """Yield the name of each algorithm and an agent."""
    import tfpg

    layers = {"hidden": (64, 64), "seed": 0}
    mlp = tfpg.networks.mlp
    yield "reinforce", tfpg.Reinforce(mlp("CartPole-v1", **layers))
    yield "ppo", tfpg.PPO(tfpg.networks.actor_critic("CartPole-v1", **layers))
    yield "dqn", tfpg.DQN(mlp("CartPole-v1", activation="relu", **layers))


def measure_training(seconds: float) -> None:
    """Train each agent for some seconds, and print a row for it."""
    import keras

    import tfpg

    class TimedCheckpoints(tfpg.Checkpoints):
        seconds, count = 0.0, 0

        def save(self, *args, **options):
            start = time.perf_counter()
            saved = super().save(*args, **options)
            self.seconds += time.perf_counter() - start
            self.count += 1
            return saved

    class StopAfter(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = time.perf_counter() - self.start > seconds

    print(f"{'agent':12}{'iterations':>12}{'checkpoints':>14}{'ms each':>10}{'share':>10}")
    for name, agent in make_agents():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            timed = TimedCheckpoints(folder)
            options = {"callbacks": [StopAfter()], "checkpoints": timed, "verbose": 0}
            history = agent.fit("CartPole-v1", 10**6, **options)
            share = timed.seconds / (time.perf_counter() - start)
        each = 1e3 * timed.seconds / timed.count
        print(f"{name:12}{len(history.epoch):12}{timed.count:14}{each:10.1f}{share:10.2%}")


def measure_replay(rows: int) -> None:
    """Print the size and time of the checkpoints of a full replay buffer."""
    import numpy as np
    from gymnasium import spaces

    from tfpg.checkpoints.store import Store
    from tfpg.rollouts.replay import ReplayBuffer
    from tfpg.rollouts.trajectory import Trajectory

    steps, num_envs = 128, 8
    replay = ReplayBuffer(spaces.Box(-1, 1, (4,)), rows, num_envs)
    rng = np.random.default_rng(0)

    def add_steps() -> None:
        zeros = np.zeros((steps, num_envs), bool)
        replay.add(
            Trajectory(
                observations=rng.normal(size=(steps + 1, num_envs, 4)).astype("float32"),
                actions=rng.integers(2, size=(steps, num_envs)),
                rewards=np.ones((steps, num_envs)),
                terminated=zeros,
                truncated=zeros,
                mask=np.ones((steps, num_envs)),
                log_probs=np.zeros((steps, num_envs), np.float32),
            )
        )

    while len(replay) < (replay.rows - 1) * num_envs:
        add_steps()
    with tempfile.TemporaryDirectory() as folder:
        store, written, sizes, times = Store(folder), None, [], []
        for step in range(12):
            start = time.perf_counter()
            entry, written = replay.rows_since(written), replay.written
            position, needed = int(written.max()), int(written.min()) + 1 - replay.rows
            store.save(step, {"replay": replay.get_state()}, {}, entry, position, needed)
            times.append(time.perf_counter() - start)
            sizes.append(max(Path(folder).glob("log/*.log")).stat().st_size / 1e6)
            add_steps()
    print(
        f"\nA replay buffer of {len(replay):,} steps: {sizes[0]:.1f} MB in {times[0]:.2f} s for "
        f"the first checkpoint,\nthen {1e3 * median(sizes[1:]):.0f} kB in "
        f"{1e3 * median(times[1:]):.0f} ms for each further {steps * num_envs:,} steps."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each agent")
    parser.add_argument("--rows", type=int, default=1_000_000, help="capacity of the replay buffer")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # advice about how well the agents learn
    measure_training(args.seconds)
    measure_replay(args.rows)


if __name__ == "__main__":
    main()
