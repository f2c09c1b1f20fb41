import threading
from collections.abc import Iterator

import pytest

from queued_storage.runtime import hung
from tests.support.waiting import until

pytestmark = pytest.mark.one_database


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    goes_on = threading.Event()
    yield goes_on
    goes_on.set()
    until(lambda: not hung.count())


def thread(goes_on: threading.Event) -> threading.Thread:
    started = threading.Thread(target=goes_on.wait, daemon=True)
    started.start()
    return started


def test_hung_threads_are_replaced_up_to_a_limit(
    hang: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hung, "MOST", 2)
    assert [hung.add(thread(hang)) for _thread in range(3)] == [True, True, False]
    assert hung.count() == 3
    assert hung.are_too_many()


def test_thread_that_goes_on_is_not_counted(hang: threading.Event) -> None:
    assert hung.add(thread(hang))
    assert hung.count() == 1
    hang.set()
    until(lambda: hung.count() == 0)
    assert not hung.are_too_many()
