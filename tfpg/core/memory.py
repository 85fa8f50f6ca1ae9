"""Available cores, and available memory, to refuse large allocations before they are made.

Linux grants more memory than it has, and later kills the process that uses it, without a message.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def available_cores() -> int:
    """Return the number of CPU cores that this process may use.

    Example:
        >>> available_cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(root: str | os.PathLike = "/") -> int:
    """Return the number of bytes that this process can still allocate.

    This is the smallest of what the machine has available, what the process's control groups
    (container limits) leave, and what ``ulimit -v`` leaves. Reclaimable page cache counts as free.

    Args:
        root: Folder that holds ``proc`` and ``sys``.

    Returns:
        Bytes, at least 0. ``sys.maxsize`` if nothing is known.

    Example:
        >>> available_memory() > 0
        True
    """
    path = Path(root)
    free = [*_machine(path), *_control_groups(path), *_address_space(path)]
    return max(0, min(free, default=sys.maxsize))


def check_memory(needed: int, what: str, hint: str) -> None:
    """Raise an error if an allocation would not fit into the available memory.

    Args:
        needed: Size of the allocation, in bytes.
        what: Name of the thing to allocate, which starts the error message.
        hint: What the user can do about it, which ends the error message.

    Raises:
        MemoryError: ``needed`` is more than `available_memory`.

    Example:
        >>> check_memory(640_000, "The replay buffer", "use a smaller capacity")
        >>> check_memory(
        ...     10**18, "The replay buffer", "use a smaller capacity"
        ... )  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        MemoryError: The replay buffer needs 1.0 EB, but only ... are free: use a smaller...
    """
    available = available_memory()
    if needed > available:
        needs, free = readable_bytes(needed), readable_bytes(available)
        raise MemoryError(f"{what} needs {needs}, but only {free} are free: {hint}.")


def readable_bytes(n: int) -> str:
    """Format a number of bytes in decimal units.

    Example:
        >>> readable_bytes(7_056_000_000), readable_bytes(640_000), readable_bytes(12)
        ('7.1 GB', '640 kB', '12 bytes')
    """
    if n < 1000:
        return f"{n} bytes"
    x, units = n / 1000, ["kB", "MB", "GB", "TB", "PB", "EB"]
    while x >= 999.5 and len(units) > 1:
        x /= 1000
        del units[0]
    return f"{x:.1f} {units[0]}" if x < 99.95 else f"{x:.0f} {units[0]}"


def _machine(root: Path) -> Iterator[int]:
    with suppress(OSError, KeyError):
        yield _table(root / "proc/meminfo")["MemAvailable"] * 1024
        return
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):  # macOS only knows the second
        with suppress(OSError, ValueError, AttributeError):
            yield os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
            return


def _control_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left by each control group, of version 1 or 2, that contains the process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount = root / "sys/fs/cgroup"
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        limit, used, cache = names
        # Inside a container the group is mounted as the root, whatever its path is outside.
        group = PurePosixPath(*(part for part in path.split("/") if part not in ("", "..")))
        for folder in {mount / group, *(mount / parent for parent in group.parents)}:
            # Without a limit the file is missing or contains "max".
            with suppress(OSError, ValueError):
                free = int((folder / limit).read_text()) - int((folder / used).read_text())
                with suppress(OSError, KeyError):
                    free += _table(folder / "memory.stat")[cache]
                yield free


def _address_space(root: Path) -> Iterator[int]:
    with suppress(ImportError, OSError, KeyError):  # Windows has no limits, and macOS no /proc
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit - _table(root / "proc/self/status")["VmSize"] * 1024


def _table(path: Path) -> dict[str, int]:
    """Read the numbers of a file with lines like ``MemAvailable:   1234 kB``."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}
