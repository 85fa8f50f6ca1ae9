"""The versions of the packages that a run depends on, and whether they match a checkpoint's."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from tfpg.core.messages import warn
from tfpg.errors import VersionSkewError

_PACKAGES = ("tfpg", "tensorflow", "keras", "gymnasium", "numpy")
# A newer version of one of these may write what an older one reads differently.
_STRICT = ("tfpg", "keras")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def check_versions(what: str, written: dict[str, str]) -> None:
    """Raise an error if a newer tfpg or Keras wrote a file, and warn about other differences.

    Args:
        what: Name of the file, which begins the message.
        written: Versions that wrote it, by package.

    Raises:
        VersionSkewError: A newer tfpg or Keras wrote it.

    Example:
        >>> check_versions("a checkpoint", {"keras": "99.1.0"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tfpg.errors.VersionSkewError: a checkpoint was written with keras 99.1.0, but ... installed.
        Run pip install -U keras, or try it anyway with allow_version_skew=True ...
    """
    here = versions()
    for name in _STRICT:
        if _numbers(written.get(name, "0")) > _numbers(here[name]):
            raise VersionSkewError(
                f"{what} was written with {name} {written[name]}, but {here[name]} is installed.\n"
                f"Run pip install -U {name}, or try it anyway with allow_version_skew=True "
                "(--allow-version-skew)."
            )
    others = [
        f"{name} {written[name]} (here {here[name]})"
        for name in here
        if written.get(name, here[name]) != here[name]
    ]
    if others:
        warn(f"{what} was written with {', '.join(others)}: it may not resume bit for bit.")


def _numbers(text: str) -> tuple[int, ...]:
    """Return the major and minor number of a version.

    Example:
        >>> _numbers("3.15.1rc0")
        (3, 15)
    """
    parts = text.split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
