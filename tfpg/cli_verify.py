"""The command ``tfpg verify-resume``: that a killed training comes back bit for bit, shown."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tfpg import runs
from tfpg.errors import exit_words
from tfpg.resuming import Checkpoints
from tfpg.resuming.compare import digests
from tfpg.startup import check_env


def verify_resume(args: argparse.Namespace) -> int:
    """``tfpg verify-resume ENV ALGORITHM``; 0 if nothing differs, else 1."""
    check_env(args.env)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        train = ["train", args.algorithm, args.env, "--seed", str(args.seed or 0), "--no-film"]
        train += ["--iterations", str(args.iterations), "--verbose", "0", "--run"]
        said = _run([*train, str(whole)], whole)
        kills = 0
        while kills < args.kills and _killed([*train, str(killed)], killed, kills):
            kills += 1
        if not kills:
            raise RuntimeError(
                f"{args.iterations} iterations came to their end before they could be killed, "
                "which shows nothing: use more --iterations."
            )
        if not (killed / runs.LAST).exists():
            said = _run(["resume", str(killed), "--verbose", "0"], killed)
        parts = {name: _parts(run) for name, run in (("whole", whole), ("killed", killed))}
    names = {**parts["whole"], **parts["killed"]}
    rows = [(name, *(parts[run].get(name, "missing") for run in parts)) for name in names]
    same = all(a == b for _, a, b in rows)
    if args.json:
        told = {name: {"whole": a, "killed": b} for name, a, b in rows}
        print(json.dumps({"same": same, "kills": kills, "parts": told}))
        return int(not same)
    for name, a, b in rows:
        print(f"{name:18}{a[:16]}  {'the same' if a == b else b[:16] + '  differs'}")
    outcome = "equal, bit for bit, to" if same else "NOT equal to"
    print(
        f"{args.algorithm} on {args.env}, {args.iterations} iterations, killed {kills} "
        f"time{'s' * (kills > 1)}: "
        f"{outcome} one that was not killed."
    )
    if said.strip():
        print(said.strip(), file=sys.stderr)
    return int(not same)


@contextmanager
def _started(arguments: list[str], run: Path) -> Iterator[subprocess.Popen]:
    """A command in a process that does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpg", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    except BaseException:
        if process.returncode is None:
            process.kill()
            process.communicate()
        checkpoints = Checkpoints(run / runs.CHECKPOINTS)
        with suppress(OSError):
            checkpoints.claim()  # waits for what still writes there
        checkpoints.close()
        raise


def _run(arguments: list[str], run: Path) -> str:
    """What a command that comes to its end says."""
    with _started(arguments, run) as process:
        return _said(process)


def _said(process: subprocess.Popen) -> str:
    errors = process.communicate()[1]
    if process.returncode:
        kind = FloatingPointError if process.returncode == 3 else RuntimeError
        text = errors.strip().removeprefix("tfpg: error: ")
        raise kind(text or f"The training died {exit_words(process.returncode)}.")
    return errors


def _killed(arguments: list[str], run: Path, kills: int) -> bool:
    """Whether a training was killed after a checkpoint of its own, before it came to its end."""
    pointer = run / runs.CHECKPOINTS / "latest"
    before = pointer.stat().st_mtime_ns if pointer.exists() else 0
    with _started(arguments, run) as process:
        while process.poll() is None:
            if pointer.exists() and pointer.stat().st_mtime_ns > before:
                time.sleep(0.01 * kills)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                return True
            time.sleep(0.002)
        _said(process)
    return False


def _parts(run: Path) -> dict[str, Any]:
    text = (run / runs.METRICS).read_bytes()
    own = {"metrics.csv": hashlib.sha256(text).hexdigest()}
    kept = digests(run / runs.CHECKPOINTS)
    # Their files' places are in them.
    return {name: kept[name] for name in kept if name not in ("MetricsLogger", "Counter")} | own
