"""Saves to a local storage that is full, or at its limit."""

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.localsides import local_sides
from queued_storage.signals import file_evicted
from queued_storage.storage import room, sums
from tests.support.scripted import file, make, on_disk, read, row
from tests.support.small_disks import MEGABYTE, age, remount, small_disk
from tests.transfers.workers import on_signal

pytestmark = pytest.mark.django_db(transaction=True)
LARGE = 300_000  # bytes; three such files fit on the small disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", MEGABYTE) as path:
        yield path


@pytest.fixture(autouse=True)
def no_memory() -> None:
    sums._sums.clear()
    room._evict_again_at.clear()


def on(disk: Path, **options: Any) -> Any:
    return make(local=FileSystemStorage(disk), **options)


def content(size: int = LARGE, letter: str = "x") -> ContentFile:
    return file(letter.encode() * size)


def names(storage: Any) -> list[str]:
    return list(ledger().filter(alias=storage.alias).order_by("pk").values_list("name", flat=True))


def fill(storage: Any, *names: str) -> None:
    for number, name in enumerate(names):
        storage.save(name, content(letter=name[0]))
        age(storage.local.path(name), (len(names) - number) * 3600)


# The disk is full


def test_a_full_disk_refuses_with_advice(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    with pytest.raises(NoRoom, match=r"no room for 'd.bin'.*when_full='remote'") as raised:
        storage.save("d.bin", content())
    assert raised.value.errno == errno.ENOSPC
    assert isinstance(raised.value, OSError)
    assert names(storage) == ["a.bin", "b.bin", "c.bin"] == on_disk(disk)
    assert local_sides().get(alias=storage.alias).refused == 1


def test_a_full_disk_makes_room(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    storage.queue.deliver()
    storage.save("d.bin", content(letter="d"))
    assert on_disk(disk) == ["b.bin", "c.bin", "d.bin"]  # and no more than needed
    assert read(storage, "a.bin") == b"a" * LARGE
    assert read(storage, "d.bin") == b"d" * LARGE


def test_a_save_that_makes_room_does_not_ask_the_remote(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    storage.queue.deliver()
    calls = storage.remote.calls.total()
    storage.save("d.bin", content())
    assert storage.remote.calls.total() == calls


def test_room_is_made_outside_of_the_transaction(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    storage.queue.deliver()
    try:
        with transaction.atomic():
            storage.save("d.bin", content())
            raise RuntimeError
    except NoRoom:
        assert connection.vendor == "sqlite"  # which lets no other connection write
        assert on_disk(disk) == ["a.bin", "b.bin", "c.bin"]
    except RuntimeError:
        assert on_disk(disk) == ["b.bin", "c.bin", "d.bin"]  # as Django leaves a file
        assert not row(storage, "a.bin").is_local  # although the transaction was rolled back


def test_content_that_can_be_read_once_is_not_cut(disk: Path) -> None:
    class Once(io.RawIOBase):
        """A pipe, for example."""

        left = LARGE

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            size = min(len(buffer), self.left)
            buffer[:size] = b"o" * size
            self.left -= size
            return size

    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    storage.queue.deliver()
    with pytest.raises(NoRoom):
        storage.save("d.bin", File(Once(), "d.bin"))
    assert "d.bin" not in names(storage)
    assert "d.bin" not in on_disk(disk)
    storage.save("d.bin", content())  # some room was made for the next one


def test_room_comes_back_by_itself(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    with pytest.raises(NoRoom):
        storage.save("d.bin", content())
    remount(disk, "size=2m")
    storage.save("d.bin", content())
    assert len(on_disk(disk)) == 4


def test_a_read_only_disk_is_a_clean_error(disk: Path) -> None:
    storage = on(disk)
    storage.save("a.bin", content())
    remount(disk, "ro")
    with pytest.raises(OSError, match="Read-only") as raised:
        storage.save("b.bin", content())
    assert raised.value.errno == errno.EROFS
    assert not isinstance(raised.value, NoRoom)
    with pytest.raises(OSError, match="Read-only"), storage.open("a.bin", "wb") as opened:
        opened.write(b"new")
    assert read(storage, "a.bin") == b"x" * LARGE
    remount(disk, "rw")
    storage.save("b.bin", content())
    assert names(storage) == ["a.bin", "b.bin"] == on_disk(disk)


def test_a_full_disk_leaves_an_overwritten_file_as_it_was(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    with pytest.raises(OSError, match="No space"), storage.open("a.bin", "wb") as opened:
        opened.write(b"n" * LARGE)
    assert on_disk(disk) == ["a.bin", "b.bin", "c.bin"]
    assert [each for each in disk.iterdir() if each.name.startswith(".queued-storage-")] == []
    assert read(storage, "a.bin") == b"a" * LARGE
    assert row(storage, "a.bin").generation == 1


def test_a_full_disk_makes_room_for_an_overwrite(disk: Path) -> None:
    storage = on(disk)
    fill(storage, "a.bin", "b.bin", "c.bin")
    storage.queue.deliver()
    with storage.open("c.bin", "wb") as opened:
        opened.write(b"n" * LARGE)
    storage.queue.deliver()
    assert read(storage, "c.bin") == b"n" * LARGE
    assert read(storage, "a.bin") == b"a" * LARGE


def test_the_cap_holds_for_overwrites_too() -> None:
    storage = make(max_pending_bytes=1000, when_full="remote")
    storage.save("a.bin", content(900))
    with pytest.raises(NoRoom, match="max_pending_bytes"), storage.open("a.bin", "wb") as opened:
        opened.write(b"n" * 200)
    assert read(storage, "a.bin") == b"x" * 900
    assert on_disk() == ["a.bin"]
    storage.queue.deliver()
    with storage.open("a.bin", "wb") as opened:
        opened.write(b"n" * 200)
    assert read(storage, "a.bin") == b"n" * 200


# Limits


def test_the_cap_of_pending_bytes_is_held() -> None:
    storage = make(max_pending_bytes=1000)
    for number in range(3):
        storage.save(f"{number}.bin", content(300))
    with pytest.raises(NoRoom, match="max_pending_bytes"):
        storage.save("more.bin", content(300))
    assert len(on_disk()) == 3
    storage.queue.deliver()
    storage.save("more.bin", content(300))


def test_a_file_larger_than_the_cap_is_refused() -> None:
    storage = make(max_pending_bytes=1000)
    with pytest.raises(NoRoom):
        storage.save("a.bin", content(1001))
    storage.save("a.bin", content(1000))


def test_content_of_unknown_size_counts_afterwards() -> None:
    storage = make(max_pending_bytes=1000)
    source = File(io.BytesIO(b"x" * 1500), "a.bin")
    source.size = 0
    storage.save("a.bin", source)
    with pytest.raises(NoRoom):
        storage.save("b.bin", content(1))


def test_far_from_the_cap_the_ledger_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "ASK_EVERY", 3600.0)
    storage = make(max_pending_bytes="1G")
    storage.save("a.bin", content(10))
    before = _queries(lambda: make().save("b.bin", content(10)))
    assert _queries(lambda: storage.save("c.bin", content(10))) == before


def _queries(action: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as queries:
        action()
    return len(queries)


def test_max_bytes_evicts_in_the_save() -> None:
    storage = make(keep_local={"max_bytes": 250})
    for name in ("a.bin", "b.bin"):
        storage.save(name, content(100))
    storage.queue.deliver()
    storage.save("c.bin", content(100))
    assert len(on_disk()) == 2


def test_saves_evict_no_more_than_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the ledger is not asked again, for example because that takes long."""
    monkeypatch.setattr(sums, "COST", 1e9)
    storage = make(keep_local={"max_bytes": 1000})
    for number in range(10):
        storage.save(f"{number}.bin", content(100))
    storage.queue.deliver()
    for number in range(3):
        storage.save(f"more-{number}.bin", content(100))
    assert len(on_disk()) == 10


@pytest.mark.parametrize("is_asked", [False, True], ids=["not asked", "asked meanwhile"])
def test_saves_do_not_evict_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    """Here, a receiver of the signal saves in the middle of an eviction. If the ledger is asked
    then, its answer has neither the evicted file nor that of the save around it."""
    monkeypatch.setattr(sums, "COST", 1e9)
    storage = make(keep_local={"max_bytes": 1000})
    for number in range(10):
        storage.save(f"{number}.bin", content(100))
    storage.queue.deliver()
    evicted = []

    def save_another(name: str, **kwargs: Any) -> None:
        evicted.append(name)
        storage.save(f"for-{name}", content(100))
        if is_asked:
            sums.local_sum(storage.alias)._renew()

    with on_signal(file_evicted, save_another):
        storage.save("more.bin", content(100))
    assert len(evicted) == 1
    storage.save("last.bin", content(100))
    assert len(on_disk()) == 10


def test_max_bytes_never_refuses() -> None:
    storage = make(keep_local={"max_bytes": 250})
    for number in range(5):
        storage.save(f"{number}.bin", content(100))
    assert len(on_disk()) == 5


def test_a_rolled_back_save_takes_no_room() -> None:
    storage = make(max_pending_bytes=1000)
    for _try in range(5):
        with contextlib.suppress(RuntimeError), transaction.atomic():
            storage.save("a.bin", content(900))
            raise RuntimeError
    storage.save("a.bin", content(900))


def test_a_lost_quota_is_like_a_full_disk(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quota(FileSystemStorage):
        def _save(self, name: str, content: Any) -> str:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    storage = make(local=Quota(Path(settings.DIRECTORY) / "disk"))
    with pytest.raises(NoRoom, match="Disk quota exceeded"):
        storage.save("a.bin", content(10))
    assert names(storage) == []
