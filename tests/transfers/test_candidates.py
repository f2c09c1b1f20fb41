"""Looks for files to evict that take longer than there is time."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from queued_storage.files import lastread
from queued_storage.ledger.database import ledger
from queued_storage.transfers import candidates, freeing
from queued_storage.transfers.freeing import Freeing
from tests.support.scripted import LONG_AGO, file, make
from tests.support.small_disks import age

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = 3600


class SlowDisk:
    """A clock that moves on by a second with each look at a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.looks: list[str] = []
        self._last_read = lastread.last_read
        monkeypatch.setattr(lastread, "last_read", self.last_read)
        for module in (candidates, freeing):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def last_read(self, storage: Any, name: str) -> float | None:
        self.now += 1
        self.looks.append(name)
        return self._last_read(storage, name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    monkeypatch.setattr(candidates, "CHUNK", 2)
    yield SlowDisk(monkeypatch)
    candidates._seen.clear()


@pytest.fixture
def storage() -> Any:
    """A storage with twenty transferred files, of which the first was read last."""
    storage = make()
    for number in range(20):
        storage.save(f"{number:02}.txt", file(b"x" * 100))
    storage.queue.deliver()
    for number in range(20):
        age(storage.local.path(f"{number:02}.txt"), (number + 1) * HOUR)
    return storage


def local_names(storage: Any) -> list[str]:
    rows = ledger().filter(alias=storage.alias, is_local=True).order_by("name")
    return list(rows.values_list("name", flat=True))


def free(storage: Any, disk: SlowDisk, wanted: int, seconds: float) -> int:
    return Freeing(storage, asks_remote=False, until=disk.now + seconds).free(wanted).freed_files


def test_the_oldest_of_those_that_were_seen_go(storage: Any, disk: SlowDisk) -> None:
    assert free(storage, disk, 200, seconds=12) == 2
    assert len(disk.looks) == 6  # which took half of the time
    assert set(local_names(storage)) == {f"{number:02}.txt" for number in range(20)} - {
        "04.txt",
        "05.txt",
    }


def test_the_next_look_goes_on_there(storage: Any, disk: SlowDisk) -> None:
    for _time in range(5):
        assert free(storage, disk, 200, seconds=8) == 2
    assert sorted(set(disk.looks)) == [f"{number:02}.txt" for number in range(20)]
    assert len(local_names(storage)) == 10
    assert free(storage, disk, 10_000, seconds=100) == 10  # from the start again


def test_what_a_long_look_has_found_is_used_up_first(
    storage: Any, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SHARE", 4)
    assert free(storage, disk, 100, seconds=1000) == 1
    assert len(disk.looks) == 20
    disk.looks.clear()
    age(storage.local.path("17.txt"), 0)  # it was read since
    assert free(storage, disk, 300, seconds=1000) == 3
    assert disk.looks == ["18.txt", "17.txt", "16.txt", "15.txt"]


def test_what_was_found_long_ago_is_forgotten(storage: Any, disk: SlowDisk) -> None:
    assert free(storage, disk, 100, seconds=1000) == 1
    disk.looks.clear()
    disk.now += 2 * candidates.REMEMBER_FOR
    assert free(storage, disk, 100, seconds=1000) == 1
    assert len(disk.looks) == 19


def test_new_content_is_young_although_the_storage_knows_no_times(
    disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_last_read", lambda storage, name: None)
    monkeypatch.setattr(candidates, "SHARE", 1)
    storage = make(keep_local={"max_bytes": 1, "min_age": "1h"})
    for number in range(5):
        storage.save(f"{number}.txt", file(b"x" * 100))
    storage.queue.deliver()
    ledger().update(saved_at=LONG_AGO)
    assert free(storage, disk, 100, seconds=1000) == 1
    kept = local_names(storage)[0]
    with storage.open(kept, "wb") as opened:
        opened.write(b"y" * 100)
    storage.queue.deliver()
    assert free(storage, disk, 100_000, seconds=1000) == 3
    assert local_names(storage) == [kept]


def test_an_open_file_is_not_tried_twice(storage: Any, disk: SlowDisk) -> None:
    with storage.local.open("19.txt"):
        assert free(storage, disk, 100_000, seconds=1000) == 19
    assert local_names(storage) == ["19.txt"]
