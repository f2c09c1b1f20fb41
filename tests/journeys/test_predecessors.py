"""Regression tests for bugs known from similar packages. Each test starts with the package's name.

Other files have further tests of this kind, for django-cleanup, Moodle's objectfs, Active Storage,
rclone, django-storages and the ancestor.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import connection
from django.db.migrations.writer import MigrationWriter
from django.test.utils import CaptureQueriesContext

from queued_storage.exceptions import LeaseLost, TransferError
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.operations import errands
from queued_storage.queues.threads import ThreadQueue
from queued_storage.signals import file_transferred
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import work
from tests.support.scripted import file, make, make_due, on_disk, read, row
from tests.support.testapp.models import Document
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]


def refuse(name: str) -> None:
    raise ConnectionError("The remote is away.")


def test_ancestor_1_plain_field_saves_and_migrates() -> None:
    """`FileField.save()` raised AttributeError, and the storage could not be serialized."""
    document = Document()
    document.file.save("a.txt", ContentFile(b"bytes"))
    with Document.objects.get().file.open() as opened:
        assert opened.read() == b"bytes"
    text, _imports = MigrationWriter.serialize(storages["default"])
    assert text == (
        "queued_storage.backends.QueuedStorage(alias='default', local='disk', remote='far')"
    )


@pytest.mark.parametrize("last_first", [False, True])
def test_django_resto_late_retry_loses_no_data(last_first: bool) -> None:
    storage = make()
    name = storage.save("a.txt", file(b"old"))
    storage.remote.before["_save"] = refuse
    storage.queue.deliver()
    with storage.open(name, "wb") as opened:
        opened.write(b"new")
    other = storage.save("b.txt", file(b"other"))
    storage.delete(other)
    pks = [pk for message in storage.queue.messages for pk in message]
    for pk in reversed(pks) if last_first else pks:
        work.run(pk)
    assert work.run(make_due(storage, name)) is None
    assert read(storage.remote, name) == b"new"
    assert on_disk("far") == [name]


def test_shrine_delete_during_promotion_leaves_no_object() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.after["_save"] = lambda _name: storage.delete(name)
    storage.queue.deliver()
    while storage.queue.messages:
        storage.queue.deliver()
    if storage.queued_file(name):
        assert work.run(make_due(storage, name)) is None
    assert on_disk("far") == on_disk() == []


def test_shrine_eviction_spares_pending_files() -> None:
    storage = make()
    pending, settled = (storage.save(name, file()) for name in ("pending.txt", "settled.txt"))
    assert work.run(row(storage, settled).pk) is None
    assert errands.evict(ledger().all()) == 1
    assert on_disk() == [pending]


def test_active_storage_file_is_saved_before_enqueueing() -> None:
    storage = make()
    seen: list[bytes] = []
    enqueue = storage.queue.enqueue

    def enqueued(pks: list[int]) -> None:
        seen.extend(read(storage.local, ledger().get(pk=pk).name) for pk in pks)
        enqueue(pks)

    storage.queue.enqueue = enqueued
    storage.save("a.txt", file())
    assert seen == [b"bytes"]


def test_active_storage_file_goes_to_its_own_remote() -> None:
    default, other = storages["default"], make()
    other.remote.refuses = True  # so a call to the wrong remote raises an error
    name = default.save("a.txt", file())
    default.queue.deliver()
    other.remote.refuses = False
    assert read(storages["far"], name) == b"bytes"
    assert other.remote.calls["_save"] == 0


def test_carrierwave_backgrounder_saving_other_fields_keeps_pending_file() -> None:
    document = Document.objects.create(file=ContentFile(b"bytes", "a.txt"))
    Document.objects.get().save()
    document.save()
    Document.objects.defer("file").get().save()
    storage: Any = storages["default"]
    assert row(storage, document.file.name).state == State.PENDING
    storage.queue.deliver()
    assert read(storages["far"], document.file.name) == b"bytes"


def test_delayed_paperclip_signal_follows_the_whole_upload() -> None:
    storage = make()
    seen: list[tuple[str, bytes]] = []

    def record(name: str, remote: Any, queued_file: Any, **kwargs: Any) -> None:
        seen.append((queued_file.state, read(remote, name)))

    name = storage.save("a.txt", file(b"x" * 200_000))
    during: list[bool] = []
    storage.remote.after["_save"] = lambda _name: during.append(storage.using_remote(name))
    file_transferred.connect(record)
    try:
        storage.queue.deliver()
    finally:
        file_transferred.disconnect(record)
    assert during == [False]
    assert seen == [(State.TRANSFERRED, b"x" * 200_000)]


def test_rclone_2382_failed_file_is_kept() -> None:
    storage = make()
    storage.remote.rejects = True
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    while row(storage, name).state == State.PENDING:
        work.run(make_due(storage, name))
    assert row(storage, name).state == State.FAILED
    assert read(storage, name) == b"bytes"
    storage.remote.rejects = False
    storage.transfer(name)
    storage.queue.deliver()
    assert read(storage.remote, name) == b"bytes"


def test_rclone_7309_lost_message_is_found_by_sweep() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.messages.clear()
    assert sweep(storage.alias) == 1
    storage.queue.deliver()
    assert read(storage.remote, name) == b"bytes"


def test_rclone_6696_pending_uploads_do_not_block_startup() -> None:
    storage = make(queue=ThreadQueue(threads=2, poll=0.05))
    storage.remote.refuses = True
    storage.save("a.txt", file())
    ledger().update(attempts=3)
    try:
        with CaptureQueriesContext(connection) as queries:
            storage.queue.enqueue([])  # starts the threads, which poll the ledger
        assert len(queries) == 0
        storage.save("b.txt", file())
        assert read(storage, "b.txt") == b"bytes"
    finally:
        assert storage.queue.stop(30)


def test_juicefs_6161_eviction_spares_pending_content() -> None:
    """Clearing the cache deleted data that had not been uploaded."""
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"old"))

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.after["_save"] = overwrite
    assert errands.evict(ledger().all()) == 0
    storage.queue.deliver()  # and then, immediately, the newer content
    assert storage.remote.calls["_save"] == 2
    assert read(storage, name) == read(storage.remote, name) == b"newer"
    assert on_disk() == []


def test_juicefs_3143_delete_stops_the_upload() -> None:
    class Slow(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            with local.open(name) as content:
                pieces = content.chunks(1000)
                next(pieces)
                storage.delete(name)
                with pytest.raises(LeaseLost):
                    remote.save(name, content)
            raise LeaseLost("as it was raised above")

    storage = make(task=Slow)
    name = storage.save("a.txt", file(b"x" * 10_000))
    work.run(row(storage, name).pk)
    assert storage.remote.calls["_save"] == 0


def test_drive_file_of_killed_worker_is_taken_over() -> None:
    """Without a lease, the row stayed "processing": the sweep ignored rows with attempts."""
    storage = make()
    name = storage.save("a.txt", file())
    assert ledger().claim(row(storage, name).pk)
    assert sweep(storage.alias) == 0
    make_due(storage, name)
    storage.queue.messages.clear()
    assert sweep(storage.alias) == 1
    storage.queue.deliver()
    assert storage.using_remote(name)
    assert row(storage, name).attempts == 1  # the worker may have died because of another file


@pytest.mark.parametrize("error", [KeyError, OSError, RuntimeError, TransferError, MemoryError])
def test_drive_errors_of_any_library_are_caught(error: type[Exception]) -> None:
    def fail(name: str) -> None:
        raise error("odd")

    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.before["_save"] = fail
    assert list(storage.queue.deliver()) == [row(storage, name).pk]
    assert row(storage, name).state == State.PENDING
    assert "odd" in row(storage, name).last_error


class Stream(ContentFile):
    """Content that cannot seek, like that of a socket."""

    def seek(self, *args: Any) -> int:
        raise io.UnsupportedOperation("seek")

    def seekable(self) -> bool:
        return False


def test_django_storages_860_unseekable_content_is_transferred() -> None:
    storage = make()
    name = storage.save("a.txt", Stream(b"stream"))
    storage.queue.deliver()
    assert read(storage, name) == read(storage.remote, name) == b"stream"


@pytest.mark.parametrize("is_known", [True, False])
def test_django_storages_aborted_write_is_not_published(
    is_known: bool,
) -> None:
    """`S3Storage.open("wb")` publishes the partial content."""
    storage = make()
    if is_known:
        storage.save("a.txt", file(b"old"))
        storage.queue.deliver()

    def write_half() -> None:
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"half")
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        write_half()
    storage.queue.deliver()
    assert storage.exists("a.txt") is is_known
    assert on_disk() == on_disk("far") == ["a.txt"] * is_known
    if is_known:
        assert read(storage, "a.txt") == read(storage.remote, "a.txt") == b"old"


def test_django_failing_source_leaves_no_partial_file() -> None:
    class Broken(ContentFile):
        def chunks(self, chunk_size: int | None = None) -> Any:
            yield b"half"
            raise OSError("gone")

    storage = make()
    with pytest.raises(OSError, match="gone"):
        storage.save("a.txt", Broken(b"whole"))
    assert on_disk() == []
    assert not storage.exists("a.txt")


def test_django_name_with_nul_is_refused() -> None:
    with pytest.raises(SuspiciousFileOperation, match="NUL"):
        make().save("a\0.txt", file())


QUESTIONS: list[Callable[[Any, str], Any]] = [
    lambda storage, name: storage.exists(name),
    lambda storage, name: storage.get_modified_time(name),
    lambda storage, name: storage.url(name),
    lambda storage, name: storage.size(name),
]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("is_evicted", [True, False])
def test_easy_thumbnails_254_page_makes_no_remote_call(
    question: Callable[[Any, str], Any], is_evicted: bool
) -> None:
    storage = make(task=TransferAndDelete if is_evicted else Transfer)
    name = storage.save("a.jpg", file())
    storage.queue.deliver()
    assert bool(on_disk()) is not is_evicted
    storage.remote.refuses = True
    storage.remote.calls.clear()
    for _render in range(20):
        question(storage, name)
    assert storage.remote.calls.total() == 0


def test_mastodon_33948_orphans_lists_first_and_spares_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage: Any = storages["default"]
    document = Document.objects.create(file=ContentFile(b"bytes", "known.txt"))
    storage.queue.deliver()
    storages["far"].save("orphan.txt", file())
    for name in on_disk("far"):
        os.utime(Path(str(storages["far"].path(name))), (0, 0))
    call_command("queued_storage", "orphans", "remote", "--storage", "default")
    assert "orphan.txt" in capsys.readouterr().out
    assert on_disk("far") == [document.file.name, "orphan.txt"]
    call_command("queued_storage", "orphans", "remote", "--storage", "default", "--delete", "--yes")
    assert on_disk("far") == [document.file.name]


def test_ancestor_3_threads_find_files_without_a_broker() -> None:
    """The embedded threads of any process poll the ledger."""
    storage = make(queue=ThreadQueue(threads=1, poll=0.05))
    storage.queue.enqueue([])
    original, storage.queue.enqueue = storage.queue.enqueue, lambda pks: None
    try:
        name = storage.save("a.txt", file())
        until(lambda: storage.using_remote(name))
    finally:
        storage.queue.enqueue = original
        assert storage.queue.stop(30)
