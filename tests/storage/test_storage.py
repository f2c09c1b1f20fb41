"""QueuedStorage as its users meet it."""

import contextlib
import copy
import os
import resource
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import (
    FileSystemStorage,
    InMemoryStorage,
    Storage,
    default_storage,
    storages,
)
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.db import DatabaseError, connection, connections, transaction
from django.db.migrations.serializer import serializer_factory
from django.test import override_settings
from django.utils import timezone
from django.utils.module_loading import import_string
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import (
    InvalidName,
    LocalFileMissing,
    NameUnavailable,
    TransferError,
    TransferTimeout,
)
from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import comparison, steering
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from queued_storage.transfers import work
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
from tests.support.testapp.models import Document, Paper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return make()


@pytest.fixture
def default() -> Any:
    return storages["default"]


def evicted(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    """A file that is only on the remote."""
    saved: str = storage.save(name, file(data))
    storage.queue.deliver()
    storage.local.delete(saved)
    ledger().filter(pk=row(storage, saved).pk).update(is_local=False)
    return saved


def write(storage: Any, name: str, data: bytes, mode: str = "wb") -> None:
    with storage.open(name, mode) as opened:
        opened.write(data)


def checksum(data: bytes) -> str:
    return f"crc32:{zlib.crc32(data):08x}"


# Saving


def test_a_saved_file_is_there_at_once(storage: Any) -> None:
    name = storage.save("docs/a.txt", file(b"hello"))
    assert name == "docs/a.txt"
    assert storage.exists(name)
    assert read(storage, name) == b"hello"
    assert storage.size(name) == 5
    assert storage.url(name) == "/media/docs/a.txt"
    assert storage.path(name) == disk().path(name)
    assert storage.using_local(name)
    assert not storage.using_remote(name)
    assert storage.get_storage(name) is storage.local
    found = row(storage, name)
    assert (found.state, found.size, found.checksum) == ("pending", 5, checksum(b"hello"))
    assert (found.content_type, found.generation, found.is_local) == ("text/plain", 1, True)
    assert on_disk() == ["docs/a.txt"]


def test_a_name_that_is_taken_gets_a_suffix(storage: Any) -> None:
    names = {storage.save("a.txt", file(str(number).encode())) for number in range(5)}
    assert len(names) == 5
    assert sorted(read(storage, name) for name in names) == [b"0", b"1", b"2", b"3", b"4"]


class Chosen(QueuedStorage):
    choice = ""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return self.choice


def chosen(choice: str) -> Any:
    storage = Chosen("disk", ScriptedStorage(), alias="chosen", queue=DummyQueue())
    storage.choice = choice
    return storage


@pytest.mark.parametrize("choice", ["docs/b.txt", "docs\\b.txt", "./docs//b.txt"])
def test_a_name_that_a_subclass_chooses_is_tidied(choice: str) -> None:
    storage = chosen(choice)
    assert storage.save("a.txt", file(b"hello")) == "docs/b.txt"
    assert read(storage, "docs/b.txt") == b"hello"
    assert on_disk() == ["docs/b.txt"]


@pytest.mark.parametrize("choice", ["../b.txt", "docs\\..\\..\\b.txt", "/b.txt", "docs/", ""])
def test_a_name_that_a_subclass_chooses_is_checked(choice: str) -> None:
    with pytest.raises(InvalidName):
        chosen(choice).save("a.txt", file(b"hello"))
    assert on_disk() == []


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_name_that_only_the_ledger_knows_gets_a_suffix(storage: Any, place: str) -> None:
    """Ancestor 5: saving a name again pointed the first, transferred file back to local."""
    if place == "remote":
        evicted(storage, data=b"first")
    else:  # on another host's disk
        storage.save("a.txt", file(b"first"))
        disk().delete("a.txt")
    name = storage.save("a.txt", file(b"second"))
    assert name != "a.txt"
    assert read(storage, name) == b"second"
    assert on_disk() == [name]
    storage.queue.deliver()
    if place == "remote":
        assert read(storage, "a.txt") == b"first"
        assert storage.using_remote("a.txt")


def test_choosing_a_name_does_not_ask_the_remote(storage: Any) -> None:
    storage.remote.save("a.txt", file(b"theirs"))
    storage.remote.calls.clear()
    assert storage.save("a.txt", file(b"ours")) == "a.txt"
    assert read(storage, "a.txt") == b"ours"
    assert storage.remote.calls == {}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Path("docs/a.txt"), "docs/a.txt"),
        (PurePosixPath("a.txt"), "a.txt"),
        ("./a.txt", "a.txt"),
        ("docs//./a.txt", "docs/a.txt"),
        ("docs\\a.txt", "docs/a.txt"),
        ("ümläut/été 😀.txt", "ümläut/été 😀.txt"),
        ("e\u0301.txt", "e\u0301.txt"),
        ("name with  blanks .txt ", "name with  blanks .txt "),
        ("100%_[a]*?.txt", "100%_[a]*?.txt"),
        ("...", "..."),
        (".hidden", ".hidden"),
        ("no-extension", "no-extension"),
        ("line\nbreak", "line\nbreak"),
        ("quote'\"`;--", "quote'\"`;--"),
    ],
)
def test_a_name_is_one_name_however_it_is_written(storage: Any, given: Any, kept: str) -> None:
    assert storage.save(given, file(b"first")) == kept
    storage.queue.deliver()
    for name in (given, kept):
        assert storage.exists(name)
        assert read(storage, name) == b"first"
        assert storage.size(name) == 5
        assert storage.using_remote(name)
        assert row(storage, name).name == kept
    assert storage.urls([given]) == {str(given): storage.url(kept)}
    write(storage, given, b"second")
    assert row(storage, kept).generation == 2
    storage.delete(given)
    drain(storage)
    assert on_disk() == []
    assert on_disk("far") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.txt", "A.txt"), ("é.txt", "e.txt"), ("a", "a "), ("é", "e\u0301"), ("ß", "ss")],
)
def test_names_that_a_database_may_confuse_are_two_files(
    storage: Any, one: str, other: str
) -> None:
    assert storage.save(one, file(b"one")) == one
    assert storage.save(other, file(b"other")) == other
    storage.queue.deliver()
    storage.delete(one)
    storage.queue.deliver()
    assert not storage.exists(one)
    assert read(storage, other) == b"other"
    assert storage.listdir("") == ([], [other])


@pytest.mark.parametrize(
    "content",
    [
        ContentFile(b"same"),
        SimpleUploadedFile("other.bin", b"same", "application/x-mine"),
        ContentFile("same"),
    ],
    ids=["ContentFile", "upload", "text"],
)
def test_every_kind_of_content_is_kept(storage: Any, content: Any) -> None:
    name = storage.save("a.txt", content)
    assert read(storage, name) == b"same"
    assert row(storage, name).size == 4
    assert row(storage, name).checksum == checksum(b"same")
    storage.queue.deliver()
    assert read(storage.remote, name) == b"same"


@pytest.mark.parametrize("kind", ["image/\0png", "image/\npng", "image/\x01", "image/\ud800"])
def test_a_content_type_that_is_none_is_not_recorded(storage: Any, kind: str) -> None:
    upload = SimpleUploadedFile("a.png", b"bytes", content_type=kind)
    assert row(storage, storage.save("a.png", upload)).content_type == "image/png"


def test_the_content_type_of_an_upload_wins(storage: Any) -> None:
    storage.save("a.txt", SimpleUploadedFile("x", b"x", "application/x-mine"))
    storage.save("b.txt", file())
    storage.save("c.unknowable", file())
    kinds = QueuedFile.objects.order_by("name").values_list("content_type", flat=True)
    assert list(kinds) == ["application/x-mine", "text/plain", ""]


def test_an_upload_on_disk_is_moved_not_copied(storage: Any) -> None:
    upload = TemporaryUploadedFile("big.bin", "video/x-mine", 3, None)
    upload.write(b"big")
    upload.flush()
    inode = Path(upload.temporary_file_path()).stat().st_ino
    name = storage.save("big.bin", upload)
    assert Path(storage.path(name)).stat().st_ino == inode
    found = row(storage, name)
    assert (found.size, found.checksum, found.content_type) == (3, "", "video/x-mine")
    storage.queue.deliver()
    assert read(storage.remote, name) == b"big"
    assert row(storage, name).checksum == checksum(b"big")
    with contextlib.suppress(FileNotFoundError):
        upload.close()
    upload.file.file.close()


def test_content_is_saved_from_its_beginning_and_left_open(storage: Any) -> None:
    """django-storages #382: the source was closed."""
    content = file(b"from the beginning")
    content.read(8)
    name = storage.save("a.txt", content)
    assert read(storage, name) == b"from the beginning"
    assert not content.closed
    assert content.seek(0) == 0


def test_the_local_storages_permissions_and_valid_names_are_honoured() -> None:
    class Shouting(FileSystemStorage):
        def get_valid_name(self, name: str) -> str:
            return name.upper()

    local = Shouting(disk().location, file_permissions_mode=0o604)
    storage = make(local=local)
    assert storage.generate_filename("docs/a.txt") == "docs/A.TXT"
    name = storage.save("a.txt", file())
    assert Path(local.path(name)).stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("local", [InMemoryStorage, lambda: ScriptedStorage("disk")])
def test_any_two_storages_compose(local: Callable[[], Storage]) -> None:
    storage = make(local=local(), remote=InMemoryStorage(), task=TransferAndDelete)
    name = storage.save("docs/a.txt", file(b"one"))
    other = storage.save("docs/a.txt", file(b"two"))
    assert read(storage, name) == b"one"
    storage.queue.deliver()
    assert read(storage, name) == b"one"
    assert read(storage, other) == b"two"
    write(storage, name, b"new")
    assert read(storage, name) == b"new"
    storage.queue.deliver()
    assert read(storage, name) == b"new"
    storage.delete(name)
    storage.queue.deliver()
    assert not storage.exists(name)
    assert storage.listdir("docs") == ([], [other.removeprefix("docs/")])


def test_a_queued_storage_is_the_remote_of_another_one() -> None:
    middle = make(local=ScriptedStorage("disk/middle"), task=TransferAndDelete)
    storage = make(local=ScriptedStorage("disk/near"), remote=middle, task=TransferAndDelete)
    name = storage.save("a.txt", file(b"a long way"))
    for _hop in range(2):
        assert read(storage, name) == b"a long way"
        storage.queue.deliver()
        middle.queue.deliver()
    assert on_disk() == []
    assert read(storage, name) == b"a long way"
    assert on_disk("far") == ["a.txt"]
    assert storage.url(name) == "https://far.example/a.txt"

    write(storage, name, b"and again")
    for _hop in range(2):
        assert read(storage, name) == b"and again"
        storage.queue.deliver()
        drain(middle)
    assert read(storage, name) == b"and again"
    assert len(on_disk("far")) == 1

    storage.delete(name)
    storage.queue.deliver()
    drain(middle)
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_delayed_files_wait_for_transfer() -> None:
    storage = make(delayed=True)
    name = storage.save("a.txt", file())
    assert (row(storage, name).state, row(storage, name).due_at) == (State.HELD, None)
    assert storage.queue.messages == []
    assert drain(storage) == {}
    assert on_disk("far") == []
    storage.transfer(name)
    storage.queue.deliver()
    assert storage.using_remote(name)


def test_threads_that_share_one_instance_get_a_name_each(storage: Any) -> None:
    """And with each its own bytes and its own `storage.result`."""
    threads, times = 6, 5
    start = threading.Barrier(threads)

    def work(number: int) -> list[tuple[str, bytes]]:
        start.wait()
        saved = []
        for time in range(times):
            data = f"{number} {time}".encode()
            name = storage.save("same.txt", file(data))
            assert storage.result.queued_file.name == name
            saved.append((name, data))
        connections.close_all()
        return saved

    with ThreadPoolExecutor(threads) as pool:
        saved = dict(pair for pairs in pool.map(work, range(threads)) for pair in pairs)
    assert len(saved) == threads * times
    for name, data in saved.items():
        assert read(storage, name) == data
    storage.queue.deliver()
    for name, data in saved.items():
        assert read(storage.remote, name) == data
    assert on_disk() == sorted(saved)
    assert on_disk("far") == sorted(saved)


# Transactions


class Oops(Exception):
    pass


@contextlib.contextmanager
def rolled_back() -> Any:
    with contextlib.suppress(Oops), transaction.atomic():
        yield
        raise Oops


def test_a_rolled_back_save_transfers_nothing(storage: Any) -> None:
    with rolled_back():
        name = storage.save("a.txt", file())
        assert row(storage, name)
    assert storage.queue.messages == []
    assert storage.queued_file(name) is None
    assert drain(storage) == {}
    assert on_disk("far") == []


def test_a_rolled_back_delete_deletes_nothing(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    with rolled_back():
        storage.delete(name)
        assert not storage.exists(name)
    assert storage.exists(name)
    assert storage.url(name) == "https://far.example/a.txt"
    assert storage.queue.messages == []
    assert drain(storage) == {}
    assert read(storage, name) == b"bytes"
    assert read(storage.remote, name) == b"bytes"


def test_nothing_happens_before_the_commit(storage: Any) -> None:
    old = storage.save("old.txt", file())
    storage.queue.deliver()
    with transaction.atomic():
        new = storage.save("new.txt", file())
        storage.delete(old)
        assert storage.queue.messages == []
        assert on_disk() == ["new.txt", "old.txt"]
        assert read(storage, new) == b"bytes"
        with pytest.raises(FileNotFoundError):
            storage.open(old)
    assert len(storage.queue.messages) == 1
    assert on_disk() == ["new.txt"]
    storage.queue.deliver()
    assert on_disk("far") == ["new.txt"]


def test_one_wake_up_per_transaction_and_storage(storage: Any) -> None:
    other = make()
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", file()) for number in range(20)]
        storage.delete(names[0])
        storage.transfer(names[1])
        other.save("x.txt", file())
    assert [len(message) for message in storage.queue.messages] == [20]
    assert [len(message) for message in other.queue.messages] == [1]


def test_one_wake_up_for_a_transaction_with_savepoints(storage: Any) -> None:
    with transaction.atomic():
        for number in range(3):
            with transaction.atomic():
                storage.save(f"{number}.txt", file())
                with transaction.atomic(savepoint=False):
                    storage.save(f"inner {number}.txt", file())
        storage.save("last.txt", file())
    assert [len(message) for message in storage.queue.messages] == [7]


def test_a_wake_up_carries_no_more_ids_than_the_queue_takes(storage: Any) -> None:
    with transaction.atomic():
        for number in range(DummyQueue.batch_size + 1):
            storage.save(f"{number}.txt", file(b""))
    assert [len(message) for message in storage.queue.messages] == [DummyQueue.batch_size, 1]


def test_without_autocommit_nothing_is_half_done(storage: Any) -> None:
    known = storage.save("known.txt", file())
    transaction.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="autocommit"):
            storage.save("a.txt", file())
        with pytest.raises(transaction.TransactionManagementError, match="autocommit"):
            storage.delete(known)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert on_disk() == [known]
    assert storage.queued_file("a.txt") is None
    assert row(storage, known).state == State.PENDING
    assert storage.queue.messages == [[row(storage, known).pk]]


def test_a_queue_that_answers_with_its_engines_job_is_told_of_everything() -> None:
    class Jobs(DummyQueue):
        batch_size = 1

        def enqueue(self, pks: list[int]) -> Any:
            super().enqueue(pks)
            return f"job {pks}"

    storage = make(queue=Jobs())
    with transaction.atomic():
        for number in range(3):
            storage.save(f"{number}.txt", file())
    assert [len(message) for message in storage.queue.messages] == [1, 1, 1]


@pytest.mark.parametrize("first", ["outer", "inner", "neither"])
@pytest.mark.parametrize("last", ["outer", "inner", "neither"])
def test_what_a_savepoint_rolls_back_is_not_transferred_and_the_rest_is(
    storage: Any, first: str, last: str
) -> None:
    with transaction.atomic():
        if first == "outer":
            storage.save("kept 1.txt", file())
        with rolled_back():
            storage.save("gone 1.txt", file())
            with transaction.atomic():
                if first == "inner":
                    storage.save("gone 2.txt", file())
        with transaction.atomic():
            storage.save("kept 2.txt", file())
            if last == "inner":
                with rolled_back():
                    storage.save("gone 3.txt", file())
        if last == "outer":
            storage.save("kept 3.txt", file())
    storage.queue.deliver()
    kept = [name for name in on_disk() if name.startswith("kept")]
    assert on_disk("far") == kept
    assert sorted(QueuedFile.objects.values_list("name", flat=True)) == kept
    assert {found.state for found in QueuedFile.objects.all()} == {State.TRANSFERRED}


def test_a_delete_in_a_savepoint_that_is_rolled_back_deletes_nothing(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    with transaction.atomic():
        with rolled_back():
            storage.delete(name)
        assert storage.exists(name)
    assert storage.queue.deliver() == {}
    assert read(storage, name) == b"bytes"
    assert on_disk("far") == [name]


def test_django_cleanup_116_a_file_of_that_name_saved_after_its_delete_survives(
    storage: Any,
) -> None:
    old = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    with transaction.atomic():
        storage.delete(old)
        new = storage.save("a.txt", file(b"new"))
        assert new != old
        assert read(storage, new) == b"new"
    storage.queue.deliver()
    assert read(storage, new) == b"new"
    assert not storage.exists(old)
    assert on_disk() == [new]
    assert on_disk("far") == [new]


def test_deleted_and_saved_again_in_one_transaction_that_rolls_back(storage: Any) -> None:
    old = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    with rolled_back():
        storage.delete(old)
        storage.save("a.txt", file(b"new"))
    storage.queue.deliver()
    assert read(storage, old) == b"old"
    assert on_disk("far") == [old]


def test_a_file_saved_and_deleted_in_one_transaction_leaves_nothing(storage: Any) -> None:
    with transaction.atomic():
        storage.delete(storage.save("a.txt", file()))
    storage.queue.deliver()
    assert on_disk() == []
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_a_model_and_its_file_live_and_die_together(default: Any) -> None:
    with rolled_back():
        document = Document.objects.create(file=file(b"x", "a.txt"))
        assert default.queued_file(document.file.name)
    default.queue.deliver()
    assert on_disk("far") == []

    document = Document.objects.create(file=file(b"x", "a.txt"))
    default.queue.deliver()
    assert on_disk("far") == [document.file.name]
    assert document.file.url.startswith("https://far.example/docs/a")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes at a time")
def test_a_delete_reaches_a_file_that_was_saved_after_the_transactions_snapshot(
    storage: Any,
) -> None:
    with transaction.atomic():
        assert not storage.exists("a.txt")  # MySQL's transactions see what was there at this point

        def save() -> None:
            storage.save("a.txt", file())
            connections.close_all()

        saver = threading.Thread(target=save)
        saver.start()
        saver.join()
        storage.delete("a.txt")
    storage.queue.deliver()
    assert on_disk() == []
    assert storage.queued_file("a.txt") is None


# Deleting


def test_a_deleted_file_is_gone_at_once(storage: Any) -> None:
    name = storage.save("docs/a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    assert not storage.exists(name)
    for ask in (storage.open, storage.size, storage.get_modified_time, storage.get_created_time):
        with pytest.raises(FileNotFoundError):
            ask(name)
    assert storage.listdir("docs") == ([], [])
    with pytest.raises(FileNotFoundError):
        storage.transfer(name)


def test_the_name_of_a_deleted_file_is_free_when_nobody_can_write_to_it_any_more(
    storage: Any,
) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    assert storage.save(name, file()) != name
    with pytest.raises(NameUnavailable):
        storage.open(name, "wb")
    storage.queue.deliver()
    assert storage.save(name, file(b"new")) == name
    storage.queue.deliver()
    assert read(storage.remote, name) == b"new"


def test_a_second_delete_changes_nothing(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.delete(name)
    pk = row(storage, name).pk
    storage.delete(name)
    assert [row(storage, name).pk] == list(QueuedFile.objects.values_list("pk", flat=True))
    assert row(storage, name).pk == pk
    storage.queue.deliver()
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert not QueuedFile.objects.exists()


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("is_remote", [True, False])
def test_a_file_that_predates_the_ledger_is_deleted_from_both_sides(
    storage: Any, is_local: bool, is_remote: bool
) -> None:
    if is_local:
        disk().save("old.txt", file())
    if is_remote:
        storage.remote.save("old.txt", file())
    storage.delete("old.txt")
    assert not storage.exists("old.txt")
    assert on_disk() == []
    storage.queue.deliver()
    assert on_disk("far") == []
    assert not storage.exists("old.txt")
    assert not QueuedFile.objects.exists()


def test_an_empty_directory_is_deleted_as_the_local_storage_does_it(storage: Any) -> None:
    name = storage.save("docs/a.txt", file())
    with pytest.raises(OSError, match="docs"):
        storage.delete("docs")
    storage.delete(name)
    storage.delete("docs")
    assert not Path(disk().path("docs")).exists()


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_file_of_the_remote_that_is_called_as_a_directory_here_is_deleted(
    storage: Any, is_empty: bool
) -> None:
    name = evicted(storage, "report")
    other = storage.save("report/part.txt", file())
    if is_empty:
        storage.delete(other)
        storage.queue.deliver()
    storage.delete(name)
    assert not storage.exists(name)
    storage.queue.deliver()
    assert on_disk("far") == []
    assert on_disk() == [other] * (not is_empty)


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Transactions that read from the snapshot of their first look, which MySQL can have."""
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", "repeatable read")
    connection.close()
    yield
    connection.close()


def elsewhere(action: Callable[[], object]) -> None:
    """In another transaction."""

    def act() -> None:
        action()
        connections.close_all()

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


of_mysql = pytest.mark.skipif(connection.vendor != "mysql", reason="others tell of a conflict")


@of_mysql
@pytest.mark.usefixtures("snapshots")
def test_what_is_newer_than_the_transaction_is_deleted(storage: Any) -> None:
    with transaction.atomic():
        assert not storage.exists("a.txt")
        elsewhere(lambda: storage.save("a.txt", file()))
        storage.delete("a.txt")
    assert not storage.exists("a.txt")
    storage.queue.deliver()
    assert on_disk() == on_disk("far") == []


@of_mysql
@pytest.mark.usefixtures("snapshots")
def test_a_delete_that_is_newer_than_the_transaction_wins(storage: Any) -> None:
    def save_and_delete() -> None:
        storage.delete(storage.save("a.txt", file()))

    with transaction.atomic():
        assert not storage.exists("a.txt")
        elsewhere(save_and_delete)
        with pytest.raises(NameUnavailable):
            write(storage, "a.txt", b"new")
    storage.queue.deliver()
    assert on_disk() == on_disk("far") == []


def test_deleting_what_cannot_be_since_its_directory_is_a_file(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete("a.txt/b.txt")
    storage.queue.deliver()
    assert QueuedFile.objects.get().name == name
    assert read(storage, name) == read(storage.remote, name) == b"bytes"


# Names without a row


def test_a_file_that_predates_the_ledger_is_read_where_it_is(storage: Any) -> None:
    disk().save("near.txt", file(b"near"))
    storage.remote.save("away.txt", file(b"away"))
    assert storage.exists("near.txt")
    assert storage.exists("away.txt")
    assert read(storage, "near.txt") == b"near"
    assert read(storage, "away.txt") == b"away"
    assert storage.size("near.txt") == storage.size("away.txt") == 4
    assert storage.url("near.txt") == "/media/near.txt"
    assert storage.url("away.txt") == "https://far.example/away.txt"
    assert storage.urls(["near.txt", "away.txt"]) == {
        "near.txt": "/media/near.txt",
        "away.txt": "https://far.example/away.txt",
    }
    for ask in ("get_modified_time", "get_created_time", "get_accessed_time"):
        assert getattr(storage, ask)("near.txt") == getattr(disk(), ask)("near.txt")
        assert getattr(storage, ask)("away.txt") == getattr(storage.remote, ask)("away.txt")
    assert not storage.exists("nowhere.txt")
    for ask in (storage.open, storage.size, storage.get_modified_time):
        with pytest.raises(FileNotFoundError):
            ask("nowhere.txt")


def test_a_file_that_only_the_remote_has_keeps_its_bytes_and_not_its_name(storage: Any) -> None:
    """Without a row, that is; ``adopt`` writes one."""
    storage.remote.save("old.txt", file(b"old"))
    assert storage.save("old.txt", file(b"new")) == "old.txt"
    storage.queue.deliver()
    disk().delete("old.txt")
    assert read(storage, "old.txt") == b"new"
    assert storage.queued_file("old.txt").remote_name != "old.txt"
    assert read(storage.remote, "old.txt") == b"old"


def test_a_name_that_nobody_knows_is_absent_where_the_ledger_is_complete() -> None:
    storage = make(unknown="absent")
    storage.remote.save("away.txt", file())
    storage.remote.calls.clear()
    assert not storage.exists("away.txt")
    for ask in ("size", "get_modified_time", "get_created_time", "get_accessed_time"):
        with pytest.raises(FileNotFoundError):
            getattr(storage, ask)("away.txt")
    assert storage.remote.calls == {}


def test_what_is_absent_is_not_deleted_and_its_name_stays_free() -> None:
    storage = make(unknown="absent")
    storage.delete("new.txt")
    assert storage.queued_file("new.txt") is None
    assert storage.save("new.txt", file()) == "new.txt"


def test_a_file_without_a_row_is_deleted_also_where_the_ledger_is_complete() -> None:
    storage = make(unknown="absent")
    disk().save("near.txt", file())
    storage.delete("near.txt")
    storage.queue.deliver()
    assert not disk().exists("near.txt")
    assert storage.queued_file("near.txt") is None


def test_a_file_that_predates_the_ledger_is_overwritten_through_open(storage: Any) -> None:
    storage.remote.save("old.txt", file(b"old"))
    write(storage, "old.txt", b"new")
    storage.queue.deliver()
    disk().delete("old.txt")
    assert read(storage, "old.txt") == b"new"


def test_a_name_below_that_of_a_local_file_may_be_one_of_the_remotes(storage: Any) -> None:
    storage.save("report", file())
    with pytest.raises(FileNotFoundError):
        storage.open("report/part.txt")
    with pytest.raises(FileNotFoundError):
        storage.size("report/part.txt")
    storage.remote.save("report/part.txt", file(b"part"))
    assert storage.exists("report/part.txt")
    assert read(storage, "report/part.txt") == b"part"
    assert storage.size("report/part.txt") == 4


# Reading


def test_an_evicted_file_is_read_from_the_remote(storage: Any) -> None:
    name = evicted(storage, "docs/a.txt")
    assert read(storage, name) == b"bytes"
    assert storage.size(name) == 5
    assert storage.exists(name)
    assert storage.url(name) == "https://far.example/docs/a.txt"
    assert storage.get_storage(name) is storage.remote
    with pytest.raises(NotImplementedError):
        storage.path(name)


def test_a_local_copy_is_preferred_but_for_urls(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.remote.calls.clear()
    assert read(storage, name) == b"bytes"
    assert storage.size(name) == 5
    assert storage.path(name)
    storage.get_modified_time(name)
    assert storage.remote.calls == {}
    assert storage.url(name) == "https://far.example/a.txt"


def test_a_local_copy_that_is_not_here_is_an_error_that_says_so(storage: Any) -> None:
    name = storage.save("a.txt", file())
    disk().delete(name)
    with pytest.raises(LocalFileMissing, match="not on this machine"):
        storage.open(name)
    assert storage.size(name) == 5
    assert storage.exists(name)


def test_a_file_evicted_between_the_two_looks_of_open_is_found() -> None:
    storage = make(local=ScriptedStorage("disk"), task=TransferAndDelete)
    name = storage.save("a.txt", file())
    storage.local.before["_open"] = lambda _name: work.run(make_due(storage, name))
    assert read(storage, name) == b"bytes"
    assert on_disk() == []


def test_a_file_stays_readable_that_was_opened_before_it_was_evicted_or_deleted(
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
def test_times_of_an_evicted_file_are_those_of_its_saving(
    storage: Any, settings: Settings, tz: bool
) -> None:
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


def test_the_remote_is_not_asked_about_a_file_that_it_has_not_got(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.remote.save("other.txt", file())
    storage.remote.calls.clear()
    storage.local.delete(name)
    with pytest.raises(LocalFileMissing, match="not been transferred yet"):
        storage.get_accessed_time(name)
    assert storage.remote.calls == {}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
def test_nobody_has_to_wait_for_the_end_of_a_transaction_that_reads(storage: Any) -> None:
    name = evicted(storage)
    locked: list[str] = []

    def lock() -> None:
        with transaction.atomic():
            locked.append(ledger().select_for_update(nowait=True).get().name)

    with transaction.atomic():
        assert read(storage, name) == b"bytes"
        elsewhere(lock)
    assert locked == [name]


def test_a_remote_that_opens_nothing_has_no_such_file(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = evicted(storage)
    monkeypatch.setattr(storage.remote, "_open", lambda *args: None)
    for each in (name, "unknown.txt"):
        with pytest.raises(FileNotFoundError, match="remote has no"):
            storage.open(each)


# URLs


def test_urls_takes_one_query_for_many_names(
    storage: Any, settings: Settings, django_assert_num_queries: Callable[..., Any]
) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", file(b"")) for number in range(30)]
    for pk in storage.queue.messages.pop()[:10]:
        work.run(pk)
    with django_assert_num_queries(1):
        urls = storage.urls([*names, "\0", "unknown.txt"])
    expected = [*(f"https://far.example/{name}" for name in names[:10])]
    expected += [f"/media/{name}" for name in names[10:]]
    expected += [storage.local.url("\0"), "https://far.example/unknown.txt"]
    assert list(urls.values()) == expected
    assert list(urls) == [*names, "\0", "unknown.txt"]


def test_urls_of_more_names_than_a_query_takes(storage: Any) -> None:
    names = [f"{number}.txt" for number in range(1201)]
    assert len(storage.urls(names)) == 1201
    assert storage.urls([]) == {}


def test_arguments_of_the_remotes_url_reach_the_remote() -> None:
    class Expiring(ScriptedStorage):
        def url(self, name: str, expire: int = 0) -> str:
            return f"https://signed.example/{name}?{expire}"

    storage = make(remote=Expiring())
    name = storage.save("a.txt", file())
    assert storage.url(name, expire=5) == "/media/a.txt"
    storage.queue.deliver()
    assert storage.url(name, expire=5) == "https://signed.example/a.txt?5"


def test_a_url_names_awkward_files_safely(storage: Any) -> None:
    name = storage.save("a b#?%ü.txt", file())
    assert storage.url(name) == disk().url(name)
    storage.queue.deliver()
    assert storage.url(name) == storage.remote.url(name)


def test_the_url_of_no_name_is_the_local_storages(storage: Any) -> None:
    assert storage.url("") == disk().url("")
    assert storage.url(None) == disk().url(None)


# Listing


def test_listdir_shows_both_sides_once(storage: Any) -> None:
    evicted(storage, "docs/evicted.txt")
    storage.save("docs/both.txt", file())
    storage.queue.deliver()
    storage.save("docs/local.txt", file())
    storage.remote.save("docs/foreign.txt", file())
    storage.save("docs/deep/er/x.txt", file())
    deleted = storage.save("docs/deleted.txt", file())
    storage.queue.deliver()
    storage.delete(deleted)
    storage.save("top.txt", file())
    assert storage.listdir("docs") == (
        ["deep"],
        ["both.txt", "evicted.txt", "foreign.txt", "local.txt"],
    )
    assert storage.listdir("docs/") == storage.listdir(Path("docs")) == storage.listdir("docs")
    for root in ("", ".", None):
        assert storage.listdir(root) == (["docs"], ["top.txt"])


def test_listdir_of_a_directory_that_is_on_one_side_only(storage: Any) -> None:
    storage.save("near/a.txt", file())
    storage.remote.save("away/b.txt", file())
    assert storage.listdir("near") == ([], ["a.txt"])
    assert storage.listdir("away") == ([], ["b.txt"])
    with pytest.raises(FileNotFoundError):
        storage.listdir("nowhere")


def test_listdir_knows_a_file_that_waits_on_another_host(storage: Any) -> None:
    name = storage.save("docs/a.txt", file())
    disk().delete(name)
    disk().delete("docs")
    assert storage.listdir("docs") == ([], ["a.txt"])


def test_listdir_does_not_take_names_for_patterns(storage: Any) -> None:
    storage.save("a_b/x.txt", file())
    storage.save("acb/y.txt", file())
    storage.save("A_B/z.txt", file())
    assert storage.listdir("a_b") == ([], ["x.txt"])


def test_listdir_hides_drafts(storage: Any) -> None:
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"x")
        assert len(on_disk()) == 1
        assert storage.listdir("") == ([], [])
    assert storage.listdir("") == ([], ["a.txt"])


# local_path


def test_local_path_of_a_local_file(storage: Any) -> None:
    name = storage.save("docs/a.txt", file(b"here"))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"here"
        assert Path(path).name == "a.txt"


def test_local_path_fetches_what_is_only_on_the_remote(storage: Any) -> None:
    name = evicted(storage, "docs/a.txt", b"x" * 300_000)
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"x" * 300_000
        assert Path(path).suffix == ".txt"
        assert on_disk() == []
    assert not Path(path).exists()


@pytest.mark.parametrize("is_local", [True, False])
def test_local_path_outlives_what_happens_to_the_file(storage: Any, is_local: bool) -> None:
    name = storage.save("a.txt", file(b"kept")) if is_local else evicted(storage, data=b"kept")
    with storage.local_path(name) as path:
        storage.delete(name)
        drain(storage)
        assert Path(path).read_bytes() == b"kept"


def test_local_path_of_nothing(storage: Any) -> None:
    with pytest.raises(FileNotFoundError), storage.local_path("nowhere.txt"):
        pass


def test_local_path_of_a_storage_without_paths() -> None:
    storage = make(local=InMemoryStorage())
    name = storage.save("a.txt", file(b"memory"))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"memory"


# Writing through open


def test_a_file_opened_for_writing_is_visible_when_it_is_closed(storage: Any) -> None:
    opened = storage.open("docs/a.txt", "wb")
    opened.write(b"half")
    assert not storage.exists("docs/a.txt")
    assert storage.queue.messages == []
    opened.write(b" and half")
    opened.close()
    opened.close()
    assert read(storage, "docs/a.txt") == b"half and half"
    assert row(storage, "docs/a.txt").size == 13
    storage.queue.deliver()
    assert read(storage.remote, "docs/a.txt") == b"half and half"
    assert on_disk() == ["docs/a.txt"]


def test_django_storages_a_block_that_raises_publishes_nothing(storage: Any) -> None:
    storage.save("old.txt", file(b"old"))
    storage.queue.deliver()
    for name in ("new.txt", "old.txt"):
        with contextlib.suppress(Oops), storage.open(name, "wb") as opened:
            opened.write(b"half")
            raise Oops
    assert not storage.exists("new.txt")
    assert read(storage, "old.txt") == b"old"
    assert row(storage, "old.txt").generation == 1
    assert on_disk() == ["old.txt"]


def write_on_a_full_disk(storage: Any, name: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with storage.open(name, "wb") as opened:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            opened.write(b"x" * 500)
            raise Oops
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_block_that_raises_on_a_full_disk_leaves_nothing(storage: Any) -> None:
    with pytest.raises(OSError, match="too large"):
        write_on_a_full_disk(storage, "a.txt")
    assert on_disk() == []
    assert not storage.exists("a.txt")


def test_a_file_that_nobody_closes_is_discarded(storage: Any) -> None:
    opened = storage.open("a.txt", "wb")
    opened.write(b"half")
    del opened
    assert on_disk() == []
    assert not storage.exists("a.txt")


@pytest.mark.parametrize("place", [evicted, lambda storage: storage.save("a.txt", file())])
@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("wb", b"12"),
        ("ab", b"bytes12"),
        ("rb+", b"12tes"),
        ("r+b", b"12tes"),
        ("wb+", b"12"),
        ("w", b"12"),
        ("a", b"bytes12"),
    ],
)
def test_modes(storage: Any, place: Callable[[Any], str], mode: str, result: bytes) -> None:
    name = place(storage)
    write(storage, name, b"12" if "b" in mode else "12", mode)  # type: ignore[arg-type]
    assert read(storage, name) == result
    assert row(storage, name).generation == 2
    drain(storage)
    assert read(storage.remote, name) == result


def test_appending_where_the_local_storage_is_in_memory() -> None:
    storage = make(local=InMemoryStorage())
    write(storage, "a.txt", b"first", "ab")
    write(storage, "a.txt", b", second", "ab")
    write(storage, "a.txt", ", third", "a")  # type: ignore[arg-type]
    assert read(storage, "a.txt") == b"first, second, third"


def test_modes_that_need_the_file_or_its_absence(storage: Any) -> None:
    with pytest.raises(FileNotFoundError):
        storage.open("a.txt", "rb+")
    write(storage, "a.txt", b"first", "xb")
    with pytest.raises(FileExistsError):
        storage.open("a.txt", "xb")
    assert read(storage, "a.txt") == b"first"
    write(storage, "b.txt", b"appended", "ab")
    assert read(storage, "b.txt") == b"appended"
    with pytest.raises(ValueError, match="mode"):
        storage.open("c.txt", "wq")
    assert on_disk() == ["a.txt", "b.txt"]


def test_a_delete_while_a_file_is_being_rewritten_wins(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    opened = storage.open(name, "wb")
    opened.write(b"late")
    storage.delete(name)
    with pytest.raises(NameUnavailable):
        opened.close()
    drain(storage)
    assert on_disk() == []
    assert on_disk("far") == []


def test_a_model_that_rewrites_its_file(default: Any) -> None:
    document = Document.objects.create(file=file(b"old", "a.txt"))
    default.queue.deliver()
    name = document.file.name
    with document.file.open("wb") as opened:
        opened.write(b"new")
    default.queue.deliver()
    assert read(default.remote, name) == b"new"
    assert on_disk("far") == [name]


# Results and waiting


def test_the_result_of_a_save(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    assert (result.state, result.ready()) == (State.PENDING, False)
    assert result.queued_file.name == name
    with pytest.raises(TransferTimeout):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    storage.queue.deliver()
    assert result.ready()
    assert result.get() is True
    assert result.state == State.TRANSFERRED


def test_the_result_of_a_file_that_failed(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage.save("a.txt", file())
    storage.remote.refuses = True
    storage.queue.deliver()
    with pytest.raises(TransferError, match="The remote is away"):
        storage.result.get(timeout=0)
    assert storage.result.get(timeout=0, propagate=False) is False


def test_the_result_raises_the_original_error_where_it_ran_inline() -> None:
    storage = make(queue=ImmediateQueue())
    storage.remote.refuses = True
    storage.save("a.txt", file())
    with pytest.raises(ConnectionError):
        storage.result.get(timeout=0)


def test_the_result_of_a_file_that_was_deleted(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    storage.delete(name)
    storage.queue.deliver()
    assert result.state is None
    with pytest.raises(TransferError, match="deleted"):
        result.get(timeout=0)


def test_the_result_of_a_transfer_that_was_cancelled(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    assert not result.ready()
    steering.cancel(ledger())
    assert result.ready()
    with pytest.raises(TransferError, match="cancelled"):
        result.get(timeout=0)
    assert result.get(timeout=0, propagate=False) is False
    again = storage.transfer(name)
    assert not again.ready()
    storage.queue.deliver()
    assert again.get(timeout=0) is result.get(timeout=0) is True


def test_a_result_inside_the_transaction_says_what_it_waits_for(storage: Any) -> None:
    with transaction.atomic():
        storage.save("a.txt", file())
        with pytest.raises(TransferError, match="commit"):
            storage.result.get()


def test_the_transfer_of_a_transferred_file_is_done(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert storage.transfer(name).get(timeout=0) is True
    assert storage.queue.messages == []
    with pytest.raises(FileNotFoundError):
        storage.transfer("unknown.txt")


def test_wait_is_a_barrier(storage: Any) -> None:
    storage.wait(timeout=0)
    first = storage.save("a.txt", file())
    with pytest.raises(TransferTimeout):
        storage.wait(timeout=0)
    storage.queue.deliver()
    storage.wait(timeout=0)
    second = storage.save("b.txt", file())
    storage.wait([first], timeout=0)
    with pytest.raises(TransferTimeout):
        storage.wait([Path(second)], timeout=0)


def test_wait_sees_what_other_threads_do(storage: Any) -> None:
    storage.save("a.txt", file())

    def deliver() -> None:
        storage.queue.deliver()
        connections.close_all()

    worker = threading.Thread(target=deliver)
    worker.start()
    storage.wait(timeout=30)
    worker.join()
    assert on_disk("far") == ["a.txt"]


def test_wait_tells_of_a_file_that_failed(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage.save("a.txt", file())
    storage.remote.refuses = True
    storage.queue.deliver()
    with pytest.raises(TransferError, match="The remote is away"):
        storage.wait()


def test_wait_does_not_wait_for_held_files_unless_they_are_named() -> None:
    storage = make(delayed=True)
    name = storage.save("a.txt", file())
    storage.wait(timeout=0)
    with pytest.raises(TransferError, match="transfer"):
        storage.wait([name])


def test_wait_leaves_other_storages_alone(storage: Any) -> None:
    make().save("a.txt", file())
    storage.wait(timeout=0)


@pytest.mark.parametrize("name", ["a\0b.txt", "\ud800.txt", "x" * 5000, "../a.txt", ""])
def test_wait_for_a_name_that_the_ledger_cannot_have(storage: Any, name: str) -> None:
    known = storage.save("a.txt", file())
    with pytest.raises(FileNotFoundError, match="wait for"):
        storage.wait([known, name])


def test_wait_for_more_names_than_one_statement_takes(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="wait for"):
        storage.wait(f"{number}.txt" for number in range(300_000))
    monkeypatch.setattr("queued_storage.storage.barrier.BULK", 2)
    names = [storage.save(f"{number}.txt", file()) for number in range(5)]
    storage.queue.deliver()
    storage.wait(names, timeout=0)
    names.append(storage.save("new.txt", file()))
    with pytest.raises(TransferTimeout):
        storage.wait(names, timeout=0)


def test_wait_inside_the_transaction_that_saved_does_not_wait_for_ever(storage: Any) -> None:
    with transaction.atomic():
        storage.save("a.txt", file())
        with pytest.raises(TransferError, match="commit"):
            storage.wait()


# What Django does with storages


def test_a_storage_of_storages_is_named_by_its_key(default: Any) -> None:
    assert default.alias == "default"
    default.save("a.txt", file())
    assert QueuedFile.objects.get().alias == "default"


def test_override_settings_changes_the_sides(default: Any, settings: Settings) -> None:
    name = default.save("a.txt", file())
    moved = {
        **settings.STORAGES,
        "far": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": f"{settings.DIRECTORY}/disk/moved", "base_url": "/moved/"},
        },
    }
    with override_settings(STORAGES=moved):
        now = storages["default"]
        assert now is not default
        now.queue.messages.append([row(now, name).pk])
        assert now.queue.deliver() == {}
        assert now.url(name) == "/moved/a.txt"
        assert on_disk("disk/moved") == ["a.txt"]
    assert on_disk("far") == []
    assert storages["default"].url(name) == "https://far.example/a.txt"


@pytest.mark.parametrize("make_it", [lambda: storages["default"], make], ids=["key", "inline"])
def test_a_storage_can_be_written_into_a_migration(make_it: Callable[[], Any]) -> None:
    storage = QueuedStorage("disk", "far", alias="migrated", delayed=True)
    path, args, kwargs = storage.deconstruct()  # type: ignore[attr-defined]
    assert path == "queued_storage.backends.QueuedStorage"
    assert (args, kwargs) == (("disk", "far"), {"alias": "migrated", "delayed": True})
    text, imports = serializer_factory(storage).serialize()
    assert imports == {"import queued_storage.backends"}
    assert "queued_storage.backends.QueuedStorage('disk', 'far'," in text
    assert make_it().deconstruct()[0] == "queued_storage.backends.QueuedStorage"


def test_one_made_anew_from_its_deconstruction_works_on_the_same_rows(default: Any) -> None:
    """As Wagtail does to delete files in a task."""
    name = default.save("a.txt", file(b"x"))
    default.queue.deliver()
    path, args, kwargs = default_storage.deconstruct()  # type: ignore[attr-defined]
    again = import_string(path)(*args, **kwargs)
    assert again is not default
    assert again.alias == default.alias
    again.delete(name)
    default.queue.deliver()
    assert default.queued_file(name) is None
    assert on_disk("far") == []


def test_a_class_that_takes_no_alias_can_be_made_anew(settings: Settings) -> None:
    settings.STORAGES = {**settings.STORAGES, "bare": {"BACKEND": f"{__name__}.Bare"}}
    path, args, kwargs = storages["bare"].deconstruct()  # type: ignore[attr-defined]
    assert (args, kwargs) == ((), {})
    assert import_string(path)().remote is storages["far"]


class Bare(QueuedStorage):
    local = "disk"
    remote = "far"

    def __init__(self) -> None:
        super().__init__()


def test_fields_with_a_storage_chosen_at_run_time(default: Any) -> None:
    paper = Paper.objects.create(file=file(b"x", "a.txt"))
    default.queue.deliver()
    assert paper.file.is_remote


def test_a_storage_survives_copying(storage: Any) -> None:
    twin = copy.deepcopy(QueuedStorage("disk", "far", alias="copied"))
    name = twin.save("a.txt", file())
    assert read(twin, name) == b"bytes"


@pytest.mark.parametrize("is_local", [True, False])
def test_a_file_is_closed_if_the_ledger_is_lost_while_it_is_opened(
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


class Compressing(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(zlib.compress(content.read())))

    def _open(self, name: str, mode: str = "rb") -> File:
        with super()._open(name) as packed:
            return ContentFile(zlib.decompress(packed.read()), name)


class Trimming(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(content.read().strip()))


@pytest.mark.parametrize(("changing", "expected"), [(Compressing, b" x" * 50), (Trimming, b"x")])
@pytest.mark.parametrize("is_temporary_file", [True, False])
def test_a_local_storage_that_changes_what_it_is_given(
    tmp_path: Path, changing: Any, expected: bytes, is_temporary_file: bool
) -> None:
    storage: Any = make(local=changing(tmp_path))
    content = expected + b" " * (expected == b"x")
    with TemporaryUploadedFile("a.txt", "text/plain", len(content), None) as upload:
        upload.write(content)
        upload.seek(0)
        name = storage.save("a.txt", upload if is_temporary_file else ContentFile(content))
    assert row(storage, name).checksum == checksum(expected)
    storage.queue.deliver()
    assert storage.using_remote(name), row(storage, name).last_error
    assert read(storage, name) == read(storage.remote, name) == expected
    assert list(comparison.verify(ledger())) == []


class Inverting(FileSystemStorage):
    """As one that encrypts: no byte of it can be taken for what was saved."""

    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(bytes(byte ^ 255 for byte in content.read())))

    def _open(self, name: str, mode: str = "rb") -> Any:
        opened: Any = super()._open(name, mode)
        return Inverted(opened.file, name)


class Inverted(File):
    def read(self, size: int = -1) -> bytes:
        return bytes(byte ^ 255 for byte in self.file.read(size))


class OpenedInMemory(FileSystemStorage):
    def open(self, name: str, mode: str = "rb") -> File:
        with super().open(name, mode) as opened:
            return ContentFile(opened.read(), name)


@pytest.mark.one_database
@pytest.mark.parametrize("changing", [Compressing, Inverting, OpenedInMemory])
def test_local_path_of_a_local_storage_that_changes_what_it_is_given(
    tmp_path: Path, changing: Any
) -> None:
    storage = make(local=changing(tmp_path))
    name = storage.save("a.txt", file(b"bytes" * 100))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"bytes" * 100
    assert read(storage, name) == b"bytes" * 100


def test_an_open_django_file_is_saved(storage: Any, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"from disk" * 1000)
    with source.open("rb") as opened:
        name = storage.save("a.bin", File(opened))
    assert read(storage, name) == b"from disk" * 1000
    assert source.exists()


def test_what_is_in_use_has_no_open_files_left(storage: Any) -> None:
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


def test_two_configurations_under_one_alias_are_refused(settings: Settings) -> None:
    one = make(alias="same")
    assert one.alias == "same"
    with pytest.raises(ImproperlyConfigured, match="'same'"):
        make(alias="same", remote=ScriptedStorage("disk/elsewhere")).save("a.txt", file())
    assert on_disk() == []
    make(alias="same").save("a.txt", file())


def test_no_secret_is_in_the_alias() -> None:
    storage = QueuedStorage(
        "disk",
        "storages.backends.s3.S3Storage",
        remote_options={"secret_key": "very secret", "bucket_name": "b"},
    )
    assert "secret" not in storage.alias
    assert "secret" not in repr(storage)


def test_a_task_of_ones_own_is_not_told_of_what_a_savepoint_rolled_back() -> None:
    class Told:
        def __init__(self) -> None:
            self.names: list[str] = []

        def delay(self, name: str, *args: Any) -> None:
            self.names.append(name)

    task = Told()
    storage = make(task=task, remote="far")
    with transaction.atomic():
        storage.save("kept.txt", file())
        with rolled_back():
            storage.save("gone.txt", file())
        storage.save("also kept.txt", file())
    assert task.names == ["kept.txt", "also kept.txt"]


# What another file does under the name


def test_an_evicted_file_is_not_mistaken_for_a_new_one_that_tries_its_name() -> None:
    """The new file's process died between its local copy and the INSERT that would be refused."""
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


def test_a_save_whose_name_is_written_at_that_moment_takes_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = make()
    record = type(ledger()).record

    def written_first(self: Any, *args: Any, **kwargs: Any) -> int | None:
        monkeypatch.undo()
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"opened")
        return record(self, *args, **kwargs)

    monkeypatch.setattr(type(ledger()), "record", written_first)
    name = storage.save("a.txt", file(b"saved"))
    assert name != "a.txt"
    for _both in ("local", "remote"):
        assert (read(storage, "a.txt"), read(storage, name)) == (b"opened", b"saved")
        storage.queue.deliver()
    assert on_disk() == on_disk("far") == sorted(["a.txt", name])


@pytest.mark.parametrize("method", ["size", "get_modified_time"])
def test_a_fact_is_not_that_of_a_new_file_that_tries_the_name(method: str) -> None:
    """The old one was evicted between the look at the ledger and the look at the disk."""
    storage = make(local=ScriptedStorage("disk"), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"first"))

    def evict_and_try(_name: str) -> None:
        work.run(make_due(storage, name))
        disk().save(name, file(b"somebody else's"))
        os.utime(disk().path(name), (0, 0))

    storage.local.before[method] = evict_and_try
    saved_at = storage.queued_file(name).saved_at
    assert getattr(storage, method)(name) == {"size": 5, "get_modified_time": saved_at}[method]


def test_local_path_is_not_that_of_a_new_file_that_tries_the_name() -> None:
    class Local(ScriptedStorage):
        def path(self, name: str) -> str:
            self.before.pop("path", str)(name)
            return super().path(name)

    storage = make(local=Local("disk"), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"first"))

    def evict_and_try(_name: str) -> None:
        work.run(make_due(storage, name))
        disk().save(name, file(b"somebody else's"))

    local = storage.local
    local.after["_open"] = lambda _name: local.before.update(path=evict_and_try)
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"first"
    assert "path" not in local.before


def test_waiting_for_a_name_without_a_row_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.txt"):
        make().wait(["nope.txt"], timeout=1)
