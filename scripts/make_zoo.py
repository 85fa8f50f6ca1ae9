"""Train the models that come with tfpg: one for each preset.

    python scripts/make_zoo.py                       # all that are missing: half an hour
    python scripts/make_zoo.py ppo/CartPole-v1 ...   # these, again

Each is the best model of ``tfpg train ALGORITHM ENV``, in a pack (`tfpg pack`), with the first seed
from 0 on that is as good as the preset: its return is at most two standard errors below the 95%
interval of the preset's score. The mean returns over 100 new episodes are in tfpg/zoo/scores.json,
and a test checks them. Weights are rounded to a few significant bits, which halves the packs.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import tfpg
from tfpg.agents.presets import PRESETS, find
from tfpg.sharing.pack import pack

ZOO = Path(__file__).parents[1] / "tfpg/zoo"
SCORES = ZOO / "scores.json"
# Options of layers that the lowest supported version of Keras does not know, with their defaults.
UNKNOWN = (
    *('"quantization_config": null', '"optional": false', '"renorm": false'),
    *('"renorm_clipping": null', '"renorm_momentum": 0.99'),
)
EPISODES, SEED = 100, 10_000  # that measure the return
BITS = 7  # of a weight


def make(name: str, seed: int = 0) -> None:
    """Train a model, and write its pack and its score."""
    algorithm, env = name.split("/", 1)
    out = ZOO / f"{name}.zip"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = f"tfpg train {algorithm} {env} --seed {seed} --no-video"
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        arguments = [sys.executable, "-m", *command.split()]
        subprocess.run(arguments, cwd=folder, env=environ, check=True)
        (run,) = Path(folder, "runs").iterdir()
        round_weights(run / "model.keras")
        evaluation = pack(run, out, license="Apache-2.0", episodes=EPISODES, seed=SEED).evaluation
    mean, std = evaluation["episode_return"], evaluation["episode_return_std"]
    if mean + 2 * std / EPISODES**0.5 < find(algorithm, env).score.low:
        print(f"{name}: {mean:.1f} with seed {seed} is not enough.")
        make(name, seed + 1)
        return
    make_compatible(out)
    scores = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    scores[name] = {"return": round(mean, 3), "std": round(std, 3), "training_seed": seed}
    SCORES.write_text(json.dumps(dict(sorted(scores.items())), indent=1) + "\n")


def round_weights(path: Path) -> None:
    """Round the weights of a saved model to few significant bits."""
    model = tfpg.load_model(path)
    for weight in model.weights:
        if weight.dtype == "float32":
            mantissas, exponents = np.frexp(weight.numpy())
            weight.assign(np.ldexp(np.round(mantissas * 2**BITS) / 2**BITS, exponents))
    tfpg.save_model(model, path)


def make_compatible(pack: Path) -> None:
    """Rewrite the model of a pack, so that the lowest supported version of Keras loads it, too."""
    members = read_zip(pack.read_bytes())
    parts = read_zip(members["model.keras"])
    config = parts["config.json"]
    for option in UNKNOWN:
        config = config.replace(f", {option}".encode(), b"")
    parts["config.json"] = re.sub(rb'(?<="config": \{)"name": "(clip|mean)", ', b"", config)
    parts["metadata.json"] = re.sub(rb'"3\.\d+\.\d+"', b'"3.10.0"', parts["metadata.json"])
    members["model.keras"] = write_zip(parts)
    pack.write_bytes(write_zip(members, zipfile.ZIP_LZMA))


def read_zip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


def main() -> None:
    names = [f"{algorithm}/{env}" for algorithm, env in PRESETS]
    for name in sys.argv[1:] or [each for each in names if not (ZOO / f"{each}.zip").exists()]:
        make(name)
    size = sum(path.stat().st_size for path in ZOO.rglob("*.zip"))
    print(f"{SCORES.read_text()}{size:,} bytes")


if __name__ == "__main__":
    main()
