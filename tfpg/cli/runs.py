"""Run directories: everything about one training in one folder.

``config.json`` says how to repeat the run, ``metrics.csv`` holds a row for every iteration,
``model.keras`` is the model that played the iteration with the highest return and ``last.keras``
the one at the end; ``film.mp4`` and ``learning_curve.png`` show it. Importing this module does
not import TensorFlow.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tfpg
from tfpg.core.files import atomic_write, describe_write_error, read_json
from tfpg.core.options import options_of
from tfpg.envs import same_env
from tfpg.models.safe_loading import check_model_file

CONFIG, METRICS, MODEL, LAST = "config.json", "metrics.csv", "model.keras", "last.keras"
CHECKPOINTS = "checkpoints"
CURVE, FILM = "learning_curve.png", "film.mp4"
# What a config may say, at its top, of the head and as options of an agent.
_CONFIG = """
algorithm env seed preset iterations env_steps network critic optimizer options head versions
arguments finished
"""
_HEAD = "from_logits positive_action squash log_std epsilon"
FILMS, SNAPSHOTS = "films/iteration-{iteration}.mp4", "snapshots/iteration-{iteration}.keras"


class Source(NamedTuple):
    """A saved model and what its run says about it."""

    model: Path
    env: str
    head: dict[str, Any]
    max_steps: int | None
    trained_in: str | None = None


def check_new(folder: str | os.PathLike) -> None:
    """Raises unless the folder can become a new run.

    Raises:
        FileExistsError: Something is there already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{str(folder)!r} exists already. Choose another folder for the run, or remove it."
        )


def unfinished(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The arguments of the training whose run this folder is, if it can be gone on with.

    Raises:
        ValueError: The folder is no run, or one without checkpoints, or one that is finished.

    Example:
        >>> unfinished("nowhere") is None
        True
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    config_file = folder / CONFIG
    if not config_file.is_file():
        raise ValueError(f"{str(folder)!r} is not a run: it has no {CONFIG}.")
    _read_config(config_file)
    config = read_json(config_file)
    if not isinstance(config.get("arguments"), dict):
        raise ValueError(f"{str(folder)!r} exists already, and cannot be gone on with.")
    if config.get("finished"):
        raise ValueError(
            f"{str(folder)!r} exists already, and is a run that came to its end: --model {folder} "
            "trains its model further, in another run."
        )
    return config["arguments"]


# What may be another when a run is gone on with: what comes out is the same.
_FREE = ("checkpoint_every", "worker_timeout")


def check_same(
    folder: str | os.PathLike,
    asked: dict[str, Any],
    kept: dict[str, Any],
    free: Collection[str] = (),
) -> None:
    """Raises unless a training is the one whose run a folder is.

    Args:
        asked: The arguments of the training.
        kept: Those of the run.
        free: More of them that may be others, since what comes out is the same.

    Raises:
        FileExistsError: It is another; the first difference is told.
    """
    for name in {"algorithm": "", "env": "", **kept, **asked}:  # what is told first of many
        if name not in (*_FREE, *free) and asked.get(name) != kept.get(name):
            raise FileExistsError(
                f"{str(folder)!r} exists already, of a training with {_given(name, kept)}, and "
                f"this one has {_given(name, asked)}. Choose another folder for the run, remove "
                f"it, or go on with it as it was: tfpg resume {folder}"
            )


def _given(name: str, arguments: dict[str, Any]) -> str:
    """What a command line says for one of its arguments.

    Example:
        >>> kept = {"env": "CartPole-v1", "epsilon": [1, 0.1, 500], "double": False, "film": True}
        >>> [_given(name, kept) for name in (*kept, "gamma")]
        ['env CartPole-v1', '--epsilon 1 0.1 500', '--no-double', 'no --no-film', 'no --gamma']
    """
    value, option = arguments.get(name), f"--{name.replace('_', '-')}"
    if name in ("algorithm", "env"):
        return f"{name} {value}"
    if name == "film":
        return "--no-film" if value is False else "no --no-film"
    if value is None:
        return f"no {option}"
    if isinstance(value, bool):
        return option if value else f"--no-{option[2:]}"
    return f"{option} {' '.join(map(str, value)) if isinstance(value, list) else value}"


@contextmanager
def going_on(folder: str | os.PathLike, **config: Any) -> Iterator[Any]:
    """A run that is there already; yields what `new_run` does.

    Args:
        config: Entries of ``config.json``, replaced when the first iteration begins.
    """
    for path in Path(folder).glob(".*.tmp-*"):  # what a kill left half written
        path.unlink(missing_ok=True)
    yield _counter(begins=lambda: update_config(folder, **config))


@contextmanager
def new_run(folder: str | os.PathLike) -> Iterator[Any]:
    """Makes a run's folder, and takes it away again if not one iteration was completed.

    It stays where numbers were not finite, if what tells why is in there.

    Yields:
        A Keras callback that counts the iterations: give it to `fit`. Its ``take_away`` is for who
        cannot leave this block.

    Raises:
        FileExistsError: Something is there already.
        OSError: The folder cannot be made.
    """
    folder = Path(folder)
    check_new(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Cannot make the run folder {str(folder)!r}: {error.strerror}. Choose another."
        ) from error

    def take_away() -> None:
        with suppress(OSError):  # another program's file in there, for one
            for file in folder.iterdir() if folder not in made else ():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            for path in made:
                shutil.rmtree(path) if path == folder else path.rmdir()

    counter = _counter(take_away)
    try:
        yield counter
    except BaseException as error:
        if not counter.iterations and not hasattr(error, "bundle"):
            take_away()
        raise


def _counter(
    take_away: Callable[[], None] = lambda: None, begins: Callable[[], None] | None = None
) -> Any:
    from tfpg.core.backend import keras

    class Counter(keras.callbacks.Callback):
        iterations = 0
        begins: Callable[[], None] | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if self.begins is not None:
                self.begins()
                self.begins = None

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.iterations = epoch + 1

    counter = Counter()
    counter.take_away, counter.begins = take_away, begins
    return counter


def write_config(folder: str | os.PathLike, **config: Any) -> None:
    """Writes ``config.json``: the given entries and the versions of what computed the run."""
    names = ("tfpg", "tensorflow", "keras", "gymnasium", "numpy")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    _write(Path(folder) / CONFIG, {**config, "versions": versions})


def update_config(folder: str | os.PathLike, **config: Any) -> None:
    """Replaces entries of ``config.json``."""
    path = Path(folder) / CONFIG
    before = json.loads(path.read_text())
    if (after := json.loads(json.dumps({**before, **config}))) != before:
        _write(path, after)


def _write(path: Path, config: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        try:
            temporary.write_text(json.dumps(config, indent=2) + "\n")
        except OSError as error:
            told = describe_write_error(error, path)
            raise OSError(f"{str(path)!r} cannot be written ({told}): free some.") from error


def find_model(
    given: str | os.PathLike, env: str | None = None, head: dict[str, Any] | None = None
) -> Source:
    """The model that a run directory or a ``.keras`` file names, and how to play it.

    Args:
        given: A run directory, or a ``.keras`` file in one or anywhere else.
        env: Environment id. None: the run's.
        head: Options of the head, over the run's.

    Raises:
        FileNotFoundError: There is no such run or model.
        ValueError: A file is broken, or nothing says the environment.
    """
    given = Path(given)
    if not given.exists():
        raise FileNotFoundError(
            f"No run or model at {str(given)!r}: give the folder of a run, or a .keras file."
        )
    config_file = (given if given.is_dir() else given.parent) / CONFIG
    config: dict[str, Any] = {}
    if given.is_dir() and config_file.is_file():
        config = _read_config(config_file)
    elif config_file.is_file():
        with suppress(ValueError):  # another program's, perhaps
            config = _read_config(config_file)
    elif given.is_dir():
        raise FileNotFoundError(
            f"{str(given)!r} is not a run: it has no {CONFIG}. Give a run or a .keras file."
        )
    own_env = config.get("env")
    if env is not None and not (own_env and same_env(env, own_env)):
        config.pop("max_steps", None)  # the cap belongs to the environment, the head to the model
    env = env or own_env
    if env is None:
        raise ValueError(f"{str(given)!r} does not say its environment: add --env ID.")
    model = check_model_file(given / MODEL if given.is_dir() else given)
    head = {**config.get("head", {}), **(head or {})}
    return Source(model, env, head, config.get("max_steps"), own_env)


def env_of(given: str | os.PathLike) -> str | None:
    """The environment that a run or a model in one says it is of, if it says one."""
    with suppress(ValueError, FileNotFoundError):
        return find_model(given).env
    return None


def snapshots(run: str | os.PathLike) -> dict[str, Path]:
    """The models that a run kept as it learned, by titles such as ``"iteration 20"``, in order.

    Raises:
        FileNotFoundError: It kept none.
    """
    folder = Path(run) / Path(SNAPSHOTS).parent
    pattern = re.compile(re.escape(Path(SNAPSHOTS).name).replace(r"\{iteration\}", r"(\d+)"))
    found = folder.iterdir() if folder.is_dir() else ()
    kept = {int(m[1]): path for path in found if (m := pattern.fullmatch(path.name))}
    if not kept:
        raise FileNotFoundError(
            f"{str(run)!r} kept no snapshots: tfpg train --snapshots 0 20 80 does."
        )
    return {f"iteration {n}": check_model_file(kept[n]) for n in sorted(kept)}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    try:
        head, options = dict(config["head"]), dict(config["options"])
        check_known(config, _CONFIG.split(), "option")
        check_known(head, _HEAD.split(), "option of the head")
        check_known(options, _agent_options(), "option of the agent")
        return {"env": str(config["env"]), "head": head, "max_steps": options["max_steps"]}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{str(path)!r} is not the config of a run: {reason}") from error


def _agent_options() -> set[str]:
    agents = (tfpg.Reinforce, tfpg.A2C, tfpg.PPO, tfpg.DQN)
    return {name for agent in agents for name in options_of(agent)}


def check_known(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Raises for a name that is not known, and offers the nearest.

    Raises:
        ValueError: One is not.

    Example:
        >>> check_known(["learing_rate"], ["gamma", "learning_rate"], "option")
        Traceback (most recent call last):
            ...
        ValueError: unknown option 'learing_rate', did you mean 'learning_rate'?
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            mean = (
                f", did you mean {near[0]!r}?"
                if near
                else f": there are {', '.join(sorted(known))}."
            )
            raise ValueError(f"unknown {what} {name[:80]!r}{mean}")
