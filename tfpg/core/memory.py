"""How much memory this process can still take, known before it is taken.

Linux promises more memory than there is, and ends the process that uses it without a word. What
is going to be large is therefore checked before it is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


def available_memory() -> int:
    """The bytes that this process can still take.

    The least of three: what the machine has available, what the process's control group and those
    around it (a container's limit) leave, and what ``ulimit -v`` leaves. Page cache that the system
    gives back when it is asked counts as free.

    Returns:
        At least 0; ``sys.maxsize`` where nothing is known.

    Example:
        >>> available_memory() > 0
        True
    """
    limit = None
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            limit = None
    return _available(Path("/"), limit)


def check_memory(needed: int, what: str, mend: str) -> None:
    """Raises if something would take more memory than there is.

    Args:
        needed: Bytes that it takes.
        what: Its name, which begins the error's sentence.
        mend: What to do, which ends it.

    Raises:
        MemoryError: It does not fit into `available_memory`.

    Example:
        >>> check_memory(640_000, "The replay of 10,000 steps", "use a smaller capacity")
        >>> check_memory(
        ...     10**18, "The replay of 10,000 steps", "use a smaller capacity"
        ... )  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        MemoryError: The replay of 10,000 steps needs 1.0 EB, and ... free: use a smaller capacity.
    """
    available = available_memory()
    if needed > available:
        raise MemoryError(
            f"{what} needs {readable_bytes(needed)}, and {readable_bytes(available)} are free: "
            f"{mend}."
        )


def readable_bytes(n: int) -> str:
    """A number of bytes as people write it, in decimal units.

    Example:
        >>> readable_bytes(7_056_000_000), readable_bytes(640_000), readable_bytes(12)
        ('7.1 GB', '640 kB', '12 bytes')
    """
    if n < 1000:
        return f"{n} bytes"
    units = ("kB", "MB", "GB", "TB", "PB", "EB")
    thousands = 1
    while round(n / 1000**thousands) >= 1000 and thousands < len(units):
        thousands += 1
    x = n / 1000**thousands
    return f"{x:.1f} {units[thousands - 1]}" if x < 99.95 else f"{x:.0f} {units[thousands - 1]}"


def _available(root: Path, address_space: int | None) -> int:
    room = [*_machine(root), *_control_groups(root)]
    if address_space is not None:
        room += [address_space - size for size in _address_space_used(root)]
    return max(0, min(room, default=sys.maxsize))


def _machine(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, KeyError):
        yield _table(root / "proc/meminfo")["MemAvailable"] * 1024
        return
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):  # macOS tells only the second
        with suppress(OSError, ValueError, AttributeError):
            yield os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
            return


def _control_groups(root: Path) -> Iterator[int]:
    """What each control group that holds the process and has a limit leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A container sees its own group as the root, whatever its path is called outside.
        group = PurePosixPath(*(part for part in path.split("/") if part not in ("", "..")))
        for folder in {base / group, *(base / parent for parent in group.parents)}:
            yield from _room(folder, *names)


def _room(folder: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    # A group without a limit has no such file, or "max" in it.
    with suppress(OSError, ValueError):
        room = int((folder / limit).read_text()) - int((folder / used).read_text())
        with suppress(OSError, ValueError, KeyError):
            room += _table(folder / "memory.stat")[cache]
        yield room


def _address_space_used(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, KeyError):
        yield _table(root / "proc/self/status")["VmSize"] * 1024


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file of lines like ``MemAvailable:   1234 kB``."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}
