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


def enqueued(queue: DummyQueue) -> list[int]:
    return sorted(pk for message in queue.messages for pk in message)


def test_sweep_enqueues_files_with_lost_messages(storage: Any) -> None:
    pks = save(storage, 3)
    assert maintenance.sweep() == 3
    assert enqueued(storage.queue) == pks
    assert storage.queue.deliver() == {}
    assert maintenance.sweep() == 0


def test_sweep_skips_files_that_are_not_due(storage: Any) -> None:
    later, failed, held, done = save(storage, 4)
    QueuedFile.objects.filter(pk=later).update(due_at=timezone.now() + timedelta(hours=1))
    QueuedFile.objects.filter(pk=failed).update(state=State.FAILED, due_at=None)
    QueuedFile.objects.filter(pk=held).update(state=State.HELD, due_at=None)
    QueuedFile.objects.filter(pk=done).update(state=State.TRANSFERRED, due_at=None)
    assert maintenance.sweep() == 0
    assert enqueued(storage.queue) == []


def test_sweep_uses_the_queue_of_each_storage(storage: Any) -> None:
    own = DummyQueue()
    other = QueuedStorage("disk", "far", alias="other", queue=own)
    first = save(storage, 1)
    second = save(other, 1)
    assert maintenance.sweep() == 2
    assert (enqueued(storage.queue), enqueued(own)) == (first, second)


class BrokenQueue(DummyQueue):
    def enqueue(self, pks: list[int]) -> None:
        raise ConnectionError("no broker")


def test_sweep_continues_after_a_queue_fails(storage: Any) -> None:
    broken = QueuedStorage("disk", "far", alias="broken", queue=BrokenQueue())
    save(broken, 1)
    pks = save(storage, 1)
    with pytest.raises(ConnectionError, match="no broker"):
        maintenance.sweep()
    assert enqueued(storage.queue) == pks


def test_sweep_of_one_storage(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other", queue=DummyQueue())
    save(storage, 1)
    pks = save(other, 1)
    assert maintenance.sweep("other") == 1
    assert (enqueued(storage.queue), enqueued(other.queue)) == ([], pks)


def test_sweep_in_batches(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queued_storage.queues.sweep.AT_ONCE", 2)
    pks = save(storage, 5)
    assert maintenance.sweep() == 5
    assert enqueued(storage.queue) == pks


def test_sweep_logs_files_of_unknown_storages(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save(storage, 2)
    QueuedFile.objects.update(alias="gone")
    with caplog.at_level(logging.ERROR):
        assert maintenance.sweep() == 0
    assert "2 due files could not be enqueued" in caplog.text
    assert "'gone'" in caplog.text
    assert QueuedFile.objects.filter(state=State.PENDING, attempts=0).count() == 2
