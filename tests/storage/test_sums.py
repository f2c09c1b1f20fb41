"""What a process knows of the sums of the ledger."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.localsides import PendingParts
from queued_storage.storage import sums
from tests.support.scripted import LONG_AGO, file, make

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    sums._sums.clear()
    yield
    sums._sums.clear()


def test_threads_of_a_process_share_what_they_know() -> None:
    asked = []

    def ask() -> int:
        asked.append(1)
        return 0

    known = sums.HardSum(lambda seconds: PendingParts(ask(), 0, LONG_AGO), lambda moment: 0)
    assert known.take(400, 1000) == 0
    assert known.take(400, 1000) == 0
    assert known.take(400, 1000) == 200  # the rows of the others are not inserted yet
    known.recorded(400)
    known.recorded(400)
    assert known.take(400, 1000) == 0  # they are in what the ledger answered
    assert len(asked) == 4


class Ledger:
    """The sums of a ledger with very many rows."""

    def __init__(self, older: int) -> None:
        self.older = older
        self.recent = 0
        self.asked: list[str] = []

    def in_parts(self, seconds: float) -> PendingParts:
        self.asked.append("all")
        return PendingParts(self.older, self.recent, LONG_AGO)

    def since(self, moment: datetime) -> int:
        assert moment == LONG_AGO
        self.asked.append("recent")
        return self.recent


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every sum of all rows count as one that takes long."""
    monkeypatch.setattr(sums, "QUICK", -1.0)
    monkeypatch.setattr(sums, "COST", 1e9)


def test_of_many_rows_only_recent_ones_are_asked_for(slow: None) -> None:
    sizes = Ledger(older=10_000)
    known = sums.HardSum(sizes.in_parts, sizes.since)
    assert known.take(100, 10_400) == 0
    known.recorded(100)
    sizes.recent = 200  # another process has saved, too
    assert known.take(100, 10_400) == 0
    known.recorded(100)
    assert sizes.asked == ["all", "recent"]
    sizes.recent = 300
    assert known.take(101, 10_400) == 1


def test_no_file_is_refused_before_all_rows_were_summed_up(
    slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "REFUSE_FOR", 0)
    sizes = Ledger(older=10_000)
    known = sums.HardSum(sizes.in_parts, sizes.since)
    assert known.take(100, 10_000) == 100
    sizes.older = 9_900  # a worker has transferred a file
    assert known.take(100, 10_000) == 0


def test_refusals_do_not_sum_up_all_rows_each(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "REFUSE_FOR", 1e9)
    sizes = Ledger(older=10_000)
    known = sums.HardSum(sizes.in_parts, sizes.since)
    for _save in range(3):
        assert known.take(100, 10_000) == 100
    assert sizes.asked.count("all") == 1


def test_the_cap_is_held_among_many_rows(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, each with sums of its own."""
    monkeypatch.setattr(sums, "REFUSE_FOR", 0)
    storage: Any = make(max_pending_bytes=1000)
    sums_of: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    storage.save("old.bin", file(b"x" * 400))
    ledger().update(saved_at=LONG_AGO)
    refused = 0
    for number in range(6):
        monkeypatch.setattr(sums, "_sums", sums_of[number % 2])
        try:
            storage.save(f"{number}.bin", file(b"x" * 200))
        except NoRoom:
            refused += 1
    assert refused == 3
    storage.queue.deliver()
    storage.save("more.bin", file(b"x" * 1000))
