"""Train the models that come with tfpg: one for each preset, with seed 0.

    python scripts/make_zoo.py                       # all that are missing: half an hour
    python scripts/make_zoo.py ppo/CartPole-v1 ...   # these, again

Each is the best model of ``tfpg train ALGORITHM ENV --seed 0``, in a pack (`tfpg pack`). The mean
returns over 100 new episodes are in tfpg/zoo/scores.json, and a test checks them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tfpg.agents.presets import PRESETS
from tfpg.sharing.pack import pack

ZOO = Path(__file__).parents[1] / "tfpg/zoo"
SCORES = ZOO / "scores.json"
SEED = 10_000  # of the episodes that measure the return


def make(name: str) -> None:
    """Train a model, and write its pack and its score."""
    algorithm, env = name.split("/", 1)
    out = ZOO / f"{name}.zip"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = f"tfpg train {algorithm} {env} --seed 0 --no-video"
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        arguments = [sys.executable, "-m", *command.split()]
        subprocess.run(arguments, cwd=folder, env=environ, check=True)
        (run,) = Path(folder, "runs").iterdir()
        evaluation = pack(run, out, license="Apache-2.0", seed=SEED).evaluation
    scores = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    mean, std = evaluation["episode_return"], evaluation["episode_return_std"]
    scores[name] = {"return": round(mean, 3), "std": round(std, 3), "episodes": 100, "seed": SEED}
    SCORES.write_text(json.dumps(dict(sorted(scores.items())), indent=1) + "\n")


def main() -> None:
    names = [f"{algorithm}/{env}" for algorithm, env in PRESETS]
    for name in sys.argv[1:] or [each for each in names if not (ZOO / f"{each}.zip").exists()]:
        make(name)
    size = sum(path.stat().st_size for path in ZOO.rglob("*.zip"))
    print(f"{SCORES.read_text()}{size:,} bytes")


if __name__ == "__main__":
    main()
