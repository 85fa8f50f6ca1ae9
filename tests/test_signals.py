import signal
import subprocess
import sys

import pytest

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
