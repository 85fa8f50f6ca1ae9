"""Shared helpers: virtual environments for other libraries, and alternating processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent / ".peers"

# Pinned, so that figures of different days can be compared.
PINS = {
    "stable-baselines3": [
        "torch==2.13.0",
        "stable-baselines3==2.9.2",
        "gymnasium[classic-control]",
    ],
    "purejaxrl": ["jax==0.10.2", "gymnax==0.0.9", "flax", "optax", "distrax"],
}


def peer_python(name: str) -> str:
    """Return the Python of a library's virtual environment, which is made if it is missing."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Installing {name} into {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINS[name]], check=True)
        (folder / "complete").touch()
    return str(python)


def number_from(command: Sequence[str | Path], timeout: float = 1800) -> float:
    """Run a command in a new process, and return the number in its last line."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every side once in each round. The order alternates with the rounds.

    So a slow phase of the machine affects all sides.
    """
    found: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds):
        for side in sides if i % 2 == 0 else reversed(sides):
            found[side].append(sides[side]())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios within the rounds, with the smallest and the largest."""
    ratios = [x / y for x, y in zip(ours, theirs, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
