"""``tfpg verify-resume ALGORITHM ENV``: kill a training, resume it, and compare the results."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfpg.agents.digests import digests
from tfpg.agents.registry import algorithm_class
from tfpg.checkpoints.store import Store
from tfpg.cli import runs
from tfpg.cli.command import WithJson, click_command, whole
from tfpg.core.messages import describe_exit
from tfpg.core.options import count, option
from tfpg.envs import spaces_of


class VerifyResume(WithJson):
    """Kill a training, resume it, and compare the results.

    A second training is not killed. The exit code is 0 if everything that the two saved is equal,
    bit for bit, else 1.
    """

    algorithm: str = option(help="An algorithm, as for tfpg train.", kw_only=False)
    env: str = option(help="Gymnasium id, or module:id.", kw_only=False)
    iterations: int = option(default=8, check=count, help="Iterations of each training.")
    kills: int = option(default=2, check=count, help="How often to kill the training.")
    seed: int = option(default=0, check=whole, help="Seed of both trainings.")

    def execute(self) -> int:
        algorithm_class(self.algorithm)
        spaces_of(self.env)
        with tempfile.TemporaryDirectory() as folder:
            whole_run, killed_run = Path(folder) / "whole", Path(folder) / "killed"
            train = ["train", self.algorithm, self.env, "--seed", str(self.seed), "--no-video"]
            train += ["--iterations", str(self.iterations), "--checkpoint-every", "0"]
            train += ["--verbose", "0", "--run"]
            warnings = _run([*train, str(whole_run)])
            kills = 0
            while kills < self.kills and _killed([*train, str(killed_run)], killed_run, kills):
                kills += 1
            if not kills:
                raise RuntimeError(
                    f"{self.iterations} iterations were over before the training could be killed: "
                    "use more --iterations."
                )
            if not (killed_run / runs.LAST).exists():
                warnings = _run(["resume", str(killed_run), "--verbose", "0"])
            there, here = _hashes(whole_run), _hashes(killed_run)
        names = {**there, **here}
        rows = [(x, there.get(x, "missing"), here.get(x, "missing")) for x in names]
        self.print_comparison(rows, kills)
        if warnings.strip() and not self.json:
            print(warnings.strip(), file=sys.stderr)
        return int(there != here)

    def print_comparison(self, rows: list[tuple[str, str, str]], kills: int) -> None:
        """Print the hashes of the parts of both trainings."""
        same = all(a == b for _, a, b in rows)
        if self.json:
            parts = {name: {"whole": a, "killed": b} for name, a, b in rows}
            print(json.dumps({"same": same, "kills": kills, "parts": parts}))
            return
        for name, a, b in rows:
            print(f"{name:18}{a[:16]}  {'equal' if a == b else b[:16] + '  differs'}")
        print(
            f"{self.algorithm} in {self.env}, {self.iterations} iterations, killed {kills} "
            f"time{'s' * (kills > 1)}: the result {'equals' if same else 'DIFFERS FROM'} that of a "
            f"training that was not killed{', bit for bit' * same}."
        )


class _Process:
    """A ``tfpg`` command in a process of its own, which is killed at the end of the block."""

    def __init__(self, arguments: list[str]):
        # Not a pipe, which would have to be read all the time.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        command = [sys.executable, "-m", "tfpg", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.errors.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> str:
        """Wait for the end of the command, and return what it wrote to standard error.

        Raises:
            RuntimeError, FloatingPointError: It failed.
        """
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read()
        if code:
            kind = FloatingPointError if code == 3 else RuntimeError
            reason = text.rpartition("tfpg: error: ")[2].strip()
            raise kind(reason or f"The training died {describe_exit(code)}.")
        return text


def _run(arguments: list[str]) -> str:
    """Run a command to its end, and return what it wrote to standard error."""
    with _Process(arguments) as process:
        return process.wait()


def _killed(arguments: list[str], run: Path, kills: int) -> bool:
    """Return whether a training could be killed after it had written a checkpoint."""
    store = Store(run / runs.CHECKPOINTS)
    before = store.steps()
    with _Process(arguments) as process:
        while process.process.poll() is None:
            if store.steps()[-1:] > before[-1:]:
                time.sleep(0.01 * kills)  # a different moment each time
                process.kill()
                return True
            time.sleep(0.002)
        process.wait()
    return False


def _hashes(run: Path) -> dict[str, str]:
    """Return hashes of everything that a run saved."""
    found = digests(run / runs.CHECKPOINTS)
    found.pop("MetricsLogger", None)  # metrics.csv itself is compared
    found["metrics.csv"] = hashlib.sha256((run / runs.METRICS).read_bytes()).hexdigest()
    return found


verify_resume = click_command("verify-resume", VerifyResume)
