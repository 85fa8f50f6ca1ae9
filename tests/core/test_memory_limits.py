"""How much memory is left: on the machine, in the control groups and under the process's limit."""

import os
import resource
import subprocess
import sys

import pytest

from tfpg.core import memory
from tfpg.core.memory import available_memory, check_memory, readable_bytes

MEMINFO = """\
MemTotal:       24684092 kB
MemFree:        22077260 kB
MemAvailable:    8000000 kB
HugePages_Total:       0
"""
MACHINE = 8_000_000 * 1024
STATUS = "Name:\tpython\nVmPeak:\t    9000 kB\nVmSize:\t    2000 kB\nThreads:\t1\n"


@pytest.fixture(autouse=True)
def no_address_space_limit(monkeypatch):
    limit_address_space(monkeypatch, resource.RLIM_INFINITY)


def limit_address_space(monkeypatch, limit):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))


@pytest.fixture
def available(tmp_path):
    """A function that returns the memory available on a machine with these files."""

    def write(files=None):
        for name, text in {"proc/meminfo": MEMINFO, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return available_memory(tmp_path)

    return write


def group(folder, limit, used, stat="inactive_file 0\n"):
    """Files of a control group of version 2."""
    names = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    return {f"sys/fs/cgroup/{folder}{name}": f"{text}\n" for name, text in names.items()}


def group_v1(folder, limit, used, stat):
    names = {"limit_in_bytes": limit, "usage_in_bytes": used, "stat": stat}
    return {
        f"sys/fs/cgroup/memory/{folder}memory.{name}": f"{text}\n" for name, text in names.items()
    }


def test_the_machine_has_what_the_kernel_reports_as_available(available):
    assert available() == MACHINE


def test_without_proc_the_size_comes_from_sysconf(tmp_path, monkeypatch):
    known = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}  # macOS has no SC_AVPHYS_PAGES

    def sysconf(name):
        if name not in known:
            raise ValueError("unrecognized configuration name")
        return known[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert available_memory(tmp_path) == 4_096_000


def test_if_nothing_is_known_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert available_memory(tmp_path) == sys.maxsize


@pytest.mark.parametrize(
    ("path", "groups", "expected"),
    [
        ("/jobs/one", group("jobs/one/", 5000, 3000), 2000),
        ("/jobs/one", group("jobs/one/", 5000, 3000) | group("jobs/", 6000, 5500), 500),
        ("/one", group("one/", 5000, 4900, "anon 9\ninactive_file 700\nactive_file 300"), 800),
        ("/one", group("one/", "max", 4900), MACHINE),
        ("/one", group("one/", 5000, 6000), 0),
        ("/", group("", 5000, 1000), 4000),
        ("/docker/0123", group("", 5000, 1000), 4000),
        ("/../../kubepods/pod", group("", 5000, 1000), 4000),
    ],
    ids=["limit", "parent", "cache", "none", "exceeded", "root", "container", "outside"],
)
def test_control_groups_of_version_2(available, path, groups, expected):
    assert available({"proc/self/cgroup": f"0::{path}\n", **groups}) == expected


def test_control_groups_of_version_1(available):
    stat = "inactive_file 1\ntotal_inactive_file 50"
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/jobs/one\n1:cpuset:/\n0::/\n",
        **group_v1("jobs/one/", 4000, 3000, stat),
        **group_v1("jobs/", 9223372036854771712, 3000, stat),
    }
    assert available(files) == 1050


def test_an_address_space_limit_leaves_what_is_not_mapped(available, monkeypatch):
    limit_address_space(monkeypatch, 3_048_000)
    assert available({"proc/self/status": STATUS}) == 1_000_000


def test_an_address_space_limit_with_unknown_use_is_ignored(available, monkeypatch):
    limit_address_space(monkeypatch, 3_048_000)
    assert available() == MACHINE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_real_address_space_limit():
    code = (
        "import resource\n"
        "from tfpg.core.memory import available_memory, check_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (500_000_000, 500_000_000))\n"
        "left = available_memory()\n"
        "assert 100_000_000 < left < 500_000_000, left\n"
        "held = bytearray(left * 3 // 4)\n"
        "assert available_memory() < left // 3\n"
        "try:\n    bytearray(left // 2)\n"
        "except MemoryError:\n    pass\n"
        "else:\n    raise AssertionError('there is no limit')\n"
        "check_memory(left // 2, 'A replay buffer', 'keep fewer steps')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("MemoryError: A replay buffer needs "), done.stderr
    assert last.endswith(" are free: keep fewer steps.")


def test_the_error_names_the_allocation_and_the_remedy(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 3_200_000_000)
    check_memory(3_200_000_000, "The replay buffer", "use a smaller capacity")
    with pytest.raises(MemoryError) as caught:
        check_memory(7_060_000_000, "The replay buffer", "use a smaller capacity")
    assert str(caught.value) == (
        "The replay buffer needs 7.1 GB, but only 3.2 GB are free: use a smaller capacity."
    )


def test_this_process_can_allocate_something():
    assert 1_000_000 < available_memory() < sys.maxsize


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (640_000, "640 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (7_056_000_000, "7.1 GB"),
        (24_000_000_000, "24.0 GB"),
        (10**21, "1000 EB"),
    ],
)
def test_readable_bytes(n, text):
    assert readable_bytes(n) == text
