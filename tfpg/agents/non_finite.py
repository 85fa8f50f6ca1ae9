"""NaN and infinity in a training: where they were met, and what is kept to meet them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.models.saving import save_model

if TYPE_CHECKING:
    from tfpg.agents.agent import Agent

FOLDER = "non-finite"

# Of a bundle's data; what is larger is left out.
_LARGEST = 200_000_000  # bytes


@contextmanager
def blaming(data: Any) -> Iterator[None]:
    """Gives a `FloatingPointError` the data that were learned from, as ``error.data``.

    Example:
        >>> try:
        ...     with blaming("steps"):
        ...         raise FloatingPointError("nan")
        ... except FloatingPointError as error:
        ...     error.data
        'steps'
    """
    try:
        yield
    except FloatingPointError as error:
        error.data = data  # type: ignore[attr-defined]
        raise


@contextmanager
def located(
    agent: Agent, iteration: int, logs: dict[str, float], folder: Path | None
) -> Iterator[None]:
    """Says of a `FloatingPointError` where in the training it was, and keeps a bundle of it.

    The bundle is a folder ``non-finite``: ``model.keras`` as it was before the update, ``data.npz``
    with what was learned from (the fields of a `Trajectory` or of `Transitions`), ``about.json``.
    The error knows it as ``error.bundle``.

    Args:
        agent: That is trained.
        iteration: From 0.
        logs: Of the iteration before.
        folder: In which the bundle is put. None: there is none.
    """
    try:
        yield
    except FloatingPointError as error:
        where = f"It was in iteration {iteration + 1}, after {agent.env_steps:,} environment steps"
        if "grad_norm" in logs:
            where += f"; the gradient's norm was {logs['grad_norm']:.4g} in the one before"
        kept = ""
        if folder is not None:
            bundle = Path(folder) / FOLDER
            try:
                _bundle(agent, iteration, logs, error, bundle)
            except OSError:
                shutil.rmtree(bundle, ignore_errors=True)
            else:
                error.bundle = bundle  # type: ignore[attr-defined]
                kept = f" The model and what it was to learn from are in {str(bundle)!r}."
        error.args = (f"{error} {where}.{kept}", *error.args[1:])
        raise


def _bundle(
    agent: Agent, iteration: int, logs: dict[str, float], error: Exception, folder: Path
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_model(agent.model, folder / "model.keras")
    arrays = dict(_arrays("", getattr(error, "data", None)))
    if sum(x.nbytes for x in arrays.values()) <= _LARGEST:
        np.savez_compressed(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    about = {"error": str(error), "iteration": iteration, "env_steps": agent.env_steps}
    about |= {"agent": type(agent).__name__, "options": agent.get_config(), "logs_before": logs}
    (folder / "about.json").write_text(json.dumps(about, indent=2, default=float) + "\n")


def _arrays(name: str, data: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a named tuple or a dict, by their names."""
    named = data._asdict() if hasattr(data, "_asdict") else data
    if isinstance(named, dict):
        for key, value in named.items():
            yield from _arrays(f"{name}.{key}" if name else key, value)
    elif named is not None and name:
        yield name, np.asarray(named)
