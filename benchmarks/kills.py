"""Kill trainings at random moments, resume them, and compare the results.

A run of each algorithm is trained without a stop. Another one with the same command is killed with
SIGKILL, at a random moment after it has written its first checkpoint, and the command is given
again, until it is finished; and so on with further runs until there were as many kills as asked
for. Checkpoints are written after each iteration, and every other kill waits until one is half
written. By hash, everything must be equal: weights, optimizer, target network, replay, counts,
callbacks and environments in the last checkpoint, both models' weights, and metrics.csv.

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
    """The training, which resumes if the run exists."""
    tfpg = [sys.executable, "-m", "tfpg", "train", algorithm, "CartPole-v1", "--seed", "1"]
    tfpg += ["--no-video", "--verbose", "0", "--checkpoint-every", "0"]
    return [*tfpg, "--run", str(run), *RUNS[algorithm]]


def outcome(run: Path) -> dict[str, str]:
    """Hashes of everything in a finished run."""
    found = digests(run / "checkpoints")
    del found["MetricsLogger"]  # the length of metrics.csv
    found["metrics.csv"] = hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest()
    for name in ("model.keras", "last.keras"):
        with zipfile.ZipFile(run / name) as file:
            found[name] = hashlib.sha256(weights(file.read("model.weights.h5"))).hexdigest()
    return found


def weights(data: bytes) -> bytes:
    """All arrays of an HDF5 file, without its dates."""
    parts: list[bytes] = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            parts.append(name.encode() + np.asarray(item).tobytes())

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(visit)
    return b"".join(sorted(parts))


def has_new_checkpoint(run: Path, process: subprocess.Popen) -> bool:
    """Wait for a checkpoint of this process; False if it ended before."""
    store = Store(run / "checkpoints")
    before = store.steps()[-1:]
    while process.poll() is None:
        if store.steps()[-1:] > before:
            return True
        time.sleep(0.002)
    return False


def is_writing(run: Path) -> bool:
    """Whether a checkpoint is half written."""
    return any((run / "checkpoints").rglob("*.tmp-*"))


def wait_for_writing(run: Path, process: subprocess.Popen) -> None:
    """Wait until a checkpoint is being written, or the process has ended."""
    while process.poll() is None and not is_writing(run):
        pass


def is_finished(run: Path) -> bool:
    """Whether a run is finished, even if its process was killed after that."""
    config = run / "config.json"
    return config.exists() and bool(json.loads(config.read_text()).get("finished"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--within", type=float, default=1.0, help="seconds after a checkpoint")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for i, algorithm in enumerate(RUNS):
            whole = Path(folder) / f"{algorithm}-whole"
            subprocess.run(command(algorithm, whole), check=True, stdout=subprocess.DEVNULL)
            wanted = outcome(whole)
            kills = writing = finished = 0
            share = args.kills * (i + 1) // len(RUNS) - args.kills * i // len(RUNS)
            run = Path(folder) / f"{algorithm}-killed"
            while kills < share or run.exists():
                process = subprocess.Popen(
                    command(algorithm, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                if kills < share and has_new_checkpoint(run, process):
                    time.sleep(rng.uniform(0.0, args.within))
                    if kills % 2:
                        wait_for_writing(run, process)
                    process.kill()
                    process.communicate()
                    if process.returncode == -signal.SIGKILL:
                        kills += 1
                        writing += is_writing(run)
                        if not is_finished(run):
                            continue
                errors = (process.stderr.read() if not process.stderr.closed else b"").decode()
                process.wait()
                if process.returncode and not is_finished(run):
                    sys.exit(f"{algorithm} did not resume after {kills} kills:\n{errors[-2000:]}")
                finished += 1
                found = outcome(run)
                different = [name for name in wanted if found[name] != wanted[name]]
                failed += bool(different)
                if different:
                    print(f"{algorithm}: {', '.join(different)} differ after {kills} kills")
                shutil.rmtree(run)
            print(
                f"{algorithm:10} {kills} kills, {writing} while a checkpoint was written; "
                f"{finished} runs finished; model {wanted['model'][:16]}",
                flush=True,
            )
    sys.exit(f"{failed} runs differ" if failed else 0)


if __name__ == "__main__":
    main()
