"""The checks of the local and the remote copy."""

import pytest
from pytest_django import Settings

from queued_storage.exceptions import LocalFileChanged, LocalFileMissing
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage
from queued_storage.transfers import probing, work
from tests.support.scripted import (
    ScriptedStorage,
    disk,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.transfers.workers import retry

pytestmark = pytest.mark.django_db(transaction=True)


def test_missing_local_copy_fails_the_file() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    disk().delete(name)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, LocalFileMissing)
    assert row(storage, name).state == State.FAILED
    assert "a.txt" in row(storage, name).last_error


def test_missing_local_copy_of_another_host_is_retried(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file(b"mine"))
    QueuedFile.objects.update(host="elsewhere")
    disk().delete(name)
    storage.queue.deliver()
    assert row(storage, name).state == State.PENDING
    assert "elsewhere" in row(storage, name).last_error
    make_due(storage, name)
    work.run(row(storage, name).pk)
    assert row(storage, name).state == State.FAILED


@pytest.mark.parametrize("data", [b"short", b"other!"])
def test_changed_local_copy_is_not_sent(data: bytes) -> None:
    storage = make()
    name = storage.save("a.txt", file(b"saved!"))
    disk().delete(name)
    disk().save(name, file(data))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, LocalFileChanged)
    assert not row(storage, name).is_remote
    assert row(storage, name).state == State.FAILED


def test_restored_local_copy_is_transferred() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"saved"))
    disk().delete(name)
    storage.queue.deliver()
    disk().save(name, file(b"saved"))
    storage.transfer(name)
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        (Fault.LOSE, "size"),
        (Fault.TRUNCATE, "size"),
        (Fault.HALFWAY, "size"),
        (Fault.LOSE, "content"),
        (Fault.TRUNCATE, "content"),
        (Fault.FLIP, "content"),
    ],
)
def test_local_copy_stays_until_remote_is_verified(
    settings: Settings, fault: Fault, level: str
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": level}
    storage = make(remote=FaultyStorage(ScriptedStorage(), fault=fault), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"every byte of it"))
    assert len(storage.queue.deliver()) == 1
    found = row(storage, name)
    assert (found.state, found.is_local, found.verified) == (State.PENDING, True, "")
    assert read(storage, name) == b"every byte of it"

    storage.remote.fault = None
    probing.probe_closed([storage.alias])
    assert retry(storage, name) is None
    assert row(storage, name).verified == level
    assert on_disk("far") == ["a.txt"]
    assert on_disk() == []
    assert read(storage, name) == b"every byte of it"


def test_generic_uploader_proves_only_the_size() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).verified == "size"
