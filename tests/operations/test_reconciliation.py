from pathlib import Path
from typing import Any

import pytest

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import comparison, errands
from queued_storage.operations.reconciliation import REPAIRS, reconcile
from tests.support.scripted import RenamingStorage, disk, file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


def files(storage: Any) -> Any:
    return ledger().filter(alias=storage.alias)


def transferred(storage: Any, name: str = "a.txt", *, evict: bool = False) -> str:
    saved: str = storage.save(name, file())
    assert storage.queue.deliver() == {}
    assert not evict or errands.evict(files(storage)) == 1
    return saved


def repair(storage: Any, *repairs: str, **options: Any) -> list[tuple[str, str]]:
    """What was found, each with why it was not repaired."""
    found = reconcile(files(storage), repairs or list(REPAIRS), **options)
    return [(f"{finding.kind}-{finding.side}", error) for finding, error in found]


def findings(storage: Any) -> list[str]:
    found = comparison.verify(files(storage), content=True)
    return [f"{finding.kind}-{finding.side}" for finding in found]


def damage(storage: Any, name: str, kind: str) -> None:
    far = Path(storage.remote.path(row(storage, name).remote_name))
    near = Path(disk().path(name))
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


@pytest.mark.parametrize("kind", REPAIRS)
def test_each_repair_mends_its_own_kind(kind: str) -> None:
    storage = make()
    name = transferred(storage, evict=kind == "extra-local")
    transferred(storage, "other.txt")
    damage(storage, name, kind)
    others = [each for each in REPAIRS if each != kind]
    assert repair(storage, *others) == []
    assert repair(storage, kind, dry_run=True) == [(kind, "")]
    assert findings(storage) == [kind]
    assert repair(storage, kind) == [(kind, "")]
    assert storage.queue.deliver() == {}
    assert findings(storage) == []
    assert repair(storage) == []
    assert read(storage, name) == b"bytes"
    found = row(storage, name)
    assert (found.state, found.due_at, found.lease_token) == (State.TRANSFERRED, None, "")
    assert found.is_local == (kind not in {"missing-local", "extra-local"})


def test_a_flipped_byte_is_mended_where_every_byte_is_read() -> None:
    storage = make()
    name = transferred(storage)
    Path(disk().path(name)).write_bytes(b"bytez")
    assert repair(storage) == []
    assert repair(storage, content=True) == [("different-local", "")]
    assert read(disk(), name) == b"bytes"


def test_reads_go_to_the_local_copy_until_it_is_on_the_remote_again() -> None:
    storage = make()
    name = transferred(storage)
    assert storage.url(name) == "https://far.example/a.txt"  # which the cache remembers
    damage(storage, name, "missing-remote")
    repair(storage)
    assert storage.url(name) == "/media/a.txt"
    assert storage.queue.deliver() == {}
    assert storage.url(name) == "https://far.example/a.txt"


def test_what_is_sent_again_keeps_its_name_on_the_remote() -> None:
    storage = make(remote=RenamingStorage())
    name = transferred(storage)
    damage(storage, name, "different-remote")
    assert repair(storage) == [("different-remote", "")]
    assert storage.queue.deliver() == {}
    assert on_disk("far") == [row(storage, name).remote_name]
    assert read(storage.remote, row(storage, name).remote_name) == b"bytes"


@pytest.mark.parametrize("kind", ["missing-remote", "different-remote"])
def test_a_damaged_local_copy_is_not_sent(kind: str) -> None:
    storage = make()
    name = transferred(storage)
    damage(storage, name, kind)
    Path(disk().path(name)).write_bytes(b"bytez")
    [(found, error)] = repair(storage)
    assert (found, error != "") == (kind, True)
    assert row(storage, name).state == State.TRANSFERRED


@pytest.mark.parametrize("kind", ["missing-local", "different-local"])
def test_the_ledger_gives_up_no_local_copy_for_a_damaged_remote_one(kind: str) -> None:
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


def test_a_local_file_of_somebody_else_is_no_extra_copy_to_remove() -> None:
    storage = make()
    name = transferred(storage, evict=True)
    disk().save(name, file(b"somebody's"))
    [(found, error)] = repair(storage)
    assert found == "extra-local"
    assert "other bytes" in error
    assert read(disk(), name) == b"somebody's"


@pytest.mark.parametrize("is_known", [True, False])
def test_the_file_of_a_storage_on_the_same_disk_is_no_extra_copy(is_known: bool) -> None:
    storage, other = make(), make()
    name = transferred(storage, evict=True)
    assert other.save(name, file()) == name  # with the same bytes
    if not is_known:
        files(other).update(alias="nobody-s")
        assert REPAIRS["extra-local"](row(storage, name).pk)
    assert findings(storage) == []
    assert repair(storage) == []
    assert read(disk(), name) == b"bytes"


def test_a_storage_with_a_disk_of_its_own_is_no_reason_to_keep_an_extra_copy() -> None:
    storage, other = make(), make(local="far")
    name = transferred(storage, evict=True)
    damage(storage, name, "extra-local")
    assert other.save(f"new/{name}", file())
    files(other).update(name=name)
    assert repair(storage) == [("extra-local", "")]


def test_a_file_that_is_deleted_meanwhile_is_not_sent_again() -> None:
    storage = make()
    name = transferred(storage)
    damage(storage, name, "missing-remote")
    for finding in comparison.verify(files(storage)):
        storage.delete(name)
        assert REPAIRS["missing-remote"](finding.pk)
    storage.queue.deliver()
    assert not files(storage).exists()
    assert on_disk() == on_disk("far") == []
