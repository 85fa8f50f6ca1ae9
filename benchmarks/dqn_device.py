"""Measure the updates per second of tfpg.DQN on each device that TensorFlow sees.

Prints a row for each network, batch size and number of updates in a call: updates per second as the
agent makes them (sample, transfer to the device, `DQN.learn_from`), transitions per second,
megabytes that an update transfers to the device, and milliseconds that an update spends on
sampling. The replay buffer stores images in main memory ("host") or on the device. The first call
compiles; its seconds have a column of their own, and do not count in the others. Transitions are
synthetic, with the shapes of CartPole and Atari.

    python benchmarks/dqn_device.py
    python benchmarks/dqn_device.py --small    # a few rows, each briefly: for a CPU
"""

import argparse
import time
from itertools import product
from statistics import median
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces


class Row(NamedTuple):
    """The settings of a row of the table."""

    hidden: tuple[int, ...] | None  # of an mlp; None: nature_cnn
    batch_size: int
    updates: int  # in one call

    @property
    def images(self) -> bool:
        return self.hidden is None

    @property
    def network(self) -> str:
        return "nature_cnn" if self.hidden is None else f"mlp {'-'.join(map(str, self.hidden))}"


ROWS = [
    *(Row((64, 64), 32, updates) for updates in (1, 8, 32, 128)),
    *(Row((256, 256), 64, updates) for updates in (1, 8, 32, 128)),
    *(Row(None, 32, updates) for updates in (1, 8, 32)),
    *(Row(None, 256, updates) for updates in (1, 8, 32)),
]
SMALL = [Row((64, 64), 32, 32), Row((256, 256), 64, 32), Row(None, 32, 1), Row(None, 32, 8)]
PRECISIONS = ("float32", "mixed_bfloat16")


class SpacesOnly(gymnasium.Env):
    """Spaces to make a network for. Nothing is played."""

    def __init__(self, images: bool):
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        if images:
            self.observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
            self.action_space = spaces.Discrete(6)


def make_replay(env: gymnasium.Env, rows: int, rng: np.random.Generator, device: str | None):
    """Return a replay buffer full of random steps."""
    from tfpg.rollouts.replay import ReplayBuffer
    from tfpg.rollouts.trajectory import Trajectory

    space, steps = env.observation_space, 500
    images = space.dtype == np.uint8
    replay = ReplayBuffer(space, rows, frame_stack=4 if images else None, device=device)
    shape = (steps + 1, 1, *space.shape)
    if images:
        observations = rng.integers(256, size=shape, dtype=np.uint8)
    else:
        observations = rng.uniform(-1.0, 1.0, size=shape).astype(np.float32)
    ends = np.arange(1, steps + 1)[:, None] == steps
    data = Trajectory(
        observations=observations,
        actions=rng.integers(env.action_space.n, size=(steps, 1)),
        rewards=rng.normal(size=(steps, 1)),
        terminated=ends,
        truncated=np.zeros_like(ends),
        mask=np.ones((steps, 1)),
        log_probs=np.zeros((steps, 1), np.float32),
    )
    for _ in range(rows // steps):
        replay.add(data)
    return replay


def median_seconds(call, seconds: float) -> float:
    """Return the median time of a call that is repeated for some seconds, at least three times."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(device, row: Row, replay, env: gymnasium.Env, seconds: float) -> dict[str, float]:
    """Return the numbers of a row, in the precision that Keras is set to."""
    import keras
    import tensorflow as tf

    import tfpg

    rng = np.random.default_rng(0)
    count = row.updates * row.batch_size

    def sample():
        transitions = replay.sample(rng, count, row.batch_size)
        if tf.is_tensor(transitions.observations):  # wait: devices work asynchronously
            transitions.observations[-1, -1, -1, -1].numpy()
            transitions.next_observations[-1, -1, -1, -1].numpy()
        return transitions

    transitions = sample()
    # Of observations on the device, only the row numbers of their frames are transferred.
    row_numbers = 8 * count * (4 if row.images else 1)
    transferred = sum(row_numbers if tf.is_tensor(x) else x.nbytes for x in transitions)
    sampling = median_seconds(sample, seconds / 4)
    with tf.device(device.name):
        if row.images:
            model = tfpg.networks.nature_cnn(env, seed=0)
        else:
            model = tfpg.networks.mlp(env, hidden=row.hidden, activation="relu", seed=0)
        # A small learning rate, so that random rewards do not make the weights diverge.
        model.compile(optimizer=keras.optimizers.Adam(1e-5, global_clipnorm=10.0))
        # "auto" would take XLA for convolutions on the CPU of a machine that has a GPU.
        jit = False if row.images and device.device_type == "CPU" else "auto"
        agent = tfpg.DQN(
            model,
            batch_size=row.batch_size,
            updates_per_learn=row.updates,
            target_update_period=128,
            jit_compile=jit,
        )
        agent.prepare(agent.policy_for(env))
        start = time.perf_counter()
        agent.learn_from(transitions)
        first = time.perf_counter() - start
        agent.learn_from(transitions)
        call = median_seconds(
            lambda: agent.learn_from(replay.sample(rng, count, row.batch_size)), seconds
        )
    return {
        "updates": row.updates / call,
        "transitions": count / call,
        "megabytes": transferred / row.updates / 1e6,
        "sampling": 1e3 * sampling / row.updates,
        "first": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few rows, each briefly")
    parser.add_argument("--seconds", type=float, help="time of each row (default: 2, or 0.3)")
    parser.add_argument(
        "--rows", type=int, help="rows of the replay buffer (default: 20,000, or 2,000)"
    )
    parser.add_argument("--device", choices=["CPU", "GPU"], help="only devices of this type")
    parser.add_argument("--network", choices=["mlp", "nature_cnn"], help="only this network")
    args = parser.parse_args()
    seconds = args.seconds or (0.3 if args.small else 2.0)
    capacity = max(1000, args.rows or (2000 if args.small else 20_000))

    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    envs = {images: SpacesOnly(images) for images in (False, True)}
    print(
        f"{'device':8}{'network':>13}{'images':>8}{'batch':>7}{'per call':>10}  {'precision':16}"
        f"{'updates/s':>11}{'transitions/s':>15}{'MB/update':>11}{'sampling ms':>13}{'first s':>9}"
    )
    for device in tf.config.list_logical_devices():
        kind = device.device_type
        if kind not in ([args.device] if args.device else ["CPU", "GPU"]):
            continue
        name = ":".join(device.name.split(":")[-2:])
        # Where images are kept. On a CPU, both places are the same memory.
        places = {"host": None} if kind == "CPU" else {"host": None, "device": name}
        replays = {place: make_replay(envs[True], capacity, rng, places[place]) for place in places}
        replays[""] = make_replay(envs[False], capacity, rng, None)
        for row in SMALL if args.small else ROWS:
            if args.network and not row.network.startswith(args.network):
                continue
            for precision, place in product(PRECISIONS, places if row.images else [""]):
                keras.config.set_dtype_policy(precision)
                found = measure(device, row, replays[place], envs[row.images], seconds)
                print(
                    f"{name:8}{row.network:>13}{place:>8}{row.batch_size:7}{row.updates:10}"
                    f"  {precision:16}{found['updates']:11,.1f}{found['transitions']:15,.0f}"
                    f"{found['megabytes']:11,.3f}{found['sampling']:13,.3f}{found['first']:9,.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
