"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


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
