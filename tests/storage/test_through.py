"""Saves to the remote, of files for which the local storage has no room."""

import contextlib
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.storage import FileSystemStorage
from django.db import transaction

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.localsides import local_sides
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.signals import file_transferred
from queued_storage.storage import sums, through
from queued_storage.tasks import Transfer
from queued_storage.transfers.gates import gates
from tests.support.scripted import (
    RenamingStorage,
    ScriptedStorage,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.support.small_disks import MEGABYTE, small_disk
from tests.support.waiting import until
from tests.transfers.workers import on_signal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_memory() -> None:
    sums._sums.clear()


def full(**options: Any) -> Any:
    """A storage that has no room for any file."""
    return make(max_pending_bytes=1, when_full="remote", **options)


def purge(storage: Any) -> None:
    """Let a worker purge what is left, as if all leases had expired."""
    rows = ledger().filter(alias=storage.alias)
    rows.update(due_at="2001-01-01T00:00Z")
    for pk in list(rows.values_list("pk", flat=True)):
        from queued_storage.transfers.work import run

        run(pk)


def test_the_file_is_on_the_remote_at_once() -> None:
    storage = full()
    name = storage.save("a.txt", file(b"bytes"))
    found = row(storage, name)
    assert (found.state, found.is_local, found.remote_name) == (State.TRANSFERRED, False, "a.txt")
    assert (found.size, found.verified, found.due_at) == (5, "size", None)
    assert found.checksum.startswith("crc32:")
    assert found.content_type == "text/plain"
    assert on_disk() == []
    assert on_disk("far") == ["a.txt"]
    assert read(storage, name) == b"bytes"
    assert storage.url(name) == "https://far.example/a.txt"
    assert storage.result.get(timeout=0)
    assert local_sides().get(alias=storage.alias).written_through == 1


def test_a_full_disk_is_written_through(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", MEGABYTE) as disk:
        storage = make(local=FileSystemStorage(disk), when_full="remote")
        for number in range(4):
            storage.save(f"{number}.bin", file(str(number).encode() * 400_000))
        assert on_disk(str(disk)) == ["0.bin", "1.bin"]
        assert on_disk("far") == ["2.bin", "3.bin"]
        for number in range(4):
            assert read(storage, f"{number}.bin") == str(number).encode() * 400_000


def test_names_that_are_taken_get_a_suffix() -> None:
    storage = full()
    first, second = (storage.save("a.txt", file(data)) for data in (b"first", b"second"))
    assert first == "a.txt" != second
    assert (read(storage, first), read(storage, second)) == (b"first", b"second")


def test_a_foreign_object_is_not_overwritten() -> None:
    storage = full()
    storage.remote.save("a.txt", file(b"foreign"))
    name = storage.save("a.txt", file(b"bytes"))
    assert name == "a.txt"
    assert row(storage, name).remote_name != "a.txt"
    assert read(storage, name) == b"bytes"


def test_a_remote_that_renames() -> None:
    storage = full(remote=RenamingStorage())
    name = storage.save("a.txt", file(b"bytes"))
    assert row(storage, name).remote_name != name
    assert read(storage, name) == b"bytes"


def test_the_signal_is_sent_at_the_commit() -> None:
    storage = full()
    received = []
    with on_signal(file_transferred, lambda **kwargs: received.append(kwargs["name"])):
        with transaction.atomic():
            storage.save("a.txt", file(b"bytes"))
            assert received == []
        assert received == ["a.txt"]


def test_a_rollback_removes_the_object() -> None:
    storage = full()
    with contextlib.suppress(RuntimeError), transaction.atomic():
        name = storage.save("a.txt", file(b"bytes"))
        assert read(storage, name) == b"bytes"
        assert on_disk("far") == ["a.txt"]
        raise RuntimeError
    until(lambda: ledger().filter(alias=storage.alias).exists())  # SQLite: by a thread
    assert not storage.exists("a.txt")
    purge(storage)
    assert on_disk("far") == []
    assert not ledger().filter(alias=storage.alias).exists()
    storage.save("a.txt", file(b"again"))
    assert read(storage, "a.txt") == b"again"


def test_a_savepoint_that_is_rolled_back_removes_the_object() -> None:
    storage = full()
    with transaction.atomic():
        storage.save("kept.txt", file(b"kept"))
        with contextlib.suppress(RuntimeError), transaction.atomic():
            storage.save("a.txt", file(b"bytes"))
            raise RuntimeError
    until(lambda: ledger().filter(alias=storage.alias).count() == 2)
    for pk in ledger().filter(alias=storage.alias, state=State.DELETING).values_list("pk"):
        make_due(storage, ledger().get(pk=pk[0]).name)
    purge(storage)
    assert on_disk("far") == ["kept.txt"]
    assert read(storage, "kept.txt") == b"kept"


def test_a_closed_remote_refuses_at_once() -> None:
    storage = full()
    remotes().register(storage.alias, storage.remote_place)
    remotes().filter(alias=storage.alias).pause()
    gates.forget()
    with pytest.raises(NoRoom, match="the remote is closed") as raised:
        storage.save("a.txt", file(b"bytes"))
    assert raised.value.errno == errno.ENOSPC
    assert storage.remote.calls.total() == 0
    assert not ledger().filter(alias=storage.alias).exists()


def test_a_failed_upload_leaves_nothing() -> None:
    storage = full()
    storage.remote.refuses = True
    with pytest.raises(NoRoom, match=r"the upload failed.*The remote is away"):
        storage.save("a.txt", file(b"bytes"))
    storage.remote.refuses = False
    assert on_disk() == on_disk("far") == []
    purge(storage)
    assert not ledger().filter(alias=storage.alias).exists()
    assert local_sides().get(alias=storage.alias).refused == 1


def test_a_remote_that_keeps_other_bytes_is_refused() -> None:
    class Shortens(ScriptedStorage):
        def _save(self, name: str, content: Any) -> str:
            return str(super()._save(name, file(content.read()[:2])))

    storage = full(remote=Shortens())
    with pytest.raises(NoRoom, match="the upload failed"):
        storage.save("a.txt", file(b"bytes"))
    purge(storage)
    assert on_disk("far") == []


def test_an_upload_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through, "SECONDS", 0.5)
    storage = full()
    is_over = threading.Event()
    storage.remote.before["_save"] = lambda name: is_over.wait(20)
    try:
        with pytest.raises(NoRoom, match="did not end within"):
            storage.save("a.txt", file(b"bytes"))
    finally:
        is_over.set()
    until(lambda: not (_uploads() or _is_claimed(storage)))
    purge(storage)
    assert on_disk("far") == []


def _uploads() -> list[threading.Thread]:
    """The threads that still upload for a save which has ended."""
    return [each for each in threading.enumerate() if each.name == "queued-storage-inquiry"]


def _is_claimed(storage: Any) -> bool:
    return ledger().filter(alias=storage.alias).exclude(lease_token="").exists()


def test_a_slow_upload_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through, "SECONDS", -1.0)
    storage = full()
    with pytest.raises(NoRoom, match=r"too long|did not"), transaction.atomic():
        storage.save("a.txt", file(b"bytes"))
    until(lambda: not _uploads())
    assert not ledger().filter(alias=storage.alias).exclude(state=State.DELETING).exists()


@pytest.mark.parametrize("options", [{"delayed": True}, {"task": "tests.storage.test_through.Own"}])
def test_files_that_must_not_be_uploaded_as_they_are(options: dict[str, Any]) -> None:
    storage = full(**options)
    with pytest.raises(NoRoom, match=r"delayed|uploads files in its own way"):
        storage.save("a.txt", file(b"bytes"))
    assert on_disk("far") == []


def test_steps_need_a_local_copy() -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be used with steps"):
        full(steps=["queued_storage.steps.types.MatchType"])


class Own(Transfer):
    """A task of a project, which may change what it uploads."""


def test_content_that_can_be_read_once_is_refused_if_it_was_read() -> None:
    class Once:
        closed = False

        def read(self, size: int = -1) -> bytes:
            return b""

    storage = full()
    source = File(Once(), "a.txt")  # type: ignore[arg-type]
    source.size = 5
    with pytest.raises(NoRoom, match="only once"):
        storage.save("a.txt", source)


def test_a_copy_on_each_mirror_is_wanted() -> None:
    mirror = ScriptedStorage("mirror")
    storage = full(mirrors=[mirror])
    storage.save("a.txt", file(b"bytes"))
    from queued_storage.ledger.copies import copies

    assert [copy.file.name for copy in copies().filter(file__alias=storage.alias)] == ["a.txt"]


def test_a_delete_of_such_a_file() -> None:
    storage = full()
    name = storage.save("a.txt", file(b"bytes"))
    storage.delete(name)
    purge(storage)
    assert on_disk("far") == []
