"""Keras models on disk: written beside and renamed, loaded with an error that helps."""

from __future__ import annotations

import os
from pathlib import Path

import tfpg.backend  # noqa: F401  (says so when Keras runs on another backend)

import keras  # isort: skip

from tfpg.files import check_model_file, written_beside


def save_model(model: keras.Model, path: str | os.PathLike) -> Path:
    """Saves a Keras model, its optimizer's state included, and returns the path.

    The file is written beside its place and renamed, so that an earlier file survives a full
    disk or a killed process.

    Args:
        model: Any Keras model.
        path: Where to, ending in ``.keras``.

    Raises:
        ValueError: The suffix is another.
        FileNotFoundError, NotADirectoryError, PermissionError: The folder cannot be written.

    Example:
        >>> import keras, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/policy.keras").name
        'policy.keras'
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model is saved as a .keras file, and this is {str(path)!r}.")
    with written_beside(path) as temporary:
        model.save(temporary)
    return path


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a ``.keras`` file, with Keras's safe mode on.

    Args:
        path: Of the file.

    Returns:
        The model, compiled with the optimizer it was saved with, state included.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a whole ``.keras`` file.

    Example:
        >>> load_model("missing.keras")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No model at 'missing.keras'.
    """
    path = check_model_file(path)
    try:
        return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Keras cannot load {str(path)!r}: {type(error).__name__}: {reason}"
        ) from error
