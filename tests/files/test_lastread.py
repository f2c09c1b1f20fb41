"""When local files were last read."""

import os
from pathlib import Path

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import connection
from django.test.utils import CaptureQueriesContext

from queued_storage.files import lastread
from tests.support.scripted import file, make, read
from tests.support.small_disks import age

HOUR = 3600


def accessed(path: Path | str) -> float:
    return os.stat(path).st_atime


def test_a_read_is_recorded_once_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"bytes")
    modified = os.stat(path).st_mtime_ns
    age(path, 0.5 * HOUR)
    before = accessed(path)
    lastread.note(str(path))
    assert accessed(path) == before
    age(path, 2 * HOUR)
    lastread.note(str(path))
    assert accessed(path) > before
    assert os.stat(path).st_mtime_ns == modified


def test_what_cannot_be_recorded_is_left(tmp_path: Path) -> None:
    lastread.note(str(tmp_path / "missing"))
    lastread.note_open(object())
    closed = (tmp_path / "a.txt").open("wb")
    closed.close()
    lastread.note_open(closed)


def test_open_files_are_found(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path)
    storage.save("a.txt", file(b"bytes"))
    assert not lastread.is_open(storage, "a.txt")
    with storage.open("a.txt"):
        assert lastread.is_open(storage, "a.txt")
    assert not lastread.is_open(storage, "a.txt")
    assert not lastread.is_open(storage, "missing.txt")
    assert not lastread.is_open(InMemoryStorage(), "a.txt")


def test_storages_without_paths() -> None:
    storage = InMemoryStorage()
    storage.save("a.txt", file(b"bytes"))
    assert lastread.last_read(storage, "a.txt")


def test_storages_that_know_no_times(tmp_path: Path) -> None:
    class Timeless(InMemoryStorage):
        def get_accessed_time(self, name: str) -> None:  # type: ignore[override]
            raise NotImplementedError

    assert lastread.last_read(Timeless(), "a.txt") is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["open", "path", "local_path"])
def test_reads_of_a_storage_with_limits_are_recorded(way: str) -> None:
    storage = make(keep_local={"max_bytes": "1G"})
    storage.save("a.txt", file(b"bytes"))
    storage.queue.deliver()
    path = storage.local.path("a.txt")
    age(path, 2 * HOUR)
    before = accessed(path)
    with CaptureQueriesContext(connection) as queries:
        if way == "open":
            read(storage, "a.txt")
        elif way == "path":
            storage.path("a.txt")
        else:
            with storage.local_path("a.txt"):
                pass
    assert accessed(path) > before + HOUR
    assert not [query for query in queries if "UPDATE" in query["sql"]]
