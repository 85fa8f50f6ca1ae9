"""The first signal waits for the end of an iteration, the second one does not."""

import signal
import subprocess
import sys
import threading

import pytest

from tfpg.core.signals import deferred_signals


def take_signals():
    """A process ignores SIGINT that a shell starts in the background, and SIGHUP under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(code, **options):
    return subprocess.run(
        [sys.executable, "-c", f"import os, signal, sys, time\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=take_signals,
        **options,
    )


EXITS = """
from tfpg.core.signals import raise_on_signals
raise_on_signals()
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(10)
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", -2), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_raise_exceptions_so_that_cleanup_runs(name, code):
    done = run(EXITS.format(name=name))
    assert (done.stdout, done.returncode) == ("cleaned up\n", code)


IGNORED = """
from tfpg.core.signals import deferred_signals, raise_on_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
raise_on_signals()
with deferred_signals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    print(bool(stop))
os.kill(os.getpid(), signal.SIGHUP)
print("still running")
"""


def test_a_signal_that_is_ignored_at_the_start_stays_ignored():
    done = run(IGNORED)
    assert (done.stdout, done.returncode) == ("False\nstill running\n", 0), done.stderr


DEFERRED = """
from tfpg.core.signals import deferred_signals, raise_on_signals
raise_on_signals()
with deferred_signals("finishing\\n") as stop:
    for iteration in range(5):
        for _ in range({count} if iteration == 2 else 0):
            os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
        print(iteration)
        stop.raise_if_set()
"""


@pytest.mark.parametrize(
    ("name", "code", "notice"),
    [("SIGINT", -2, "finishing\n"), ("SIGTERM", 143, ""), ("SIGHUP", 129, "")],
)
def test_the_first_signal_waits_until_it_is_checked(name, code, notice):
    done = run(DEFERRED.format(name=name, count=1))
    assert (done.stdout, done.returncode) == ("0\n1\n2\n", code)
    assert done.stderr.startswith(notice)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", -2), ("SIGTERM", 143)])
def test_the_second_signal_raises_at_once(name, code):
    done = run(DEFERRED.format(name=name, count=2))
    assert (done.stdout, done.returncode) == ("0\n1\n", code)


def test_without_a_signal_nothing_is_raised_and_the_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with deferred_signals() as stop:
        assert signal.getsignal(signal.SIGTERM) is not before
        stop.raise_if_set()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stop


def test_another_thread_handles_no_signals():
    found = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with deferred_signals() as stop:
            found.extend([bool(stop), signal.getsignal(signal.SIGTERM) is before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, True]


FORKED = """
import multiprocessing
from tfpg.core.signals import deferred_signals, raise_on_signals
raise_on_signals()
fork = multiprocessing.get_context("fork")
with deferred_signals("finishing") as stop:
    helper = fork.Process(target=time.sleep, args=(60,), daemon=True)
    helper.start()
    time.sleep(0.2)
    helper.terminate()
    helper.join(20)
    print(helper.exitcode, bool(stop))
"""


def test_a_forked_child_ends_at_once():
    done = run(FORKED)
    assert (done.stdout, done.stderr, done.returncode) == ("143 False\n", "", 0)


BLOCKED = """
import subprocess
from tfpg.core.signals import blocked, raise_on_signals
raise_on_signals()
with blocked():
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); "
                              "time.sleep(0.5); print(2)"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"1\\n"
try:
    os.killpg(0, signal.SIGINT)  # as a terminal does
    time.sleep(5)
except KeyboardInterrupt:
    print(child.communicate()[0], child.returncode)
"""


def test_a_process_started_while_signals_are_blocked_never_receives_them():
    done = run(BLOCKED, process_group=0)
    assert (done.stdout, done.returncode) == ("b'2\\n' 0\n", 0), done.stderr
