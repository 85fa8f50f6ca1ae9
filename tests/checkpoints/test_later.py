"""Work that waits for a long call: done once, by another thread, and never lost."""

import gc
import os
import signal
import threading
import time
import weakref

import pytest

from tfpg.checkpoints.later import Later


@pytest.fixture
def later():
    found = Later()
    yield found
    found.close()


def within(function, seconds=10.0):
    """Whether it ends in time."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_begins_when_it_is_told_and_not_before(later):
    done = threading.Event()
    later.give(done.set)
    assert not done.wait(0.1)
    assert not later.ended
    later.now()
    assert done.wait(10)
    assert later.wait()
    assert later.ended


def test_begins_at_last_where_it_is_waited_for(later):
    threads = []
    later.give(lambda: threads.append(threading.current_thread()))
    assert later.wait()
    assert threads != [threading.current_thread()]
    assert len(threads) == 1


def test_is_done_once_however_often_it_is_told(later):
    done = []
    for n in range(20):
        later.give(lambda n=n: done.append(n))
        for _ in range(n % 4):
            later.now()
        later.wait()
        later.now()
        later.wait()
    assert done == list(range(20))


def test_nothing_to_do(later):
    later.now()
    assert later.ended
    assert later.wait()
    later.close()


def test_what_it_raises_is_raised_once_to_who_waits(later):
    def fail():
        raise TypeError("no state")

    later.give(fail)
    later.now()
    with pytest.raises(TypeError, match="no state"):
        later.wait()
    assert later.wait()
    later.give(lambda: None)  # and it goes on
    assert later.wait()


def test_not_longer_than_is_wanted(later):
    go = threading.Event()
    later.give(go.wait)
    began = time.monotonic()
    assert not later.wait(0.2)
    assert 0.1 < time.monotonic() - began < 5
    assert not later.ended
    go.set()
    assert later.wait()


def test_an_interruption_of_who_waits_loses_nothing(later):
    go, done = threading.Event(), []

    def work():
        go.wait()
        done.append(1)

    later.give(work)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        later.wait()
    assert not later.ended
    go.set()
    assert later.wait()
    assert done == [1]


def test_closed_it_has_no_thread_and_can_be_used_again(later):
    before = threading.active_count()
    for _ in range(3):
        later.give(lambda: None)
        assert threading.active_count() == before + 1
        assert later.wait()
        later.close()
        assert threading.active_count() == before


def test_a_forked_process_does_not_wait_for_a_thread_it_has_not(later):
    later.give(lambda: None)
    pid = os.fork()
    if not pid:
        os._exit(0 if within(later.wait, 8) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert later.wait()


def test_without_a_thread_it_is_done_at_once(later, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    done = []
    monkeypatch.setattr(threading.Thread, "start", start)
    later.give(lambda: done.append(1))
    assert done == [1]
    assert later.ended
    later.now()
    assert later.wait()
    later.close()
    monkeypatch.undo()
    later.give(lambda: done.append(2))
    later.wait()
    assert done == [1, 2]


@pytest.mark.parametrize("begun", [False, True])
def test_who_is_forgotten_leaves_no_thread(begun):
    class Owner:
        def __init__(self):
            self.later = Later()
            self.later.give(self.work)

        def work(self):
            pass

    before = threading.active_count()
    owner = Owner()
    if begun:
        owner.later.wait()
    seen = weakref.ref(owner)
    del owner
    gc.collect()
    assert seen() is None
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before
