"""The versions of what computes a training, and whether one goes on from what others wrote."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from tfpg.core.messages import warn
from tfpg.errors import VersionSkewError

_PACKAGES = ("tfpg", "tensorflow", "keras", "gymnasium", "numpy")
# Of these a newer one may have written what an older one reads otherwise.
_STRICT = ("tfpg", "keras")


def versions() -> dict[str, str]:
    """The versions of what computes a training."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def check_versions(what: str, written: dict[str, str]) -> None:
    """Raises where newer versions wrote a file, and warns where others did.

    Raises:
        VersionSkewError: A newer tfpg or Keras wrote it.

    Example:
        >>> check_versions("a checkpoint", {"keras": "99.1.0"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tfpg.errors.VersionSkewError: a checkpoint was written with keras 99.1.0, and here is ...
    """
    here = versions()
    for name in _STRICT:
        if _numbers(written.get(name, "0")) > _numbers(here[name]):
            raise VersionSkewError(
                f"{what} was written with {name} {written[name]}, and here is {here[name]}: "
                f"pip install -U {name}, or try it with allow_version_skew=True "
                "(--allow-version-skew)."
            )
    other = [
        f"{n} {written[n]} (here {here[n]})" for n in here if written.get(n, here[n]) != here[n]
    ]
    if other:
        warn(f"{what} was written with {', '.join(other)}: it may not go on bit for bit.")


def _numbers(text: str) -> tuple[int, ...]:
    """The first numbers of a version, by which versions are newer.

    Example:
        >>> _numbers("3.15.1rc0")
        (3, 15)
    """
    parts = text.split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
