"""Keras models on disk: written beside and renamed, loaded with an error that helps."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfpg.core.backend import keras, tf
from tfpg.core.files import describe_write_error, written_beside
from tfpg.core.memory import readable_bytes
from tfpg.errors import UnsafeCheckpointError
from tfpg.models.safety import Unpacked, unpacked

# Layers that models share are counted for each of them.
_SHARING = 8


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
        OSError: The disk is full, for example; what was there is as it was.

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
        try:
            model.save(temporary)
        except OSError as error:
            told = describe_write_error(error, path)
            raise OSError(f"{str(path)!r} cannot be written ({told}): free some.") from error
    return path


def load_model(
    path: str | os.PathLike,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    allow_version_skew: bool = False,
) -> keras.Model:
    """Loads a ``.keras`` file, also one from a stranger: nothing in it runs code or opens files.

    The file is looked through before Keras reads it (`tfpg.models.safety`). Of the classes that its
    config names, those load that tfpg knows to be harmless, those registered by
    `keras.saving.register_keras_serializable`, and those in ``custom_objects``: what these do is
    their author's.

    Args:
        path: Of the file.
        custom_objects: Classes and functions of yours by the names that the file has for them.
        allow_version_skew: Try also what a newer Keras has saved.

    Returns:
        The model, compiled with the optimizer it was saved with, state included.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointCorruptError: It is not a whole ``.keras`` file.
        UnsafeCheckpointError: It holds what no model needs.
        ValueError: It is of a newer Keras, or Keras cannot load it.
        MemoryError: It does not fit into memory.

    Example:
        >>> load_model("missing.keras")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No model at 'missing.keras'.
    """
    custom = dict(custom_objects or {})

    def registered(name: str) -> bool:
        return keras.saving.get_registered_object(name, custom) is not None

    with unpacked(path, registered, allow_version_skew) as found:
        try:
            if found.built_in:  # what another's class makes outside its weights is not known
                _check_size(found, str(path))
            return keras.saving.load_model(found.folder, custom_objects=custom, safe_mode=True)
        except (MemoryError, UnsafeCheckpointError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"Keras cannot load {str(path)!r}: {type(error).__name__}: {reason}"
            ) from error


def _check_size(found: Unpacked, path: str) -> None:
    """Raises if the model has far larger weights than its file; makes it without any to know."""
    state = random.getstate()  # which Keras draws seeds from
    try:
        # Keras lists, for each thread, the weights that it has not made, and makes them later.
        with ThreadPoolExecutor(1) as thread:
            needed = thread.submit(_weights_of, found.config).result()
    finally:
        random.setstate(state)
    if needed > _SHARING * found.weights + 2**20:
        raise UnsafeCheckpointError(
            f"{path!r} is refused: its config describes weights of {readable_bytes(needed)}, and "
            f"it holds {readable_bytes(found.weights)} of them."
        )


def _weights_of(config: dict[str, Any]) -> int:
    """The bytes of the weights that a config describes."""
    config = {key: x for key, x in config.items() if key != "compile_config"}
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(model, keras.Model):
        raise ValueError(f"it describes a {type(model).__name__}, and no model")
    return sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in model.variables)
