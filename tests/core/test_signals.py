import signal
import subprocess
import sys
import time

import pytest


def start(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background of a shell, a process is told to ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


LOST = """
import os, signal
from tfpg.core import signals

signals.listen()

class Ends:
    def __del__(self):  # exceptions that are raised here are ignored
        os.kill(os.getpid(), {number})

Ends()
print("lost", flush=True)
signals.check()
print("forgotten", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code", "error"),
    [("signal.SIGINT", -2, "KeyboardInterrupt"), ("signal.SIGTERM", 143, "SystemExit: 143")],
)
def test_what_is_raised_where_it_is_ignored_is_raised_again(number, code, error):
    done = subprocess.run(
        [sys.executable, "-c", LOST.format(number=number)],
        capture_output=True,
        text=True,
        check=False,
        # Started in the background of a shell, a process is told to ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.stdout, done.returncode) == ("lost\n", code)
    assert "Exception ignored in: <function Ends.__del__" in done.stderr
    assert error in done.stderr


def test_nothing_is_raised_when_there_was_no_signal():
    done = subprocess.run(
        [sys.executable, "-c", "from tfpg.core import signals; signals.listen(); signals.check()"],
        check=False,
    )
    assert done.returncode == 0


LATE = """
import os, signal
from tfpg.core import signals

signals.listen()
with signals.deferred():
    os.kill(os.getpid(), {number})
    print("waits", signals.waiting(), flush=True)
print("forgotten", flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [("signal.SIGINT", -2), ("signal.SIGTERM", 143)])
def test_what_waits_is_raised_in_the_end(number, code):
    """Also where nobody looked after it had come."""
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(number=number)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.stdout, done.returncode) == ("waits True\n", code)


LONG = """
import hashlib, signal, sys
from tfpg.core import signals

signals.listen()
signals._PATIENCE = {patience}
with signals.deferred("waits", grace=0.5, last_words=lambda: print("ends", flush=True)):
    print("begins", flush=True)
    try:
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})  # hears of nothing until it returns
    except BaseException as error:
        print("raises", type(error).__name__, flush=True)
        raise
print("forgotten", flush=True)
"""


@pytest.mark.parametrize(
    ("numbers", "code", "err"),
    [
        ([signal.SIGINT] * 2, 130, "waitstfpg: interrupted.\n"),
        ([signal.SIGTERM], 143, ""),
        ([signal.SIGHUP], 129, ""),
    ],
    ids=["twice", "grace", "hangup"],
)
def test_one_long_call_does_not_keep_it(numbers, code, err):
    """In which Python runs no handler."""
    begun = time.monotonic()
    process = start(LONG.format(rounds=10**9, patience=0.5))
    assert process.stdout.readline() == "begins\n"
    for number in numbers:
        time.sleep(0.2)
        process.send_signal(number)
    assert process.communicate(timeout=60) == ("ends\n", err)
    assert process.returncode == code
    assert time.monotonic() - begun < 10


def test_what_comes_out_of_its_call_ends_by_itself():
    process = start(LONG.format(rounds=3_000_000, patience=60))  # most of a second
    assert process.stdout.readline() == "begins\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    assert out == "raises KeyboardInterrupt\n"
    assert err.startswith("waits")
    assert process.returncode == -signal.SIGINT


def test_it_is_told_at_once_that_it_waits():
    process = start(LONG.format(rounds=10**9, patience=0.5))
    assert process.stdout.readline() == "begins\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read(5) == "waits"
    assert process.poll() is None
    process.kill()
    process.communicate()


AFTER = """
import os, signal, threading
from tfpg.core import signals

signals.listen()
for _ in range(3):
    with signals.deferred():
        assert threading.active_count() == 2
    assert threading.active_count() == 1
    assert signal.set_wakeup_fd(-1) == -1
"""


def test_nothing_of_it_is_left():
    process = start(AFTER)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


FORKED = """
import multiprocessing, os, signal, sys, threading, time
slow = 0.0
os.register_at_fork(after_in_child=lambda: time.sleep(slow))  # before that of tfpg
from tfpg.core import signals

signals.listen()
fork = multiprocessing.get_context("fork")
begun = fork.Semaphore(0)
def helps():
    begun.release()
    time.sleep(1000)

with signals.deferred("waits", grace=1.0):
    helpers = [fork.Process(target=helps, daemon=True) for _ in range(2)]
    for helper in helpers:
        helper.start()
        begun.acquire()
    helpers[0].terminate()  # which is its own, and not this process's
    helpers[0].join(20)
    print(helpers[0].exitcode, flush=True)
    slow = 1.0
    early = fork.Process(target=time.sleep, args=(1000,), daemon=True)
    early.start()
    early.terminate()
    early.join(20)
    print(early.exitcode, flush=True)
    os.killpg(0, signal.SIGINT)  # as a terminal does
    helpers[1].join(20)
    time.sleep(2.0)
    print("finished", signals.waiting(), flush=True)
    try:
        signals.check()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    signals._received.clear()
    slow = 0.0
    last = fork.Process(target=time.sleep, args=(1000,), daemon=True)
    last.start()
print("left", threading.active_count(), flush=True)
last.kill()
"""


def test_forked_processes_have_signals_of_their_own():
    process = start(FORKED, process_group=0)
    out, err = process.communicate(timeout=60)
    assert out == "143\n-15\nfinished True\ninterrupted\nleft 1\n", err
    assert process.returncode == 0


SWALLOWED = """
import sys, time
from tfpg.core import signals

signals.listen()
signals._UNWINDING = 0.5
with signals.deferred(grace=1.0):
    print("begins", flush=True)
    for _ in range(2):
        try:
            time.sleep(30)
        except BaseException as error:
            print("swallowed", type(error).__name__, flush=True)
"""


def test_what_is_swallowed_is_asked_for_again():
    begun = time.monotonic()
    process = start(SWALLOWED)
    assert process.stdout.readline() == "begins\n"
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert out == "swallowed SystemExit\n" * 2
    assert process.returncode == 143
    assert time.monotonic() - begun < 15


MANY = """
import os, resource, time
from tfpg.core import signals

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
signals.listen()
with signals.deferred("waits", grace=1.0):
    print("begins", flush=True)
    time.sleep(30)
"""


def test_many_open_files():
    process = start(MANY)
    assert process.stdout.readline() == "begins\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 143
