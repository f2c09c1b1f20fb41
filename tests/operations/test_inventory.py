import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage, storages
from django.utils import timezone

from queued_storage.exceptions import InvalidName
from queued_storage.files.walking import names_on
from queued_storage.ledger.database import ledger
from queued_storage.ledger.names import PROBE_NAME
from queued_storage.operations import adoption, errands, inventory
from queued_storage.operations.inventory import delete_orphan, names_in_fields, orphans, unknown
from tests.support.scripted import RenamingStorage, ScriptedStorage, disk, file, make, on_disk
from tests.support.testapp.models import Document, Photo

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


def put(place: Any, name: str, *, age: float = 2) -> str:
    """Save a file that is that many days old, without the ledger."""
    saved: str = place.save(name, file())
    modified = timezone.now().timestamp() - age * 86400
    os.utime(place.path(saved), (modified, modified))
    return saved


def found(storage: Any, side: str = "local", under: str = "") -> list[str]:
    return sorted(orphan.name for orphan in orphans(storage, side, DAY, under))


@pytest.mark.one_database
@pytest.mark.parametrize("has_paths", [True, False])
def test_all_names_of_a_storage(has_paths: bool) -> None:
    place: Any = disk() if has_paths else InMemoryStorage()
    names = ["a.txt", "d/b.txt", "d/e/c.txt", "f/d.txt"]
    for name in names:
        place.save(name, file())
    assert sorted(names_on(place)) == names
    assert sorted(names_on(place, "d")) == names[1:3]
    if has_paths:
        assert list(names_on(place, "nothing")) == []


@pytest.mark.one_database
def test_links_to_directories_are_not_followed() -> None:
    disk().save("d/a.txt", file())
    Path(disk().path("d/loop")).symlink_to(disk().path("d"))
    assert list(names_on(disk())) == ["d/a.txt"]


@pytest.mark.parametrize("batch", [1, 500])
def test_names_in_fields(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "NAMES", batch)
    for number in range(3):
        Document.objects.create(file=f"docs/{number}.txt")
    Document.objects.create(file="")
    Photo.objects.create(image="photos/./1.png")
    names = [*(f"docs/{number}.txt" for number in range(3)), "photos/1.png"]
    assert sorted(names_in_fields("default")) == names
    assert list(names_in_fields("other")) == []


def test_orphans_are_unknown_to_ledger_and_models() -> None:
    storage, other = make(remote=RenamingStorage()), make()
    for each in (storage, other):
        each.save(f"{each.alias}.txt", file())
        assert each.queue.deliver() == {}
    for place in (disk(), storage.remote):
        for name in ("d/old.txt", "docs/known.txt"):
            put(place, name)
        put(place, "young.txt", age=0.5)
        for name in list(names_on(place)):
            if not name.startswith("young"):
                os.utime(place.path(name), (0, 0))
    kept = storage.remote.listdir("docs")[1][0]  # under the name that the remote chose
    Document.objects.create(file="docs/known.txt")
    Document.objects.create(file=f"docs/{kept}")
    assert found(storage) == found(other) == ["d/old.txt"]
    assert found(storage, under="d") == ["d/old.txt"]
    assert found(storage, under="docs") == []
    [remote] = found(storage, "remote")
    assert remote.startswith("d/old_")


def test_old_unfinished_files_are_orphans() -> None:
    put(disk(), "d/.queued-dead.txt")
    put(disk(), "d/.queued-alive.txt", age=0)
    assert found(make()) == ["d/.queued-dead.txt"]


def test_orphan_is_deleted_once() -> None:
    storage = make()
    put(storage.remote, "a.txt")
    [orphan] = orphans(storage, "remote", DAY)
    assert (orphan.side, orphan.name, orphan.bytes) == ("remote", "a.txt", 5)
    assert delete_orphan(storage, orphan, DAY)
    assert on_disk("far") == []
    assert not delete_orphan(storage, orphan, DAY)


@pytest.mark.parametrize("event", ["row", "model", "newer"])
def test_file_that_is_no_longer_orphaned_is_kept(event: str) -> None:
    storage = make()
    put(disk(), "a.txt")
    [orphan] = orphans(storage, "local", DAY)
    match event:
        case "row":
            assert ledger().record_tombstone(storage.alias, "a.txt")
        case "model":
            Document.objects.create(file="a.txt")
        case "newer":
            disk().delete("a.txt")
            disk().save("a.txt", file())
    assert not delete_orphan(storage, orphan, DAY)
    assert on_disk() == ["a.txt"]


def test_remote_copies_of_evicted_files_are_known() -> None:
    storage: Any = storages["default"]
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert errands.evict(ledger().all()) == 1
    os.utime(storage.remote.path("a.txt"), (0, 0))
    assert found(storage, "remote") == []
    ledger().all().delete()
    assert found(storage, "remote") == ["a.txt"]


def test_invalid_names_are_not_orphans() -> None:
    assert unknown(["a\udcff.txt", "b\0.txt", "c.txt"]) == ["c.txt"]


@pytest.mark.parametrize(
    "spelt", ["./d/e/a.txt", "d//e/a.txt", "d/./e/a.txt", "d/f/../e/a.txt", "d\\e\\a.txt"]
)
def test_unnormalized_names_in_models_are_known(spelt: str) -> None:
    put(disk(), "d/e/a.txt")
    put(disk(), "d/e/A.txt")
    Document.objects.create(file=spelt)
    assert found(make()) == ["d/e/A.txt"]


@pytest.mark.parametrize("under", [".", "./d", "d//", "d/./e", "./d//e"])
def test_unnormalized_directories_find_the_same_names(under: str) -> None:
    storage = make()
    storage.save("d/e/known.txt", file())
    os.utime(disk().path("d/e/known.txt"), (0, 0))
    assert found(storage, under=under) == []


class Dotless(Storage):
    """A remote that drops dots at the beginning of names, as Azure does in its own root."""

    def __init__(self, location: Path) -> None:
        self.disk = FileSystemStorage(location)

    def _open(self, name: str, mode: str = "rb") -> Any:
        return self.disk.open(name.strip("./"), mode)

    def _save(self, name: str, content: Any) -> str:
        self.disk.save(name.strip("./"), content)
        return name

    def exists(self, name: str) -> bool:
        return self.disk.exists(name.strip("./"))

    def delete(self, name: str) -> None:
        self.disk.delete(name.strip("./"))

    def size(self, name: str) -> int:
        return self.disk.size(name.strip("./"))

    def get_modified_time(self, name: str) -> datetime:
        return self.disk.get_modified_time(name.strip("./"))

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        return self.disk.listdir(path)


@pytest.mark.one_database
def test_own_objects_on_a_remote_without_dots(tmp_path: Path) -> None:
    storage = make(remote=Dotless(tmp_path))
    uploader = storage.uploader
    assert uploader.write_marker(b"a writer")
    assert uploader.read_marker() == b"a writer"
    storage.remote.save(PROBE_NAME, file())  # left by a process that died
    uploader.write_probe()
    storage.remote.save("theirs.txt", file())
    names = {"queued-storage-writer", "queued-storage-probe", "theirs.txt"}
    assert {each.name for each in tmp_path.iterdir()} == names
    assert list(inventory.names_of(storage, "remote")) == ["theirs.txt"]
    adoption.adopt(storage, sorted(names), lambda step: None)
    assert [each.name for each in ledger().all()] == ["theirs.txt"]
    for name in names - {"theirs.txt"}:
        assert not storage.exists(name)
        storage.delete(name)
        with pytest.raises(InvalidName):
            storage.save(name, file())
    storage.queue.deliver()
    assert {each.name for each in tmp_path.iterdir()} == names


@pytest.mark.one_database
def test_own_objects_of_a_remote_within_this_one() -> None:
    outer, within = make(), make(remote=ScriptedStorage("far/media"), alias="within")
    assert within.uploader.write_marker(b"a writer")
    assert list(inventory.names_of(outer, "remote")) == []
    outer.delete("media/.queued-storage-writer")
    outer.queue.deliver()
    assert within.uploader.read_marker() == b"a writer"
