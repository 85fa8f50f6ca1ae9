"""One check, made before Keras is used: tfpg computes its gradients with TensorFlow."""

from __future__ import annotations

import os


def require_tensorflow() -> None:
    """Raises unless Keras runs, or is going to run, on TensorFlow.

    Looks at ``KERAS_BACKEND`` before Keras is imported, because importing Keras with a backend
    that is not installed fails with that backend's own error.

    Raises:
        ImportError: Keras is set to another backend, or TensorFlow is missing.
    """
    mend = "Set KERAS_BACKEND=tensorflow before Keras is imported."
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if wanted != "tensorflow":
        raise ImportError(f"tfpg runs on TensorFlow, and KERAS_BACKEND is {wanted!r}. {mend}")
    try:
        import keras
    except ModuleNotFoundError as error:
        raise ImportError(
            f"tfpg needs TensorFlow and Keras, and {error.name!r} is not installed: "
            "pip install 'tensorflow>=2.21' 'keras>=3.15.1'"
        ) from error
    if keras.config.backend() != "tensorflow":
        raise ImportError(
            f"tfpg runs on TensorFlow, and Keras runs on {keras.config.backend()!r} "
            f"(from its keras.json). {mend}"
        )


require_tensorflow()
