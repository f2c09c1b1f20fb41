"""New files on the local storage: whole, under a name of their own, or not there at all."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage

from queued_storage.files import localfiles
from queued_storage.files.newfiles import new_file

pytestmark = pytest.mark.one_database


@pytest.fixture
def disk(tmp_path: Path) -> FileSystemStorage:
    return FileSystemStorage(tmp_path / "disk")


@pytest.fixture
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system supports hard links."""
    if not request.param:

        def refuse(*args: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return bool(request.param)


has_links = pytest.mark.parametrize("links", [True, False], indirect=True, ids=["links", "none"])


def content(data: bytes = b"bytes") -> ContentFile:
    return ContentFile(data)


def store(storage: Storage, *names: str, data: bytes = b"bytes") -> str | None:
    """Take one name after the other; return the result of the last one."""
    with new_file(storage, names[0], content(data)) as file:
        for name in names:
            taken = file.take(name)
    return taken


def files(storage: FileSystemStorage) -> dict[str, bytes]:
    base = Path(storage.location)
    found = [path for path in base.rglob("*") if path.is_file()]
    return {str(path.relative_to(base)): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "name", ["a.txt", "docs/deep/a.txt", "a", "." + "x" * 100, "a." + "x" * 200]
)
def test_a_draft_is_beside_its_file(name: str) -> None:
    draft = localfiles.unfinished_name(name)
    assert os.path.dirname(draft) == os.path.dirname(name)
    assert localfiles.is_unfinished(draft)
    assert not localfiles.is_unfinished(name)
    assert len(os.path.basename(draft).encode()) < 100
    assert draft != localfiles.unfinished_name(name)


def test_a_draft_keeps_a_short_suffix() -> None:
    assert localfiles.unfinished_name("a.tar.gz").endswith(".gz")


@has_links
def test_a_new_file_takes_its_name(disk: FileSystemStorage, links: bool) -> None:
    assert store(disk, "docs/a.txt") == "docs/a.txt"
    assert files(disk) == {"docs/a.txt": b"bytes"}


@has_links
def test_a_new_file_overwrites_nothing(disk: FileSystemStorage, links: bool) -> None:
    for name in ("a.txt", "b.txt"):
        disk.save(name, content(b"theirs"))
    assert store(disk, "a.txt", "b.txt") is None
    assert files(disk) == {"a.txt": b"theirs", "b.txt": b"theirs"}
    assert store(disk, "a.txt", "b.txt", "c.txt") == "c.txt"
    assert files(disk) == {"a.txt": b"theirs", "b.txt": b"theirs", "c.txt": b"bytes"}


@has_links
def test_a_new_file_has_only_one_name(disk: FileSystemStorage, links: bool) -> None:
    assert store(disk, "a.txt", "b.txt", "c.txt") == "c.txt"
    assert files(disk) == {"c.txt": b"bytes"}


@has_links
def test_a_block_that_fails_leaves_nothing(disk: FileSystemStorage, links: bool) -> None:
    with (
        contextlib.suppress(ZeroDivisionError),
        new_file(disk, "a.txt", content()) as file,
    ):
        file.take("a.txt")
        file.take("b.txt")
        raise ZeroDivisionError
    assert files(disk) == {}


@pytest.mark.parametrize("fails", [False, True])
def test_a_replaced_new_file_loses_its_name(disk: FileSystemStorage, fails: bool) -> None:
    """A concurrent open(name, "wb") replaces the file."""
    with (
        contextlib.suppress(ZeroDivisionError),
        new_file(disk, "a.txt", content()) as file,
    ):
        file.take("a.txt")
        localfiles.replace(disk, disk.save(".queued-x", content(b"theirs")), "a.txt")
        if fails:
            raise ZeroDivisionError
        assert file.take("b.txt") == "b.txt"
    assert files(disk) == {"a.txt": b"theirs"} | ({} if fails else {"b.txt": b"bytes"})


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_file_replaced_while_it_is_renamed(
    disk: FileSystemStorage, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def replace_and_rename(old: str, new: str) -> None:
        monkeypatch.undo()
        localfiles.replace(disk, disk.save(".queued-x", content(b"theirs")), "a.txt")
        rename(old, new)

    with (
        contextlib.suppress(ZeroDivisionError),
        new_file(disk, "a.txt", content()) as file,
    ):
        file.take("a.txt")
        monkeypatch.setattr(os, "rename", replace_and_rename)
        if fails:
            raise ZeroDivisionError
        assert file.take("b.txt") == "b.txt"
    assert files(disk) == {"a.txt": b"theirs"} | ({} if fails else {"b.txt": b"bytes"})


class ContentAddressed(FileSystemStorage):
    """Names files by their content, and stores each content once."""

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        name = f"by-content/{content.read().decode()}"
        content.seek(0)
        return name if self.exists(name) else super().save(name, content)


def test_a_storage_that_names_files_by_their_content(tmp_path: Path) -> None:
    """Two files may share one there, so the first must keep it."""
    disk = ContentAddressed(tmp_path)
    assert store(disk, "a.txt") == "by-content/bytes"
    assert store(disk, "a.txt") == "by-content/bytes"
    assert store(disk, "a.txt", "b.txt") == "b.txt"
    assert files(disk) == {"by-content/bytes": b"bytes", "b.txt": b"bytes"}


def test_an_error_is_not_missing_support_for_links(
    disk: FileSystemStorage,
) -> None:
    disk.save("a.txt", content())
    with pytest.raises(OSError, match="too long"):
        localfiles.link(disk.path("a.txt"), disk.path("x" * 300))
    assert files(disk) == {"a.txt": b"bytes"}


def test_a_claim_without_links_that_fails_leaves_nothing(
    disk: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        store(disk, "a.txt")
    assert files(disk) == {}


def test_replace(disk: FileSystemStorage) -> None:
    disk.save("a.txt", content(b"old"))
    disk.save(".queued-x", content(b"new"))
    with disk.open("a.txt") as reader:
        localfiles.replace(disk, ".queued-x", "a.txt")
        assert reader.read() == b"old"  # the old content, which was opened
    assert files(disk) == {"a.txt": b"new"}


def test_a_storage_without_paths() -> None:
    storage = InMemoryStorage()
    assert store(storage, "a.txt") == "a.txt"
    assert store(storage, "a.txt", "b.txt", data=b"other") == "b.txt"
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
        store(storage, "a.txt")
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
