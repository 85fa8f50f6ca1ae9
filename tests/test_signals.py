import signal
import subprocess
import sys
import time

import pytest


def start(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background of a shell, a process is told to ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


LOST = """
import os, signal
from tfpg import signals

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
        [sys.executable, "-c", "from tfpg import signals; signals.listen(); signals.check()"],
        check=False,
    )
    assert done.returncode == 0


LATE = """
import os, signal
from tfpg import signals

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
from tfpg import signals

signals.listen()
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
    [([signal.SIGINT] * 2, 130, "waits"), ([signal.SIGTERM], 143, ""), ([signal.SIGHUP], 129, "")],
    ids=["twice", "grace", "hangup"],
)
def test_one_long_call_does_not_keep_it(numbers, code, err):
    """In which Python runs no handler."""
    begun = time.monotonic()
    process = start(LONG.format(rounds=10**9))
    assert process.stdout.readline() == "begins\n"
    for number in numbers:
        time.sleep(0.2)
        process.send_signal(number)
    assert process.communicate(timeout=60) == ("ends\n", err)
    assert process.returncode == code
    assert time.monotonic() - begun < 10


def test_what_comes_out_of_its_call_ends_by_itself():
    process = start(LONG.format(rounds=3_000_000))  # most of a second
    assert process.stdout.readline() == "begins\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    assert out == "raises KeyboardInterrupt\n"
    assert err.startswith("waits")
    assert process.returncode == -signal.SIGINT


def test_it_is_told_at_once_that_it_waits():
    process = start(LONG.format(rounds=10**9))
    assert process.stdout.readline() == "begins\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read(5) == "waits"
    assert process.poll() is None
    process.kill()
    process.communicate()


AFTER = """
import os, signal, threading
from tfpg import signals

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
