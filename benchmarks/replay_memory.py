"""Compare the announced and the used memory of a replay buffer of Atari frames.

The frames are random, drawn once, and stacked by four.

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


def make_trajectories(count: int):
    """Yield steps as a collector returns them, from episodes of equal length."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(EPISODE, SIZE, SIZE), dtype=np.uint8)
    zeros = np.zeros((STEPS, GAMES))
    for number in range(count):
        first = number * STEPS % EPISODE
        times = (first + np.arange(STEPS + 1)[:, None] + np.arange(1 - STACK, 1)) % EPISODE
        stacks = np.moveaxis(frames[times], 1, -1)
        terminated = np.zeros((STEPS, GAMES), bool)
        terminated[-1] = first + STEPS == EPISODE
        yield Trajectory(
            observations=np.broadcast_to(stacks[:, None], (STEPS + 1, GAMES, SIZE, SIZE, STACK)),
            actions=zeros.astype(int),
            rewards=zeros,
            terminated=terminated,
            truncated=zeros.astype(bool),
            mask=zeros + 1,
            log_probs=zeros,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capacity", type=int, default=1_000_000, help="rows of the replay buffer")
    parser.add_argument("--prioritized", action="store_true", help="sample by errors")
    args = parser.parse_args()

    space = spaces.Box(0, 255, (SIZE, SIZE, STACK), np.uint8)
    announced, _ = bytes_needed(space, args.capacity, STACK, args.prioritized)
    print(f"announced            {readable_bytes(announced)}")
    process = psutil.Process()
    before = process.memory_info().rss

    def print_used(when: str) -> None:
        print(f"used {when:16}{readable_bytes(process.memory_info().rss - before)}")

    replay = ReplayBuffer(
        space, args.capacity, GAMES, frame_stack=STACK, prioritized=args.prioritized
    )
    print_used("when empty")
    start = time.perf_counter()
    # Fill the ring, and overwrite a little of it.
    for data in make_trajectories(int(1.02 * args.capacity) // (STEPS * GAMES) + 1):
        replay.add(data)
    seconds = time.perf_counter() - start
    print_used("when full")
    print(f"steps stored         {len(replay):,} of {args.capacity:,} rows")
    print(f"steps stored per second  {1.02 * args.capacity / seconds:,.0f}")
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(20):
        replay.sample(rng, 32)
    milliseconds = 1e3 * (time.perf_counter() - start) / 20
    print(f"a batch of 32 sampled in {milliseconds:.2f} ms")
    print_used("after sampling")


if __name__ == "__main__":
    main()
