"""Threads for what a request must not wait for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from queued_storage.runtime.aside import Aside


def test_a_thread_that_is_being_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    aside, action = Aside("test-aside"), threading.Event()
    starting, may_start = threading.Event(), threading.Event()
    start = threading.Thread.start

    def slow_start(thread: threading.Thread) -> None:
        if thread.name == "test-aside":
            starting.set()
            assert may_start.wait(10)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    with ThreadPoolExecutor(2) as others:
        started = others.submit(aside.start, action.set)
        assert starting.wait(10)
        waited = others.submit(aside.wait, 10)
        may_start.set()
        started.result(10)
        waited.result(10)
    assert action.is_set()
