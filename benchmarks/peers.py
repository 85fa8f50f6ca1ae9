"""Shared helpers: virtual environments for other libraries, and alternating processes."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

FOLDER = Path(__file__).parent / ".peers"

# Pinned, so that figures of different days can be compared.
PINS = {
    "stable-baselines3": [
        "torch==2.13.0",
        "stable-baselines3==2.9.2",
        "gymnasium[classic-control,mujoco]",
    ],
    "purejaxrl": ["jax==0.10.2", "gymnax==0.0.9", "flax", "optax", "distrax"],
    "tf-agents": [
        *("tf-agents==0.19.0", "tensorflow-cpu==2.15.1", "tf-keras==2.15.1", "gym==0.23.0"),
        *("pygame", "numpy<2", "setuptools<80"),
    ],
    "moviepy": ["gymnasium[classic-control]==1.4.0", "moviepy"],
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


def compare(
    doc: str,
    script: str,
    sides: Mapping[str, Callable[[str], float]],
    settings: Collection[str],
    peer: str | None,
    title: str,
) -> None:
    """The command line of a script that compares the speed of tfpg with a peer's.

    Args:
        doc: The script's docstring.
        script: The path of the script, which is run again for every measurement.
        sides: Functions from the name of a setting to a speed: ``"tfpg"``, ``"peer"``, and limits
            of tfpg on this machine.
        settings: The names of the settings, one for each row.
        peer: The name of the peer in `PINS`. None: it runs in this environment.
        title: The name of the peer in the table.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--only", help="settings whose name contains this")
    parser.add_argument("--side", choices=list(sides), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(sides[args.side](args.only))
        return
    pythons = dict.fromkeys(sides, sys.executable)
    if peer is not None:
        pythons["peer"] = peer_python(peer)
    limits = [side for side in sides if side not in ("tfpg", "peer")]
    width = 2 + max(map(len, settings))
    head = f"{'setting':{width}}{'tfpg/s':>10}{title + '/s':>13}  {'ratio':22}"
    print(head + "".join(f"{limit + '/s':>16}" for limit in limits))
    for name in (name for name in settings if (args.only or "") in name):
        calls = {
            side: lambda side=side, name=name: number_from(
                [pythons[side], script, "--side", side, "--only", name]
            )
            for side in sides
        }
        found = alternate(calls, args.rounds)
        ours, theirs = found["tfpg"], found["peer"]
        row = f"{name:{width}}{median(ours):10,.0f}{median(theirs):13,.0f}"
        row += f"  {ratio(ours, theirs):22}"
        print(row + "".join(f"{median(found[x]):16,.0f}" for x in limits), flush=True)


def env_steps_per_second(env_id: str, num_envs: int, steps: int) -> float:
    """Return the steps per second of tfpg's vector environments alone, with random actions."""
    from tfpg.envs import open_vec
    from tfpg.rollouts.loop import only_step

    with open_vec(env_id, num_envs) as envs:
        rng = np.random.default_rng(0)
        space = envs.single_action_space
        if hasattr(space, "n"):
            actions = rng.integers(space.n, size=(100, num_envs))
        else:
            actions = rng.uniform(space.low, space.high, size=(100, num_envs, *space.shape))
        envs.reset(seed=0)
        start = time.perf_counter()
        only_step(envs, actions, steps // num_envs)
    return steps / (time.perf_counter() - start)
