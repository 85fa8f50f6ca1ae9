"""Compare tfpg.record with Gymnasium's RecordVideo in frames per second, and measure memory.

Both record the same episodes of CartPole to MP4, played by the same function, each in a process of
its own, in alternating pairs. The time runs from the first reset until the file is complete.
RecordVideo runs in a virtual environment of its own, because moviepy needs an older Pillow.

    python benchmarks/videos.py --peer-python peer/bin/python
    python benchmarks/videos.py --memory 100000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

HOW_TO = """RecordVideo needs a virtual environment of its own. Create it:
    python -m venv peer
    peer/bin/pip install 'gymnasium[classic-control]==1.4.0' moviepy
and pass its Python: --peer-python peer/bin/python"""

ENV = "CartPole-v1"
STEPS = 500  # per episode


def balance(observations: np.ndarray) -> np.ndarray:
    """Balance the pole for the whole episode."""
    return (observations @ np.array([0.0, 0.1, 1.0, 1.0]) > 0).astype(int)


def record_with_gymnasium(episodes: int, folder: str) -> tuple[int, float]:
    """Return the frames and seconds of RecordVideo."""
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


def record_with_tfpg(episodes: int, folder: str, suffixes: str, overlay: bool) -> tuple[int, float]:
    """Return the frames and seconds of tfpg.record."""
    from tfpg.video.record import record

    paths = [f"{folder}/cartpole{suffix}" for suffix in suffixes.split()]
    start = time.perf_counter()
    overlays = "caption" if overlay else False
    video = record(balance, ENV, paths, episodes, seed=0, overlay=overlays)
    return video.frames, time.perf_counter() - start


def run(python: str, *args: str) -> float:
    """Return the frames per second measured in a process of its own."""
    done = subprocess.run(
        [python, __file__, *args], capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode:
        sys.exit(f"{args} failed:\n{done.stderr[-2000:]}")
    frames, seconds = json.loads(done.stdout.splitlines()[-1])
    return frames / seconds


def ready(peer: str | None) -> bool:
    """Return whether that Python has Gymnasium and moviepy."""
    if peer is None or not Path(peer).exists():
        return False
    check = [peer, "-c", "import moviepy, gymnasium.envs.classic_control"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def memory(frames: int) -> None:
    """Record a number of frames and print the peak memory on the way."""
    from tfpg.video.record import record

    episodes = -(-frames // (STEPS + 1))
    steps = 0

    def watched(observations: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        if steps in (1000, 10_000) or steps % 25_000 == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"after {steps:7,} steps  {peak:7,.0f} MiB peak", flush=True)
        return balance(observations)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        video = record(watched, ENV, f"{folder}/cartpole.mp4", episodes, seed=0)
        seconds, size = time.perf_counter() - start, video.path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"after {video.frames:7,} frames {peak:7,.0f} MiB peak")
    print(f"{video.frames / seconds:,.0f} frames/s, {size / 2**20:,.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python with gymnasium and moviepy")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=4, help="episodes of 501 frames each")
    parser.add_argument(
        "--memory", type=int, metavar="FRAMES", help="length of a video whose memory to measure"
    )
    parser.add_argument("--side", choices=["tfpg", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--suffixes", default=".mp4", help=argparse.SUPPRESS)
    parser.add_argument("--overlay", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory(args.memory)
        return
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            if args.side == "peer":
                print(json.dumps(record_with_gymnasium(args.episodes, folder)))
            else:
                print(
                    json.dumps(record_with_tfpg(args.episodes, folder, args.suffixes, args.overlay))
                )
        return
    if not ready(args.peer_python):
        sys.exit(HOW_TO)
    rows = {
        "MP4, the same frames": [],
        "MP4, with the caption": ["--overlay"],
        "MP4 and GIF in one pass": ["--suffixes", ".mp4 .gif"],
    }
    peers, found = [], {row: [] for row in rows}
    episodes = ["--episodes", str(args.episodes)]
    for pair in range(args.pairs):
        order = [None, *rows] if pair % 2 == 0 else [*reversed(rows), None]
        for row in order:
            if row is None:
                peers.append(run(args.peer_python, "--side", "peer", *episodes))
            else:
                found[row].append(run(sys.executable, "--side", "tfpg", *episodes, *rows[row]))
    print(f"{'':26}{'frames/s':>9}{'RecordVideo':>13}  ratio (min to max)")
    for row, speeds in found.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds, peers, strict=True)]
        print(
            f"{row:26}{median(speeds):9,.0f}{median(peers):13,.0f}"
            f"  {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
