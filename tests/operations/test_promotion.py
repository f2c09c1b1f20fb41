"""Files that were transferred, though the ledger doesn't know it."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import promotion
from queued_storage.operations.adoption import adopt
from queued_storage.operations.passes import Step
from queued_storage.operations.reconciliation import reconcile
from tests.support.rows import past
from tests.support.scripted import disk, file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)
STRANDED = [State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED]


def stranded(storage: Any, name: str = "a.txt", **columns: Any) -> str:
    """Return a file that only the remote has, and whose row is that of an older backup."""
    saved = storage.save(name, file())
    before = QueuedFile.objects.get(name=saved, alias=storage.alias)
    assert storage.queue.deliver() == {}
    disk().delete(saved)
    before.save()
    QueuedFile.objects.filter(pk=before.pk).update(**columns)
    return str(saved)


def adopted(storage: Any, *names: str, **options: Any) -> tuple[int, list[str]]:
    steps: list[Step] = []
    count = adopt(storage, names, steps.append, **options)
    return count, [step.error for step in steps if step.error]


def repaired(storage: Any) -> list[str]:
    rows = ledger().filter(alias=storage.alias)
    return [error for _found, error in reconcile(rows, ["missing-local"])]


def require_readable(storage: Any, name: str) -> None:
    found = row(storage, name)
    assert (found.state, found.is_local, found.due_at) == (State.TRANSFERRED, False, None)
    assert (found.lease_token, found.last_error, found.attempts) == ("", "", 0)
    assert read(storage, name) == b"bytes"
    assert storage.url(name) == f"https://far.example/{found.remote_name}"


@pytest.mark.parametrize("state", STRANDED)
def test_adopt_promotes_what_the_remote_has(state: State) -> None:
    storage = make()
    name = stranded(storage, state=state, last_error="gone")
    assert adopted(storage, name, dry_run=True) == (1, [])
    assert row(storage, name).state == state
    assert adopted(storage, name) == (1, [])
    require_readable(storage, name)
    assert adopted(storage, name) == (0, [])


@pytest.mark.parametrize("state", STRANDED)
def test_reconcile_promotes_what_the_remote_has(state: State) -> None:
    storage = make()
    name = stranded(storage, state=state)
    assert repaired(storage) == [""]
    require_readable(storage, name)
    assert repaired(storage) == []


def test_expired_lease_does_not_matter() -> None:
    storage = make()
    name = stranded(storage, state=State.TRANSFERRING, lease_token="x", due_at=past())
    assert repaired(storage) == [""]
    require_readable(storage, name)


def test_running_transfer_is_left_alone() -> None:
    storage = make()
    name = stranded(storage)
    assert ledger().claim(row(storage, name).pk)
    assert adopted(storage, name) == (0, [promotion.CHANGED])
    assert row(storage, name).state == State.TRANSFERRING


def test_reserved_name_is_used() -> None:
    storage = make()
    name = stranded(storage, remote_name="other.txt")
    Path(storage.remote.path(name)).rename(storage.remote.path("other.txt"))
    assert adopted(storage, name) == (1, [])
    require_readable(storage, name)


@pytest.mark.parametrize("data", [b"BYTES", b"longer than it was", b""])
def test_other_bytes_are_not_promoted(data: bytes) -> None:
    storage = make()
    name = stranded(storage)
    Path(storage.remote.path(name)).write_bytes(data)
    for count, errors in (adopted(storage, name), (0, repaired(storage))):
        assert count == 0
        [error] = errors
        assert error.startswith("VerificationError")
    assert row(storage, name).state == State.PENDING
    assert storage.remote.exists(name)


def test_missing_remote_copy_is_an_error() -> None:
    storage = make()
    name = stranded(storage)
    storage.remote.delete(name)
    for _count, [error] in (adopted(storage, name), (0, repaired(storage))):
        assert "'prune'" in error
    assert row(storage, name).state == State.PENDING


def test_remote_that_is_away_is_an_error() -> None:
    storage = make()
    name = stranded(storage)
    storage.remote.refuses = True
    _count, [error] = adopted(storage, name)
    assert "ConnectionError" in error
    assert row(storage, name).state == State.PENDING


def test_copy_of_another_file_is_not_promoted() -> None:
    storage, other = make(), make()
    name = stranded(storage)
    assert other.save("b.txt", file())
    ledger().filter(alias=other.alias).update(state=State.TRANSFERRED, remote_name=name)
    _count, [error] = adopted(storage, name)
    assert "copy of another file" in error
    assert row(storage, name).state == State.PENDING


def test_local_files_are_left_to_workers() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.save(name, file())
    assert adopted(storage, name) == (0, [])
    assert repaired(storage) == []
    assert "has its local copy" in promotion.promote(row(storage, name))
    assert row(storage, name).state == State.PENDING
    assert on_disk() == [name]


def test_files_of_other_hosts_keep_their_local_copies(settings: Settings) -> None:
    storage = make()
    name = stranded(storage)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert adopted(storage, name) == (0, [])  # its host may have it
    ledger().give_up(row(storage, name).host)
    assert adopted(storage, name) == (1, [])
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert read(storage, name) == b"bytes"


def test_large_upload_is_promoted_by_its_size() -> None:
    storage = make()
    name = stranded(storage, checksum="")
    assert adopted(storage, name) == (1, [])
    require_readable(storage, name)
    assert row(storage, name).verified == "size"
    assert row(storage, name).checksum.startswith("crc32:")
    other = stranded(storage, "b.txt", checksum="", size=4)
    assert adopted(storage, other)[0] == 0


def test_row_that_changes_meanwhile_is_not_promoted() -> None:
    storage = make()
    name = stranded(storage)
    storage.remote.before["size"] = lambda _name: storage.delete(name)
    assert adopted(storage, name) == (0, [promotion.CHANGED])
    assert row(storage, name).state == State.DELETING
