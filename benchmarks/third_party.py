"""Compare the verdicts of ``tfpg check`` on third-party environments with actual training runs.

    python benchmarks/third_party.py                       # installs the packages, and tries all
    python benchmarks/third_party.py --only minigrid vizdoom

Train every algorithm that the check lists in each environment. Evaluate, record, kill and resume
the first one that works. Run each command in its own process. The check is correct if training
fails exactly where it reports a problem. Packages are installed into ``--packages``. Those that
cannot be installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfpg.agents.digests import digests
from tfpg.checkpoints.store import Store

# Package, module to import, environment id, and what pip installs.
ENVIRONMENTS = [
    ("minigrid", "minigrid", "MiniGrid-Empty-5x5-v0", "minigrid"),
    ("minigrid", "minigrid", "MiniGrid-DoorKey-6x6-v0", "minigrid"),
    ("highway-env", "highway_env", "highway-fast-v0", "highway-env pandas pytz python-dateutil"),
    ("highway-env", "highway_env", "racetrack-v0", "highway-env pandas pytz python-dateutil"),
    ("highway-env", "highway_env", "parking-v0", "highway-env pandas pytz python-dateutil"),
    ("flappy-bird", "flappy_bird_gymnasium", "FlappyBird-v0", "flappy-bird-gymnasium"),
    ("vizdoom", "vizdoom.gymnasium_wrapper", "VizdoomBasic-v1", "vizdoom"),
    ("panda-gym", "panda_gym", "PandaReachDense-v3", "panda-gym pybullet"),
    ("PyFlyt", "PyFlyt.gym_envs", "PyFlyt/QuadX-Hover-v4", "PyFlyt pybullet numba llvmlite pyyaml"),
    ("gym-anytrading", "gym_anytrading", "stocks-v0", "gym-anytrading pandas pytz python-dateutil"),
    ("mo-gymnasium", "mo_gymnasium", "deep-sea-treasure-v0", "mo-gymnasium"),
    ("robotics", "gymnasium_robotics", "PointMaze_UMaze-v3", "gymnasium-robotics pettingzoo"),
    ("robotics", "gymnasium_robotics", "FetchReach-v4", "gymnasium-robotics pettingzoo"),
    ("robotics", "gymnasium_robotics", "AdroitHandDoor-v1", "gymnasium-robotics pettingzoo"),
]

ROLLOUT = ["--num-envs", "2", "--num-steps", "16"]
SMALL = {
    "reinforce": ["--episodes-per-update", "2"],
    "a2c": ROLLOUT,
    "ppo": [*ROLLOUT, "--minibatches", "2", "--epochs", "2"],
    "dqn": [
        *("--num-envs", "2", "--learning-starts", "64", "--capacity", "1000"),
        *("--steps-per-iteration", "64", "--batch-size", "8"),
    ],
}
COMMON = ["--seed", "1", "--max-steps", "30", "--no-video", "--verbose", "0"]


class Trial:
    """What happens in one environment.

    Args:
        env_id: The environment, as ``module:id``.
        packages: Folder of the installed packages.
        folder: An empty folder for runs.
    """

    def __init__(self, env_id: str, packages: Path, folder: Path):
        self.env_id, self.folder = env_id, folder
        paths = [os.environ.get("PYTHONPATH", ""), str(packages)]
        path = os.pathsep.join(filter(None, paths))
        self.environ = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.seen: dict[str, str] = {}
        self.wrong: list[str] = []

    def start(self, *words: str, **options: Any) -> subprocess.Popen:
        """Start a command in a new process group, because simulators may outlive it."""
        command = [sys.executable, "-m", "tfpg", *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environ, process_group=0, **options
        )

    def tfpg(self, *words: str) -> tuple[int, str, str]:
        """Run a command, and return its exit code, output and errors."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = self.start(*words, stdout=out, stderr=errors)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=600)
            end(process)
            out.seek(0)
            errors.seek(0)
            return process.returncode, out.read(), errors.read()

    def run(self) -> None:
        _, out, errors = self.tfpg("check", self.env_id, "--seconds", "30", "--json")
        if not out:
            self.seen["check"] = "failed"
            self.wrong.append(errors.strip()[-300:])
            return
        rows = {row["what"]: row for row in json.loads(out)["rows"]}
        problems = [
            f"{x['what']}: {x['detail']}" for x in rows.values() if x["verdict"] == "problem"
        ]
        self.seen["check"] = "problem" if problems else "ok"
        named = rows["algorithms"]["detail"] if "algorithms" in rows else ""
        algorithms = [x for x in SMALL if x in named.partition(";")[0].split(", ")]
        trained = [self.train(x) for x in (algorithms or ["ppo"])]
        if problems and all(trained):
            self.wrong.append(f"check has problems, but all train: {'; '.join(problems)}")
        if not problems and not all(trained):
            self.wrong.append("check has no problem, but not all train")
        if not any(trained):
            return
        algorithm = algorithms[trained.index(True)]
        self.note("evaluate", *self.tfpg("evaluate", algorithm, "--episodes", "2", "--seed", "1"))
        self.record(algorithm, rows.get("rendering", {}))
        self.resume(algorithm, rows.get("determinism", {}))

    def note(self, what: str, code: int, _: str, errors: str) -> bool:
        self.seen[what] = "ok" if code == 0 else "failed"
        if code:
            print(f"    {what}: {errors.strip()[-300:]}")
        return code == 0

    def train(self, algorithm: str) -> bool:
        words = [*SMALL[algorithm], *COMMON, "--iterations", "2", "--run", algorithm]
        return self.note(algorithm, *self.tfpg("train", algorithm, self.env_id, *words))

    def record(self, run: str, row: dict[str, str]) -> None:
        words = ["a.mp4", "--max-steps", "20", "--seed", "1"]
        code, out, errors = self.tfpg("record", run, *words)
        works = self.note("video", code, out, errors) and "single color" not in errors
        can = row.get("verdict") != "problem" and "no videos" not in row.get("detail", "")
        if works != can:
            self.wrong.append(f"rendering is {row}, but the video {'works' if works else 'fails'}")

    def resume(self, algorithm: str, row: dict[str, str]) -> None:
        words = ["train", algorithm, self.env_id, *SMALL[algorithm], *COMMON]
        words += ["--iterations", "6", "--checkpoint-every", "0", "--run"]
        self.tfpg(*words, "whole")
        nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = self.start(*words, "killed", **nothing)
        store = Store(self.folder / "killed/checkpoints")
        while process.poll() is None and not store.steps():
            time.sleep(0.002)
        end(process)
        code, _, errors = self.tfpg("resume", "killed", "--verbose", "0")
        same = code == 0 and self.digests("whole") == self.digests("killed")
        warned = "could not be restored" in errors or "do not hold" in errors
        self.seen["resume"] = "equal" if same else "warns" if warned else f"differs ({code})"
        if not same and (row.get("verdict") == "ok" or not warned):
            self.wrong.append(f"determinism is {row}, but the resumed run {self.seen['resume']}")

    def digests(self, run: str) -> dict[str, str]:
        found = digests(self.folder / run / "checkpoints")
        return {name: x for name, x in found.items() if name != "MetricsLogger"}


def end(process: subprocess.Popen) -> None:
    """Kill a process that may still run, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def install(packages: Path, requirements: str) -> str | None:
    """Install packages without what they depend on, and return why that failed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", str(packages), *requirements.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(tempfile.gettempdir()) / "tfpg-third-party"
    parser.add_argument("--packages", type=Path, default=folder, help="folder for the packages")
    parser.add_argument("--only", nargs="*", help="names of packages")
    args = parser.parse_args()
    columns = ["check", *SMALL, "evaluate", "video", "resume"]
    table, disagreements, left_out = [], [], dict[str, str | None]()
    for package, module, env_id, requirements in ENVIRONMENTS:
        if args.only and package not in args.only:
            continue
        if package not in left_out:
            present = (args.packages / module.partition(".")[0]).exists()
            left_out[package] = None if present else install(args.packages, requirements)
        if left_out[package]:
            continue
        print(f"{package}: {env_id}", flush=True)
        with tempfile.TemporaryDirectory() as runs:
            trial = Trial(f"{module}:{env_id}", args.packages, Path(runs))
            trial.run()
        table.append((env_id, [trial.seen.get(name, "-") for name in columns]))
        disagreements += [f"{env_id}: {text}" for text in trial.wrong]
    print(f"\n{'environment':26}" + "".join(f"{name:>11}" for name in columns))
    for env_id, cells in table:
        print(f"{env_id:26}" + "".join(f"{cell:>11}" for cell in cells))
    for package, reason in left_out.items():
        if reason:
            print(f"{package} could not be installed: {reason}")
    print(f"\n{len(disagreements)} disagreements with the check in {len(table)} environments.")
    for text in disagreements:
        print(f"  {text}")
    return int(bool(disagreements))


if __name__ == "__main__":
    sys.exit(main())
