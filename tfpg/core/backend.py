"""TensorFlow, Keras and names of packages, imported when they are first used.

Importing TensorFlow takes seconds. `tf` and `keras` stand for the modules and import them when an
attribute is first used, after a check that Keras runs on TensorFlow.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpg.core.messages import hidden_messages


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
    remedy = "Set KERAS_BACKEND=tensorflow before Keras is imported."
    if wanted != "tensorflow":
        raise ImportError(f"tfpg runs on TensorFlow, and {source} is {wanted!r}. {remedy}")
    try:
        with quiet_start():
            import keras
            import tensorflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"tfpg needs TensorFlow and Keras, and {error.name!r} is not installed: "
            "pip install 'tensorflow>=2.19,<2.22' 'keras>=3.10'"
        ) from error
    if keras.config.backend() != "tensorflow":  # it was imported earlier
        raise ImportError(
            f"tfpg runs on TensorFlow, and Keras runs on {keras.config.backend()!r}. {remedy}"
        )
    # Keys of observations may hold characters that names of inputs may not.
    warnings.filterwarnings("ignore", "When providing `inputs` as a dict, all keys in the dict")
    # Keras 3.10 warns about every model with one input that was loaded.
    message = r"The structure of `inputs` .*\s+Expected: \['[^']*'\]\s+Received: inputs=Tensor\("
    warnings.filterwarnings("ignore", message)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Hide what TensorFlow prints if it is imported during the block.

    ``TF_CPP_MIN_LOG_LEVEL=0``, 1 or 2 shows it. Warnings and errors after the start are shown.

    Example:
        >>> with quiet_start():
        ...     import tensorflow
    """
    if "tensorflow" in sys.modules or os.environ.get(_LOG_LEVEL, "3") != "3":
        yield
        return
    is_set = _LOG_LEVEL in os.environ
    os.environ.setdefault(_LOG_LEVEL, "1")  # TensorFlow reads it once
    try:
        with hidden_messages(_START_UP):
            yield
            from tensorflow.python import pywrap_tfe

            pywrap_tfe.TF_ListPhysicalDevices()  # the first search for devices prints, too
    finally:
        if not is_set:
            os.environ.pop(_LOG_LEVEL, None)


def start_tensorflow() -> None:
    """Import TensorFlow for a command.

    GPU memory is allocated as it is needed, because another process may use the same GPU.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    require_tensorflow()


_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_START_UP = (
    r"^(?:WARNING: All log messages before absl::InitializeLog\(\)|[IWE]\d{4} [\d:.]+ +\d+ "
    r"|To enable the following instructions: |Skipping registering GPU devices).*\n?"
)
_ALIGNMENT = 64  # bytes, of TensorFlow's own tensors

_forked = False  # from a process in which TensorFlow was running


def _after_fork() -> None:
    global _forked
    context = sys.modules.get("tensorflow.python.eager.context")
    _forked = _forked or (context is not None and context.context_safe() is not None)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def check_not_forked() -> None:
    """Raise an error in a forked process in which TensorFlow would hang.

    Raises:
        RuntimeError: It is one.
    """
    if _forked:
        raise RuntimeError(
            "TensorFlow hangs in this process, because it was forked after TensorFlow was used. "
            'Start processes with multiprocessing.get_context("spawn").'
        )


def search_current_folder() -> None:
    """Let modules of the current folder be imported, as ``python -m`` does."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _configured_backend() -> tuple[str, str]:
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # "~" without a home
    path = Path(home) / "keras.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["backend"]), f'"backend" in {path}'
    return "tensorflow", ""


class _Lazy(ModuleType):
    """A module that is imported when one of its attributes is first used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked for by inspection, not by code that uses the module
            raise AttributeError(attribute)
        require_tensorflow()
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import keras as keras
    import tensorflow as tf
else:
    keras, tf = _Lazy("keras"), _Lazy("tensorflow")


def read_variable(variable: keras.Variable) -> np.ndarray:
    """Return the value of a Keras variable. Its own ``numpy()`` takes four times as long.

    Example:
        >>> read_variable(keras.Variable([1.0, 2.0]))
        array([1., 2.], dtype=float32)
    """
    value = first_copy(variable.value)
    return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype).numpy()


def first_copy(value: Any, strategy: tf.distribute.Strategy | None = None) -> Any:
    """Return a tensor or variable, or the first copy of one that is on several devices.

    Args:
        value: A tensor or variable.
        strategy: The strategy that distributes it. None: the variable's.

    Example:
        >>> int(first_copy(tf.constant(3)))
        3
    """
    if not isinstance(value, tf.distribute.DistributedValues):
        return value
    return (strategy or value.distribute_strategy).experimental_local_results(value)[0]


def strategy_of(variables: Iterable[Any]) -> tf.distribute.Strategy | None:
    """Return the strategy with which Keras variables were made, None for the default one.

    Example:
        >>> print(strategy_of([keras.Variable([1.0])]))
        None
    """
    for variable in variables:
        if isinstance(variable.value, tf.distribute.DistributedValues):
            return variable.value.distribute_strategy
    return None


def scope_of(variables: Iterable[Any]) -> AbstractContextManager[Any]:
    """Return a context in which new variables are made with the strategy of these."""
    strategy = strategy_of(variables)
    return nullcontext() if strategy is None else strategy.scope()


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Return a tensor with a copy of an array, in half the time of `tf.constant`.

    A small compiled call that follows takes a quarter less time, too.

    Args:
        array: Numbers or bools of any shape, in a dtype of NumPy's own and native byte order.

    Raises:
        BufferError: The dtype is another one.

    Example:
        >>> as_tensor(np.array([1, 2])).numpy()
        array([1, 2])
    """
    # TensorFlow stops the process if it finds a tensor that is not aligned.
    buffer = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.__array_interface__["data"][0] % _ALIGNMENT
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return tf.experimental.dlpack.from_dlpack(copy.__dlpack__())


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Importing everything that a package offers can take seconds, so each name is imported when it
    is first used.

    Args:
        package: The package's ``__name__``.
        homes: For each name ``"module:attribute"``, or ``"module"`` if it is a module itself.

    Example:
        >>> get, names = lazy_names("tfpg", {"linear": "tfpg.schedules:linear"})
        >>> get("linear").__name__, names()[-1]
        ('linear', 'linear')
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        value = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        own = (name for name in vars(sys.modules[package]) if name.startswith("__"))
        return sorted({*homes, *own})

    return get, names
