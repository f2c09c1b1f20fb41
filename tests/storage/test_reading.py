"""Reading files, wherever their bytes are."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.storage import storages
from django.db import DatabaseError
from django.utils import timezone
from pytest_django import Settings

from queued_storage.exceptions import LocalFileMissing
from queued_storage.ledger.database import QueuedFileQuerySet
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from queued_storage.transfers import work
from tests.support.actions import evicted
from tests.support.scripted import ScriptedStorage, disk, file, make, make_due, on_disk, read

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_evicted_file_is_read_from_the_remote(storage: Any) -> None:
    name = evicted(storage, "docs/a.txt")
    assert read(storage, name) == b"bytes"
    assert storage.size(name) == 5
    assert storage.exists(name)
    assert storage.url(name) == "https://far.example/docs/a.txt"
    assert storage.get_storage(name) is storage.remote
    with pytest.raises(NotImplementedError):
        storage.path(name)


def test_a_local_copy_is_preferred_except_for_urls(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.remote.calls.clear()
    assert read(storage, name) == b"bytes"
    assert storage.size(name) == 5
    assert storage.path(name)
    storage.get_modified_time(name)
    assert storage.remote.calls == {}
    assert storage.url(name) == "https://far.example/a.txt"


def test_a_missing_local_copy_is_an_error(storage: Any) -> None:
    name = storage.save("a.txt", file())
    disk().delete(name)
    with pytest.raises(LocalFileMissing, match="not on this machine"):
        storage.open(name)
    assert storage.size(name) == 5
    assert storage.exists(name)


def test_a_file_evicted_while_it_is_opened() -> None:
    storage = make(local=ScriptedStorage("disk"), task=TransferAndDelete)
    name = storage.save("a.txt", file())
    storage.local.before["_open"] = lambda _name: work.run(make_due(storage, name))
    assert read(storage, name) == b"bytes"
    assert on_disk() == []


def test_an_open_file_survives_eviction_and_delete(
    storage: Any,
) -> None:
    storage._options["task"] = TransferAndDelete
    name = storage.save("a.txt", file(b"whole"))
    with storage.open(name) as opened:
        storage.queue.deliver()
        assert on_disk() == []
        assert opened.read() == b"whole"
    with storage.open(name) as opened:
        storage.delete(name)
        storage.queue.deliver()
        assert opened.read() == b"whole"


@pytest.mark.parametrize("tz", [True, False])
def test_times_of_an_evicted_file(storage: Any, settings: Settings, tz: bool) -> None:
    settings.USE_TZ = tz
    before = timezone.now()
    name = evicted(storage)
    storage.remote.calls.clear()
    for ask in (storage.get_created_time, storage.get_modified_time):
        time = ask(name)
        assert timezone.is_aware(time) == tz
        assert abs(time - before) < timedelta(minutes=1)
    assert storage.remote.calls == {}
    assert timezone.is_aware(storage.get_accessed_time(name)) == tz


def test_text_is_read_as_text(storage: Any) -> None:
    name = evicted(storage, data="grün\n".encode())
    with storage.open(name, "r") as opened:
        assert opened.read() == "grün\n"


def test_the_remote_is_not_asked_before_the_transfer(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.remote.save("other.txt", file())
    storage.remote.calls.clear()
    storage.local.delete(name)
    with pytest.raises(LocalFileMissing, match="not been transferred yet"):
        storage.get_accessed_time(name)
    assert storage.remote.calls == {}


def test_a_remote_whose_open_returns_none(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = evicted(storage)
    monkeypatch.setattr(storage.remote, "_open", lambda *args: None)
    for each in (name, "unknown.txt"):
        with pytest.raises(FileNotFoundError, match="remote has no"):
            storage.open(each)


@pytest.mark.parametrize("is_local", [True, False])
def test_a_file_is_closed_if_the_ledger_fails(
    monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    opened = []

    def open_and_lose_the_ledger(name: str, mode: str = "rb") -> File:
        opened.append(side.__class__.open(side, name, mode))
        monkeypatch.setattr(QueuedFileQuerySet, "entry", away)
        return opened[0]

    def away(*args: Any) -> None:
        raise DatabaseError("away")

    storage = make(task=None if is_local else TransferAndDelete)
    name = storage.save("a.txt", file())
    drain()
    side = storage.local if is_local else storage.remote
    monkeypatch.setattr(side, "open", open_and_lose_the_ledger)
    with pytest.raises(DatabaseError):
        storage.open(name)
    assert opened[0].closed


def test_no_file_is_left_open(storage: Any) -> None:
    """Ancestor 11: `local.open` was never closed. ResourceWarnings are errors here."""
    name = storage.save("a.txt", file(b"x" * 100_000))
    storage.queue.deliver()
    read(storage, name)
    before = set(Path("/proc/self/fd").iterdir())
    for _time in range(5):
        other = storage.save("b.txt", file(b"x" * 100_000))
        storage.queue.deliver()
        with storage.local_path(other):
            pass
        storage.delete(other)
        storage.queue.deliver()
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1


def test_a_new_file_hides_no_evicted_one() -> None:
    """The process of the new file died after writing it, before the ledger refused the name."""
    storage = make(task="queued_storage.tasks.TransferAndDelete")
    name = storage.save("a.txt", file(b"first"))
    storage.queue.deliver()
    storages["disk"].save(name, file(b"somebody else's"))
    assert read(storage, name) == b"first"
    assert storage.size(name) == len(b"first")
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"first"
    with pytest.raises(NotImplementedError):
        storage.path(name)


@pytest.mark.parametrize("method", ["size", "get_modified_time"])
def test_facts_are_not_those_of_a_new_file(method: str) -> None:
    """The old file is evicted between the query of the ledger and the access to the disk."""
    storage = make(local=ScriptedStorage("disk"), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"first"))

    def evict_and_try(_name: str) -> None:
        work.run(make_due(storage, name))
        disk().save(name, file(b"somebody else's"))
        os.utime(disk().path(name), (0, 0))

    storage.local.before[method] = evict_and_try
    saved_at = storage.queued_file(name).saved_at
    assert getattr(storage, method)(name) == {"size": 5, "get_modified_time": saved_at}[method]
