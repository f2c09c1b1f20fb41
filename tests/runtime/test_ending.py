import subprocess
import sys
import time

import pytest

from queued_storage.runtime import ending
from tests.support.waiting import SOON

pytestmark = pytest.mark.one_database

START = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from queued_storage.runtime import ending
ending.PATIENCE = 0.1
"""
HANG = """
pool = ThreadPoolExecutor(1)
pool.submit(threading.Event().wait)  # Python waits for it
"""
TELL = """
def tell():
    while not ending.has_begun():
        time.sleep(0.01)
    print(ending.was_noticed(), flush=True)
    time.sleep(0.5)
threading.Thread(target=tell).start()
time.sleep(0.2)
assert not ending.was_noticed()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, timeout=60
    )


def test_end_of_the_process_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ending.has_begun()
    assert run(TELL).stdout == "True\n"


def test_system_without_threads_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    assert not ending.has_begun()


def test_process_ends_despite_a_pool_that_hangs() -> None:
    assert run(HANG + "ending.require_end()").returncode == 1


def test_process_that_goes_on_is_not_ended() -> None:
    found = run("ending.require_end(); time.sleep(1.5); print('goes on')")
    assert (found.returncode, found.stdout) == (0, "goes on\n")


def test_block_is_bounded() -> None:
    started = time.monotonic()
    found = run("print('begins')\nwith ending.bounded(0.1): time.sleep(60)")
    assert (found.returncode, found.stdout) == (1, "begins\n")
    assert time.monotonic() - started < 10 * SOON
    assert run("with ending.bounded(0.3): pass\ntime.sleep(0.6)").returncode == 0
