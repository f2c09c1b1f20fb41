"""Evictions without an operator: which files go, how many, and which stay."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.localsides import (
    LocalSide,
    local_bytes,
    local_sides,
    pending_bytes,
    pending_bytes_since,
    pending_in_parts,
)
from queued_storage.ledger.remotes import remotes
from queued_storage.signals import file_evicted, local_space_changed
from queued_storage.testing import drain
from queued_storage.transfers import candidates, evicting, freeing
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.freeing import Freeing
from queued_storage.transfers.gates import gates
from tests.support.scripted import ScriptedStorage, file, make, on_disk, read, row
from tests.support.small_disks import age
from tests.support.stepping import Passing, at_once, gated
from tests.support.waiting import until
from tests.transfers.workers import on_signal

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = 3600


def transferred(storage: Any, *names: str, size: int = 100) -> list[str]:
    """Save and transfer files, of which the first was read last."""
    saved = [storage.save(name, file(name[0].encode() * size)) for name in names]
    assert storage.queue.deliver() == {}
    for number, name in enumerate(saved):
        age(storage.local.path(name), (number + 1) * HOUR)
    return saved


def local_names(storage: Any) -> list[str]:
    rows = ledger().filter(alias=storage.alias, is_local=True)
    return sorted(rows.values_list("name", flat=True))


def side(storage: Any) -> LocalSide:
    return local_sides().get(alias=storage.alias)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(evicting, "EVERY", 0.0)
    monkeypatch.setattr(evicting, "COST", 0)
    yield
    freeing._failed.clear()


def test_the_longest_unread_go_first_and_no_more() -> None:
    storage = make(keep_local={"max_bytes": 250})
    transferred(storage, "d.txt", "a.txt", "c.txt", "b.txt")
    assert evicting.keep_within_limits(storage)
    assert local_names(storage) == ["a.txt", "d.txt"] == on_disk()
    assert read(storage, "b.txt") == b"b" * 100
    assert side(storage).local_bytes == 200


def test_within_the_limit_nothing_is_evicted() -> None:
    storage = make(keep_local={"max_bytes": 400})
    transferred(storage, "a.txt", "b.txt", "c.txt", "d.txt")
    assert evicting.keep_within_limits(storage)
    assert len(local_names(storage)) == 4
    assert not side(storage).is_full


def test_what_is_saved_meanwhile_is_freed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(keep_local={"max_bytes": 1600})
    evicting.keep_within_limits(storage)
    transferred(storage, *(f"{number}.txt" for number in range(16)))
    evicting.keep_within_limits(storage)
    assert len(local_names(storage)) == 15  # 100 bytes are a sixteenth
    evicting.keep_within_limits(storage)
    assert len(local_names(storage)) == 15


def test_only_transferred_files_go(settings: Settings) -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt")
    storage.save("pending.txt", file(b"x" * 100))
    ledger().filter(name="pending.txt").update(due_at=None)
    found = evicting.keep_within_limits(storage)
    assert found
    assert local_names(storage) == ["pending.txt"]
    full = side(storage)
    assert full.is_full
    assert full.pending_bytes == full.local_bytes == 100
    assert full.evictable_bytes == 0


def test_young_files_stay() -> None:
    storage = make(keep_local={"max_bytes": 1, "min_age": "90m"})
    transferred(storage, "read.txt", "old.txt")
    ledger().update(saved_at="2001-01-01T00:00Z")
    evicting.keep_within_limits(storage)
    assert local_names(storage) == ["read.txt"]
    assert side(storage).young_bytes == 100
    ledger().filter(name="read.txt").update(saved_at=row(storage, "old.txt").transferred_at)
    age(storage.local.path("read.txt"), 2 * HOUR)
    evicting.keep_within_limits(storage)
    assert local_names(storage) == ["read.txt"]  # it was saved just now


def test_open_files_stay() -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt", "b.txt")
    with storage.open("b.txt") as opened:
        evicting.keep_within_limits(storage)
        assert local_names(storage) == ["b.txt"]
        assert side(storage).open_bytes == 100
        assert opened.read() == b"b" * 100
    evicting.keep_within_limits(storage)
    assert local_names(storage) == []
    assert not side(storage).is_full


def test_others_go_in_place_of_an_open_file() -> None:
    storage = make(keep_local={"max_bytes": 250})
    names = transferred(storage, "a.txt", "b.txt", "c.txt")
    with storage.local.open(names[2]):  # it was not read for the longest time
        found = evicting.keep_within_limits(storage)
        assert found
        assert (found.freed_bytes, found.open_bytes) == (100, 100)
        assert local_names(storage) == ["a.txt", "c.txt"]


def test_files_without_all_copies_stay() -> None:
    mirror = ScriptedStorage("mirror")
    storage = make(keep_local={"max_bytes": 1}, mirrors=[mirror])
    transferred(storage, "a.txt", "b.txt")
    copies().update(state=CopyState.TRANSFERRED)
    copies().filter(file__name="b.txt").update(state=CopyState.PENDING)
    evicting.keep_within_limits(storage)
    assert local_names(storage) == ["b.txt"]
    assert side(storage).uncopied_bytes == 100


def test_the_first_copy_can_be_enough() -> None:
    storage = make(
        keep_local={"max_bytes": 1}, mirrors=[ScriptedStorage("mirror")], evict_after="first"
    )
    transferred(storage, "a.txt")
    evicting.keep_within_limits(storage)
    assert local_names(storage) == []


def test_a_closed_remote_keeps_everything() -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt", "b.txt")
    remotes().filter(alias=storage.alias).pause()
    gates.forget()
    evicting.keep_within_limits(storage)
    assert len(local_names(storage)) == 2
    assert "closed" in side(storage).reason
    remotes().filter(alias=storage.alias).resume()
    gates.forget()
    evicting.keep_within_limits(storage)
    assert local_names(storage) == []


def test_a_bad_remote_copy_keeps_the_file_and_others_go() -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt", "b.txt")
    Path(storage.remote.path("b.txt")).write_bytes(b"damaged")
    evicting.keep_within_limits(storage)
    assert local_names(storage) == ["b.txt"]
    assert "damaged" not in read(storage, "b.txt").decode()
    calls = storage.remote.calls.total()
    evicting.keep_within_limits(storage)  # it is left alone for a while
    assert storage.remote.calls.total() == calls
    assert side(storage).failed_bytes == 100
    assert row(storage, "b.txt").last_error


def test_free_space_of_the_disk_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(keep_local={"min_free": 10**18})
    transferred(storage, "a.txt", "b.txt")
    evicting.keep_within_limits(storage)
    assert local_names(storage) == []
    assert side(storage).is_full  # as no disk has so much free
    assert side(storage).free_bytes


def test_one_process_at_a_time_has_the_lease() -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt")
    assert local_sides().claim(storage.alias)
    assert evicting.keep_within_limits(storage) is None
    local_sides().update(due_at="2001-01-01T00:00Z")
    assert evicting.keep_within_limits(storage)
    assert local_names(storage) == []


def test_the_signal_tells_of_both_changes() -> None:
    storage = make(max_pending_bytes=100)
    received = []

    def receive(**kwargs: Any) -> None:
        received.append((kwargs["alias"], kwargs["is_full"], bool(kwargs["reason"])))

    with on_signal(local_space_changed, receive):
        storage.save("a.txt", file(b"x" * 100))
        evicting.keep_within_limits(storage)
        since = side(storage).full_since
        evicting.keep_within_limits(storage)
        assert side(storage).full_since == since
        storage.queue.deliver()
        evicting.keep_within_limits(storage)
    assert received == [(storage.alias, True, True), (storage.alias, False, False)]


def test_workers_evict_by_themselves() -> None:
    storage = make(keep_local={"max_bytes": 150})
    transferred(storage, "a.txt", "b.txt", "c.txt")
    evicted = threading.Event()
    executor = Executor(1, 0.05, lambda: [storage.alias])
    with on_signal(file_evicted, lambda **kwargs: evicted.set()):
        executor.start()
        try:
            assert evicted.wait(20)
            until(lambda: local_names(storage) == ["a.txt"])
        finally:
            assert executor.stop(20)


def test_without_limits_no_worker_looks() -> None:
    assert list(evicting.limited_storages([make().alias])) == []


def test_the_request_does_not_ask_the_remote() -> None:
    storage = make(keep_local={"max_bytes": 150})
    transferred(storage, "a.txt", "b.txt")
    calls = storage.remote.calls.total()
    found = Freeing(storage, asks_remote=False).free(1)
    assert found.freed_files == 1
    assert storage.remote.calls.total() == calls


def test_no_time_left_evicts_nothing() -> None:
    storage = make()
    transferred(storage, "a.txt")
    found = Freeing(storage, asks_remote=False, until=time.monotonic()).free(1)
    assert found.freed_files == 0


def test_many_files_take_several_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "CHUNK", 2)
    monkeypatch.setattr(candidates, "MOST", 3)
    storage = make(keep_local={"max_bytes": 100})
    transferred(storage, *(f"{number}.txt" for number in range(8)))
    evicting.keep_within_limits(storage)
    assert local_names(storage) == ["0.txt"]


def test_sums_of_the_ledger() -> None:
    storage = make()
    transferred(storage, "a.txt", "b.txt")
    storage.save("c.txt", file(b"x" * 7))
    storage.delete("b.txt")
    assert pending_bytes(storage.alias) == 7
    assert local_bytes(storage.alias) == 107


def test_files_in_their_steps_count() -> None:
    hidden, readable = gated(Passing()), at_once(Passing())
    for storage in (hidden, readable):
        storage.save("a.txt", file(b"x" * 7))
        assert (pending_bytes(storage.alias), local_bytes(storage.alias)) == (7, 7)
        drain(storage)
        assert (pending_bytes(storage.alias), local_bytes(storage.alias)) == (0, 7)


def test_sums_of_older_and_recent_files() -> None:
    storage = make()
    for name, size in (("old.txt", 7), ("new.txt", 5)):
        storage.save(name, file(b"x" * size))
    ledger().filter(name="old.txt").update(saved_at="2001-01-01T00:00Z")
    older, recent, moment = pending_in_parts(storage.alias, 3600)
    assert (older, recent) == (7, 5)
    assert pending_bytes_since(storage.alias, moment) == 5
    storage.queue.deliver()
    assert pending_in_parts(storage.alias, 3600)[:2] == (0, 0)
    assert pending_bytes_since(storage.alias, moment) == 0


def test_sums_of_a_host(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "a"}
    storage = make()
    storage.save("a.txt", file(b"x" * 7))
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "HOST": "b"}
    assert (pending_bytes(storage.alias), local_bytes(storage.alias)) == (0, 0)
    storage.save("b.txt", file(b"x" * 5))
    assert (pending_bytes(storage.alias), local_bytes(storage.alias)) == (5, 5)


def test_a_file_that_is_deleted_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(keep_local={"max_bytes": 1})
    transferred(storage, "a.txt")
    claim = QueuedFileQuerySet.claim_settled

    def delete_first(self: Any, pk: int, **options: Any) -> Any:
        storage.delete("a.txt")
        return claim(self, pk, **options)

    monkeypatch.setattr(QueuedFileQuerySet, "claim_settled", delete_first)
    assert Freeing(storage, asks_remote=True).free(100).freed_files == 0
    assert on_disk() == []
