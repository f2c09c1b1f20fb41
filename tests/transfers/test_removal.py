"""Evictions and deletes."""

import contextlib
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import transaction
from pytest_django import Settings

from queued_storage.ledger.names import is_reserved
from queued_storage.ledger.states import State
from queued_storage.signals import file_transferred
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import copies, work
from tests.support.scripted import (
    ScriptedStorage,
    disk,
    file,
    is_due,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.transfers.moments import MOMENTS, RETRY_MOMENTS, TASKS, At
from tests.transfers.workers import die_halfway, on_signal, retry

pytestmark = pytest.mark.django_db(transaction=True)


def test_local_copy_is_evicted_after_promotion() -> None:
    """Ancestor 7 evicted it before reads used the remote copy."""
    local = ScriptedStorage("disk")
    storage = make(local=local, task=TransferAndDelete)
    name = storage.save("a.txt", file())
    seen = []

    def look(name: str) -> None:
        seen.append((row(storage, name).is_remote, storage.url(name), read(storage, name)))

    def arm(**kwargs: Any) -> None:
        local.before["delete"] = look

    with on_signal(file_transferred, arm):
        storage.queue.deliver()
    assert seen == [(True, "https://far.example/a.txt", b"bytes")]
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, False)
    assert found.evicted_at is not None
    assert on_disk() == []
    assert read(storage, name) == b"bytes"


def test_failed_eviction_is_retried() -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    local = ScriptedStorage("disk")
    storage = make(local=local, task=TransferAndDelete)
    name = storage.save("a.txt", file())

    def arm(**kwargs: Any) -> None:
        local.before["delete"] = fail

    with on_signal(file_transferred, arm):
        [error] = storage.queue.deliver().values()
    assert isinstance(error, PermissionError)
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert found.due_at is not None
    assert retry(storage, name) is None
    assert (row(storage, name).is_local, row(storage, name).due_at) == (False, None)
    assert on_disk() == []
    assert storage.remote.calls["_save"] == 1


def test_eviction_follows_after_worker_died() -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file())

    def die(**kwargs: Any) -> None:
        raise SystemExit

    with on_signal(file_transferred, die), pytest.raises(SystemExit):
        storage.queue.deliver()
    assert row(storage, name).is_remote
    assert on_disk() == ["a.txt"]
    assert retry(storage, name) is None
    assert on_disk() == []
    assert row(storage, name).evicted_at is not None
    assert storage.remote.calls["_save"] == 1


def test_eviction_spares_new_content() -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"old"))

    def overwrite(**kwargs: Any) -> None:
        file_transferred.disconnect(overwrite)
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    with on_signal(file_transferred, overwrite):
        storage.queue.deliver()
    assert read(storage, name) == b"newer"
    storage.queue.deliver()
    assert (row(storage, name).generation, row(storage, name).is_local) == (2, False)
    assert read(storage, name) == b"newer"


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_delete_wins_during_transfer(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file())
    happened = []

    def delete() -> None:
        happened.append(moment)
        storage.delete(name)
        assert not storage.exists(name)
        assert row(storage, name).state == State.DELETING  # because a worker may still write to it

    moment.arm(storage, delete)
    storage.queue.deliver()
    assert happened
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []
    assert not storage.exists(name)
    assert storage.queue.deliver() == {}
    assert on_disk("far") == []


@TASKS
@pytest.mark.parametrize("moment", RETRY_MOMENTS, ids=repr)
def test_delete_wins_during_retry(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file(b"whole"))
    die_halfway(storage, name, b"who")
    storage.remote.calls.clear()
    moment.arm(storage, lambda: storage.delete(name))
    retry(storage, name)
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []


@TASKS
def test_delete_wins_after_promotion(task: type[Transfer]) -> None:
    storage = make(task=task)
    name = storage.save("a.txt", file())
    with on_signal(file_transferred, lambda **kwargs: storage.delete(name)):
        storage.queue.deliver()
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_rolled_back_delete_stops_nothing(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file())

    def delete_and_roll_back() -> None:
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            storage.delete(name)
            raise ZeroDivisionError

    moment.arm(storage, delete_and_roll_back)
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    assert read(storage, name) == b"bytes"


def test_purge_waits_until_lease_has_expired() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    claimed = die_halfway(storage, name, b"by")
    storage.delete(name)
    assert on_disk() == ["a.txt"]  # it proves that the object is this file's
    assert work.run(claimed.pk) is None
    tombstone = row(storage, name)
    assert tombstone.state == State.DELETING
    assert claimed.due_at is not None
    assert tombstone.due_at is not None
    assert tombstone.due_at > claimed.due_at

    assert retry(storage, name) is None
    assert storage.queued_file(name) is None
    assert "a.txt" not in on_disk("far")
    assert "a.txt" not in on_disk()


def test_purge_ignores_expired_lease() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    die_halfway(storage, name, b"by")
    make_due(storage, name)
    storage.delete(name)
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert on_disk("far") == []


def test_delete_removes_both_copies() -> None:
    """Ancestor 9 left one of them."""
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    assert on_disk() == []
    assert on_disk("far") == ["a.txt"]
    storage.queue.deliver()
    assert on_disk("far") == []
    assert storage.queued_file(name) is None
    assert not storage.exists(name)


def test_delete_before_transfer_leaves_nothing() -> None:
    """Ancestor 9 retried the transfer of a deleted file."""
    storage = make()
    name = storage.save("a.txt", file())
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None
    assert storage.remote.calls == {}


def test_delete_is_retried_until_it_succeeds(settings: Settings) -> None:
    """Active Storage removed the row first, so a failed delete was never tried again."""
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    storage.remote.rejects = True
    for _try in range(5):
        assert isinstance(retry(storage, name), OSError)
        found = row(storage, name)
        assert (found.state, found.lease_token) == (State.DELETING, "")
        assert found.last_error
        assert not is_due(storage, name)
        assert found.due_at is not None
    assert not storage.exists(name)

    storage.remote.rejects = False
    assert retry(storage, name) is None
    assert storage.queued_file(name) is None


def test_deleting_missing_copies_succeeds() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    disk().delete(name)
    FileSystemStorage.delete(storage.remote, name)
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None


def test_late_local_removal_spares_new_file() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"old"))
    with transaction.atomic():
        storage.delete(name)
        late = row(storage, name)
    storage.queue.deliver()
    assert storage.save(name, file(b"new")) == name
    copies.drop_local(storage, name, late)
    assert read(storage, name) == b"new"


class StrictStorage(ScriptedStorage):
    """A storage whose delete() fails if there is no object, with an error of its own."""

    def delete(self, name: str) -> None:
        if not self.exists(name):
            raise LookupError(name)
        super().delete(name)


def test_remote_may_refuse_to_delete_missing_object() -> None:
    storage = make(remote=StrictStorage())
    first, second = (storage.save(name, file()) for name in ("a.txt", "b.txt"))
    for name in (first, second):
        storage.remote.before["_save"] = raise_connection_error
        assert isinstance(retry(storage, name), ConnectionError)
        assert row(storage, name).object_name == ""  # no byte was sent

    assert retry(storage, first) is None
    assert read(storage.remote, first) == b"bytes"
    storage.delete(second)
    storage.queue.deliver()
    assert storage.queued_file(second) is None

    storage.delete(first)
    storage.remote.before["delete"] = raise_connection_error
    storage.queue.deliver()
    assert storage.queued_file(first) is not None  # the delete has not succeeded
    assert retry(storage, first) is None
    assert on_disk("far") == []


def raise_connection_error(name: str) -> None:
    raise ConnectionError("The remote is away.")


def test_failed_local_delete_is_raised_and_repeated() -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    storage = make(local=ScriptedStorage("disk"))
    name = storage.save("a.txt", file())
    storage.local.before["delete"] = fail
    with pytest.raises(PermissionError):
        storage.delete(name)
    assert not storage.exists(name)
    storage.queue.deliver()
    assert on_disk() == []
    assert storage.queued_file(name) is None


def test_failed_local_delete_in_transaction_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    storage = make(local=ScriptedStorage("disk"))
    name = storage.save("a.txt", file())
    storage.local.before["delete"] = fail
    with transaction.atomic():
        storage.delete(name)
    assert "not yours" in caplog.text
    storage.queue.deliver()
    assert on_disk() == []


class DeletesOnce(InMemoryStorage):
    """A storage like Dropbox's: deleting a missing object is an error of its own."""

    fails = False

    def delete(self, name: str) -> None:
        is_down = self.fails and not is_reserved(name)
        if is_down or not self.exists(name):
            raise RuntimeError("path_lookup/not_found")
        super().delete(name)

    def _save(self, name: str, content: Any) -> str:
        if self.fails and not is_reserved(name):
            content.read()
            raise RuntimeError("It is down.")
        return super()._save(name, content)


def test_retry_and_delete_without_remote_object_succeed() -> None:
    remote = DeletesOnce()
    storage = make(remote=remote)
    storage.save("a.txt", file(b"hello"))
    remote.fails = True
    assert len(storage.queue.deliver()) == 1
    assert row(storage, "a.txt").object_name == "a.txt"  # reserved, without an object
    remote.fails = False
    assert storage.transfer("a.txt").state == State.PENDING
    assert storage.queue.deliver() == {}
    assert read(remote, "a.txt") == b"hello"
    remote.delete("a.txt")  # without the ledger
    storage.delete("a.txt")
    assert storage.queue.deliver() == {}
    assert storage.queued_file("a.txt") is None


def test_failed_delete_is_retried() -> None:
    remote = DeletesOnce()
    storage = make(remote=remote)
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    remote.fails = True
    storage.delete("a.txt")
    assert len(storage.queue.deliver()) == 1
    assert row(storage, "a.txt").state == State.DELETING
