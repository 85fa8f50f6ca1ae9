"""Compare the frames per second of tfpg.record and Gymnasium's RecordVideo, or measure memory.

Both record the same episodes of CartPole, played by the same function, to MP4. Every measurement
runs in its own process. Timing starts before the environment is made, and stops when the file is
complete. RecordVideo runs in its own virtual environment, because moviepy needs an older Pillow.

    python benchmarks/videos.py
    python benchmarks/videos.py --memory 100000
"""

import argparse
import resource
import sys
import tempfile
import time
from functools import partial
from statistics import median

import numpy as np
from peers import alternate, number_from, peer_python, ratio

ENV = "CartPole-v1"
STEPS = 500  # per episode

# Arguments of the process that measures each row.
ROWS = {
    "MP4, the same frames": [],
    "MP4, with the caption": ["--overlay"],
    "MP4 and GIF in one pass": ["--suffixes", ".mp4", ".gif"],
}


def balance(observations: np.ndarray) -> np.ndarray:
    """Balance the pole for the whole episode."""
    return (observations @ np.array([0.0, 0.1, 1.0, 1.0]) > 0).astype(int)


def record_with_gymnasium(episodes: int, folder: str) -> tuple[int, float]:
    """Return the number of frames and the seconds of RecordVideo."""
    import gymnasium
    from gymnasium.wrappers import RecordVideo

    start, frames = time.perf_counter(), 0
    env = gymnasium.make(ENV, render_mode="rgb_array")
    env = RecordVideo(
        env, folder, video_length=episodes * (STEPS + 1), step_trigger=lambda t: t == 0
    )
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        frames, over = frames + 1, False
        while not over:
            action = int(balance(observation[np.newaxis])[0])
            observation, _, terminated, truncated, _ = env.step(action)
            frames, over = frames + 1, terminated or truncated
    env.close()
    return frames, time.perf_counter() - start


def record_with_tfpg(
    episodes: int, folder: str, suffixes: list[str], overlay: bool
) -> tuple[int, float]:
    """Return the number of frames and the seconds of tfpg.record."""
    import keras  # noqa: F401  (tfpg imports it when it is used, which takes seconds)

    import tfpg

    record = tfpg.record
    paths = [f"{folder}/cartpole{suffix}" for suffix in suffixes]
    start = time.perf_counter()
    video = record(balance, ENV, paths, episodes, seed=0, overlay="caption" if overlay else False)
    return video.frames, time.perf_counter() - start


def measure_memory(frames: int) -> None:
    """Record a long video, and print the peak memory along the way."""
    import tfpg

    steps = 0

    def peak() -> str:
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7,.0f} MiB peak"

    def policy(observations: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        if steps in (1000, 10_000) or steps % 25_000 == 0:
            print(f"after {steps:7,} steps  {peak()}", flush=True)
        return balance(observations)

    episodes = -(-frames // (STEPS + 1))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        video = tfpg.record(policy, ENV, f"{folder}/cartpole.mp4", episodes, seed=0)
        seconds, size = time.perf_counter() - start, video.path.stat().st_size
    print(f"after {video.frames:7,} frames {peak()}")
    print(f"{video.frames / seconds:,.0f} frames/s, {size / 2**20:,.1f} MiB")


def compare(rounds: int, episodes: int) -> None:
    """Measure both sides, and print a row for each way to record."""

    def measure(python: str, side: str, options: list[str]) -> float:
        shared = ["--side", side, "--episodes", str(episodes)]
        return number_from([python, __file__, *shared, *options])

    sides = {"peer": partial(measure, peer_python("moviepy"), "peer", [])}
    sides |= {row: partial(measure, sys.executable, "tfpg", ROWS[row]) for row in ROWS}
    found = alternate(sides, rounds)
    theirs = found.pop("peer")
    print(f"{'':26}{'frames/s':>9}{'RecordVideo':>13}  ratio (smallest to largest)")
    for row, ours in found.items():
        print(f"{row:26}{median(ours):9,.0f}{median(theirs):13,.0f}  {ratio(ours, theirs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each row")
    parser.add_argument("--episodes", type=int, default=4, help="episodes of 501 frames each")
    parser.add_argument(
        "--memory", type=int, metavar="FRAMES", help="measure the memory of a video this long"
    )
    parser.add_argument("--side", choices=["tfpg", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--suffixes", nargs="+", default=[".mp4"], help=argparse.SUPPRESS)
    parser.add_argument("--overlay", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        measure_memory(args.memory)
    elif args.side:
        with tempfile.TemporaryDirectory() as folder:
            if args.side == "peer":
                frames, seconds = record_with_gymnasium(args.episodes, folder)
            else:
                frames, seconds = record_with_tfpg(
                    args.episodes, folder, args.suffixes, args.overlay
                )
        print(frames / seconds)
    else:
        compare(args.rounds, args.episodes)


if __name__ == "__main__":
    main()
