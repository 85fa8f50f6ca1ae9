"""Saving Keras models without ever losing a file, and loading them safely."""

from __future__ import annotations

import json
import math
import os
import random
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfpg.core.backend import keras, tf
from tfpg.core.files import atomic_write, describe_write_error
from tfpg.core.memory import readable_bytes
from tfpg.core.messages import one_line
from tfpg.errors import UnsafeCheckpointError
from tfpg.models.policy import head_options_of, set_head_options
from tfpg.models.safe_loading import HEAD, CheckedModel, checked_model

# A layer that several models share is counted once for each of them.
_MAX_SHARING = 8


def save_model(model: keras.Model, path: str | os.PathLike) -> Path:
    """Save a Keras model with the state of its optimizer.

    The model is written to a temporary file that then replaces ``path``. An earlier file survives a
    full disk or a killed process. For a model that an agent has trained, the file also records how
    its outputs are used (``squash``, for example). Plain Keras ignores that part.

    Args:
        model: The Keras model.
        path: The path of the new file, which must end in ``.keras``.

    Returns:
        The path.

    Raises:
        ValueError: The path does not end in ``.keras``.
        FileNotFoundError, NotADirectoryError, PermissionError: The folder cannot be written to.
        OSError: The file cannot be written, for example because the disk is full.

    Example:
        >>> import keras, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/policy.keras").name
        'policy.keras'
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model is saved as a .keras file, not as {str(path)!r}.")
    with atomic_write(path) as temporary:
        try:
            model.save(temporary)
            if options := head_options_of(model):
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(HEAD, json.dumps(options))
        except OSError as error:
            reason = describe_write_error(error, path)
            text = f"{str(path)!r} cannot be written ({reason}): free some space."
            raise OSError(text) from error
    return path


def critic_path(path: str | os.PathLike) -> Path:
    """Return where the critic, or the value model, of a saved policy is saved: next to it.

    Example:
        >>> critic_path("best.keras").name
        'best.critic.keras'
    """
    return Path(path).with_suffix(".critic.keras")


def load_model(
    path: str | os.PathLike,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    allow_version_skew: bool = False,
) -> keras.Model:
    """Load a ``.keras`` file, even an untrusted one.

    Nothing in the file can run code or open other files; see `tfpg.models.safe_loading`. A model
    may use the usual classes of Keras, those registered by
    `keras.saving.register_keras_serializable`, and those in ``custom_objects``. The last two are as
    safe as their code.

    Args:
        path: The path of the file.
        custom_objects: Your classes and functions by the names that they have in the file.
        allow_version_skew: Whether to try to load a file that a newer Keras saved.

    Returns:
        The model, compiled as it was when it was saved, with the state of its optimizer. It acts as
        the agent did that trained it, if `save_model` saved it.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointCorruptError: The file is not a complete ``.keras`` file.
        UnsafeCheckpointError: The file has content that no model needs.
        VersionSkewError: A newer Keras saved the file.
        ValueError: Keras cannot load the file.
        MemoryError: The model does not fit into memory.

    Example:
        >>> load_model("missing.keras")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No model at 'missing.keras'.
    """
    custom = dict(custom_objects or {})

    def is_registered(name: str) -> bool:
        return keras.saving.get_registered_object(name, custom) is not None

    with checked_model(path, is_registered, allow_version_skew) as checked:
        try:
            if checked.built_in:  # other classes may make variables of any size
                _check_weight_size(checked, str(path))
            with quiet_about_new_optimizers():
                model = keras.saving.load_model(
                    checked.folder, custom_objects=custom, safe_mode=True
                )
        except (MemoryError, UnsafeCheckpointError):
            raise
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            raise ValueError(f"Keras cannot load {str(path)!r}: {reason}") from error
        set_head_options(model, checked.head)
        return model


@contextmanager
def quiet_about_new_optimizers() -> Iterator[None]:
    """Ignore Keras's warning that an optimizer was saved before it was used."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Skipping variable loading for optimizer .* saved optimizer has [12] variab"
        )
        yield


def _check_weight_size(checked: CheckedModel, path: str) -> None:
    """Raise if the config describes far larger weights than the file holds."""
    state = random.getstate()  # Keras draws seeds from it
    try:
        # Keras lists variables without values in the thread, and would make them there later.
        with ThreadPoolExecutor(1) as thread:
            needed = thread.submit(_described_bytes, checked.config).result()
    finally:
        random.setstate(state)
    if needed > _MAX_SHARING * checked.weight_bytes + 2**20:
        raise UnsafeCheckpointError(
            f"{path!r} is refused: its config describes weights of {readable_bytes(needed)}, but "
            f"it contains {readable_bytes(checked.weight_bytes)}."
        )


def _described_bytes(config: dict[str, Any]) -> int:
    """Return the size of a model's weights, from a model whose variables have no values."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(
            {key: value for key, value in config.items() if key != "compile_config"}, safe_mode=True
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"it contains a {type(model).__name__}, not a model")
    return sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in model.variables)
