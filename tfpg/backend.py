"""One check, made before Keras is used: tfpg computes its gradients with TensorFlow."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path


def require_tensorflow() -> None:
    """Raises unless Keras runs, or is going to run, on TensorFlow.

    Looks for the backend where Keras does, before Keras is imported: importing it for a backend
    that is not installed fails with that backend's own error.

    Raises:
        ImportError: Keras is set to another backend, or TensorFlow is missing.

    Example:
        >>> require_tensorflow()
    """
    wanted, source = _configured_backend()
    mend = "Set KERAS_BACKEND=tensorflow before Keras is imported."
    if wanted != "tensorflow":
        raise ImportError(f"tfpg runs on TensorFlow, and {source} is {wanted!r}. {mend}")
    try:
        import keras
        import tensorflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"tfpg needs TensorFlow and Keras, and {error.name!r} is not installed: "
            "pip install 'tensorflow>=2.21,<2.22' 'keras>=3.15.1'"
        ) from error
    if keras.config.backend() != "tensorflow":  # somebody imported it before
        raise ImportError(
            f"tfpg runs on TensorFlow, and Keras runs on {keras.config.backend()!r}. {mend}"
        )


def _configured_backend() -> tuple[str, str]:
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["backend"]), f'"backend" in {path}'
    return "tensorflow", ""


require_tensorflow()
