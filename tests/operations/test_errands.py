from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.files.storage import InMemoryStorage
from pytest_django import Settings

from queued_storage.files.streams import PiecewiseFile
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands, steering
from queued_storage.operations.passes import Step
from queued_storage.operations.reconciliation import reconcile
from queued_storage.signals import file_evicted
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import copies
from queued_storage.transfers.work import run
from tests.operations.files import enqueued, evicted, files, transferred
from tests.support.scripted import (
    RenamingStorage,
    disk,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)

pytestmark = pytest.mark.django_db(transaction=True)


# Evict


def test_evict_deletes_the_local_copy() -> None:
    storage = make()
    name = transferred(storage)
    received = []

    def receive(**kwargs: Any) -> None:
        received.append((kwargs["name"], kwargs["queued_file"].is_local))

    file_evicted.connect(receive)
    try:
        assert errands.evict(files(storage)) == 1
    finally:
        file_evicted.disconnect(receive)
    assert received == [(name, False)]
    assert on_disk() == []
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert found.evicted_at is not None
    assert read(storage, name) == b"bytes"
    assert errands.evict(files(storage)) == 0


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_evict_keeps_files_with_a_bad_remote_copy(damage: bytes, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": "content"}
    storage = make()
    name = transferred(storage)
    far = Path(storage.remote.path(name))
    far.write_bytes(damage) if damage else far.unlink()
    steps: list[Step] = []
    assert errands.evict(files(storage), steps.append) == 0
    assert on_disk() == [name]
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert (found.due_at, found.lease_token) == (None, "")
    assert found.last_error == steps[0].error != ""


def test_evict_continues_after_a_failure() -> None:
    storage = make()
    first, second = transferred(storage, "1.txt"), transferred(storage, "2.txt")
    Path(storage.remote.path(first)).unlink()
    steps: list[Step] = []
    assert errands.evict(files(storage), steps.append) == 1
    assert on_disk() == [first]
    assert [step.name for step in steps if step.error] == [f"{first} ({storage.alias})"]
    assert not storage.queued_file(second).is_local


def test_evict_skips_files_that_are_not_transferred() -> None:
    storage = make()
    storage.save("a.txt", file())
    assert errands.evict(files(storage)) == 0
    assert on_disk() == ["a.txt"]


def test_evict_keeps_new_content_written_during_verification() -> None:
    storage = make()
    name = transferred(storage)

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
        storage.queue.messages.clear()

    storage.remote.before["size"] = overwrite
    assert errands.evict(files(storage)) == 0
    assert read(storage, name) == b"newer"
    assert enqueued(storage) == [row(storage, name).pk]  # due now, not when the lease ends
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"newer"


def test_worker_verifies_before_finishing_a_killed_eviction() -> None:
    storage = make()
    name = transferred(storage)
    pk = row(storage, name).pk
    assert ledger().claim_settled(pk, evicts=True)
    far = Path(storage.remote.path(name))
    far.rename(far.with_name("aside"))
    make_due(storage, name)
    assert isinstance(run(pk), FileNotFoundError)
    assert on_disk() == [name]
    far.with_name("aside").rename(far)
    make_due(storage, name)
    assert run(pk) is None
    assert on_disk() == []


def test_retried_eviction_evicts() -> None:
    storage = make()
    name = transferred(storage)
    pk = row(storage, name).pk
    assert ledger().claim_settled(pk, evicts=True)
    far = Path(storage.remote.path(name))
    far.rename(far.with_name("aside"))
    make_due(storage, name)
    assert isinstance(run(pk), FileNotFoundError)
    far.with_name("aside").rename(far)
    assert steering.retry(files(storage)) == 1
    assert run(pk) is None
    assert on_disk() == []


def test_eviction_continues_after_its_worker_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk
    with monkeypatch.context() as patch:
        patch.setattr(copies, "free_local", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            run(pk)
    assert row(storage, name).state == State.TRANSFERRED
    assert run(make_due(storage, name)) is None  # on SQLite, "now" has passed after a millisecond
    assert on_disk() == []


def test_killed_repair_keeps_the_local_copy() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"wrong")  # of the same size
    assert ledger().claim_settled(row(storage, name).pk)
    make_due(storage, name)
    assert run(row(storage, name).pk) is None
    assert on_disk() == [name]
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (True, None, "")
    [(_difference, error)] = reconcile(files(storage), ["different-remote"], content=True)
    assert error == ""
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"bytes"


def test_evict_skips_copies_on_other_hosts(settings: Settings) -> None:
    storage = make()
    transferred(storage)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert errands.evict(files(storage)) == 0
    assert on_disk() == ["a.txt"]


# Restore


def test_restore_downloads_the_file() -> None:
    storage = make()
    name = evicted(storage, "d/a.txt")
    assert errands.restore(files(storage)) == 1
    assert on_disk() == [name]
    assert read(disk(), name) == b"bytes"
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert (found.evicted_at, found.due_at, found.lease_token) == (None, None, "")
    storage.remote.refuses = True
    assert read(storage, name) == b"bytes"
    assert errands.restore(files(storage)) == 0


def test_restore_uses_the_remote_name() -> None:
    storage = make(remote=RenamingStorage())
    name = evicted(storage)
    assert row(storage, name).remote_name != name
    assert errands.restore(files(storage)) == 1
    assert read(disk(), name) == b"bytes"


def test_restore_to_a_storage_without_paths() -> None:
    local = InMemoryStorage()
    storage = make(local=local)
    name = evicted(storage, data=b"in memory" * 100_000)
    assert not local.exists(name)
    assert errands.restore(files(storage)) == 1
    assert read(local, name) == b"in memory" * 100_000


def test_restored_copy_belongs_to_this_host(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-1"}
    storage = make()
    name = evicted(storage)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "HOST": "web-2"}
    assert errands.restore(files(storage)) == 1
    assert row(storage, name).host == "web-2"


@pytest.mark.parametrize("damage", [b"", b"short", b"other."])
def test_damaged_remote_copy_is_not_restored(damage: bytes) -> None:
    storage = make()
    name = evicted(storage, data=b"bytes.")
    far = Path(storage.remote.path(name))
    far.write_bytes(damage) if damage else far.unlink()
    steps: list[Step] = []
    assert errands.restore(files(storage), steps.append) == 0
    assert on_disk() == []
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert found.last_error == steps[0].error != ""


def test_restore_does_not_overwrite_foreign_local_files() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file(b"foreign"))
    assert errands.restore(files(storage)) == 0
    assert on_disk() == [name]
    assert read(disk(), name) == b"foreign"
    assert "Another local file has the name" in row(storage, name).last_error


def test_restore_takes_over_from_a_killed_restore() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file())
    assert ledger().claim_settled(row(storage, name).pk)
    make_due(storage, name)
    assert run(row(storage, name).pk) is None  # a worker ends the claim of the dead process
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert errands.restore(files(storage)) == 1
    assert on_disk() == [name]
    assert read(storage, name) == b"bytes"


def test_restore_does_not_take_over_other_storages_files() -> None:
    storage, other = make(), make()
    name = evicted(storage)
    assert other.save(name, file()) == name
    assert errands.restore(files(storage)) == 0
    assert not row(storage, name).is_local


def test_file_deleted_during_restore_stays_deleted() -> None:
    storage = make()
    name = evicted(storage)
    storage.remote.before["_open"] = storage.delete
    assert errands.restore(files(storage)) == 0
    assert on_disk() == []
    assert storage.queue.deliver() == {}
    assert on_disk("far") == []
    assert not files(storage).filter(name=name).exists()


def test_new_content_written_during_restore_wins() -> None:
    storage = make()
    name = evicted(storage)

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.before["_open"] = overwrite
    assert errands.restore(files(storage)) == 0
    assert on_disk() == [name]
    assert read(storage, name) == b"newer"
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"newer"


def test_cancelled_restore_leaves_no_file() -> None:
    storage = make()
    name = evicted(storage)
    storage.remote.before["_open"] = lambda _name: steering.cancel(files(storage))
    assert errands.restore(files(storage)) == 0
    assert on_disk() == []
    assert (row(storage, name).due_at, row(storage, name).is_local) == (None, False)


def test_interrupted_restore_can_be_repeated() -> None:
    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    storage = make()
    evicted(storage)
    storage.remote.before["_open"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        errands.restore(files(storage))
    assert on_disk() == []
    assert errands.restore(files(storage)) == 1


def test_restored_file_can_be_evicted_again() -> None:
    storage = make(task=TransferAndDelete)
    name = transferred(storage)
    assert errands.restore(files(storage)) == 1
    assert errands.evict(files(storage)) == 1
    assert on_disk() == []
    assert read(storage, name) == b"bytes"


@pytest.mark.one_database
def test_piecewise_file_reads_any_number_of_bytes() -> None:
    pieces = [b"ab", b"", b"cdef", b"g"]
    whole = PiecewiseFile(iter(pieces), "x")
    assert [whole.read(size) for size in (3, 1, -1, 5)] == [
        b"abc",
        b"d",
        b"efg",
        b"",
    ]
    begun = PiecewiseFile(iter(pieces), "x")
    assert begun.read(1) == b"a"
    assert b"".join(begun.chunks()) == b"bcdefg"
