"""Saving under the name of a file that was just deleted."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import connection, transaction
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import NameUnavailable
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from queued_storage.queues.dummy import DummyQueue
from queued_storage.testing import drain
from queued_storage.transfers import copies
from queued_storage.transfers.work import run_claimed
from tests.support.actions import Compressing, elsewhere, evicted, rolled_back, write
from tests.support.scripted import (
    ScriptedStorage,
    disk,
    file,
    make,
    on_disk,
    read,
    row,
    take_over,
)

pytestmark = pytest.mark.django_db(transaction=True)


def pending(storage: Any) -> str:
    name: str = storage.save("a.txt", file(b"old"))
    return name


def transferred(storage: Any) -> str:
    name = pending(storage)
    storage.queue.deliver()
    return name


def failed(storage: Any) -> str:
    name = pending(storage)
    ledger().filter(pk=row(storage, name).pk).update(state="failed", due_at=None)
    return name


def unknown(storage: Any) -> str:
    return "a.txt"


def only_remote(storage: Any) -> str:
    storage.remote.save("a.txt", file(b"foreign"))
    return "a.txt"


def only_local(storage: Any) -> str:
    disk().save("a.txt", file(b"unrecorded"))
    return "a.txt"


def save(storage: Any, data: bytes) -> None:
    assert storage.save("a.txt", file(data)) == "a.txt"


def save_upload(storage: Any, data: bytes) -> None:
    with TemporaryUploadedFile("a.txt", "text/plain", len(data), None) as upload:
        upload.write(data)
        upload.seek(0)
        assert storage.save("a.txt", upload) == "a.txt"


def write_it(storage: Any, data: bytes) -> None:
    write(storage, "a.txt", data)


olds = pytest.mark.parametrize(
    "old", [pending, transferred, failed, evicted, unknown, only_remote, only_local]
)
news = pytest.mark.parametrize("new", [save, save_upload, write_it])


@olds
@news
@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_a_deleted_name_is_free(
    storage: Any,
    old: Callable[[Any], str],
    new: Callable[[Any, bytes], None],
    is_in_transaction: bool,
) -> None:
    name = old(storage)
    storage.remote.calls.clear()

    def replace() -> None:
        storage.delete(name)
        assert not storage.exists(name)
        new(storage, b"new")
        check_new(storage)

    if is_in_transaction:
        with transaction.atomic():
            replace()
    else:
        replace()
    assert not storage.remote.calls
    assert on_disk() == ["a.txt"]
    check_new(storage)
    storage.queue.deliver()
    check_new(storage)
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, name) == b"new"
    storage.delete(name)
    storage.queue.deliver()
    assert on_disk() == on_disk("far") == []
    assert not QueuedFile.objects.exists()


def check_new(storage: Any) -> None:
    assert storage.exists("a.txt")
    assert read(storage, "a.txt") == b"new"
    assert storage.size("a.txt") == 3
    assert Path(storage.path("a.txt")).read_bytes() == b"new"
    with storage.local_path("a.txt") as path:
        assert Path(path).read_bytes() == b"new"


@pytest.mark.parametrize("old", [pending, transferred, failed, evicted])
@news
def test_a_rollback_brings_the_old_file_back(
    storage: Any, old: Callable[[Any], str], new: Callable[[Any, bytes], None]
) -> None:
    name = old(storage)
    before = QueuedFile.objects.values().get()
    data = read(storage, name)
    with rolled_back():
        storage.delete(name)
        new(storage, b"new")
        check_new(storage)
    assert QueuedFile.objects.values().get() == before
    assert read(storage, name) == data
    ledger().filter(state="failed").update(state="pending", due_at=before["saved_at"])
    drain(storage)
    assert read(storage.remote, name) == data


def test_only_the_inner_transaction_is_rolled_back(storage: Any) -> None:
    name = transferred(storage)
    with transaction.atomic():
        storage.delete(name)
        save(storage, b"first")
        with rolled_back():
            storage.delete(name)
            save(storage, b"second")
            assert read(storage, name) == b"second"
        assert read(storage, name) == b"first"
    assert read(storage, name) == b"first"
    storage.queue.deliver()
    assert read(storage.remote, name) == b"first"


def test_names_are_taken_over_again_and_again(storage: Any) -> None:
    name = transferred(storage)
    with transaction.atomic():
        for number in range(3):
            storage.delete(name)
            save(storage, f"in one {number}".encode())
    assert read(storage, name) == b"in one 2"
    for number in range(3):
        storage.delete(name)
        save(storage, f"alone {number}".encode())
    storage.delete(name)
    assert on_disk() == []
    assert not storage.exists(name)
    save(storage, b"last")
    storage.queue.deliver()
    assert read(storage.remote, name) == b"last"
    assert on_disk() == on_disk("far") == [name]


def test_a_deleted_successor_leaves_nothing(storage: Any) -> None:
    name = transferred(storage)
    with transaction.atomic():
        storage.delete(name)
        save(storage, b"new")
        storage.delete(name)
        assert not storage.exists(name)
    assert on_disk() == []
    storage.queue.deliver()
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="a reader waits for the writer")
def test_others_read_the_old_file_until_the_commit(storage: Any) -> None:
    name = transferred(storage)
    seen: list[bytes] = []
    with transaction.atomic():
        storage.delete(name)
        save(storage, b"new")
        elsewhere(lambda: seen.append(read(storage, name)))
    assert seen == [b"old"]
    assert read(storage, name) == b"new"


# Workers that delete the old copies meanwhile


def test_a_purge_under_way_spares_the_new_file(storage: Any) -> None:
    name = transferred(storage)
    storage.delete(name)
    claim = take_over(storage, name)
    save(storage, b"new")
    before = storage.remote.calls.copy()
    run_claimed(claim)  # which follows up on the new generation
    assert read(storage, name) == read(storage.remote, name) == b"new"
    assert row(storage, name).state == "transferred"
    assert storage.remote.calls["delete"] - before["delete"] <= 1  # by the new upload


def test_a_purge_that_removes_the_old_object_now(storage: Any) -> None:
    name = transferred(storage)
    storage.delete(name)
    claim = take_over(storage, name)
    storage.remote.before["delete"] = lambda _name: save(storage, b"new")
    run_claimed(claim)
    assert read(storage, name) == read(storage.remote, name) == b"new"
    assert (row(storage, name).state, row(storage, name).lease_token) == ("transferred", "")


def test_a_new_file_waits_for_the_old_worker(storage: Any) -> None:
    name = transferred(storage)
    storage.delete(name)
    claim = take_over(storage, name)
    save(storage, b"new")
    found = row(storage, name)
    assert (found.state, found.lease_token) == ("pending", claim.lease_token)
    assert ledger().claim(found.pk) is None
    ledger().release_claim(claim)
    assert ledger().claim(found.pk)


@pytest.mark.parametrize("new", [save, write_it])
def test_a_transfer_under_way_spares_the_new_file(
    storage: Any, new: Callable[[Any, bytes], None]
) -> None:
    name = pending(storage)

    def replace(_name: str) -> None:
        storage.delete(name)
        new(storage, b"new")

    storage.remote.before["_save"] = replace
    storage.queue.deliver()
    assert read(storage, name) == read(storage.remote, name) == b"new"
    assert on_disk() == on_disk("far") == [name]


def test_a_late_local_removal_spares_the_new_file(storage: Any) -> None:
    name = transferred(storage)
    with transaction.atomic():
        storage.delete(name)
        late = ledger().entry(storage.alias, name)
    assert late
    save(storage, b"new")
    copies.drop_local(storage, name, late)
    assert read(storage, name) == b"new"
    with transaction.atomic():
        storage.delete(name)
        copies.drop_local(storage, name, late)
        assert on_disk() == [name]


def test_a_save_at_the_end_of_a_purge(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = transferred(storage)
    storage.delete(name)
    record = type(ledger()).record

    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        pk = record(self, *args, **kwargs)
        storage.queue.deliver()  # after the conflict
        return pk

    monkeypatch.setattr(type(ledger()), "record", late)
    save(storage, b"new")
    storage.queue.deliver()
    assert read(storage.remote, name) == b"new"


def test_one_of_many_threads_takes_the_name_over(storage: Any) -> None:
    name = transferred(storage)
    storage.delete(name)
    start = threading.Barrier(4)
    got: dict[str, bytes] = {}

    def act(number: int) -> None:
        data = f"{number}".encode()
        start.wait()
        elsewhere(lambda: got.update({storage.save(name, file(data)): data}))

    threads = [threading.Thread(target=act, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert name in got
    assert {each: read(storage, each) for each in got} == got
    storage.queue.deliver()
    assert {each: read(storage.remote, each) for each in got} == got
    assert on_disk() == on_disk("far") == sorted(got)


# Where the name is not free


def test_a_copy_on_another_host_is_not_overwritten(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "one"}
    name = transferred(storage)
    storage.delete(name)
    ledger().update(is_local=True, host="two")
    assert storage.save(name, file()) != name
    with pytest.raises(NameUnavailable):
        write(storage, name, b"new")


def test_a_local_storage_without_paths() -> None:
    storage = make(local=InMemoryStorage())
    name = transferred(storage)
    storage.delete(name)
    save(storage, b"new")
    with transaction.atomic():
        storage.delete(name)
        other = storage.save(name, file(b"other"))
        assert other != name
    storage.queue.deliver()
    assert read(storage.remote, other) == read(storage, other) == b"other"
    assert on_disk("far") == [other]


def test_a_local_storage_that_changes_content(tmp_path: Path) -> None:
    storage = make(local=Compressing(tmp_path))
    name = transferred(storage)
    for _time in range(2):
        with transaction.atomic():
            storage.delete(name)
            save(storage, b"new" * 100)
        assert read(storage, name) == b"new" * 100
    storage.queue.deliver()
    assert read(storage.remote, name) == b"new" * 100


# The recipe of many projects


class Overwrite(QueuedStorage):
    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        if self.exists(name):
            self.delete(name)
        return name


@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_a_storage_whose_names_overwrite(is_in_transaction: bool) -> None:
    storage: Any = Overwrite("disk", ScriptedStorage(), alias="over", queue=DummyQueue())
    for number in range(4):
        data = f"{number}".encode()
        if is_in_transaction:
            with transaction.atomic():
                save(storage, data)
        else:
            save(storage, data)
        assert read(storage, "a.txt") == data
        if number % 2:
            storage.queue.deliver()
    assert read(storage.remote, "a.txt") == b"3"
    assert on_disk() == on_disk("far") == ["a.txt"]


class Stubborn(QueuedStorage):
    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name


def test_a_storage_that_insists_on_a_taken_name() -> None:
    storage: Any = Stubborn("disk", ScriptedStorage(), alias="stubborn", queue=DummyQueue())
    save(storage, b"old")
    with pytest.raises(NameUnavailable, match="get_available_name"):
        storage.save("a.txt", file(b"new"))
    assert read(storage, "a.txt") == b"old"
    assert on_disk() == ["a.txt"]


# Names that never were


def test_deleting_an_unknown_name_leaves_no_trace() -> None:
    storage = make(unknown="absent")
    storage.delete("a.txt")
    assert not QueuedFile.objects.exists()
    assert storage.queue.messages == []


def test_the_remote_copy_of_another_file_survives(storage: Any) -> None:
    other = make(remote=storage.remote)
    other.save("a.txt", file(b"theirs"))
    disk().delete("a.txt")
    ledger().update(is_local=False, state="transferred", remote_name="a.txt", due_at=None)
    storage.remote.save("a.txt", file(b"theirs"))
    storage.delete("a.txt")
    save(storage, b"new")
    storage.queue.deliver()
    assert read(storage.remote, row(storage, "a.txt").remote_name) == b"new"
    assert read(other, "a.txt") == b"theirs"
