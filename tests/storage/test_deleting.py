"""Deleting files from both storages."""

from pathlib import Path
from typing import Any

import pytest

from queued_storage.models import QueuedFile
from tests.support.actions import evicted
from tests.support.scripted import disk, file, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_deleted_file_is_gone_immediately(storage: Any) -> None:
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
def test_an_unrecorded_file_is_deleted_from_both_storages(
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


def test_an_empty_local_directory_is_deleted(storage: Any) -> None:
    name = storage.save("docs/a.txt", file())
    with pytest.raises(OSError, match="docs"):
        storage.delete("docs")
    storage.delete(name)
    storage.delete("docs")
    assert not Path(disk().path("docs")).exists()


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_remote_file_named_as_a_local_directory(storage: Any, is_empty: bool) -> None:
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


def test_deleting_a_name_below_a_file(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete("a.txt/b.txt")
    storage.queue.deliver()
    assert QueuedFile.objects.get().name == name
    assert read(storage, name) == read(storage.remote, name) == b"bytes"
