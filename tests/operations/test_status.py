from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import status

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def save(storage: Any, count: int) -> list[int]:
    for number in range(count):
        storage.save(f"{number}.txt", ContentFile(b"x" * number))
    storage.queue.messages.clear()
    return list(QueuedFile.objects.filter(alias=storage.alias).values_list("pk", flat=True))


def test_tallies_count_files_and_bytes(storage: Any) -> None:
    save(storage, 3)
    QueuedFile.objects.filter(name="2.txt").update(state=State.FAILED, due_at=None)
    pending, failed = sorted(status.tallies(), key=lambda tally: tally.state, reverse=True)
    assert (pending.alias, pending.state, pending.files, pending.bytes) == (
        "default",
        State.PENDING,
        2,
        1,
    )
    assert pending.oldest == QueuedFile.objects.get(name="0.txt").saved_at
    assert (failed.state, failed.files, failed.bytes) == (State.FAILED, 1, 2)


def test_troubles_are_failures_and_unknown_aliases(storage: Any) -> None:
    save(storage, 2)
    assert status.troubles() == []
    QueuedFile.objects.filter(name="0.txt").update(state=State.FAILED)
    QueuedFile.objects.filter(name="1.txt").update(alias="gone")
    failed, gone = status.troubles()
    assert failed.startswith("1 file of 'default' failed.")
    assert "'gone'" in gone


def test_hanging_transfers_are_trouble(storage: Any) -> None:
    save(storage, 2)
    QueuedFile.objects.update(last_error="TransferStalled: No byte moved for 600 seconds.")
    [trouble] = status.troubles()
    assert trouble.startswith("2 transfers of 'default' made no progress")
    QueuedFile.objects.update(last_error="")
    assert status.troubles() == []


@pytest.mark.parametrize(("seconds", "is_trouble"), [(30, False), (90, True)])
def test_expired_leases_are_trouble(storage: Any, seconds: int, is_trouble: bool) -> None:
    [pk] = save(storage, 1)
    assert ledger().claim_new(pk)
    assert status.troubles() == []
    ledger().update(due_at=seconds_from_now(-seconds))
    assert [trouble[:18] for trouble in status.troubles()] == ["1 file is in progr"] * is_trouble


def test_file_that_crashes_its_worker_is_trouble(storage: Any) -> None:
    [pk] = save(storage, 1)
    assert ledger().claim_new(pk)
    for _death in range(2):
        assert status.troubles() == []
        ledger().update(due_at=seconds_from_now(-1))
        assert ledger().claim_suspect(ledger().suspects())
    [trouble] = status.troubles()
    assert trouble.startswith("The worker died during 1 attempt to transfer '0.txt'")
