"""NaN and infinity in training: where they appeared, and the data that reproduces them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tfpg.models.saving import save_model

FOLDER = "non-finite"

_LARGEST_DATA = 200_000_000  # bytes


@contextmanager
def report_non_finite(
    agent: Any, iteration: int, logs: dict[str, float], folder: Path | None
) -> Iterator[None]:
    """Add to a `FloatingPointError` where it happened, and save the data that reproduces it.

    The data is saved in a folder ``non-finite`` with ``model.keras`` as it was before the update,
    ``data.npz`` with the data of the update (the fields of a `Trajectory` or of `Transitions`) and
    ``about.json``. The error has its path as ``error.bundle``.

    Args:
        agent: The agent that is trained.
        iteration: The iteration, counted from 0.
        logs: Logs of the iteration before.
        folder: Folder for the ``non-finite`` folder. None: save nothing.
    """
    try:
        yield
    except FloatingPointError as error:
        where = f"This happened in iteration {iteration + 1}, after {agent.env_steps:,} steps"
        if "grad_norm" in logs:
            where += f"; the gradient norm of the iteration before was {logs['grad_norm']:.4g}"
        saved = ""
        if folder is not None:
            bundle = Path(folder) / FOLDER
            try:
                _save(agent, iteration, logs, error, bundle)
            except OSError:
                shutil.rmtree(bundle, ignore_errors=True)
            else:
                error.bundle = bundle  # type: ignore[attr-defined]
                saved = f"\nThe model and the data of the update are in {str(bundle)!r}."
        error.args = (f"{error} {where}.{saved}", *error.args[1:])
        raise


def _save(
    agent: Any, iteration: int, logs: dict[str, float], error: Exception, folder: Path
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_model(agent.model, folder / "model.keras")
    arrays = dict(_arrays("", getattr(error, "data", None)))
    if sum(x.nbytes for x in arrays.values()) <= _LARGEST_DATA:
        np.savez_compressed(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    about = {
        "error": str(error),
        "iteration": iteration,
        "env_steps": agent.env_steps,
        "agent": type(agent).__name__,
        "options": agent.get_config(),
        "logs_before": logs,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2, default=float) + "\n")


def _arrays(name: str, data: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of nested named tuples and dicts, with their names."""
    named = data._asdict() if hasattr(data, "_asdict") else data
    if isinstance(named, dict):
        for key, value in named.items():
            yield from _arrays(f"{name}.{key}" if name else key, value)
    elif named is not None and name:
        yield name, np.asarray(named)
