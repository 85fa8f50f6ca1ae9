"""Policies as programs in the formats of other runtimes.

=================  =========================  ======================================
format             written to                 played by
=================  =========================  ======================================
``"onnx"``         ``policy.onnx``            onnxruntime
``"litert"``       ``policy.tflite``          ai-edge-litert, or LiteRT on a phone
``"saved_model"``  ``policy_saved_model/``    TensorFlow
=================  =========================  ======================================

A program maps a batch of observations, as the environment returns them, to actions, as the
environment takes them. It contains the encoding of the observations, the model with its running
statistics, the choice of the action, and the bounds and dtype of the action space. The size of the
batch is free. Each key of a `Dict` is a separate input; other observations are the input
``observation``. The output is ``action``.

A program takes the most probable actions, or samples them from another input, ``noise``. The caller
draws the noise, because the formats have no random generator in common: equal noise gives equal
actions in all of them.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from tfpg.core.arrays import batch_size
from tfpg.core.backend import tf
from tfpg.core.messages import hidden_messages, one_line
from tfpg.models.policy import Policy
from tfpg.ops.distributions import Bernoulli, Categorical, DiagonalGaussian, EpsilonGreedy

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "saved_model": ""}

NOISE, ACTION = "noise", "action"
# The method of a NumPy generator that draws the noise of a distribution.
#: two numbers by `random`, and the others by `standard_normal`
NOISY_NETWORK = "random and standard_normal"
_DRAWN_BY: dict[Any, str] = {
    Bernoulli.noise: "logistic",
    Categorical.noise: "gumbel",
    EpsilonGreedy.noise: "random",
    DiagonalGaussian.noise: "standard_normal",
}
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}  # operations that call Python
_ROWS = 256  # observations per call

Play = Callable[[dict[str, np.ndarray]], np.ndarray]


class Program(NamedTuple):
    """A policy as a TensorFlow function.

    Attributes:
        function: Maps tensors to ``{"action": [N, ...]}``.
        inputs: The `tf.TensorSpec` of each input by its name.
        keys: The observation key of each input but the noise; None if it is the whole observation.
        drawn_by: The method of a NumPy generator that draws the noise, or `NOISY_NETWORK`. None:
            there is no noise, or its distribution is not one of tfpg's.
    """

    function: Any
    inputs: dict[str, Any]
    keys: dict[str, str | None]
    drawn_by: str | None


def trace(policy: Policy, sampled: bool = False) -> Program:
    """Return a policy as a TensorFlow function from observations to the environment's actions.

    Args:
        policy: The policy.
        sampled: Whether there is an input ``noise``.

    Raises:
        ValueError: A layer calls Python code.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> program = trace(Policy(model, "CartPole-v1"), sampled=True)
        >>> list(program.inputs), program.drawn_by
        (['observation', 'noise'], 'gumbel')
        >>> program.function(tf.zeros([3, 4]), tf.zeros([3, 2]))["action"].shape
        TensorShape([3])
    """
    if policy.states:
        raise ValueError("recurrent policies cannot be exported: save the model with save_model.")
    space = policy.observation_space
    parts: dict[Any, Any] = {None: space}
    if isinstance(space, spaces.Dict):
        parts = {key: space[key] for key in policy.input_spec}
    keys = dict(zip(_names(parts), parts, strict=True))
    shapes = {name: (parts[key].shape or (), parts[key].dtype) for name, key in keys.items()}
    if sampled:
        shapes[NOISE] = policy.head.noise_shape, np.float32
    specs = {k: tf.TensorSpec([None, *shape], dtype, k) for k, (shape, dtype) in shapes.items()}

    def act(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        observations = inputs[0] if None in parts else dict(zip(parts, inputs, strict=False))
        encoded = policy.encode(observations)
        if sampled:
            encoded = policy.head.with_noise(encoded, inputs[-1])
        distribution = policy.distribution(encoded)
        actions = distribution.sample(inputs[-1]) if sampled else distribution.mode()
        return {ACTION: policy.head.env_actions(actions)}

    function = tf.function(act, input_signature=list(specs.values()), autograph=False)
    graph = function.get_concrete_function().graph.as_graph_def()
    nodes = (*graph.node, *(node for each in graph.library.function for node in each.node_def))
    if any(node.op in _PYTHON for node in nodes):
        raise ValueError(
            "The policy cannot be exported, because a layer calls Python code (tf.py_function or "
            "tf.numpy_function). Write the layer with keras.ops or TensorFlow operations."
        )
    drawn_by = _DRAWN_BY.get(policy.head.distribution_type.noise) if sampled else None
    if sampled and policy.head.model_noise:
        drawn_by = NOISY_NETWORK
    return Program(function, specs, keys, drawn_by)


def _names(keys: Iterable[str | None]) -> list[str]:
    """Names of inputs that all formats accept, and that differ even in lower case."""
    names, taken = [], {NOISE, ACTION}
    for key in keys:
        stem = "observation" if key is None else re.sub(r"[^A-Za-z0-9_]", "_", key)
        name = stem = stem if stem[:1].isalpha() else f"x{stem}"
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def require_packages(format: str) -> None:
    """Raise if a package is missing that writes or plays a format.

    Raises:
        ImportError: One is missing. The message says how to install it.

    Example:
        >>> require_packages("litert")
    """
    if format == "onnx":
        try:
            import onnxruntime  # noqa: F401
            import tf2onnx  # noqa: F401
        except ModuleNotFoundError as error:
            raise ImportError(
                f"The format onnx needs the package {error.name}. In a clone of tfpg, run: "
                "pip install -e '.[export]'"
            ) from error


def write_and_play(
    program: Program, path: Path, format: str, inputs: dict[str, np.ndarray]
) -> np.ndarray:
    """Write a program, and return the actions that the runtime of the format plays.

    Args:
        program: The program.
        path: The path of the file, or of an empty folder for a SavedModel.
        format: A key of `SUFFIXES`.
        inputs: ``[N, ...]`` for each input.

    Returns:
        The actions ``[N, ...]``.

    Raises:
        ValueError: The format does not support an operation of the program.
    """
    write, load = _FORMATS[format]
    # One observation first, as in an environment.
    starts = [0, *range(1, batch_size(inputs), _ROWS)]
    ends = [1, *(start + _ROWS for start in starts[1:])]
    with hidden_messages(r"^.*\n?"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write(program, path)
            play = load(path)
            parts = map(slice, starts, ends)
            return np.concatenate([play({k: x[part] for k, x in inputs.items()}) for part in parts])
        except Exception as error:  # raised below, so that what was hidden stays hidden
            problem = error
    missing = re.findall(
        r'No Op registered for (\w+)|error: loc\((?:callsite\()+fused\["(\w+):', str(problem)
    )
    names = ", ".join(sorted({one or other for one, other in missing}))
    reason = f"there is no equivalent of {names}" if names else one_line(problem)
    raise ValueError(
        f"The policy cannot be exported to the format {format}: {reason}. Try another format, or "
        "other layers."
    ) from problem


def _write_onnx(program: Program, path: Path) -> None:
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(program.function, list(program.inputs.values()))
    graph = model.graph
    captures = program.function.get_concrete_function().graph.captures
    constants = {inside.name: value for value, inside in captures if value.dtype != tf.resource}
    for each in list(graph.input):  # tf2onnx makes inputs of the constants of layers
        if each.name in constants:
            value = onnx.numpy_helper.from_array(constants[each.name].numpy(), each.name)
            graph.initializer.append(value)
            graph.input.remove(each)
    for each in (*graph.input, *graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, path)


def _load_onnx(path: Path) -> Play:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([ACTION], inputs)[0]


def _write_litert(program: Program, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(program, Path(folder))
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _load_litert(path: Path) -> Play:
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)[ACTION]


def _write_saved_model(program: Program, path: Path) -> None:
    function, module = program.function.get_concrete_function(), tf.Module()
    module.weights = function.variables  # TensorFlow saves what belongs to the module
    tf.saved_model.save(module, str(path), signatures=function)


def _load_saved_model(path: Path) -> Play:
    play = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda inputs: play(**{k: tf.constant(x) for k, x in inputs.items()})[ACTION].numpy()


_FORMATS: dict[str, tuple[Callable[[Program, Path], None], Callable[[Path], Play]]] = {
    "onnx": (_write_onnx, _load_onnx),
    "litert": (_write_litert, _load_litert),
    "saved_model": (_write_saved_model, _load_saved_model),
}

# The modules, the program, and the action.
_CODE = {
    "onnx": (
        "import onnxruntime",
        "onnxruntime.InferenceSession({path})",
        "policy.run(None, dict({inputs}))[0][0]",
    ),
    "litert": (
        "from ai_edge_litert.interpreter import Interpreter",
        "Interpreter({path}).get_signature_runner()",
        'policy({inputs})["action"][0]',
    ),
    "saved_model": (
        "import tensorflow as tf",
        'tf.saved_model.load({path}).signatures["serving_default"]',
        'policy({inputs})["action"][0].numpy()',
    ),
}


def code(program: Program, path: Path, format: str) -> str:
    """Return Python code that plays one ``observation``, without tfpg.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> print(code(trace(Policy(model, "CartPole-v1")), Path("policy.onnx"), "onnx"))
        import onnxruntime
        policy = onnxruntime.InferenceSession("policy.onnx")
        action = policy.run(None, dict(observation=observation[None]))[0][0]
    """
    given = {}
    for name, key in program.keys.items():
        value = "observation" if key is None else f"observation[{json.dumps(key)}]"
        is_array = len(program.inputs[name].shape) > 1
        given[name] = f"{value}[None]" if is_array else f"np.array([{value}])"
    module, load, play = _CODE[format]
    lines = [module, f"policy = {load.format(path=json.dumps(str(path)))}"]
    if NOISE in program.inputs:
        size = (1, *program.inputs[NOISE].shape[1:])
        given[NOISE] = "noise"
        if program.drawn_by == NOISY_NETWORK:
            parts = f"[rng.random((1, 2)), rng.standard_normal((1, {size[1] - 2}))]"
            given[NOISE] = f'np.concatenate({parts}, axis=1).astype("float32")'
        elif program.drawn_by is not None:
            given[NOISE] = f'rng.{program.drawn_by}(size={size}).astype("float32")'
        if program.drawn_by is not None:
            lines.append("rng = np.random.default_rng()")
    if any("np." in text for text in (*lines, *given.values())):
        lines.insert(0, "import numpy as np")
    words = [f"{name}={value}" for name, value in given.items()]
    inputs = words[0] if len(words) == 1 else "".join(f"\n    {word}," for word in words) + "\n"
    return "\n".join([*lines, f"action = {play.format(inputs=inputs)}"])
