"""Files that are changed in place between their save and the commit."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from queued_storage.ledger.states import State
from tests.support.scripted import disk, file, make, read, row

pytestmark = pytest.mark.django_db(transaction=True)


def transferred(storage: Any, name: str) -> bytes:
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    return read(storage.remote, row(storage, name).remote_name)


@pytest.mark.parametrize("data", [b"longer than before", b"", b"BYTES"])
def test_change_before_the_commit_is_transferred(data: bytes) -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        Path(disk().path(name)).write_bytes(data)  # within one tick of the clock
    assert row(storage, name).size == len(data)
    assert transferred(storage, name) == data
    assert read(storage, name) == data


def test_replaced_file_is_transferred() -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        path = Path(disk().path(name))
        old = os.stat(path)
        path.with_name("new").write_bytes(b"BYTES")
        os.utime(path.with_name("new"), ns=(old.st_atime_ns, old.st_mtime_ns))
        os.replace(path.with_name("new"), path)
    assert transferred(storage, name) == b"BYTES"


def test_each_file_is_checked_before_any_is_enqueued() -> None:
    storage = make(queue="queued_storage.queues.immediate.ImmediateQueue")
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", file(b"bytes")) for number in range(3)]
        for name in names:
            Path(disk().path(name)).write_bytes(b"changed in place")
    for name in names:
        assert row(storage, name).state == State.TRANSFERRED
        assert read(storage.remote, name) == b"changed in place"


def test_overwritten_file_is_checked_too() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"bytes"))
    storage.queue.deliver()
    with transaction.atomic():
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
        Path(storage.path(name)).write_bytes(b"NEWER")
    assert transferred(storage, name) == b"NEWER"


def test_last_of_several_changes_counts() -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        Path(disk().path(name)).write_bytes(b"in place")
        with storage.open(name, "wb") as opened:
            opened.write(b"written")
    assert row(storage, name).generation == 2
    assert transferred(storage, name) == b"written"


def test_uploaded_file_that_was_moved_is_checked() -> None:
    storage = make()
    with TemporaryUploadedFile("a.txt", "text/plain", 5, None) as upload:
        upload.write(b"bytes")
        upload.flush()
        with transaction.atomic():
            name = storage.save("a.txt", upload)
            Path(disk().path(name)).write_bytes(b"changed in place")
    assert row(storage, name).content_type == "text/plain"
    assert transferred(storage, name) == b"changed in place"


def test_held_file_stays_held() -> None:
    storage = make(delayed=True)
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        Path(disk().path(name)).write_bytes(b"changed in place")
    assert (row(storage, name).state, row(storage, name).size) == (State.HELD, 16)
    storage.transfer(name)
    assert transferred(storage, name) == b"changed in place"


def test_deleted_file_stays_deleted() -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        Path(disk().path(name)).write_bytes(b"changed in place")
        storage.delete(name)
    storage.queue.deliver()
    assert storage.queued_file(name) is None


def test_unchanged_file_costs_no_statement() -> None:
    storage = make()
    storage.save("first.txt", file(b"bytes"))  # looks for the marker of the directory
    with CaptureQueriesContext(connection) as alone:
        storage.save("a.txt", file(b"bytes"))
    with CaptureQueriesContext(connection) as together, transaction.atomic():
        storage.save("b.txt", file(b"bytes"))
    assert len([each for each in together if each["sql"].startswith(("INSERT", "UPDATE"))]) == len(
        alone
    )


def test_touched_file_is_not_recorded_again() -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        os.utime(disk().path(name))
    assert row(storage, name).generation == 1


def test_rolled_back_save_is_not_checked() -> None:
    storage = make()
    with transaction.atomic():
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            name = storage.save("a.txt", file(b"bytes"))
            raise ZeroDivisionError
        Path(disk().path(name)).write_bytes(b"changed in place")
    assert storage.queued_file(name) is None


def test_unreadable_file_is_left_to_its_transfer(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        path = Path(disk().path(name))
        path.unlink()
        path.mkdir()
    assert "could not be read when the transaction was committed" in caplog.text
    assert row(storage, name).generation == 1


def test_storage_without_paths_is_not_checked() -> None:
    storage = make(local=InMemoryStorage())
    with transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
    assert transferred(storage, name) == b"bytes"
