"""Run folders: everything about one training run in one folder.

``config.json`` records how to reproduce the run, ``metrics.csv`` holds a row for each iteration,
``model.keras`` is the model that played the iteration with the highest return, and ``last.keras``
is the one at the end. ``start.keras`` is a copy of the model that the training started from, if it
was not a new one. A critic or a value model is saved next to each, as ``model.critic.keras``.
``video.mp4`` and ``learning_curve.png`` show the run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tfpg.core.files import is_empty_folder, locked_folder
from tfpg.envs import join_env_id, same_env, split_env_id
from tfpg.models.safe_loading import check_model_file
from tfpg.models.saving import critic_path
from tfpg.results.run_config import CONFIG, METRICS, read_config
from tfpg.results.run_data import has_rows
from tfpg.sharing.unpacking import unpacked

MODEL, LAST = "model.keras", "last.keras"
CHECKPOINTS, START = "checkpoints", "start.keras"
TENSORBOARD = "tensorboard"
CURVE, VIDEO = "learning_curve.png", "video.mp4"
_ZOO = Path(__file__).parents[1] / "zoo"
VIDEOS, SNAPSHOTS = "videos/iteration-{iteration}.mp4", "snapshots/iteration-{iteration}.keras"


def is_free(folder: Path) -> bool:
    """Return whether a folder can become a new run: it does not exist, or it is empty."""
    return not folder.exists() or is_empty_folder(folder)


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run."""
    return (folder / CONFIG).is_file() and bool(read_config(folder / CONFIG).get("finished"))


def unfinished_command(folder: Path) -> str:
    """Return the command of the unfinished run in a folder.

    Raises:
        ValueError: The folder is not a run, or the run is finished.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is not a run: it has no {CONFIG}.")
    config = read_config(path)
    if not isinstance(config.get("command"), str):
        raise ValueError(f"{str(folder)!r} cannot be resumed: its {CONFIG} has no command.")
    if config.get("finished"):
        raise ValueError(
            f"{str(folder)!r} is a finished run. To train its model further in a new run, use "
            f"--model {folder}."
        )
    return config["command"]


@contextmanager
def new_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder. If the block raises before the first iteration ends, clean up.

    Keep the files if there is a report about NaN or infinity. Never remove other files.

    Raises:
        BlockingIOError, FileExistsError: Another process was faster.
        OSError: The folder cannot be made.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Cannot make the run folder {str(folder)!r}: {error.strerror}. Choose another one."
        ) from error
    with locked_folder(folder):
        if not is_free(folder):
            raise FileExistsError(
                f"Another process has begun a run in {str(folder)!r}: choose another folder with "
                "--run."
            )
        try:
            yield
        except BaseException as error:
            if not has_rows(folder / METRICS) and not hasattr(error, "bundle"):
                _remove(folder, made)
            raise


def _remove(folder: Path, made: list[Path]) -> None:
    """Remove what a run wrote, and the folders that were made for it unless they hold more."""
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    with suppress(OSError):
        models = [folder / name for name in (START, MODEL, LAST)]
        others = [folder / name for name in (CONFIG, METRICS, CURVE, VIDEO)]
        for path in (*models, *map(critic_path, models), *others):
            path.unlink(missing_ok=True)
        for name in (VIDEOS, SNAPSHOTS):
            for path in folder.glob(name.replace("{iteration}", "*")):
                path.unlink()
        for path in (folder / Path(VIDEOS).parent, folder / Path(SNAPSHOTS).parent, *made):
            with suppress(FileNotFoundError):
                path.rmdir()


@contextmanager
def resumed_run(folder: Path) -> Iterator[None]:
    """Claim the folder of a run, and remove the temporary files that a killed process left.

    Raises:
        BlockingIOError: Another process is training in it.
    """
    with locked_folder(folder):
        for path in folder.glob(".*.tmp-*"):
            path.unlink(missing_ok=True)
        yield


class Source(NamedTuple):
    """A saved model, with the information that its run has about it."""

    model: Path
    env: str
    head: dict[str, Any]
    max_steps: int | None
    trained_in: str | None
    config: dict[str, Any]
    pack: Path | None = None  # the zip file that the model was unpacked from, or its name
    critic: Path | None = None  # the critic or value model that was saved with it

    def critic_for(self, algorithm: str) -> Path | None:
        """Return the critic with which an algorithm continues the training, or None."""
        return self.critic if self.config.get("algorithm", algorithm) == algorithm else None


def find_model(
    given: str | os.PathLike,
    env: str | None = None,
    head: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Source:
    """Return the model that a run, a pack or a ``.keras`` file names, and how to play it.

    Args:
        given: A run folder, a pack, or a ``.keras`` file in one or anywhere else, or
            ``"zoo:ALGORITHM/ENVIRONMENT"``, one of the packs that come with tfpg.
        env: Environment id. None: the run's.
        head: Options of the policy, which take precedence over the run's.
        env_kwargs: Keyword arguments of the environment, which take precedence over the run's.

    Raises:
        FileNotFoundError: There is no such run or model.
        ValueError: A file is broken, or the environment is not known.
    """
    name, given = Path(given), _of_zoo(given) or Path(given)
    if not given.exists():
        raise FileNotFoundError(
            f"No run or model at {str(given)!r}: pass a run folder, a pack, or a .keras file."
        )
    pack = name if given.suffix == ".zip" and not given.is_dir() else None
    given = given if pack is None else unpacked(given)
    config = _config_of(given)
    trained_in, max_steps = config.get("env"), config.get("max_steps")
    if env is None and trained_in and "command" not in config:
        _check_no_module(trained_in, pack or given)
    env = env or trained_in
    if env is None:
        raise ValueError(f"The environment of {str(given)!r} is not known: add --env ID.")
    env = join_env_id(env, env_kwargs or {})
    if not (trained_in and same_env(env, trained_in)):
        max_steps = None  # it belongs to the environment, the head to the model
    model = check_model_file(given / MODEL if given.is_dir() else given)
    head = {**config.get("head", {}), **(head or {})}
    critic = critic_path(model) if critic_path(model).exists() else None
    return Source(model, env, head, max_steps, trained_in, config, pack, critic)


def _of_zoo(given: str | os.PathLike) -> Path | None:
    """Return the pack in the zoo that a name means, or None if it is not such a name."""
    scheme, _, name = str(given).partition(":")
    if scheme != "zoo":
        return None
    if name not in zoo():
        raise FileNotFoundError(
            f"No {str(given)!r} in the zoo. It has {', '.join(f'zoo:{each}' for each in zoo())}."
        )
    return _ZOO / f"{name}.zip"


def zoo() -> list[str]:
    """Return the names of the trained models that come with tfpg.

    Example:
        >>> "ppo/LunarLander-v3" in zoo()
        True
    """
    paths = sorted(_ZOO.glob("*/*.zip"))
    return [path.relative_to(_ZOO).with_suffix("").as_posix() for path in paths]


def _check_no_module(env: str, pack: Path) -> None:
    """Raise if making a pack's environment would import a module."""
    if ":" in split_env_id(env)[0]:
        raise ValueError(
            f"{str(pack)!r} is for {env!r}, and making that imports a module. If you trust the "
            "module, pass the environment with --env or env=."
        )


def _config_of(given: Path) -> dict[str, Any]:
    """The config of a run, or the one next to a model."""
    if given.is_dir():
        if not (given / CONFIG).is_file():
            raise FileNotFoundError(
                f"{str(given)!r} is not a run: it has no {CONFIG}. Pass a run folder, a pack, or a "
                ".keras file."
            )
        return read_config(given / CONFIG)
    if (given.parent / CONFIG).is_file():
        with suppress(ValueError):  # another program's, perhaps
            return read_config(given.parent / CONFIG)
    return {}


def trained_in(given: str | os.PathLike) -> str | None:
    """Return the environment that a run or a model was trained in, if it is known."""
    with suppress(ValueError, FileNotFoundError):
        return find_model(given).env
    return None


def snapshots(run: Path) -> dict[str, Path]:
    """Return the models that a run saved during training, by titles such as ``"iteration 20"``.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = run / Path(SNAPSHOTS).parent
    pattern = re.compile(re.escape(Path(SNAPSHOTS).name).replace(r"\{iteration\}", r"(\d+)"))
    files = folder.iterdir() if folder.is_dir() else ()
    found = {int(m[1]): path for path in files if (m := pattern.fullmatch(path.name))}
    if not found:
        raise FileNotFoundError(
            f"{str(run)!r} has no snapshots: train with --snapshots 0 20 80, for example."
        )
    return {f"iteration {n}": check_model_file(found[n]) for n in sorted(found)}
