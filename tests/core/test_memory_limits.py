"""What memory is left: by the machine, the control groups, and the process's own limit."""

import subprocess
import sys

import pytest

from tfpg.core import memory
from tfpg.core.memory import _available, available_memory, check_memory, readable_bytes

MEMINFO = """\
MemTotal:       24684092 kB
MemFree:        22077260 kB
MemAvailable:    8000000 kB
HugePages_Total:       0
"""
MACHINE = 8_000_000 * 1024


@pytest.fixture
def root(tmp_path):
    """A function that writes files below a root folder, and returns the root."""

    def write(**files):
        for name, text in {"proc/meminfo": MEMINFO, **files.pop("files", {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def group(folder, limit, used, stat="inactive_file 0\n"):
    """The files of a control group of version 2."""
    names = ("memory.max", "memory.current", "memory.stat")
    return {
        f"sys/fs/cgroup/{folder}{name}": f"{text}\n"
        for name, text in zip(names, (limit, used, stat), strict=True)
    }


def group_v1(folder, limit, used, stat):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return {
        f"sys/fs/cgroup/memory/{folder}{name}": f"{text}\n"
        for name, text in zip(names, (limit, used, stat), strict=True)
    }


class TestMachine:
    def test_what_the_kernel_says_is_available(self, root):
        assert _available(root(), None) == MACHINE

    def test_without_proc_the_system_is_asked(self, tmp_path, monkeypatch):
        told = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}  # macOS knows no SC_AVPHYS_PAGES

        def sysconf(name):
            if name not in told:
                raise ValueError("unrecognized configuration name")
            return told[name]

        monkeypatch.setattr(memory.os, "sysconf", sysconf)
        assert _available(tmp_path, None) == 4_096_000

    def test_where_nothing_is_known_nothing_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.delattr(memory.os, "sysconf")
        assert _available(tmp_path, None) == sys.maxsize


class TestControlGroups:
    def test_version_2(self, root):
        files = {"proc/self/cgroup": "0::/jobs/one\n", **group("jobs/one/", 5000, 3000)}
        assert _available(root(files=files), None) == 2000

    def test_a_parent_may_leave_less(self, root):
        files = {
            "proc/self/cgroup": "0::/jobs/one\n",
            **group("jobs/one/", 5000, 3000),
            **group("jobs/", 6000, 5500),
        }
        assert _available(root(files=files), None) == 500

    def test_inactive_page_cache_is_free(self, root):
        stat = "anon 1000\ninactive_file 700\nactive_file 300"
        files = {"proc/self/cgroup": "0::/one\n", **group("one/", 5000, 4900, stat)}
        assert _available(root(files=files), None) == 800

    def test_max_is_no_limit(self, root):
        files = {"proc/self/cgroup": "0::/one\n", **group("one/", "max", 4900)}
        assert _available(root(files=files), None) == MACHINE

    @pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../kubepods/pod"])
    def test_a_container_sees_its_group_as_the_root(self, root, path):
        files = {"proc/self/cgroup": f"0::{path}\n", **group("", 5000, 1000)}
        assert _available(root(files=files), None) == 4000

    def test_version_1(self, root):
        stat = "inactive_file 1\ntotal_inactive_file 50"
        files = {
            "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/jobs/one\n1:cpuset:/\n0::/\n",
            **group_v1("jobs/one/", 4000, 3000, stat),
            **group_v1("jobs/", 9223372036854771712, 3000, stat),
        }
        assert _available(root(files=files), None) == 1050

    def test_a_group_over_its_limit_leaves_nothing(self, root):
        files = {"proc/self/cgroup": "0::/one\n", **group("one/", 5000, 6000)}
        assert _available(root(files=files), None) == 0


class TestAddressSpace:
    STATUS = "Name:\tpython\nVmPeak:\t    9000 kB\nVmSize:\t    2000 kB\nThreads:\t1\n"

    def test_the_limit_less_what_is_mapped(self, root):
        files = {"proc/self/status": self.STATUS}
        assert _available(root(files=files), 3_048_000) == 1_000_000

    def test_unknown_use_is_no_limit(self, root):
        assert _available(root(), 3_048_000) == MACHINE

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
    def test_a_real_limit(self):
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
            "else:\n    raise AssertionError('the limit is none')\n"
            "check_memory(left // 2, 'A replay of 10 steps', 'keep fewer steps')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert last.startswith("MemoryError: A replay of 10 steps needs "), done.stderr
        assert last.endswith(" are free: keep fewer steps.")


class TestCheckMemory:
    def test_one_line_says_what_and_what_to_do(self, monkeypatch):
        monkeypatch.setattr(memory, "available_memory", lambda: 3_200_000_000)
        with pytest.raises(MemoryError) as caught:
            check_memory(7_060_000_000, "The replay of 1,000,000 steps", "use a smaller capacity")
        assert str(caught.value) == (
            "The replay of 1,000,000 steps needs 7.1 GB, and 3.2 GB are free: "
            "use a smaller capacity."
        )

    def test_what_fits_passes(self, monkeypatch):
        monkeypatch.setattr(memory, "available_memory", lambda: 100)
        check_memory(100, "It", "mend it")
        with pytest.raises(MemoryError):
            check_memory(101, "It", "mend it")

    def test_the_command_line_prints_it_as_it_reads(self):
        from tfpg.cli.startup import message as _message

        assert _message(MemoryError("It needs 7.1 GB.")) == "It needs 7.1 GB."
        assert _message(MemoryError()) == "MemoryError"

    def test_this_process_can_take_something(self):
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
