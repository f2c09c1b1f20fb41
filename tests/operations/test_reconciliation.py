from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from queued_storage.ledger.copies import copies
from queued_storage.ledger.states import State
from queued_storage.operations import comparison, errands, reconciliation
from queued_storage.operations.reconciliation import REPAIRS, reconcile
from queued_storage.testing import drain
from tests.operations.files import files
from tests.support.scripted import (
    RenamingStorage,
    ScriptedStorage,
    disk,
    file,
    make,
    on_disk,
    read,
    row,
)

pytestmark = pytest.mark.django_db(transaction=True)


def transferred(storage: Any, name: str = "a.txt", *, evict: bool = False) -> str:
    saved: str = storage.save(name, file())
    assert storage.queue.deliver() == {}
    assert not evict or errands.evict(files(storage)) == 1
    return saved


def repair(storage: Any, *repairs: str, **options: Any) -> list[tuple[str, str]]:
    """The differences, each with the reason why it was not repaired."""
    found = reconcile(files(storage), repairs or list(REPAIRS), **options)
    return [(f"{each.kind}-{each.side}", error) for each, error in found]


def differences(storage: Any) -> list[str]:
    found = comparison.verify(files(storage), content=True)
    return [f"{each.kind}-{each.side}" for each in found]


def damage(storage: Any, name: str, kind: str) -> None:
    far = Path(storage.remote.path(row(storage, name).remote_name))
    near = Path(disk().path(name))
    copy = copies().filter(file=row(storage, name)).first()
    mirrored = Path(settings.DIRECTORY) / "mirror" / (copy.remote_name if copy else name)
    match kind:
        case "missing-local":
            near.unlink()
        case "different-local":
            near.write_bytes(b"damaged")
        case "extra-local":
            near.write_bytes(b"bytes")
        case "missing-remote":
            far.unlink()
        case "different-remote":
            far.write_bytes(b"damaged")
        case "missing-mirror":
            mirrored.unlink()
        case "different-mirror":
            mirrored.write_bytes(b"damaged")


@pytest.mark.parametrize("kind", REPAIRS)
def test_each_repair_repairs_only_its_kind(kind: str) -> None:
    storage = make(mirrors=[ScriptedStorage("mirror")])
    name = transferred(storage, evict=kind == "extra-local")
    transferred(storage, "other.txt")
    damage(storage, name, kind)
    others = [each for each in REPAIRS if each != kind]
    assert repair(storage, *others) == []
    assert repair(storage, kind, dry_run=True) == [(kind, "")]
    assert differences(storage) == [kind]
    assert repair(storage, kind) == [(kind, "")]
    assert storage.queue.deliver() == drain(storage) == {}
    assert differences(storage) == []
    assert repair(storage) == []
    assert read(storage, name) == b"bytes"
    found = row(storage, name)
    assert (found.state, found.due_at, found.lease_token) == (State.TRANSFERRED, None, "")
    assert found.is_local == (kind not in {"missing-local", "extra-local"})


def test_content_repairs_a_flipped_byte() -> None:
    storage = make()
    name = transferred(storage)
    Path(disk().path(name)).write_bytes(b"bytez")
    assert repair(storage) == []
    assert repair(storage, content=True) == [("different-local", "")]
    assert read(disk(), name) == b"bytes"


def test_reads_are_local_until_transferred_again() -> None:
    storage = make()
    name = transferred(storage)
    assert storage.url(name) == "https://far.example/a.txt"  # is now in the cache
    damage(storage, name, "missing-remote")
    repair(storage)
    assert storage.url(name) == "/media/a.txt"
    assert storage.queue.deliver() == {}
    assert storage.url(name) == "https://far.example/a.txt"


def test_repeated_transfer_keeps_the_remote_name() -> None:
    storage = make(remote=RenamingStorage())
    name = transferred(storage)
    damage(storage, name, "different-remote")
    assert repair(storage) == [("different-remote", "")]
    assert storage.queue.deliver() == {}
    assert on_disk("far") == [row(storage, name).remote_name]
    assert read(storage.remote, row(storage, name).remote_name) == b"bytes"


@pytest.mark.parametrize("kind", ["missing-remote", "different-remote"])
def test_damaged_local_copy_is_not_transferred(kind: str) -> None:
    storage = make()
    name = transferred(storage)
    damage(storage, name, kind)
    Path(disk().path(name)).write_bytes(b"bytez")
    [(found, error)] = repair(storage)
    assert (found, error != "") == (kind, True)
    assert row(storage, name).state == State.TRANSFERRED


@pytest.mark.parametrize("kind", ["missing-local", "different-local"])
def test_local_copy_is_kept_without_an_intact_remote(kind: str) -> None:
    storage = make()
    name = transferred(storage)
    damage(storage, name, kind)
    damage(storage, name, "different-remote")
    before = on_disk()
    [(found, error)] = repair(storage, kind)
    assert found == kind
    assert "VerificationError" in error
    assert row(storage, name).is_local
    assert on_disk() == before


def test_foreign_local_file_is_not_deleted() -> None:
    storage = make()
    name = transferred(storage, evict=True)
    disk().save(name, file(b"foreign"))
    [(found, error)] = repair(storage)
    assert found == "extra-local"
    assert "different bytes" in error
    assert read(disk(), name) == b"foreign"


@pytest.mark.parametrize("is_known", [True, False])
def test_files_of_other_storages_are_not_deleted(is_known: bool) -> None:
    storage, other = make(), make()
    name = transferred(storage, evict=True)
    assert other.save(name, file()) == name  # with the same bytes
    if not is_known:
        files(other).update(alias="unknown")
        assert reconciliation.repair("extra-local", row(storage, name).pk)
    assert differences(storage) == []
    assert repair(storage) == []
    assert read(disk(), name) == b"bytes"


def test_files_in_other_directories_are_ignored() -> None:
    storage, other = make(), make(local="far")
    name = transferred(storage, evict=True)
    damage(storage, name, "extra-local")
    assert other.save(f"new/{name}", file())
    files(other).update(name=name)
    assert repair(storage) == [("extra-local", "")]


def test_deleted_file_is_not_transferred_again() -> None:
    storage = make()
    name = transferred(storage)
    damage(storage, name, "missing-remote")
    for difference in comparison.verify(files(storage)):
        storage.delete(name)
        assert reconciliation.repair("missing-remote", difference.pk)
    storage.queue.deliver()
    assert not files(storage).exists()
    assert on_disk() == on_disk("far") == []
