"""New content that waits beside the local copy until its transaction is committed."""

import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, Storage
from django.db import OperationalError, connection, transaction

from queued_storage.files import localfiles, successors
from queued_storage.files.successors import NextVersion
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from queued_storage.operations import comparison, inventory
from queued_storage.testing import drain
from tests.support.actions import elsewhere, evicted, rolled_back, write
from tests.support.scripted import disk, file, make, on_disk, read, row

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def pending(storage: Any) -> str:
    name: str = storage.save("a.txt", file(b"old"))
    return name


def transferred(storage: Any) -> str:
    name = pending(storage)
    storage.queue.deliver()
    return name


def held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die right after the commit."""
    monkeypatch.setattr(successors, "put_in_place", lambda *args: None)


@contextlib.contextmanager
def failing_commit(*, is_lost: bool = False) -> Any:
    """Let the next COMMIT fail; with `is_lost`, only its answer does."""
    plain = connection.commit

    def fail() -> None:
        connection.commit = plain
        if is_lost:
            plain()
        else:
            connection.rollback()
        raise OperationalError("could not serialize access")

    connection.commit = fail
    try:
        yield
    finally:
        connection.commit = plain


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def with_links(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize("links", [with_links, without_links])
@pytest.mark.parametrize("old", [pending, transferred, evicted])
def test_a_commit_that_fails_leaves_the_old_bytes(
    old: Callable[[Any], str], links: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make()
    name = old(storage)
    data = read(storage, name)
    links(monkeypatch)
    before, names = QueuedFile.objects.values().get(), on_disk()
    opened = storage.open(name, "wb")
    opened.write(b"new")
    with failing_commit(), pytest.raises(OperationalError):
        opened.close()
    assert QueuedFile.objects.values().get() == before
    assert read(storage, name) == data
    assert on_disk() == names
    drain(storage)
    assert read(storage.remote, name) == data


@pytest.mark.parametrize("links", [with_links, without_links])
@pytest.mark.parametrize("was_there", [True, False])
def test_a_commit_that_fails_leaves_no_new_file(
    was_there: bool, links: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make()
    links(monkeypatch)
    if was_there:
        disk().save("a.txt", file(b"unrecorded"))
    opened = storage.open("a.txt", "wb")
    opened.write(b"new")
    with failing_commit(), pytest.raises(OperationalError):
        opened.close()
    assert not QueuedFile.objects.exists()
    assert on_disk() == ["a.txt"] * was_there
    assert not was_there or read(storage, "a.txt") == b"unrecorded"


def test_lost_answer_to_a_commit_keeps_new_bytes() -> None:
    storage = make()
    name = transferred(storage)
    opened = storage.open(name, "wb")
    opened.write(b"new")
    with failing_commit(is_lost=True), pytest.raises(OperationalError):
        opened.close()
    assert row(storage, name).generation == 2
    assert read(storage, name) == b"new"
    drain(storage)
    assert read(storage.remote, name) == b"new"
    assert on_disk() == [name]


@pytest.mark.parametrize("old", [pending, transferred, evicted])
def test_a_rollback_leaves_the_old_bytes(old: Callable[[Any], str]) -> None:
    storage = make()
    name = old(storage)
    data = read(storage, name)
    with rolled_back():
        write(storage, name, b"new")
        assert read(storage, name) == b"new"
        write(storage, name, b"newer")
        assert read(storage, name) == b"newer"
        assert Path(storage.path(name)).read_bytes() == b"newer"
    assert read(storage, name) == data
    drain(storage)
    assert read(storage.remote, name) == data


def test_content_after_a_rollback_is_not_mixed_up() -> None:
    storage = make()
    name = transferred(storage)
    with rolled_back():
        write(storage, name, b"one")
    write(storage, name, b"two")
    assert read(storage, name) == b"two"
    with rolled_back():
        write(storage, name, b"two again")
    write(storage, name, b"two again")
    assert read(storage, name) == b"two again"
    drain(storage)
    assert read(storage.remote, name) == b"two again"


@pytest.mark.parametrize("evicts", [True, False])
def test_worker_places_what_a_dead_process_left(
    evicts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(task="queued_storage.tasks.TransferAndDelete") if evicts else make()
    name = transferred(storage)
    with monkeypatch.context() as patches:
        held_back(patches)
        write(storage, name, b"newer")
    assert Path(disk().path("a.txt")).exists() != evicts
    assert read(storage, name) == b"newer"
    assert storage.size(name) == 5
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"newer"
    assert list(comparison.verify(ledger().all(), content=True)) == []
    assert list(inventory.orphans(storage, "local", timedelta(days=-1))) == []
    drain(storage)
    assert on_disk() == [name] * (not evicts)
    assert read(storage, name) == read(storage.remote, name) == b"newer"


def test_a_delete_removes_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = transferred(storage)
    with monkeypatch.context() as patches:
        held_back(patches)
        write(storage, name, b"newer")
    storage.delete(name)
    assert on_disk() == []
    storage.queue.deliver()
    assert on_disk("far") == []


def test_an_older_writer_that_comes_late_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = make()
    name = transferred(storage)
    with monkeypatch.context() as patches:
        held_back(patches)
        write(storage, name, b"second")
    second = row(storage, name)
    write(storage, name, b"third")
    successors.put_in_place(disk(), name, second)
    assert read(storage, name) == b"third"
    assert on_disk() == [name]
    storage.delete(name)
    successors.put_in_place(disk(), name, second)
    assert on_disk() == []


def test_two_processes_put_the_same_content_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = transferred(storage)
    with monkeypatch.context() as patches:
        held_back(patches)
        write(storage, name, b"second")
    second = row(storage, name)
    lock = type(ledger()).lock_generation

    def late(self: Any, pk: int, generation: int) -> int:
        monkeypatch.undo()
        successors.put_in_place(disk(), name, second)
        return lock(self, pk, generation)

    monkeypatch.setattr(type(ledger()), "lock_generation", late)
    successors.put_in_place(disk(), name, second)
    assert on_disk() == [name]
    assert read(storage, name) == b"second"


def test_orphan_of_a_rollback_is_found() -> None:
    storage = make()
    name = transferred(storage)
    with rolled_back():
        write(storage, name, b"new")
    [orphan] = inventory.orphans(storage, "local", timedelta(days=-1))
    assert localfiles.is_unfinished(orphan.name)
    assert inventory.delete_orphan(storage, orphan, timedelta(days=-1))
    assert on_disk() == [name]


def test_others_read_the_old_bytes_until_the_commit() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("a reader waits for the writer")
    storage = make()
    name = transferred(storage)
    seen: list[bytes] = []
    with transaction.atomic():
        write(storage, name, b"new")
        elsewhere(lambda: seen.append(read(storage, name)))
    assert seen == [b"old"]


# Local storages without paths


class Renaming(InMemoryStorage):
    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return super().get_available_name(self.get_alternative_name(name, ""), max_length)


def test_a_storage_in_memory() -> None:
    storage = make(local=InMemoryStorage())
    name = transferred(storage)
    with rolled_back():
        write(storage, name, b"rolled back")
        assert read(storage, name) == b"rolled back"
    assert read(storage, name) == b"old"
    write(storage, name, b"new")
    assert read(storage, name) == b"new"
    assert read(storage.local, name) == b"new"
    drain(storage)
    assert read(storage.remote, name) == b"new"


def test_a_storage_that_renames_cannot_overwrite() -> None:
    storage = make(local=Renaming())
    name = transferred(storage)
    for each in (name, "other.txt"):
        with pytest.raises(FileExistsError, match="chooses"):
            write(storage, each, b"new")
    assert read(storage, name) == b"old"
    assert not storage.exists("other.txt")
    assert QueuedFile.objects.get().generation == 1


# Names


@pytest.mark.parametrize("name", ["a.txt", "d/é.tar.gz", "x" * 250, "a." + "y" * 200])
def test_the_name_tells_row_and_generation(name: str) -> None:
    waiting = successors.waiting_name(name, NextVersion(7, 12, "crc32:0badcafe"))
    assert localfiles.is_unfinished(waiting)
    assert os.path.dirname(waiting) == os.path.dirname(name)
    assert successors.key_and_generation(waiting) == (7, 12)
    assert len(os.path.basename(waiting).encode()) < 100


@pytest.mark.parametrize(
    "name", ["a.txt", ".queued-0123456789abcdef.txt", ".queued-1-2.txt", ".queued-a-2-x"]
)
def test_other_names_tell_nothing(name: str) -> None:
    assert successors.key_and_generation(name) is None


def test_only_later_generations_are_looked_for() -> None:
    class Untouched(Storage):
        def exists(self, name: str) -> bool:
            raise AssertionError(name)

    assert successors.current_name(Untouched(), "a.txt", NextVersion(1, 1, "")) == "a.txt"


def test_content_of_an_existing_file_is_kept() -> None:
    local = InMemoryStorage()
    local.save("a.txt", ContentFile(b"theirs"))
    with pytest.raises(FileExistsError):
        localfiles.save_as(local, "a.txt", ContentFile(b"mine"))
    assert local.listdir("")[1] == ["a.txt"]
