"""Local copies that were changed in place, and are accepted."""

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import TemporaryUploadedFile
from pytest_django import Settings

from queued_storage.files import stamps
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import adoption, comparison, errands, failures, steering
from queued_storage.operations.acceptance import accept_local
from queued_storage.operations.passes import Step, ignore
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import intact
from tests.operations.files import files, transferred
from tests.support.scripted import (
    RenamingStorage,
    ScriptedStorage,
    disk,
    file,
    make,
    on_disk,
    read,
    row,
)

pytestmark = pytest.mark.django_db(transaction=True)


def change(name: str, data: bytes = b"changed in place") -> None:
    Path(disk().path(name)).write_bytes(data)


@pytest.mark.parametrize("data", [b"changed in place", b"BYTES", b""])
def test_changed_copy_of_a_transferred_file(data: bytes) -> None:
    storage = make()
    name = transferred(storage)
    assert storage.url(name).startswith("https://far")  # is in the cache now
    change(name, data)
    assert accept_local(files(storage)) == 1
    found = row(storage, name)
    assert (found.state, found.generation, found.size) == (State.PENDING, 2, len(data))
    assert storage.url(name) == "/media/a.txt"
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == data
    assert on_disk("far") == [name]
    assert errands.evict(files(storage)) == 1
    assert read(storage, name) == data


def test_failed_file_is_not_parked_for_good() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    change(name)
    storage.queue.deliver()
    found = row(storage, name)
    assert found.state == State.FAILED
    assert "accept-local" in found.last_error
    assert accept_local(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"changed in place"
    assert (row(storage, name).last_error, row(storage, name).failures) == ("", [])


def test_pending_file_is_measured_again() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    change(name)
    assert accept_local(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"changed in place"


def test_held_file_stays_held() -> None:
    storage = make(delayed=True)
    name = storage.save("a.txt", file())
    change(name)
    assert accept_local(files(storage)) == 1
    assert (row(storage, name).state, row(storage, name).size) == (State.HELD, 16)
    assert storage.queue.messages == []


def test_unchanged_files_stay_as_they_are() -> None:
    storage = make()
    name = transferred(storage)
    storage.save("new.txt", file())
    os.utime(disk().path(name))
    before = list(files(storage).values())
    assert accept_local(files(storage)) == 0
    assert list(files(storage).values()) == before


def test_accepted_file_replaces_its_remote_copy() -> None:
    storage = make(remote=RenamingStorage())
    name = transferred(storage)
    change(name)
    accept_local(files(storage))
    assert storage.queue.deliver() == {}
    remote_name = row(storage, name).remote_name
    assert on_disk("far") == [remote_name]
    assert read(storage.remote, remote_name) == b"changed in place"


def test_running_transfer_of_old_bytes_is_void() -> None:
    storage = make()
    name = storage.save("a.txt", file())

    def accept(_name: str) -> None:
        change(name)
        assert accept_local(files(storage)) == 1

    storage.remote.after["_save"] = accept
    storage.queue.deliver()
    found = row(storage, name)
    assert (found.state, found.size) == (State.TRANSFERRED, 16)
    assert read(storage.remote, found.remote_name) == b"changed in place"


def test_dry_run_changes_nothing() -> None:
    storage = make()
    name = transferred(storage)
    change(name)
    before = list(files(storage).values())
    assert accept_local(files(storage), dry_run=True) == 1
    assert list(files(storage).values()) == before


def test_missing_copy_is_an_error() -> None:
    storage = make()
    name = transferred(storage)
    Path(disk().path(name)).unlink()
    steps: list[Step] = []
    assert accept_local(files(storage), steps.append) == 0
    assert "does not exist" in steps[0].error
    assert row(storage, name).state == State.TRANSFERRED


def test_deleted_and_evicted_files_are_skipped() -> None:
    storage = make()
    evicted, deleted = transferred(storage), transferred(storage, "b.txt")
    errands.evict(files(storage).filter(name=evicted))
    storage.delete(deleted)
    disk().save(evicted, file(b"foreign"))
    steps: list[Step] = []
    assert accept_local(files(storage), steps.append) == 0
    assert steps == []


def test_copies_on_other_hosts_are_skipped(settings: Settings) -> None:
    storage = make()
    name = transferred(storage)
    change(name)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert accept_local(files(storage)) == 0


def test_file_that_was_overwritten_meanwhile_keeps_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = make()
    name = transferred(storage)
    change(name)
    read_file = stamps.Checksum.__str__

    def overwrite(checksum: Any) -> str:
        monkeypatch.undo()
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
        return read_file(checksum)

    monkeypatch.setattr(stamps.Checksum, "__str__", overwrite)
    steps: list[Step] = []
    accept_local(files(storage), steps.append)
    storage.queue.deliver()
    assert read(storage, name) == read(storage.remote, name) == b"newer"
    assert row(storage, name).size == 5


def test_file_that_is_being_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = transferred(storage)
    change(name)
    real = stamps.stamp_of

    def write(*args: Any) -> Any:
        found = real(*args)
        with Path(disk().path(name)).open("ab") as opened:
            opened.write(b"more")
        return found

    monkeypatch.setattr(stamps, "stamp_of", write)
    steps: list[Step] = []
    assert accept_local(files(storage), steps.append) == 0
    assert "is being written to" in steps[0].error
    assert row(storage, name).state == State.TRANSFERRED


# Files whose bytes the ledger does not know


def test_moved_upload_is_accepted_by_size() -> None:
    storage = make()
    with TemporaryUploadedFile("a.txt", None, 5, None) as upload:
        upload.write(b"bytes")
        upload.flush()
        name = storage.save("a.txt", upload)
    assert row(storage, name).checksum == ""
    assert accept_local(files(storage)) == 0
    change(name)
    assert accept_local(files(storage)) == 1
    storage.queue.deliver()
    assert read(storage.remote, name) == b"changed in place"


def adopted(storage: Any, name: str = "a.txt") -> str:
    disk().save(name, file())
    storage.remote.save(name, file())
    assert adoption.adopt(storage, [name], ignore) == 1
    assert row(storage, name).checksum == ""
    return name


def test_adopted_file_is_accepted_by_time() -> None:
    storage = make()
    name = adopted(storage)
    assert accept_local(files(storage)) == 0
    change(name, b"BYTES")
    [found] = comparison.verify(files(storage), content=True)
    assert (found.side, found.kind) == ("local", "different")
    assert accept_local(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"BYTES"


def test_adopted_file_that_changed_is_not_evicted() -> None:
    storage = make()
    changed, touched = adopted(storage), adopted(storage, "b.txt")
    change(changed, b"BYTES")
    os.utime(disk().path(touched))
    assert errands.evict(files(storage)) == 1
    assert on_disk() == [changed]


class Upper(Transfer):
    """Uploads other bytes than those of the local copy."""

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        with local.open(name) as content:
            remote.save(name, file(content.read().upper() + b"!"))
        return True


class UpperAndDelete(Upper):
    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        done = super().transfer(name, local, remote, **kwargs)
        local.delete(name)
        return done


def test_task_may_upload_other_bytes() -> None:
    storage = make(task=Upper)
    name = transferred(storage)
    assert list(comparison.verify(files(storage), content=True)) == []
    assert accept_local(files(storage)) == 0
    assert errands.evict(files(storage)) == 1
    assert read(storage, name) == b"BYTES!"


def test_task_may_upload_other_bytes_and_evict() -> None:
    storage = make(task=UpperAndDelete)
    name = transferred(storage)
    assert on_disk() == []
    assert read(storage, name) == b"BYTES!"


def test_change_after_the_task_is_noticed() -> None:
    storage = make(task=Upper)
    name = transferred(storage)
    change(name, b"later")
    assert errands.evict(files(storage)) == 0
    assert accept_local(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"LATER!"


# Evictions


@pytest.mark.parametrize("data", [b"changed in place", b"BYTES", b""])
@pytest.mark.parametrize("keeps_time", [True, False])
def test_changed_copy_is_not_evicted(data: bytes, keeps_time: bool) -> None:
    storage = make()
    name = transferred(storage)
    before = os.stat(disk().path(name))
    change(name, data)
    if keeps_time:
        os.utime(disk().path(name), ns=(before.st_atime_ns, before.st_mtime_ns))
    steps: list[Step] = []
    assert errands.evict(files(storage), steps.append) == 0
    assert read(storage, name) == data
    found = row(storage, name)
    assert (found.state, found.is_local, found.lease_token) == (State.TRANSFERRED, True, "")
    assert found.last_error == steps[0].error
    assert "accept-local" in found.last_error
    [group] = failures.groups([storage.alias], with_due=True)
    assert group.pks == [found.pk]
    assert errands.evict(files(storage), steps.append) == 0  # and reports it again
    assert steps[1].error


def test_eviction_follows_once_the_bytes_are_back() -> None:
    storage = make()
    name = transferred(storage)
    change(name)
    errands.evict(files(storage))
    change(name, b"bytes")
    assert steering.retry(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert on_disk() == []
    assert row(storage, name).last_error == ""


def test_copy_changed_during_verification_is_not_evicted() -> None:
    storage = make()
    name = transferred(storage)
    storage.remote.after["size"] = lambda _name: change(name, b"BYTES")
    assert errands.evict(files(storage)) == 0
    assert read(storage, name) == b"BYTES"


def test_copy_changed_at_last_moment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = transferred(storage)
    mark_evicted = type(ledger()).mark_evicted

    def change_then_mark(self: Any, *args: Any) -> int:
        change(name, b"BYTES")
        return mark_evicted(self, *args)

    monkeypatch.setattr(type(ledger()), "mark_evicted", change_then_mark)
    assert errands.evict(files(storage)) == 0
    assert read(storage, name) == b"BYTES"
    assert row(storage, name).is_local


class ChangesLocal(ScriptedStorage):
    """A remote during whose upload another process changes the local copy."""

    def _save(self, name: str, content: Any) -> str:
        saved = str(super()._save(name, content))
        change(name, b"BYTES")
        return saved


@pytest.mark.parametrize("age", [0, -10_000_000_000])  # whether a stamp is trusted
def test_copy_changed_during_its_transfer_is_not_evicted(
    age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "SETTLED_AFTER", age)
    storage = make(remote=ChangesLocal(), task=TransferAndDelete)
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert "was changed after the transfer" in str(error)
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert read(storage, name) == b"BYTES"
    assert found.last_error


def test_settled_copy_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "SETTLED_AFTER", -10_000_000_000)
    monkeypatch.setattr(intact, "require_intact", None)
    storage = make(task=TransferAndDelete)
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert on_disk() == []
