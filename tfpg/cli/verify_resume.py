"""The command ``tfpg verify-resume``: that a killed training comes back bit for bit, shown."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tfpg.agents.digests import digests
from tfpg.checkpoints.store import Store
from tfpg.cli import runs
from tfpg.cli.startup import check_env
from tfpg.core.messages import describe_exit


def verify_resume(args: argparse.Namespace) -> int:
    """``tfpg verify-resume ENV ALGORITHM``; 0 if nothing differs, else 1."""
    check_env(args.env)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        train = ["train", args.algorithm, args.env, "--seed", str(args.seed or 0), "--no-film"]
        train += ["--iterations", str(args.iterations), "--checkpoint-every", "0"]
        train += ["--verbose", "0", "--run"]
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


class _Training:
    """A command in a process of its own, and what it says."""

    def __init__(self, arguments: list[str], run: Path):
        self.run = run
        # No pipe, which would have to be read meanwhile.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfpg", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, *_: Any) -> None:
        """End it, and wait for that."""
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def said(self) -> str:
        """What it has said when it comes to its end.

        Raises:
            RuntimeError, FloatingPointError: It failed.
        """
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read()
        if code:
            kind = FloatingPointError if code == 3 else RuntimeError
            told = text.rpartition("tfpg: error: ")[2].strip()
            raise kind(told or f"The training died {describe_exit(code)}.")
        return text


def _run(arguments: list[str], run: Path) -> str:
    """What a command that comes to its end says."""
    with _Training(arguments, run) as training:
        return training.said()


def _killed(arguments: list[str], run: Path, kills: int) -> bool:
    """Whether a training was killed after a checkpoint of its own, before it came to its end."""
    store = Store(run / runs.CHECKPOINTS)
    before = store.steps()
    with _Training(arguments, run) as training:
        while training.process.poll() is None:
            if store.steps()[-1:] > before[-1:]:
                time.sleep(0.01 * kills)
                training.process.kill()
                training.process.wait()
                return True
            time.sleep(0.002)
        training.said()
    return False


def _parts(run: Path) -> dict[str, Any]:
    text = (run / runs.METRICS).read_bytes()
    own = {"metrics.csv": hashlib.sha256(text).hexdigest()}
    kept = digests(run / runs.CHECKPOINTS)
    # Their files' places are in them.
    return {name: kept[name] for name in kept if name not in ("MetricsLogger", "Counter")} | own
