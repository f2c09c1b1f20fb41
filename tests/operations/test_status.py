import logging
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.utils import timezone

from queued_storage import maintenance
from queued_storage.backends import QueuedStorage
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.operations import status
from queued_storage.queues.dummy import DummyQueue

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def save(storage: Any, count: int) -> list[int]:
    for number in range(count):
        storage.save(f"{number}.txt", ContentFile(b"x" * number))
    storage.queue.messages.clear()
    return list(QueuedFile.objects.filter(alias=storage.alias).values_list("pk", flat=True))


def told(queue: DummyQueue) -> list[int]:
    return sorted(pk for message in queue.messages for pk in message)


def test_sweep_tells_the_queue_of_lost_messages(storage: Any) -> None:
    pks = save(storage, 3)
    assert maintenance.sweep() == 3
    assert told(storage.queue) == pks
    assert storage.queue.deliver() == {}
    assert maintenance.sweep() == 0


def test_sweep_leaves_what_is_not_due(storage: Any) -> None:
    later, failed, held, done = save(storage, 4)
    QueuedFile.objects.filter(pk=later).update(due_at=timezone.now() + timedelta(hours=1))
    QueuedFile.objects.filter(pk=failed).update(state=State.FAILED, due_at=None)
    QueuedFile.objects.filter(pk=held).update(state=State.HELD, due_at=None)
    QueuedFile.objects.filter(pk=done).update(state=State.TRANSFERRED, due_at=None)
    assert maintenance.sweep() == 0
    assert told(storage.queue) == []


def test_sweep_goes_through_each_storage_s_own_queue(storage: Any) -> None:
    own = DummyQueue()
    other = QueuedStorage("disk", "far", alias="other", queue=own)
    first = save(storage, 1)
    second = save(other, 1)
    assert maintenance.sweep() == 2
    assert (told(storage.queue), told(own)) == (first, second)


class BrokenQueue(DummyQueue):
    def enqueue(self, pks: list[int]) -> None:
        raise ConnectionError("no broker")


def test_a_queue_that_is_down_does_not_keep_the_sweep_from_the_others(storage: Any) -> None:
    broken = QueuedStorage("disk", "far", alias="broken", queue=BrokenQueue())
    save(broken, 1)
    pks = save(storage, 1)
    with pytest.raises(ConnectionError, match="no broker"):
        maintenance.sweep()
    assert told(storage.queue) == pks


def test_sweep_of_one_storage(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other", queue=DummyQueue())
    save(storage, 1)
    pks = save(other, 1)
    assert maintenance.sweep("other") == 1
    assert (told(storage.queue), told(other.queue)) == ([], pks)


def test_sweep_in_batches(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queued_storage.queues.sweep.BATCH", 2)
    pks = save(storage, 5)
    assert maintenance.sweep() == 5
    assert told(storage.queue) == pks


def test_sweep_reports_files_that_nobody_can_move(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save(storage, 2)
    QueuedFile.objects.update(alias="gone")
    with caplog.at_level(logging.ERROR):
        assert maintenance.sweep() == 0
    assert "2 files are due" in caplog.text
    assert "'gone'" in caplog.text
    assert QueuedFile.objects.filter(state=State.PENDING, attempts=0).count() == 2


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
    assert "1 files of 'default' failed" in failed
    assert "'gone'" in gone
