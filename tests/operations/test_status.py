from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

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
