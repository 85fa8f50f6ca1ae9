"""Packs: a trained model with what is needed to act, and a card that describes it."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfpg.core.backend import keras
from tfpg.core.files import atomic_folder, atomic_write
from tfpg.core.messages import number, one_line
from tfpg.envs import Spaces, spaces_of
from tfpg.models.policy import Policy
from tfpg.models.saving import load_model, save_model
from tfpg.rollouts.evaluation import evaluate
from tfpg.sharing.runs import CONFIG, MODEL, VIDEO, find_model

CARD = "README.md"
_MAX_VIDEO = 5_000_000  # bytes


class Packed(NamedTuple):
    """A pack that `pack` wrote.

    Attributes:
        path: The zip file or folder.
        files: The size of each part, in bytes.
        evaluation: The result of `tfpg.evaluate`.
    """

    path: Path
    files: dict[str, int]
    evaluation: dict[str, Any]


def pack(
    run: str | os.PathLike,
    out: str | os.PathLike,
    *,
    license: str | None = None,
    episodes: int = 100,
    seed: int | None = None,
) -> Packed:
    """Pack a run to share it: the model, a config, a card and the video.

    The model has no optimizer state. The config has no command, which may name local files; the
    card shows it. The model plays ``episodes`` new episodes for the score on the card.

    Args:
        run: A run folder.
        out: A zip file to write or replace, or a new folder.
        license: The license of the model, for the card.
        episodes: The number of episodes.
        seed: The seed of the episodes. None: a random seed.

    Raises:
        FileNotFoundError: There is no such run, or the folder of ``out`` does not exist.
        FileExistsError: ``out`` is a folder that is not empty.
        ValueError: ``run`` is not a run folder, or it cannot be read.
    """
    run, out = Path(run), Path(out)
    if run.exists() and not run.is_dir():
        raise ValueError(f"{str(run)!r} is not a run folder, such as tfpg train makes.")
    source = find_model(run)
    with _writing(out) as folder:
        model = load_model(source.model)
        spaces = spaces_of(source.env)
        policy = Policy(model, spaces, **source.head)
        result = evaluate(policy, source.env, episodes, seed=seed, max_steps=source.max_steps)
        if model.optimizer is not None:  # a new one of the same kind, without state
            config = keras.optimizers.serialize(model.optimizer)
            model.compile(optimizer=keras.optimizers.deserialize(config))
        save_model(model, folder / MODEL)
        entries = {k: v for k, v in source.config.items() if k not in ("command", "max_steps")}
        (folder / CONFIG).write_text(json.dumps(entries, indent=2) + "\n")
        video = run / VIDEO
        if video.is_file() and video.stat().st_size <= _MAX_VIDEO:
            shutil.copyfile(video, folder / VIDEO)
        text = card(out, source.config, spaces, model.count_params(), result, license)
        (folder / CARD).write_text(text, encoding="utf-8")
        files = {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
    return Packed(out, files, result)


@contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``out``, a folder or a zip file."""
    if out.suffix != ".zip":
        with atomic_folder(out) as folder:
            yield folder
        return
    with atomic_write(out) as file, tempfile.TemporaryDirectory() as name:
        yield Path(name)
        with zipfile.ZipFile(file, "w") as archive:
            for part in sorted(Path(name).iterdir()):
                archive.write(part, part.name)


def score_of(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the mean return of an evaluation with its 95% interval, and how it was measured.

    Args:
        result: The result of `tfpg.evaluate`.

    Example:
        >>> score_of({"episode_returns": [1.0, 3.0], "episode_return": 2.0, "seed": 7})
        ('2 +- 1.96', 'the mean of 2 greedy episodes (seed 7) and its 95% interval')
    """
    returns = result["episode_returns"]
    deviation = np.std(returns, ddof=1) if len(returns) > 1 else 0.0
    interval = number(1.96 * float(deviation) / math.sqrt(len(returns)))
    return (
        f"{number(result['episode_return'])} +- {interval}",
        f"the mean of {len(returns)} greedy episodes (seed {result['seed']}) and its 95% interval",
    )


def card(
    out: Path,
    config: Mapping[str, Any],
    spaces: Spaces,
    parameters: int,
    result: Mapping[str, Any],
    license: str | None = None,
) -> str:
    """Return the card of a pack, in Markdown.

    Args:
        out: The path of the pack.
        config: The entries of the run's config.
        spaces: The environment's observation and action space.
        parameters: The number of parameters of the model.
        result: The result of `tfpg.evaluate`.
        license: The license of the model.

    Example:
        >>> result = {"episode_returns": [1.0, 3.0], "episode_return": 2.0, "seed": 7}
        >>> config = {"env": "CartPole-v1", "algorithm": "ppo", "versions": {"tfpg": "0.1.0"}}
        >>> text = card(Path("pole.zip"), config, spaces_of("CartPole-v1"), 57, result, "CC0-1.0")
        >>> text.splitlines()[6]
        '| return | **2 +- 1.96**, the mean of 2 greedy episodes (seed 7) and its 95% interval |'
    """
    env, algorithm = config["env"], config["algorithm"]
    score, how = score_of(result)
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    rows = {
        "return": f"**{score}**, {how}",
        "environment": f"`{env}`",
        "observations": f"`{one_line(spaces[0])}`",
        "actions": f"`{one_line(spaces[1])}`",
        "algorithm": algorithm,
        "parameters": f"{parameters:,}",
        "trained with": versions,
        "license": license,
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items() if text)
    command = f"\n## Training\n\n```bash\n{config['command']}\n```\n" if "command" in config else ""
    return f"""# {out.stem}

A policy for `{env}`, trained by {algorithm} with tfpg.

| | |
|---|---|
{table}

## Use

```bash
tfpg evaluate {out.name}
tfpg record {out.name} video.mp4
```

```python
import tfpg

agent = tfpg.load_agent("{out.name}")
print(agent.evaluate("{env}")["episode_return"])
```

Without tfpg, `keras.saving.load_model("model.keras")` loads the model.
{command}"""
