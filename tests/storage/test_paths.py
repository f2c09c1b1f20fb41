"""Paths of files on this machine."""

from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage

from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from queued_storage.transfers import work
from tests.support.actions import Compressing, evicted
from tests.support.scripted import ScriptedStorage, disk, file, make, make_due, on_disk, read

pytestmark = pytest.mark.django_db(transaction=True)


def test_local_path_of_a_local_file(storage: Any) -> None:
    name = storage.save("docs/a.txt", file(b"here"))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"here"
        assert Path(path).name == "a.txt"


def test_local_path_downloads_a_remote_file(storage: Any) -> None:
    name = evicted(storage, "docs/a.txt", b"x" * 300_000)
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"x" * 300_000
        assert Path(path).suffix == ".txt"
        assert on_disk() == []
    assert not Path(path).exists()


@pytest.mark.parametrize("is_local", [True, False])
def test_local_path_survives_a_delete(storage: Any, is_local: bool) -> None:
    name = storage.save("a.txt", file(b"kept")) if is_local else evicted(storage, data=b"kept")
    with storage.local_path(name) as path:
        storage.delete(name)
        drain(storage)
        assert Path(path).read_bytes() == b"kept"


def test_local_path_of_a_missing_file(storage: Any) -> None:
    with pytest.raises(FileNotFoundError), storage.local_path("nowhere.txt"):
        pass


def test_local_path_of_a_storage_without_paths() -> None:
    storage = make(local=InMemoryStorage())
    name = storage.save("a.txt", file(b"memory"))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"memory"


class Inverting(FileSystemStorage):
    """Changes every byte, as a storage that encrypts does."""

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
def test_local_path_of_a_storage_changing_content(tmp_path: Path, changing: Any) -> None:
    storage = make(local=changing(tmp_path))
    name = storage.save("a.txt", file(b"bytes" * 100))
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"bytes" * 100
    assert read(storage, name) == b"bytes" * 100


def test_local_path_ignores_a_new_file() -> None:
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
