"""A process whose environment hangs reports it and exits."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from tfpg.envs.watchdog import Watchdog

watchdog = Watchdog(0.2, lambda error: print(error, flush=True))
with watchdog.call(7, at_least=0.1):
    pass  # a call that returns is not reported
with watchdog.call({call}):
    time.sleep(20)
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("3, at_least=0.5", "3 (being made) did not respond within 0.5 s and was killed."),
        ("3, 8", "3 (being reset, seed 8) did not respond within 0.2 s and was killed."),
        (
            "3, 8, 5, 1",
            "3 (step 5 of its episode, seed 8, action 1) did not respond within 0.2 s and was "
            "killed.",
        ),
    ],
)
def test_a_call_that_takes_too_long_is_reported(call, expected):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.strip() == f"The process of environment {expected}"


BLOCKING = """
import re
from tfpg.envs.watchdog import Watchdog

watchdog = Watchdog(0.5, print)
with watchdog.call(0, at_least=1000):
    pass
with watchdog.call(0, 8, 0):
    re.match("(a+)+$", "a" * 60 + "b")  # lets no other thread run
"""


def test_a_step_that_blocks_right_after_a_longer_call_ends_the_process():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKING], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Timeout (0:00:02)!" in done.stderr
