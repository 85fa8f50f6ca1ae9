"""What a model's config may say: the classes that Keras would make, and what of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tfpg.errors import UnsafeCheckpointError
from tfpg.models.safety.allowed import (
    CLASSES,
    DTYPES,
    FUNCTION_MODULES,
    FUNCTIONS,
    LOOPS,
    OPERATIONS,
    REFUSED,
    VALUES,
)

# A model within models takes four levels, and Keras some of Python's stack for each.
_MAX_DEPTH = 100
_MAX_OBJECTS = 20_000
_LONGEST_LOOP = 2**16
# Regular expressions can take for ever.
_PATTERN = re.compile(r"[\w/.-]*")


def check_config(
    config: Any, file: str, registered: Callable[[str], bool] = lambda name: False
) -> bool:
    """Raises unless everything that Keras would make of a model's config is known to be harmless.

    Args:
        config: The parsed ``config.json``.
        file: Its model file, for the error.
        registered: Whether a name is one of the caller's own classes or functions.

    Returns:
        Whether the model is of Keras's own classes alone.

    Raises:
        UnsafeCheckpointError: Something in it is not.

    Example:
        >>> layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "a"}}
        >>> check_config({"layers": [layer]}, "x.keras")
        Traceback (most recent call last):
            ...
        tfpg.errors.UnsafeCheckpointError: 'x.keras' is refused: 'a' is a Lambda, which holds \
Python code. Build the model without it.
    """

    def refuse(what: str, mend: str = "Build the model without it.") -> UnsafeCheckpointError:
        return UnsafeCheckpointError(f"{file!r} is refused: {what}. {mend}")

    if (depth := _depth(config)) > _MAX_DEPTH:
        raise refuse(f"its config is nested {depth} deep, and models take up to {_MAX_DEPTH}")
    objects, own = 0, False
    for node, where in _dicts(config):
        name = node.get("name")
        if isinstance(name, str) and (re.search(r"[/\\\0]", name) or name in ("..", ".")):
            raise refuse(f"a layer is called {name[:80]!r}, which is a path", "Rename the layer.")
        if "inbound_nodes" in node:
            _check_calls(node, where, refuse)
        if "class_name" not in node:
            continue
        objects += 1
        if objects > _MAX_OBJECTS:
            raise refuse(f"its config describes more than {_MAX_OBJECTS:,} objects")
        own |= _check_object(node, where, refuse, registered)
    return not own


def _depth(config: Any) -> int:
    level, depth = [config], 0
    while level:
        parts = [x.values() if isinstance(x, dict) else x for x in level]
        level = [x for part in parts for x in part if isinstance(x, (dict, list))]
        depth += 1
    return depth


def _dicts(config: Any) -> Iterator[tuple[dict, str]]:
    """Every dict in a config, and the name of the layer that it is of."""
    left: list[tuple[Any, str]] = [(config, "the model")]
    while left:
        value, where = left.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(name, str) and "class_name" in value:
                where = repr(name[:80])
            yield value, where
            value = value.values()
        left += [(x, where) for x in value if isinstance(x, (dict, list))]


def _check_object(
    node: dict, where: str, refuse: Callable, registered: Callable[[str], bool]
) -> bool:
    """Whether the object is of the caller's own class; raises where it is of none that may be."""
    kind, module, alias = node["class_name"], node.get("module"), node.get("registered_name")
    if not isinstance(kind, str) or not all(
        isinstance(x, (str, type(None))) for x in (module, alias)
    ):
        raise refuse(f"a class in {where} has no name")
    if kind in REFUSED:
        raise refuse(f"{where} is a {kind}, which {REFUSED[kind]}")
    if kind in VALUES:
        _check_value(node, where, refuse)
        return False
    # Without it Keras goes an older way, which knows fewer checks.
    if "module" not in node:
        raise refuse(f"{where} does not say the module of its class {kind!r}")
    if kind == "function":
        return _check_function(node, where, refuse, registered)
    if any(isinstance(name, str) and registered(name) for name in (alias, kind)):
        return True
    listed = kind in CLASSES.get(module or "", ()) or (
        module in OPERATIONS and re.fullmatch(r"[A-Z]\w*", kind)
    )
    if not listed or alias not in (None, kind):
        raise refuse(
            f"{where} is {module}.{kind}, which is neither registered here nor among Keras's "
            "classes that a model needs",
            "If you trust it, import what defines and registers it, or give "
            f"custom_objects={{{kind!r}: its class}}.",
        )
    settings = node.get("config")
    settings = settings if isinstance(settings, dict) else {}
    if kind in LOOPS or settings.get("unroll"):
        longest = max(_numbers(node), default=0)
        if longest > _LONGEST_LOOP:
            raise refuse(
                f"{where}, a {kind}, goes through {longest:,} parts one by one, and up to "
                f"{_LONGEST_LOOP:,} can be"
            )
    if settings.get("stateful"):
        raise refuse(f"{where}, a {kind}, keeps a state for a batch of any size")
    if kind == "Muon":
        patterns = settings.get("exclude_layers") or []
        if not all(isinstance(x, str) and _PATTERN.fullmatch(x) for x in patterns):
            raise refuse(f"Muon excludes layers by the patterns {str(patterns)[:80]}")
    return False


def _check_value(node: dict, where: str, refuse: Callable) -> None:
    settings = node.get("config")
    dtype = str(settings.get("dtype") if isinstance(settings, dict) else settings)
    if node["class_name"] in ("__tensor__", "__numpy__") and dtype not in DTYPES:
        raise refuse(f"a constant in {where} is of type {dtype[:80]!r}, and not of numbers")


def _check_function(
    node: dict, where: str, refuse: Callable, registered: Callable[[str], bool]
) -> bool:
    name, alias = node.get("config"), node.get("registered_name")
    if isinstance(name, str) and registered(name):
        return True
    if (
        str(name) not in FUNCTIONS
        or node["module"] not in FUNCTION_MODULES
        or alias not in (None, "function", name)
    ):
        raise refuse(
            f"{where} calls {node['module']}.{str(name)[:80]}, which is neither registered here "
            "nor an activation, loss or metric of Keras",
            "If you trust it, register it, or give custom_objects.",
        )
    return False


def _check_calls(node: dict, where: str, refuse: Callable) -> None:
    """What is called without a tensor of the graph is computed at once, however large."""
    calls = node["inbound_nodes"]
    if not isinstance(calls, list):
        raise refuse(f"the calls of {where} are not a list")
    for call in calls:
        if not isinstance(call, dict) or not any(
            x.get("class_name") == "__keras_tensor__" for x, _ in _dicts(call)
        ):
            raise refuse(f"{where} is called on no output of another layer")


def _numbers(value: Any) -> Iterator[int]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [x for key, x in value.items() if key not in ("seed", "shared_object_id")]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value
