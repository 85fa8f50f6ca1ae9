"""Updates of tfpg.DQN per second on every device that TensorFlow shows, and what surrounds them.

Of a network, a batch size and a number of updates in one call: updates per second as the agent
makes them (drawn from the replay, moved to the device, `DQN.learn_from`), transitions learned from
per second, the megabytes that an update moves to the device, and the milliseconds of it that
drawing its transitions takes. Images are kept in the machine's memory ("host"), or on the device.
The first call, which compiles, is told and not counted. Transitions are synthetic, of CartPole's
and of Atari's shape.

    python benchmarks/dqn_device.py
    python benchmarks/dqn_device.py --small    # a row of each network, briefly: for a CPU
"""

import argparse
import time
from itertools import product
from statistics import median

import gymnasium
import numpy as np
from gymnasium import spaces

# Network, hidden layers of an mlp, batch size, updates in one call.
ROWS = [
    *(("mlp 64-64", (64, 64), 32, updates) for updates in (1, 8, 32, 128)),
    *(("mlp 256-256", (256, 256), 64, updates) for updates in (1, 8, 32, 128)),
    *(("nature_cnn", None, 32, updates) for updates in (1, 8, 32)),
    *(("nature_cnn", None, 256, updates) for updates in (1, 8, 32)),
]
SMALL = [
    ("mlp 64-64", (64, 64), 32, 32),
    ("mlp 256-256", (256, 256), 64, 32),
    ("nature_cnn", None, 32, 1),
    ("nature_cnn", None, 32, 8),
]
PRECISIONS = ("float32", "mixed_bfloat16")


class OnlySpaces(gymnasium.Env):
    """What a network is made for; nobody plays in it."""

    def __init__(self, images: bool):
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        if images:
            self.observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
            self.action_space = spaces.Discrete(6)


def make_replay(env: gymnasium.Env, rows: int, rng: np.random.Generator, device: str | None):
    """A replay that is full of steps nobody played."""
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


def repeated(call, seconds: float) -> float:
    """Median seconds of a call that is repeated for so long, three times or more."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(device, row, replay, env, seconds: float) -> dict[str, float]:
    """Of one row of the table, in the precision that Keras is set to."""
    import keras
    import tensorflow as tf

    import tfpg

    _, hidden, batch_size, updates = row
    rng = np.random.default_rng(0)
    count = updates * batch_size

    def draw():
        drawn = replay.sample(rng, count, batch_size)
        if tf.is_tensor(drawn.observations):  # work on a device goes on behind the call
            drawn.observations[-1, -1, -1, -1].numpy()
            drawn.next_observations[-1, -1, -1, -1].numpy()
        return drawn

    transitions = draw()
    rows = 4 if hidden is None else 1  # of which an observation is made
    moved = sum(8 * rows * count if tf.is_tensor(x) else x.nbytes for x in transitions) / updates
    sampling = repeated(draw, seconds / 4) / updates
    with tf.device(device.name):
        if hidden is None:
            model = tfpg.networks.nature_cnn(env, seed=0)
        else:
            model = tfpg.networks.mlp(env, hidden=hidden, activation="relu", seed=0)
        # So that synthetic rewards lead nowhere, however long it takes.
        model.compile(optimizer=keras.optimizers.Adam(1e-5, global_clipnorm=10.0))
        # What "auto" is without a GPU, on the CPU of a machine that has one.
        jit = False if hidden is None and device.device_type == "CPU" else "auto"
        agent = tfpg.DQN(model, batch_size=batch_size, updates_per_learn=updates, jit_compile=jit)
        agent.prepare(agent.policy_for(env))
        start = time.perf_counter()
        agent.learn_from(transitions)
        first = time.perf_counter() - start
        agent.learn_from(transitions)
        call = repeated(lambda: agent.learn_from(replay.sample(rng, count, batch_size)), seconds)
    return {"rate": updates / call, "moved": moved / 1e6, "sampling": sampling, "first": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few rows, each briefly")
    parser.add_argument("--seconds", type=float, help="of each row (default: 2, small 0.3)")
    parser.add_argument("--rows", type=int, help="of the replay (default: 20,000, small 2,000)")
    parser.add_argument("--device", choices=["CPU", "GPU"], help="only this kind")
    parser.add_argument("--network", choices=["mlp", "nature_cnn"], help="only this kind")
    args = parser.parse_args()
    seconds = args.seconds or (0.3 if args.small else 2.0)
    capacity = max(1000, args.rows or (2000 if args.small else 20_000))

    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    envs = {images: OnlySpaces(images) for images in (False, True)}
    print(
        f"{'device':8}{'network':>13}{'images':>8}{'batch':>7}{'per call':>10}  {'precision':16}"
        f"{'updates/s':>11}{'frames/s':>12}{'MB/update':>11}{'sampling ms':>13}{'first s':>9}"
    )
    for device in tf.config.list_logical_devices():
        if device.device_type not in ([args.device] if args.device else ["CPU", "GPU"]):
            continue
        short = ":".join(device.name.split(":")[-2:])
        # On a CPU both places are one memory.
        places = [None] if device.device_type == "CPU" else [None, short]
        replays = {(False, None): make_replay(envs[False], capacity, rng, None)}
        replays |= {
            (True, place): make_replay(envs[True], capacity, rng, place) for place in places
        }
        for row in SMALL if args.small else ROWS:
            name, hidden, batch_size, updates = row
            images = hidden is None
            if args.network and not name.startswith(args.network):
                continue
            for precision, place in product(PRECISIONS, places if images else [None]):
                keras.config.set_dtype_policy(precision)
                found = measure(device, row, replays[images, place], envs[images], seconds)
                kept = ("host" if place is None else "device") if images else ""
                print(
                    f"{short:8}{name:>13}{kept:>8}{batch_size:7}{updates:10}  {precision:16}"
                    f"{found['rate']:11,.1f}{found['rate'] * batch_size:12,.0f}"
                    f"{found['moved']:11,.3f}{1e3 * found['sampling']:13,.3f}"
                    f"{found['first']:9,.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
