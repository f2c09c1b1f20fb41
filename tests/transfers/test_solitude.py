import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from queued_storage.transfers import solitude as module
from queued_storage.transfers.solitude import Solitude
from tests.support.waiting import until

pytestmark = pytest.mark.one_database


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as found:
        yield found


class Work:
    """A thread that processes a file beside others."""

    def __init__(self, solitude: Solitude, pool: ThreadPoolExecutor) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.thread = 0
        self._solitude = solitude
        self.future = pool.submit(self._run)

    def _run(self) -> None:
        with self._solitude.beside_others():
            self.thread = threading.get_ident()
            self.begun.set()
            assert self.may_end.wait(60)


def test_files_are_processed_beside_each_other(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    works = [Work(solitude, pool) for _file in range(2)]
    for work in works:
        assert work.begun.wait(60)
        work.may_end.set()


def test_nothing_begins_beside_a_file_alone(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    with solitude.alone() as is_alone:
        assert is_alone
        work = Work(solitude, pool)
        until(lambda: solitude.delays_others)
        assert not work.begun.is_set()
    assert work.begun.wait(60)
    work.may_end.set()


def test_file_is_alone_once_others_ended(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    work = Work(solitude, pool)
    assert work.begun.wait(60)
    asks = 0

    def end_the_other() -> bool:
        nonlocal asks
        asks += 1
        work.may_end.set()
        return False

    with solitude.alone(unless=end_the_other) as is_alone:
        assert is_alone
    assert asks == 1


def test_large_file_is_waited_for_longer_each_time(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    solitude = Solitude()
    solitude._patience = 0.01
    work = Work(solitude, pool)
    assert work.begun.wait(60)
    for patience in (0.02, 0.04):
        with solitude.alone() as is_alone:
            assert not is_alone
        assert solitude._patience == patience
    work.may_end.set()
    work.future.result(60)
    with solitude.alone() as is_alone:
        assert is_alone
    assert solitude._patience == module.PATIENCE


def test_others_have_their_turn(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    with solitude.alone() as is_alone:
        assert is_alone
        work = Work(solitude, pool)
        until(lambda: solitude.delays_others)
        solitude._began -= 60  # it took a minute
    with solitude.alone(unless=lambda: False) as is_alone:
        assert not is_alone
    work.may_end.set()


def test_one_file_is_alone_at_a_time(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()

    def is_alone() -> bool:
        with solitude.alone(unless=lambda: False) as found:
            return found

    with solitude.alone():
        assert pool.submit(is_alone).result(60) is False
    assert pool.submit(is_alone).result(60) is True


def test_lone_thread_does_not_block_itself() -> None:
    """A transfer may process other files by itself."""
    solitude = Solitude()
    with solitude.alone(), solitude.beside_others(), solitude.alone() as is_alone:
        assert is_alone
    with solitude.beside_others(), solitude.beside_others(), solitude.alone() as is_alone:
        assert is_alone


def test_file_that_takes_long_does_not_stay_alone(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALONE_MAX", 0.05)
    solitude = Solitude()
    with solitude.alone() as is_alone:
        assert is_alone
        work = Work(solitude, pool)
        assert work.begun.wait(60)
        work.may_end.set()
        work.future.result(60)


def test_hung_thread_is_not_waited_for(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    work = Work(solitude, pool)
    assert work.begun.wait(60)
    solitude.give_up(work.thread)
    with solitude.alone() as is_alone:
        assert is_alone
        work.may_end.set()
        work.future.result(60)  # it goes on after all


def test_process_that_stops_waits_for_nothing(pool: ThreadPoolExecutor) -> None:
    solitude = Solitude()
    work = Work(solitude, pool)
    assert work.begun.wait(60)
    with solitude.alone(unless=lambda: True) as is_alone:
        assert not is_alone
    work.may_end.set()
