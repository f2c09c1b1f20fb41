from datetime import timedelta
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, jobs
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import status
from tests.support.outages import close, registered
from tests.support.scripted import make

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


# Closed remotes


@pytest.mark.parametrize(("seconds", "is_trouble"), [(200, False), (400, True)])
@pytest.mark.parametrize(
    ("state", "text"),
    [
        (RemoteState.AWAY, "has been away for"),
        (RemoteState.REFUSED, "has refused files for"),
        (RemoteState.PAUSED, "until an operator runs"),
    ],
)
def test_remote_that_is_closed_for_long_is_trouble(
    storage: Any, state: str, text: str, seconds: int, is_trouble: bool
) -> None:
    save(storage, 2)
    close(storage, state, ago=seconds)
    assert status.troubles() == []
    found = status.outages(status.remotes())
    assert [text in outage and "2 files wait" in outage for outage in found] == [True] * is_trouble


@pytest.mark.parametrize("state", [RemoteState.AWAY, RemoteState.REFUSED, RemoteState.PAUSED])
def test_one_outage_is_no_other_trouble(storage: Any, settings: Any, state: str) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "web-1"}
    stalled, deleting, expired, due = save(storage, 4)
    long_ago = seconds_from_now(-7200)
    files = ledger()
    files.filter(pk=stalled).update(last_error="TransferStalled: No byte moved.")
    files.filter(pk=deleting).update(state=State.DELETING, attempts=99)
    assert files.claim_new(expired)
    files.update(due_at=long_ago, saved_at=long_ago)
    job = jobs().request(Action.EVICT, "default", "", [due], "anna")
    jobs().filter(pk=job.pk).update(due_at=long_ago)
    assert len(status.troubles()) == 5
    assert status.excesses(timedelta(hours=1)) != []
    assert status.activity().silent == 1
    close(storage, state)
    assert status.troubles() == []
    assert status.excesses(timedelta(hours=1)) == []
    assert (status.activity().silent, status.activity().waiting_since) == (0, None)


def test_files_get_their_time_after_an_outage(storage: Any) -> None:
    [pk] = save(storage, 1)
    assert ledger().claim_new(pk)
    ledger().update(due_at=seconds_from_now(-7200))
    close(storage)
    registered(storage).reopen()
    assert status.troubles() == []
    registered(storage).update(since=seconds_from_now(-90))
    [trouble] = status.troubles()
    assert "under an expired lease" in trouble


def test_outage_of_one_storage_hides_no_other(storage: Any) -> None:
    save(storage, 1)
    ledger().update(last_error="TransferStalled: No byte moved.")
    close(make())
    [trouble] = status.troubles()
    assert trouble.startswith("1 transfer of 'default'")


def test_storage_that_was_moved_is_not_closed(storage: Any) -> None:
    close(storage, ago=9000)
    registered(storage).update(digest=5)
    [remote] = [each for each, _files in status.remotes() if each.alias == "default"]
    assert remote.is_open
    assert status.outages(status.remotes()) == []


def test_limits_of_bytes_hold_in_an_outage(storage: Any) -> None:
    save(storage, 3)
    close(storage)
    assert status.excesses(max_bytes=2) == ["3 bytes are pending; the limit is 2."]
