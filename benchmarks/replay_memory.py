"""Memory of a replay of Atari frames: what it states in advance, and what it takes when full.

The frames are random. They are drawn once and stacked by four.

    python benchmarks/replay_memory.py --capacity 1000000
"""

import argparse
import time

import numpy as np
import psutil
from gymnasium import spaces

from tfpg.core.memory import readable_bytes
from tfpg.rollouts.replay import ReplayBuffer
from tfpg.rollouts.replay_storage import bytes_needed
from tfpg.rollouts.trajectory import Trajectory

SIZE, STACK, GAMES, STEPS, EPISODE = 84, 4, 8, 128, 1024


def fragments(count: int):
    """Fragments of steps as a collector returns them, with episodes of equal length."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(EPISODE, SIZE, SIZE), dtype=np.uint8)
    zeros = np.zeros((STEPS, GAMES))
    for fragment in range(count):
        first = fragment * STEPS % EPISODE
        times = (first + np.arange(STEPS + 1)[:, None] + np.arange(1 - STACK, 1)) % EPISODE
        stacks = np.moveaxis(frames[times], 1, -1)
        observations = np.broadcast_to(stacks[:, None], (STEPS + 1, GAMES, SIZE, SIZE, STACK))
        over = np.zeros((STEPS, GAMES), bool)
        over[-1] = first + STEPS == EPISODE
        yield Trajectory(observations, zeros.astype(int), zeros, over, zeros > 0, zeros + 1, zeros)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--prioritized", action="store_true")
    args = parser.parse_args()

    space = spaces.Box(0, 255, (SIZE, SIZE, STACK), np.uint8)
    stated, _ = bytes_needed(space, args.capacity, STACK, args.prioritized)
    print(f"stated before        {readable_bytes(stated)}")
    process = psutil.Process()
    before = process.memory_info().rss
    replay = ReplayBuffer(
        space, args.capacity, GAMES, frame_stack=STACK, prioritized=args.prioritized
    )
    print(f"taken when empty     {readable_bytes(process.memory_info().rss - before)}")
    start = time.perf_counter()
    # Fill the ring, and overwrite a little of it.
    for data in fragments(int(1.02 * args.capacity) // (STEPS * GAMES) + 1):
        replay.add(data)
    seconds = time.perf_counter() - start
    print(f"taken when full      {readable_bytes(process.memory_info().rss - before)}")
    print(f"steps stored         {len(replay):,} of {args.capacity:,} rows")
    print(f"steps stored per second  {1.02 * args.capacity / seconds:,.0f}")
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(20):
        replay.sample(rng, 32)
    print(f"a batch of 32 sampled in {(time.perf_counter() - start) / 20 * 1e3:.2f} ms")
    print(f"taken after sampling {readable_bytes(process.memory_info().rss - before)}")


if __name__ == "__main__":
    main()
