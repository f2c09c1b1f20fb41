"""Absolute paths and other spellings, which lead to a recorded file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db.models import FileField
from django.db.models.fields.files import FieldFile

from queued_storage.exceptions import InvalidName
from queued_storage.models import QueuedFile
from tests.support.actions import evicted, rolled_back, write
from tests.support.scripted import disk, file, make, on_disk, read, row

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def pending(storage: Any) -> str:
    name: str = storage.save("d/a.txt", file())
    return name


def transferred(storage: Any) -> str:
    name = pending(storage)
    storage.queue.deliver()
    return name


def gone(storage: Any) -> str:
    return evicted(storage, "d/a.txt")


def outside(storage: Any) -> str:
    return "/etc/passwd"


def sibling(storage: Any) -> str:
    """A directory whose name begins as that of the local storage."""
    return f"{storage.location}-other/a.txt"


def above(storage: Any) -> str:
    return os.path.dirname(storage.location)


ASKS: dict[str, Callable[[Any, str], Any]] = {
    "exists": lambda storage, name: storage.exists(name),
    "open": read,
    "size": lambda storage, name: storage.size(name),
    "get_created_time": lambda storage, name: storage.get_created_time(name),
    "get_modified_time": lambda storage, name: storage.get_modified_time(name),
    "get_storage": lambda storage, name: storage.get_storage(name),
    "get_cache_key": lambda storage, name: storage.get_cache_key(name),
    "using_remote": lambda storage, name: storage.using_remote(name),
    "queued_file": lambda storage, name: storage.queued_file(name),
    "url": lambda storage, name: storage.url(name),
    "stable_url": lambda storage, name: storage.stable_url(name),
    "urls": lambda storage, name: list(storage.urls([name]).values()),
    "local_path": lambda storage, name: bytes_at(storage, name),
}


def bytes_at(storage: Any, name: str) -> bytes:
    with storage.local_path(name) as path:
        return Path(path).read_bytes()


@pytest.mark.parametrize("place", [pending, transferred, gone])
@pytest.mark.parametrize("ask", ASKS)
def test_an_absolute_path_is_its_name(place: Callable[[Any], str], ask: str) -> None:
    storage = make()
    name = place(storage)
    path = f"{storage.location}/{name}"
    assert ASKS[ask](storage, path) == ASKS[ask](storage, name)
    assert ASKS[ask](storage, f"{storage.location}//d/./x/../a.txt") == ASKS[ask](storage, name)


@pytest.mark.parametrize("place", [outside, sibling, above])
@pytest.mark.parametrize("ask", sorted(ASKS.keys() - {"url", "urls"}))
def test_a_path_outside_is_refused(place: Callable[[Any], str], ask: str) -> None:
    storage = make()
    with pytest.raises(SuspiciousFileOperation, match="outside"):
        ASKS[ask](storage, place(storage))


@pytest.mark.parametrize("place", [outside, sibling])
def test_nothing_outside_is_changed(place: Callable[[Any], str]) -> None:
    storage = make()
    path = place(storage)
    for change in (storage.delete, storage.transfer, lambda name: write(storage, name, b"new")):
        with pytest.raises(SuspiciousFileOperation, match="outside"):
            change(path)
    for names in ([path], iter([path])):
        with pytest.raises(SuspiciousFileOperation, match="outside"):
            storage.wait(names)
    with pytest.raises(SuspiciousFileOperation):
        storage.listdir(path)
    assert not QueuedFile.objects.exists()


def test_a_file_is_not_saved_under_a_path() -> None:
    storage = make()
    for path in ("/etc/a.txt", f"{storage.location}/a.txt"):
        with pytest.raises(InvalidName):
            storage.save(path, file())
    assert on_disk() == []


def test_a_path_is_deleted_as_its_name() -> None:
    storage = make()
    name = transferred(storage)
    path = storage.path(name)
    with rolled_back():
        storage.delete(path)
        assert not storage.exists(name)
    assert read(storage, name) == b"bytes"
    storage.delete(path)
    assert on_disk() == []
    storage.queue.deliver()
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_a_path_is_written_as_its_name() -> None:
    storage = make()
    name = transferred(storage)
    write(storage, storage.path(name), b"new")
    assert row(storage, name).generation == 2
    write(storage, f"{storage.location}/b.txt", b"first")
    assert row(storage, "b.txt")
    storage.transfer(storage.path("b.txt"))
    storage.queue.deliver()
    storage.wait([storage.path("b.txt")])
    assert read(storage.remote, "b.txt") == b"first"
    assert storage.listdir(storage.location) == storage.listdir("")


def test_a_field_with_a_path() -> None:
    storage = make()
    name = gone(storage)
    field: Any = FileField(storage=storage)
    found = FieldFile(None, field, f"{storage.location}/{name}")  # type: ignore[arg-type]
    assert found.read() == b"bytes"
    assert found.size == 5
    found.close()


def test_location() -> None:
    assert make().location == disk().location
    assert make(local=FileSystemStorage("relative")).location == os.path.abspath("relative")
    assert make(local=InMemoryStorage(location="/media")).location == "/media"
    prefixed = InMemoryStorage()
    prefixed.location = "prefix"  # as that of an S3Storage
    assert make(local=prefixed).location == ""


def test_a_storage_without_a_root_refuses_paths() -> None:
    local = InMemoryStorage()
    storage = make(local=local)
    storage.save("a.txt", file())
    local.location = ""
    with pytest.raises(SuspiciousFileOperation):
        storage.delete("/a.txt")
    assert local.exists("a.txt")


# Symbolic links


@pytest.fixture
def linked() -> Any:
    """A storage with a link to one of its directories."""
    storage = make()
    storage.save("real/a.txt", file(b"recorded"))
    os.symlink("real", Path(storage.location) / "link")
    return storage


def test_a_delete_through_a_link_is_recorded(linked: Any) -> None:
    with rolled_back():
        linked.delete("link/a.txt")
    assert read(linked, "real/a.txt") == b"recorded"
    linked.delete("link/a.txt")
    assert not linked.exists("real/a.txt")
    linked.queue.deliver()
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_a_write_through_a_link_is_recorded(linked: Any) -> None:
    write(linked, "link/a.txt", b"new")
    assert (row(linked, "real/a.txt").generation, QueuedFile.objects.count()) == (2, 1)
    assert read(linked, "real/a.txt") == read(linked, "link/a.txt") == b"new"


def test_file_saved_through_a_link_is_separate(linked: Any) -> None:
    name = linked.save("link/a.txt", file(b"other"))
    assert name != "link/a.txt"
    linked.delete(name)
    assert read(linked, "real/a.txt") == b"recorded"


def test_a_link_to_a_file_is_deleted_alone(linked: Any) -> None:
    os.symlink("real/a.txt", Path(linked.location) / "b.txt")
    linked.delete("b.txt")
    assert read(linked, "real/a.txt") == b"recorded"
    write(linked, "c.txt", b"c")
    os.symlink("c.txt", Path(linked.location) / "d.txt")
    write(linked, "d.txt", b"d")
    assert read(linked, "c.txt") == b"c"


def test_a_link_that_leads_outside_is_left_alone(tmp_path: Path, linked: Any) -> None:
    (tmp_path / "a.txt").write_bytes(b"outside")
    os.symlink(tmp_path, Path(linked.location) / "out")
    linked.delete("out/a.txt")
    assert read(linked, "real/a.txt") == b"recorded"


# File systems that ignore case


class Folding(FileSystemStorage):
    """Behaves like a file system that ignores case, with names as they were created."""

    def path(self, name: str) -> str:
        path = super().path(name)
        directory = Path(path).parent
        entries = [each.name for each in directory.iterdir()] if directory.exists() else []
        same = [each for each in entries if each.lower() == Path(path).name.lower()]
        return str(directory / same[0]) if same else path


def test_another_case_leads_to_the_recorded_file(tmp_path: Path) -> None:
    storage = make(local=Folding(tmp_path))
    storage.save("d/Photo.JPG", file())
    with rolled_back():
        storage.delete("d/photo.jpg")
    assert read(storage, "d/Photo.JPG") == b"bytes"
    write(storage, "d/PHOTO.jpg", b"new")
    assert row(storage, "d/Photo.JPG").generation == 2
    storage.delete("d/photo.jpg")
    assert not storage.exists("d/Photo.JPG")
    storage.queue.deliver()
    assert not QueuedFile.objects.exists()
