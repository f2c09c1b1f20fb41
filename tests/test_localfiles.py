"""Putting bytes on the local storage: whole, under a name of their own, or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage

from queued_storage import localfiles

pytestmark = pytest.mark.one_database


@pytest.fixture
def disk(tmp_path: Path) -> FileSystemStorage:
    return FileSystemStorage(tmp_path / "disk")


@pytest.fixture
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system has hard links."""
    if not request.param:

        def refuse(*args: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return bool(request.param)


has_links = pytest.mark.parametrize("links", [True, False], indirect=True, ids=["links", "none"])


def content(data: bytes = b"bytes") -> ContentFile:
    return ContentFile(data)


def numbered() -> Callable[[str], str]:
    numbers = iter(range(1000))
    return lambda name: f"{next(numbers)}.txt"


def files(storage: FileSystemStorage) -> dict[str, bytes]:
    base = Path(storage.location)
    found = [path for path in base.rglob("*") if path.is_file()]
    return {str(path.relative_to(base)): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "name", ["a.txt", "docs/deep/a.txt", "a", "." + "x" * 100, "a." + "x" * 200]
)
def test_a_draft_is_beside_its_file_and_known_as_one(name: str) -> None:
    draft = localfiles.unfinished_name(name)
    assert os.path.dirname(draft) == os.path.dirname(name)
    assert localfiles.is_unfinished(draft)
    assert not localfiles.is_unfinished(name)
    assert len(os.path.basename(draft).encode()) < 100
    assert draft != localfiles.unfinished_name(name)


def test_a_draft_keeps_a_short_suffix_by_which_a_storage_may_tell_what_it_is() -> None:
    assert localfiles.unfinished_name("a.tar.gz").endswith(".gz")


@has_links
def test_store(disk: FileSystemStorage, links: bool) -> None:
    assert localfiles.store(disk, "docs/a.txt", content(), numbered()) == "docs/a.txt"
    assert files(disk) == {"docs/a.txt": b"bytes"}


@has_links
def test_store_overwrites_nothing(disk: FileSystemStorage, links: bool) -> None:
    for name in ("a.txt", "0.txt", "1.txt"):
        disk.save(name, content(b"theirs"))
    assert localfiles.store(disk, "a.txt", content(), numbered()) == "2.txt"
    assert files(disk)["2.txt"] == b"bytes"
    assert set(files(disk).values()) == {b"theirs", b"bytes"}
    assert len(files(disk)) == 4


def test_store_ends_where_no_name_is_free(disk: FileSystemStorage) -> None:
    disk.save("a.txt", content(b"theirs"))
    with pytest.raises(FileExistsError, match=r"a\.txt"):
        localfiles.store(disk, "a.txt", content(), lambda name: name)
    assert files(disk) == {"a.txt": b"theirs"}


@has_links
def test_rename(disk: FileSystemStorage, links: bool) -> None:
    disk.save("a.txt", content())
    assert localfiles.rename(disk, "a.txt", "b.txt") == "b.txt"
    assert files(disk) == {"b.txt": b"bytes"}


@has_links
def test_rename_to_a_name_that_is_taken_changes_nothing(
    disk: FileSystemStorage, links: bool
) -> None:
    disk.save("a.txt", content())
    disk.save("b.txt", content(b"theirs"))
    assert localfiles.rename(disk, "a.txt", "b.txt") is None
    assert files(disk) == {"a.txt": b"bytes", "b.txt": b"theirs"}


def test_an_error_of_the_file_system_is_not_taken_for_one_without_links(
    disk: FileSystemStorage,
) -> None:
    disk.save("a.txt", content())
    with pytest.raises(OSError, match="too long"):
        localfiles.claim(disk, "a.txt", "x" * 300)
    assert files(disk) == {"a.txt": b"bytes"}


def test_a_claim_without_links_that_fails_leaves_nothing(
    disk: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        localfiles.store(disk, "a.txt", content(), numbered())
    assert files(disk) == {}


def test_replace(disk: FileSystemStorage) -> None:
    disk.save("a.txt", content(b"old"))
    disk.save(".queued-x", content(b"new"))
    with disk.open("a.txt") as reader:
        localfiles.replace(disk, ".queued-x", "a.txt")
        assert reader.read() == b"old"  # whole, as it was opened
    assert files(disk) == {"a.txt": b"new"}


def test_a_storage_without_paths() -> None:
    storage = InMemoryStorage()
    assert localfiles.store(storage, "a.txt", content(), numbered()) == "a.txt"
    other = localfiles.store(storage, "a.txt", content(b"other"), numbered())
    assert other != "a.txt"
    assert localfiles.rename(storage, other, "b.txt") == "b.txt"
    storage.save(".queued-x", content(b"new"))
    localfiles.replace(storage, ".queued-x", "a.txt")
    assert sorted(storage.listdir("")[1]) == ["a.txt", "b.txt"]
    with storage.open("a.txt") as opened:
        assert opened.read() == b"new"


class HalfStorage(InMemoryStorage):
    def _save(self, name: str, content: Any) -> str:
        super()._save(name, ContentFile(b"half"))
        raise OSError("full")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_storage_without_paths_that_fails_halfway(is_there: bool) -> None:
    storage = HalfStorage()
    if is_there:
        InMemoryStorage._save(storage, "a.txt", content(b"theirs"))
    with pytest.raises(OSError, match="full"):
        localfiles.store(storage, "a.txt", content(), numbered())
    if is_there:
        with storage.open("a.txt") as opened:
            assert opened.read() == b"theirs"
    else:
        assert not storage.exists("a.txt")


def test_discard_is_quiet(disk: FileSystemStorage) -> None:
    class Refusing(Storage):
        def delete(self, name: str) -> None:
            raise PermissionError

    localfiles.discard(disk, "nothing")
    localfiles.discard(Refusing(), "a.txt")


def test_is_directory(disk: FileSystemStorage) -> None:
    disk.save("docs/a.txt", content())
    assert localfiles.is_directory(disk, "docs")
    assert not localfiles.is_directory(disk, "docs/a.txt")
    assert not localfiles.is_directory(InMemoryStorage(), "docs")
