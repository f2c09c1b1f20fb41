"""Saving files: names, content, and conflicts between names."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.db import connections, transaction

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidName
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from queued_storage.operations import comparison
from queued_storage.queues.dummy import DummyQueue
from queued_storage.testing import drain
from tests.support.actions import Compressing, checksum, evicted, write
from tests.support.scripted import ScriptedStorage, disk, file, make, on_disk, read, row
from tests.support.steps import functions_called

pytestmark = pytest.mark.django_db(transaction=True)


STEPS = 125  # functions of the package, each of which takes about a microsecond


def test_a_save_takes_few_steps_and_one_query(
    storage: Any, django_assert_num_queries: Callable[[int], Any]
) -> None:
    storage.save("first.txt", file())
    with transaction.atomic(), django_assert_num_queries(1):
        called = functions_called(lambda: storage.save("second.txt", file()))
    assert len(called) <= STEPS, called


def test_a_saved_file_exists_immediately(storage: Any) -> None:
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


def test_a_delete_before_the_row_leaves_the_file(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = QueuedStorage._record_new

    def delete_and_record(self: QueuedStorage, parts: Any, name: str, content: Any) -> Any:
        monkeypatch.undo()
        assert disk().exists("a.txt")
        storage.delete("a.txt")  # by another process, up to the end of the purge
        drain(storage)
        assert not disk().exists("a.txt")
        return record(self, parts, name, content)

    monkeypatch.setattr(QueuedStorage, "_record_new", delete_and_record)
    name = storage.save("a.txt", file(b"hello"))
    assert read(storage, name) == b"hello"
    assert on_disk() == [name]


def test_a_delete_after_the_row_wins(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = QueuedStorage._record_new

    def record_and_delete(self: QueuedStorage, parts: Any, name: str, content: Any) -> Any:
        monkeypatch.undo()
        saved = record(self, parts, name, content)
        storage.delete(name)  # by another process
        drain(storage)
        return saved

    monkeypatch.setattr(QueuedStorage, "_record_new", record_and_delete)
    storage.save("a.txt", file(b"hello"))
    assert not storage.exists("a.txt")
    assert on_disk() == []


def test_a_taken_name_gets_a_suffix(storage: Any) -> None:
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
def test_a_name_only_in_the_ledger_is_taken(storage: Any, place: str) -> None:
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
def test_spellings_of_one_name_are_one_file(storage: Any, given: Any, kept: str) -> None:
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
def test_similar_names_are_two_files(storage: Any, one: str, other: str) -> None:
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
def test_every_kind_of_content_is_saved(storage: Any, content: Any) -> None:
    name = storage.save("a.txt", content)
    assert read(storage, name) == b"same"
    assert row(storage, name).size == 4
    assert row(storage, name).checksum == checksum(b"same")
    storage.queue.deliver()
    assert read(storage.remote, name) == b"same"


@pytest.mark.parametrize("kind", ["image/\0png", "image/\npng", "image/\x01", "image/\ud800"])
def test_an_invalid_content_type_is_not_recorded(storage: Any, kind: str) -> None:
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


def test_content_is_saved_whole_and_left_open(storage: Any) -> None:
    """django-storages #382: the source was closed."""
    content = file(b"from the beginning")
    content.read(8)
    name = storage.save("a.txt", content)
    assert read(storage, name) == b"from the beginning"
    assert not content.closed
    assert content.seek(0) == 0


def test_an_open_django_file_is_saved(storage: Any, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"from disk" * 1000)
    with source.open("rb") as opened:
        name = storage.save("a.bin", File(opened))
    assert read(storage, name) == b"from disk" * 1000
    assert source.exists()


def test_permissions_and_valid_names_of_the_local_storage() -> None:
    class Shouting(FileSystemStorage):
        def get_valid_name(self, name: str) -> str:
            return name.upper()

    local = Shouting(disk().location, file_permissions_mode=0o604)
    storage = make(local=local)
    assert storage.generate_filename("docs/a.txt") == "docs/A.TXT"
    name = storage.save("a.txt", file())
    assert Path(local.path(name)).stat().st_mode & 0o777 == 0o604


def test_threads_sharing_a_storage_get_different_names(storage: Any) -> None:
    """Each thread gets its own bytes and its own `storage.result`."""
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


class Trimming(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(content.read().strip()))


@pytest.mark.parametrize(("changing", "expected"), [(Compressing, b" x" * 50), (Trimming, b"x")])
@pytest.mark.parametrize("is_temporary_file", [True, False])
def test_a_local_storage_that_changes_content(
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


def test_a_save_loses_its_name_to_an_open(
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
