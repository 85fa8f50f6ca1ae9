"""Kill training runs at random moments, resume them, and compare the results.

Each algorithm is trained once without interruption. A second run with the same command is killed
with SIGKILL, at a random moment after it wrote its first checkpoint, and the command is run again,
until the run finishes. Further runs follow until the number of kills is reached. A checkpoint
is written after each iteration, and every other kill waits until one is half written. The last
checkpoint (weights, optimizer, target network, replay buffer, counters, callbacks, environments),
the weights of both models, and metrics.csv are then compared by their hashes: all must be equal.

    python benchmarks/kills.py               # 100 kills, about 12 minutes on two cores
    python benchmarks/kills.py --kills 6
"""

import argparse
import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np

from tfpg.agents.digests import digests
from tfpg.checkpoints.store import Store

RUNS = {
    "reinforce": ["--iterations", "60", "--episodes-per-update", "16", "--hidden", "64", "64"],
    "ppo": ["--env-steps", "20000"],
    "dqn": ["--env-steps", "6000", "--steps-per-iteration", "128", "--learning-starts", "512"],
}


def command(algorithm: str, run: Path) -> list[str]:
    """Return the command that trains, and that resumes if the run exists."""
    tfpg = [sys.executable, "-m", "tfpg", "train", algorithm, "CartPole-v1", "--seed", "1"]
    tfpg += ["--no-video", "--verbose", "0", "--checkpoint-every", "0"]
    return [*tfpg, "--run", str(run), *RUNS[algorithm]]


def hashes(run: Path) -> dict[str, str]:
    """Return the hashes of everything in a finished run."""
    found = digests(run / "checkpoints")
    del found["MetricsLogger"]  # the length of metrics.csv
    found["metrics.csv"] = hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest()
    for name in ("model.keras", "last.keras"):
        with zipfile.ZipFile(run / name) as file:
            found[name] = hashlib.sha256(arrays(file.read("model.weights.h5"))).hexdigest()
    return found


def arrays(data: bytes) -> bytes:
    """Return all arrays of an HDF5 file, without its dates."""
    parts: list[bytes] = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            parts.append(name.encode() + np.asarray(item).tobytes())

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(visit)
    return b"".join(sorted(parts))


def has_new_checkpoint(run: Path, process: subprocess.Popen) -> bool:
    """Wait for a checkpoint of the process, and return False if it ends without one."""
    store = Store(run / "checkpoints")
    before = store.steps()[-1:]
    while process.poll() is None:
        if store.steps()[-1:] > before:
            return True
        time.sleep(0.002)
    return False


def is_writing(run: Path) -> bool:
    """Return whether a checkpoint is half written."""
    return any((run / "checkpoints").rglob("*.tmp-*"))


def wait_until_writing(run: Path, process: subprocess.Popen) -> None:
    """Wait until a checkpoint is being written, or the process has ended."""
    while process.poll() is None and not is_writing(run):
        pass


def is_finished(run: Path) -> bool:
    """Return whether a run is finished, even if its process was killed after that."""
    config = run / "config.json"
    return config.exists() and bool(json.loads(config.read_text()).get("finished"))


def kill_runs(algorithm: str, folder: Path, count: int, rng: random.Random, within: float) -> int:
    """Kill and resume runs, print a row, and return how many finished with a different result."""
    uninterrupted, run = folder / f"{algorithm}-uninterrupted", folder / f"{algorithm}-killed"
    subprocess.run(command(algorithm, uninterrupted), check=True, stdout=subprocess.DEVNULL)
    expected = hashes(uninterrupted)
    kills = while_writing = finished = failed = 0
    while kills < count or run.exists():
        may_kill = kills < count
        process = subprocess.Popen(
            command(algorithm, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if may_kill and has_new_checkpoint(run, process):
            time.sleep(rng.uniform(0.0, within))
            if kills % 2:
                wait_until_writing(run, process)
            process.kill()
        _, errors = process.communicate()
        if may_kill and process.returncode == -signal.SIGKILL:
            kills += 1
            while_writing += is_writing(run)
        elif not is_finished(run):
            sys.exit(f"{algorithm} did not resume after {kills} kills:\n{errors[-2000:]}")
        if is_finished(run):
            finished += 1
            found = hashes(run)
            different = [name for name in expected if found[name] != expected[name]]
            if different:
                failed += 1
                print(f"{algorithm}: {', '.join(different)} differ after {kills} kills")
            shutil.rmtree(run)
    print(
        f"{algorithm:10} {kills} kills, {while_writing} while a checkpoint was written; "
        f"{finished} runs finished; model {expected['model'][:16]}",
        flush=True,
    )
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills, all together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--within", type=float, default=1.0, help="seconds after a checkpoint")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for i, algorithm in enumerate(RUNS):
            count = args.kills * (i + 1) // len(RUNS) - args.kills * i // len(RUNS)
            failed += kill_runs(algorithm, Path(folder), count, rng, args.within)
    sys.exit(f"{failed} runs differ" if failed else 0)


if __name__ == "__main__":
    main()
