"""Writing to files that are open."""

import contextlib
import resource
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage

from queued_storage.exceptions import NameUnavailable
from queued_storage.testing import drain
from tests.support.actions import Oops, evicted, write
from tests.support.scripted import file, make, on_disk, read, row
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_written_file_is_visible_after_close(storage: Any) -> None:
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


def test_a_block_that_raises_on_a_full_disk(storage: Any) -> None:
    with pytest.raises(OSError, match="too large"):
        write_on_a_full_disk(storage, "a.txt")
    assert on_disk() == []
    assert not storage.exists("a.txt")


def test_a_file_that_is_never_closed_is_discarded(storage: Any) -> None:
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


def test_appending_to_a_storage_in_memory() -> None:
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


def test_a_delete_wins_over_an_open_file(storage: Any) -> None:
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
