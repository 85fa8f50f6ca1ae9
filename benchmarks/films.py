"""Frames per second of tfpg.record beside Gymnasium's RecordVideo, and the memory of a long film.

Both film the same episodes of CartPole to MP4, played by the same few lines, each in a process of
its own, in pairs that alternate; the clock runs from the first reset until the file is there.
RecordVideo is measured in an environment of its own, because moviepy asks for an older Pillow.

    python benchmarks/films.py --peer-python peer/bin/python
    python benchmarks/films.py --memory 100000
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

HOW_TO = """RecordVideo is measured in a virtual environment of its own. To make one:
    python -m venv peer
    peer/bin/pip install 'gymnasium[classic-control]==1.4.0' moviepy
and give its Python: --peer-python peer/bin/python"""

ENV = "CartPole-v1"
STEPS = 500  # of an episode


def balance(observations: np.ndarray) -> np.ndarray:
    """Pushes the cart where the pole falls: it does not."""
    return (observations @ np.array([0.0, 0.1, 1.0, 1.0]) > 0).astype(int)


def film_of_peer(episodes: int, folder: str) -> tuple[int, float]:
    """Frames and seconds of RecordVideo."""
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


def film_of_tfpg(episodes: int, folder: str, suffixes: str, overlay: bool) -> tuple[int, float]:
    """Frames and seconds of tfpg.record."""
    from tfpg.video.record import record

    paths = [f"{folder}/film{suffix}" for suffix in suffixes.split()]
    start = time.perf_counter()
    film = record(balance, ENV, paths, episodes, seed=0, overlay="caption" if overlay else False)
    return film.frames, time.perf_counter() - start


def run(python: str, *args: str) -> float:
    """Frames per second that a process of its own measures."""
    done = subprocess.run(
        [python, __file__, *args], capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode:
        sys.exit(f"{args} failed:\n{done.stderr[-2000:]}")
    frames, seconds = json.loads(done.stdout.splitlines()[-1])
    return frames / seconds


def ready(peer: str | None) -> bool:
    """Whether that Python has what is measured."""
    if peer is None or not Path(peer).exists():
        return False
    check = [peer, "-c", "import moviepy, gymnasium.envs.classic_control"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def memory(frames: int) -> None:
    """Films so many frames and prints the highest memory on the way."""
    from tfpg.video.record import record

    episodes = -(-frames // (STEPS + 1))
    steps = 0

    def watched(observations: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        if steps in (1000, 10_000) or steps % 25_000 == 0:
            highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"after {steps:7,} steps  {highest:7,.0f} MiB at most", flush=True)
        return balance(observations)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        film = record(watched, ENV, f"{folder}/film.mp4", episodes, seed=0)
        seconds, size = time.perf_counter() - start, film.path.stat().st_size
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"after {film.frames:7,} frames {highest:7,.0f} MiB at most")
    print(f"{film.frames / seconds:,.0f} frames/s, {size / 2**20:,.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python with gymnasium and moviepy")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=4, help="of 501 frames each")
    parser.add_argument("--memory", type=int, metavar="FRAMES", help="of one film so long")
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
                print(json.dumps(film_of_peer(args.episodes, folder)))
            else:
                print(json.dumps(film_of_tfpg(args.episodes, folder, args.suffixes, args.overlay)))
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
